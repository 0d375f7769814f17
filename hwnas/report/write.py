"""`report.html`: one page, written from the files of a run folder, that opens without a network."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from hwnas.errors import RunFolderError
from hwnas.report.choices import choices_sections
from hwnas.report.data import RunData, best, number, percent, records
from hwnas.report.html import side_by_side
from hwnas.report.members import forms_section, front_section, members_section, time_section
from hwnas.report.page import Hints, report_page
from hwnas.report.read import FRONT, read_run
from hwnas.report.sections import (
    failures_section,
    others_section,
    pareto_section,
    prediction_section,
    progress_section,
    record_section,
    reproduce_section,
    trials_section,
)


def write_report(folder: Path, *, storage: str | None = None) -> Path:
    """Write `report.html` into a run folder, from its files and, where one was given, its database.

    An interrupted run gives a page of what is there so far, and says so. The same files give the
    same page.

    Args:
        folder: Of the run.
        storage: As `read_run` takes it.

    Raises:
        RunFolderError: If it is no run folder, a file in it cannot be read or written, or its
            trials are in a database that cannot be read.
    """
    run = read_run(folder, storage=storage)
    title = headline(run)
    hints = Hints()
    parts = (
        _header(run, title),
        _cards(run),
        *(f'<p class="note" role="note">{escape(note)}</p>' for note in notes(run)),
        pareto_section(run, hints),
        front_section(run),
        members_section(run),
        time_section(run, hints),
        side_by_side(
            [
                part
                for part in (prediction_section(run, hints), progress_section(run, hints))
                if part
            ]
        ),
        choices_sections(run),
        forms_section(run),
        others_section(run),
        failures_section(run),
        record_section(run),
        reproduce_section(run),
        trials_section(run),
    )
    path = folder / "report.html"
    half = path.with_name(f"{path.name}.part")
    try:
        body = "\n".join(part for part in parts if part)
        half.write_text(report_page(title, body, hints), encoding="utf-8")
        half.replace(path)
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error}") from error
    return path


def headline(run: RunData) -> str:
    """The result of the run in one sentence; networks are picked by validation accuracy."""
    within = "" if run.budget_ms is None else f" within {number(run.budget_ms, 'ms')}"
    if not run.front.empty:
        text = (
            f"{_count(len(run.front), 'network')}{within} on {run.device}; "
            f"best {_test_result(best(run.front), 'test accuracy')}"
        )
        if not run.baselines.empty:
            text += f"; hand-made baseline {_test_result(best(run.baselines))}"
        return text
    if FRONT not in run.missing:
        measured = run.removed.dropna(subset=["latency_ms"])
        nearest = "" if measured.empty else number(measured["latency_ms"].min(), "ms")
        text = f"No network{within} on {run.device} held in verification"
        return text + (f"; the fastest that was measured needs {nearest}" if nearest else "")
    if run.complete.empty:
        return f"No front yet on {run.device}, and no complete trial"
    leader = best(run.complete)
    return (
        f"No front yet on {run.device}; the best of {_count(len(run.complete), 'trial')} so far: "
        f"{percent(leader['val_accuracy'])} validation accuracy after short training, "
        f"predicted {number(leader['predicted_latency_ms'], 'ms')}"
    )


def notes(run: RunData) -> list[str]:
    """What a reader must know before trusting the page."""
    result = []
    if run.missing:
        result.append(
            f"The run has not come to its end, or its folder is not complete: there is no "
            f"{', no '.join(run.missing)}. This page shows what there is."
        )
    asked = run.table("search").get("trials")
    if isinstance(asked, int) and len(run.trials) < asked:
        result.append(f"The record holds {len(run.trials)} of the {asked} trials asked for.")
    if run.unread:
        result.append(f"There may be trials that are not shown: {run.unread}.")
    over = run.front[run.front["meets_budget"].str.lower() == "false"]
    if not over.empty:
        result.append(f"Listed on the front, but over a budget: {', '.join(over['name'])}.")
    return result


def _header(run: RunData, title: str) -> str:
    search, target = run.table("search"), run.table("target")
    budgets = search.get("budgets")
    facts = (
        ("data", search.get("data")),
        ("space", search.get("space")),
        ("budget", ", ".join(map(str, budgets)) if isinstance(budgets, list) else budgets),
        ("strategy", search.get("strategy")),
        ("runtime", f"{target.get('runtime', '')} {target.get('version', '')}".strip()),
        ("threads", target.get("threads")),
        ("precision", target.get("precision")),
        ("batch", target.get("batch")),
    )
    known = "".join(
        f"<li>{escape(name)} <b>{escape(str(value))}</b></li>"
        for name, value in facts
        if value not in (None, "")
    )
    return (
        '<header><p class="eyebrow">hwnas · hardware-aware architecture search</p>'
        f'<h1>{_unbroken(escape(title))}</h1><ul class="facts">{known}</ul></header>'
    )


def _unbroken(text: str) -> str:
    """The text with units kept on the line of their numbers."""
    return re.sub(r"(?<=\d) (?=ms|%|×)", "\u00a0", text)


def _cards(run: RunData) -> str:
    """The few numbers that a reader came for."""
    cards: list[tuple[str, str]] = []
    if not run.front.empty:
        leader = best(run.front)
        cards.append((f"{len(run.front)}", "on the front: trained, exported, measured"))
        cards.append((percent(leader["test_accuracy"]), f"test accuracy of {leader['name']}"))
        cards += _against_baseline(run)
    if not run.predicted.empty:
        error = percent(run.predicted["error"].mean())
        cards.append((error, f"mean error of {_count(len(run.predicted), 'predicted latency')}"))
    if not run.trials.empty and len(cards) < 4:
        cards.append((f"{len(run.complete)}", f"complete trials, {len(run.failed)} failed"))
    boxes = (
        f'<div class="card"><b>{escape(value)}</b><span class="soft">{escape(text)}</span></div>'
        for value, text in cards
    )
    return f'<div class="cards">{"".join(boxes)}</div>' if cards else ""


def _against_baseline(run: RunData) -> list[tuple[str, str]]:
    """The fastest member that is no worse than the best baseline on validation data."""
    if run.baselines.empty:
        return []
    made = best(run.baselines)
    rivals = run.front[run.front["val_accuracy"] >= made["val_accuracy"]]
    if rivals.empty or not made["latency_ms"] > 0:
        return []
    fast = records(rivals.nsmallest(1, "latency_ms"))[0]
    times = number(made["latency_ms"] / fast["latency_ms"], digits=2)
    return [
        (f"{times}×", f"speed of {made['name']}, at no lower validation accuracy: {fast['name']}")
    ]


def _test_result(row: dict[str, object], noun: str = "") -> str:
    accuracy = f"{percent(row['test_accuracy'])} {noun}".rstrip()
    return f"{accuracy} at {number(row['latency_ms'], 'ms')}"


def _count(n: int, noun: str) -> str:
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{n} {noun if n == 1 else plural}"
