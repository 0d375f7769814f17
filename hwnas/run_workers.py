"""The workers of a run: they train its trials and its finalists, here or on a cluster."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from hwnas.config import SearchConfig
from hwnas.executors.limits import Limits
from hwnas.executors.processes import ProcessExecutor
from hwnas.executors.ray_cluster import RayCluster
from hwnas.executors.ray_executor import RayExecutor, TrialResources
from hwnas.executors.this_thread import ThisThreadExecutor
from profilers.nvidia import gpu_names

__all__ = ["Workers"]


@dataclass(frozen=True)
class Workers:
    """Where a run trains, how many networks at once, and what each may take.

    Attributes:
        config: How many workers, and their limits.
        n_threads: That a single worker of this machine computes with.
        say: Told in a line which nodes of a cluster come and go.
        cluster: Where they are; None: on this machine.
    """

    config: SearchConfig
    n_threads: int
    say: Callable[[str], None]
    cluster: RayCluster | None = None

    @property
    def n_at_once(self) -> int:
        """How many trainings run beside each other, at least 1."""
        n_workers = self.config.workers
        if n_workers is None and self.cluster is not None:
            n_workers = self.cluster.n_fitting(self._resources(self.cluster).needed)
        return n_workers or 1

    def open(
        self,
        initializer: Callable[[], object],
        *,
        on_progress: Callable[[int, float], None],
        past_s: tuple[float, ...] = (),
        length: float | None = 1.0,
    ) -> Executor:
        """Start them; leaving the `with` block of what is returned ends what they do, at once.

        Args:
            initializer: Called once in each process that trains; picklable.
            on_progress: Called with the number of a training and the share of it that is done, from
                any thread.
            past_s: What whole trainings took in earlier calls of the same run.
            length: Of one training, in whole trainings of trials: the time that a trial may take
                is multiplied by it. None: trials are no trainings, and say nothing of it.
        """
        config = self.config
        if config.workers == 0:
            initializer()
            return ThisThreadExecutor(on_progress=on_progress)
        seconds = None
        if config.trial_seconds is not None and length is not None:
            seconds = length * config.trial_seconds
        limits = Limits(seconds, self._memory_bytes)
        if self.cluster is not None:
            return RayExecutor(
                self.cluster,
                resources=self._resources(self.cluster),
                initializer=initializer,
                limits=limits,
                past_s=past_s,
                on_progress=on_progress,
                say=self.say,
            )
        return ProcessExecutor(
            self.n_at_once,
            initializer=initializer,
            limits=limits,
            n_threads=1 if self.n_at_once > 1 else self.n_threads,
            gpus=gpu_names() if self.n_at_once > 1 else (),
            past_s=past_s,
            on_progress=on_progress,
        )

    @property
    def _memory_bytes(self) -> int | None:
        memory_mb = self.config.trial_memory_mb
        return int(1e6 * memory_mb) if memory_mb else None

    def _resources(self, cluster: RayCluster) -> TrialResources:
        return TrialResources.of(
            cluster, gpus=self.config.gpus_per_trial, memory_bytes=self._memory_bytes
        )
