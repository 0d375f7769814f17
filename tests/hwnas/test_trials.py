"""The trials of a run: where they are evaluated, how they are shown, the table of them."""

import sys
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from hwnas.config import SearchConfig
from hwnas.data import load_data
from hwnas.errors import ConfigError, RunFolderError
from hwnas.evaluators.catalog import evaluator_digest, make_evaluator
from hwnas.evaluators.plan import EvaluatorPlan
from hwnas.executors.errors import ExecutorError
from hwnas.progress import Silent
from hwnas.record import Record
from hwnas.run_folder import RunFolder
from hwnas.run_trials import run_trials
from hwnas.search import SearchEvent
from hwnas.spaces.catalog import make_space
from hwnas.strategies import Problem, Trial, make_strategy
from hwnas.strategies.base import Costs
from hwnas.training import Recipe
from hwnas.trials_progress import TrialsProgress
from hwnas.trials_table import write_trials

SPACE = """
from hwnas.baselines import Dense
from hwnas.spaces.base import Choice, SearchSpace

def space(input_shape, n_classes):
    return SearchSpace(
        name="widths",
        choices=(Choice("width", tuple(range(4, 20))),),
        input_shape=lambda options: input_shape,
        slots=(
            lambda options: Dense(options["width"], True),
            lambda options: Dense(n_classes, False),
        ),
    )
"""
EVALUATOR = """
from hwnas.executors.progress import report
from hwnas.search import Evaluation

class Widest:
    def __init__(self, space, data, recipe, seed):
        self.seed = seed

    def __call__(self, trial):
        report(0.5)
        return Evaluation((1.0 / (2 + trial.genotype[0] + self.seed), 5.0))

def widest(space, data, recipe, *, seed):
    return Widest(space, data, recipe, seed)

def nothing(space, data, recipe, *, seed):
    return None
"""


@pytest.fixture(scope="module")
def wine():
    return load_data("wine")


@pytest.fixture
def names(tmp_path):
    """References to a space and to evaluators in files of the user's own."""
    (tmp_path / "space.py").write_text(SPACE)
    (tmp_path / "mine.py").write_text(EVALUATOR)
    return f"{tmp_path / 'space.py'}:space", f"{tmp_path / 'mine.py'}"


def predict(genotypes):
    latency_ms = 0.1 + genotypes[:, 0] / 10.0
    counts = genotypes[:, 0] + 1
    return Costs(latency_ms, latency_ms, latency_ms, counts.astype(float), counts, counts)


@pytest.fixture
def call(tmp_path, wine, names):
    """Run the trials of a search on wine in a folder."""

    def call(name, *, trials=4, evaluator="training", fingerprint=None, progress=None, **options):
        config = SearchConfig(space=names[0], strategy="random", trials=trials, **options)
        space = make_space(names[0], (13,), 3)
        problem = Problem(space, predict)
        fingerprint = fingerprint or space.fingerprint
        plan = EvaluatorPlan(evaluator, wine, names[0], fingerprint, Recipe(2, 16), seed=0)
        tables = {"search": {}, "run": {}}
        folder = tmp_path / name
        with (
            RunFolder.open(folder, tables, has_trials=lambda: False) as run_folder,
            Record.open(folder / "study.db", space, create=True) as record,
        ):
            strategy = make_strategy("random", problem, seed=0)
            found = run_trials(
                config, problem, strategy, plan, record, run_folder, progress or Silent(),
                n_threads=1,
            )  # fmt: skip
            return *found, record.results(), run_folder.spent

    return call


def test_workers_find_what_this_process_finds(call):
    here, is_complete, results, spent = call("here", workers=0)
    assert is_complete and len(here) == 4 and spent["search_seconds"] > 0
    costs = [0.1 + trial.genotype[0] / 10.0 for trial in here]
    assert [trial.objectives[1] for trial in here] == costs
    assert all(results[n]["val_accuracy"] == 1 - here[n].objectives[0] for n in range(4))
    there, *_ = call("there", workers=2)
    assert sorted(there, key=lambda trial: trial.number) == here


def test_an_evaluator_of_the_users_own_is_asked_in_the_worker(call, names):
    trials, *_ = call("own", trials=2, evaluator=f"{names[1]}:widest")
    assert [t.objectives for t in trials] == [(1.0 / (2 + t.genotype[0]), 5.0) for t in trials]


def test_a_space_that_is_another_one_in_the_worker_ends_the_search(call):
    with pytest.raises(ExecutorError, match=r"made ready: ConfigError: the space .* is another"):
        call("other", fingerprint="0" * 16)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("trainin", "unknown evaluator 'trainin'; did you mean 'training'"),
        ("missing.py:widest", "cannot read missing.py"),
        ("{file}:wide", "has no function 'wide'"),
        ("{file}:nothing", "must return an evaluator, called with a trial, got NoneType"),
    ],
)
def test_an_evaluator_that_cannot_be_used_is_one_message(wine, names, name, message):
    space = make_space(names[0], (13,), 3)
    name = name.format(file=names[1])
    with pytest.raises(ConfigError, match=message):
        make_evaluator(name, space, wine, Recipe(1, 16), seed=0)


def test_the_digest_of_an_evaluator_is_that_of_its_code(names):
    path, name = Path(names[1]), f"{names[1]}:widest"
    before = evaluator_digest(name)
    path.write_text(path.read_text() + "\n# changed\n")
    assert evaluator_digest(name) == before
    path.write_text(path.read_text() + "\nchanged = True\n")
    assert evaluator_digest(name) != before
    assert evaluator_digest("training") is None


def test_a_function_that_was_made_elsewhere_is_told_by_the_file_that_names_it(tmp_path):
    path = tmp_path / "a.b.py"
    text = "import functools\nimport beside\nmine = functools.partial(beside.build, {})\n"
    (tmp_path / "beside.py").write_text("def build(n, *given, seed): ...\n")
    digests = set()
    for n, extra in ((3, ""), (5, ""), (5, "x = 1\n")):
        path.write_text(text.format(n))
        with (tmp_path / "beside.py").open("a") as file:
            file.write(extra)
        digests.add(evaluator_digest(f"{path}:mine"))
        sys.modules.pop("beside")
    assert len(digests) == 3


class Shown:
    """A progress that keeps what it is told."""

    def __init__(self):
        self.updates, self.said = [], []

    def update(self, done, total=None, note=""):
        self.updates.append((round(done, 3), note))

    def say(self, text):
        self.said.append(text)

    @contextmanager
    def task(self, name, total):
        yield self


def test_each_trial_that_runs_is_shown(tmp_path):
    shown = Shown()
    progress = TrialsProgress(shown, shown, n_workers=2)
    first, second = Trial(3, (1,), None), Trial(4, (1,), None, share=0.5)
    progress.on_event(SearchEvent("replayed", 3, 3.0))
    assert shown.said == ["resuming: 3 trials are in the record"]
    progress.on_event(SearchEvent("started", 3, 3.0, first))
    progress.on_event(SearchEvent("started", 3, 3.0, second))
    progress.on_progress(3, 0.25)
    progress.on_progress(4, 0.5)
    assert shown.updates[-1] == (3.5, "#3 25 %, #4 50 %")
    progress.on_event(SearchEvent("retried", 3, 3.0, Trial(4, (1,), None, "killed", share=0.5)))
    assert shown.updates[-1] == (3.25, "#3 25 %, #4 0 %")
    assert shown.said[-1] == "#4 is tried once more: killed"
    progress.on_event(SearchEvent("told", 4, 4.0, Trial(3, (1,), (0.2, 1.5))))
    assert shown.updates[-1] == (4.0, "#4 0 %  #3 80.0 % at 1.5 ms predicted")
    progress.on_progress(3, 1.0)  # of a trial that has ended: it came late
    assert shown.updates[-1][0] == 4.0


def test_the_progress_of_a_worker_arrives(call, names):
    shown = Shown()
    call("shown", trials=1, evaluator=f"{names[1]}:widest", progress=shown)
    assert (0.5, "") in shown.updates
    assert shown.updates[-1][0] == 1.0


def test_the_table_has_a_row_for_each_trial(tmp_path):
    trials = [Trial(1, (2,), None, "ValueError: no"), Trial(0, (1,), (0.25, 2.0))]
    results = {0: {"predicted": {"latency_ms": 2.0, "params": 7}, "train_seconds": 1.5}}
    write_trials(tmp_path, trials, results)
    table = pd.read_csv(tmp_path / "trials.csv")
    assert list(table["number"]) == [0, 1] and list(table["state"]) == ["complete", "failed"]
    assert table["val_accuracy"][0] == 0.75 and table["params"][0] == 7
    assert table["failure"][1] == "ValueError: no" and pd.isna(table["val_accuracy"][1])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
def test_a_full_disk_is_one_message_and_the_table_stays_as_it_was(tmp_path):
    write_trials(tmp_path, [], {})
    before = (tmp_path / "trials.csv").read_bytes()
    (tmp_path / "trials.csv.part").symlink_to("/dev/full")
    with pytest.raises(RunFolderError, match=r"cannot write .*trials\.csv: No space left"):
        write_trials(tmp_path, [Trial(0, (1,), (0.25, 2.0))], {})
    assert (tmp_path / "trials.csv").read_bytes() == before
