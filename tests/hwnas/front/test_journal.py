import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from hwnas.errors import RunFolderError
from hwnas.front.finalist_weights import pack_network, weights_path
from hwnas.front.journal import FrontJournal
from hwnas.front.verify import Candidate, Trained, deliver
from hwnas.networks import Network
from hwnas.spaces.mobilenet import mobile_space


def save_model(path, graph, **metadata):
    model = onnx.helper.make_model(onnx.helper.make_graph([], graph, [], []))
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)


@pytest.fixture
def trained():
    return Trained("t001", nn.Linear(2, 3), None, (0, 1))


@pytest.fixture
def found(tmp_path):
    (tmp_path / "candidates").mkdir()
    save_model(tmp_path / "candidates" / "t001.onnx", "as it was")
    return Candidate(
        name="t001", onnx="candidates/t001.onnx", val_accuracy=0.9, test_accuracy=0.8,
        latency_ms=0.12345678901234567, predicted_latency_ms=0.1, predicted_low_ms=0.09,
        predicted_high_ms=0.11, peak_memory_bytes=None, params=1, macs=2, parity_max_abs_error=0.0,
        meets_budget=True, genotype=(0, 1), measured_high_ms=0.13, verdict="front",
    )  # fmt: skip


def test_what_was_found_is_read_again_to_the_last_bit(tmp_path, trained, found):
    assert FrontJournal(tmp_path).get(trained) is None
    FrontJournal(tmp_path).add([(trained, found)])
    assert FrontJournal(tmp_path).get(trained) == found


def test_it_holds_after_the_model_was_put_on_the_front(tmp_path, trained, found):
    FrontJournal(tmp_path).add([(trained, found)])
    deliver([found], tmp_path)
    assert (tmp_path / "front" / "t001.onnx").exists()
    assert FrontJournal(tmp_path).get(trained) == found


def test_what_a_model_says_of_itself_may_change(tmp_path, trained, found):
    FrontJournal(tmp_path).add([(trained, found)])
    save_model(tmp_path / "candidates" / "t001.onnx", "as it was", hwnas="now on the front")
    assert FrontJournal(tmp_path).get(trained) == found


@pytest.mark.parametrize(
    "change", ["weights", "model", "half a model", "no model", "genotype", "damage"]
)
def test_what_changed_since_is_verified_again(tmp_path, trained, found, change):
    FrontJournal(tmp_path).add([(trained, found)])
    model = tmp_path / "candidates" / "t001.onnx"
    if change == "weights":
        with torch.no_grad():
            trained.network.weight[0, 0] += 1
    elif change == "model":
        save_model(model, "another")
    elif change == "half a model":
        model.write_bytes(model.read_bytes()[:-3])
    elif change == "no model":
        model.unlink()
    elif change == "genotype":
        trained = replace(trained, genotype=(1, 0))
    else:
        (tmp_path / "verified.json").write_text('[{"candidate": {"name": "t001"')
    assert FrontJournal(tmp_path).get(trained) is None


@pytest.mark.parametrize("change", ["", "of no space", "no weights", "no model", "a baseline"])
def test_other_networks_are_those_whose_weights_and_models_are_there(tmp_path, found, change):
    space = mobile_space((1, 8, 8), 10)
    row = tuple(space.sample(np.random.default_rng(0), 1)[0].tolist())
    architecture = space.architecture(row)
    found = replace(found, genotype=None if change == "a baseline" else row)
    network = Network(architecture)
    path = weights_path(tmp_path, "t001")
    path.parent.mkdir()
    path.write_bytes(pack_network(network, architecture))
    trained = Trained("t001", network, architecture, found.genotype)
    FrontJournal(tmp_path).add([(trained, found)])
    if change == "of no space":
        journal = tmp_path / "verified.json"
        entries = json.loads(journal.read_text())
        entries[0]["candidate"]["genotype"] = [99, *row[1:]]
        journal.write_text(json.dumps(entries))
    elif change == "no weights":
        path.unlink()
    elif change == "no model":
        (tmp_path / "candidates" / "t001.onnx").unlink()
    others = list(FrontJournal(tmp_path).others([], space))
    assert [candidate for _, candidate in others] == ([] if change else [found])
    assert all(item.name == "t001" and item.genotype == row for item, _ in others)
    assert list(FrontJournal(tmp_path).others([row], space)) == []


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"candidate": []}]', "[" * 100_000, "null"])
def test_a_damaged_journal_is_an_empty_one(tmp_path, trained, found, text):
    (tmp_path / "verified.json").write_text(text)
    journal = FrontJournal(tmp_path)
    assert journal.get(trained) is None
    journal.add([(trained, found)])
    assert len(json.loads((tmp_path / "verified.json").read_text())) == 1


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path, trained, found):
    (tmp_path / "verified.json.part").mkdir()
    with pytest.raises(RunFolderError, match=r"cannot write .*verified\.json"):
        FrontJournal(tmp_path).add([(trained, found)])
