"""Images that only a spatial filter tells apart, and a space of useful and useless operations."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from hwnas.blocks import ClassifierHead
from hwnas.budget import Budget
from hwnas.data import DataSet, Split
from hwnas.guides import Lesson
from hwnas.spaces.base import Choice, SearchSpace
from hwnas.strategies.base import Costs, Problem
from hwnas.training import Recipe

LATENCY_MS = {"pointwise": 1.0, "spatial": 2.0, "dear": 9.0}


@dataclass(frozen=True)
class Op:
    """What tells stripes apart needs two pixels; the `dear` operation computes the same."""

    kind: str
    channels: int

    def build(self, in_shape):
        size = 1 if self.kind == "pointwise" else 3
        conv = nn.Conv2d(in_shape[0], self.channels, size, padding=size // 2, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(self.channels), nn.ReLU())


@pytest.fixture(scope="session")
def space():
    return SearchSpace(
        "ops",
        (
            Choice("op", ("pointwise", "spatial", "dear")),
            Choice("width", (4, 8)),
            Choice("depth", (0, 1)),
        ),
        lambda options: (1, 6, 6),
        (
            lambda options: Op(options["op"], 8),
            lambda options: Op("pointwise", options["width"]),
            lambda options: Op("pointwise", options["width"]) if options["depth"] else None,
            lambda options: ClassifierHead(8, 3, "relu"),
        ),
    )


@pytest.fixture(scope="session")
def make_problem(space):
    def predict(genotypes):
        ms = []
        for row in genotypes.tolist():
            options = space.options(tuple(row))
            ms.append(LATENCY_MS[options["op"]] * options["width"] / 4 + options["depth"])
        ms = np.array(ms, dtype=np.float64)
        counts = (1000 * ms).astype(np.int64)
        return Costs(ms, ms, ms, np.ones(len(ms)), counts, counts)

    def make(limit_ms=None):
        budgets = () if limit_ms is None else (Budget("latency_ms", limit_ms),)
        return Problem(space, predict, budgets)

    return make


@pytest.fixture(scope="session")
def images():
    """Images of 1×6×6 in 3 classes: stripes across, stripes down, plain; noise above the signal."""
    generator = torch.Generator().manual_seed(0)

    def split(n):
        labels = torch.arange(n) % 3
        stripes = (torch.arange(6) % 2 * 2 - 1).float()
        patterns = torch.stack(
            [stripes[:, None].expand(6, 6), stripes[None].expand(6, 6), torch.zeros(6, 6)]
        )
        disturbed = torch.randn(n, 1, 6, 6, generator=generator)
        return Split(patterns[labels][:, None] + disturbed, labels)

    return DataSet("stripes", split(192), split(96), split(48), ("across", "down", "plain"))


@pytest.fixture
def lesson(make_problem, images):
    """Twelve passes of 12 steps."""
    return Lesson(make_problem(), images, Recipe(epochs=12, batch_size=16), seed=0)
