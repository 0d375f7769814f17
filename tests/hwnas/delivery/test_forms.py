from dataclasses import replace

import pandas as pd
import pytest

from hwnas.delivery.forms import INT8_COLUMNS, Form, verdict_of, write_forms
from hwnas.errors import RunFolderError

GOOD = Form(
    "t000", "int8", "forms/t000.int8.onnx", "minmax ranges", val_accuracy=0.9, test_accuracy=0.8,
    latency_ms=0.5, low_ms=0.4, high_ms=0.6, fp32_latency_ms=0.75, n_bytes=1000, max_abs_error=0.1,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "ok"),
        ({"val_accuracy": 0.8901}, "ok"),
        ({"test_accuracy": 0.79}, "ok"),  # one point, which is .010000000000000009 less
        ({"val_accuracy": 0.885}, "validation accuracy drops by 1.5 points"),
        ({"test_accuracy": 0.7}, "test accuracy drops by 10.0 points"),
        ({"latency_ms": 0.75}, "not faster than fp32 (0.75 ms against 0.75)"),
        ({"latency_ms": 0.75, "form": "fp16"}, "not faster than fp32 (0.75 ms against 0.75)"),
        ({"latency_ms": 0.9, "form": "dynamic-batch"}, "ok"),
        ({"latency_ms": 0.9, "form": "raw"}, "ok"),
        ({"latency_ms": None, "fp32_latency_ms": None}, "not measured"),
        (
            {"val_accuracy": 0.5, "latency_ms": 1.0},
            "validation accuracy drops by 40.0 points; not faster than fp32 "
            "(1 ms against 0.75)",
        ),
    ],
)  # fmt: skip
def test_the_verdict_says_what_speaks_against_a_form(changes, verdict):
    found = verdict_of(replace(GOOD, **changes), val_accuracy=0.9, test_accuracy=0.8)
    assert found == verdict


@pytest.mark.parametrize(
    ("limit_ms", "verdict"), [(None, "ok"), (0.9, "ok"),
    (0.8, "over the budget (up to 0.9 ms, 0.8 are allowed)")],
)  # fmt: skip
def test_a_form_that_is_slower_than_the_run_allows_is_flagged(limit_ms, verdict):
    form = replace(GOOD, latency_ms=0.9, form="raw")
    assert verdict_of(form, val_accuracy=0.9, test_accuracy=0.8, limit_ms=limit_ms) == verdict


def test_the_upper_end_of_a_forms_interval_has_to_meet_the_budget():
    form = replace(GOOD, latency_ms=0.5, high_ms=0.6)
    found = verdict_of(form, val_accuracy=0.9, test_accuracy=0.8, limit_ms=0.55)
    assert found == "over the budget (up to 0.6 ms, 0.55 are allowed)"


def test_a_form_that_is_better_than_fp32_is_ok():
    assert verdict_of(GOOD, val_accuracy=0.7, test_accuracy=0.7) == "ok"


def test_tables_say_what_is_known_of_int8_and_keep_all_else(tmp_path):
    front = 'name,latency_ms,genotype,slack\nt000,0.0100000000000000012,"[0, 1]",\n'
    everyone = front + "t001,1e-05,,0.50\n"
    for _ in range(2):  # a second call replaces what the first one wrote
        (tmp_path / "front.csv").write_text(front)
        (tmp_path / "candidates.csv").write_text(everyone)
        write_forms([GOOD, replace(GOOD, form="int8.raw", onnx="x")], tmp_path)
        everyone = (tmp_path / "candidates.csv").read_text()
    columns = ",".join(f"int8_{column}" for column in INT8_COLUMNS)
    int8 = "forms/t000.int8.onnx,0.9,0.8,0.5,ok"
    assert (tmp_path / "front.csv").read_text().splitlines() == [
        f"name,latency_ms,genotype,slack,{columns}",
        f't000,0.0100000000000000012,"[0, 1]",,{int8}',
    ]
    assert everyone.splitlines()[2] == "t001,1e-05,,0.50,,,,,"
    forms = pd.read_csv(tmp_path / "forms.csv")
    assert list(forms["form"]) == ["int8", "int8.raw"]
    assert list(forms.columns) == list(Form.__dataclass_fields__)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "candidates.csv", "forms.csv", "front.csv",
    ]  # fmt: skip


def test_without_tables_there_is_one_message(tmp_path):
    with pytest.raises(RunFolderError, match="cannot write the forms of networks to"):
        write_forms([GOOD], tmp_path)
