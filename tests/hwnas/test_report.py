import json
import re
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import tomli_w
from plotly.offline import get_plotlyjs

from hwnas.errors import RunFolderError
from hwnas.pareto_svg import write_pareto_svg
from hwnas.report import write_report
from hwnas.report_data import hypervolume_by_trial, pareto_view, read_run
from hwnas.report_sections import N_TRIALS_SHOWN

SVG = "{http://www.w3.org/2000/svg}"
CONFIG = {
    "search": {"data": "digits", "trials": 4, "seed": 0},
    "reproduce": {"command": "hwnas search --data digits"},
    "budget": {"latency_ms": 0.2, "fastest_ms": 0.05, "median_ms": 0.3, "slowest_ms": 1.0},
    "target": {"runtime": "onnxruntime", "version": "1.31.0", "device": "Toy CPU"},
    "versions": {"torch": "2.13.0"},
    "spent": {"search_seconds": 90.0, "train_seconds": 30.0, "n_trials": 4},
    "space": {"name": "toy", "size": 6, "choices": {"depth": [1, 2, 3], "kernel": [3, 5]}},
}


def network(name: str, latency_ms: float, accuracy: float, **more: object) -> dict[str, object]:
    return {
        "name": name,
        "onnx": f"{name}.onnx",
        "val_accuracy": accuracy,
        "test_accuracy": accuracy - 0.01,
        "latency_ms": latency_ms,
        "predicted_latency_ms": latency_ms * 1.05,
        "predicted_low_ms": latency_ms * 0.98,
        "predicted_high_ms": latency_ms * 1.12,
        "peak_memory_bytes": 1_234_000,
        "params": 12_345,
        "macs": 1_234_567,
        "parity_max_abs_error": 2e-6,
        "meets_budget": True,
        "genotype": json.dumps([2, 1]),
        "kind": "searched",
        "verdict": "front",
    } | more


def trial(number: int, latency_ms: float, accuracy: float | None) -> dict[str, object]:
    return {
        "number": number,
        "state": "failed" if accuracy is None else "complete",
        "genotype": json.dumps([0, 1]),
        "val_accuracy": accuracy,
        "predicted_latency_ms": latency_ms,
        "predicted_low_ms": latency_ms * 0.9,
        "predicted_high_ms": latency_ms * 1.1,
        "failure": "" if accuracy is not None else "loss became NaN",
    }


TRIALS = [trial(0, 0.1, 0.86), trial(1, 0.15, 0.88), trial(2, 0.15, None), trial(3, 0.19, 0.87)]
NETWORKS = [
    network("fast", 0.10, 0.90),
    network("good", 0.19, 0.96),
    network("slow", 0.22, 0.97, verdict="over budget: measured 0.22 ms > 0.2 ms"),
    network("lenet", 0.38, 0.95, kind="baseline", verdict="baseline"),
]


def write_run(folder: Path, networks: list[dict[str, object]] = NETWORKS) -> Path:
    candidates = pd.DataFrame(networks)
    candidates.to_csv(folder / "candidates.csv", index=False)
    front = candidates[candidates["verdict"] == "front"].drop(columns=["kind", "verdict"])
    front.to_csv(folder / "front.csv", index=False)
    pd.DataFrame(TRIALS).to_csv(folder / "trials.csv", index=False)
    (folder / "config.toml").write_text(tomli_w.dumps(CONFIG), encoding="utf-8")
    return folder


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return write_run(tmp_path)


def read_page(folder: Path) -> str:
    """The page without the text of plotly's own library."""
    page = write_report(folder).read_text(encoding="utf-8")
    assert page.count(get_plotlyjs()) == 1
    return page.replace(get_plotlyjs(), "")


class Tags(HTMLParser):
    """All tags of a page with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_headline_says_how_many_how_good_and_against_what(run_folder: Path) -> None:
    # "good" has the best validation accuracy, 0.96; its test accuracy is 0.95.
    assert (
        "<h1>2 networks within 0.200 ms on Toy CPU; best 95.0 % test accuracy at 0.190 ms; "
        "hand-made baseline 94.0 % at 0.380 ms</h1>"
    ) in read_page(run_folder)


def test_speed_against_the_baseline_is_that_of_the_fastest_member_no_worse(
    run_folder: Path,
) -> None:
    # "fast" is less accurate than "lenet"; "good" is not, and 0.38 / 0.19 = 2.
    assert "<b>2.0×</b>" in read_page(run_folder)


def test_a_network_is_picked_by_validation_not_by_test_accuracy(tmp_path: Path) -> None:
    lucky = network("lucky", 0.12, 0.91, test_accuracy=0.999)
    page = read_page(write_run(tmp_path, [lucky, *NETWORKS]))
    assert "best 95.0 % test accuracy" in page


def test_page_shows_numbers_choices_reasons_and_record(run_folder: Path) -> None:
    page = read_page(run_folder)
    for text in (
        '<a href="./good.onnx">good</a>',
        "0.200 [0.186, 0.213]",  # 0.19 · 1.05, 0.98, 1.12
        "5.0 %",  # slack of "good": 1 − 0.19 / 0.2
        "12,345",
        "1,234,567",
        "2.0e-06",
        escape("over budget: measured 0.22 ms > 0.2 ms"),
        "loss became NaN",
        "1 min 30 s (75%)",  # of 120 s
        "hwnas search --data digits",
        "2.13.0",
        "depth=1, kernel=5",  # genotype [0, 1]
    ):
        assert text in page


def test_three_charts_are_drawn_and_their_numbers_are_in_tables(run_folder: Path) -> None:
    page = read_page(run_folder)
    assert re.findall(r'Plotly\.newPlot\(\s*"(\w+)"', page) == [
        "pareto",
        "prediction",
        "hypervolume",
    ]
    assert page.count("<tr><td class=text>") >= len(NETWORKS) + len(TRIALS)


def test_prediction_errors_are_counted(run_folder: Path) -> None:
    assert (
        "Of 4 measured, 4 within ±10% of the prediction, 4 within the predicted interval; "
        "mean error 5.0 %."
    ) in read_page(run_folder)


def test_page_loads_nothing_from_elsewhere(run_folder: Path) -> None:
    page = read_page(run_folder)
    for tag, attributes in Tags(page).found:
        assert "src" not in attributes, tag
        assert (attributes.get("href") or "./").startswith("./")
        assert tag not in {"link", "iframe", "object", "base"}
    assert "default-src 'none'" in page
    assert not re.search(r"url\(|@import|fetch\(", page)


def test_same_files_give_the_same_page(run_folder: Path) -> None:
    first = write_report(run_folder).read_bytes()
    assert write_report(run_folder).read_bytes() == first


def test_text_from_files_is_never_markup(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'"
    write_run(tmp_path, [network(evil, 0.1, 0.9, onnx="javascript:alert(3)", genotype=evil)])
    trials = pd.DataFrame([*TRIALS, trial(4, 0.1, None) | {"failure": evil}])
    trials.to_csv(tmp_path / "trials.csv", index=False)
    config = {name: dict.fromkeys((evil, "device", "command"), evil) for name in CONFIG}
    (tmp_path / "config.toml").write_text(tomli_w.dumps(config), encoding="utf-8")
    page = read_page(tmp_path)
    tags = Tags(page).found
    assert "img" not in {tag for tag, _ in tags}
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    assert [a["href"] for tag, a in tags if tag == "a"] == ["./javascript%3Aalert%283%29"]
    # One script for the library and one for each chart; plotly writes "<" as <.
    assert page.count("<script") == page.count("</script>") == 4
    ElementTree.parse(write_pareto_svg(tmp_path, tmp_path / "pareto.svg"))


@pytest.mark.parametrize("lost", ["front.csv", "candidates.csv", "trials.csv", "config.toml"])
def test_page_without_one_file_names_it(run_folder: Path, lost: str) -> None:
    (run_folder / lost).unlink()
    assert f"there is no {lost}" in read_page(run_folder)


@pytest.mark.parametrize("kept", ["front.csv", "candidates.csv", "trials.csv", "config.toml"])
def test_page_is_written_from_any_single_file(run_folder: Path, kept: str) -> None:
    for path in run_folder.iterdir():
        if path.name != kept:
            path.unlink()
    assert "there is no" in read_page(run_folder)


def test_interrupted_search_is_reported_with_its_best_trial(run_folder: Path) -> None:
    (run_folder / "front.csv").unlink()
    (run_folder / "candidates.csv").write_text("")  # cut off before its header
    pd.DataFrame(TRIALS[:2]).to_csv(run_folder / "trials.csv", index=False)
    page = read_page(run_folder)
    assert "the best of 2 trials so far: 88.0 % validation accuracy" in page
    assert "there is no candidates.csv, no front.csv" in page
    assert "The record holds 2 of the 4 trials asked for." in page


def test_empty_front_says_what_was_nearest(tmp_path: Path) -> None:
    page = read_page(write_run(tmp_path, NETWORKS[2:]))
    assert "No network within 0.200 ms on Toy CPU held in verification" in page
    assert "the fastest that was measured needs 0.220 ms" in page


def test_single_member_without_budget_or_prediction(tmp_path: Path) -> None:
    nothing = dict.fromkeys(("predicted_latency_ms", "predicted_low_ms", "predicted_high_ms"))
    write_run(tmp_path, [network("only", 0.1, 0.9) | nothing])
    (tmp_path / "config.toml").write_text("")
    (tmp_path / "trials.csv").unlink()
    page = read_page(tmp_path)
    assert "<h1>1 network on the target; best 89.0 % test accuracy at 0.100 ms</h1>" in page
    assert "– [–, –]" in page


def test_long_record_is_cut_and_says_so(run_folder: Path) -> None:
    n = N_TRIALS_SHOWN + 5
    pd.DataFrame([trial(i, 0.1, 0.5) for i in range(n)]).to_csv(
        run_folder / "trials.csv", index=False
    )
    assert f"{n} trials, the first {N_TRIALS_SHOWN} here" in read_page(run_folder)


def test_charts_show_trials_of_the_longest_training_only(run_folder: Path) -> None:
    part = [trial(i, 0.1, 0.5) | {"share": 1 / 9} for i in range(9)]
    whole = [trial(i, 0.1, 0.9) | {"share": 1.0} for i in range(9, 12)]
    pd.DataFrame([*part, *whole]).to_csv(run_folder / "trials.csv", index=False)
    assert list(read_run(run_folder).complete["number"]) == [9, 10, 11]
    page = read_page(run_folder)
    assert "12 trials" in page
    assert "11.1 %" in page


def test_a_diverged_trial_does_not_press_the_front_together(run_folder: Path) -> None:
    trials = [trial(i, 0.1, 0.88) for i in range(30)] + [trial(30, 0.1, 0.1)]
    pd.DataFrame(trials).to_csv(run_folder / "trials.csv", index=False)
    view = pareto_view(read_run(run_folder))
    assert 0.8 < view.low_accuracy < 0.88
    assert "1 trial lies below the part that is shown" in read_page(run_folder)


def test_a_network_called_na_keeps_its_name(tmp_path: Path) -> None:
    assert list(read_run(write_run(tmp_path, [network("NA", 0.1, 0.9)])).front["name"]) == ["NA"]


def test_hypervolume_never_falls_and_is_that_of_the_boxes() -> None:
    trials = pd.DataFrame([trial(0, 0.1, 0.5), trial(1, 0.05, 0.4), trial(2, 0.3, 1.0)])
    # Reference (0.2 ms, 0): 0.5 · 0.5, then a second box 0.25 wide and 0.4 high to its left,
    # then a trial slower than the reference.
    expected = [0.25, 0.25 + 0.25 * 0.4, 0.35]
    np.testing.assert_allclose(hypervolume_by_trial(trials, reference_ms=0.2), expected)


@pytest.mark.parametrize("make", [write_report, lambda f: write_pareto_svg(f, f / "pareto.svg")])
def test_a_folder_that_is_no_run_folder_is_an_error(tmp_path: Path, make) -> None:
    with pytest.raises(RunFolderError, match="is no run folder: it holds none of"):
        make(tmp_path)
    with pytest.raises(RunFolderError, match="is no folder"):
        make(tmp_path / "absent")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.toml", "[search", "is no TOML file"),
        ("front.csv", 'name,latency_ms\n"cut', "is no CSV file"),
        ("front.csv", "name,latency_ms\na,fast", "column 'latency_ms' holds no number"),
    ],
)
def test_a_damaged_file_is_named(run_folder: Path, name: str, content: str, message: str) -> None:
    (run_folder / name).write_text(content)
    with pytest.raises(RunFolderError, match=message) as error:
        write_report(run_folder)
    assert name in str(error.value)


def test_svg_draws_every_network_and_trial_on_a_white_ground(run_folder: Path) -> None:
    root = ElementTree.parse(write_pareto_svg(run_folder, run_folder / "pareto.svg")).getroot()
    assert root.find(f"{SVG}rect").get("fill") == "#fff"
    classes = [element.get("class") for element in root]  # the legend's marks lie deeper
    counts = {name: classes.count(name) for name in ("front", "trial", "baseline", "removed")}
    assert counts == {"front": 2, "trial": 3, "baseline": 1, "removed": 1}
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert "budget 0.200 ms" in texts
    assert "96.0 % at 0.190 ms" in texts


def test_svg_without_anything_trained_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[search]\n")
    with pytest.raises(RunFolderError, match="nothing to draw yet"):
        write_pareto_svg(tmp_path, tmp_path / "pareto.svg")
    assert not (tmp_path / "pareto.svg").exists()
