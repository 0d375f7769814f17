"""The charts of a network's page: time by kernel, time against size, memory, and raw samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from hwnas.number_text import number, percent
from hwnas.profile_parts import Part, mean_rate, si, slow_for_size, time_by_kind, time_text
from hwnas.report.page import N_KINDS, Hints
from hwnas.report.picture import HALF_SIZES, SIZES, Size, kinds_legend, picture
from hwnas.report.svg import Axis, Plot, box, dot, line, text
from profilers.timing import LatencySamples

OTHERS = "other kinds"
OTHERS_CLASS = f"k{N_KINDS - 1}"  # of the style sheet
MAX_POINTS = 1000  # of raw samples: the page stays quick to open
MIN_BINS, MAX_BINS = 16, 70
TOP_SHARE = 1.35  # of the latency: where the chart of samples ends, unless most lie above
LANE, BAR = 36, 16  # heights in pixels: of a lane with its name, and of the bars in it
MEMORY = 130  # height of the memory in use, in pixels
FRAME = 22  # room for the name of a kind in the tree map
MIN_SLIM = 2.5  # pixels: a narrower bar would vanish between the lines around it
CHARACTER = 7.0  # width of one, in pixels

Rectangle = tuple[float, float, float, float]  # left, top, width, height


def kind_classes(parts: Sequence[Part]) -> dict[str, str]:
    """A class of the style sheet for each kind, the longest first; the last is for all others."""
    return {kind: f"k{min(i, N_KINDS - 1)}" for i, kind in enumerate(time_by_kind(parts))}


def lanes_of(parts: Sequence[Part]) -> dict[str, str]:
    """Names and classes of what is told apart by colour."""
    classes = kind_classes(parts)
    named = {kind: name for kind, name in classes.items() if name != OTHERS_CLASS}
    rest = len(classes) - len(named)
    return classes if rest <= 1 else named | {OTHERS: OTHERS_CLASS}


def timeline_chart(
    parts: Sequence[Part],
    timeline_bytes: Sequence[int] | None,
    peak_bytes: int | None,
    hints: Hints,
) -> str:
    """Kernels end to end in running order, a lane for each kind; below, the memory in use."""
    height = 14 + LANE * len(lanes_of(parts)) + 54 + (0 if timeline_bytes is None else MEMORY)
    sizes = {name: (width, height) for name, (width, _) in SIZES.items()}

    def draw(size: Size) -> Iterator[str]:
        yield from _lanes(parts, size, hints, has_memory=timeline_bytes is not None)
        if timeline_bytes is not None:
            yield from _memory(parts, timeline_bytes, peak_bytes, size, hints)

    return picture("Kernels in running order", sizes, draw)


def _lanes(parts: Sequence[Part], size: Size, hints: Hints, *, has_memory: bool) -> Iterator[str]:
    lanes = lanes_of(parts)
    plot = Plot(Axis(0, _end_ms(parts), "Time (ms)"), Axis(0, len(lanes), ""), *size)
    bottom = 14 + LANE * len(lanes)
    if not has_memory:
        yield from plot.x_axis()
    tops = {name: 14 + LANE * i + 17 for i, name in enumerate(lanes)}
    for name, top in tops.items():
        yield text(plot.left + 4, top - 4, name, "small")
        yield line(plot.left, top + BAR, plot.right, top + BAR, "grid")
    for part in parts:
        name = part.kind if part.kind in lanes else OTHERS
        left, right = plot.at_x(part.start_ms), plot.at_x(part.start_ms + part.latency_ms)
        slim = " slim" if right - left < MIN_SLIM else ""
        width = max(right - left, 0.3)
        yield box(left, tops[name], width, BAR, lanes[name] + slim, hints(hint_of(part)))
    yield line(plot.left, 14, plot.left, bottom, "axis")


def _memory(
    parts: Sequence[Part],
    timeline_bytes: Sequence[int],
    peak_bytes: int | None,
    size: Size,
    hints: Hints,
) -> Iterator[str]:
    """Steps of the bytes in use, and the measured peak."""
    in_mb = [n / 1e6 for n in timeline_bytes]
    peak_mb = None if peak_bytes is None else peak_bytes / 1e6
    high = 1.25 * max([*in_mb, peak_mb or 0.0]) or 1.0
    top = 14 + LANE * len(lanes_of(parts)) + 14
    plot = Plot(Axis(0, _end_ms(parts), "Time (ms)"), Axis(0, high, "In use (MB)"), *size, top)
    yield from plot.axes()
    path = ""
    for part, mb in zip(parts, in_mb, strict=True):
        left, right = plot.at_x(part.start_ms), plot.at_x(part.start_ms + part.latency_ms)
        y = plot.at_y(mb)
        words = f"{number(mb)} MB in use\nwhile #{part.number} {part.kind} runs\n{part.name}"
        yield box(left, y, max(right - left, 0.3), plot.bottom - y, "use", hints(words))
        path += f"V{y:g}H{right:g}" if path else f"M{left:g} {y:g}H{right:g}"
    yield f'<path d="{path}" class="steps"/>'
    if peak_mb is not None:
        y = plot.at_y(peak_mb)
        yield line(plot.left, y, plot.right, y, "budget")
        yield text(plot.right, y - 5, f"measured peak {number(peak_mb)} MB", "small over end")


def _end_ms(parts: Sequence[Part]) -> float:
    return parts[-1].start_ms + parts[-1].latency_ms


def treemap_chart(parts: Sequence[Part], hints: Hints) -> str:
    """Time as area: kinds, and in each its kernels."""
    label = "Time by kind of kernel, as area"
    return picture(label, SIZES, lambda size: _treemap(parts, size, hints))


def _treemap(parts: Sequence[Part], size: Size, hints: Hints) -> Iterator[str]:
    classes, kinds = kind_classes(parts), time_by_kind(parts)
    total_ms = sum(kinds.values())
    frames = squarified(list(kinds.values()), (0.0, 0.0, float(size[0]), float(size[1])))
    for (kind, ms), frame in zip(kinds.items(), frames, strict=True):
        rows = sorted((p for p in parts if p.kind == kind), key=lambda part: -part.latency_ms)
        left, top, width, height = frame
        words = f"{percent(ms / total_ms)} of the time, {len(rows)}×"
        told = hints(f"{kind}\n{words}, {time_text(ms)}")
        yield box(*frame, f"{classes[kind]} frame", told)
        inner = (left + 2, top + FRAME, width - 4, height - FRAME - 2)
        named = height > 2 * FRAME and width > 40
        if not named:
            inner = (left + 1, top + 1, max(width - 2, 0.1), max(height - 2, 0.1))
        elif fitting := _fitting((f"{kind}  {words}", kind), width):
            yield text(left + 6, top + 15, fitting, "onkind strong")
        for part, leaf in zip(rows, squarified([p.latency_ms for p in rows], inner), strict=True):
            yield box(*leaf, classes[kind], hints(hint_of(part)))
            x, y, wide, high = leaf
            words = f"#{part.number} {time_text(part.latency_ms)}"
            if high > 16 and (label := _fitting((words, f"#{part.number}"), wide)):
                yield text(x + 6, y + 15, label, "onkind")


def _fitting(choices: Sequence[str], width: float) -> str:
    """The first that fits; none does: nothing."""
    return next((words for words in choices if CHARACTER * len(words) + 10 <= width), "")


def squarified(values: Sequence[float], place: Rectangle) -> list[Rectangle]:
    """Rectangles of these areas that fill the place, as square as can be.

    Args:
        values: Above 0, falling.
        place: To fill; it has a width and a height.

    Reference:
        Bruls, Huizing, van Wijk, Squarified treemaps, 2000.
        https://doi.org/10.1007/978-3-7091-6783-0_4

    Example:
        >>> squarified([2.0, 1.0, 1.0], (0.0, 0.0, 4.0, 2.0))
        [(0.0, 0.0, 2.0, 2.0), (2.0, 0.0, 2.0, 1.0), (2.0, 1.0, 2.0, 1.0)]
    """
    left, top, width, height = place
    scale = width * height / sum(values) if values else 0.0
    areas = [scale * value for value in values]
    found: list[Rectangle] = []
    while areas:
        side = min(width, height)
        n = 1
        while n < len(areas) and _worst(areas[: n + 1], side) <= _worst(areas[:n], side):
            n += 1
        row, areas = areas[:n], areas[n:]
        thick = sum(row) / side
        at = 0.0
        for one in row:
            long = one / thick
            if width >= height:
                found.append((left, top + at, thick, long))
            else:
                found.append((left + at, top, long, thick))
            at += long
        if width >= height:
            left, width = left + thick, max(width - thick, 1e-9)
        else:
            top, height = top + thick, max(height - thick, 1e-9)
    return found


def _worst(row: Sequence[float], side: float) -> float:
    """The largest ratio of sides in a row of these areas along `side`."""
    thick = sum(row) / side
    return max(max(thick * thick / one, one / (thick * thick)) for one in row)


def size_chart(rows: Sequence[Part], size: str, parts: Sequence[Part], hints: Hints) -> str:
    """Time over size, both on logarithmic axes, with the line of the mean rate.

    Args:
        rows: Of one sort: all with MACs, or all without.
        size: What their size is, `MACs` or `bytes`.
        parts: All of the network, which decide the colours.
        hints: Of the page.
    """
    lanes, rate = lanes_of(parts), mean_rate(rows)
    low, high = 0.7 * min(p.size for p in rows), 1.4 * max(p.size for p in rows)
    times_us = [1e3 * p.latency_ms for p in rows]
    x_axis = Axis(low, high, "MACs" if size == "MACs" else "Bytes read and written", is_log=True)
    y_axis = Axis(0.6 * min(times_us), 2.2 * max(times_us), "Time (µs)", is_log=True)

    def draw(pixels: Size) -> Iterator[str]:
        plot = Plot(x_axis, y_axis, *pixels)
        yield from plot.axes()
        # The line, as far as it lies in the plane.
        ends = np.array([max(low, y_axis.low * rate / 1e6), min(high, y_axis.high * rate / 1e6)])
        if ends[0] < ends[1]:
            (x1, x2), (y1, y2) = ends, ends / rate * 1e6
            yield line(*plot.at(x1, y1), *plot.at(x2, y2), "equal")
        for part in rows:
            kind = lanes.get(part.kind, OTHERS_CLASS)
            place = plot.at(part.size, 1e3 * part.latency_ms)
            yield dot(*place, 5, kind, hints(hint_of(part)))
        for part in slow_for_size(rows):
            x, y = plot.at(part.size, 1e3 * part.latency_ms)
            yield text(x, y - 8, f"#{part.number}", "small over middle")

    shown = {p.kind if p.kind in lanes else OTHERS for p in rows}
    named = {name: kind for name, kind in lanes.items() if name in shown}
    return picture(f"Time over {size}", HALF_SIZES, draw) + kinds_legend(named)


def samples_chart(samples: LatencySamples, hints: Hints) -> str:
    """Every end-to-end run, in the order of time, with those coloured that were disturbed."""
    groups = sample_groups(samples)
    named = {f"{name} ({int(mask.sum()):,})": kind for name, (kind, mask) in groups.items()}
    return picture(
        "Time of every run", SIZES, lambda size: _samples(samples, size, hints)
    ) + kinds_legend(named)


def _samples(samples: LatencySamples, size: Size, hints: Hints) -> Iterator[str]:
    n = len(samples.wall_ms)
    low_ms, high_ms = sample_range_ms(samples)
    width = round(0.8 * size[0])
    plot = Plot(Axis(0, n + 1, "Run"), Axis(low_ms, high_ms, "Time of a run (ms)"), width, size[1])
    yield from plot.axes()
    order = np.unique(np.linspace(0, n - 1, MAX_POINTS).round().astype(int))
    shown_ms = np.minimum(samples.wall_ms, high_ms)
    for name, (kind, mask) in sample_groups(samples).items():
        for i in order[mask[order]].tolist():
            told = hints(f"run {i + 1}: {time_text(samples.wall_ms[i])}\n{name}")
            yield dot(*plot.at(i + 1, shown_ms[i]), 2.5, kind, told)
    yield from _histogram(samples, plot, size[0] - 12, hints)
    y = plot.at_y(samples.latency_ms)
    yield line(plot.left, y, size[0] - 12, y, "level")
    yield text(plot.right, y - 6, f"latency {time_text(samples.latency_ms)}", "end")


def _histogram(samples: LatencySamples, plot: Plot, right: float, hints: Hints) -> Iterator[str]:
    """How many runs took how long, sideways, right of the plane."""
    n_bins = int(np.clip(len(samples.wall_ms) // 8, MIN_BINS, MAX_BINS))
    edges = np.linspace(plot.y.low, plot.y.high, n_bins + 1)
    counts = {
        name: np.histogram(samples.wall_ms[mask], bins=edges)[0]
        for name, (_, mask) in sample_groups(samples).items()
    }
    left = plot.right + 10
    pixels = (right - left) / max(1, int(np.sum(list(counts.values()), axis=0).max()))
    ends = np.full(n_bins, float(left))
    yield line(left, plot.top, left, plot.bottom, "axis")
    yield text((left + right) / 2, plot.bottom + 19, "Runs", "small middle")
    for name, (kind, _) in sample_groups(samples).items():
        for i in np.flatnonzero(counts[name]).tolist():
            top, bottom = plot.at_y(edges[i + 1]), plot.at_y(edges[i])
            wide = pixels * counts[name][i]
            between = f"{number(edges[i])} to {number(edges[i + 1])} ms, {name}"
            told = hints(f"{counts[name][i]:,} runs\n{between}")
            yield box(ends[i], top, wide, bottom - top, kind, told)
            ends[i] += wide


def sample_groups(samples: LatencySamples) -> dict[str, tuple[str, NDArray[np.bool_]]]:
    """Name, class and members of what is told apart; every sample is in one of them."""
    contended, lost_core = samples.is_contended, samples.switches > 0
    return {
        "undisturbed": ("counted", ~contended),
        "lost the core": ("stolen", contended & lost_core),
        "disturbed otherwise": ("disturbed", contended & ~lost_core),
    }


def sample_range_ms(samples: LatencySamples) -> tuple[float, float]:
    """From below the fastest to where the undisturbed runs can still be told apart."""
    lowest = min(samples.min_ms, samples.latency_ms)
    highest = max(TOP_SHARE * samples.latency_ms, 1.05 * samples.percentile_ms(25))
    highest = min(highest, samples.percentile_ms(100))
    margin = 0.06 * max(highest - lowest, 0.01 * lowest)
    return lowest - margin, highest + margin


def hint_of(part: Part) -> str:
    """What is known of a kernel, in lines."""
    rate = f"{si(part.rate)}{'MAC' if part.macs else 'B'}/s"
    work = f"{si(part.macs)}MAC, " if part.macs else ""
    return "\n".join(
        (
            f"#{part.number} {part.kind}",
            part.name,
            f"{time_text(part.latency_ms)}, {percent(part.share)} of the kernels’ time",
            part.kernel.describe(),
            f"{work}{si(part.kernel.n_bytes)}B, {rate}",
        )
    )
