"""What searches are given by its path: a small space, an evaluator that notes what it does."""

import os
import signal
import time
from pathlib import Path

import numpy as np

from hwnas.blocks import ClassifierHead, ConvBlock
from hwnas.executors.progress import report
from hwnas.search import Evaluation
from hwnas.spaces.base import Choice, SearchSpace

STARTED = Path("started.txt")  # in the folder of the search: a line with number and process id
SECONDS = Path("seconds.txt")  # that each trial takes; it may change while one runs


def waiting(space, data, recipe, *, seed):
    """Waits, takes a gigabyte or kills its process if a file says so; its error is made up."""

    def evaluate(trial):
        with STARTED.open("a") as file:
            file.write(f"{trial.number} {os.getpid()}\n")
        held = np.ones(10**9, dtype=np.uint8) if Path("hungry.txt").exists() else None
        start = time.monotonic()
        while (left := float(SECONDS.read_text()) - (time.monotonic() - start)) > 0:
            time.sleep(min(left, 0.1))
            report(0.5)
        if Path("crash.txt").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        del held
        return Evaluation((sum(trial.genotype) / 20,), {"gpus": os.getenv("CUDA_VISIBLE_DEVICES")})

    return evaluate


def small(input_shape, n_classes):
    """36 networks of two convolutions and a head."""
    return SearchSpace(
        name="small",
        choices=(
            Choice("width", (4, 8, 16)),
            Choice("kernel_size", (3, 5)),
            Choice("stride", (1, 2)),
            Choice("features", (8, 16, 32)),
        ),
        input_shape=lambda options: input_shape,
        slots=(
            lambda options: ConvBlock(options["width"], 3, 1, "relu"),
            lambda options: ConvBlock(
                2 * options["width"], options["kernel_size"], options["stride"], "relu"
            ),
            lambda options: ClassifierHead(options["features"], n_classes, "relu"),
        ),
    )
