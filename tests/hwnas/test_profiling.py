import pytest

from hwnas import missing_kernels
from hwnas.profiling import architecture_digest, profile_space, untrained_model
from profilers.isolation import IsolatedProfiler
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
