"""A whole search for each kind of data: trained, exported, verified and evaluated again."""

import pandas as pd
import pytest
import torch

from hwnas.baselines import Dense, MeanEmbedding, MeanHead, SignalConv
from hwnas.config import SearchConfig, read_config
from hwnas.data import load_data
from hwnas.evaluation import evaluate_onnx, preprocessing_of, read_metadata
from hwnas.front import verify
from hwnas.front.finalists import export_again
from hwnas.run import run_search
from hwnas.spaces import catalog
from hwnas.spaces.base import Choice, SearchSpace
from predictors.files import save_predictor
from profilers.onnx_models import load_model

WIDTHS, FEATURES = (4, 8, 12, 16), (8, 16, 24)


def own_space(shape, *slots, input_type="float32"):
    return SearchSpace(
        name="own",
        choices=(Choice("width", WIDTHS), Choice("features", FEATURES)),
        input_shape=lambda options: shape,
        slots=slots,
        input_type=input_type,
    )


def rows(shape, n_classes):
    return own_space(
        shape,
        lambda options: Dense(options["width"], True),
        lambda options: Dense(options["features"], True),
        lambda options: Dense(n_classes, False),
    )


def signals(shape, n_classes):
    return own_space(
        shape,
        lambda options: SignalConv(options["width"], 9, 4),
        lambda options: SignalConv(options["features"], 9, 4),
        lambda options: MeanHead(n_classes),
    )


def words(shape, n_classes, vocabulary):
    return own_space(
        shape,
        lambda options: MeanEmbedding(vocabulary, options["width"]),
        lambda options: Dense(options["features"], True),
        lambda options: Dense(n_classes, False),
        input_type="int64",
    )


def write_texts(folder):
    for name, text in (("hello", "Hello there, {i}!"), ("bye", "So long, {i}.")):
        (folder / name).mkdir(parents=True)
        for i in range(40):
            (folder / name / f"{i}.txt").write_text(text.format(i=i % 3))


KINDS = {
    # kind: space, data, baselines, a value of the recipe, epochs, least accuracy
    "table": (rows, "wine", ["linear", "plain-mlp"], "noise=0.2", 20.0, 0.8),
    "signal": (signals, "melodies", ["plain-cnn"], "max_shift=0.1", 0.2, 0.0),
    "tokens": (words, "text:texts", ["bag-of-words"], "token_dropout=0.1", 20.0, 0.8),
}


def first_space(kind):
    """The one that is searched if none is named."""
    return next(iter(catalog.BY_KIND[kind]))


@pytest.fixture(scope="module", params=KINDS)
def finished(request, tmp_path_factory, fit_made_up):
    """A run of each kind that came to its end: kind, folder, data, result."""
    make, name, _, recipe, epochs, _ = KINDS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(catalog.SPACES, first_space(request.param), make)
        patch.setattr(verify, "SECONDS_PROFILE", 0.05)
        patch.setattr(verify, "SECONDS_LATENCY", 0.05)
        patch.setattr(torch, "set_num_threads", lambda n: None)
        patch.chdir(folder)
        write_texts(folder / "texts")
        data = load_data(name)
        vocabulary = {"vocabulary": data.vocabulary} if data.vocabulary else {}
        save_predictor(
            fit_made_up(make(data.input_shape, data.n_classes, **vocabulary)), folder / "p.npz"
        )
        config = SearchConfig(
            data=name, space="", budgets=("params<=1e6",), trials=2, finalists=1,
            search_epochs=epochs, final_epochs=epochs, recipe=(recipe,), workers=0,
        )  # fmt: skip
        result = run_search(
            config, folder / "run", measurements=folder / "m.db", predictor=folder / "p.npz"
        )
        yield request.param, folder, data, result


def test_the_front_is_what_its_models_compute_on_the_data(finished):
    kind, folder, data, result = finished
    assert result.is_complete and len(result.front) == 1
    (row,) = pd.read_csv(folder / "run" / "front.csv").itertuples()
    path = folder / "run" / row.onnx
    assert evaluate_onnx(path, data).accuracy == row.test_accuracy >= KINDS[kind][-1]
    assert row.parity_max_abs_error <= 1e-4


def test_models_take_the_examples_as_they_are_and_say_what_is_done_to_them(finished):
    kind, folder, data, result = finished
    model = load_model(folder / "run" / result.front[0].onnx)
    (spec,) = model.inputs
    assert spec.shape == (1, *data.input_shape)
    assert str(spec.dtype) == ("int64" if kind == "tokens" else "float32")
    found = preprocessing_of(model, data)
    assert (found.kind, found.mean, found.words) == (kind, data.mean, data.words)
    assert read_metadata(model)["classes"] == list(data.class_names)


def test_hand_made_networks_of_that_kind_stand_beside_the_searched(finished):
    kind, folder, data, _ = finished
    table = pd.read_csv(folder / "run" / "candidates.csv")
    assert sorted(table[table["kind"] == "baseline"]["name"]) == KINDS[kind][2]
    name = KINDS[kind][2][0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(catalog.SPACES, first_space(kind), KINDS[kind][0])
        patch.chdir(folder)
        export_again(folder / "run", name, folder / "again.onnx", batch=3, trust=True)
    again = evaluate_onnx(folder / "again.onnx", data).accuracy
    assert again == pytest.approx(table.set_index("name").loc[name, "test_accuracy"])


def test_the_run_says_which_space_was_taken(finished):
    kind, folder, _, _ = finished
    config = read_config(folder / "run" / "config.toml")
    assert config["search"]["space"] == first_space(kind)


def test_the_run_says_how_was_trained(finished):
    kind, folder, _, _ = finished
    name, value = KINDS[kind][3].split("=")
    training = read_config(folder / "run" / "config.toml")["training"]
    assert training["search"][name] == training["final"][name] == float(value)
