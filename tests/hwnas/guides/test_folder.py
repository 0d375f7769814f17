import json
from dataclasses import replace

import pytest

from hwnas.errors import RunFolderError
from hwnas.guides import folder as module
from hwnas.guides.folder import learned_guide
from hwnas.strategies.guide import Guide
from hwnas.training import Recipe

RECIPE = Recipe(epochs=1.0, batch_size=16)


@pytest.fixture
def learn(tmp_path, make_problem, images):
    """Learn, or read, the guide of a folder."""

    def call(name="spos", problem=None, recipe=RECIPE, **changes):
        given = {"n_trials": 4, "seed": 0} | changes
        problem = problem or make_problem()
        return learned_guide(tmp_path / "guide", name, problem, images, recipe, **given)

    return call


@pytest.fixture
def lessons(monkeypatch):
    """What was learned from; guides are made up."""
    seen = []

    def note(name, lesson):
        seen.append(lesson)
        return Guide(((0, 0, 0),), (len(seen) / 10,))

    monkeypatch.setattr(module, "learn_guide", note)
    return seen


def test_a_guide_is_learned_once(learn, lessons, tmp_path):
    first = learn()
    assert learn() == learn(n_trials=40, seconds=1.0) == first  # trials and time may grow
    assert len(lessons) == 1
    assert json.loads((tmp_path / "guide" / "guide.json").read_text())["errors"] == [0.1]


def test_by_itself_it_costs_half_of_what_the_trials_would(learn, lessons):
    learn(n_trials=30, recipe=replace(RECIPE, epochs=0.5))
    assert lessons[0].recipe.epochs == 7.5
    learn(epochs=3.0)
    assert lessons[1].recipe.epochs == 3.0


def test_less_time_means_fewer_epochs(learn, lessons, monkeypatch):
    # Ten milliseconds a step, 13 with shared weights; 12 steps an epoch of 192 examples.
    class Result:
        train_seconds, n_steps = 0.5, 50

    monkeypatch.setattr(module, "train_network", lambda *given, **options: (None, Result))
    learn(n_trials=1000, seconds=6.0)
    assert lessons[0].recipe.epochs == pytest.approx(6.0 / (12 * 0.013))
    learn(n_trials=10, seconds=6.0, seed=1)
    assert lessons[1].recipe.epochs == 5.0


def test_time_is_measured_on_networks_of_the_space(learn, lessons):
    learn(n_trials=100_000, seconds=1.0)
    assert 0 < lessons[0].recipe.epochs < 50_000


class Clock:
    """Made-up time, which a made-up learner spends: so long before its first report, then for each
    epoch, and for each of 100 reports at least a hundredth of a second."""

    def __init__(self):
        self.now, self.before, self.epochs = 0.0, 0.0, []

    def learn(self, name, lesson):
        self.epochs.append(lesson.recipe.epochs)
        self.now += self.before
        for step in range(1, 101):
            self.now += max(lesson.recipe.epochs / 10, 0.01)
            lesson.on_progress(step / 100)
        return Guide(((0, 0, 0),), (0.5,))


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(module, "learn_guide", found.learn)
    monkeypatch.setattr(module.time, "monotonic", lambda: found.now)
    monkeypatch.setattr(module, "_affordable_epochs", lambda *given: 10.0)
    return found


def test_a_lesson_that_would_take_too_long_begins_anew(learn, clock, tmp_path):
    seen, said = [], []
    learn(n_trials=100, seconds=20.0, on_progress=seen.append, say=said.append)
    # Ten epochs would take 100 s: known after 2 of 20; 1.8 epochs fit into the rest.
    assert clock.epochs == [10.0, pytest.approx(1.8, rel=0.02)]
    assert clock.now == pytest.approx(20.0, rel=0.05)
    assert seen[-1] == 1.0 and seen.count(0.01) == 2
    assert len(said) == 1 and "begins anew, with 1.8 epochs instead of 10" in said[0]
    assert json.loads((tmp_path / "guide" / "plan.json").read_text())["epochs"] == clock.epochs[1]


def test_what_comes_before_the_first_report_is_no_measure_of_the_rest(learn, clock):
    clock.before = 30.0
    learn(n_trials=100, seconds=130.0)
    assert clock.epochs == [10.0]


def test_a_lesson_that_cannot_be_short_enough_is_learned(learn, clock):
    learn(n_trials=100, seconds=0.01)
    assert len(clock.epochs) == 3 and clock.epochs[-1] < 1e-4


def test_a_lesson_is_not_begun_anew_when_half_of_it_is_done(learn, clock, monkeypatch):
    def slow_end(name, lesson):
        clock.epochs.append(lesson.recipe.epochs)
        for step in range(1, 101):
            clock.now += 0.1 if step < 60 else 10.0
            lesson.on_progress(step / 100)
        return Guide(((0, 0, 0),), (0.5,))

    monkeypatch.setattr(module, "learn_guide", slow_end)
    learn(n_trials=100, seconds=20.0)
    assert clock.epochs == [10.0]


def test_a_lesson_goes_on_if_its_length_was_asked_for_or_is_no_problem(learn, clock):
    learn(epochs=10.0, n_trials=100, seconds=20.0)
    learn(seconds=90.0, n_trials=100, seed=1)  # 100 s are little more
    assert clock.epochs == [10.0, 10.0]


def test_a_lesson_that_was_stopped_is_watched_when_it_goes_on(learn, clock):
    def stop(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(n_trials=100, seconds=20.0, on_progress=stop)
    learn(n_trials=100, seconds=20.0)
    assert clock.epochs[:2] == [10.0, 10.0] and clock.epochs[2] == pytest.approx(1.8, rel=0.02)


@pytest.mark.parametrize(
    "change",
    [{"name": "ofa"}, {"seed": 1}, {"epochs": 2.0}, {"recipe": replace(RECIPE, learning_rate=0.1)}],
)
def test_another_guide_is_learned_for_another_search(learn, lessons, change):
    assert learn() != learn(**change)
    assert len(lessons) == 2


def test_another_budget_is_another_guide(learn, lessons, make_problem):
    assert learn() != learn(problem=make_problem(limit_ms=4.0))


def test_a_killed_learning_goes_on_and_ends_as_if_it_had_not_been(learn, tmp_path):
    whole = learn(name="ofa", epochs=4.0)
    path = tmp_path / "guide"
    for name in ("guide.json", "supernet.safetensors", "plan.json"):
        (path / name).unlink()

    def stop(share):
        if share > 0.3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(name="ofa", epochs=4.0, on_progress=stop)
    assert (path / "supernet.safetensors").exists() and not (path / "guide.json").exists()
    shares = []
    assert learn(name="ofa", epochs=4.0, on_progress=shares.append) == whole
    assert shares[0] > 0.3  # not from the start


def test_compiling_is_for_single_networks(learn, lessons):
    learn(recipe=replace(RECIPE, ema_decay=0.9, compile=True))
    assert lessons[0].recipe.ema_decay == 0.9 and not lessons[0].recipe.compile


@pytest.mark.parametrize("text", ["{", "[]", '{"ranked": [[9, 9, 9]]}', '{"ranked": 1}'])
def test_a_damaged_guide_is_told(learn, lessons, tmp_path, text):
    learn()
    (tmp_path / "guide" / "guide.json").write_text(text)
    with pytest.raises(RunFolderError, match="cannot read .*guide.json.*Remove it"):
        learn()


def test_a_folder_that_cannot_be_written_is_told(learn, lessons, tmp_path):
    (tmp_path / "guide").write_text("a file")
    with pytest.raises(RunFolderError, match="cannot"):
        learn()
