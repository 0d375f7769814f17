"""Measuring chosen networks on another target: they are built again from what was stored."""

import dataclasses
import json
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest

from hwnas import transfer_targets
from hwnas.errors import ConfigError, DataError
from hwnas.network_choice import random_networks
from hwnas.profiling import ARCHITECTURE_TAG, architecture_digest, network_tags
from hwnas.progress import Silent
from hwnas.spaces.catalog import SPACES, make_space
from hwnas.spaces.mobilenet import mobile_space
from hwnas.transfer_tables import Measured
from hwnas.transfer_targets import (
    measure_there,
    one_each,
    rebuild,
    target_here,
    to_measure_there,
)
from profilers.errors import ModelError
from profilers.measurement import NetworkMeasurement
from profilers.store import MeasurementStore
from profilers.targets import Target
from profilers.timing import LatencySamples

TARGET = Target("openvino-cpu", "1.0", "fp32", 1, 1, "0123456789ab", "Toy CPU")
SPACE = mobile_space((1, 8, 8), 10)
# An image, a signal, a row of a table; and token ids.
EXAMPLES = [((1, 16, 16), None), ((2, 64), None), ((12,), None), ((16,), 50)]


def samples(ms=1.0):
    wall_ms, zeros = np.full(10, ms), np.zeros(10, dtype=np.int64)
    return LatencySamples(wall_ms, wall_ms, zeros, zeros, zeros, np.ones(10))


@pytest.fixture
def networks():
    rng = np.random.default_rng(3)
    found = []
    for genotype in random_networks(SPACE, rng, 4):
        digest = architecture_digest(SPACE.architecture(genotype))
        tags = network_tags(SPACE, genotype)
        found.append(NetworkMeasurement("n", digest, TARGET, samples(), (), None, tags=tags))
    return found


class FakeProfiler:
    target = TARGET

    def __init__(self):
        self.models = []

    def profile(self, model, *, seconds, tags):
        self.models.append(model)
        return NetworkMeasurement(
            model.name, model.digest, TARGET, samples(2.0), (), None, tags=tags
        )


def named_model(architecture, *, batch):
    digest = architecture_digest(architecture)
    return SimpleNamespace(name=digest[:12], digest=digest, batch=batch)


def test_an_architecture_comes_back_from_its_tag(networks):
    for m in networks:
        assert architecture_digest(rebuild(m)) == m.digest


def test_what_was_measured_there_is_the_same_network_and_is_stored(networks, tmp_path, monkeypatch):
    # Exporting takes seconds; that a digest's model is its network's is tested elsewhere.
    monkeypatch.setattr(transfer_targets, "untrained_model", named_model)
    profiler = FakeProfiler()
    with MeasurementStore(tmp_path / "m.db") as store:
        measure_there(networks[:2], profiler, store, seconds=1.0, progress=Silent())
        found = one_each(store.networks(TARGET))
    assert list(found) == [m.digest for m in networks[:2]]
    assert [(model.digest, model.batch) for model in profiler.models] == [(d, 1) for d in found]
    assert [m.tags for m in found.values()] == [m.tags for m in networks[:2]]


@pytest.mark.parametrize("name", sorted(SPACES))
def test_networks_of_every_space_come_back_from_their_tags(name):
    made = []
    for shape, vocabulary in EXAMPLES:
        with suppress(ConfigError):
            made.append(make_space(name, shape, 10, vocabulary=vocabulary))
    space = made[0]
    for genotype in random_networks(space, np.random.default_rng(0), 2):
        architecture = space.architecture(genotype)
        tags = network_tags(space, genotype)
        digest = architecture_digest(architecture)
        m = NetworkMeasurement("n", digest, TARGET, samples(), (), None, tags=tags)
        assert rebuild(m) == architecture


def test_a_network_that_the_target_cannot_run_leaves_the_others(networks, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer_targets, "untrained_model", named_model)
    bad = {networks[1].digest}

    class Refusing(FakeProfiler):
        def profile(self, model, *, seconds, tags):
            if model.digest in bad:
                raise ModelError("no such operator")
            return super().profile(model, seconds=seconds, tags=tags)

    with MeasurementStore(tmp_path / "m.db") as store:
        measure_there(networks[:3], Refusing(), store, seconds=1.0, progress=Silent())
        assert list(one_each(store.networks(TARGET))) == [networks[i].digest for i in (0, 2)]
        bad |= {m.digest for m in networks}
        with pytest.raises(ModelError, match="no such operator"):
            measure_there(networks[3:], Refusing(), store, seconds=1.0, progress=Silent())


def test_only_networks_that_can_be_built_again_are_chosen(networks):
    file_of_a_user = dataclasses.replace(networks[0], tags={})
    networks = [file_of_a_user, *networks]
    asked = {}

    class Chooser:
        def choose(self, n, *, measured, among):
            asked.update(n=n, measured=list(measured), among=among)
            return [3, 2]

    known = Measured(np.array([1]), np.array([1.0]))
    found = to_measure_there(Chooser(), networks, known, n=3)
    assert found == [networks[3], networks[2]]
    assert asked == {"n": 2, "measured": [1], "among": [1, 2, 3, 4]}
    with pytest.raises(DataError, match="4 more networks are to be measured, and 3 of the 5"):
        to_measure_there(Chooser(), networks, known, n=5)


@pytest.mark.parametrize(
    "change",
    [None, "{", "[]", {"block": "Residual"}, {"block": "Path"}, {"block": "ConvBlock", "x": 1}],
)
def test_a_network_that_cannot_be_built_again_is_told_before_anything_is_measured(
    networks, tmp_path, change
):
    tags = dict(networks[1].tags)
    if change is None:
        del tags[ARCHITECTURE_TAG]
    elif isinstance(change, str):
        tags[ARCHITECTURE_TAG] = change
    else:
        described = json.loads(tags[ARCHITECTURE_TAG])
        described["blocks"][0] = change
        tags[ARCHITECTURE_TAG] = json.dumps(described)
    odd = dataclasses.replace(networks[1], tags=tags)
    profiler = FakeProfiler()
    with MeasurementStore(tmp_path / "m.db") as store:
        with pytest.raises(DataError, match="cannot be built again here"):
            measure_there([networks[0], odd], profiler, store, seconds=1.0, progress=Silent())
        assert not store.networks()
    assert not profiler.models


def test_a_tag_of_another_network_is_refused(networks):
    odd = dataclasses.replace(networks[0], tags=networks[1].tags)
    with pytest.raises(DataError, match="another network comes of it"):
        rebuild(odd)


def test_a_target_of_this_machine_is_named_by_its_parts():
    found = target_here("onnxruntime-cpu/fp32/threads=1", batch=4)
    assert (found.runtime, found.precision, found.threads, found.batch) == (
        "onnxruntime-cpu", "fp32", 1, 4,
    )  # fmt: skip
    for text in ("onnxruntime-cpu/fp31", "onnxruntime-cpu/threads=x", "onnxruntime-cpu/batch=2"):
        with pytest.raises(DataError, match="neither a precision"):
            target_here(text, batch=1)
