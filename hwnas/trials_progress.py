"""What a search says while its trials run, as one bar and a few lines."""

from __future__ import annotations

import threading

from hwnas.progress import Progress, Task
from hwnas.search import SearchEvent
from hwnas.strategies.base import Trial

__all__ = ["TrialsProgress"]


class TrialsProgress:
    """Shows how far the trials are, those that run beside each other too.

    Args:
        task: The bar; it counts whole trainings.
        progress: Where lines go that stay.
        n_workers: Trials that run at once; with several the bar says how far each is.
    """

    def __init__(self, task: Task, progress: Progress, *, n_workers: int = 1) -> None:
        self._task = task
        self._progress = progress
        self._shows_each = n_workers > 1
        self._lock = threading.Lock()  # trials report from threads of their own
        self._n_spent = 0.0
        self._shares: dict[int, float] = {}  # of the training, by number of what runs
        self._done: dict[int, float] = {}  # of that, how much is done

    def on_event(self, event: SearchEvent) -> None:
        """Show what the search says."""
        note, trial = "", event.trial
        with self._lock:
            self._n_spent = event.n_spent
            if trial is not None and event.kind in ("started", "retried"):
                self._shares[trial.number], self._done[trial.number] = trial.share, 0.0
            if trial is not None and event.kind == "told":
                self._shares.pop(trial.number, None)
                self._done.pop(trial.number, None)
                note = _note(trial)
            self._update(note)
        if event.kind == "replayed" and event.n_told:
            self._progress.say(f"resuming: {event.n_told} trials are in the record")
        if event.kind == "retried" and trial is not None:
            self._progress.say(f"#{trial.number} is tried once more: {trial.failure}")

    def on_progress(self, number: int, share: float) -> None:
        """Show that `share` of a running trial is done."""
        with self._lock:
            if number in self._done:
                self._done[number] = share
                self._update("")

    def _update(self, note: str) -> None:
        n_running = sum(self._shares[number] * share for number, share in self._done.items())
        if self._shows_each and self._done:
            each = ", ".join(f"#{n} {100 * share:.0f} %" for n, share in sorted(self._done.items()))
            note = f"{each}  {note}".strip()
        self._task.update(self._n_spent + n_running, note=note)


def _note(trial: Trial) -> str:
    if trial.objectives is None:
        return f"#{trial.number} failed: {trial.failure}"
    error, latency_ms = trial.objectives
    return f"#{trial.number} {100 * (1 - error):.1f} % at {latency_ms:.4g} ms predicted"
