"""One network's predicted time as a page that opens without a network: `hwnas predict … --html`."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from hwnas.kernel_charts import timeline_chart, treemap_chart
from hwnas.number_text import number, percent
from hwnas.profile_parts import Part, kind_of, si, time_text
from hwnas.report.html import section, table
from hwnas.report.page import Hints, report_page
from hwnas.suggestions import Suggestion
from predictors.explain import Explanation, Slice
from profilers.kernels import macs
from profilers.targets import Target

N_ROWS = 400  # of the table of kernels: the page stays quick to open


def predict_page(
    name: str,
    target: Target,
    level: float,
    explanation: Explanation,
    *,
    blocks: Sequence[Slice],
    kinds: Sequence[Slice],
    peak_memory_bytes: int | None = None,
    energy_mj: tuple[float, float, float] | None = None,
    suggestions: Sequence[Suggestion] = (),
    note: str = "",
) -> str:
    """A prediction as a self-contained HTML page; the same values give the same page.

    Args:
        name: Of the model.
        target: For which it is predicted.
        level: Share of networks that its interval is to cover.
        explanation: The prediction.
        blocks: Its time by block.
        kinds: Its time by kind of kernel.
        peak_memory_bytes: Of tensors in use; None: not known, and not shown.
        energy_mj: Of one run, and the ends of its interval; None: not known, and not shown.
        suggestions: What would make the network faster.
        note: What a reader must know first, one sentence; empty: nothing.
    """
    title = f"{name} is predicted to take {time_text(explanation.latency_ms)}"
    parts, hints = predicted_parts(explanation), Hints()
    body = (
        '<header><p class="eyebrow">hwnas · one network, predicted without timing it</p>'
        f'<h1>{escape(title)}</h1><p class="soft">{escape(target.describe())}</p></header>',
        _cards(explanation, level, peak_memory_bytes, energy_mj),
        f'<p class="note" role="note">{escape(note)}</p>' if note else "",
        _suggestion_section(suggestions),
        _timeline_section(parts, hints),
        section("By block", _slice_table("Block", blocks)),
        _kind_section(kinds, parts, hints),
        _unknown_section(explanation),
        _kernel_section(parts, explanation),
    )
    return report_page(title, "\n".join(part for part in body if part), hints)


def predicted_parts(explanation: Explanation) -> list[Part]:
    """The kernels in running order, with their predicted times."""
    total_ms = max(explanation.kernel_sum_ms, 1e-12)
    parts, start_ms = [], 0.0
    for i, found in enumerate(explanation.kernels, 1):
        node, ms = found.node, found.latency_ms
        parts.append(
            Part(i, node.name, kind_of(node.kernel), node.kernel, start_ms, ms, ms / total_ms,
                 macs(node.kernel))
        )  # fmt: skip
        start_ms += ms
    return parts


def _cards(
    explanation: Explanation,
    level: float,
    peak_memory_bytes: int | None,
    energy_mj: tuple[float, float, float] | None,
) -> str:
    low, high = number(explanation.low_ms), number(explanation.high_ms)
    cards = [
        (number(explanation.latency_ms, "ms"), f"latency, {level:.0%} interval {low} to {high} ms"),
        (percent(explanation.known_share), "of it rests on kernels like those measured"),
        (
            number(explanation.kernel_sum_ms, "ms"),
            f"in {len(explanation.kernels)} kernels; beside them "
            f"{1e3 * explanation.overhead_ms:+.0f} µs".replace("-", "−"),
        ),
    ]
    if peak_memory_bytes is not None:
        cards.append((f"{si(peak_memory_bytes)}B", "of tensors in use at the peak; no weights"))
    if energy_mj is not None:
        value, low_mj, high_mj = (number(mj) for mj in energy_mj)
        cards.append((f"{value} mJ", f"a run, {level:.0%} interval {low_mj} to {high_mj} mJ"))
    boxes = (
        f'<div class="card"><b>{escape(value)}</b><span class="soft">{escape(text)}</span></div>'
        for value, text in cards
    )
    return f'<div class="cards">{"".join(boxes)}</div>'


def _suggestion_section(suggestions: Sequence[Suggestion]) -> str:
    if not suggestions:
        return ""
    rows = [
        (
            s.edit.what,
            "train it again" if s.edit.needs_training else "computes the same",
            number(s.before.latency_ms),
            number(s.after.latency_ms),
            f"{number(s.after.low_ms)} to {number(s.after.high_ms)}",
            percent(s.saving),
        )
        for s in suggestions
    ]
    columns = ("Change", "Then", "Before (ms)", "After (ms)", "Interval (ms)", "Saves")
    text = (
        "Each is predicted from the kernels that the runtime makes of the changed model. They are "
        "not measured, and what they do to the accuracy is not known."
    )
    return section(
        "What would make it faster", f"<p>{text}</p>", table("", columns, rows, n_text=2)
    )


def _timeline_section(parts: Sequence[Part], hints: Hints) -> str:
    if not parts:
        return section(
            "Where the time goes",
            "<p>The runtime folded the whole network into a constant: no kernel runs.</p>",
        )
    text = "All kernels of a run in their order, end to end; each kind has its lane."
    drawn = timeline_chart(parts, None, None, hints)
    return section("Where the time goes", f"<p>{text}</p>", drawn)


def _kind_section(kinds: Sequence[Slice], parts: Sequence[Part], hints: Hints) -> str:
    if not parts:
        return ""
    return section(
        "By kind",
        "<p>Area is time: of each kind, and in it of each of its kernels.</p>",
        treemap_chart(parts, hints),
        _slice_table("Kind", kinds),
    )


def _slice_table(what: str, found: Sequence[Slice]) -> str:
    rows = [
        (s.name, f"{s.n_kernels}", number(1e3 * s.latency_ms), percent(s.share),
         percent(s.known_share))
        for s in found
    ]  # fmt: skip
    return table("", (what, "Kernels", "Predicted (µs)", "Share", "Known"), rows)


def _unknown_section(explanation: Explanation) -> str:
    if not explanation.unknown_ms:
        return ""
    rows = [(k.describe(), number(1e3 * ms)) for k, ms in explanation.unknown_ms.items()]
    return section(
        "What is not known",
        "<p>Kernels like none that was measured: their times are guesses, and the interval is "
        "wider for them. <code>hwnas predict --measure</code> measures them.</p>",
        table("", ("Kernel", "Predicted (µs)"), rows[:N_ROWS]),
    )


def _kernel_section(parts: Sequence[Part], explanation: Explanation) -> str:
    if not parts:
        return ""
    known = [found.is_known for found in explanation.kernels]
    ranked = sorted(parts, key=lambda part: -part.latency_ms)[:N_ROWS]
    rows = [
        (
            part.kind,
            part.kernel.describe(),
            f"{part.number}",
            number(1e3 * part.latency_ms),
            percent(part.share),
            si(part.macs) if part.macs else "–",
            f"{si(part.kernel.n_bytes)}B",
            "yes" if known[part.number - 1] else "no",
        )
        for part in ranked
    ]
    columns = ("Kind", "Shapes", "#", "Predicted (µs)", "Share", "MACs", "Bytes", "Known")
    caption = "By falling time; # is the place in running order."
    return section("All kernels", table(caption, columns, rows, n_text=2))
