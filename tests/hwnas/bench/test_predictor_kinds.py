import json

import numpy as np
import pytest

from hwnas.bench.predictor_kinds import KINDS, OURS, Kind, bench_kinds
from hwnas.errors import ConfigError
from hwnas.progress import Silent
from profilers.kernels import Kernel, Tensor, macs
from profilers.measurement import KernelLatency, NetworkMeasurement
from profilers.targets import Target
from profilers.timing import LatencySamples

TARGET = Target("onnxruntime-cpu", "1.0", "fp32", 1, 1, "0123456789ab", "Toy CPU (2 cores)")
QUICK = {name: KINDS[name] for name in ("median", "macs", "roofline", "lookup", OURS)}


def conv(n_in, n_out, size):
    return Kernel(
        "Conv", (("group", 1),),
        (Tensor("float", (1, n_in, size, size)), Tensor("float", (n_out, n_in, 1, 1))),
        (Tensor("float", (1, n_out, size, size)),),
    )  # fmt: skip


def measurements(n, *, seed, target=TARGET, disturbed=()):
    """1 µs a kernel and 0.1 ns a MAC, 2 % noise; the disturbed ones take ten times as long."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        kernels = [
            conv(*(int(c) for c in rng.choice([8, 16, 32, 64], 2)), int(rng.choice([7, 14])))
            for _ in range(rng.integers(3, 12))
        ]
        runs = tuple(
            KernelLatency(f"k{j}", k, (1e-3 + 1e-7 * macs(k)) * rng.lognormal(0, 0.02), 9)
            for j, k in enumerate(kernels)
        )
        is_disturbed = i in disturbed
        ms = (0.01 + sum(run.latency_ms for run in runs)) * (10 if is_disturbed else 1)
        wall_ms, zeros = np.full(16, ms), np.zeros(16, np.int64)
        switches = zeros + int(is_disturbed)
        samples = LatencySamples(wall_ms, wall_ms, switches, zeros, zeros, np.ones(16))
        found.append(
            NetworkMeasurement(f"net {seed}-{i}", f"{seed}-{i}", target, samples, runs, None)
        )
    return found


def bench(train, test, **changes):
    return bench_kinds(train, test, **{"seed": 0, "progress": Silent(), "kinds": QUICK} | changes)


def test_each_kind_is_scored_on_each_test_set_and_the_result_is_json():
    found = bench(
        measurements(30, seed=0),
        {"held-out": measurements(12, seed=1), "other": measurements(5, seed=2)},
    )
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["n_train"] == 30
    assert found["n_test"] == {"held-out": 12, "other": 5}
    assert set(found["kinds"]) == set(QUICK)
    for kind in found["kinds"].values():
        assert {name: a["n"] for name, a in kind["accuracy"].items()} == found["n_test"]
        assert kind["fit_seconds"] > 0
        assert kind["predict_us_per_network"] > 0
    mape = {name: kind["accuracy"]["held-out"]["mape"] for name, kind in found["kinds"].items()}
    assert mape["roofline"] < 0.03 < mape["median"]
    assert mape[OURS] < 0.03
    assert found["kinds"]["median"]["accuracy"]["held-out"]["spearman"] is None


def test_predictions_are_compared_with_the_networks_that_they_are_of():
    class ByName:
        """Knows the truth of one test set, and says twice of the other."""

        def fit(self, _):
            return self

        def predict(self, networks):
            factors = [1.0] * 4 + [2.0] * 3
            return np.array([
                f * (0.01 + len(kernels)) for f, kernels in zip(factors, networks, strict=True)
            ])  # fmt: skip

    def by_length(found):
        wall = [np.full(16, 0.01 + len(m.kernels)) for m in found]
        zeros = np.zeros(16, np.int64)
        return [
            NetworkMeasurement(
                m.name, m.digest, m.target,
                LatencySamples(w, w, zeros, zeros, zeros, np.ones(16)), m.kernels, None,
            )
            for m, w in zip(found, wall, strict=True)
        ]  # fmt: skip

    found = bench(
        measurements(8, seed=0),
        {"a": by_length(measurements(4, seed=1)), "b": by_length(measurements(3, seed=2))},
        kinds={"truth": Kind(lambda seed: ByName(), "knows")},
    )
    scores = found["kinds"]["truth"]["accuracy"]
    assert scores["a"]["mape"] == pytest.approx(0.0)
    assert scores["b"]["mape"] == pytest.approx(1.0)


def test_networks_measured_on_a_busy_machine_teach_nobody_but_are_tested_on():
    train = measurements(20, seed=0, disturbed=(1, 5, 7))
    test = measurements(4, seed=1, disturbed=(2,))
    assert train[1].samples.warning is not None
    found = bench(train, {"held-out": test})
    assert (found["n_train"], found["n_train_left_out"]) == (17, 3)
    score = found["kinds"]["roofline"]["accuracy"]["held-out"]
    assert score["n"] == 4
    assert score["within_10"] == 0.75


def test_two_calls_with_one_seed_agree_but_for_their_times():
    sets = measurements(16, seed=0), {"held-out": measurements(6, seed=1)}
    first, second = (
        {name: kind["accuracy"] for name, kind in bench(*sets)["kinds"].items()} for _ in range(2)
    )
    assert first == second


def test_what_cannot_be_compared_is_refused():
    train, test = measurements(10, seed=0), measurements(4, seed=1)
    with pytest.raises(ConfigError, match="at least 8 different networks to learn from"):
        bench(train[:7], {"held-out": test})
    with pytest.raises(ConfigError, match="every test set needs a network, got none in b"):
        bench(train, {"a": test, "b": []})
    with pytest.raises(ConfigError, match="every test set needs a network"):
        bench(train, {})
    with pytest.raises(ConfigError, match=r"1 networks are both learned from and tested on, such "):
        bench(train, {"a": [*test, train[3]]})
    other = Target("openvino-cpu", "1.0", "fp32", 1, 1, "0123456789ab", "Toy CPU (2 cores)")
    with pytest.raises(ConfigError, match="measurements of one target are compared, got "):
        bench(train, {"a": measurements(4, seed=1, target=other)})


def test_every_kind_says_what_it_is_and_is_made_anew_from_the_seed():
    for name, kind in KINDS.items():
        assert kind.what, name
        assert kind.make(0) is not kind.make(0)
