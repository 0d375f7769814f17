import json
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import pandas as pd
import pytest
import torch

from hwnas.delivery import FormOptions, check_deliverable, deliver, deliver_forms, making
from hwnas.delivery.metadata import read_about
from hwnas.errors import ConfigError
from hwnas.evaluation import evaluate_onnx
from hwnas.export import run_onnx
from hwnas.progress import Silent
from profilers.errors import ModelError, TargetError
from profilers.targets import make_target

EVERYTHING = FormOptions(dynamic_batch=True, raw_input=True)


class Said(Silent):
    """Keeps what is said."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def delivered(run, options=FormOptions(), **others):  # noqa: B008
    return deliver_forms(
        run.front, run.trained, run.data, make_target(), run.folder, options, **others
    )


def target_of(runtime):
    return replace(make_target(), runtime=runtime)


def test_an_int8_form_is_scored_measured_and_written_down(run_folder, made_up_latencies):
    made_up_latencies["int8"] = 0.0125
    forms = delivered(run_folder)
    assert [(form.name, form.form) for form in forms] == [("t000", "int8"), ("t001", "int8")]
    for form, member in zip(forms, run_folder.front, strict=True):
        path = run_folder.folder / form.onnx
        assert form.onnx == f"forms/{form.name}.int8.onnx"
        assert (
            form.val_accuracy == evaluate_onnx(path, run_folder.data, split="validation").accuracy
        )
        assert form.test_accuracy == evaluate_onnx(path, run_folder.data).accuracy
        assert member.val_accuracy - form.val_accuracy <= 0.005
        assert (form.latency_ms, form.fp32_latency_ms) == (0.0125, 0.02)
        assert form.n_bytes == path.stat().st_size and form.max_abs_error > 1e-4
        about = read_about(path)
        assert about["form"] == "int8" and about["genotype"] == list(member.genotype)
        assert about["accuracy"]["validation"] == form.val_accuracy
        assert about["latency_ms"] == {
            "measured": 0.0125, "measured_low": form.low_ms, "measured_high": form.high_ms,
            "fp32": 0.02,
        }  # fmt: skip
        assert about["how"] == form.how and "parity_max_abs_error" not in about
    table = pd.read_csv(run_folder.folder / "front.csv")
    assert list(table["int8_onnx"]) == [form.onnx for form in forms]
    assert list(table["int8_latency_ms"]) == [0.0125, 0.0125]
    assert list(table["int8_verdict"]) == [form.verdict for form in forms]


def test_a_member_says_what_was_known_only_in_the_end(run_folder, made_up_latencies):
    path = run_folder.folder / run_folder.front[0].onnx
    before, graph = read_about(path), onnx.load(path).graph
    delivered(run_folder, FormOptions(int8=False))
    about = read_about(path)
    assert onnx.load(path).graph == graph
    assert {key: about[key] for key in before} == before
    assert about["accuracy"] == {
        "validation": run_folder.front[0].val_accuracy,
        "test": run_folder.front[0].test_accuracy,
        "n_train": 897, "n_validation": 450, "n_test": 450,
    }  # fmt: skip
    assert about["latency_ms"] == {
        "measured": 0.02, "measured_low": 0.0195, "measured_high": 0.0205, "predicted": 0.021,
        "predicted_low": 0.019, "predicted_high": 0.024,
    }  # fmt: skip
    assert about["example"] == {"shape": [1, 8, 8], "type": "uint8"}
    assert {"hwnas", "onnxruntime", "torch", "python"} <= about["versions"].keys()
    assert (path.with_suffix(".md")).read_text().startswith("# t000\n")
    assert (run_folder.folder / "predict.py").exists()


def test_all_forms_compute_what_the_fp32_model_does(run_folder, made_up_latencies):
    forms = delivered(replace(run_folder, front=run_folder.front[1:]), EVERYTHING)
    assert [form.form for form in forms] == [
        "int8", "dynamic-batch", "raw", "int8.raw", "dynamic-batch.raw",
    ]  # fmt: skip
    parent = run_folder.front[1]
    images = run_folder.data.test.inputs
    for form in forms:
        assert form.verdict in ("ok", "not faster than fp32 (0.02 ms against 0.02)")
        if not form.form.startswith("int8"):
            assert form.max_abs_error <= 1e-4 and form.test_accuracy == parent.test_accuracy
        path = run_folder.folder / form.onnx
        scores = evaluate_onnx(path, run_folder.data)
        assert scores.accuracy == form.test_accuracy and scores.n == len(images)
    raw = run_onnx(run_folder.folder / forms[-1].onnx, images.numpy())  # bytes, all at once
    with torch.inference_mode():
        x = (images / 255 - torch.tensor(run_folder.data.mean)) / torch.tensor(run_folder.data.std)
        expected = run_folder.trained[1].network(x).numpy()
    np.testing.assert_allclose(raw, expected, rtol=0, atol=1e-4)


def test_forms_of_the_same_network_are_kept_with_their_figures(
    run_folder, made_up_latencies, monkeypatch
):
    first = delivered(run_folder)
    tables = [(run_folder.folder / f"{name}.csv").read_text() for name in ("forms", "front")]
    stale = run_folder.folder / "forms" / "t999.int8.onnx"
    stale.write_bytes(b"")

    def fail(*arguments, **options):
        raise AssertionError("it was made again")

    monkeypatch.setattr(making, "int8_twins", fail)
    made_up_latencies["int8"] = 0.005
    assert delivered(run_folder) == first
    assert [
        (run_folder.folder / f"{name}.csv").read_text() for name in ("forms", "front")
    ] == tables
    assert not stale.exists()


def test_only_what_was_not_measured_is_measured_again(run_folder, made_up_latencies):
    one = replace(run_folder, front=run_folder.front[:1])
    made_up_latencies["t000.dynamic-batch"] = None
    options = FormOptions(dynamic_batch=True)
    assert [form.latency_ms for form in delivered(one, options)] == [0.02, None]
    made_up_latencies |= {"t000.dynamic-batch": 0.03, "int8": 0.04}
    assert [form.latency_ms for form in delivered(one, options)] == [0.02, 0.03]


def test_a_damaged_form_and_one_of_another_network_are_made_again(run_folder, made_up_latencies):
    delivered(run_folder)
    folder = run_folder.folder / "forms"
    before = [read_about(folder / f"t00{i}.int8.onnx")["parent_digest"] for i in range(2)]
    (folder / "t001.int8.onnx").write_bytes((folder / "t000.int8.onnx").read_bytes())
    (folder / "t000.int8.onnx").write_bytes(b"half a file")
    delivered(run_folder)
    assert [read_about(folder / f"t00{i}.int8.onnx")["parent_digest"] for i in range(2)] == before


def test_the_fastest_of_equally_good_ways_is_kept(run_folder, made_up_latencies):
    one = replace(run_folder, front=run_folder.front[:1])
    for latencies, how in (
        ({"twin0": 0.3, "twin1": 0.2}, "minmax ranges, first layer in fp32"),
        ({"twin0": 0.2, "twin1": 0.3}, "minmax ranges"),
        ({"twin0": None, "twin1": 0.3}, "minmax ranges, first layer in fp32"),  # it cannot run
    ):
        made_up_latencies.update(latencies)
        assert [form.how for form in delivered(one)] == [how]
        (run_folder.folder / "forms" / "t000.int8.onnx").unlink()


def test_a_form_that_fails_is_said_and_the_others_are_delivered(
    run_folder, made_up_latencies, monkeypatch
):
    def fail(path, data, **options):
        if path.stem == "t000":
            raise ModelError("t000 cannot be quantized: no such tensor")
        return int8_twins(path, data, **options)

    int8_twins = making.int8_twins
    monkeypatch.setattr(making, "int8_twins", fail)
    said = Said()
    forms = delivered(run_folder, progress=said)
    assert [form.onnx for form in forms] == [None, "forms/t001.int8.onnx"]
    assert forms[0].verdict == "t000 cannot be quantized: no such tensor"
    assert said.lines == ["t000 has no int8 form: t000 cannot be quantized: no such tensor"]
    table = pd.read_csv(run_folder.folder / "front.csv")
    assert list(table["int8_verdict"]) == [form.verdict for form in forms]
    assert list(table["int8_onnx"].isna()) == [True, False]


def test_a_form_that_computes_something_else_is_not_delivered(
    run_folder, made_up_latencies, monkeypatch
):
    wrong = [replace(item, network=torch.nn.Sequential(item.network, torch.nn.Tanh()))
             for item in run_folder.trained]  # fmt: skip
    forms = delivered(
        replace(run_folder, trained=wrong), FormOptions(int8=False, dynamic_batch=True)
    )
    assert all("outputs differ from the fp32 form's by up to" in form.verdict for form in forms)
    assert [form.onnx for form in forms] == [None, None]
    assert list((run_folder.folder / "forms").iterdir()) == []


def test_a_form_that_the_target_cannot_run_keeps_no_other_from_its_figures(
    run_folder, made_up_latencies
):
    made_up_latencies["t000.dynamic-batch"] = None
    one = replace(run_folder, front=run_folder.front[:1])
    forms = {form.form: form for form in delivered(one, EVERYTHING)}
    assert (
        forms["dynamic-batch"].latency_ms is None
        and forms["dynamic-batch"].verdict == "not measured"
    )
    assert forms["raw"].latency_ms == 0.02 and forms["raw"].verdict == "ok"


def test_forms_that_are_of_no_use_on_the_target_are_not_made(run_folder, made_up_latencies):
    target = replace(make_target(), runtime="onnxruntime-cuda", precision="fp16")
    run = run_folder
    forms = deliver_forms(run.front, run.trained, run.data, target, run.folder)
    assert {form.form for form in forms} == {"fp16"}
    card = (run.folder / "front" / "t000.md").read_text()
    assert "- int8: not on this target, onnxruntime-cuda computes in fp32 and fp16 only." in card


def test_forms_are_measured_where_the_caller_says(run_folder, made_up_latencies, monkeypatch):
    elsewhere, opened = deliver.IsolatedProfiler, []
    monkeypatch.setattr(deliver, "IsolatedProfiler", None)  # of this machine

    def open_in(precision):
        opened.append(precision)
        return partial(elsewhere, make_target())

    forms = delivered(run_folder, open_in=open_in)
    assert opened == ["fp32"] and {form.form for form in forms} == {"int8"}
    assert all(form.latency_ms == 0.02 for form in forms)


def test_bf16_is_the_same_file_computed_in_another_way(run_folder, made_up_latencies, monkeypatch):
    monkeypatch.setattr(deliver, "make_target", lambda *names, **options: None)  # has it
    made_up_latencies["bf16"] = 0.012
    target, run, options = target_of("openvino-cpu"), run_folder, FormOptions(int8=False)
    forms = deliver_forms(run.front, run.trained, run.data, target, run.folder, options)
    assert [(form.form, form.onnx) for form in forms] == [
        ("bf16", "front/t000.onnx"), ("bf16", "front/t001.onnx"),
    ]  # fmt: skip
    for form, member in zip(forms, run.front, strict=True):
        assert form.how == "the fp32 file, computed in bf16 by openvino-cpu"
        assert (form.latency_ms, form.fp32_latency_ms, form.verdict) == (0.012, 0.02, "ok")
        assert form.val_accuracy == pytest.approx(member.val_accuracy, abs=0.003)
        assert form.test_accuracy == pytest.approx(member.test_accuracy, abs=0.003)
        assert form.max_abs_error == pytest.approx(1 / 1024, rel=0.02)
        about = read_about(run.folder / form.onnx)
        assert about["bf16"]["latency_ms"]["measured"] == 0.012
        assert about["latency_ms"]["measured"] == 0.02  # the file's own
    made_up_latencies["bf16"] = 0.001
    assert deliver_forms(run.front, run.trained, run.data, target, run.folder, options) == forms
    assert "| bf16 |" in (run.folder / "front" / "t000.md").read_text()


def test_a_processor_without_bf16_is_named(run_folder, made_up_latencies, monkeypatch):
    def refuse(*names, **options):
        assert options["precision"] == "bf16"
        raise TargetError("this CPU has none")

    monkeypatch.setattr(deliver, "make_target", refuse)
    run, options = run_folder, FormOptions(int8=False)
    target = target_of("openvino-cpu")
    assert deliver_forms(run.front, run.trained, run.data, target, run.folder, options) == []
    card = (run.folder / "front" / "t000.md").read_text()
    assert "- bf16: not on this target, this CPU has none." in card


def test_bf16_that_the_target_cannot_run_is_a_row_that_says_so(
    run_folder, made_up_latencies, monkeypatch
):
    monkeypatch.setattr(deliver, "make_target", lambda *names, **options: None)
    made_up_latencies["bf16"] = None
    run, options = run_folder, FormOptions(int8=False)
    target = target_of("openvino-cpu")
    forms = deliver_forms(run.front, run.trained, run.data, target, run.folder, options)
    assert [(form.form, form.onnx, form.verdict) for form in forms] == [
        ("bf16", None, "t000 cannot run"), ("bf16", None, "t001 cannot run"),
    ]  # fmt: skip


def test_a_form_that_the_exporter_fails_over_is_a_row_and_ends_no_run(
    run_folder, made_up_latencies, monkeypatch
):
    def fail(maker):
        raise RuntimeError("cannot export that for any batch")

    monkeypatch.setattr(deliver.Maker, "dynamic_batch", fail)
    forms = delivered(run_folder, FormOptions(int8=False, dynamic_batch=True))
    assert [form.verdict for form in forms] == ["cannot export that for any batch"] * 2


@pytest.mark.parametrize(
    ("runtime", "precision"),
    [("onnxruntime-cpu", "int8"), ("openvino-cpu", "int8"), ("onnxruntime-cuda", "fp16")],
)
def test_a_search_is_not_for_a_precision_that_models_are_converted_to(runtime, precision):
    with pytest.raises(ConfigError, match=f"cannot be for {precision} on {runtime}"):
        check_deliverable(replace(make_target(), runtime=runtime, precision=precision))


@pytest.mark.parametrize(
    ("runtime", "precision"),
    [("onnxruntime-cpu", "fp32"), ("openvino-cpu", "bf16"), ("torch-cuda", "fp16")],
)
def test_a_search_is_for_precisions_that_a_runtime_computes_the_same_file_in(runtime, precision):
    check_deliverable(replace(make_target(), runtime=runtime, precision=precision))


def test_forms_over_the_budget_are_flagged(run_folder, made_up_latencies):
    made_up_latencies |= {"t000.dynamic-batch": 0.03, "t001.dynamic-batch": 0.021}
    options = FormOptions(int8=False, dynamic_batch=True)
    forms = delivered(run_folder, options, limit_ms=0.025)
    assert [form.verdict for form in forms] == [
        "over the budget (up to 0.03 ms, 0.025 are allowed)", "ok",
    ]  # fmt: skip


def test_an_empty_front_has_no_forms(run_folder, made_up_latencies):
    assert delivered(replace(run_folder, front=[])) == []
    assert pd.read_csv(run_folder.folder / "forms.csv").empty


@pytest.mark.slow
def test_forms_are_measured_for_real(run_folder):
    forms = delivered(replace(run_folder, front=run_folder.front[:1]), EVERYTHING)
    assert all(form.latency_ms > 0 and form.low_ms <= form.latency_ms for form in forms)
    text = json.dumps(read_about(run_folder.folder / forms[0].onnx), allow_nan=False)
    assert "Infinity" not in text
