import re
from dataclasses import dataclass
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from torch import nn

from hwnas.blocks import ClassifierHead, ConvBlock
from hwnas.drawing import architecture_svg, described, layers_of, layers_svg
from hwnas.networks import counts
from hwnas.spaces.base import Architecture

SVG = "{http://www.w3.org/2000/svg}"
CONVS = Architecture(
    (1, 8, 8),
    (
        ConvBlock(8, 3, 2, "relu"),
        ConvBlock(16, 3, 1, "relu"),
        ClassifierHead(16, 10, "relu"),
    ),
)


@dataclass(frozen=True)
class Cell:
    """Four nodes; the edges are as its user says."""

    ways: tuple[tuple[object, object, str], ...]
    note: str = "a < b & c"

    def build(self, in_shape):
        return nn.Conv2d(in_shape[0], in_shape[0], 1, bias=False)

    def edges(self):
        return self.ways


def drawn(architecture):
    svg = architecture_svg(architecture, title="one <of> many")
    return svg, ElementTree.fromstring(svg)


def texts(root):
    return ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]


def test_every_block_is_a_box_with_its_fields_and_what_it_costs():
    _, root = drawn(CONVS)
    words = texts(root)
    assert [w for w in words if w in ("ConvBlock", "ClassifierHead")] == [
        "ConvBlock", "ConvBlock", "ClassifierHead",
    ]  # fmt: skip
    assert "out_channels=8, kernel_size=3, stride=2, activation=relu" in words
    # The first convolution, by hand: 8·9 weights and 2·8 of the norm; 4·4 places of 72 products.
    assert "88 params, 1,152 MACs" in words
    assert len(list(root.iter(f"{SVG}rect"))) == 1 + 2 * 3  # the ground; a box and a bar each


def test_equal_blocks_in_a_row_share_a_box():
    block = ConvBlock(8, 3, 1, "relu")
    stack = Architecture((8, 4, 4), (block, block, block, ConvBlock(8, 3, 2, "relu"), block))
    _, root = drawn(stack)
    words = texts(root)
    # By hand: 8·8·9 weights and 2·8 of the norm; 4·4 places of 576 products.
    assert "3 × ConvBlock" in words and "3 × 592 params, 3 × 9,216 MACs" in words
    assert words.count("ConvBlock") == 2  # the last one is equal, but of a smaller input
    (wide, *_) = [rect for rect in root.iter(f"{SVG}rect") if rect.get("class") == "share"]
    share = 3 * 9216 / counts(stack).macs
    assert float(wide.get("width")) == pytest.approx(share * (760 - 2 * 32), abs=0.1)


def test_the_shapes_stand_between_the_boxes_and_the_totals_on_top():
    _, root = drawn(CONVS)
    words = texts(root)
    assert words.index("input 1×8×8") < words.index("8×4×4") < words.index("16×4×4")
    assert words.index("16×4×4") < words.index("10") < words.index("output")
    total = counts(CONVS)
    assert words[0] == "one <of> many"
    assert words[1] == f"{total.params:,} parameters, {total.macs:,} MACs"


def test_the_bars_are_as_long_as_the_share_of_the_macs():
    _, root = drawn(CONVS)
    boxes = [rect for rect in root.iter(f"{SVG}rect") if rect.get("class") == "box"]
    bars = [rect for rect in root.iter(f"{SVG}rect") if rect.get("class") == "share"]
    shares = [
        float(b.get("width")) / float(x.get("width")) for b, x in zip(bars, boxes, strict=True)
    ]
    total = counts(CONVS).macs
    expected = [layer.counts.macs / total for layer in layers_of(CONVS)]
    assert shares == pytest.approx(expected, abs=1e-3) and sum(shares) == pytest.approx(1, abs=1e-3)


def test_no_box_covers_another_and_the_picture_holds_them_all():
    _, root = drawn(CONVS)
    boxes = [rect for rect in root.iter(f"{SVG}rect") if rect.get("class") == "box"]
    edges = [(float(b.get("y")), float(b.get("y")) + float(b.get("height"))) for b in boxes]
    assert all(low + 20 < high for (_, low), (high, _) in pairwise(edges))
    assert edges[-1][1] < float(root.get("height"))


def test_the_drawing_needs_nothing_besides_and_has_both_schemes():
    svg, _ = drawn(CONVS)
    assert not re.search(r"<script|<image|@import|url\((?!#)|href", svg)
    assert "prefers-color-scheme: dark" in svg
    assert svg.count("http") == 1  # the namespace


def test_what_users_name_is_escaped():
    cell = Cell((("in", "out", "<b>&</b>"),))
    svg, root = drawn(Architecture((4, 8, 8), (cell,)))
    assert "<b>" not in svg
    assert "<b>&</b>" in texts(root) and any("note=a < b & c" in text for text in texts(root))


def test_a_cell_shows_its_nodes_in_order_and_every_edge_once():
    # Named out of order; two operations on one edge.
    ways = ((1, 2, "conv"), (0, 2, "skip"), (0, 1, "pool"), (1, 2, "skip"), (2, 3, "conv"))
    _, root = drawn(Architecture((4, 8, 8), (Cell(ways),)))
    nodes = [rect for rect in root.iter(f"{SVG}rect") if rect.get("class") == "node"]
    xs = [float(node.get("x")) for node in nodes]
    assert len(nodes) == 4 and xs == sorted(xs)
    words = texts(root)
    assert [w for w in words if w in "0123"] == ["0", "1", "2", "3"]
    assert sorted(w for w in words if w in ("conv", "skip", "pool", "conv + skip")) == [
        "conv", "conv + skip", "pool", "skip",
    ]  # fmt: skip
    # An arrow into the box, one out of it, and the cell's four distinct edges.
    assert len([p for p in root.iter(f"{SVG}path") if p.get("class") == "edge"]) == 2 + 4


def test_a_graph_stays_within_its_box():
    ways = tuple((i, j, "sep_conv_5x5") for j in range(9) for i in range(j))
    _, root = drawn(Architecture((4, 8, 8), (Cell(ways),)))
    (box,) = [rect for rect in root.iter(f"{SVG}rect") if rect.get("class") == "box"]
    left, top = float(box.get("x")), float(box.get("y"))
    right, bottom = left + float(box.get("width")), top + float(box.get("height"))
    for rect in root.iter(f"{SVG}rect"):
        if rect.get("class") in ("node", "behind"):
            x, y = float(rect.get("x")), float(rect.get("y"))
            assert left <= x and x + float(rect.get("width")) <= right
            assert top <= y and y + float(rect.get("height")) <= bottom


def test_edges_that_form_a_ring_are_refused():
    cell = Cell((("a", "b", ""), ("b", "a", "")))
    with pytest.raises(ValueError, match="edges of Cell form a ring"):
        drawn(Architecture((4, 8, 8), (cell,)))


def test_a_block_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        drawn(Architecture((3,), (ConvBlock(8, 3, 1, "relu"),)))


def test_where_all_times_are_known_the_bars_are_shares_of_them():
    layers = [described(layer, ms) for layer, ms in zip(layers_of(CONVS), (1, 2, 5), strict=True)]
    root = ElementTree.fromstring(layers_svg(layers, in_shape="1×8×8", title="t"))
    bars = [rect for rect in root.iter(f"{SVG}rect") if rect.get("class") == "share"]
    told = [bar.find(f"{SVG}title").text for bar in bars]
    assert told == [
        "1,000 µs, 12 % of the time", "2,000 µs, 25 % of the time", "5,000 µs, 62 % of the time",
    ]  # fmt: skip
    assert float(bars[1].get("width")) == pytest.approx(0.25 * (760 - 2 * 32))


def test_one_unknown_time_makes_the_bars_shares_of_the_macs():
    layers = [
        described(layer, ms) for layer, ms in zip(layers_of(CONVS), (1, None, 5), strict=True)
    ]
    root = ElementTree.fromstring(layers_svg(layers, in_shape="1×8×8", title="t"))
    titles = [rect.find(f"{SVG}title") for rect in root.iter(f"{SVG}rect")]
    assert all("of the MACs" in title.text for title in titles if title is not None)


@pytest.mark.parametrize("width", [350, 600, 760])
def test_no_line_of_text_is_longer_than_its_box(width):
    cell = Cell(((0, 1, "conv"),), note="word " * 60)
    layers = [described(layer, 1.0) for layer in layers_of(Architecture((4, 8, 8), (cell,)))]
    root = ElementTree.fromstring(layers_svg(layers, in_shape="4×8×8", title="t", width=width))
    assert root.get("width") == str(width)
    lines = [text for text in root.iter(f"{SVG}text") if text.get("class") == "small soft"]
    assert len(lines) > 3
    for line in lines:
        assert float(line.get("x")) + 6.0 * len(line.text) < width
