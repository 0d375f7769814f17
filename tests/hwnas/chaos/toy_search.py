"""A search of a second, whose candidates fail in some ways: `python toy_search.py DATABASE N`."""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from chaos_log import note

from hwnas.executors.processes import ProcessExecutor
from hwnas.record import Record
from hwnas.search import Evaluation, search
from hwnas.spaces.base import Choice, SearchSpace
from hwnas.strategies import Problem, make_strategy
from hwnas.strategies.base import Costs

RAISES, KILLED_ALWAYS, KILLED_ONCE = 2, 4, 7


@dataclass(frozen=True)
class Layer:
    width: int
    depth: int

    def build(self, in_shape):
        raise NotImplementedError


def make_problem():
    space = SearchSpace(
        name="toy",
        choices=(Choice("width", tuple(range(1, 13))), Choice("depth", tuple(range(1, 13)))),
        input_shape=lambda options: (4,),
        slots=(lambda options: Layer(options["width"], options["depth"]),),
    )

    def predict(genotypes):
        latency_ms = 0.01 * (1.0 + genotypes[:, 0] + 3 * genotypes[:, 1])
        ones = np.ones(len(genotypes), dtype=np.int64)
        return Costs(latency_ms, latency_ms, latency_ms, ones.astype(float), ones, ones)

    return Problem(space, predict)


def evaluate(trial):
    note("start", trial.number)
    folder = Path(os.environ["CHAOS_LOG"]).parent
    while (folder / "hold").exists() and int((folder / "hold").read_text()) == trial.number:
        time.sleep(0.02)
    if trial.number == RAISES:
        raise ValueError("no such layer")
    once = folder / "killed-once"
    if trial.number == KILLED_ALWAYS or (trial.number == KILLED_ONCE and not once.exists()):
        if trial.number == KILLED_ONCE:
            once.touch()
        os.kill(os.getpid(), 9)
    note("end", trial.number)
    return Evaluation((1.0 / (1.0 + trial.genotype[0] * trial.genotype[1]),))


def main(database, n_trials):
    problem = make_problem()
    with Record.open(database, problem.space, create=True) as record, ProcessExecutor() as executor:
        strategy = make_strategy("evolution", problem, seed=0)
        search(problem, strategy, evaluate, record, n_trials=n_trials, executor=executor)


if __name__ == "__main__":
    import toy_search  # workers know it by this name

    toy_search.main(Path(sys.argv[1]), int(sys.argv[2]))
