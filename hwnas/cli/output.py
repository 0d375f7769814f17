"""How the command line speaks: tables and progress on stderr, results or JSON on stdout."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Table

from hwnas.progress import Task

if TYPE_CHECKING:
    from profilers.store import MeasurementStore

SECONDS_BETWEEN_LINES = 10.0
DEFAULT_MEASUREMENTS = Path("runs") / "measurements.db"

# Options that several commands share.
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, nothing else there.")]
TargetName = Annotated[str, typer.Option("--target", help="Runtime to measure on.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Threads within one kernel.")]
Precision = Annotated[str, typer.Option("--precision", help="Type of the activations.")]
Batch = Annotated[int | None, typer.Option("--batch", min=1, help="Examples in one run.")]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--shape", help="Shape of an input left open, as NAME=1,3,224,224; repeatable."),
]
Measurements = Annotated[
    Path, typer.Option("--measurements", help="Database of measurements, made if it is not there.")
]
DataName = Annotated[
    str,
    typer.Option(
        "--data",
        help="Images: digits, fashion-mnist, folder:PATH; tables: breast-cancer, wine, iris, "
        "csv:PATH; signals: melodies; texts: python-functions, text:PATH; any: npz:PATH, "
        "FILE.py:FUNCTION, MODULE:FUNCTION.",
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="Run the code that the folder names: a space or data of one's own."
    ),
]
DataPath = Annotated[
    Path | None, typer.Option("--data-path", help="Folder or file of the data, if not standard.")
]


@contextmanager
def open_measurements(path: Path, progress: ConsoleProgress) -> Iterator[MeasurementStore]:
    """A measurement database; says so if its measurements are of another machine or state of it.

    Those stay in it, but another device is another target: they are not used for this one.
    """
    from profilers.devices import changes, this_device
    from profilers.store import MeasurementStore

    here = this_device()
    with MeasurementStore(path) as store:
        known = store.devices()
        same = [record for record in known if record["fingerprint"] == here.fingerprint]
        for change in changes((same or known)[-1], here) if known else ():
            progress.say(f"note: since {path} was last written to, {change}")
        yield store


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        RunFolderError: It cannot be written.
    """
    from hwnas.errors import RunFolderError

    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}") from None


def print_json(value: object) -> None:
    """Print plain data on stdout."""
    typer.echo(json.dumps(value, indent=2))


def vars_of(value: Any) -> dict[str, Any]:
    """Fields of a dataclass by name; NaN becomes None, which JSON has."""
    return {k: None if v != v else v for k, v in asdict(value).items()}


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on stdout; numbers stand to the right."""
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    cells = [[_text(cell) for cell in row] for row in rows]
    for i, column in enumerate(columns):
        filled = [row[i] for row in cells if row[i] != "–"]
        numeric = bool(filled) and all(cell[:1].isdigit() or cell[:1] == "-" for cell in filled)
        table.add_column(escape(column), justify="right" if numeric else "left")
    for row in cells:
        table.add_row(*map(escape, row))  # text of files is no markup
    Console().print(table)


def _text(cell: object) -> str:
    if cell is None:
        return "–"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def parse_shapes(texts: Sequence[str] | None) -> dict[str, tuple[int, ...]]:
    """Read `--shape NAME=1,3,224,224` options.

    Raises:
        typer.BadParameter: One is not of that form.
    """
    shapes = {}
    for text in texts or ():
        name, equals, sizes = text.rpartition("=")
        try:
            shapes[name] = tuple(int(size) for size in sizes.replace("x", ",").split(","))
        except ValueError:
            equals = ""
        if not name or not equals:
            raise typer.BadParameter(f"{text!r} is not NAME=1,3,224,224", param_hint="--shape")
    return shapes


class ConsoleProgress:
    """Bars on a terminal, a line every some seconds elsewhere; always on stderr."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)

    def say(self, text: str) -> None:
        """One line that stays."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def task(self, name: str, total: float | None) -> Iterator[Task]:
        """A bar, or lines, for one piece of work."""
        if not self._console.is_terminal:
            yield from self._lines(name, total)
            return
        columns = (
            SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(),
            MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )  # fmt: skip
        with RichProgress(*columns, console=self._console) as progress:
            yield _Bar(progress, progress.add_task(name, total=total, note=""))

    def _lines(self, name: str, total: float | None) -> Iterator[Task]:
        lines = _Lines(self, name, total)
        self.say(f"{name} …")
        yield lines
        self.say(f"{name}: done in {time.monotonic() - lines.start:.0f} s")


class _Bar:
    def __init__(self, progress: RichProgress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        changes: dict[str, Any] = {"completed": done}
        if total is not None:
            changes["total"] = total
        if note:
            changes["note"] = note
        self._progress.update(self._task, **changes)


class _Lines:
    def __init__(self, out: ConsoleProgress, name: str, total: float | None) -> None:
        self._out, self._name, self._total = out, name, total
        self.start = self._last = time.monotonic()

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        self._total = total or self._total
        now = time.monotonic()
        if now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            of = f"/{self._total:g}" if self._total else ""
            self._out.say(f"{self._name}: {done:g}{of} after {now - self.start:.0f} s  {note}")
