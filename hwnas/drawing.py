"""One architecture as a static SVG: blocks as boxes, shapes between them, what each of them costs.

No script, no font and no file besides; it follows the light or dark scheme of whoever looks at it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

from hwnas.number_text import number
from hwnas.report.explanation import LayerTime
from hwnas.spaces.architecture import Architecture, Block, Shape, fields_text, shape_text

if TYPE_CHECKING:
    from hwnas.networks import BlockCounts

__all__ = ["Layer", "architecture_svg", "described", "layers_of", "layers_svg"]

WIDTH, PADDING = 760, 14
NARROW = 480  # below it, margins are small and numbers stand on a line of their own
GAP = 38  # between boxes, for the arrow and the shape
LINE_HEIGHT = 17  # in pixels
CHARACTER = 6.4  # width of one, in pixels
LEVEL = 28  # height that an edge of a graph gains with each node that it passes
STEP = 112  # between nodes of a graph, where there is room

STYLE = """
  text { font: 13px system-ui, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #1f2937 }
  .strong { font-weight: 600 } .small { font-size: 12px } .soft { fill: #4b5768 }
  .end { text-anchor: end } .middle { text-anchor: middle }
  .ground { fill: #fff } .box { fill: #f3f6fa; stroke: #b6c2d2 }
  .share { fill: #1558b0 } .edge { fill: none; stroke: #66758a; stroke-width: 1.3 }
  .head { fill: #66758a } .node { fill: #fff; stroke: #1558b0; stroke-width: 1.4 }
  .behind { fill: #f3f6fa }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6ebf2 } .soft { fill: #a9b5c6 }
    .ground { fill: #10161f } .box { fill: #1a2330; stroke: #3b4a5e }
    .share { fill: #6aa5f2 } .edge { stroke: #8fa0b6 } .head { fill: #8fa0b6 }
    .node { fill: #10161f; stroke: #6aa5f2 } .behind { fill: #1a2330 }
  }
"""
HEAD = (
    '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
    'orient="auto"><path d="M0 0L8 4L0 8z" class="head"/></marker>'
)


@dataclass(frozen=True)
class Layer:
    """A block where it stands.

    Attributes:
        block: What is built.
        in_shape: Of one example that it is given.
        counts: What it has and computes for that, and the shape that it gives.
    """

    block: Block
    in_shape: Shape
    counts: BlockCounts


def layers_of(architecture: Architecture) -> tuple[Layer, ...]:
    """The blocks of an architecture in order.

    Raises:
        ValueError: A block does not fit the shape that it is given.
    """
    from hwnas.networks import count  # torch: drawing what was counted before needs none

    layers: list[Layer] = []
    shape, input_type = architecture.input_shape, architecture.input_type
    for block in architecture.blocks:
        layers.append(Layer(block, shape, count(block, shape, input_type)))
        shape, input_type = layers[-1].counts.out_shape, "float32"
    return tuple(layers)


def architecture_svg(architecture: Architecture, *, title: str) -> str:
    """Draw an architecture from its input at the top to its output at the bottom.

    Each box has the name of a block's class, its fields, its parameters and MACs, and a bar as long
    as its share of all MACs; equal blocks in a row share one. If a block has a method `edges()`,
    its graph is drawn in its box: the nodes in a row, each edge with its label.

    Args:
        architecture: What to draw.
        title: Stands on top.

    Raises:
        ValueError: A block does not fit the shape that it is given, or its edges form a ring.
    """
    layers = [described(layer) for layer in layers_of(architecture)]
    return layers_svg(layers, in_shape=shape_text(architecture.input_shape), title=title)


def described(layer: Layer, latency_ms: float | None = None) -> LayerTime:
    """A layer as plain data, with what it takes if that is known."""
    edges = getattr(layer.block, "edges", None)
    ways = () if edges is None else edges()
    return LayerTime(
        block=type(layer.block).__name__,
        fields=fields_text(layer.block),
        out_shape=shape_text(layer.counts.out_shape),
        params=layer.counts.params,
        macs=layer.counts.macs,
        latency_ms=latency_ms,
        edges=tuple((str(source), str(target), str(label)) for source, target, label in ways),
    )


def layers_svg(
    layers: Sequence[LayerTime], *, in_shape: str, title: str, width: int = WIDTH
) -> str:
    """Draw layers as `architecture_svg` does; where all times are known, bars are shares of them.

    Args:
        layers: From the first to the last.
        in_shape: What the first one is given.
        title: Stands on top.
        width: Of the picture, in pixels.

    Raises:
        ValueError: The edges of a layer form a ring.
    """
    params, macs = sum(layer.params for layer in layers), sum(layer.macs for layer in layers)
    known_ms = [layer.latency_ms for layer in layers if layer.latency_ms is not None]
    frame = _Frame(
        width, macs, sum(known_ms) if known_ms and len(known_ms) == len(layers) else None
    )
    told = f"{params:,} parameters, {macs:,} MACs"
    parts = [_text(frame.margin, 34, title, "strong")]
    y = 66.0
    if frame.is_narrow:
        parts.append(_text(frame.margin, 54, told, "small soft"))
        y += 20
    else:
        parts.append(_text(width - frame.margin, 34, told, "small soft end"))
    parts.append(_text(width / 2, y, f"input {in_shape}", "small middle"))
    y += 6
    for _, group in groupby(layers, key=_looks):
        box = _Box(list(group), frame)
        parts += [frame.arrow(y), *box.draw(y + GAP - 4)]
        y += GAP - 4 + box.height
        parts.append(_text(width / 2 + 10, y + 20, box.layer.out_shape, "small soft"))
    parts += [frame.arrow(y), _text(width / 2, y + GAP + 10, "output", "small middle")]
    height = y + GAP + 28
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" '
            f'width="{width}" height="{height:.0f}" role="img" '
            f'aria-label="{escape(f"{title}: {told}")}">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            f"<defs>{HEAD}</defs>",
            f'<rect width="{width}" height="{height:.0f}" rx="8" class="ground"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _looks(layer: LayerTime) -> tuple[object, ...]:
    """All that is drawn of a layer but its time: layers alike in a row share a box."""
    return layer.block, layer.fields, layer.out_shape, layer.params, layer.macs, layer.edges


@dataclass(frozen=True)
class _Frame:
    """The picture's width, and what the bars are shares of; `ms` None: of MACs."""

    width: int
    macs: int
    ms: float | None

    @property
    def is_narrow(self) -> bool:
        return self.width < NARROW

    @property
    def margin(self) -> int:
        return 8 if self.is_narrow else 32

    @property
    def line_length(self) -> int:
        """Characters of a line in a box."""
        return int((self.width - 2 * self.margin - 2 * PADDING) / (CHARACTER + 0.5))

    def arrow(self, y: float) -> str:
        x = self.width / 2
        return f'<path d="M{x} {y:.1f}V{y + GAP - 6:.1f}" class="edge" marker-end="url(#head)"/>'


class _Box:
    """One layer, or several alike in a row: its text, and its graph if it is one."""

    def __init__(self, layers: Sequence[LayerTime], frame: _Frame) -> None:
        self.layer = layers[0]
        self.frame = frame
        times = "" if len(layers) == 1 else f"{len(layers)} × "
        self.name = times + self.layer.block
        told = f"{times}{self.layer.params:,} params, {times}{self.layer.macs:,} MACs"
        if frame.ms is None:
            self.share = len(layers) * self.layer.macs / max(frame.macs, 1)
            self.meaning = f"{100 * self.share:.1f} % of the MACs"
        else:
            ms = sum(layer.latency_ms or 0.0 for layer in layers)
            self.share = ms / max(frame.ms, 1e-12)
            self.meaning = f"{number(1e3 * ms, 'µs')}, {100 * self.share:.0f} % of the time"
            told += f", {self.meaning}"
        # Beside the name where there is room.
        self.is_beside = len(self.name) + len(told) + 4 <= frame.line_length
        self.told = told
        self.lines = [] if self.is_beside else textwrap.wrap(told, frame.line_length)
        self.lines += textwrap.wrap(self.layer.fields, frame.line_length)
        self.graph = _Graph(self.layer) if self.layer.edges else None

    @property
    def height(self) -> float:
        graph = 0.0 if self.graph is None else self.graph.height
        return 2 * PADDING + LINE_HEIGHT * (1 + len(self.lines)) + graph

    def draw(self, y: float) -> Iterator[str]:
        """At this height."""
        left, width = self.frame.margin, self.frame.width - 2 * self.frame.margin
        yield (
            f'<rect x="{left}" y="{y:.1f}" width="{width}" height="{self.height:.1f}" rx="6" '
            f'class="box"/>'
        )
        base = y + PADDING + 10
        yield _text(left + PADDING, base, self.name, "strong")
        if self.is_beside:
            yield _text(left + width - PADDING, base, self.told, "small soft end")
        for line in self.lines:
            base += LINE_HEIGHT
            yield _text(left + PADDING, base, line, "small soft")
        if self.graph is not None:
            yield from self.graph.draw(left + PADDING, base + 6, width - 2 * PADDING)
        yield (
            f'<rect x="{left}" y="{y + self.height - 4:.1f}" width="{width * self.share:.1f}" '
            f'height="4" rx="2" class="share"><title>{escape(self.meaning)}</title></rect>'
        )


class _Graph:
    """The edges of a cell: its nodes in a row, edges that pass nodes as arcs above it."""

    def __init__(self, layer: LayerTime) -> None:
        self.nodes = _in_order(layer)
        self.position = {node: i for i, node in enumerate(self.nodes)}
        self.labels: dict[tuple[int, int], str] = {}
        for source, target, label in layer.edges:
            ends = self.position[source], self.position[target]
            known = self.labels.get(ends)
            self.labels[ends] = label if known is None else f"{known} + {label}"
        self.longest = max((end - start for start, end in self.labels), default=1)

    @property
    def height(self) -> float:
        return LEVEL * self.longest + 70

    def draw(self, left: float, top: float, width: float) -> Iterator[str]:
        ends = [_node_width(self.nodes[i]) / 2 for i in (0, -1)] if self.nodes else [0.0, 0.0]
        step = min(STEP, (width - sum(ends)) / max(len(self.nodes) - 1, 1))
        first = left + (width - sum(ends) - step * (len(self.nodes) - 1)) / 2 + ends[0]
        xs = [first + step * i for i in range(len(self.nodes))]
        y = top + LEVEL * self.longest + 16
        arcs = sorted(self.labels.items(), key=lambda item: item[0][0] - item[0][1])
        for (start, end), _ in arcs:
            yield self._edge(xs, y, start, end)
        for node, x in zip(self.nodes, xs, strict=True):
            half = _node_width(node) / 2
            yield (
                f'<rect x="{x - half:.1f}" y="{y - 12:.1f}" width="{2 * half:.1f}" height="24" '
                f'rx="12" class="node"/>'
            )
            yield _text(x, y + 4, node, "small middle")
        is_crowded = max(map(_label_width, self.labels.values()), default=0) > step
        for (start, end), label in arcs:  # last, so that no line crosses a word
            if not label:
                continue
            middle = (xs[start] + xs[end]) / 2
            if end - start > 1:
                apex = y - LEVEL * (end - start)
                half = _label_width(label) / 2
                yield (
                    f'<rect x="{middle - half:.1f}" y="{apex - 8:.1f}" width="{2 * half:.1f}" '
                    f'height="16" class="behind"/>'
                )
                yield _text(middle, apex + 4, label, "small middle")
            else:  # below the row; by turns, where long words have no room beside each other
                lower = 15 * (start % 2) if is_crowded else 0
                yield _text(middle, y + 28 + lower, label, "small middle")

    def _edge(self, xs: Sequence[float], y: float, start: int, end: int) -> str:
        if end - start == 1:
            halves = (_node_width(self.nodes[i]) / 2 for i in (start, end))
            x1, x2 = xs[start] + next(halves), xs[end] - next(halves) - 1
            path = f"M{x1:.1f} {y:.1f}H{x2:.1f}"
        else:
            # The apex of such a curve lies at three quarters of the height of its control points.
            top = y - 12 - (LEVEL * (end - start) - 12) * 4 / 3
            path = (
                f"M{xs[start]:.1f} {y - 12:.1f}C{xs[start]:.1f} {top:.1f} "
                f"{xs[end]:.1f} {top:.1f} {xs[end]:.1f} {y - 13:.1f}"
            )
        return f'<path d="{path}" class="edge" marker-end="url(#head)"/>'


def _in_order(layer: LayerTime) -> list[str]:
    """The nodes so that every edge leads on; else in the order in which the edges name them.

    Raises:
        ValueError: There is no such order.
    """
    edges = layer.edges
    left = list(dict.fromkeys(node for source, target, _ in edges for node in (source, target)))
    ordered: list[str] = []
    while left:
        behind = {target for source, target, _ in edges if source in left}
        node = next((node for node in left if node not in behind), None)
        if node is None:
            raise ValueError(f"the edges of {layer.block} form a ring: {list(edges)}")
        left.remove(node)
        ordered.append(node)
    return ordered


def _node_width(node: str) -> float:
    return max(24.0, CHARACTER * len(node) + 14)


def _label_width(label: str) -> float:
    return CHARACTER * len(label) + 6


def _text(x: float, y: float, text: str, classes: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{classes}">{escape(text)}</text>'
