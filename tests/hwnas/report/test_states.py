"""Run folders as they are found: going on, killed, failed, old, empty."""

import json
import shutil

import pandas as pd
import pytest

from hwnas.errors import ConfigError, RunFolderError
from hwnas.record import Record
from hwnas.report.explanation import EXPLANATION, write_explanation
from hwnas.report.read import read_run
from hwnas.report.write import write_report
from hwnas.spaces.base import Choice, SearchSpace
from hwnas.strategies import Trial

SPACE = SearchSpace(
    "toy", (Choice("depth", (1, 2, 3)), Choice("kernel", (3, 5))), lambda _: (1, 8, 8), ()
)
PREDICTED = {"latency_ms": 0.1, "low_ms": 0.09, "high_ms": 0.11, "params": 12, "macs": 345}


def page_of(folder):
    return write_report(folder).read_text(encoding="utf-8")


def keep(folder, *names):
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink()


def record_trials(folder):
    """A record as a killed search leaves it: one trial ended, one failed, one was running."""
    record = Record.open(folder / "study.db", SPACE, create=True)
    for number, depth in enumerate((0, 1, 2)):
        trial = Trial(number, (depth, 0), None)
        handle = record.start(trial, PREDICTED, {"latency_ms <= 0.2": -0.1})
        if number == 0:
            record.finish(handle, (0.2, 0.1), {"val_accuracy": 0.8, "train_seconds": 1.5})
        if number == 1:
            record.fail(handle, "killed: the worker got SIGKILL")
    return record


def test_a_killed_search_is_shown_from_its_record_also_while_another_goes_on(run_folder):
    keep(run_folder, "config.toml")
    with record_trials(run_folder):  # still open: the search is running
        page = page_of(run_folder)
    assert "the best of 1 trial so far: 80.0 % validation accuracy" in page
    assert "killed: the worker got SIGKILL" in page
    assert "The record holds 2 of the 4 trials asked for." in page
    assert read_run(run_folder).trials["train_seconds"].tolist()[0] == 1.5


def test_a_record_with_more_trials_than_the_table_is_believed(run_folder, runs):
    pd.DataFrame([runs.trial(0, 0.1, 0.5)]).to_csv(run_folder / "trials.csv", index=False)
    record_trials(run_folder).close()
    assert read_run(run_folder).trials["state"].tolist() == ["complete", "failed"]


def test_a_damaged_record_is_an_error_only_where_there_is_no_table(run_folder, runs):
    pd.DataFrame([runs.trial(0, 0.1, 0.5)]).to_csv(run_folder / "trials.csv", index=False)
    (run_folder / "study.db").write_bytes(b"no database " * 100)
    assert len(read_run(run_folder).trials) == 1
    (run_folder / "trials.csv").unlink()
    with pytest.raises(RunFolderError, match="cannot read the record .*study.db"):
        read_run(run_folder)


NOTED = "postgresql+psycopg://bob@127.0.0.1:1/searches"
GIVEN = "postgresql://bob:secret@127.0.0.1:1/searches"
# Without psycopg, the driver is named; with it, there is no server.
UNREAD = (
    r"pip install 'hwnas\[postgresql\]'"
    r"|cannot read the record .*bob@127.0.0.1:1/searches: .*[Cc]onnection refused"
)


def note_storage(folder, storage):
    with (folder / "config.toml").open("a", encoding="utf-8") as file:
        file.write(f'\n[run]\nstorage = "{storage}"\nstudy = "search"\n')


def test_the_trials_of_a_search_that_goes_on_are_where_it_was_told_to_keep_them(run_folder):
    keep(run_folder, "config.toml")
    record_trials(run_folder).close()
    (run_folder / "study.db").rename(run_folder / "elsewhere.db")
    assert read_run(run_folder).trials.empty
    note_storage(run_folder, run_folder / "elsewhere.db")
    assert read_run(run_folder).trials["state"].tolist() == ["complete", "failed"]


def test_only_the_trials_of_the_runs_own_study_are_shown(run_folder):
    record_trials(run_folder).close()
    with Record.open(run_folder / "study.db", SPACE, create=True, study="another") as other:
        other.fail(other.start(Trial(7, (0, 0), None), PREDICTED, {}), "not of this run")
    keep(run_folder, "config.toml", "study.db")
    assert read_run(run_folder).trials["number"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("storage", "reason"),
    [
        (None, f"are in {NOTED}: give that as --storage, or in HWNAS_STORAGE, to read them"),
        (GIVEN.replace("bob", "eve"), "in HWNAS_STORAGE, not postgresql.*eve@127.0.0.1:1/search"),
        (GIVEN, UNREAD),
    ],
)
def test_trials_that_cannot_be_read_from_a_server_are_one_message(run_folder, storage, reason):
    note_storage(run_folder, NOTED)
    shown = write_report(run_folder, storage=storage).read_text(encoding="utf-8")
    assert "secret" not in shown  # all trials that were asked for are in the table
    trials = pd.read_csv(run_folder / "trials.csv")
    trials[:1].to_csv(run_folder / "trials.csv", index=False)
    shown = write_report(run_folder, storage=storage).read_text(encoding="utf-8")
    assert "There may be trials that are not shown" in shown and "secret" not in shown
    keep(run_folder, "config.toml")
    match = reason.replace("+", r"\+")
    with pytest.raises((ConfigError, RunFolderError), match=match) as caught:
        write_report(run_folder, storage=storage)
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_search_that_was_just_started_has_a_page(run_folder):
    keep(run_folder, "config.toml")
    (run_folder / "study.db").touch()
    page = page_of(run_folder)
    assert "No front yet on Toy CPU, and no complete trial" in page
    assert "Nothing was trained yet." in page


def test_failed_trials_only_are_shown_by_reason_with_their_numbers(run_folder, runs):
    keep(run_folder, "config.toml")
    reasons = ["out of memory: the worker took more than 2 GB"] * 11 + ["time limit: 60 s"] * 2
    trials = [runs.trial(i, 0.1, None) | {"failure": why} for i, why in enumerate(reasons)]
    pd.DataFrame(trials).to_csv(run_folder / "trials.csv", index=False)
    page = page_of(run_folder)
    assert "<h2>Failed trials: 13</h2>" in page
    row = "".join(f"<td>{text}</td>" for text in ("11", "84.6 %", "0, 1, 2, 3, 4, 5, 6, 7, …"))
    assert f"out of memory: the worker took more than 2 GB</td>{row}" in page
    assert "<td>11, 12</td>" in page


def test_finalists_that_could_not_be_trained_are_named_with_the_reason(run_folder):
    assert "Finalists left out" not in page_of(run_folder)
    (run_folder / "weights").mkdir()
    (run_folder / "weights" / "t007.failed").write_text("the loss became <nan>")
    page = page_of(run_folder)
    assert "<h2>Finalists left out: 1</h2>" in page
    assert "<td>t007</td><td>the loss became &lt;nan&gt;</td>" in page.replace(" class=text", "")


def test_an_old_run_folder_without_the_newer_columns_has_a_page(run_folder):
    old = ["name", "onnx", "val_accuracy", "test_accuracy", "latency_ms"]
    for name in ("front.csv", "candidates.csv"):
        table = pd.read_csv(run_folder / name)
        table[[column for column in old if column in table]].to_csv(run_folder / name, index=False)
    trials = pd.read_csv(run_folder / "trials.csv")
    trials[["number", "state", "genotype"]].to_csv(run_folder / "trials.csv", index=False)
    page = page_of(run_folder)
    assert "2 networks within 0.200 ms on Toy CPU" in page
    assert "<dt>Measured</dt><dd>0.190 ms</dd>" in page
    assert "<dt>Parameters</dt>" not in page  # not known: not shown


def test_newer_columns_are_shown_where_there_are_any(tmp_path, runs):
    more = {"slack": 0.25, "measured_low_ms": 0.145, "measured_high_ms": 0.155}
    runs.write(tmp_path, [runs.network("n", 0.15, 0.9, **more)])
    page = page_of(tmp_path)
    assert "0.150 [0.145, 0.155] ms" in page
    assert "<dt>Slack to the budget</dt><dd>25.0 %</dd>" in page


TWIN = {
    "int8_onnx": "forms/n.int8.onnx", "int8_val_accuracy": 0.888, "int8_test_accuracy": 0.87,
    "int8_latency_ms": 0.05, "int8_verdict": "validation accuracy drops by 1.2 points",
}  # fmt: skip


def test_an_int8_form_is_compared_with_the_network(tmp_path, runs):
    runs.write(tmp_path, [runs.network("n", 0.15, 0.9, **TWIN)])
    page = page_of(tmp_path)
    # 0.888 - 0.9; 0.15 / 0.05
    for text in ("./forms/n.int8.onnx", "<td>−1.2</td>", "<td>3.00×</td>", TWIN["int8_verdict"]):
        assert text in page
    # In three widths, in the view of the front and in that of all trials, and in the legend.
    assert page.count('class="twin"') == 3 * 2 + 1


def test_the_table_of_forms_says_more_than_the_columns_of_one(tmp_path, runs):
    runs.write(tmp_path, [runs.network("n", 0.15, 0.9, **TWIN)])
    form = {
        "name": "n", "onnx": "forms/n.fp16.onnx", "form": "fp16", "val_accuracy": 0.9,
        "latency_ms": 0.1, "fp32_latency_ms": 0.14, "n_bytes": 5000, "verdict": "ok",
    }  # fmt: skip
    pd.DataFrame([form]).to_csv(tmp_path / "forms.csv", index=False)
    run = read_run(tmp_path)
    assert run.forms["form"].tolist() == ["fp16"] and run.int8.empty
    assert "<td>1.40×</td>" in page_of(tmp_path)


def test_an_explanation_of_other_members_is_shown_as_far_as_it_fits(run_folder, runs):
    write_explanation(run_folder, runs.explanation("good"))
    page = page_of(run_folder)
    assert page.count("<picture>") + page.count('alt="Blocks of good"') >= 1
    assert "Where the time goes" in page and "What the front has in common" in page


def test_an_explanation_whose_cell_is_a_ring_is_an_error(run_folder, runs):
    write_explanation(run_folder, runs.explanation("good"))
    data = json.loads((run_folder / EXPLANATION).read_text())
    data["members"][0]["layers"][0]["edges"] = [["a", "b", ""], ["b", "a", ""]]
    (run_folder / EXPLANATION).write_text(json.dumps(data))
    with pytest.raises(RunFolderError, match="describes no network: the edges .* form a ring"):
        write_report(run_folder)


def test_a_folder_that_was_copied_elsewhere_has_the_same_page(run_folder, tmp_path_factory):
    copy = tmp_path_factory.mktemp("copy") / "run"
    page = page_of(run_folder)
    shutil.copytree(run_folder, copy)
    assert page_of(copy) == page
