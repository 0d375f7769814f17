import base64
import hashlib
import json
import re
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from hwnas.errors import RunFolderError
from hwnas.report.data import hypervolume_by_trial, pareto_view
from hwnas.report.page import REPORT_STYLE, SCRIPT
from hwnas.report.pareto_svg import write_pareto_svg
from hwnas.report.read import read_run
from hwnas.report.sections import N_TRIALS_SHOWN
from hwnas.report.write import write_report

SVG = "{http://www.w3.org/2000/svg}"


def read_page(folder: Path) -> str:
    """The page without its style and its script, of which the same part stands in every page."""
    page = write_report(folder).read_text(encoding="utf-8").replace("\u00a0", " ")
    for ours in (SCRIPT, REPORT_STYLE):
        assert page.count(ours) == 1
        page = page.replace(ours, "")
    return page


def hints_of(page: str) -> list[str]:
    """What is told of the marks of the charts."""
    (data,) = re.findall(r'id="hints">(.*?)</script>', page)
    hints: list[str] = json.loads(data)
    return hints


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


def test_a_network_is_picked_by_validation_not_by_test_accuracy(tmp_path: Path, runs) -> None:
    lucky = runs.network("lucky", 0.12, 0.91, test_accuracy=0.999)
    page = read_page(runs.write(tmp_path, [lucky, *runs.networks]))
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
        "<b>1 min 30 s</b> 75%",  # of 120 s
        "hwnas search --data digits",
        "2.13.0",
        "depth=1, kernel=5",  # genotype [0, 1]
    ):
        assert text in page


def test_three_charts_are_drawn_for_three_widths_and_their_numbers_are_in_tables(
    run_folder: Path, runs
) -> None:
    page = read_page(run_folder)
    charts = [a for tag, a in Tags(page).found if tag == "svg" and a.get("role") == "img"]
    assert [chart["class"] for chart in charts] == ["large", "medium", "compact"] * 3
    assert {chart["aria-label"] for chart in charts} == {
        "Validation accuracy over latency", "Predicted over measured latency",
        "Hypervolume over trials",
    }  # fmt: skip
    assert page.count("<td class=text>") >= len(runs.networks) + len(runs.trials)


def test_marks_tell_the_architecture_and_the_latency_with_its_interval(run_folder: Path) -> None:
    page = read_page(run_folder)
    hints = hints_of(page)
    (good,) = [hint for hint in hints if hint.startswith("good\n")]
    assert good.split("\n")[1:] == [
        "0.190 ms measured", "0.200 [0.186, 0.213] ms predicted",
        "96.0 % validation, 95.0 % test accuracy", "depth 3 · kernel 5",
    ]  # fmt: skip
    marks = [a for _, a in Tags(page).found if a.get("data-hint") == str(hints.index(good))]
    # A dot of the front and one of the predictions, each in three widths.
    assert [mark.get("class") for mark in marks] == ["front"] * 3 + ["network"] * 3


def test_a_dot_a_row_and_a_button_choose_the_same_member(run_folder: Path) -> None:
    tags = [(tag, a) for tag, a in Tags(read_page(run_folder)).found if a.get("data-member") == "1"]
    kinds = {tag for tag, _ in tags}
    assert kinds == {"circle", "tr", "button", "article"}  # the last is what they show
    assert all(a["tabindex"] == "0" for tag, a in tags if tag == "circle")


def test_prediction_errors_are_counted(run_folder: Path) -> None:
    assert (
        "Of 4 measured, 4 within ±10% of the prediction (the band), 4 within the predicted "
        "interval; mean error 5.0 %."
    ) in read_page(run_folder)


def test_page_loads_nothing_from_elsewhere_and_runs_no_script_but_its_own(
    run_folder: Path,
) -> None:
    page = read_page(run_folder)
    for tag, attributes in Tags(page).found:
        assert (attributes.get("src") or "data:").startswith("data:image/svg+xml;base64,"[:5]), tag
        assert (attributes.get("href") or "./").startswith("./")
        assert tag not in {"link", "iframe", "object", "base"}
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    assert f"default-src 'none'; script-src 'sha256-{digest}';" in page
    whole = page + SCRIPT + REPORT_STYLE
    assert not re.search(r"url\((?!#)|@import|fetch\(|https?://(?!www.w3.org/2000/svg)", whole)


def test_page_is_small_enough_to_send(run_folder: Path, runs) -> None:
    trials = [runs.trial(i, 0.1 + i / 1e4, 0.5 + i / 1e4) for i in range(300)]
    pd.DataFrame(trials).to_csv(run_folder / "trials.csv", index=False)
    assert write_report(run_folder).stat().st_size < 500_000


def test_same_files_give_the_same_page(run_folder: Path) -> None:
    first = write_report(run_folder).read_bytes()
    assert write_report(run_folder).read_bytes() == first


def test_text_from_files_is_never_markup(evil_folder: Path, runs) -> None:
    page = read_page(evil_folder)
    tags = Tags(page).found
    images = [attributes for tag, attributes in tags if tag == "img"]
    assert all(image["src"].startswith("data:image/svg+xml;base64,") for image in images)
    assert len(images) == 1  # the drawing
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    links = {attributes["href"] for tag, attributes in tags if tag == "a"}
    assert links == {"./javascript%3Aalert%283%29", f"./{quote(runs.evil)}"}
    # The hints, which no browser runs, and our own one.
    assert page.count("<script") == page.count("</script>") == 2
    assert any(runs.evil in hint for hint in hints_of(page))
    drawing = base64.b64decode(images[0]["src"].partition(",")[2]).decode()
    assert "<script" not in drawing
    ElementTree.fromstring(drawing)
    ElementTree.parse(write_pareto_svg(evil_folder, evil_folder / "pareto.svg"))


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


def test_interrupted_search_is_reported_with_its_best_trial(run_folder: Path, runs) -> None:
    (run_folder / "front.csv").unlink()
    (run_folder / "candidates.csv").write_text("")  # cut off before its header
    pd.DataFrame(runs.trials[:2]).to_csv(run_folder / "trials.csv", index=False)
    page = read_page(run_folder)
    assert "the best of 2 trials so far: 88.0 % validation accuracy" in page
    assert "there is no candidates.csv, no front.csv" in page
    assert "The record holds 2 of the 4 trials asked for." in page


def test_empty_front_says_what_was_nearest(tmp_path: Path, runs) -> None:
    page = read_page(runs.write(tmp_path, runs.networks[2:]))
    assert "No network within 0.200 ms on Toy CPU held in verification" in page
    assert "the fastest that was measured needs 0.220 ms" in page


def test_single_member_without_budget_or_prediction(tmp_path: Path, runs) -> None:
    nothing = dict.fromkeys(("predicted_latency_ms", "predicted_low_ms", "predicted_high_ms"))
    runs.write(tmp_path, [runs.network("only", 0.1, 0.9) | nothing])
    (tmp_path / "config.toml").write_text("")
    (tmp_path / "trials.csv").unlink()
    page = read_page(tmp_path)
    assert "<h1>1 network on the target; best 89.0 % test accuracy at 0.100 ms</h1>" in page
    assert "– [–, –]" in page


def test_long_record_is_cut_and_says_so(run_folder: Path, runs) -> None:
    n = N_TRIALS_SHOWN + 5
    pd.DataFrame([runs.trial(i, 0.1, 0.5) for i in range(n)]).to_csv(
        run_folder / "trials.csv", index=False
    )
    assert f"{n} trials, the first {N_TRIALS_SHOWN} here" in read_page(run_folder)


def test_charts_show_trials_of_the_longest_training_only(run_folder: Path, runs) -> None:
    part = [runs.trial(i, 0.1, 0.5) | {"share": 1 / 9} for i in range(9)]
    whole = [runs.trial(i, 0.1, 0.9) | {"share": 1.0} for i in range(9, 12)]
    pd.DataFrame([*part, *whole]).to_csv(run_folder / "trials.csv", index=False)
    assert list(read_run(run_folder).complete["number"]) == [9, 10, 11]
    page = read_page(run_folder)
    assert "12 trials" in page
    assert "11.1 %" in page


def test_a_diverged_trial_does_not_press_the_front_together(run_folder: Path, runs) -> None:
    trials = [runs.trial(i, 0.1, 0.88) for i in range(30)] + [runs.trial(30, 0.1, 0.1)]
    pd.DataFrame(trials).to_csv(run_folder / "trials.csv", index=False)
    view = pareto_view(read_run(run_folder))
    assert 0.8 < view.low_accuracy < 0.88
    assert "With the 1 trial that lies below" in read_page(run_folder)


def test_a_network_called_na_keeps_its_name(tmp_path: Path, runs) -> None:
    assert list(read_run(runs.write(tmp_path, [runs.network("NA", 0.1, 0.9)])).front["name"]) == [
        "NA"
    ]


def test_hypervolume_never_falls_and_is_that_of_the_boxes(runs) -> None:
    trials = pd.DataFrame(
        [runs.trial(0, 0.1, 0.5), runs.trial(1, 0.05, 0.4), runs.trial(2, 0.3, 1.0)]
    )
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
        ("config.toml", "[search", "is not TOML"),
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
