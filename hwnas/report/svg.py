"""A chart's frame as SVG: axes, ticks and a scale; the same for the report and for a README."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape


def ticks(low: float, high: float, n: int = 6) -> list[float]:
    """Round numbers within `[low, high]`, about `n` of them.

    Example:
        >>> ticks(0.07, 0.36)
        [0.1, 0.15, 0.2, 0.25, 0.3, 0.35]
    """
    raw = (high - low) / n
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float, n: int = 6) -> list[float]:
    """Round numbers within `[low, high]` for a logarithmic axis, about `n` or some more.

    Example:
        >>> log_ticks(0.3, 40)
        [0.5, 1.0, 2.0, 5.0, 10.0, 20.0]
        >>> log_ticks(900, 2e7)
        [1000.0, 10000.0, 100000.0, 1000000.0, 10000000.0]
        >>> log_ticks(1.0, 1.5)
        [1.0, 1.1, 1.2, 1.3, 1.4, 1.5]
    """
    n_decades = math.log10(high / low)
    if n_decades < 0.5:
        return ticks(low, high, n)
    factors = (1, 2, 5) if 3 * n_decades <= 1.5 * n else (1,)
    stride = math.ceil(n_decades / (1.5 * n))
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1, stride)
    found = [factor * 10.0**power for power in powers for factor in factors]
    return [value for value in found if low <= value <= high]


def tick_text(value: float) -> str:
    """A round number, short.

    Example:
        >>> tick_text(0.25), tick_text(5000.0), tick_text(20_000_000)
        ('0.25', '5000', '20M')
    """
    for power, prefix in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= max(10**power, 1e4):
            return f"{value / 10**power:g}{prefix}"
    return f"{value:g}"


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: what it shows, and how it is named.

    Attributes:
        low: Value at its beginning; above 0 where it is logarithmic.
        high: Value at its end; above `low`.
        title: Beside it.
        is_log: Whether equal ratios are equally long, not equal differences.
    """

    low: float
    high: float
    title: str
    is_log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies between the ends, 0 to 1."""
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, n: int) -> list[float]:
        """About `n` round numbers on it."""
        return (log_ticks if self.is_log else ticks)(self.low, self.high, n)


@dataclass(frozen=True, slots=True)
class Plot:
    """The plane of a chart within its picture, all in pixels.

    Attributes:
        x: Horizontal axis, from left to right.
        y: Vertical axis, from bottom to top.
        width: Of the picture.
        height: Of the picture.
        top: Room above the plane.
    """

    x: Axis
    y: Axis
    width: int
    height: int
    top: int = 14

    @property
    def left(self) -> int:
        """Edge of the plane."""
        return 66

    @property
    def right(self) -> int:
        """Edge of the plane."""
        return self.width - 16

    @property
    def bottom(self) -> int:
        """Edge of the plane."""
        return self.height - 54

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies in the picture; y beyond the plane is held at its edges."""
        return self.at_x(x), self.at_y(y)

    def at_x(self, x: float) -> float:
        """Horizontal place of a value."""
        return round(self.left + self.x.share(x) * (self.right - self.left), 1)

    def at_y(self, y: float) -> float:
        """Vertical place of a value."""
        return round(self.bottom - self.y.share(y) * (self.bottom - self.top), 1)

    def holds(self, x: float, y: float) -> bool:
        """Whether a point lies within the plane."""
        return self.x.low <= x <= self.x.high and self.y.low <= y <= self.y.high

    def axes(self) -> Iterator[str]:
        """Grid, ticks and titles."""
        yield from self.x_axis()
        for value in self.y.ticks(max(5, (self.bottom - self.top) // 60)):
            y = self.at_y(value)
            yield line(self.left, y, self.right, y, "grid")
            yield text(self.left - 8, y + 4, tick_text(value), "small end")
        yield line(self.left, self.top, self.left, self.bottom, "axis")
        middle = (self.top + self.bottom) / 2
        yield (
            f'<text transform="translate(18 {middle:g}) rotate(-90)" class="middle">'
            f"{escape(self.y.title)}</text>"
        )

    def x_axis(self) -> Iterator[str]:
        """Grid, ticks and title of the horizontal axis alone."""
        for value in self.x.ticks(max(5, (self.right - self.left) // 100)):
            x = self.at_x(value)
            yield line(x, self.top, x, self.bottom, "grid")
            yield text(x, self.bottom + 19, tick_text(value), "small middle")
        yield line(self.left, self.bottom, self.right, self.bottom, "axis")
        yield text((self.left + self.right) / 2, self.height - 12, self.x.title, "middle")


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line of a class of the style sheet."""
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" class="{kind}"/>'


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """Words, escaped, at a place."""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, kind: str, more: str = "") -> str:
    """A filled rectangle; `more` are attributes that are markup already."""
    size = f'width="{width:.5g}" height="{height:.5g}"'
    return f'<rect x="{x:.6g}" y="{y:.6g}" {size} class="{kind}"{more}/>'


def area(points: Iterable[tuple[float, float]], kind: str) -> str:
    """A filled polygon."""
    corners = " ".join(f"{x:g},{y:g}" for x, y in points)
    return f'<polygon points="{corners}" class="{kind}"/>'


def curve(points: Iterable[tuple[float, float]], color: str) -> str:
    """A line through points, in a colour of the style sheet's variables."""
    path = "L".join(f"{x:g} {y:g}" for x, y in points)
    return f'<path d="M{path}" class="curve" style="stroke: var(--{color})"/>'


def dot(x: float, y: float, radius: float, kind: str, more: str = "") -> str:
    """A filled circle; `more` are attributes that are markup already."""
    return f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" class="{kind}"{more}/>'


def cross(x: float, y: float, more: str = "") -> str:
    """A diagonal cross, for what was measured and is not on the front."""
    return f'<path d="M{x - 4:g} {y - 4:g}l8 8m0 -8l-8 8" class="removed"{more}/>'


def star(x: float, y: float, more: str = "") -> str:
    """A star of five rays, for baselines."""
    points = []
    for i in range(10):
        radius, angle = (9.0, 3.6)[i % 2], math.pi * (i / 5 - 0.5)
        points.append(f"{x + radius * math.cos(angle):.1f},{y + radius * math.sin(angle):.1f}")
    return f'<polygon points="{" ".join(points)}" class="baseline"{more}/>'
