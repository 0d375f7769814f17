import pytest

from hwnas.delivery.forms import Form
from hwnas.delivery.model_card import model_card, write_model_card
from hwnas.errors import RunFolderError

ABOUT = {
    "name": "t017", "data": "digits", "classes": ["0", "1"], "genotype": [1, 0],
    "preprocessing": {"kind": "image", "input_shape": [1, 6, 6], "mean": [0.3], "std": [0.4]},
    "example": {"shape": [1, 8, 8], "type": "uint8"},
    "target": {
        "device_name": "Some CPU", "runtime": "onnxruntime-cpu", "version": "1.31",
        "precision": "fp32", "threads": 1, "batch": 1,
    },
    "accuracy": {
        "validation": 0.98, "test": 0.9712, "n_train": 897, "n_validation": 450, "n_test": 451,
    },
    "latency_ms": {
        "measured": 0.0213, "measured_low": 0.0209, "measured_high": 0.022,
        "predicted": 0.0207, "predicted_low": 0.0185, "predicted_high": 0.027,
    },
    "params": 17554, "macs": 173632, "peak_memory_bytes": 17832, "parity_max_abs_error": 2.1e-06,
    "versions": {"hwnas": "0.1.0", "onnxruntime": "1.31"},
}  # fmt: skip
INT8 = Form(
    "t017", "int8", "forms/t017.int8.onnx", "minmax ranges", 0.975, 0.97, 0.015, 0.0148, 0.0152,
    0.0214, 24000, 0.3, "ok",
)  # fmt: skip


def test_a_card_says_what_is_known_of_a_network():
    lines = model_card(ABOUT, [INT8], why_not={"fp16": "the CPU has none"}).splitlines()
    assert lines[0] == "# t017"
    for line in (
        "- Data: digits, 897 examples to train on",
        "- Classes: 0, 1",
        "- Size: 173,632 multiply-accumulates an example, 17,554 parameters, 17.8 kB of tensors at "
        "most",
        "- Genotype: 1, 0",
        "| validation (chose the network) | 450 | 98.00 % |",
        "| test (never used) | 451 | 97.12 % |",
        "On Some CPU by onnxruntime-cpu 1.31, fp32, 1 thread, batch 1:",
        "- Measured: 0.0213 ms (0.0209 to 0.022)",
        "- Predicted before: 0.0207 ms (0.0185 to 0.027)",
        "The fp32 model's logits differ from PyTorch's by 2.1e-06 at most.",
        "| int8 | forms/t017.int8.onnx | 97.50 % | 97.00 % | 0.015 ms (0.0148 to 0.0152) "
        "| 0.0214 ms | 24.0 kB | minmax ranges | ok |",
        "- fp16: not on this target, the CPU has none.",
        "- Examples: 1×8×8, uint8",
        "- Resized to 1×6×6: bilinear, with a low-pass filter",
        "    python predict.py front/t017.onnx IMAGE.png",
        "hwnas 0.1.0, onnxruntime 1.31",
    ):
        assert line in lines, line


def test_what_is_not_known_is_a_dash():
    text = model_card(ABOUT, [Form("t017", "int8", verdict="no such tensor")], why_not={})
    assert "| int8 | – | – | – | – | – | – | – | no such tensor |" in text


@pytest.mark.parametrize(
    ("kind", "example", "use"),
    [
        ("table", {"shape": [5], "type": "float32"}, "VALUE,VALUE,..."),
        ("signal", {"shape": [2, 30], "type": "float32"}, "SIGNAL.npy"),
        ("tokens", {"shape": [12], "type": "int64"}, '"a text"'),
    ],
)
def test_cards_of_other_data_say_how_to_run_them(kind, example, use):
    how = {"kind": kind, "input_shape": example["shape"]}
    how |= {"words": ["a", "b"]} if kind == "tokens" else {"mean": [0.0], "std": [1.0]}
    text = model_card(ABOUT | {"preprocessing": how, "example": example}, [], why_not={})
    assert f"    python predict.py front/t017.onnx {use}\n" in text
    assert "Resized" not in text and ("ids of 2 words" in text) == (kind == "tokens")


def test_names_from_elsewhere_are_no_markup():
    strange = ABOUT | {"data": "a|b\n# c", "classes": ["<script>", "[x](y)"]}
    text = model_card(strange, [], why_not={})
    assert r"- Data: a\|b \# c, 897" in text
    assert r"- Classes: \<script\>, \[x\](y)" in text


def test_many_classes_are_not_all_listed():
    text = model_card(ABOUT | {"classes": [f"c{i}" for i in range(30)]}, [], why_not={})
    assert "c19 and 10 more" in text and "c20" not in text


def test_a_card_that_cannot_be_written_is_one_message(tmp_path):
    with pytest.raises(RunFolderError, match="cannot write"):
        write_model_card(ABOUT, [], tmp_path / "no" / "card.md", why_not={})
