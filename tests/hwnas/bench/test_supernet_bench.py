import json
from dataclasses import replace

import pytest
import torch

from hwnas.baselines import Dense
from hwnas.bench import supernet, supernet_seed
from hwnas.bench.supernet import bench_supernet, supernet_of
from hwnas.bench.supernet_passes import time_passes
from hwnas.bench.supernet_seed import SupernetStudy, study_data
from hwnas.errors import ConfigError, RunFolderError
from hwnas.progress import Silent
from hwnas.spaces.base import Choice, SearchSpace
from hwnas.supernet import Supernet, SupernetTraining, evaluate_subnet
from hwnas.training import Recipe, seeded

SPACE = SearchSpace(
    "narrow",
    tuple(Choice(f"width_{i}", (4, 16, 64)) for i in range(2)),
    lambda options: (13,),
    (
        lambda options: Dense(options["width_0"], True),
        lambda options: Dense(options["width_1"], True),
        lambda options: Dense(3, False),
    ),
)
STUDY = SupernetStudy(
    data="wine", space="narrow", way="single-path", n_subnets=4, minutes=0.002, alone_epochs=2.0,
    supernet_recipe=("batch_size=16",),
)  # fmt: skip


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(supernet, "space_for", lambda name, data: SPACE)

    def run(study=STUDY, *, seeds=(0,)):
        return bench_supernet(study, tmp_path, seeds=seeds, data_path=None, progress=Silent())

    return run


def test_subnets_are_scored_with_inherited_weights_and_alone(bench):
    record = bench(seeds=(0, 1))
    json.dumps(record)
    macs = [subnet["macs"] for subnet in record["subnets"]]
    assert macs == sorted(macs) and len(macs) == 4
    assert record["recipe"]["epochs"] == 2.0 and record["n_validation"] == 27
    for row in record["seeds"].values():
        assert len(row["inherited"]) == len(row["alone"]) == 4
        assert all(0 <= accuracy <= 1 for accuracy in row["inherited"] + row["alone"])
        assert row["supernet_seconds"] > 0 and row["alone_seconds"] > 0
        assert row["passes"]["macs"] == macs[-1]  # the largest
    assert record["seeds"]["0"]["alone"] != record["seeds"]["1"]["alone"]
    assert list(record["alone_spearman"]) == ["0, 1"]


@pytest.mark.parametrize("when", ["supernet", "inherited", "alone"])
def test_an_interrupted_study_goes_on_and_finds_the_same(when, bench, tmp_path, monkeypatch):
    def interrupted(*args, **more):
        nonlocal n_calls
        n_calls += 1
        if n_calls == 2:
            raise KeyboardInterrupt
        return original(*args, **more)

    name = {
        "supernet": "train_supernet", "inherited": "evaluate_subnet", "alone": "train_network",
    }[when]  # fmt: skip
    original, n_calls = getattr(supernet_seed, name), 0
    monkeypatch.setattr(supernet_seed, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench()
    monkeypatch.setattr(supernet_seed, name, original)
    resumed = bench()["seeds"]["0"]
    n_calls = -1000
    monkeypatch.setattr(supernet_seed, "train_supernet", None)  # nothing is trained again
    monkeypatch.setattr(supernet_seed, "train_network", None)
    assert bench()["seeds"]["0"] == resumed
    kept = json.loads((tmp_path / "seed-0" / "alone-2-epochs.json").read_text())
    assert kept["alone 3"]["accuracy"] == resumed["alone"][3]
    trained = supernet_of(SPACE, tmp_path, seed=0)
    accuracy = evaluate_subnet(trained, (2, 2), study_data(STUDY, None)).accuracy
    assert accuracy == resumed["inherited"][3]  # of the largest


def test_the_supernet_gets_the_epochs_that_fit_into_the_minutes(bench, monkeypatch):
    asked = []
    now = [0.0]

    def timed(supernet, data, recipe, way, **more):
        asked.append(recipe.epochs)
        for step in range(1, 65):  # the first half of the steps is slow
            now[0] += 1.0 if step <= 32 else 0.01
            more["on_progress"](step / 64)
        return SupernetTraining(1.0, 0.5, 64)

    monkeypatch.setattr(supernet_seed, "train_supernet", timed)
    monkeypatch.setattr(supernet_seed, "time_passes", lambda *args, **more: {})
    monkeypatch.setattr(supernet_seed.time, "perf_counter", lambda: now[0])
    bench()
    # 7 steps of 16 are an epoch of the 124 examples of train; 0.12 s are 12 steps.
    assert asked == pytest.approx([64 / 7, 12 / 7])


def test_a_supernet_is_compared_with_longer_trainings_without_being_trained_again(
    bench, monkeypatch
):
    first = bench()["seeds"]["0"]
    monkeypatch.setattr(supernet_seed, "train_supernet", None)
    monkeypatch.setattr(supernet_seed, "evaluate_subnet", None)
    longer = bench(replace(STUDY, alone_epochs=3.0))["seeds"]["0"]
    assert longer["inherited"] == first["inherited"] and longer["alone"] != first["alone"]
    assert bench()["seeds"]["0"] == first


def test_a_folder_of_another_study_is_refused(bench, tmp_path):
    bench()
    with pytest.raises(ConfigError, match="minutes was .*, is 3.0"):
        bench(replace(STUDY, minutes=3.0))


def test_fewer_examples_hold_the_classes_in_proportion():
    study = replace(STUDY, train_examples=60)
    whole, part = study_data(STUDY, None), study_data(study, None)
    assert len(part.train) == 60 and len(part.validation) == len(whole.validation)
    shares = [torch.bincount(data.train.labels) / len(data.train) for data in (whole, part)]
    torch.testing.assert_close(*shares, atol=0.02, rtol=0)
    with pytest.raises(ConfigError, match="must be 1 to 124"):
        study_data(replace(STUDY, train_examples=125), None)


def test_there_is_no_supernet_before_it_was_trained(tmp_path):
    with pytest.raises(RunFolderError, match="No such file"):
        supernet_of(SPACE, tmp_path, seed=0)


def test_at_least_one_seed_is_needed(bench):
    with pytest.raises(ConfigError, match="one seed"):
        bench(seeds=())


def test_passes_are_timed_in_turns_and_the_first_round_is_left_out(monkeypatch):
    data = study_data(STUDY, None)
    with seeded(0):
        whole = Supernet(SPACE)
    # Of each pass: start and end. The module's first is slow, then it takes 10 ms and ours 12.
    times = [0.0, 9.0, 9.0, 10.0]
    for number in (1, 2, 3):
        first, second = (0.012, 0.010) if number % 2 else (0.010, 0.012)
        times += [20.0, 20.0 + first, 30.0, 30.0 + second]
    ends = iter(times)
    monkeypatch.setattr("hwnas.bench.supernet_passes.time.perf_counter", lambda: next(ends))
    found = time_passes(whole, (2, 2), data, Recipe(epochs=1), n_rounds=3)
    assert found["ratio"] == pytest.approx(1.2) and len(found["ratios"]) == 3
    assert found["supernet_ms"] == pytest.approx(12) and found["module_ms"] == pytest.approx(10)
