"""How far a fitted predictor is off, as a page that opens without a network: `hwnas fit --plot`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from hwnas.held_out import OURS, HeldOut
from hwnas.kernel_charts import OTHERS, OTHERS_CLASS
from hwnas.number_text import number, percent
from hwnas.profile_parts import kind_of
from hwnas.report.html import section, side_by_side, table
from hwnas.report.page import N_KINDS, Hints, report_page
from hwnas.report.picture import HALF_SIZES, SIZES, Size, kinds_legend, picture
from hwnas.report.svg import Axis, Plot, area, dot, line
from profilers.measurement import FAMILY_TAG, NetworkMeasurement
from profilers.targets import Target

FloatArray = NDArray[np.float64]

UNNAMED, OTHER_FAMILIES = "networks", "other families"  # the former of no family
N_WORST = 20
N_BAND = 24  # points of the band: the typical interval near each latency


def fit_page(target: Target, level: float, splits: Sequence[tuple[str, HeldOut]]) -> str:
    """A predictor's errors on networks held out, as a self-contained HTML page.

    Args:
        target: Where the networks were measured.
        level: Share of networks that the intervals are to cover.
        splits: What was left out together, in words, and the predictions; one at least.
    """
    hints = Hints()
    name, first = splits[0]
    ours = first.accuracies()[OURS]
    title = (
        f"{percent(ours.within_10)} of {ours.n} networks that the fit did not see are predicted "
        f"within ±10 %"
    )
    body = [
        '<header><p class="eyebrow">hwnas · a latency predictor on networks it has not seen</p>'
        f'<h1>{escape(title)}</h1><p class="soft">{escape(target.describe())}</p></header>',
        _cards(first, level),
        section("How good it is", accuracy_table(splits)),
    ]
    for name, held_out in splits:
        body += [
            section(
                f"Left out: {name}",
                "<p>Every network is predicted by a model that saw none of its group.</p>",
                prediction_chart(held_out, hints),
            ),
            side_by_side(
                [
                    section(
                        "Relative error over latency",
                        f"<p>The band is the typical {level:.0%} interval near that latency; "
                        f"{percent(held_out.covered.mean())} of the networks lie within their "
                        f"own.</p>",
                        error_chart(held_out, hints),
                    ),
                    section(
                        "Relative error over what the time goes into",
                        "<p>Each network stands at the kind of kernel that takes most of its "
                        "time, and at that kind’s share.</p>",
                        share_chart(held_out, hints),
                    ),
                ]
            ),
            section("Furthest off", _worst_table(held_out)),
        ]
    return report_page(title, "\n".join(body), hints)


def accuracy_table(splits: Sequence[tuple[str, HeldOut]]) -> str:
    """Ours and the baselines on every split, as HTML."""
    rows = []
    for name, held_out in splits:
        for predictor, a in held_out.accuracies().items():
            is_ours = predictor == OURS
            rows.append(
                (
                    name,
                    predictor,
                    f"{a.n}",
                    percent(a.mape),
                    percent(a.within_5),
                    percent(a.within_10),
                    number(a.spearman),
                    percent(held_out.covered.mean()) if is_ours else "–",
                    f"±{percent(held_out.half_width.mean())}" if is_ours else "–",
                )
            )
    columns = ("Left out", "Predictor", "Networks", "MAPE", "Within ±5 %", "Within ±10 %",
               "Spearman", "Covered", "Interval")  # fmt: skip
    return table("", columns, rows, n_text=2)


def prediction_chart(held_out: HeldOut, hints: Hints) -> str:
    """Predicted over measured latency, both on logarithmic axes, with every interval."""
    both = np.concatenate([held_out.measured_ms, held_out.latency_ms])
    low, high = 0.8 * float(both.min()), 1.25 * float(both.max())
    axes = (
        Axis(low, high, "Measured (ms)", is_log=True),
        Axis(low, high, "Predicted (ms)", is_log=True),
    )

    def draw(size: Size) -> Iterator[str]:
        plot = Plot(*axes, *size)
        yield from plot.axes()
        # As far as it lies in the plane.
        upper = [(low, 1.1 * low), (high / 1.1, high), (high, high)]
        lower = [(high, 0.9 * high), (low / 0.9, low), (low, low)]
        yield area([plot.at(*point) for point in (*upper, *lower)], "band")
        yield line(*plot.at(low, low), *plot.at(high, high), "equal")
        for _, rows, kind in _families(held_out):
            for i in np.flatnonzero(rows).tolist():
                x, y = plot.at(held_out.measured_ms[i], held_out.latency_ms[i])
                ends = np.clip([held_out.low_ms[i], held_out.high_ms[i]], low, high).tolist()
                yield line(x, plot.at_y(ends[0]), x, plot.at_y(ends[1]), "whisker")
                yield dot(x, y, 4, kind, hints(_hint(held_out, i)))

    sizes = {**SIZES, "large": (1080, 600)}
    return picture("Predicted over measured latency", sizes, draw) + _families_legend(held_out)


def error_chart(held_out: HeldOut, hints: Hints) -> str:
    """Relative error over the measured latency, with the band of the typical interval."""
    low, high = _interval_percent(held_out)
    order = np.argsort(held_out.measured_ms)
    parts = np.array_split(order, min(N_BAND, len(order)))
    xs = [float(np.median(held_out.measured_ms[part])) for part in parts]
    lows, highs = ([float(np.median(ends[part])) for part in parts] for ends in (low, high))
    errors = _error_percent(held_out)
    axes = (
        Axis(0.9 * min(held_out.measured_ms), 1.1 * max(held_out.measured_ms), "Measured (ms)",
             is_log=True),
        _error_axis([*errors, *lows, *highs]),
    )  # fmt: skip

    def draw(size: Size) -> Iterator[str]:
        plot = Plot(*axes, *size)
        yield from plot.axes()
        upper, lower = zip(xs, highs, strict=True), zip(xs[::-1], lows[::-1], strict=True)
        yield area([plot.at(*point) for point in (*upper, *lower)], "band")
        yield line(plot.left, plot.at_y(0), plot.right, plot.at_y(0), "equal")
        for _, rows, kind in _families(held_out):
            for i in np.flatnonzero(rows).tolist():
                place = plot.at(held_out.measured_ms[i], errors[i])
                yield dot(*place, 4, kind, hints(_hint(held_out, i)))

    return picture("Relative error over latency", HALF_SIZES, draw) + _families_legend(held_out)


def share_chart(held_out: HeldOut, hints: Hints) -> str:
    """Relative error over the share of the kind of kernel that takes most of a network's time."""
    top = [_top_kind(m) for m in held_out.networks]
    kinds = [kind for kind, _ in top]
    ranked = sorted(set(kinds), key=lambda kind: (-kinds.count(kind), kind))
    classes = _classes(ranked, OTHERS)
    errors = _error_percent(held_out)
    axes = (Axis(0, 100, "Share of the network’s time (%)"), _error_axis(errors.tolist()))

    def draw(size: Size) -> Iterator[str]:
        plot = Plot(*axes, *size)
        yield from plot.axes()
        yield line(plot.left, plot.at_y(0), plot.right, plot.at_y(0), "equal")
        for i, (kind, share) in enumerate(top):
            place = plot.at(100 * share, errors[i])
            yield dot(*place, 4, classes.get(kind, OTHERS_CLASS), hints(_hint(held_out, i)))

    return picture("Relative error over share of time", HALF_SIZES, draw) + kinds_legend(classes)


def _error_axis(values: Sequence[float]) -> Axis:
    """Holds all values, and zero."""
    low, high = min(0.0, *values), max(0.0, *values)
    margin = 0.06 * (high - low) or 1.0
    return Axis(low - margin, high + margin, "Predicted against measured (%)")


def _cards(held_out: HeldOut, level: float) -> str:
    ours = held_out.accuracies()[OURS]
    cards = (
        (percent(ours.mape), "mean error"),
        (percent(ours.within_5), "within ±5 % of what was measured"),
        (number(ours.spearman), "rank correlation (Spearman)"),
        (
            percent(held_out.covered.mean()),
            f"within their {level:.0%} interval, ±{percent(held_out.half_width.mean())} on average",
        ),
    )
    boxes = (
        f'<div class="card"><b>{escape(value)}</b><span class="soft">{escape(text)}</span></div>'
        for value, text in cards
    )
    return f'<div class="cards">{"".join(boxes)}</div>'


def _worst_table(held_out: HeldOut) -> str:
    errors = _error_percent(held_out)
    rows = [
        (
            held_out.networks[i].name,
            _family(held_out.networks[i]),
            _top_kind(held_out.networks[i])[0],
            number(held_out.measured_ms[i]),
            number(held_out.latency_ms[i]),
            f"{errors[i]:+.1f} %".replace("-", "−"),
            "yes" if held_out.covered[i] else "no",
        )
        for i in np.argsort(-np.abs(errors))[:N_WORST]
    ]
    columns = ("Network", "Family", "Most of its time", "Measured (ms)", "Predicted (ms)", "Error",
               "In its interval")  # fmt: skip
    return table("", columns, rows, n_text=3)


def _families(held_out: HeldOut) -> list[tuple[str, NDArray[np.bool_], str]]:
    """Name, members and class, the largest first; many small ones share the last."""
    families = [_family(m) for m in held_out.networks]
    ranked = sorted(set(families), key=lambda name: (-families.count(name), name))
    classes = _classes(ranked, OTHER_FAMILIES)
    shown = np.array([name if name in classes else OTHER_FAMILIES for name in families])
    return [(name, shown == name, kind) for name, kind in classes.items()]


def _families_legend(held_out: HeldOut) -> str:
    return kinds_legend({name: kind for name, _, kind in _families(held_out)})


def _classes(ranked: Sequence[str], others: str) -> dict[str, str]:
    """A class of the style sheet for each name; those without one of their own share the last."""
    if len(ranked) <= N_KINDS:
        return {name: f"k{i}" for i, name in enumerate(ranked)}
    named = {name: f"k{i}" for i, name in enumerate(ranked[: N_KINDS - 1])}
    return named | {others: OTHERS_CLASS}


def _family(m: NetworkMeasurement) -> str:
    return m.tags.get(FAMILY_TAG) or UNNAMED


def _top_kind(m: NetworkMeasurement) -> tuple[str, float]:
    """The kind of kernel that takes most of a network's time, and its share."""
    by_kind: dict[str, float] = {}
    for run in m.kernels:
        kind = kind_of(run.kernel)
        by_kind[kind] = by_kind.get(kind, 0.0) + run.latency_ms
    if not by_kind:
        return "no kernel", 0.0
    kind = max(by_kind, key=lambda name: by_kind[name])
    return kind, by_kind[kind] / max(m.kernel_sum_ms, 1e-12)


def _error_percent(held_out: HeldOut) -> FloatArray:
    return np.asarray(100 * (held_out.latency_ms / held_out.measured_ms - 1))


def _interval_percent(held_out: HeldOut) -> tuple[FloatArray, FloatArray]:
    """Errors at which a measurement would lie at the ends of its interval, in per cent."""
    low = 100 * (held_out.latency_ms / held_out.high_ms - 1)
    high = 100 * (held_out.latency_ms / held_out.low_ms - 1)
    return low, high


def _hint(held_out: HeldOut, i: int) -> str:
    m = held_out.networks[i]
    kind, share = _top_kind(m)
    return "\n".join(
        (
            f"{m.name} ({_family(m)})",
            f"measured {number(m.latency_ms, 'ms')}",
            f"predicted {number(held_out.latency_ms[i], 'ms')} "
            f"({number(held_out.low_ms[i])} to {number(held_out.high_ms[i])})",
            f"{percent(share)} of its kernels’ time in {kind}",
        )
    )
