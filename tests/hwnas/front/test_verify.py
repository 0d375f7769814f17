import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from hwnas import export
from hwnas.baselines import plain_cnn
from hwnas.budget import parse_budget
from hwnas.cost import CostTable
from hwnas.data import load_data
from hwnas.errors import RunFolderError
from hwnas.evaluation import evaluate_onnx, read_metadata
from hwnas.front import sittings
from hwnas.front import verify as verify_module
from hwnas.front.failed_finalists import read_failures
from hwnas.front.verify import BASELINE, FRONT, Candidate, Trained, deliver, judge, verify
from hwnas.networks import Network, counts
from hwnas.profiling import network_tags
from hwnas.progress import Silent
from hwnas.strategies import Problem
from predictors.cost import CostPredictor
from profilers.devices import this_device
from profilers.errors import ModelError
from profilers.measurement import SPACE_TAG
from profilers.onnx_models import load_model
from profilers.profiler import Profiler
from profilers.store import MeasurementStore
from profilers.targets import make_target

COLUMNS = [
    "name", "onnx", "val_accuracy", "test_accuracy", "latency_ms", "predicted_latency_ms",
    "predicted_low_ms", "predicted_high_ms", "peak_memory_bytes", "params", "macs",
    "parity_max_abs_error", "meets_budget", "genotype", "predicted_peak_memory_bytes",
    "energy_mj", "predicted_energy_mj", "measured_low_ms", "measured_high_ms", "slack",
]  # fmt: skip


def candidate(name, accuracy, latency_ms, **changes):
    made = Candidate(
        name=name, onnx=f"candidates/{name}.onnx", val_accuracy=accuracy, test_accuracy=0.5,
        latency_ms=latency_ms, predicted_latency_ms=1.5, predicted_low_ms=1.0,
        predicted_high_ms=2.0, peak_memory_bytes=1000, params=10, macs=20,
        parity_max_abs_error=1e-6, meets_budget=True, genotype=(0, 1),
    )  # fmt: skip
    return replace(made, **changes)


def verdicts(candidates, *budgets):
    judged = judge(candidates, [parse_budget(text) for text in budgets])
    return {c.name: c.verdict for c in judged}


def test_the_front_is_what_no_other_beats_in_both():
    found = verdicts([
        candidate("slow", 0.9, 3.0),
        candidate("fast", 0.7, 1.0),
        candidate("middle", 0.8, 2.0),
        candidate("worse", 0.79, 2.5),
        candidate("slower", 0.9, 3.5),
    ])  # fmt: skip
    dominated = "dominated by another candidate"
    assert found == {
        "slow": FRONT, "fast": FRONT, "middle": FRONT, "worse": dominated, "slower": dominated,
    }  # fmt: skip


def test_equal_networks_are_both_on_the_front():
    found = verdicts([candidate("a", 0.9, 1.0), candidate("b", 0.9, 1.0)])
    assert found == {"a": FRONT, "b": FRONT}


def test_test_accuracy_plays_no_part():
    found = verdicts([
        candidate("a", 0.9, 1.0, test_accuracy=0.1), candidate("b", 0.8, 2.0, test_accuracy=0.99)
    ])  # fmt: skip
    assert found["a"] == FRONT and found["b"] != FRONT


def test_what_misses_the_budget_neither_stands_on_the_front_nor_dominates():
    found = verdicts(
        [candidate("over", 0.99, 0.5, meets_budget=False, params=3000), candidate("in", 0.8, 1.0)],
        "params<=1e3",
    )
    assert found == {
        "over": "over budget: measured params 3000, budget params <= 1000", "in": FRONT
    }  # fmt: skip


def test_a_baseline_neither_stands_on_the_front_nor_dominates():
    found = verdicts(
        [candidate("plain", 0.99, 0.5, kind=BASELINE, genotype=None), candidate("in", 0.8, 1.0)]
    )
    assert found == {"plain": "baseline", "in": FRONT}


def test_without_a_network_within_the_budget_there_is_no_front():
    assert verdicts([]) == {}
    found = verdicts([candidate("over", 0.9, 9.0, meets_budget=False)], "latency_ms<=5")
    assert found["over"].startswith("over budget: measured latency_ms 9, budget")


def test_the_whole_measured_interval_has_to_meet_the_budget():
    near = candidate("near", 0.9, 4.9, measured_high_ms=5.1, meets_budget=False)
    found = verdicts([near, candidate("in", 0.8, 4.7, measured_high_ms=4.9)], "latency_ms<=5")
    assert found == {
        "near": "over budget: measured latency_ms 4.9, up to 5.1 at other times, budget "
        "latency_ms <= 5",
        "in": FRONT,
    }


def place(folder, candidates):
    (folder / "candidates").mkdir(parents=True, exist_ok=True)
    for one in candidates:
        (folder / one.onnx).write_bytes(one.name.encode())
    return judge(candidates, [])


def test_the_delivered_front_has_these_columns_and_rows_fastest_first(tmp_path):
    judged = place(tmp_path, [
        candidate("slow", 0.9, 3.0), candidate("fast", 0.7, 1.0, peak_memory_bytes=None),
        candidate("worse", 0.6, 2.0), candidate("plain", 0.5, 9.0, kind=BASELINE, genotype=None),
    ])  # fmt: skip
    front = deliver(judged, tmp_path)
    table = pd.read_csv(tmp_path / "front.csv")
    assert list(table.columns) == COLUMNS
    assert [c.name for c in front] == list(table["name"]) == ["fast", "slow"]
    assert list(table["onnx"]) == ["front/fast.onnx", "front/slow.onnx"]
    assert [json.loads(text) for text in table["genotype"]] == [[0, 1], [0, 1]]
    assert table["meets_budget"].all()
    assert np.isnan(table["peak_memory_bytes"][0]) and table["peak_memory_bytes"][1] == 1000
    assert [(tmp_path / path).read_bytes() for path in table["onnx"]] == [b"fast", b"slow"]
    left = sorted(path.name for path in (tmp_path / "candidates").iterdir())
    assert left == ["plain.onnx", "worse.onnx"]
    everyone = pd.read_csv(tmp_path / "candidates.csv")
    assert list(everyone.columns) == [*COLUMNS, "kind", "verdict", "parent"]
    assert list(everyone["name"]) == ["fast", "worse", "slow", "plain"]
    assert all((tmp_path / path).exists() for path in everyone["onnx"])


def test_an_older_front_is_replaced(tmp_path):
    deliver(place(tmp_path, [candidate("old", 0.9, 1.0)]), tmp_path)
    deliver(place(tmp_path, [candidate("new", 0.9, 1.0)]), tmp_path)
    assert [p.name for p in (tmp_path / "front").iterdir()] == ["new.onnx"]
    assert list(pd.read_csv(tmp_path / "front.csv")["name"]) == ["new"]


def test_who_is_on_the_front_may_change_from_call_to_call(tmp_path):
    first = place(tmp_path, [candidate("a", 0.9, 2.0), candidate("b", 0.8, 3.0)])
    assert [c.name for c in deliver(first, tmp_path)] == ["a"]
    (tmp_path / "front" / "a.md").write_text("of a")
    again = judge([replace(first[0], meets_budget=False, params=9), first[1]], [])
    assert [c.name for c in deliver(again, tmp_path)] == ["b"]
    assert [p.name for p in (tmp_path / "front").iterdir()] == ["b.onnx"]
    assert [p.name for p in (tmp_path / "candidates").iterdir()] == ["a.onnx"]
    assert (tmp_path / "front" / "b.onnx").read_bytes() == b"b"
    assert not list(tmp_path.glob("*.part"))


def test_an_empty_front_is_a_table_without_rows(tmp_path):
    assert deliver([], tmp_path) == []
    assert list(pd.read_csv(tmp_path / "front.csv").columns) == COLUMNS


def test_a_model_that_is_gone_is_one_message(tmp_path):
    with pytest.raises(RunFolderError, match="cannot write to"):
        deliver(judge([candidate("gone", 0.9, 1.0)], []), tmp_path)


@pytest.fixture(scope="module")
def verified(tmp_path_factory, make_tiny_space, tiny_predictor):
    """Two untrained networks and a baseline, one budget between them."""
    folder = tmp_path_factory.mktemp("run")
    data = load_data("digits")
    space = make_tiny_space(data.input_shape, data.n_classes)
    trained = []
    for name, genotype in (("small", (0, 0, 0, 0, 0, 0)), ("large", (1, 2, 1, 1, 1, 1))):
        torch.manual_seed(0)
        architecture = space.architecture(genotype)
        trained.append(Trained(name, Network(architecture), architecture, genotype))
    architecture = plain_cnn(data.input_shape, data.n_classes)
    trained.append(Trained("plain", Network(architecture), architecture, None, BASELINE))
    limit = counts(trained[0].architecture).params
    with pytest.MonkeyPatch.context() as patch, MeasurementStore(folder / "m.db") as store:
        patch.setattr(verify_module, "SECONDS_PROFILE", 0.05)
        patch.setattr(verify_module, "SECONDS_LATENCY", 0.05)
        patch.setattr(sittings, "N_SITTINGS", 1)
        table = CostTable(space, Profiler(make_target()), store)
        table.use(CostPredictor(tiny_predictor))
        problem = Problem(space, table.predict, (parse_budget(f"params<={limit}"),))
        candidates = verify(
            trained, data, make_target(), problem, tiny_predictor, store, this_device(), folder,
            Silent(),
        )  # fmt: skip
        stored = store.networks()
    return folder, data, trained, candidates, stored


def test_verified_networks_are_judged_by_the_budget(verified):
    _, _, _, candidates, _ = verified
    assert [c.name for c in candidates] == ["small", "large", "plain"]
    assert [c.meets_budget for c in candidates] == [True, False, False]
    assert candidates[0].verdict == FRONT and candidates[2].verdict == "baseline"
    assert candidates[1].verdict.startswith("over budget: measured params")


def test_what_is_said_of_a_verified_network_is_true_of_its_model(verified):
    folder, data, trained, candidates, _ = verified
    for item, found in zip(trained, candidates, strict=True):
        path = folder / found.onnx
        assert found.val_accuracy == evaluate_onnx(path, data, split="validation").accuracy
        assert found.test_accuracy == evaluate_onnx(path, data, split="test").accuracy
        assert (found.params, found.macs) == (
            counts(item.architecture).params, counts(item.architecture).macs
        )  # fmt: skip
        assert 0 <= found.parity_max_abs_error <= 1e-4
        assert found.latency_ms > 0 and (found.peak_memory_bytes or 0) > 0
        assert found.measured_low_ms < found.latency_ms < found.measured_high_ms
        assert found.predicted_low_ms <= found.predicted_latency_ms <= found.predicted_high_ms


def test_the_model_says_what_it_is(verified):
    folder, data, trained, candidates, _ = verified
    about = read_metadata(load_model(folder / candidates[0].onnx))
    assert about["genotype"] == [0, 0, 0, 0, 0, 0] and about["name"] == "small"
    assert about["preprocessing"] == {
        "kind": "image", "input_shape": [1, 8, 8], "mean": list(data.mean), "std": list(data.std)
    }  # fmt: skip
    assert about["architecture"] == json.loads(trained[0].architecture.to_json())
    assert about["classes"] == list(data.class_names) and about["data"] == "digits"
    assert about["target"] == make_target().to_dict()
    assert read_metadata(load_model(folder / candidates[2].onnx))["genotype"] is None


def test_the_measurements_go_to_the_store(verified):
    _, _, _, candidates, stored = verified
    assert [m.latency_ms for m in stored] == [c.latency_ms for c in candidates]
    assert [m.tags["family"] for m in stored] == ["tiny", "tiny", "baseline"]


def test_predictors_are_told_what_they_were_drawn_from(verified, make_tiny_space):
    _, data, trained, _, stored = verified
    space = make_tiny_space(data.input_shape, data.n_classes)
    for item, m in zip(trained[:2], stored[:2], strict=True):
        assert m.tags == network_tags(space, item.genotype)
    assert SPACE_TAG not in stored[2].tags


@pytest.fixture
def verify_made_up(tmp_path, monkeypatch, make_tiny_space, tiny_predictor, made_up_profiler):
    """Verify the smallest and the largest network, with latencies from a formula."""
    data = load_data("digits")
    space = make_tiny_space(data.input_shape, data.n_classes)
    made_up_profiler.latency = lambda self, models, *, seconds, on_round: [
        self.profile(model).samples for model in models
    ]
    monkeypatch.setattr(verify_module, "IsolatedProfiler", made_up_profiler)
    trained = []
    for name, genotype in (("small", (0, 0, 0, 0, 0, 0)), ("large", (1, 2, 1, 1, 1, 1))):
        architecture = space.architecture(genotype)
        trained.append(Trained(name, Network(architecture), architecture, genotype))

    def call(*budgets):
        said = Silent()
        said.say = said_texts.append
        with MeasurementStore(tmp_path / "m.db") as store:
            table = CostTable(space, Profiler(make_target()), store)
            table.use(CostPredictor(tiny_predictor))
            problem = Problem(space, table.predict, tuple(map(parse_budget, budgets)))
            return verify(
                trained, data, make_target(), problem, tiny_predictor, store, this_device(),
                tmp_path, said,
            )  # fmt: skip

    said_texts = call.said = []
    call.profiler = made_up_profiler
    return call


def test_slack_is_the_share_of_the_latency_budget_that_is_unused(verify_made_up):
    small, large = verify_made_up()
    assert small.slack is None and small.latency_ms < large.latency_ms
    limit = 1.25 * large.latency_ms
    found = verify_made_up(f"latency_ms<={limit}", f"latency_ms<={2 * limit}")
    assert [c.slack for c in found] == pytest.approx([1 - small.latency_ms / limit, 0.2])
    assert all(c.meets_budget for c in found)


def test_a_network_with_too_little_room_below_the_budget_does_not_meet_it(verify_made_up):
    large = verify_made_up()[1]
    _, near = verify_made_up(f"latency_ms<={1.03 * large.latency_ms}")
    assert not near.meets_budget and near.slack == pytest.approx(1 - 1 / 1.03)
    _, far = verify_made_up(f"latency_ms<={1.06 * large.latency_ms}")
    assert far.meets_budget


def test_what_the_target_cannot_run_is_left_out_until_it_can(verify_made_up, monkeypatch, tmp_path):
    profile = verify_made_up.profiler.profile

    def crash(self, model, *, seconds=2.0, tags=None):
        if model.name == "large":
            raise ModelError("large ended the process")
        return profile(self, model, seconds=seconds, tags=tags)

    with monkeypatch.context() as patch:
        patch.setattr(verify_made_up.profiler, "profile", crash)
        assert [c.name for c in verify_made_up()] == ["small"]
    assert verify_made_up.said == ["large is left out: large ended the process"]
    assert read_failures(tmp_path) == {"large": "large ended the process"}
    assert [c.name for c in verify_made_up()] == ["small", "large"]
    assert read_failures(tmp_path) == {}


def test_what_cannot_be_run_in_turns_is_left_out_and_the_others_are_judged(
    verify_made_up, monkeypatch, tmp_path
):
    latency = verify_made_up.profiler.latency

    def crash(self, models, *, seconds, on_round):
        if any(model.name == "large" for model in models):
            raise ModelError("large ended the process")
        return latency(self, models, seconds=seconds, on_round=on_round)

    monkeypatch.setattr(verify_made_up.profiler, "latency", crash)
    assert [c.name for c in verify_made_up()] == ["small"]
    assert read_failures(tmp_path) == {"large": "large ended the process"}


def test_what_differs_from_pytorch_is_left_out_and_its_file_is_gone(
    verify_made_up, monkeypatch, tmp_path
):
    run = export.run_onnx
    monkeypatch.setattr(
        export, "run_onnx", lambda path, inputs: run(path, inputs) + ("small" in path.name)
    )
    assert [c.name for c in verify_made_up()] == ["large"]
    assert "small is left out: small.onnx: outputs of ONNX Runtime" in verify_made_up.said[0]
    assert read_failures(tmp_path)["small"].startswith("small.onnx: outputs of ONNX Runtime")
    assert [p.name for p in (tmp_path / "candidates").iterdir()] == ["large.onnx"]
