"""A chart on the page: drawn for wide, middling and narrow screens; the style sheet shows one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from html import escape

from hwnas.report.svg import dot

__all__ = ["HALF_SIZES", "SIZES", "Size", "kinds_legend", "legend", "picture"]

Size = tuple[int, int]  # width and height, in pixels
SIZES: Mapping[str, Size] = {"large": (1080, 470), "medium": (680, 430), "compact": (350, 400)}
HALF_SIZES: Mapping[str, Size] = {"large": (470, 380), "medium": (680, 400), "compact": (350, 340)}


def picture(
    label: str, sizes: Mapping[str, Size], draw: Callable[[Size], Iterable[str] | None]
) -> str:
    """The chart in all sizes.

    Args:
        label: For those who do not see it.
        sizes: Of `SIZES` or `HALF_SIZES`, or others by the same names.
        draw: From a size to the chart's marks; None: there is nothing to show, and no picture.
    """
    drawn = []
    for name, size in sizes.items():
        marks = draw(size)
        if marks is None:
            return ""
        drawn.append(
            f'<svg viewBox="0 0 {size[0]} {size[1]}" class="{name}" role="img" '
            f'aria-label="{escape(label)}">{"".join(marks)}</svg>'
        )
    kind = "plot half" if sizes is HALF_SIZES else "plot"
    return f'<figure class="{kind}">{"".join(drawn)}</figure>'


def legend(items: Iterable[tuple[str, str]]) -> str:
    """What is drawn: a mark in a box of 20 by 18 pixels, and words for it, which are escaped."""
    listed = "".join(
        f'<li><svg viewBox="0 0 20 18" aria-hidden="true">{mark}</svg>{escape(words)}</li>'
        for mark, words in items
    )
    return f'<ul class="legend">{listed}</ul>'


def kinds_legend(classes: Mapping[str, str]) -> str:
    """Dots of the style sheet's classes, by what they stand for."""
    return legend((dot(10, 9, 5.5, kind), words) for words, kind in classes.items())
