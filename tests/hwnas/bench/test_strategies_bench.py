"""Strategies compared by searches that are made up, and by real ones on tiny spaces."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from hwnas.bench import strategies as bench
from hwnas.bench import strategy_search
from hwnas.bench.strategies import bench_strategies, order_of
from hwnas.bench.strategies_table import COLUMNS, markdown, summaries, table_rows
from hwnas.bench.strategy_search import SearchJob, figures, search_once
from hwnas.budget import Budget
from hwnas.config import SearchConfig
from hwnas.data import Preprocessing, load_data
from hwnas.errors import ConfigError, InfeasibleBudgetError, RunFolderError
from hwnas.executors.errors import EvaluationFailedError
from hwnas.progress import Silent
from hwnas.record import Record
from hwnas.spaces import catalog
from hwnas.strategies import STRATEGIES, Trial
from predictors.cost import CostPredictor
from predictors.files import save_predictor
from profilers.targets import make_target

CONFIG = SearchConfig(
    space="tiny", budgets=("latency_ms<=90%",), minutes=0.5, search_epochs=1.0, guide_epochs=1.0
)


@pytest.fixture
def predictor(tmp_path, make_tiny_space, tiny_predictor, monkeypatch):
    """A file with a predictor of the tiny space, which is in the catalog."""
    monkeypatch.setitem(catalog.SPACES, "tiny", make_tiny_space)
    path = tmp_path / "fitted.npz"
    save_predictor(CostPredictor(tiny_predictor), path)
    return path


def made_up(strategy, seed, **changes):
    """The figures of a search in which `bananas` finds twice of what `random` does."""
    found = {
        "strategy": strategy, "seed": seed, "best_val_accuracy": 0.9 + 0.01 * seed,
        "hypervolume": (0.2 + 0.02 * seed) * (2 if strategy == "bananas" else 1),
        "test_accuracy": 0.88, "n_trained": 10 + seed, "n_shorter": 0, "n_failed": 0,
        "n_whole": 10 + seed, "n_over": 0, "n_trained_over": 0, "seconds": 30.4,
        "guide_seconds": 0.0, "guide_epochs": None,
    }  # fmt: skip
    return found | changes


@pytest.fixture
def call(tmp_path, predictor, monkeypatch):
    """Compare by searches that are made up; `call.jobs` are those that were run."""

    def side_by_side(function, jobs, cores, *, hung_after_s, on_tick):
        assert function is search_once
        for job in jobs:
            if len(call.jobs) == call.stop_at:
                call.stop_at = None
                raise KeyboardInterrupt
            call.jobs.append(job)
            name, seed = job.config.strategy, job.config.seed
            job.folder.mkdir()  # as a search would: it must not be there
            reason = call.failing.get((name, seed))
            yield job, EvaluationFailedError(reason) if reason else made_up(name, seed)

    def call(strategies=("bananas",), n_seeds=2, *, config=CONFIG, n_jobs=1, out="out"):
        return bench_strategies(
            config, tmp_path / out, strategies=strategies, n_seeds=n_seeds, n_jobs=n_jobs,
            measurements=tmp_path / "m.db", predictor=predictor, progress=Silent(),
        )  # fmt: skip

    call.jobs, call.stop_at, call.failing = [], None, {}
    monkeypatch.setattr(bench, "side_by_side", side_by_side)
    return call


def test_all_strategies_search_with_one_seed_before_any_does_with_the_next():
    names = list(STRATEGIES)
    order = order_of(names, 4)
    n = len(names)
    rounds = [order[i * n : (i + 1) * n] for i in range(4)]
    assert all(
        sorted(found) == sorted((i, name) for name in names) for i, found in enumerate(rounds)
    )
    assert len({tuple(name for _, name in found) for found in rounds}) == 4
    assert order_of(names[::-1], 4) == order


def test_all_searches_have_the_same_budget_predictor_and_time(call):
    call()
    assert [(job.config.seed, job.config.strategy) for job in call.jobs] == order_of(
        ["bananas", "random"], 2
    )
    configs = {replace(job.config, strategy="any", seed=0) for job in call.jobs}
    (config,) = configs
    (budget,) = config.budgets
    assert budget.startswith("latency_ms<=0.0") and "%" not in budget
    assert config.minutes == 0.5 and config.workers == 0 and config.search_epochs == 1.0
    assert len({job.predictor.read_bytes() for job in call.jobs}) == 1


def test_what_is_said_is_as_by_hand(call, tmp_path):
    record = call()
    first, second = record["strategies"].items()
    assert (first[0], second[0]) == ("bananas", "random")
    # random: 0.20 and 0.22, mean 0.21; bananas: 0.40 and 0.44.
    assert first[1]["ratio"] == pytest.approx(
        {"mean": 2.0, "low": 0.40 / 0.21, "high": 0.44 / 0.21}
    )
    assert second[1]["ratio"]["mean"] == pytest.approx(1.0)
    assert first[1]["n_trained"] == {"mean": 10.5, "low": 10, "high": 11}
    row = dict(zip(COLUMNS, table_rows(record)[0], strict=True))
    assert row["hypervolume × random"] == "2.00 (1.90–2.10)"
    assert row["hypervolume"] == "0.420 (0.400–0.440)"
    assert row["best validation %"] == "90.5 (90.0–91.0)"
    assert row["its test %"] == "88.0" and row["of them guide"] == "0.0"
    table = (tmp_path / "out" / "strategies.md").read_text()
    assert "| bananas | 2.00 (1.90–2.10) | 0.420 (0.400–0.440) |" in table
    assert "30 s of one core for each search, 2 seeds" in table
    assert json.loads((tmp_path / "out" / "strategies.json").read_text()) == record


def test_taken_up_again_no_finished_search_is_repeated_and_a_half_one_begins_anew(call, tmp_path):
    call.stop_at = 1
    with pytest.raises(KeyboardInterrupt):
        call()
    (half := tmp_path / "out" / "random-1").mkdir()
    (half / "study.db").write_text("what a kill has left")
    first = call()
    assert Counter(job.folder.name for job in call.jobs) == {
        "bananas-0": 1, "random-0": 1, "bananas-1": 1, "random-1": 1
    }  # fmt: skip
    assert not (half / "study.db").exists()
    assert call() == first and len(call.jobs) == 4
    more = call(("bananas", "grid"), 3)
    assert len(call.jobs) == 9 and set(more["strategies"]) == {"bananas", "random", "grid"}
    assert [row["seed"] for row in more["searches"]] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_search_that_fails_is_named_and_tried_again_by_the_next_call(call, tmp_path):
    call.failing = {("bananas", 1): "ConfigError: no way"}
    found = call()["strategies"]["bananas"]
    assert found["failures"] == ["ConfigError: no way"] and found["hypervolume"]["low"] == 0.4
    assert "bananas, 1 failed: ConfigError: no way" in (tmp_path / "out" / bench.TABLE).read_text()
    call.failing = {("bananas", 0): "never asked"}
    assert call()["strategies"]["bananas"]["failures"] == []
    assert len(call.jobs) == 5


def test_without_a_baseline_there_is_no_ratio(call):
    call.failing = {("random", 0): "killed", ("random", 1): "killed"}
    record = call()
    assert record["strategies"]["bananas"]["ratio"] is None
    assert table_rows(record)[-1] == ("random", *["–"] * 8)


def test_the_epochs_of_guides_and_what_was_over_the_budget_are_told(call):
    record = call()
    rows = [
        made_up("random", 0), made_up("spos", 0, guide_epochs=7.5, guide_seconds=12.0, n_over=2)
    ]  # fmt: skip
    text = markdown(record | {"strategies": summaries(["random", "spos"], rows)})
    assert "Proposals over the budget: 2, trained: 0." in text
    assert "Guides: 7.5 to 7.5 epochs." in text and "| 30.4 | 12.0 |" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"minutes": 0.75}, "minutes is 0.5 there, 0.75 asked"),
        ({"search_epochs": 2.0}, "search_epochs is 1.0 there, 2.0 asked"),
        ({"budgets": ("latency_ms<=50%",)}, "budgets is"),
    ],
)
def test_a_folder_holds_one_comparison(call, changes, message):
    call()
    with pytest.raises(RunFolderError, match=message):
        call(config=replace(CONFIG, **changes))
    assert len(call.jobs) == 4


def test_a_folder_with_other_files_is_refused(call, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("")
    with pytest.raises(RunFolderError, match="holds other files and no bench.json"):
        call()


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"strategies": ("bannanas",)}, ConfigError, "did you mean 'bananas'"),
        ({"n_seeds": 0}, ConfigError, "at least one seed"),
        ({"n_jobs": 0}, ConfigError, "ask for 1 to"),
        ({"n_jobs": 9999}, ConfigError, "9999 searches side by side need a core each"),
        ({"config": replace(CONFIG, minutes=None)}, ConfigError, "give the minutes of each"),
        ({"config": replace(CONFIG, budgets=("params<=1e6",))}, ConfigError, "a latency budget"),
        (
            {"config": replace(CONFIG, budgets=("latency_ms<=1e-6",))}, InfeasibleBudgetError,
            "no network of the space meets",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_told_before_anything_is_searched(call, asked, error, message):
    with pytest.raises(error, match=message):
        call(**asked)
    assert not call.jobs


def test_figures_are_of_whole_trainings_and_as_by_hand(make_toy):
    toy = make_toy()
    latency_ms = toy.problem.predict(
        genotypes := toy.problem.space.sample(np.random.default_rng(0), 5)
    )
    limit_ms = float(np.sort(latency_ms.high_ms)[3])  # one of the five is above
    problem = replace(toy.problem, budgets=(Budget("latency_ms", limit_ms),))
    over = int(latency_ms.high_ms.argmax())
    within = [tuple(g) for i, g in enumerate(genotypes.tolist()) if i != over]
    trials = [
        Trial(0, within[0], (0.3, 0.25 * limit_ms)),
        Trial(1, within[1], (0.1, 0.75 * limit_ms)),
        Trial(2, within[2], (0.0, 0.1 * limit_ms), share=0.5),  # a part of the training
        Trial(3, within[3], None, "diverged"),
        Trial(4, tuple(genotypes[over].tolist()), None, "over the budget: not trained"),
    ]
    found = figures(trials, problem)
    # (0.9 - 0.3)(1 - 0.25) + (0.3 - 0.1)(1 - 0.75) = 0.5, of a box of 0.9.
    assert found["hypervolume"] == pytest.approx(0.5 / 0.9)
    assert found["best_val_accuracy"] == pytest.approx(0.9)
    assert (found["n_trained"], found["n_shorter"], found["n_failed"]) == (2, 1, 2)
    assert found["n_whole"] == 4.5
    assert (found["n_over"], found["n_trained_over"]) == (1, 0)
    nothing = figures([], problem)
    assert nothing["hypervolume"] == 0.0 and nothing["best_val_accuracy"] is None


def job(tmp_path, predictor, **changes):
    config = replace(CONFIG, trials=3, workers=0, budgets=("latency_ms<=0.05",), **changes)
    measurements = tmp_path / "m.db"
    return SearchJob(config, tmp_path / "run", make_target(), predictor, measurements)


def test_a_search_gives_the_figures_of_its_record(tmp_path, predictor):
    asked = job(tmp_path, predictor, strategy="random", seed=3)
    found = search_once(asked)
    space = catalog.make_space("tiny", (1, 8, 8), 10)
    with Record.open(tmp_path / "run" / "study.db", space, create=False) as record:
        trials = record.trials()
    assert found["n_trained"] == len(trials) == 3
    errors = [trial.objectives[0] for trial in trials]
    assert found["best_val_accuracy"] == 1 - min(errors)
    assert 0 < found["hypervolume"] < 1 and found["n_over"] == found["n_trained_over"] == 0
    assert found["guide_epochs"] is None and found["guide_seconds"] == 0 < found["seconds"]
    json.dumps(found)


def test_test_accuracy_is_that_of_the_network_that_was_best_in_the_search(
    tmp_path, predictor, monkeypatch
):
    trained, train_network = [], strategy_search.train_network

    def remembered(*args, **kwargs):
        network, result = train_network(*args, **kwargs)
        trained.append((network, result.validation.accuracy))
        return network, result

    monkeypatch.setattr(strategy_search, "train_network", remembered)
    found = search_once(job(tmp_path, predictor, strategy="random"))
    ((network, val_accuracy),) = trained
    assert val_accuracy == pytest.approx(found["best_val_accuracy"])
    test = (data := load_data("digits")).test
    with torch.inference_mode():
        logits = network.eval()(Preprocessing.of(data, (1, 8, 8)).apply(test.inputs))
    accuracy = (logits.argmax(dim=1) == test.labels).double().mean().item()
    assert found["test_accuracy"] == pytest.approx(accuracy)


def test_the_time_is_that_of_the_guide_and_the_trials_together(tmp_path, predictor):
    asked = job(tmp_path, predictor, strategy="spos", minutes=0.5)
    found = search_once(asked)
    assert found["guide_epochs"] == 1.0
    assert 0 < found["guide_seconds"] < found["seconds"]


def test_no_trial_is_begun_when_the_guide_has_taken_all_the_time(tmp_path, predictor):
    found = search_once(job(tmp_path, predictor, strategy="spos", minutes=1e-4))
    assert found["n_trained"] == 0 and found["hypervolume"] == 0.0
    assert found["test_accuracy"] is None and found["seconds"] >= found["guide_seconds"] > 0


SPACE = """
from hwnas.baselines import Dense
from hwnas.spaces.base import Choice, SearchSpace

def space(input_shape, n_classes):
    return SearchSpace(
        name="widths",
        choices=(Choice("width", (8, 16, 32, 64)), Choice("second", (8, 16, 32, 64))),
        input_shape=lambda options: input_shape,
        slots=(
            lambda options: Dense(options["width"], True),
            lambda options: Dense(options["second"], True),
            lambda options: Dense(n_classes, False),
        ),
    )
"""


@pytest.mark.slow
def test_real_searches_run_in_processes_of_their_own_and_keep_their_time(tmp_path):
    (tmp_path / "space.py").write_text(SPACE)
    config = SearchConfig(
        data="wine", space=f"{tmp_path / 'space.py'}:space", budgets=("latency_ms<=150%",),
        minutes=0.02, search_epochs=2.0, networks=12,
    )  # fmt: skip
    asked = {
        "strategies": ["hyperband"], "n_seeds": 1, "n_jobs": 1, "progress": Silent(),
        "measurements": tmp_path / "m.db",
    }  # fmt: skip
    record = bench_strategies(config, tmp_path / "out", **asked)
    hyperband, random = (record["strategies"][name] for name in ("hyperband", "random"))
    assert random["ratio"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert random["n_trained"]["mean"] > 0 == random["n_shorter"]["mean"]
    assert hyperband["n_shorter"]["mean"] > 0 == hyperband["n_over"] + random["n_over"]
    assert bench_strategies(config, tmp_path / "out", **asked) == record
