import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hwnas.delivery.metadata import save_about
from hwnas.delivery.predict_script import write_predict_script
from hwnas.delivery.raw_input import with_raw_input
from hwnas.delivery.scripts import image, signal, table, tokens
from hwnas.evaluation import RAW

# A process in which neither the toolkit nor torch can be imported.
WITHOUT = """
import runpy, sys
sys.modules.update(dict.fromkeys(
    ["torch", "hwnas", "profilers", "predictors", "onnx", "pandas", "scipy", "sklearn"]))
sys.argv = ["predict.py", *sys.argv[1:]]
runpy.run_path("predict.py", run_name="__main__")
"""


def predict(folder, *arguments):
    command = [sys.executable, "-c", WITHOUT, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


def answers(run):
    """For each line the most probable class and its percents."""
    assert run.returncode == 0, run.stderr
    found = []
    for line in run.stdout.splitlines():
        words = line.rpartition(": ")[2].split(", ")[0].split()
        found.append((words[0], float(words[1])))
    return found


def expected(network, preprocessing, data, examples):
    with torch.inference_mode():
        p = torch.softmax(network(preprocessing.apply(examples)), dim=1)
    best = p.max(dim=1)
    return [
        (data.class_names[i], pytest.approx(100 * v, abs=0.06))
        for i, v in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def source(kind, examples, data, folder):
    """Examples as people have them."""
    if kind == "image":
        Image.fromarray(examples[0, 0].numpy()).save(folder / "one.png")
        np.save(folder / "two.npy", examples[1].numpy())
        return ["one.png", "two.npy"]
    if kind == "signal":
        np.savetxt(folder / "one.csv", examples[0].numpy().T, delimiter=",")
        np.save(folder / "two.npy", examples[1].numpy())
        return ["one.csv", "two.npy"]
    if kind == "table":
        rows = [",".join(map(str, row)) for row in examples.tolist()]
        (folder / "rows.csv").write_text("\n".join(["a,b,c,d,e", rows[0], ""]))
        return ["rows.csv", rows[1]]
    known = ("", "?", *data.words)
    texts = [" ".join(known[i] for i in ids if i).title() for ids in examples.tolist()]
    (folder / "one.txt").write_text(texts[0])
    return ["one.txt", texts[1]]


@pytest.mark.parametrize("kind", ["image", "signal", "table", "tokens"])
def test_the_script_says_what_the_network_says_without_the_toolkit(kind, make_model, tmp_path):
    model, data, preprocessing, network = make_model(kind)
    assert write_predict_script(kind, tmp_path) == tmp_path / "predict.py"
    examples = data.test.inputs[[0, 5]]
    if kind == "tokens":  # padding stands at the end of a text
        examples = torch.where(torch.arange(12) < 9, examples.clamp(min=1), 0)
    found = answers(predict(tmp_path, model.name, *source(kind, examples, data, tmp_path)))
    assert found == expected(network, preprocessing, data, examples)


@pytest.mark.parametrize("kind", ["image", "signal", "table"])
def test_the_script_leaves_preprocessing_to_models_that_do_it(kind, make_model, tmp_path):
    import onnx

    from hwnas.delivery.metadata import read_about

    model, data, preprocessing, network = make_model(kind)
    proto = onnx.load(model)
    raw = with_raw_input(proto, preprocessing, data.input_shape, data.train.inputs.dtype)
    save_about(raw, tmp_path / "raw.onnx", read_about(model) | {"input": RAW})
    write_predict_script(kind, tmp_path)
    examples = data.test.inputs[[2, 7]]
    found = answers(predict(tmp_path, "raw.onnx", *source(kind, examples, data, tmp_path)))
    assert found == expected(network, preprocessing, data, examples)


@pytest.mark.parametrize("batch", [3, None])
def test_the_script_runs_models_of_dynamic_batch(batch, make_model, tmp_path):
    from hwnas.delivery.metadata import read_about
    from hwnas.export import network_to_onnx

    model, data, preprocessing, network = make_model("table")
    save_about(
        network_to_onnx(network, data.input_shape, batch=batch), tmp_path / "b.onnx",
        read_about(model),
    )  # fmt: skip
    write_predict_script("table", tmp_path)
    examples = data.test.inputs[:2]
    found = answers(predict(tmp_path, "b.onnx", *source("table", examples, data, tmp_path)))
    assert found == expected(network, preprocessing, data, examples)


def test_without_an_example_the_script_says_how_it_is_used(make_model, tmp_path):
    make_model("table")
    write_predict_script("table", tmp_path)
    run = predict(tmp_path, "table.onnx")
    assert run.returncode == 1
    assert run.stderr.startswith("Classes of rows of numbers: python predict.py front/NAME.onnx")


def test_an_image_file_is_refused_by_a_model_of_numbers():
    about = {"example": {"shape": [1, 8, 8], "type": "float32"}}
    with pytest.raises(SystemExit, match="trained on numbers, not bytes"):
        image.read("x.png", about)


def test_images_of_another_size_and_mode_are_brought_to_that_of_the_data(tmp_path):
    Image.new("RGBA", (31, 17), (200, 200, 200, 255)).save(tmp_path / "x.png")
    about = {
        "example": {"shape": [1, 8, 8], "type": "uint8"},
        "preprocessing": {"input_shape": [1, 4, 6], "mean": [0.5], "std": [0.25]},
        "input": "prepared",
    }  # fmt: skip
    x = image.read(str(tmp_path / "x.png"), about)
    assert x.shape == (1, 1, 4, 6) and x.dtype == np.float32
    np.testing.assert_allclose(x, (200 / 255 - 0.5) / 0.25, atol=1e-5)


def test_the_scripts_differ_only_in_how_they_read():
    texts = [Path(module.__file__).read_text() for module in (image, signal, table, tokens)]
    assert len({text[text.index("def main(") :] for text in texts}) == 1
