"""Searches whose candidates and whose driver are killed lose nothing, and repeat nothing."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hwnas.baselines import baselines
from hwnas.data import load_data
from hwnas.delivery.metadata import read_about
from hwnas.evaluation import evaluate_onnx
from hwnas.evaluators.training import seed_of, train_network
from hwnas.front.finalist_weights import weights_path
from hwnas.front.finalists import choose_finalists, export_again
from hwnas.record import Record
from hwnas.report.explanation import read_explanation
from hwnas.report.write import write_report
from hwnas.spaces.catalog import make_space
from hwnas.strategies import make_strategy
from hwnas.training import default_recipes
from predictors.files import save_predictor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kills processes, reads /proc")
HERE = Path(__file__).parent
LONG_S = 1800.0  # for all trials, on a machine that does other things
ORPHAN_S = 15.0  # a process that has just been started imports torch before it listens


class Driver:
    """The process of a search, with a log of what its workers do."""

    def __init__(self, folder, *arguments):
        folder.mkdir(exist_ok=True)
        self.log = folder / "log.txt"
        self.output = folder / "output.txt"
        self.process = None
        self._n_said = 0  # by earlier starts
        self._arguments = [sys.executable, *map(str, arguments)]
        self._folder = folder

    def start(self):
        self._n_said = self.output.stat().st_size if self.output.exists() else 0
        env = os.environ | {"CHAOS_LOG": str(self.log), "OMP_NUM_THREADS": "1"}
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                self._arguments,
                cwd=self._folder,
                env=env,
                stdout=output,
                stderr=output,
                # Whoever runs this in the background may ignore it.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def kill_when(self, condition, number=signal.SIGKILL, *, later_s=0.0):
        """End it by a signal as soon as `condition` of its log holds; what it started ends too."""
        wait_until(lambda: self.process.poll() is not None or condition(self.lines()), LONG_S)
        time.sleep(later_s)
        assert self.process.poll() is None, self.output.read_text()
        started = {pid for _, _, pid in self.lines()} | children(self.process.pid)
        self.process.send_signal(number)
        self.process.wait(LONG_S)
        for pid in started:
            wait_until(lambda pid=pid: not is_serving(pid), ORPHAN_S)

    def finish(self):
        self.start()
        code = self.process.wait(LONG_S)
        assert code == 0, self.output.read_text()

    def close(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def said(self):
        """What was printed since it was started."""
        return self.output.read_bytes()[self._n_said :].decode()

    def lines(self):
        import chaos_log

        return chaos_log.read(self.log)


@pytest.fixture
def make_driver():
    with ExitStack() as drivers:

        def make(*arguments):
            driver = Driver(*arguments)
            drivers.callback(driver.close)
            return driver

        yield make


def is_serving(pid):
    """Whether such a worker lives; by another name, the number is in use again."""
    try:
        return b"import serve" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def children(pid):
    """Of all threads of a process."""
    found = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return {int(child) for of_thread in found for child in of_thread}


def wait_until(condition, seconds):
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s, "it took too long"
        time.sleep(0.02)


def n_begun(lines):
    return sum(what == "start" for what, _, _ in lines)


def told(path, space):
    with Record.open(path, space, create=False) as record:
        return record.trials()


def check_integrity(path):
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def check_nothing_is_evaluated_after_it_was_told(lines, kills):
    """`kills`: at each, how many lines there were, and what was told by then."""
    for n_lines, numbers in kills:
        again = {number for what, number, _ in lines[n_lines:] if what == "start"}
        assert not again & numbers


def check_proposals(problem, strategy, trials):
    """With one worker, each proposal follows from the trials before it."""
    assert [trial.number for trial in trials] == list(range(len(trials)))
    for trial in trials:
        assert strategy.ask() == trial.genotype
        strategy.tell(trial)


@pytest.mark.parametrize(
    "ends",
    [
        [(signal.SIGKILL, 9)],
        pytest.param([(signal.SIGINT, 3), (signal.SIGTERM, 5)], marks=pytest.mark.slow),
    ],
)
def test_a_search_whose_driver_and_workers_are_killed_ends_as_if_they_had_not_been(
    tmp_path, make_driver, ends
):
    import toy_search

    problem = toy_search.make_problem()
    path = tmp_path / "search.db"
    driver = make_driver(tmp_path, HERE / "toy_search.py", path, 12)
    kills = []
    for number, at in ends:
        (tmp_path / "hold").write_text(str(at))
        driver.start()
        driver.kill_when(lambda lines, at=at: ("start", at) in {line[:2] for line in lines}, number)
        before = told(path, problem.space)
        assert len(before) == at
        kills.append((len(driver.lines()), {trial.number for trial in before}))
    (tmp_path / "hold").unlink()
    driver.finish()
    trials = told(path, problem.space)
    assert trials[: len(before)] == before
    check_proposals(problem, make_strategy("evolution", problem, seed=0), trials)
    check_nothing_is_evaluated_after_it_was_told(driver.lines(), kills)
    check_integrity(path)
    failures = {trial.number: trial.failure for trial in trials if trial.failure}
    assert failures.keys() == {toy_search.RAISES, toy_search.KILLED_ALWAYS}
    assert failures[toy_search.RAISES] == "ValueError: no such layer"
    assert re.match(r"the worker was killed: SIGKILL.*\(twice\)", failures[4])
    assert trials[toy_search.KILLED_ONCE].objectives is not None


@pytest.mark.slow
def test_sixty_trials_with_faults_and_three_kills_are_those_of_a_run_without_kills(
    tmp_path, make_driver, fit_made_up
):
    import chaos_evaluator

    n_trials, rng = chaos_evaluator.N_TRIALS, np.random.default_rng()
    reference = f"{HERE / 'chaos_space.py'}:space"
    space = make_space(reference, (1, 8, 8), 10)
    save_predictor(fit_made_up(space), tmp_path / "predictor.npz")
    command = (
        *("-m", "hwnas", "search", "--data", "digits", "--space", reference),
        *("--evaluator", f"{HERE / 'chaos_evaluator.py'}:evaluator", "--seed", "1"),
        *("--predictor", tmp_path / "predictor.npz", "--measurements", tmp_path / "m.db"),
        *("--trials", n_trials, "--search-epochs", "0.5", "--final-epochs", "0.5"),
        *("--finalists", "2", "--trial-seconds", "15", "--trial-memory-mb", "1500"),
        *("--out", "run"),
    )
    killed = make_driver(tmp_path / "killed", *command)
    path = tmp_path / "killed" / "run" / "study.db"
    kills = []
    for part in range(3):
        at = int(rng.integers(2 + 19 * part, 19 * (part + 1)))
        killed.start()
        killed.kill_when(
            lambda lines, at=at: any(number >= at for _, number, _ in lines),
            later_s=rng.uniform(0.0, 1.0),
        )
        kills.append((len(killed.lines()), {trial.number for trial in told(path, space)}))
        print(f"killed when trial {at} had begun, with {len(kills[-1][1])} trials told")
    killed.finish()
    whole = make_driver(tmp_path / "whole", *command)
    whole.finish()

    trials = told(path, space)
    assert trials == told(tmp_path / "whole" / "run" / "study.db", space)
    assert [trial.number for trial in trials] == list(range(n_trials))
    check_integrity(path)
    check_nothing_is_evaluated_after_it_was_told(killed.lines(), kills)
    words = {
        "": None,
        "raise": "ValueError: .*",
        "nan": "objectives are not finite.*",
        "hang": r"hung: no result in 15 s \(twice\)",
        "out of memory": r"out of memory: it held over 1,500 MB \(twice\)",
        "kill": r"the worker was killed: SIGKILL.*\(twice\)",
    }
    for trial in trials:
        pattern = words[chaos_evaluator.FAULTS[trial.number]]
        if pattern is None:
            assert trial.failure is None
        else:
            assert re.fullmatch(pattern, trial.failure), trial.failure
    table = pd.read_csv(tmp_path / "killed" / "run" / "trials.csv")
    assert len(table) == n_trials and (table["state"] == "failed").sum() == 24
    print(f"{n_begun(killed.lines())} evaluations of {n_trials} trials with three kills")
    print(f"{n_begun(whole.lines())} evaluations without: accidents are tried twice")


# By step after the trials, how to see that it has begun, and in how many seconds the kill comes.
STEPS = {
    "finalists are trained": (lambda run, said: bool(trained(run)), 2.0),
    "the front is measured": (lambda run, said: "measuring in turns" in said, 8.0),
    "forms are made": (lambda run, said: any((run / "forms").glob("*.onnx")), 3.0),
    "it is explained": (lambda run, said: (run / "forms.csv").exists(), 0.3),
}
FILES = {
    *("config.toml", "config.toml.lock", "predictor.npz", "study.db", "study.db.lock"),
    *("trials.csv", "verified.json", "candidates.csv", "front.csv", "forms.csv"),
    *("predict.py", "explanation.json", "report.html"),
}
FORMS = ("int8", "dynamic-batch", "raw", "int8.raw", "dynamic-batch.raw")
N_FINALISTS = 2


@pytest.mark.slow
def test_kills_in_all_steps_after_the_trials_lose_nothing_and_leave_nothing_behind(
    tmp_path, make_driver, fit_made_up
):
    rng = np.random.default_rng()
    reference = f"{HERE / 'chaos_space.py'}:space"
    space = make_space(reference, (1, 8, 8), 10)
    save_predictor(fit_made_up(space), tmp_path / "predictor.npz")
    driver = make_driver(
        tmp_path,
        *("-m", "hwnas", "search", "--data", "digits", "--space", reference, "--seed", "1"),
        *("--predictor", tmp_path / "predictor.npz", "--measurements", tmp_path / "m.db"),
        *("--trials", "4", "--search-epochs", "0.5", "--final-epochs", "1"),
        *("--finalists", N_FINALISTS, "--dynamic-batch", "--raw-input", "--out", "run"),
    )
    run = tmp_path / "run"
    done, trials = {}, None
    for step, (has_begun, within_s) in STEPS.items():
        later_s = rng.uniform(0.0, within_s)
        driver.start()
        driver.kill_when(
            lambda _, has_begun=has_begun: has_begun(run, driver.said()), later_s=later_s
        )
        print(f"killed while {step}, {later_s:.1f} s after that had begun")
        before, done = done, finished(run)
        assert before.items() <= done.items()
        trials = trials or told(run / "study.db", space)
    driver.finish()
    assert done.items() <= finished(run).items()
    assert told(run / "study.db", space) == trials and len(trials) == 4
    check_accuracies(run, space, trials)
    check_delivered(run)
    check_readers(run, tmp_path)
    check_integrity(run / "study.db")
    check_integrity(tmp_path / "m.db")


def trained(run):
    """Weights that are whole."""
    return [path for path in run.glob("weights/*") if path.suffix != ".part"]


def finished(run):
    """What is never made again, by its path: weights, measurements of the front, judged forms."""
    paths = [*trained(run), *run.glob("verified.json")]
    for path in run.glob("forms/*.onnx"):
        if "accuracy" in read_about(path):
            paths.append(path)
    return {path.relative_to(run): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def check_accuracies(run, space, trials):
    """Without a budget the trials alone decide who is trained to the end, and training is exact."""
    data = load_data("digits")
    recipe = replace(default_recipes(data)[1], epochs=1)
    candidates = pd.read_csv(run / "candidates.csv").set_index("name")
    finalists = {f"t{trial.number:03d}": trial for trial in choose_finalists(trials, N_FINALISTS)}
    assert set(candidates.index) == {*finalists, *baselines(data)}
    for name, trial in finalists.items():
        seed = seed_of(1, trial.number)
        _, result = train_network(space.architecture(trial.genotype), data, recipe, seed=seed)
        found = candidates.loc[name]
        assert found["val_accuracy"] == pytest.approx(result.validation.accuracy, abs=0.003)
        test = evaluate_onnx(run / found["onnx"], data, split="test")
        assert found["test_accuracy"] == test.accuracy


def check_delivered(run):
    """Every file is there, as a whole, and nothing else."""
    candidates, front, forms = (
        pd.read_csv(run / f"{name}.csv") for name in ("candidates", "front", "forms")
    )
    names = list(front["name"])
    assert list(zip(forms["name"], forms["form"], strict=True)) == [
        (name, form) for name in names for form in FORMS
    ]
    assert forms[["val_accuracy", "test_accuracy", "latency_ms"]].notna().all(axis=None)
    models = {*candidates["onnx"], *forms["onnx"]}
    cards = {f"front/{name}.md" for name in names}
    weights = {f"weights/{weights_path(run, name).name}" for name in candidates["name"]}
    files = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert files == FILES | models | cards | weights
    Image.fromarray(np.full((8, 8), 9, np.uint8)).save(run.parent / "example.png")
    for model in models:
        found = subprocess.run(
            [sys.executable, run / "predict.py", run / model, "example.png"],
            cwd=run.parent,
            capture_output=True,
            text=True,
        )
        assert found.stdout.startswith("example.png: "), found.stderr
    for card in cards:
        assert (run / card).read_text().strip()


def check_readers(run, elsewhere):
    """What reads a run folder afterwards."""
    members = {member.name for member in read_explanation(run).members}
    front = pd.read_csv(run / "front.csv")
    assert members == set(front["name"])
    page = (run / "report.html").read_text()
    assert page.rstrip().endswith("</html>") and "has not come to its end" not in page
    write_report(run)
    assert (run / "report.html").read_text() == page
    again = elsewhere / "again.onnx"
    assert export_again(run, front["name"][0], again, batch=2, trust=True) <= 1e-4
