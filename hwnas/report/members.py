"""The report's sections about the front's members: numbers, time, architecture, quantized twins."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from hwnas.drawing import layers_svg
from hwnas.errors import RunFolderError
from hwnas.report.data import (
    RunData,
    measured_text,
    number,
    percent,
    records,
    with_interval,
)
from hwnas.report.explanation import EXPLANATION, MemberTime
from hwnas.report.html import Bar, Markup, bars, section, table
from hwnas.report.page import N_KINDS, Hints

DRAWING_WIDTHS = (600, 350)  # of the drawing in pixels, for wide and for narrow screens

NETWORK_COLUMNS = (
    "Val. accuracy",
    "Test accuracy",
    "Measured (ms)",
    "Predicted (ms) [low, high]",
    "Slack to budget",
    "Params",
    "MACs",
    "Peak memory (kB), predicted",
    "ONNX − PyTorch, max",
)


def front_section(run: RunData) -> str:
    """The members of the front: numbers, files, choices."""
    if run.front.empty:
        return ""
    members = records(run.front)
    rows = [(_link(row), *network_cells(run, row)) for row in members]
    return section(
        "The front",
        table(
            "Members by rising latency; the name opens the ONNX file, the row shows the member "
            "below. Slack is the part of the latency budget that is left. Last column: largest "
            "difference of the outputs.",
            ("Network", *NETWORK_COLUMNS),
            rows,
            member_of=range(len(rows)),
        ),
    )


def time_section(run: RunData, hints: Hints) -> str:
    """Where the time of each member goes, by kind of kernel."""
    if run.explanation is None or not run.explanation.members:
        return ""
    members = run.explanation.members
    kinds = _kinds_by_time(members)
    color = {kind: min(i, N_KINDS - 1) for i, kind in enumerate(kinds)}
    longest_ms = max(_kernels_ms(member) for member in members) or 1.0
    places = {name: place for place, name in enumerate(run.front["name"])}
    lanes = []
    for member in members:
        total_ms = _kernels_ms(member)
        pieces = "".join(
            f'<i style="width:{100 * kind.latency_ms / longest_ms:.2f}%;'
            f'background:var(--k{color[kind.kind]})"'
            f"{hints(_kind_hint(member, kind.kind, kind.n_kernels, kind.latency_ms))}></i>"
            for kind in sorted(member.kinds, key=lambda kind: kinds.index(kind.kind))
        )
        place = places.get(member.name)
        chooses = "" if place is None else f' data-member="{place}"'
        lanes.append(
            f'<div class="lane"{chooses}><span>{escape(member.name)}</span>'
            f'<div class="track">{pieces}</div><span>{number(1e3 * total_ms, "µs")}</span></div>'
        )
    legend = "".join(
        f'<li><span class="swatch" style="background:var(--k{i})"></span>{escape(name)}</li>'
        for i, name in enumerate(_legend_names(kinds))
    )
    text = (
        "Predicted time of the kernels that the runtime makes of each member, by kind. What a run "
        "takes beside them is not in the bars."
    )
    return section(
        "Where the time goes",
        f'<p>{text}</p><ul class="legend">{legend}</ul><div class="lanes">{"".join(lanes)}</div>',
    )


def members_section(run: RunData) -> str:
    """Each member in detail, one at a time where scripts run."""
    if run.front.empty:
        return ""
    rows = records(run.front)
    tabs = "".join(
        f'<button type="button" data-member="{place}" aria-pressed="false">{escape(row["name"])}'
        f"</button>"
        for place, row in enumerate(rows)
    )
    first = int(run.front["val_accuracy"].fillna(-1.0).argmax())
    articles = "".join(_member(run, row, place, place == first) for place, row in enumerate(rows))
    return section(
        "A member in detail",
        f'<div class="tabs" role="group" aria-label="Members">{tabs}</div>{articles}',
    )


def forms_section(run: RunData) -> str:
    """Further files of the networks: quantized, in 16 bits, for any batch, with preprocessing."""
    if run.forms.empty:
        return ""
    networks = {row["name"]: row for row in records(run.networks)}
    rows = []
    for form in records(run.forms):
        network = networks.get(form["name"])
        before = math.nan if network is None else network["val_accuracy"]
        rows.append(
            (
                _link(form),
                form["form"],
                form["verdict"] or "–",
                percent(form["val_accuracy"]),
                _points(form["val_accuracy"] - before),
                percent(form["test_accuracy"]),
                number(form["latency_ms"]),
                _times(form),
                number(form["n_bytes"] / 1e3),
            )
        )
    return section(
        "Other forms of the networks",
        table(
            "Speed is against the fp32 form, measured in the same rounds where the run says so; "
            "the change of the validation accuracy is in points.",
            (
                "Network",
                "Form",
                "Verdict",
                "Val. accuracy",
                "Change",
                "Test accuracy",
                "Measured (ms)",
                "Speed",
                "Size (kB)",
            ),
            rows,
            n_text=3,
        ),
    )


def network_cells(run: RunData, row: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of `NETWORK_COLUMNS`."""
    return (
        percent(row["val_accuracy"]),
        percent(row["test_accuracy"]),
        measured_text(row),
        with_interval(row),
        slack_text(run, row),
        integer(row["params"]),
        integer(row["macs"]),
        _peak_memory(row),
        _parity(row),
    )


def slack_text(run: RunData, row: Mapping[str, Any]) -> str:
    """The part of the latency budget that a network leaves, as the run says or else computed."""
    slack = row["slack"]
    if math.isnan(slack) and run.budget_ms is not None:
        slack = 1 - row["latency_ms"] / run.budget_ms
    return percent(slack).replace("-", "−")


def integer(value: float) -> str:
    """A count with its digits grouped; an en dash for none."""
    return "–" if math.isnan(value) else f"{value:,.0f}"


def _member(run: RunData, row: Mapping[str, Any], place: int, is_first: bool) -> str:
    facts = (
        ("Measured", f"{measured_text(row)} ms"),
        ("Predicted", f"{with_interval(row)} ms"),
        ("Slack to the budget", slack_text(run, row)),
        ("Validation accuracy", percent(row["val_accuracy"])),
        ("Test accuracy", percent(row["test_accuracy"])),
        ("Parameters", integer(row["params"])),
        ("MACs", integer(row["macs"])),
        ("Peak memory (predicted)", f"{_peak_memory(row)} kB"),
        ("ONNX − PyTorch, max", _parity(row)),
        *((form["form"], _form_text(row, form)) for form in _forms_of(run, row)),
        ("File", _link(row, row["onnx"])),
    )
    listed = "".join(
        f"<dt>{escape(name)}</dt><dd>{value if isinstance(value, Markup) else escape(value)}</dd>"
        for name, value in facts
        if value.split(" ")[0] not in ("", "–")
    )
    found = None if run.explanation is None else run.explanation.member(row["name"])
    choices = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(option)}</dd>"
        for name, option in run.options(row["genotype"]).items()
    )
    if found is None:
        left, right = "", f"<h3>Choices</h3><dl>{choices}</dl>" if choices else ""
    else:
        left = _kinds(found)
        left += f"<details><summary>Choices</summary><dl>{choices}</dl></details>"
        right = _drawing(found)
    return (
        f'<article class="member" data-member="{place}"{" data-first" if is_first else ""}>'
        f"<div><h3>{escape(row['name'])}</h3><dl>{listed}</dl>{left}</div>"
        f"<div>{right}</div></article>"
    )


def _kinds(member: MemberTime) -> str:
    total_ms = _kernels_ms(member) or 1.0
    rows = [
        Bar(
            f"{kind.n_kernels} × {kind.kind}",
            (kind.latency_ms / total_ms,),
            number(1e3 * kind.latency_ms, "µs"),
            _share_text(kind.latency_ms / total_ms),
        )
        for kind in member.kinds
    ]
    beside = f"{1e3 * member.overhead_ms:.3g} µs".replace("-", "−")
    rows.append(Bar("beside the kernels", (), beside))
    return f"<h4>Predicted time by kind of kernel</h4>{bars(rows)}"


def _drawing(member: MemberTime) -> str:
    """The architecture as pictures: in them no script runs, and their styles stay in them."""
    try:
        wide, narrow = (
            layers_svg(member.layers, in_shape=member.in_shape, title=member.name, width=width)
            for width in DRAWING_WIDTHS
        )
    except ValueError as error:
        raise RunFolderError(f"{EXPLANATION} describes no network: {error}") from None
    if any(layer.edges for layer in member.layers):
        return f'<div class="scroll">{_image(wide, member.name)}</div>'
    return (
        f'<picture><source media="(max-width: 599px)" srcset="{_data(narrow)}">'
        f"{_image(wide, member.name)}</picture>"
    )


def _image(drawing: str, name: str) -> str:
    return (
        f'<img src="{_data(drawing)}" alt="Blocks of {escape(name)}" width="{DRAWING_WIDTHS[0]}">'
    )


def _data(drawing: str) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(drawing.encode()).decode()}"


def _kinds_by_time(members: Sequence[MemberTime]) -> list[str]:
    """All kinds, those of most time first."""
    total: dict[str, float] = {}
    for member in members:
        for kind in member.kinds:
            total[kind.kind] = total.get(kind.kind, 0.0) + kind.latency_ms
    return sorted(total, key=lambda kind: -total[kind])


def _legend_names(kinds: Sequence[str]) -> list[str]:
    if len(kinds) <= N_KINDS:
        return list(kinds)
    return [*kinds[: N_KINDS - 1], f"{len(kinds) - N_KINDS + 1} other kinds"]


def _kernels_ms(member: MemberTime) -> float:
    return sum(kind.latency_ms for kind in member.kinds)


def _kind_hint(member: MemberTime, kind: str, n_kernels: int, ms: float) -> str:
    share = ms / (_kernels_ms(member) or 1.0)
    spent = f"{number(1e3 * ms, 'µs')}, {_share_text(share)}"
    return f"{kind}\n{n_kernels} in {member.name}: {spent}"


def _share_text(share: float) -> str:
    return f"{share:.0%}" if share >= 0.005 else "<1%"


def _link(row: Mapping[str, Any], words: str = "") -> str:
    """A link to the model; "./" and quoting: whatever the text says, it is below the run folder."""
    shown = words or row["name"]
    if not row["onnx"]:
        return shown
    return Markup(f'<a href="./{quote(row["onnx"])}">{escape(shown)}</a>')


def _peak_memory(row: Mapping[str, Any]) -> str:
    """Measured, and in brackets what the search had predicted, if it did; kB."""
    measured = number(row["peak_memory_bytes"] / 1e3)
    predicted = row["predicted_peak_memory_bytes"]
    return measured if math.isnan(predicted) else f"{measured} ({number(predicted / 1e3)})"


def _parity(row: Mapping[str, Any]) -> str:
    parity = row["parity_max_abs_error"]
    return "–" if math.isnan(parity) else f"{parity:.1e}"


def _forms_of(run: RunData, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    return records(run.forms[run.forms["name"] == row["name"]])


def _form_text(row: Mapping[str, Any], form: Mapping[str, Any]) -> str:
    change = _points(form["val_accuracy"] - row["val_accuracy"])
    return (
        f"{number(form['latency_ms'], 'ms')} ({_times(form)}), validation accuracy "
        f"{percent(form['val_accuracy'])} ({change}); {form['verdict'] or '–'}"
    )


def _points(change: float) -> str:
    """A difference of accuracies."""
    return "–" if math.isnan(change) else f"{100 * change:+.1f}".replace("-", "−")


def _times(form: Mapping[str, Any]) -> str:
    """How many times as fast as in fp32 a form is."""
    if not form["latency_ms"] > 0 or math.isnan(form["fp32_latency_ms"]):
        return "–"
    return f"{number(form['fp32_latency_ms'] / form['latency_ms'], digits=3)}×"
