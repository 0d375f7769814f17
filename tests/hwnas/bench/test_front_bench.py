"""The bench on runs that were made up: what it asks for, measures again, and says."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from hwnas import cli, profiling
from hwnas.bench import front as bench
from hwnas.bench.front import bench_front
from hwnas.bench.front_figures import SearchFound, Twin, about_models, summary
from hwnas.config import SearchConfig, write_config
from hwnas.delivery.forms import Form, verdict_of, write_forms
from hwnas.errors import ConfigError, RunFolderError
from hwnas.progress import Silent
from hwnas.spaces import catalog
from profilers.timing import LatencySamples

# By run folder: measured latencies of the front, and of the same models later; the limit is 1 ms.
RUNS = {
    "p10-0": ([0.5, 0.9], [0.5, 0.94]),
    "p10-1": ([0.8], [0.88]),
    "p75-0": ([0.2, 0.6, 0.95], [0.2, 0.6, 1.02]),
    "p75-1": ([], []),
}
FP32 = {"val_accuracy": 0.95, "test_accuracy": 0.94}
# By run folder, of each member: by how much its model differs from PyTorch's.
PARITY = {"p10-0": [1e-6, 3e-6], "p10-1": [2e-6], "p75-0": [1e-6, 1e-6, 2e-4], "p75-1": []}
# By run folder, of each member, what INT8 loses on validation and on test, and its latency over
# that of fp32; None: there is no such form.
TWINS = {
    "p10-0": [(0.002, -0.001, 0.6), (0.0, 0.015, 0.8)],
    "p10-1": [(0.004, 0.0, 1.5)],
    "p75-0": [None, (0.0, 0.0, None), (0.02, 0.0, 1.2)],
    "p75-1": [],
}


def forms(run, *, limit_ms=1.0):
    """The INT8 forms of a run's members, with the verdicts that a search gives them."""
    made = []
    for i, (ms, twin) in enumerate(zip(RUNS[run][0], TWINS[run], strict=True)):
        if twin is None:
            made.append(Form(f"t{i}", "int8", verdict="the quantizer failed"))
            continue
        drop, test_drop, ratio = twin
        form = Form(
            f"t{i}", "int8", f"forms/t{i}.int8.onnx", val_accuracy=FP32["val_accuracy"] - drop,
            test_accuracy=FP32["test_accuracy"] - test_drop, fp32_latency_ms=ms if ratio else None,
            latency_ms=ms * ratio if ratio else None,
        )  # fmt: skip
        made.append(replace(form, verdict=verdict_of(form, **FP32, limit_ms=limit_ms)))
        made.append(replace(form, form="fp16", val_accuracy=0.1))  # which is none of INT8
    return made


def samples(ms, *, slowdown=1.0):
    wall_ms, zeros = np.full(40, ms), np.zeros(40, np.int64)
    return LatencySamples(
        wall_ms, wall_ms, zeros, zeros, np.arange(40) % 10, np.full(40, slowdown)
    )  # fmt: skip


@pytest.fixture
def asked(monkeypatch):
    """Runs and models that the bench asked for, with everything dear made up."""
    found = SimpleNamespace(runs=[], configs=[], measured=[], stop_at=None, disturbed=set())

    def run_search(config, folder, *, measurements, predictor, progress):
        name = folder.name
        found.runs.append((name, config.budgets, config.seed, predictor))
        found.configs.append(config)
        folder.mkdir(parents=True, exist_ok=True)
        rows = [
            {"name": f"t{i}", "onnx": f"front/{name}-{i}.onnx", **FP32, "latency_ms": ms,
             "parity_max_abs_error": parity, "kind": "searched", "verdict": "front"}
            for i, (ms, parity) in enumerate(zip(RUNS[name][0], PARITY[name], strict=True))
        ]  # fmt: skip
        over = {"name": "t9", "latency_ms": 2.0, "kind": "searched", "verdict": "over budget: x"}
        columns = ["name", "onnx", *FP32, "latency_ms", "parity_max_abs_error", "kind", "verdict"]
        write_config(folder, {"budget": {"latency_ms": 1.0}})
        pd.DataFrame([*rows, over], columns=columns).to_csv(folder / "candidates.csv", index=False)
        pd.DataFrame(rows, columns=columns).to_csv(folder / "front.csv", index=False)
        if len(found.runs) == found.stop_at:
            return SimpleNamespace(is_complete=False)
        write_forms(forms(name) if config.int8 else [], folder)
        return SimpleNamespace(is_complete=True)

    class Profiler:
        def __init__(self, target, *, references_ms):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def latency(self, models, *, seconds):
            found.measured.append([model.path for model in models])
            answers = []
            for model in models:
                run, i = model.path.removesuffix(".onnx").rsplit("-", 1)
                is_first = sum(model.path in paths for paths in found.measured) == 1
                slow = 2.0 if model.path in found.disturbed and is_first else 1.0
                answers.append(samples(RUNS[run][1][int(i)], slowdown=slow))
            return answers

    def load_model(path, *, batch):
        return SimpleNamespace(path=path.name, name=f"t{path.stem.rsplit('-', 1)[1]}")

    monkeypatch.setattr(bench, "run_search", run_search)
    monkeypatch.setattr(bench, "IsolatedProfiler", Profiler)
    monkeypatch.setattr(bench, "load_model", load_model)
    monkeypatch.setattr(
        bench, "shared_predictor", lambda config, target, out, *others: out / "p.npz"
    )
    return found


@pytest.fixture
def call(tmp_path, asked):
    def start(percentiles=(10, 75), n_searches=2, **options):
        return bench_front(
            SearchConfig(**options), tmp_path, percentiles=percentiles, n_searches=n_searches,
            measurements=tmp_path / "m.db", progress=Silent(),
        )  # fmt: skip

    return start


def test_every_budget_is_searched_with_every_seed_by_one_predictor(call, asked, tmp_path):
    call()
    assert [(name, budgets, seed) for name, budgets, seed, _ in asked.runs] == [
        ("p10-0", ("latency_ms<=p10",), 0), ("p10-1", ("latency_ms<=p10",), 1),
        ("p75-0", ("latency_ms<=p75",), 0), ("p75-1", ("latency_ms<=p75",), 1),
    ]  # fmt: skip
    assert {predictor for *_, predictor in asked.runs} == {tmp_path / "p.npz"}


def test_what_holds_later_and_what_stays_unused_is_as_by_hand(call):
    record = call()
    assert (record["n_members"], record["n_within"], record["n_without_front"]) == (6, 5, 1)
    assert record["within_share"] == pytest.approx(5 / 6)
    slacks = [row["nearest_slack"] for row in record["searches"]]
    assert slacks == pytest.approx([0.06, 0.12, -0.02, 1.0])
    assert record["mean_nearest_slack"] == pytest.approx(sum(slacks) / 4)
    assert record["largest_change"] == pytest.approx(0.1)
    assert record["budgets"]["p10"]["within_share"] == 1.0
    assert record["budgets"]["p75"]["n_within"] == 2
    first = record["searches"][0]
    assert (first["nearest"], first["n_trained"], first["n_over"]) == ("t1", 3, 1)
    json.dumps(record)


def test_members_of_one_search_are_measured_in_turns_in_a_process_of_their_own(call, asked):
    call()
    assert asked.measured == [
        ["p10-0-0.onnx", "p10-0-1.onnx"], ["p10-1-0.onnx"],
        ["p75-0-0.onnx", "p75-0-1.onnx", "p75-0-2.onnx"],
    ]  # fmt: skip


def test_what_the_machine_disturbed_is_measured_once_more(call, asked):
    asked.disturbed = {"p10-0-1.onnx"}
    record = call(percentiles=(10,), n_searches=1)
    assert asked.measured == [["p10-0-0.onnx", "p10-0-1.onnx"], ["p10-0-1.onnx"]]
    assert record["n_within"] == 2


def test_what_the_files_say_of_parity_is_counted(call):
    record = call()
    assert (record["n_in_parity"], record["largest_parity_error"]) == (5, 2e-4)
    tenth = record["budgets"]["p10"]
    assert (tenth["n_in_parity"], tenth["largest_parity_error"]) == (3, 3e-6)
    assert [row["n_in_parity"] for row in record["searches"]] == [2, 1, 2, 0]
    assert record["searches"][3]["largest_parity_error"] is None


def test_what_int8_forms_lose_and_gain_is_as_by_hand(call):
    record = call()
    assert record["int8"] == {
        "n_twins": 5, "n_dropped": 2, "dropped_share": pytest.approx(2 / 5),
        "n_dropped_unflagged": 0, "mean_drop": pytest.approx(0.026 / 5),
        "largest_drop": pytest.approx(0.02), "mean_test_drop": pytest.approx(0.014 / 5),
        "largest_test_drop": pytest.approx(0.015), "n_measured": 4,
        "median_latency_ratio": pytest.approx(1.0), "n_flagged": 5,
        "flagged": {"accuracy drop": 2, "not faster": 2, "over the budget": 2, "not measured": 1,
                    "could not be made": 1},
    }  # fmt: skip
    tenth = record["budgets"]["p10"]["int8"]
    assert (tenth["n_twins"], tenth["n_dropped"], tenth["n_flagged"]) == (3, 1, 2)
    assert tenth["median_latency_ratio"] == pytest.approx(0.8)
    assert [row["int8"]["n_twins"] for row in record["searches"]] == [2, 1, 2, 0]
    assert record["searches"][3]["int8"]["mean_drop"] is None


def test_a_drop_that_no_verdict_tells_of_is_seen():
    twins = [Twin(True, verdict, 0.03, None, 1.5) for verdict in ("ok", "not faster than fp32")]
    found = summary([SearchFound(10.0, 0, 1.0, 1, 0, [], twins)])["int8"]
    assert (found["n_dropped"], found["n_dropped_unflagged"], found["n_flagged"]) == (2, 2, 1)
    told = about_models(
        {"n_in_parity": 0, "n_members": 0, "largest_parity_error": None, "int8": found}
    )
    assert "2 of 2 lose over 1.0 points of accuracy (2 of them unflagged)" in told[1]


def test_without_int8_nothing_is_said_of_it(call):
    record = call(int8=False)
    assert record["int8"]["n_twins"] == record["int8"]["n_flagged"] == 0
    assert record["int8"]["median_latency_ratio"] is None
    assert len(about_models(record)) == 1


def test_taken_up_again_nothing_is_searched_or_measured_twice(call, asked):
    first = call()
    again = call()
    assert len(asked.runs) == 4 and len(asked.measured) == 3
    assert again["searches"] == first["searches"]


def test_a_search_that_stopped_behind_its_front_is_taken_up_again(call, asked, tmp_path):
    asked.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        call()
    assert (tmp_path / "p10-1" / "front.csv").exists() and not asked.measured
    record = call()
    assert [name for name, *_ in asked.runs[2:]] == ["p10-1", "p75-0", "p75-1"]
    assert record["searches"][1]["int8"]["n_twins"] == 1


def test_a_member_that_was_not_measured_again_yet_is(call, asked, tmp_path):
    call(percentiles=(75,), n_searches=1)
    path = tmp_path / "p75-0" / "again.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps(kept | {"t1": "soon"}))
    record = call(percentiles=(75,), n_searches=1)
    assert asked.measured[1:] == [["p75-0-1.onnx"]]
    assert record["n_within"] == 2


@pytest.mark.parametrize("text", ['{"asked": {"seco', '{"t0": 0.5, "t1": 0.9}', "[]"])
def test_broken_latencies_of_later_are_told(call, tmp_path, text):
    call(percentiles=(10,), n_searches=1)
    path = tmp_path / "p10-0" / "again.json"
    path.write_text(text)
    with pytest.raises(RunFolderError, match=r"cannot read the results .*again\.json.*remove it"):
        call(percentiles=(10,), n_searches=1)
    path.unlink()
    assert call(percentiles=(10,), n_searches=1)["n_within"] == 2


def test_the_command_searches_as_a_search_does_and_prints_what_was_found(asked, tmp_path):
    line = ["bench", "front", "--budgets", "10,75", "--searches", "2", "--out", str(tmp_path)]
    done = CliRunner().invoke(cli.app, line)
    assert done.exit_code == 0, done.output
    assert {config.strategy for config in asked.configs} == {SearchConfig().strategy}
    text = " ".join(done.stdout.split())
    assert "5 of 6 networks within their budget" in text
    assert (
        "5 of 6 models compute what PyTorch does to 0.0001; the largest difference is 2.0e-04"
        in text
    )
    assert "2 of 5 lose over 1.0 points of accuracy; on validation" in text
    assert "they lose 0.5 in the mean and 2.0 at most, on test 0.3 and 1.5" in text
    assert "4 were measured; they take 1.00 times what fp32 does in the median" in text
    assert (
        "5 are flagged: 2 accuracy drop, 2 not faster, 2 over the budget, 1 not measured, "
        "1 could not be made"
    ) in text


def test_the_command_delivers_int8_forms_unless_told_not_to(asked, tmp_path):
    line = [
        "bench",
        "front",
        "--budgets",
        "10",
        "--searches",
        "1",
        "--out",
        str(tmp_path),
        "--json",
    ]
    records = []
    for more in ([], ["--no-int8"]):
        done = CliRunner().invoke(cli.app, [*line, *more])
        assert done.exit_code == 0, done.output
        records.append(json.loads(done.stdout))
    assert [config.int8 for config in asked.configs] == [True, False]
    assert [record["int8"]["n_twins"] for record in records] == [2, 0]


def test_nothing_to_search_is_refused(call):
    with pytest.raises(ConfigError, match="at least one budget and search"):
        call(percentiles=())


@pytest.mark.slow
def test_searches_of_a_real_space_are_run_and_measured_again(
    tmp_path, monkeypatch, make_tiny_space
):
    monkeypatch.setitem(catalog.SPACES, "tiny", make_tiny_space)
    monkeypatch.setitem(profiling.profile_space.__kwdefaults__, "seconds", 0.1)
    config = SearchConfig(
        space="tiny",
        trials=6,
        finalists=2,
        search_epochs=0.25,
        final_epochs=0.5,
        networks=12,
        workers=0,
    )
    asked = {"percentiles": (75,), "n_searches": 1, "measurements": tmp_path / "m.db"}
    record = bench_front(config, tmp_path / "out", **asked, progress=Silent())
    (search,) = record["searches"]
    assert 2 <= search["n_trained"] <= 8 and 0 <= search["n_within"] <= search["n_members"]
    assert search["limit_ms"] > 0 and (tmp_path / "out" / "p75-0" / "front.csv").exists()
    again = bench_front(config, tmp_path / "out", **asked, progress=Silent())
    assert again["searches"] == record["searches"]
