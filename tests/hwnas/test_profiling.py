from dataclasses import dataclass

import numpy as np
import pytest
from torch import nn

from hwnas import missing_kernels
from hwnas.profiling import architecture_digest, profile_space, untrained_model
from hwnas.spaces.base import Choice, SearchSpace
from profilers.isolation import IsolatedProfiler
from profilers.profiler import Profiler
from profilers.store import MeasurementStore
from profilers.targets import make_target


@pytest.fixture(scope="module")
def space(make_tiny_space):
    return make_tiny_space((1, 8, 8), 10)


def test_an_untrained_model_is_the_same_every_time(space):
    architecture = space.architecture((0, 1, 0, 0, 0, 0))
    first, second = (untrained_model(architecture) for _ in range(2))
    assert first.proto.SerializeToString() == second.proto.SerializeToString()
    assert first.digest == second.digest == architecture_digest(architecture)
    assert untrained_model(architecture, batch=3).inputs[0].shape == (3, 1, 8, 8)


def test_what_is_stored_is_not_measured_again(space, tmp_path, monkeypatch):
    monkeypatch.setattr(missing_kernels, "SECONDS_PER_MODEL", 0.05)
    target = make_target()
    with MeasurementStore(tmp_path / "m.db") as store:
        first = profile_space(space, target, store, n_networks=3, seconds=0.05)
        assert len({m.digest for m in first}) == len(first) == 3
        assert all(m.latency_ms > 0 and m.kernels and m.target == target for m in first)
        assert {m.tags["family"] for m in first} == {"tiny"}
        monkeypatch.setattr(IsolatedProfiler, "profile", lambda *a, **k: pytest.fail("again"))
        again = profile_space(space, target, store, n_networks=3, seconds=0.05)
    assert [m.digest for m in again] == [m.digest for m in first]


@dataclass(frozen=True)
class Words:
    """Vectors of token ids."""

    width: int

    def build(self, in_shape):
        return nn.Embedding(20, self.width)


@dataclass(frozen=True)
class Labels:
    def build(self, in_shape):
        return nn.Sequential(nn.Flatten(), nn.Linear(in_shape[0] * in_shape[1], 3))


def words_space(input_type="int64"):
    return SearchSpace(
        "words", (Choice("width", (4, 8)),), lambda options: (6,),
        (lambda options: Words(options["width"]), lambda options: Labels()), input_type=input_type,
    )  # fmt: skip


def test_an_untrained_model_of_token_ids_takes_them():
    architecture = words_space().architecture((1,))
    model = untrained_model(architecture, batch=2)
    (spec,) = model.inputs
    assert (spec.shape, spec.dtype) == ((2, 6), np.int64)
    kernels = [node.kernel for node in Profiler(make_target(batch=2)).kernels(model)]
    assert kernels[0].kind == "Gather" and kernels[-1].outputs[0].shape == (2, 3)


def test_spaces_of_other_inputs_have_other_keys():
    assert words_space().key == words_space().key
    assert words_space().key != words_space("float32").key


def test_a_space_of_token_ids_is_profiled(made_up_profiler, tmp_path):
    target = make_target()
    with MeasurementStore(tmp_path / "m.db") as store:
        found = profile_space(
            words_space(), target, store, n_networks=2, profiler=made_up_profiler(target)
        )
    assert len({m.digest for m in found}) == 2
