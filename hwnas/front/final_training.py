"""The long training of finalists, by the workers of the run: each once, whatever ends in between.

`weights/` in the run folder holds `NAME.safetensors` of each that was trained. `NAME.failed` holds
the reason why one has no weights: it raised, diverged or crashed, or met two accidents (a killed
process, memory, a hang). Neither is trained again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from hwnas.baselines import baselines
from hwnas.errors import RunFolderError
from hwnas.evaluators.plan import EvaluatorPlan
from hwnas.evaluators.training import TrainingEvaluator, train_network
from hwnas.executors.errors import AccidentError, ExecutorError, failure_of
from hwnas.executors.progress import report
from hwnas.front.failed_finalists import failure_path, read_failure
from hwnas.front.finalist_weights import (
    load_weights,
    pack_network,
    unpack_network,
    weights_path,
)
from hwnas.front.verify import Trained
from hwnas.networks import Network, begin_as_identity
from hwnas.progress import Progress, Task
from hwnas.run_workers import Workers
from hwnas.spaces.base import Architecture, Genotype, SearchSpace
from hwnas.strategies.base import Trial
from hwnas.supernet.growth import grow

__all__ = ["Finalist", "train_finalists"]


@dataclass(frozen=True)
class Finalist:
    """A network that is worth a long training.

    Attributes:
        name: Of its files, without their ending.
        architecture: What is trained.
        genotype: None: not of the space, but of `hwnas.baselines`.
        kind: `searched` or `baseline`.
        seed: Of its weights and its training.
        parent: Trained before; it starts from the weights of that one. None: from new ones.
    """

    name: str
    architecture: Architecture
    genotype: Genotype | None
    kind: str
    seed: int
    parent: Finalist | None = None


def train_finalists(
    finalists: Sequence[Finalist],
    plan: EvaluatorPlan,
    workers: Workers,
    out: Path,
    progress: Progress,
    *,
    past_s: tuple[float, ...] = (),
    length: float | None = 1.0,
) -> list[Trained]:
    """Train each to the end, as many at once as there are workers, or load what was trained before.

    Weights are kept as they come, so that a kill costs what runs at most. When it returns, or
    raises, no process is left that could disturb a measurement.

    Args:
        finalists: Of one run; a name means the same network in all calls.
        plan: Of a `TrainingEvaluator` with the recipe of the long training.
        workers: Who trains.
        out: The run folder.
        progress: Told how it goes on, and which are left out, and why.
        past_s: What such trainings took before.
        length: Of one, in trainings of trials; None: those are no trainings.

    Returns:
        Those that have weights, in the order of `finalists`.

    Raises:
        RunFolderError: The folder cannot be written.
        ExecutorError: The workers cannot train anything.
    """
    with progress.task("training finalists", len(finalists)) as task:
        one_by_one = _Trainings(finalists, out, task, progress)
        if one_by_one.waiting:
            with workers.open(
                partial(prepare_training, plan),
                on_progress=one_by_one.on_progress,
                past_s=past_s,
                length=length,
            ) as executor:
                one_by_one.run(executor, workers.n_at_once)
    return one_by_one.trained()


@dataclass(frozen=True)
class _Job:
    """What a worker is told of a finalist; it makes the architecture itself.

    `accident` ended its first try; None: it is the first. `parent` and `weights` are what it starts
    from; None: new ones. The others are those of `Finalist`.
    """

    number: int
    name: str
    genotype: Genotype | None
    seed: int
    parent: Genotype | None = None
    weights: bytes = b""
    accident: str | None = None


class _Trainings:
    """The state that the steps of one `train_finalists` share.

    Attributes:
        waiting: What is still to be started.
    """

    def __init__(
        self, finalists: Sequence[Finalist], out: Path, task: Task, progress: Progress
    ) -> None:
        self.waiting: deque[_Job] = deque()
        self._finalists = finalists
        self._out = out
        self._task = task
        self._progress = progress
        self._lock = threading.Lock()  # trainings report from threads of their own
        self._shares: dict[int, float] = {}  # that are done, by number of what runs
        self._n_ended = 0
        self._networks: dict[str, Network] = {}
        for number, finalist in enumerate(finalists):
            network = load_weights(weights_path(out, finalist.name), finalist.architecture)
            failure = read_failure(failure_path(out, finalist.name))
            if network is not None:
                self._networks[finalist.name] = network
                self._end(number, f"{finalist.name} trained before")
            elif failure is not None:
                path = failure_path(out, finalist.name)
                progress.say(
                    f"{finalist.name} is left out, as before: {failure}. Remove {path} to train it"
                )
                self._end(number)
            else:
                self.waiting.append(self._job(number, finalist))

    def trained(self) -> list[Trained]:
        """Those that have weights."""
        return [
            Trained(
                f.name,
                self._networks[f.name],
                f.architecture,
                f.genotype,
                f.kind,
                f.parent.name if f.parent else "",
            )
            for f in self._finalists
            if f.name in self._networks
        ]

    def run(self, executor: Executor, n_at_once: int) -> None:
        """Train all that wait."""
        running: dict[Future[tuple[bytes, float]], _Job] = {}
        try:
            while self.waiting or running:
                while self.waiting and len(running) < n_at_once:
                    job = self.waiting.popleft()
                    with self._lock:
                        self._shares[job.number] = 0.0
                    trial = Trial(job.number, job.genotype or (), None)
                    running[executor.submit(partial(_train, job), trial)] = job
                wait(running, return_when=FIRST_COMPLETED)
                self._settle_ended(running)
        except KeyboardInterrupt:  # what has come is kept
            self._settle_ended(running)
            raise

    def _settle_ended(self, running: dict[Future[tuple[bytes, float]], _Job]) -> None:
        """Keep what came of each that has ended, also if the workers failed with another."""
        failure: ExecutorError | None = None
        for future in [future for future in running if future.done()]:
            try:
                self._settle(running[future], future)
            except ExecutorError as error:
                failure = error
            del running[future]
        if failure is not None:
            raise failure

    def on_progress(self, number: int, share: float) -> None:
        """Show that `share` of a training that runs is done."""
        with self._lock:
            if number in self._shares:  # else it came late
                self._shares[number] = share
                self._show("")

    def _job(self, number: int, finalist: Finalist) -> _Job:
        job, parent = _Job(number, finalist.name, finalist.genotype, finalist.seed), finalist.parent
        if parent is None:
            return job
        path = weights_path(self._out, parent.name)
        try:
            return replace(job, parent=parent.genotype, weights=path.read_bytes())
        except OSError as error:
            raise RunFolderError(
                f"cannot read {path}, from which {finalist.name} starts: {error.strerror or error}"
            ) from None

    def _settle(self, job: _Job, future: Future[tuple[bytes, float]]) -> None:
        """Keep what came of a training."""
        try:
            weights, accuracy = future.result()
        except ExecutorError:
            raise
        except Exception as error:
            self._fail(job, failure_of(error))
            return
        path = weights_path(self._out, job.name)
        _write(path, weights)
        network = load_weights(path, self._finalists[job.number].architecture)
        if network is None:
            raise RunFolderError(f"cannot read {path}, which was just written; see to its disk")
        self._networks[job.name] = network
        self._end(job.number, f"{job.name} {100 * accuracy:.1f} %")

    def _fail(self, job: _Job, failure: Exception) -> None:
        reason = str(failure)
        if isinstance(failure, AccidentError) and job.accident is None:
            self._progress.say(f"{job.name} is trained once more: {reason}")
            self.waiting.appendleft(replace(job, accident=reason))
            return
        if job.accident is not None:
            reason += " (twice)" if job.accident == reason else f" (before that: {job.accident})"
        _write(failure_path(self._out, job.name), reason.encode())
        self._progress.say(f"{job.name} is left out: {reason}")
        self._end(job.number)

    def _end(self, number: int, note: str = "") -> None:
        with self._lock:
            self._shares.pop(number, None)
            self._n_ended += 1
            self._show(note)

    def _show(self, note: str) -> None:
        self._task.update(self._n_ended + sum(self._shares.values()), note=note)


_trainer: TrainingEvaluator | None = None  # of this process


def prepare_training(plan: EvaluatorPlan) -> None:
    """Make this process able to train the finalists of a run."""
    global _trainer
    evaluator = plan.build()
    assert isinstance(evaluator, TrainingEvaluator), plan.evaluator
    _trainer = evaluator


def _train(job: _Job, trial: Trial) -> tuple[bytes, float]:
    """In the process that trains: the content of a file of weights, and the validation accuracy."""
    assert _trainer is not None, "training before it was prepared"
    if job.genotype is None:
        architecture = baselines(_trainer.data)[job.name]
    else:
        architecture = _trainer.space.architecture(job.genotype)
    network, result = train_network(
        architecture,
        _trainer.data,
        _trainer.recipe,
        seed=job.seed,
        start=partial(_start, job, _trainer.space),
        on_progress=report,
    )
    return pack_network(network, architecture), result.validation.accuracy


def _start(job: _Job, space: SearchSpace, network: Network) -> None:
    """Give a new network the weights that it starts from."""
    if job.parent is None or job.genotype is None:
        begin_as_identity(network)
    else:
        parent = unpack_network(job.weights, space.architecture(job.parent))
        if parent is None:
            raise RunFolderError(f"the weights from which {job.name} starts are damaged")
        grow(network, job.genotype, parent, job.parent, space)


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(exist_ok=True)
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}") from None
