import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from hwnas.bench import against_hand_made
from hwnas.bench.against_hand_made import HandMadeStudy, bench_hand_made, is_beaten
from hwnas.blocks import ClassifierHead, ConvBlock
from hwnas.errors import ConfigError
from hwnas.networks import counts
from hwnas.progress import Silent
from hwnas.spaces.base import Architecture, Choice, SearchSpace
from hwnas.strategies.base import Costs, Problem

SHAPE = (1, 8, 8)
SPACE = SearchSpace(
    "widths",
    tuple(Choice(f"width_{i}", (8, 16, 32)) for i in range(2)),
    lambda options: SHAPE,
    (
        lambda options: ConvBlock(options["width_0"], 3, 2, "relu"),
        lambda options: ConvBlock(options["width_1"], 3, 2, "relu"),
        lambda options: HEAD,
    ),
)
HEAD = ClassifierHead(16, 10, "relu")
HAND_MADE = {
    "medium": Architecture(SHAPE, (*[ConvBlock(16, 3, 2, "relu")] * 2, HEAD)),
    "tiny": Architecture(SHAPE, (ClassifierHead(8, 10, "relu"),)),
}
STUDY = HandMadeStudy("digits", "widths", 0.5, n_seeds=2, n_evaluations=9, n_candidates=2)


def macs_of(genotypes):
    return np.array([counts(SPACE.architecture(tuple(row))).macs for row in genotypes.tolist()])


def predict(genotypes):
    macs = macs_of(genotypes)
    ms = macs / 1e5
    return Costs(ms, ms, 1.05 * ms, np.ones(len(ms)), macs, macs)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """With latencies of 1 ms for 1e5 MACs, as read off the ONNX models' weights."""
    timed = []

    def time_in_sittings(models, open_profiler, **more):
        timed.append(len(models))
        found = []
        for model in models:
            ms = macs_by_digest[model.digest] / 1e5 if model.digest in macs_by_digest else 0.5
            samples = SimpleNamespace(latency_ms=ms)
            found.append(SimpleNamespace(samples=samples, low_ms=0.9 * ms, high_ms=1.1 * ms))
        return found

    def untrained_model(architecture):
        model = original(architecture)
        macs_by_digest[model.digest] = counts(architecture).macs
        return model

    original, macs_by_digest = against_hand_made.untrained_model, {}
    monkeypatch.setattr(against_hand_made, "untrained_model", untrained_model)
    monkeypatch.setattr(against_hand_made, "time_in_sittings", time_in_sittings)
    monkeypatch.setattr(against_hand_made, "hand_made", lambda shape, n: HAND_MADE)
    monkeypatch.setattr(against_hand_made, "space_for", lambda name, data: SPACE)
    monkeypatch.setattr(
        against_hand_made._Comparison, "priced", lambda self, given: Problem(SPACE, predict)
    )

    def run(study=STUDY):
        return bench_hand_made(study, tmp_path, data_path=None, progress=Silent())

    run.timed = timed
    return run


def test_a_network_that_is_as_fast_is_compared_and_results_are_kept(bench, tmp_path, monkeypatch):
    record = bench()
    json.dumps(record)
    row = record["against"]["medium"]
    chosen = SPACE.from_json(row["searched"]["genotype"])
    assert macs_of(np.array([chosen]))[0] <= row["hand_made"]["macs"]
    for side in (row["hand_made"], row["searched"]):
        assert len(side["test_accuracies"]) == 2 and side["latency_ms"] > 0
    gain = row["searched"]["test_accuracy"] - row["hand_made"]["test_accuracy"]
    assert row["accuracy_gain"] == pytest.approx(gain)
    assert row["latency_ratio"] == 1.0  # trained models take 0.5 ms here
    tiny = record["against"]["tiny"]
    assert tiny["searched"] is None and "none of the networks" in tiny["reason"]
    assert len(list((tmp_path / "models").glob("medium-seed-*.onnx"))) == 2
    # Three held and were trained for a part, two of them to the end.
    assert len(list((tmp_path / "models").glob("medium-searched-*-seed-0.onnx"))) == 2
    # The limit; beside the hand-made one the three that are smaller; both trained; the other limit.
    assert bench.timed == [1, 1 + 3, 2, 1]
    monkeypatch.setattr(against_hand_made, "train_network", None)  # nothing is done again
    assert bench() == record and len(bench.timed) == 4


def test_what_is_searched_is_within_the_limit_and_trained_briefly(bench, monkeypatch):
    original, trained = against_hand_made.train_network, []

    def note(architecture, data, recipe, **more):
        trained.append((recipe.epochs, counts(architecture).macs))
        return original(architecture, data, recipe, **more)

    monkeypatch.setattr(against_hand_made, "train_network", note)
    bench(replace(STUDY, against=("medium",)))
    limit = counts(HAND_MADE["medium"]).macs
    assert max(macs for epochs, macs in trained) <= limit
    # Three are within the limit: searched; screened;
    # two trained to the end, and with another seed; and the hand-made one with both.
    n_of = {epochs: [each for each, _ in trained].count(epochs) for epochs in (0.05, 0.125, 0.5)}
    assert n_of == {0.05: 3, 0.125: 3, 0.5: 2 + 1 + 2}


def test_an_unknown_hand_made_network_is_an_error(bench):
    with pytest.raises(ConfigError, match="hand-made network.*did you mean 'medium'"):
        bench(replace(STUDY, against=("mediums",)))


def test_a_gain_counts_beyond_the_spread_and_at_no_more_latency():
    assert is_beaten([0.90, 0.91, 0.905], [0.93, 0.925, 0.93], 1.0)
    assert not is_beaten([0.90, 0.91, 0.905], [0.93, 0.925, 0.93], 1.01)
    assert not is_beaten([0.90, 0.93, 0.91], [0.93, 0.94, 0.93], 0.9)  # 0.02 more, spread 0.03
    assert not is_beaten([0.90, 0.91], [0.90, 0.93], 0.9)  # 0.01 more, spread 0.03


def test_it_is_for_images(bench):
    with pytest.raises(ConfigError, match="for images, wine is of kind table"):
        bench(HandMadeStudy("wine", "mlp", 1.0))
