"""A chart's frame as SVG: axes, ticks and a scale; the same for the report and for a README."""

from __future__ import annotations

import math
from collections.abc import Iterator
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


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: what it shows, and how it is named.

    Attributes:
        low: Value at its beginning.
        high: Value at its end; above `low`.
        title: Beside it.
    """

    low: float
    high: float
    title: str


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
        share = (x - self.x.low) / (self.x.high - self.x.low)
        return round(self.left + share * (self.right - self.left), 1)

    def at_y(self, y: float) -> float:
        """Vertical place of a value."""
        share = (y - self.y.low) / (self.y.high - self.y.low)
        return round(self.bottom - share * (self.bottom - self.top), 1)

    def holds(self, x: float, y: float) -> bool:
        """Whether a point lies within the plane."""
        return self.x.low <= x <= self.x.high and self.y.low <= y <= self.y.high

    def axes(self) -> Iterator[str]:
        """Grid, ticks and titles."""
        n_x = max(5, (self.right - self.left) // 100)
        for value in ticks(self.x.low, self.x.high, n_x):
            x = self.at_x(value)
            yield line(x, self.top, x, self.bottom, "grid")
            yield text(x, self.bottom + 19, f"{value:g}", "small middle")
        for value in ticks(self.y.low, self.y.high, max(5, (self.bottom - self.top) // 60)):
            y = self.at_y(value)
            yield line(self.left, y, self.right, y, "grid")
            yield text(self.left - 8, y + 4, f"{value:g}", "small end")
        yield line(self.left, self.bottom, self.right, self.bottom, "axis")
        yield line(self.left, self.top, self.left, self.bottom, "axis")
        yield text((self.left + self.right) / 2, self.height - 12, self.x.title, "middle")
        middle = (self.top + self.bottom) / 2
        yield (
            f'<text transform="translate(18 {middle:g}) rotate(-90)" class="middle">'
            f"{escape(self.y.title)}</text>"
        )


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line of a class of the style sheet."""
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" class="{kind}"/>'


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """Words, escaped, at a place."""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(words)}</text>'


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
