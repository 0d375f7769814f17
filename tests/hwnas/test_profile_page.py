import json
import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser

import numpy as np
import pytest

from hwnas.kernel_charts import (
    MAX_POINTS,
    OTHERS,
    OTHERS_CLASS,
    kind_classes,
    lanes_of,
    sample_groups,
    sample_range_ms,
    samples_chart,
    size_chart,
    squarified,
    timeline_chart,
    treemap_chart,
)
from hwnas.profile_page import N_ROWS, headline, profile_page
from hwnas.profile_parts import kind_of, mean_rate, parts_of, slow_for_size, time_by_kind
from hwnas.report.page import N_KINDS, SCRIPT, Hints
from profilers.kernels import Kernel, Tensor
from profilers.measurement import KernelLatency, NetworkMeasurement
from profilers.overhead import Overhead
from profilers.targets import Target
from profilers.timing import LatencySamples

TARGET = Target("onnxruntime-cpu", "1.31", "fp32", 1, 1, "0123456789ab", "Toy CPU (2 cores)")
OVERHEAD = Overhead(per_run_ms=0.05, per_kernel_ms=-0.01, n_networks=10)


def tensor(*shape: int) -> Tensor:
    return Tensor("float", shape)


def conv(channels: int, size: int, window: int, *, group: int = 1) -> Kernel:
    """As many channels out as in."""
    x = tensor(1, channels, size, size)
    weight = tensor(channels, channels // group, window, window)
    return Kernel("com.microsoft.nchwc:Conv", (("group", group),), (x, weight), (x,))


def relu(size: int) -> Kernel:
    return Kernel("Relu", (), (tensor(1, size),), (tensor(1, size),))


# 1×1: 64 · 16 · 16 = 16,384 MACs; depthwise: 64 · 16 · 9 = 9,216; Relu: 2 · 4 · 1000 bytes.
KERNELS = (
    ("stem", conv(16, 8, 1), 0.4),
    ("deep", conv(16, 8, 3, group=16), 0.9),
    ("act", relu(1000), 0.2),
    ("head", conv(16, 8, 1), 0.5),
)


def samples_of(wall_ms, **changes) -> LatencySamples:
    wall_ms = np.array(wall_ms, dtype=np.float64)
    zeros = np.zeros(len(wall_ms), dtype=np.int64)
    fields = {"cpu_ms": wall_ms, "switches": zeros, "faults": zeros, "chunk": zeros,
              "slowdown": np.ones(len(wall_ms))}  # fmt: skip
    return LatencySamples(wall_ms, **fields | changes)


def network(kernels=KERNELS, **changes) -> NetworkMeasurement:
    fields = {
        "name": "toy",
        "digest": "0f" * 32,
        "target": TARGET,
        "samples": samples_of(np.linspace(1.99, 2.01, 41)),
        "kernels": tuple(KernelLatency(name, kernel, ms, 9) for name, kernel, ms in kernels),
        "peak_memory_bytes": 5_000_000,
    }
    return NetworkMeasurement(**fields | changes)


def page_of(measurement: NetworkMeasurement, **options) -> str:
    return profile_page(measurement, OVERHEAD, **options)


class Drawn(HTMLParser):
    """The shapes of the widest drawing of a chart, each with its attributes and what is told."""

    def __init__(self, chart: str, hints: Hints) -> None:
        super().__init__()
        self.told = json.loads(hints.to_html().partition(">")[2].partition("</script>")[0])
        self.shapes: list[dict[str, str]] = []
        self.texts: list[str] = []
        self.feed(chart.partition("</svg>")[0])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        shape = {"tag": tag} | {name: value or "" for name, value in attrs}
        if "data-hint" in shape:
            shape["told"] = self.told[int(shape["data-hint"])]
        self.shapes.append(shape)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def of(self, tag: str, told: str = "") -> list[dict[str, str]]:
        return [s for s in self.shapes if s["tag"] == tag and told in s.get("told", "")]


def drawn(chart, *arguments) -> Drawn:
    hints = Hints()
    return Drawn(chart(*arguments, hints), hints)


def rows_of(page: str, title: str) -> list[list[str]]:
    """The cells of a section's table."""
    body = page[page.index(f"<h2>{title}</h2>") :]
    body = body[: body.index("</section>")]
    return [
        [re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)]
        for row in re.findall(r"<tr>(<td.*?)</tr>", body)
    ]


@pytest.fixture(scope="module")
def page() -> str:
    return page_of(network())


class TestKinds:
    @pytest.mark.parametrize(
        ("kernel", "expected"),
        [
            (conv(16, 8, 1), "Conv 1×1"),
            (conv(16, 8, 3, group=16), "Depthwise conv 3×3"),
            (conv(16, 8, 3, group=4), "Grouped conv 3×3"),
            (relu(4), "Relu"),
            (Kernel("com.microsoft:FusedMatMul", (), (tensor(2, 2),), (tensor(2, 2),)),
             "FusedMatMul"),
            (Kernel("Conv", (), (tensor(1, 4, 9), tensor(8, 4, 5)), (tensor(1, 8, 9),)), "Conv 5"),
            # OpenVINO: (group, M/group, C/group, kH, kW)
            (Kernel("Convolution", (), (tensor(1, 4, 9, 9), tensor(4, 1, 1, 3, 5)),
                    (tensor(1, 4, 9, 9),)), "Depthwise conv 3×5"),
            # quantized: input, its scale and zero point, then the weight
            (Kernel("QLinearConv", (("group", 1),),
                    (tensor(1, 4, 9, 9), tensor(), tensor(), tensor(4, 4, 1, 1)),
                    (tensor(1, 4, 9, 9),)), "Conv 1×1"),
            (Kernel("Conv", (), (tensor(1, 4, 9, 9),), (tensor(1, 4, 9, 9),)), "Conv"),
            (Kernel("SequenceEmpty", (), (), ()), "SequenceEmpty"),
        ],
    )  # fmt: skip
    def test_a_kernel_is_called_by_what_makes_it_slow(self, kernel, expected):
        assert kind_of(kernel) == expected

    def test_time_by_kind_is_a_sum_and_falls(self):
        by_kind = time_by_kind(parts_of(network()))
        assert list(by_kind) == ["Conv 1×1", "Depthwise conv 3×3", "Relu"]
        assert list(by_kind.values()) == pytest.approx([0.9, 0.9, 0.2])

    def test_kinds_beyond_the_colours_share_one_colour_and_one_lane(self):
        many = [(f"k{i}", replace(relu(8), kind=f"Kind{i}"), 1.0 + i) for i in range(12)]
        parts = parts_of(network(many))
        classes = kind_classes(parts)
        assert [classes[f"Kind{i}"] for i in (11, 5)] == ["k0", "k6"]
        assert {classes[f"Kind{i}"] for i in range(5)} == {OTHERS_CLASS}
        assert list(lanes_of(parts)) == [*(f"Kind{i}" for i in range(11, 4, -1)), OTHERS]
        found = drawn(timeline_chart, parts, None, None)
        assert len({box["y"] for box in found.of("rect")}) == N_KINDS
        assert OTHERS in found.texts

    def test_as_many_kinds_as_colours_have_a_lane_each(self):
        some = [(f"k{i}", replace(relu(8), kind=f"Kind{i}"), 1.0 + i) for i in range(N_KINDS)]
        assert OTHERS not in lanes_of(parts_of(network(some)))


class TestTimeline:
    def test_kernels_stand_end_to_end_each_in_the_lane_of_its_kind(self):
        found = drawn(timeline_chart, parts_of(network()), None, None)
        bars = [found.of("rect", f"\n{name}\n")[0] for name, _, _ in KERNELS]
        lanes = [bar["y"] for bar in bars]
        assert lanes[0] == lanes[3] and len(set(lanes)) == 3
        ends = [(float(bar["x"]), float(bar["x"]) + float(bar["width"])) for bar in bars]
        assert [end for _, end in ends[:3]] == pytest.approx([start for start, _ in ends[1:]])
        widths = np.array([end - start for start, end in ends])
        assert widths / widths.sum() == pytest.approx(np.array([0.4, 0.9, 0.2, 0.5]) / 2, abs=1e-3)

    def test_memory_is_a_step_for_each_kernel_beside_the_measured_peak(self):
        in_use = [10**6, 4 * 10**6, 0, 2 * 10**6]
        found = drawn(timeline_chart, parts_of(network()), in_use, 5_000_000)
        steps = found.of("rect", "in use")
        heights = np.array([float(step["height"]) for step in steps])
        assert heights / heights.max() == pytest.approx([0.25, 1, 0, 0.5], abs=5e-3)
        (peak,) = [s for s in found.of("line") if s["class"] == "budget"]
        bottom = float(steps[0]["y"]) + heights[0]
        assert (bottom - float(peak["y1"])) / heights[1] == pytest.approx(5 / 4, abs=5e-3)
        assert "measured peak 5.00 MB" in found.texts

    def test_memory_that_is_not_known_is_not_shown(self, page):
        assert "In use (MB)" not in page
        assert "In use (MB)" in page_of(network(), timeline_bytes=[1, 2, 3, 4])

    def test_memory_must_have_one_value_for_each_kernel(self):
        with pytest.raises(ValueError, match=r"one value for each of the 4 kernels of toy, got 3"):
            profile_page(network(), OVERHEAD, timeline_bytes=[1, 2, 3])


def test_the_tree_map_holds_every_kernel_in_its_kind_and_adds_up():
    found = drawn(treemap_chart, parts_of(network()))

    def ends(box):
        x, y, width, height = (float(box[key]) for key in ("x", "y", "width", "height"))
        return x, y, x + width, y + height

    kinds = [found.of("rect", f"{kind}\n4")[0] for kind in ("Conv 1×1", "Depthwise conv 3×3")]
    kinds += found.of("rect", "Relu\n10.0 %")
    areas = np.array([(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in map(ends, kinds)])
    assert areas / areas.sum() == pytest.approx([0.45, 0.45, 0.1], abs=1e-3)
    for name, _, _ in KERNELS:
        (leaf,) = found.of("rect", f"\n{name}\n")
        frame = next(k for k in kinds if k["class"] == f"{leaf['class']} frame")
        x1, y1, x2, y2 = ends(leaf)
        assert (
            ends(frame)[0] < x1 < x2 < ends(frame)[2] and ends(frame)[1] < y1 < y2 < ends(frame)[3]
        )
    assert "Conv 1×1  45.0 % of the time, 2×" in found.texts


@pytest.mark.parametrize("place", [(0.0, 0.0, 600.0, 400.0), (10.0, 5.0, 90.0, 700.0)])
def test_rectangles_fill_the_place_without_covering_each_other(place):
    values = sorted(np.random.default_rng(0).lognormal(0, 1.5, 40).tolist(), reverse=True)
    found = squarified(values, place)
    areas = np.array([width * height for _, _, width, height in found])
    assert areas / areas.sum() == pytest.approx(np.array(values) / sum(values))
    assert areas.sum() == pytest.approx(place[2] * place[3])
    left, top = np.array(found)[:, 0], np.array(found)[:, 1]
    right, bottom = left + np.array(found)[:, 2], top + np.array(found)[:, 3]
    assert left.min() == place[0] and right.max() == pytest.approx(place[0] + place[2])
    for i in range(40):
        for j in range(i):
            wide = min(right[i], right[j]) - max(left[i], left[j])
            high = min(bottom[i], bottom[j]) - max(top[i], top[j])
            assert min(wide, high) < 1e-6
    # Squares would be 1; rows as wide as the place, up to some thousands.
    ratios = [max(w / h, h / w) for _, _, w, h in found]
    assert np.median(ratios) < 1.6


class TestSlowForItsSize:
    def test_the_rate_is_that_of_all_together(self):
        products = [part for part in parts_of(network()) if part.macs]
        # (2 · 16,384 + 9,216) MACs in 1.8 ms
        assert mean_rate(products) == pytest.approx(41_984 / 1.8e-3)

    def test_the_worst_is_what_loses_most_time_and_not_what_takes_most(self, page):
        # At 41,984 MACs in 1.8 ms the depthwise one would take 0.395 ms of its 0.9.
        products = [part for part in parts_of(network()) if part.macs]
        assert [part.name for part in slow_for_size(products)] == ["deep"]
        assert "Most is lost in #2 Depthwise conv 3×3 (0.900 ms, 2.3× the line)." in page

    def test_the_order_is_that_of_the_time_lost(self):
        # 88,800 bytes in 6.3 ms: `a` would take 0.57 ms and loses 0.73, `b` 0.06 and loses 0.94.
        kernels = [("a", relu(1000), 1.3), ("b", relu(100), 1.0), ("c", relu(10_000), 4.0)]
        assert [part.name for part in slow_for_size(parts_of(network(kernels)))] == ["b", "a"]

    def test_where_all_are_alike_none_is_slow(self):
        parts = parts_of(network([(f"k{i}", conv(16, 8, 1), 0.5) for i in range(5)]))
        assert slow_for_size(parts) == []

    def test_a_loss_that_the_network_does_not_feel_is_not_named(self):
        # The tiny Relu has 1/100 of the other's rate, and 0.1 % of the time.
        kernels = [("big", relu(100_000), 10.0), ("tiny", relu(1), 0.01)]
        assert slow_for_size(parts_of(network(kernels))) == []

    def test_the_chart_has_the_line_and_every_kernel(self):
        parts = parts_of(network())
        products = [part for part in parts if part.macs]
        found = drawn(size_chart, products, "MACs", parts)
        dots = [found.of("circle", f"\n{name}\n")[0] for name in ("stem", "deep", "head")]
        xs, ys = (np.array([float(dot[key]) for dot in dots]) for key in ("cx", "cy"))
        assert xs[0] == xs[2] > xs[1] and ys[1] < ys[2] < ys[0]  # y grows downwards
        # Of a logarithmic axis: 0.4 to 0.5 to 0.9 ms.
        expected = np.log(0.9 / 0.5) / np.log(0.5 / 0.4)
        assert (ys[2] - ys[1]) / (ys[0] - ys[2]) == pytest.approx(expected, rel=0.01)
        (line,) = [s for s in found.of("line") if s["class"] == "equal"]
        at = (xs[0] - float(line["x1"])) / (float(line["x2"]) - float(line["x1"]))
        y = float(line["y1"]) + at * (float(line["y2"]) - float(line["y1"]))
        # At the mean rate 16,384 MACs take 702 µs.
        us = 400 * np.exp((ys[0] - y) / (ys[0] - ys[2]) * np.log(500 / 400))
        assert us == pytest.approx(16_384 / 41_984 * 1800, rel=0.01)
        assert "#2" in found.texts

    def test_kernels_without_macs_are_compared_by_bytes_if_they_matter(self, page):
        assert "reach together, 40.0 MB/s" in page  # 8,000 bytes in 0.2 ms
        light = [(name, kernel, 0.001 if name == "act" else ms) for name, kernel, ms in KERNELS]
        assert "Time against bytes" not in page_of(network(light))


class TestSamples:
    LOADED = samples_of(
        [2.0] * 20 + [9.0] * 10 + [2.0] * 10 + [2.5] * 10,
        switches=np.array([0] * 20 + [1] * 10 + [0] * 20),
        chunk=np.repeat(np.arange(5), 10),
    )

    def test_every_sample_is_in_one_group(self):
        groups = {name: mask for name, (_, mask) in sample_groups(self.LOADED).items()}
        assert np.sum(list(groups.values()), axis=0).tolist() == [1] * 50
        assert {name: int(mask.sum()) for name, mask in groups.items()} == {
            "undisturbed": 30,
            "lost the core": 10,
            "disturbed otherwise": 10,  # the chunk in which the machine was slow
        }

    def test_the_chart_ends_where_clean_runs_can_be_told_apart_and_says_what_is_above(self):
        low_ms, high_ms = sample_range_ms(self.LOADED)
        assert 1.9 < low_ms < 2.0
        assert 2.5 < high_ms < 3.0
        page = page_of(network(samples=self.LOADED))
        assert "10 took longer than is shown, up to 9.00 ms" in page

    def test_many_samples_are_thinned_but_all_are_in_the_histogram(self):
        n = 4 * MAX_POINTS
        found = drawn(samples_chart, samples_of(np.linspace(1.0, 1.01, n)))
        assert len(found.of("circle", "run ")) == MAX_POINTS
        counts = [int(bar["told"].split()[0].replace(",", "")) for bar in found.of("rect")]
        assert sum(counts) == n

    def test_one_sample_is_enough(self):
        page = page_of(network(samples=samples_of([2.0])))
        assert "too few samples for an interval" in page
        assert 'class="note"' in page  # the warning


class TestPage:
    def test_headline(self, page):
        expected = "toy takes 2.00 ms on Toy CPU (2 cores); 45.0 % of its kernels’ time is in "
        assert headline(network()) == f"{expected}2 × Conv 1×1"
        assert f"<h1>{escape(headline(network()))}</h1>" in page

    def test_cards(self):
        page = page_of(
            network(samples=TestSamples.LOADED, energy_mj=1.5, computed_peak_memory_bytes=4_900_000)
        )
        for text in (
            "<b>2.00 ms</b>", "between 2.00 and 2.00 ms (95 %)", "<b>9.00 ms</b>",
            "90th 9.00 ms, fastest 2.00 ms", "<b>40.0 %</b>", "lost the core in 10",
            "<b>42.0 kMAC</b>", "21.0 MMAC/s end to end", "<b>5.00 MB</b>",
            "4.90 MB from lifetimes", "<b>1.50 mJ</b>",
        ):  # fmt: skip
            assert text in page, text

    def test_a_quiet_measurement_has_no_note_and_a_disturbed_one_says_why(self, page):
        assert 'class="note"' not in page
        lost = samples_of([2.0] * 4 + [9.0] * 6, switches=np.array([0] * 4 + [1] * 6))
        assert "4 of 10 samples were undisturbed" in page_of(network(samples=lost))

    def test_kernels_and_overhead_are_set_against_the_latency(self, page):
        rows = dict(rows_of(page, "Do the kernels add up?"))
        assert rows == {
            "4 kernels, each in place": "2.00 ms",
            "overhead of a run": "0.0500 ms",
            "overhead of 4 kernels": "−0.0400 ms",
            "explained": "2.01 ms",
            "measured from end to end": "2.00 ms",
            "explained − measured": "+0.5 %",
        }

    def test_kernels_are_listed_by_falling_time(self, page):
        rows = rows_of(page, "All kernels")
        assert [row[1] for row in rows] == ["deep", "head", "stem", "act"]
        assert [row[3:8] for row in rows] == [
            ["2", "900", "45.0 %", "45.0 %", "9.22 k"],
            ["4", "500", "25.0 %", "70.0 %", "16.4 k"],
            ["1", "400", "20.0 %", "90.0 %", "16.4 k"],
            ["3", "200", "10.0 %", "100.0 %", "–"],
        ]

    def test_a_long_list_is_cut_and_says_so(self):
        page = page_of(network([(f"k{i}", relu(8), 0.01) for i in range(N_ROWS + 5)]))
        assert f"the first {N_ROWS} of {N_ROWS + 5}" in page
        assert len(rows_of(page, "All kernels")) == N_ROWS

    def test_all_charts_are_drawn(self, page):
        assert re.findall(r'class="large" role="img" aria-label="([^"]*)"', page) == [
            "Kernels in running order", "Time by kind of kernel, as area", "Time over MACs",
            "Time over bytes", "Time of every run",
        ]  # fmt: skip

    def test_a_network_without_kernels_still_has_its_samples(self):
        page = page_of(network([]), timeline_bytes=[])
        assert "no kernel runs" in page
        assert page.count('class="large"') == 1

    def test_the_same_values_give_the_same_page(self, page):
        assert page_of(network()) == page

    def test_it_is_small(self, page):
        assert len(page) < 100_000


class Tags(HTMLParser):
    """All tags of a page with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)><a href='//e.org'>\"'"


@pytest.fixture(scope="module")
def evil_page() -> str:
    kernels = [
        (EVIL, replace(relu(8), kind=EVIL), 0.5),
        ("k", replace(relu(8), attributes=(("activation", EVIL),)), 0.5),
    ]
    target = replace(TARGET, device_name=EVIL)
    return page_of(
        network(kernels, name=EVIL, target=target, tags={EVIL: EVIL}), timeline_bytes=[1, 2]
    )


class TestStrangersModels:
    def test_names_are_never_markup(self, evil_page):
        tags = Tags(evil_page).found
        assert not {"img", "a"} & {tag for tag, _ in tags}
        assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
        assert evil_page.count("<script") == evil_page.count("</script>") == 2  # and the hints

    def test_nor_are_they_in_what_is_told_of_marks(self, evil_page):
        # The script shows them as text.
        hints = evil_page.partition('id="hints">')[2].partition("</script>")[0]
        assert "<" not in hints and any(EVIL in told for told in json.loads(hints))
        assert "innerHTML" not in SCRIPT

    def test_nothing_is_loaded_from_elsewhere(self, evil_page):
        for tag, attributes in Tags(evil_page).found:
            assert not {"src", "href"} & set(attributes), tag
            assert tag not in {"link", "iframe", "object", "base"}
        assert "default-src 'none'" in evil_page
        assert not re.search(r"url\(|@import|fetch\(", evil_page)
