"""Trains candidates, of which 40 % meet a fault; which ones, the number of the trial decides."""

import os
import time

import numpy as np
from chaos_log import note

from hwnas.evaluators.training import TrainingEvaluator
from hwnas.search import Evaluation

N_TRIALS = 60
SHARES = {"raise": 0.20, "nan": 0.05, "hang": 0.05, "out of memory": 0.05, "kill": 0.05}
_KINDS = [kind for kind, share in SHARES.items() for _ in range(round(share * N_TRIALS))]
_KINDS += [""] * (N_TRIALS - len(_KINDS))
FAULTS = dict(enumerate(np.random.default_rng(7).permutation(_KINDS).tolist()))


class ChaosEvaluator:
    """Like the evaluator that it holds, but for the faults."""

    def __init__(self, evaluator):
        self.evaluator = evaluator

    def __call__(self, trial):
        note("start", trial.number)
        fault = FAULTS[trial.number]
        if fault == "raise":
            raise ValueError(f"trial {trial.number} does not like to be trained")
        if fault == "nan":
            return Evaluation((float("nan"),))
        if fault == "hang":
            time.sleep(10_000)
        if fault == "out of memory":
            held = []
            while True:
                held.append(bytearray(50_000_000))
        if fault == "kill":
            os.kill(os.getpid(), 9)
        evaluation = self.evaluator(trial)
        note("end", trial.number)
        return evaluation


def evaluator(space, data, recipe, *, seed):
    return ChaosEvaluator(TrainingEvaluator(space, data, recipe, seed=seed))
