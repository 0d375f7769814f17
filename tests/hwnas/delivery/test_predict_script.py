import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import hwnas.delivery.scripts
from hwnas.delivery.metadata import read_about, save_about
from hwnas.delivery.predict_script import write_predict_script
from hwnas.delivery.raw_input import with_raw_input
from hwnas.evaluation import RAW
from hwnas.export import network_to_onnx

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
        for name, example in zip(("one.npy", "two.npy"), examples.numpy(), strict=True):
            np.save(folder / name, example)
        return ["one.npy", "two.npy"]
    if kind == "table":
        return [",".join(map(str, row)) for row in examples.tolist()]
    known = ("", "?", *data.words)
    np.save(folder / "one.npy", examples[0].numpy())
    return ["one.npy", " ".join(known[i] for i in examples[1].tolist() if i).title()]


@pytest.mark.parametrize("kind", ["image", "signal", "table", "tokens"])
def test_the_script_says_what_the_network_says_without_the_toolkit(kind, make_model, tmp_path):
    model, data, preprocessing, network = make_model(kind)
    assert write_predict_script(kind, tmp_path) == tmp_path / "predict.py"
    examples = data.test.inputs[[0, 5]]
    if kind == "tokens":  # padding stands at the end of a text
        examples = torch.where(torch.arange(12) < 9, examples.clamp(min=1), 0)
    found = answers(predict(tmp_path, model.name, *source(kind, examples, data, tmp_path)))
    assert found == expected(network, preprocessing, data, examples)


def test_ids_that_stand_for_no_words_are_classified_too(make_model, tmp_path):
    model, data, preprocessing, network = make_model("tokens")
    about = read_about(model)
    del about["preprocessing"]["words"]
    save_about(onnx.load(model), tmp_path / "ids.onnx", about)
    write_predict_script("tokens", tmp_path)
    np.save(tmp_path / "x.npy", data.test.inputs[3].numpy())
    found = answers(predict(tmp_path, "ids.onnx", "x.npy"))
    assert found == expected(network, preprocessing, data, data.test.inputs[3:4])


def test_a_row_of_another_length_is_refused(make_model, tmp_path):
    model, *_ = make_model("table")
    write_predict_script("table", tmp_path)
    run = predict(tmp_path, model.name, "5.1")
    assert run.returncode == 1 and "cannot reshape array of size 1 into shape (5,)" in run.stderr


@pytest.mark.parametrize("kind", ["image", "signal", "table"])
def test_the_script_leaves_preprocessing_to_models_that_do_it(kind, make_model, tmp_path):
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
    model, data, preprocessing, network = make_model("table")
    about = read_about(model)
    about["target"]["batch"] = batch or 1
    proto = network_to_onnx(network, data.input_shape, batch=batch)
    save_about(proto, tmp_path / "b.onnx", about)
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


def test_an_image_file_is_refused_by_a_model_of_numbers(make_model, tmp_path):
    model, *_ = make_model("image")
    about = read_about(model)
    about["example"]["type"] = "float32"
    save_about(onnx.load(model), tmp_path / "floats.onnx", about)
    write_predict_script("image", tmp_path)
    run = predict(tmp_path, "floats.onnx", "x.png")
    assert run.returncode == 1 and "trained on numbers, not bytes" in run.stderr


def test_images_of_another_size_and_mode_are_brought_to_that_of_the_data(make_model, tmp_path):
    model, data, preprocessing, network = make_model("image")
    _, height, width = data.input_shape
    Image.new("RGBA", (31, 17), (200, 200, 200, 255)).save(tmp_path / "x.png")
    write_predict_script("image", tmp_path)
    grey = torch.full((1, 1, height, width), 200, dtype=torch.uint8)
    found = answers(predict(tmp_path, model.name, "x.png"))
    assert found == expected(network, preprocessing, data, grey)


@pytest.mark.parametrize("kind", ["image", "signal", "table", "tokens"])
def test_the_script_is_short_and_imports_little(kind):
    lines = Path(hwnas.delivery.scripts.__file__).with_name(f"{kind}.py").read_text().splitlines()
    imports = {line.split()[1] for line in lines if line.startswith(("import ", "from "))}
    assert imports <= {"json", "re", "sys", "typing", "numpy", "onnxruntime"}
    start = next(i for i, line in enumerate(lines) if line.startswith("model, "))
    assert len(lines) - start <= (18 if kind == "image" else 13)


def test_the_scripts_differ_only_in_how_they_read():
    folder = Path(hwnas.delivery.scripts.__file__).parent
    texts = [path.read_text() for path in folder.glob("[!_]*.py")]
    assert len(texts) == 4
    assert len({text[text.index("    batch = ") :] for text in texts}) == 1
