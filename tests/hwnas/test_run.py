import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from hwnas import cost, profiling
from hwnas.config import SearchConfig, read_config
from hwnas.data import load_data
from hwnas.errors import (
    BudgetError,
    ConfigError,
    InfeasibleBudgetError,
    RunFolderError,
)
from hwnas.evaluation import evaluate_onnx
from hwnas.evaluators import training
from hwnas.front import sittings, verify
from hwnas.front.finalists import export_again
from hwnas.progress import Silent
from hwnas.run import _Run, run_search
from hwnas.spaces import catalog
from hwnas.training import TrainingDivergedError, train
from predictors.errors import WrongTargetError
from predictors.files import load_predictor, save_predictor
from profilers.onnx_models import load_model
from profilers.targets import make_target

CONFIG = SearchConfig(
    space="tiny", budgets=("params<=95%",), trials=4, finalists=3, search_epochs=0.25,
    final_epochs=0.5, networks=8, workers=0,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _quick_and_tiny(make_tiny_space):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(catalog.SPACES, "tiny", make_tiny_space)
        patch.setitem(profiling.profile_space.__kwdefaults__, "seconds", 0.1)
        patch.setattr(verify, "SECONDS_PROFILE", 0.05)
        patch.setattr(verify, "SECONDS_LATENCY", 0.05)
        patch.setattr(sittings, "N_SITTINGS", 1)
        # Threads that wait for each other take seconds where tests share the cores.
        torch.set_num_threads(1)
        patch.setattr(torch, "set_num_threads", lambda n: None)
        yield


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, tiny_predictor):
    path = tmp_path_factory.mktemp("predictor") / "predictor.npz"
    save_predictor(tiny_predictor, path)
    return path


@pytest.fixture
def start(tmp_path, fitted):
    """Start, or go on with, a run that takes its predictor from a file."""

    def call(config=CONFIG, **changes):
        return run_search(
            replace(config, **changes), tmp_path / "run", measurements=tmp_path / "m.db",
            predictor=fitted,
        )  # fmt: skip

    return call


class Trainings:
    """Stands in for `train`: notes what is trained, and may stop one of them."""

    def __init__(self, monkeypatch, *, stop_at=None, error=KeyboardInterrupt):
        self.seeds = []
        self.stop_at, self.error = stop_at, error
        monkeypatch.setattr(training, "train", self)

    def __call__(self, network, data, recipe, *, input_shape, seed, on_progress):
        if len(self.seeds) == self.stop_at:
            self.stop_at = None
            raise self.error
        self.seeds.append((recipe.epochs, seed))
        return train(network, data, recipe, input_shape=input_shape, seed=seed)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run from nothing to the report, everything measured; read only."""
    folder = tmp_path_factory.mktemp("whole")
    # What is measured here varies: no budget on it, so that something is on the front.
    config = replace(CONFIG, budgets=("params<=1e6",))
    command = "hwnas search --data digits"
    result = run_search(config, folder / "run", measurements=folder / "m.db", command=command)
    return folder / "run", result


def test_a_run_folder_holds_everything(whole):
    folder, result = whole
    assert result.is_complete and result.folder == folder
    names = {path.name for path in folder.iterdir() if not path.name.startswith("study.db")}
    assert {"config.toml", "predictor.npz", "weights", "front", "candidates", "front.csv",
            "candidates.csv", "trials.csv", "report.html"} <= names  # fmt: skip
    assert (folder / "study.db").exists()
    assert not list(folder.rglob("*.part"))
    assert load_predictor(folder / "predictor.npz").level == CONFIG.level


@pytest.fixture(scope="module")
def frugal(tmp_path_factory):
    """A run with a budget on memory alone, from nothing; read only."""
    folder = tmp_path_factory.mktemp("frugal")
    config = replace(CONFIG, budgets=("peak_memory_bytes<=70%",), trials=6, networks=12)
    return folder, run_search(config, folder / "run", measurements=folder / "m.db")


def test_all_that_a_memory_budget_lets_through_meets_it_when_measured(frugal):
    folder, result = frugal
    (text,) = read_config(folder / "run" / "config.toml")["budget"]["limits"]
    limit = float(text.split("<=")[1])
    searched = [c for c in result.candidates if c.kind == "searched"]
    assert len(result.front) >= 1 and len(searched) == CONFIG.finalists
    assert all(c.peak_memory_bytes <= limit and c.meets_budget for c in searched)
    trials = pd.read_csv(folder / "run" / "trials.csv")
    assert len(trials) == 6 and (trials["predicted_peak_memory_bytes"] <= limit).all()


def test_the_predicted_memory_stands_beside_the_measured_one(frugal):
    folder, _ = frugal
    table = pd.read_csv(folder / "run" / "front.csv")
    ratio = table["predicted_peak_memory_bytes"] / table["peak_memory_bytes"]
    assert ratio.between(0.7, 1.4).all()
    assert table["energy_mj"].isna().all() or (table["energy_mj"] > 0).all()


def test_a_budget_on_what_the_given_predictor_does_not_know_trains_nothing(start, monkeypatch):
    trained = Trainings(monkeypatch)
    with pytest.raises(BudgetError, match="nothing about peak_memory_bytes.*hwnas profile"):
        start(budgets=("peak_memory_bytes<=64e3",))
    assert trained.seeds == []


def test_the_front_is_what_its_models_compute(whole):
    folder, result = whole
    data = load_data("digits")
    table = pd.read_csv(folder / "front.csv")
    assert len(table) == len(result.front) >= 1
    assert list(table["latency_ms"]) == sorted(table["latency_ms"])
    for row in table.itertuples():
        assert evaluate_onnx(folder / row.onnx, data).accuracy == row.test_accuracy
        assert evaluate_onnx(folder / row.onnx, data, split="validation").accuracy == (
            row.val_accuracy
        )
        assert row.parity_max_abs_error <= 1e-4 and row.meets_budget
    models = [f"front/{path.name}" for path in (folder / "front").glob("*.onnx")]
    assert sorted(models) == sorted(table["onnx"])
    cards = {path.stem for path in (folder / "front").glob("*.md")}
    assert cards == set(table["name"])


def test_candidates_are_the_finalists_and_a_baseline(whole):
    folder, result = whole
    table = pd.read_csv(folder / "candidates.csv")
    assert len(table) == len(result.candidates) == CONFIG.finalists + 1
    assert list(table[table["kind"] == "baseline"]["name"]) == ["plain-cnn"]
    assert set(table["name"]) == {path.stem for path in (folder / "weights").iterdir()}


def test_trials_are_a_table(whole):
    folder, _ = whole
    table = pd.read_csv(folder / "trials.csv")
    assert list(table["number"]) == [0, 1, 2, 3] and set(table["state"]) == {"complete"}
    assert table["failure"].isna().all() and (table["predicted_latency_ms"] > 0).all()
    assert all(len(json.loads(text)) == 6 for text in table["genotype"])


def test_the_config_says_what_was_asked_found_and_spent(whole):
    folder, _ = whole
    tables = read_config(folder / "config.toml")
    config = SearchConfig.from_table(tables["search"])
    assert config == replace(CONFIG, budgets=("params<=1e6",))
    assert tables["reproduce"]["command"] == "hwnas search --data digits"
    assert tables["run"]["data_fingerprint"] == load_data("digits").fingerprint
    assert tables["spent"]["n_trials"] == 4 and tables["spent"]["n_failed"] == 0
    assert tables["spent"]["search_seconds"] > 0
    assert tables["training"]["search"]["epochs"] == CONFIG.search_epochs
    assert tables["training"]["final"]["max_shift"] == 0.05  # of the default recipe for images
    assert tables["budget"]["fastest_ms"] <= tables["budget"]["median_ms"]


def test_a_network_is_exported_again_for_another_batch(whole, tmp_path):
    folder, result = whole
    for name in (result.front[0].name, "plain-cnn"):
        path = tmp_path / f"{name}.onnx"
        assert export_again(folder, name, path, batch=3) <= 1e-4
        assert load_model(path).inputs[0].shape == (3, 1, 8, 8)
    stated = {c.name: c.test_accuracy for c in result.candidates}
    again = evaluate_onnx(tmp_path / "plain-cnn.onnx", load_data("digits")).accuracy
    assert again == pytest.approx(stated["plain-cnn"], abs=1e-9)


def test_exporting_what_is_not_there_is_refused(whole, tmp_path):
    folder, _ = whole
    with pytest.raises(RunFolderError, match=r"unknown network 'plain'; did you mean 'plain-cnn'"):
        export_again(folder, "plain", tmp_path / "x.onnx", batch=1)
    with pytest.raises(RunFolderError, match=r"cannot read .*config\.toml"):
        export_again(tmp_path, "t000", tmp_path / "x.onnx", batch=1)


def test_exporting_with_other_data_than_those_of_the_run_is_refused(whole, tmp_path):
    folder, _ = whole
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    config = (other / "config.toml").read_text()
    fingerprint = load_data("digits").fingerprint
    assert fingerprint in config
    (other / "config.toml").write_text(config.replace(fingerprint, "0123"))
    with pytest.raises(RunFolderError, match="the data are not those that it was begun with"):
        export_again(other, "plain-cnn", tmp_path / "x.onnx", batch=1)


def test_the_same_call_again_trains_nothing_and_gives_the_same(
    start, finished, tmp_path, monkeypatch
):
    shutil.copytree(finished.folder, tmp_path / "run")
    trained = Trainings(monkeypatch)
    again = start()
    assert trained.seeds == []
    assert again.is_complete

    def values(result):
        return {c.name: (c.genotype, c.val_accuracy, c.test_accuracy) for c in result.candidates}

    assert values(again) == values(finished)


def test_more_trials_continue_the_run(start, finished, tmp_path, monkeypatch):
    shutil.copytree(finished.folder, tmp_path / "run")
    trained = Trainings(monkeypatch)
    start(trials=6)
    searched = [seed for epochs, seed in trained.seeds if epochs == CONFIG.search_epochs]
    assert searched == [4, 5]


def test_an_interrupted_search_loses_and_repeats_no_trial(start, tmp_path, monkeypatch):
    trained = Trainings(monkeypatch, stop_at=2)
    stopped = start()
    assert not stopped.is_complete and stopped.front == ()
    assert len(pd.read_csv(tmp_path / "run" / "trials.csv")) == 2
    assert not (tmp_path / "run" / "front.csv").exists()
    result = start()
    assert result.is_complete
    searched = [seed for epochs, seed in trained.seeds if epochs == CONFIG.search_epochs]
    assert searched == [0, 1, 2, 3]
    table = pd.read_csv(tmp_path / "run" / "trials.csv")
    assert sorted(table["number"]) == [0, 1, 2, 3] and table["genotype"].nunique() == 4


def test_an_interrupted_search_ends_as_an_uninterrupted_one(start, finished, tmp_path, monkeypatch):
    Trainings(monkeypatch, stop_at=1)
    start()
    start()
    columns = ["number", "genotype", "val_accuracy", "predicted_latency_ms"]
    interrupted, other = (
        pd.read_csv(folder / "trials.csv")[columns]
        for folder in (tmp_path / "run", finished.folder)
    )
    pd.testing.assert_frame_equal(interrupted, other)


def test_an_interrupted_final_training_keeps_what_was_trained(start, monkeypatch):
    trained = Trainings(monkeypatch, stop_at=6)  # 4 trials, 2 of the 3 finalists
    with pytest.raises(KeyboardInterrupt):
        start()
    start()
    final = [seed for epochs, seed in trained.seeds if epochs == CONFIG.final_epochs]
    assert len(final) == CONFIG.finalists + 1 and len(trained.seeds) == 4 + len(final)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, fitted):
    """A run that came to its end; copy it to change it."""
    folder = tmp_path_factory.mktemp("finished")
    return run_search(CONFIG, folder / "run", measurements=folder / "m.db", predictor=fitted)


@pytest.mark.parametrize("damage", ["garbage", "half", "other", "empty"])
def test_damaged_weights_are_trained_again(start, finished, tmp_path, monkeypatch, damage):
    shutil.copytree(finished.folder, tmp_path / "run")
    before = finished.candidates[0]
    path = tmp_path / "run" / "weights" / f"{before.name}.safetensors"
    content = path.read_bytes()
    damaged = {
        "garbage": b"\x80\x02q\x01.",
        "half": content[: len(content) // 2],
        "other": (path.parent / "plain-cnn.safetensors").read_bytes(),
        "empty": b"",
    }
    path.write_bytes(damaged[damage])
    trained = Trainings(monkeypatch)
    again = start()
    assert len(trained.seeds) == 1
    assert again.candidates[0].val_accuracy == before.val_accuracy


def test_a_failed_trial_is_recorded_and_the_run_goes_on(start, tmp_path, monkeypatch):
    Trainings(monkeypatch, stop_at=1, error=RuntimeError("out of memory"))
    assert start().is_complete
    table = pd.read_csv(tmp_path / "run" / "trials.csv").set_index("number")
    assert table.loc[1, "state"] == "failed"
    assert table.loc[1, "failure"] == "RuntimeError: out of memory"
    assert read_config(tmp_path / "run" / "config.toml")["spent"]["n_failed"] == 1


def test_a_finalist_that_diverges_is_replaced(start, monkeypatch):
    Trainings(monkeypatch, stop_at=4, error=TrainingDivergedError("the loss became nan"))
    result = start()
    assert result.is_complete
    assert len(result.candidates) == CONFIG.finalists + 1  # with the fourth trial, and the baseline


def test_an_interruption_before_the_first_trial_ended_is_none_the_worse(start, monkeypatch):
    Trainings(monkeypatch, stop_at=0)
    assert not start().is_complete
    assert start().is_complete


def test_another_run_in_the_folder_is_refused(start, finished, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "run")
    with pytest.raises(RunFolderError, match="holds another run: seed is 0 there, 1 asked"):
        start(seed=1)


def test_a_budget_below_the_fastest_network_ends_before_any_training(start, tmp_path, monkeypatch):
    trained = Trainings(monkeypatch)
    with pytest.raises(InfeasibleBudgetError, match="Raise the budget above"):
        start(budgets=("latency_ms<=1e-6",))
    assert trained.seeds == [] and not (tmp_path / "run" / "study.db").exists()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"space": "tine"}, ConfigError, "did you mean 'tiny'"),
        ({"strategy": "evolutoin"}, ConfigError, "did you mean 'evolution'"),
        ({"budgets": ("latncy_ms<=1",)}, BudgetError, "did you mean 'latency_ms'"),
        ({"budgets": ("energy_mj<=1",)}, BudgetError, "no energy counter"),
        ({"batch": 2}, WrongTargetError, "batch 1.*batch 2"),
        ({"recipe": ("flop=true",)}, ConfigError, "did you mean 'flip'"),
        ({"recipe": ("noise=0.1",)}, ConfigError, "noise is for data of kind signal or table"),
    ],
)
def test_what_cannot_be_done_ends_before_any_training(start, monkeypatch, changes, error, message):
    trained = Trainings(monkeypatch)
    with pytest.raises(error, match=message):
        start(**changes)
    assert trained.seeds == []


def test_a_second_search_on_the_folder_is_refused_until_the_first_is_done(start, monkeypatch):
    refused = []

    def train_and_try(network, data, recipe, *, input_shape, seed, on_progress):
        if recipe.epochs == CONFIG.final_epochs and not refused:
            with pytest.raises(RunFolderError, match="another search") as caught:
                start()
            refused.append(caught.value)
        return train(network, data, recipe, input_shape=input_shape, seed=seed)

    monkeypatch.setattr(training, "train", train_and_try)
    assert start().is_complete
    assert len(refused) == 1


def test_each_precision_has_its_own_times_of_the_reference_network(tmp_path):
    fp32, bf16 = (make_target("torch-cpu"), replace(make_target("torch-cpu"), precision="bf16"))
    store = SimpleNamespace(references_ms=lambda target: {fp32: [1.0], bf16: [2.0]}[target])
    places = {t.precision: SimpleNamespace(target=t, open_profiler=dict) for t in (fp32, bf16)}
    run = SimpleNamespace(place_in=places.__getitem__)
    assert _Run.open_in(run, store, "bf16")() == {"references_ms": [2.0]}
    assert _Run.open_in(run, store, "fp32")() == {"references_ms": [1.0]}


def test_the_file_of_a_record_stays_where_it_is_wherever_a_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = _Run(CONFIG, tmp_path / "run", tmp_path / "m.db", None, None, Silent(), "trials.db", None)
    assert run.run["storage"] == str(tmp_path / "trials.db")
    assert run.record_place == tmp_path / "trials.db"


def test_a_budget_in_percent_stays_what_it_was_when_a_run_goes_on(tmp_path, monkeypatch):
    # A table that may meet few pieces looks at few networks, and which ones hangs on its past.
    monkeypatch.setattr(cost, "SURVEY_PIECES", 1)
    monkeypatch.setitem(cost.CostTable.affordable.__kwdefaults__, "n_least", 1)
    config = replace(CONFIG, budgets=("params<=100%",), trials=1, finalists=1, int8=False)
    limits = []
    for _ in range(2):
        run_search(config, tmp_path / "run", measurements=tmp_path / "m.db")
        limits.append(read_config(tmp_path / "run" / "config.toml")["budget"])
    assert limits[0] == limits[1]
