"""One network's time by kernel as a page that opens without a network: `hwnas profile … --html`."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from hwnas.kernel_charts import (
    sample_range_ms,
    samples_chart,
    size_chart,
    timeline_chart,
    treemap_chart,
)
from hwnas.number_text import number, percent
from hwnas.profile_parts import (
    Part,
    kind_of,
    mean_rate,
    parts_of,
    si,
    slow_for_size,
    time_by_kind,
    time_text,
)
from hwnas.report.html import section, side_by_side, table
from hwnas.report.page import Hints, report_page
from profilers.measurement import NetworkMeasurement
from profilers.overhead import Overhead
from profilers.timing import Basis

N_ROWS = 400  # of the table of kernels: the page stays quick to open
MIN_CHART_SHARE = 0.01  # of the time: kernels that take less together have no chart of their own


def profile_page(
    measurement: NetworkMeasurement,
    overhead: Overhead,
    *,
    timeline_bytes: Sequence[int] | None = None,
) -> str:
    """One network on one target as a self-contained HTML page; the same values give the same page.

    Args:
        measurement: What was measured; without kernels the page has its samples alone.
        overhead: Of the measurement's target: what a run costs beside its kernels.
        timeline_bytes: Bytes of tensors in use while each kernel runs, one for each kernel in
            running order. None: not known, and not shown.

    Raises:
        ValueError: `timeline_bytes` has not one value for each kernel.
    """
    if timeline_bytes is not None and len(timeline_bytes) != len(measurement.kernels):
        raise ValueError(
            f"timeline_bytes must have one value for each of the {len(measurement.kernels)} "
            f"kernels of {measurement.name}, got {len(timeline_bytes)}"
        )
    parts, hints = parts_of(measurement), Hints()
    title = headline(measurement)
    warning = measurement.samples.warning
    body = (
        _header(measurement, title),
        _cards(measurement),
        f'<p class="note" role="note">{escape(_sentence(warning))}</p>' if warning else "",
        _timeline_section(measurement, parts, timeline_bytes, hints),
        _treemap_section(parts, hints),
        _size_sections(parts, hints),
        _samples_section(measurement, hints),
        side_by_side([_sum_section(measurement, overhead), _record_section(measurement)]),
        _table_section(parts),
    )
    return report_page(title, "\n".join(part for part in body if part), hints)


def headline(measurement: NetworkMeasurement) -> str:
    """The result in one sentence: how long, where, and what takes most of it."""
    text = (
        f"{measurement.name} takes {time_text(measurement.latency_ms)} "
        f"on {measurement.target.device_name}"
    )
    by_kind = time_by_kind(parts_of(measurement))
    if not by_kind:
        return text
    kind, ms = next(iter(by_kind.items()))
    n = sum(kind_of(run.kernel) == kind for run in measurement.kernels)
    share = percent(ms / measurement.kernel_sum_ms)
    return f"{text}; {share} of its kernels’ time is in {n} × {kind}"


def _header(measurement: NetworkMeasurement, title: str) -> str:
    target = measurement.target
    threads = "1 thread" if target.threads == 1 else f"{target.threads} threads"
    facts = (
        f"{target.runtime} {target.version}", target.precision, threads, f"batch {target.batch}",
        f"{len(measurement.kernels)} kernels",
    )  # fmt: skip
    return (
        '<header><p class="eyebrow">hwnas · one network, kernel by kernel</p>'
        f'<h1>{escape(title)}</h1><p class="soft">{escape(" · ".join(facts))}</p></header>'
    )


def _cards(measurement: NetworkMeasurement) -> str:
    """The few numbers that a reader came for."""
    samples = measurement.samples
    low_ms, high_ms = samples.interval_ms
    interval = f"between {number(low_ms)} and {number(high_ms)} ms (95 %)"
    if high_ms == float("inf"):
        interval = "too few samples for an interval"
    p90_ms, p99_ms = samples.percentile_ms(90), samples.percentile_ms(99)
    seen = ", ".join(f"{cause} in {n}" for cause, n in samples.disturbances.items())
    n_macs = sum(part.macs for part in parts_of(measurement))
    cards = [
        (number(samples.latency_ms, "ms"), f"latency, from {samples.basis.value}; {interval}"),
        (
            number(p99_ms, "ms"),
            f"99th percentile of all runs; 90th {number(p90_ms, 'ms')}, fastest "
            f"{number(samples.min_ms, 'ms')}",
        ),
        (
            percent(samples.contended_share),
            f"of {len(samples.wall_ms):,} runs disturbed{f': {seen}' if seen else ''}",
        ),
    ]
    if n_macs:
        rate = si(n_macs / samples.latency_ms * 1e3)
        cards.append((f"{si(n_macs)}MAC", f"in a run: {rate}MAC/s end to end"))
    peak, computed = measurement.peak_memory_bytes, measurement.computed_peak_memory_bytes
    if (shown := computed if peak is None else peak) is not None:
        how = "from tensor lifetimes" if peak is None else "measured"
        both = f"; {si(computed)}B from lifetimes" if peak and computed else ""
        cards.append((f"{si(shown)}B", f"of tensors in use at the peak, {how}{both}; no weights"))
    if measurement.energy_mj is not None:
        cards.append((number(measurement.energy_mj, "mJ"), "of energy in a run"))
    boxes = (
        f'<div class="card"><b>{escape(value)}</b><span class="soft">{escape(text)}</span></div>'
        for value, text in cards
    )
    return f'<div class="cards">{"".join(boxes)}</div>'


def _timeline_section(
    measurement: NetworkMeasurement,
    parts: Sequence[Part],
    timeline_bytes: Sequence[int] | None,
    hints: Hints,
) -> str:
    if not parts:
        return section(
            "Where the time goes",
            "<p>The runtime folded the whole network into a constant: no kernel runs.</p>",
        )
    text = "All kernels of a run in their order, end to end; each kind has its lane."
    if timeline_bytes is not None:
        text += (
            " Below: bytes of tensors in use while each kernel runs, from the tensors’ lifetimes; "
            "weights are not in it."
        )
    drawn = timeline_chart(parts, timeline_bytes, measurement.peak_memory_bytes, hints)
    return section("Where the time goes", f"<p>{text}</p>", drawn)


def _treemap_section(parts: Sequence[Part], hints: Hints) -> str:
    if not parts:
        return ""
    text = "<p>Area is time: of each kind, and in it of each of its kernels.</p>"
    return section("The same, by kind", text, treemap_chart(parts, hints))


def _size_sections(parts: Sequence[Part], hints: Hints) -> str:
    """What is slow for its size: kernels with products by MACs, the others by bytes."""
    sections = []
    for title, size, unit, rows in (
        ("Time against work", "MACs", "MAC", [part for part in parts if part.macs]),
        ("Time against bytes", "bytes", "B", [p for p in parts if not p.macs and p.size]),
    ):
        if sum(part.share for part in rows) >= MIN_CHART_SHARE:
            rate = mean_rate(rows)
            text = f"The line is what they reach together, {si(rate)}{unit}/s; above it is slow."
            if slow := slow_for_size(rows):
                text += " Most is lost in " + ", ".join(_verdict(p, rate) for p in slow) + "."
            if size == "bytes":
                text = f"Kernels that only move and change data. {text}"
            drawn = size_chart(rows, size, parts, hints)
            sections.append(section(title, f"<p>{escape(text)}</p>", drawn))
    return side_by_side(sections)


def _verdict(part: Part, rate: float) -> str:
    times = f"{rate / part.rate:.1f}× the line"
    return f"#{part.number} {part.kind} ({time_text(part.latency_ms)}, {times})"


def _samples_section(measurement: NetworkMeasurement, hints: Hints) -> str:
    samples = measurement.samples
    _, high_ms = sample_range_ms(samples)
    text = (
        "Every run from end to end, in a session that is not being profiled. Blue ones count; the "
        "others show something else on the machine, and "
        + (
            "are left out."
            if samples.basis is Basis.UNDISTURBED
            else f"there are too few without: the latency rests on {samples.basis.value}."
        )
    )
    if n_above := int((samples.wall_ms > high_ms).sum()):
        text += (
            f" {n_above:,} took longer than is shown, up to "
            f"{time_text(samples.percentile_ms(100))}: they are at the upper edge."
        )
    return section(
        "Every run that was timed",
        f"<p>{escape(text)}</p>",
        samples_chart(samples, hints),
    )


def _sum_section(measurement: NetworkMeasurement, overhead: Overhead) -> str:
    """Kernels and overhead against the latency from end to end."""
    n = len(measurement.kernels)
    explained_ms = overhead.explain_ms(measurement)
    error = explained_ms / measurement.latency_ms - 1
    rows = [
        (f"{n} kernels, each in place", _signed_ms(measurement.kernel_sum_ms)),
        ("overhead of a run", _signed_ms(overhead.per_run_ms)),
        (f"overhead of {n} kernels", _signed_ms(overhead.per_kernel_ms * n)),
        ("explained", _signed_ms(explained_ms)),
        ("measured from end to end", _signed_ms(measurement.latency_ms)),
        ("explained − measured", f"{100 * error:+.1f} %".replace("-", "−")),
    ]
    text = (
        f"The overhead was fitted on {overhead.n_networks} other networks; that of a kernel is "
        f"negative where the profile’s own clock is in the kernels’ times."
    )
    return section("Do the kernels add up?", f"<p>{text}</p>", table("", (), rows))


def _signed_ms(ms: float) -> str:
    return number(ms, "ms").replace("-", "−") if abs(ms) >= 1e-4 else f"{1e3 * ms:.2f} µs"


def _record_section(measurement: NetworkMeasurement) -> str:
    rows = [
        ("device", measurement.target.device_name),
        ("fingerprint", measurement.target.device),
        ("target", measurement.target.describe()),
        ("model", measurement.digest[:16]),
        *sorted((name, _cut(value)) for name, value in measurement.tags.items()),
    ]
    return section("What was measured", table("", (), rows, n_text=2))


def _table_section(parts: Sequence[Part]) -> str:
    """All kernels, those that take most time first."""
    if not parts:
        return ""
    ranked = sorted(parts, key=lambda part: -part.latency_ms)
    rows, sum_share = [], 0.0
    for part in ranked[:N_ROWS]:
        sum_share += part.share
        rows.append(
            (
                part.kind,
                _cut(part.name),
                part.kernel.describe(),
                f"{part.number}",
                number(1e3 * part.latency_ms),
                percent(part.share),
                percent(sum_share),
                f"{si(part.macs)}" if part.macs else "–",
                f"{si(part.kernel.n_bytes)}B",
                number(part.rate / 1e9) if part.macs else "–",
                number(part.kernel.n_bytes / part.latency_ms / 1e6),
            )
        )
    shown = "" if len(ranked) <= N_ROWS else f", the first {N_ROWS} of {len(ranked)}"
    columns = (
        "Kind", "Name", "Shapes", "#", "Time (µs)", "Share", "Sum", "MACs", "Bytes", "GMAC/s",
        "GB/s",
    )  # fmt: skip
    caption = f"By falling time{shown}; # is the place in running order."
    return section("All kernels", table(caption, columns, rows, n_text=3))


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _cut(text: str, length: int = 120) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
