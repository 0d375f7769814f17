import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from torch import nn
from typer.testing import CliRunner

from hwnas.bench import predictor as whole
from hwnas.bench import predictor_families, predictor_space, zoo, zoo_models
from hwnas.bench.predictor import PARTS, bench_predictor
from hwnas.bench.predictor_setup import (
    CHOSEN,
    HELD_OUT,
    TRAINING,
    Ledger,
    PredictorBench,
    judge,
)
from hwnas.bench.predictor_space import largest_networks, spread_networks
from hwnas.cli.bench import app
from hwnas.errors import ConfigError
from hwnas.export import network_to_onnx
from hwnas.families import sample_network
from hwnas.profiling import network_tags, untrained_model
from predictors.errors import PredictorError
from profilers.devices import observed_device
from profilers.measurement import FAMILY_TAG
from profilers.store import MeasurementStore
from profilers.targets import make_target

TARGET = make_target()
FAMILIES = ("temporal", "recurrent")
N_TRAINING, N_HELD_OUT, N_CHOSEN, N_PER_FAMILY = 24, 6, 3, 3


def space_campaign(space, target, store, *, profiler, seed, progress, minutes):
    """Instead of minutes: a few networks of the space."""
    drawn = space.canonical(space.sample(np.random.default_rng(seed), 3 * N_TRAINING))
    for row in np.unique(drawn, axis=0)[:N_TRAINING]:
        genotype = tuple(int(v) for v in row)
        model = untrained_model(space.architecture(genotype))
        if not store.has(target, model.digest):
            tags = network_tags(space, genotype)
            store.add(profiler.profile(model, tags=tags), observed_device())
    return store.networks(target)


def survey_campaign(target, store, *, profiler, minutes, seed, progress):
    """Instead of random operators: networks of two other families."""
    for number in range(4):
        for family in ("squeeze", "plain"):
            model = sample_network(family, number)
            if not store.has(target, model.digest):
                tags = {FAMILY_TAG: "survey"}
                store.add(profiler.profile(model, tags=tags), observed_device())


@pytest.fixture
def bench(tmp_path, make_tiny_space, made_up_profiler, monkeypatch):
    monkeypatch.setattr(predictor_space, "profile_space", space_campaign)
    monkeypatch.setattr(predictor_families, "profile_survey", survey_campaign)
    return PredictorBench(
        TARGET, make_tiny_space((1, 8, 8), 10), tmp_path / "m.db", n_held_out=N_HELD_OUT,
        n_chosen=N_CHOSEN, n_per_family=N_PER_FAMILY, n_splits=2, seconds=0.01, families=FAMILIES,
        make_profiler=made_up_profiler,
    )  # fmt: skip


def networks_of(bench, name):
    return bench.measured(name)[0]


def test_networks_of_the_space_are_predicted_that_were_not_learned_from(bench, made_up_profiler):
    record = bench_predictor(bench, ["space"])["space"]
    seen = {m.digest for m in networks_of(bench, TRAINING)}
    held_out = [m.digest for m in networks_of(bench, HELD_OUT)]
    chosen = [m.digest for m in networks_of(bench, CHOSEN)]
    assert not seen & {*held_out, *chosen}
    assert held_out == 2 * held_out[:N_HELD_OUT]  # two passes over all, not two of each
    assert len(chosen) == len(set(chosen)) <= N_CHOSEN
    assert record["training"]["n_networks"] == N_TRAINING
    assert record["held_out"]["n"] == N_HELD_OUT == len(record["held_out"]["networks"])
    assert record["held_out"]["mape"] < 0.1  # the truth is a formula
    assert record["held_out"]["repeats"]["median_error"] == 0
    quarters = record["held_out"]["by_quarter"]
    assert sum(quarter["n"] for quarter in quarters) == N_HELD_OUT
    assert [q["from_ms"] for q in quarters] == sorted(q["from_ms"] for q in quarters)
    assert record["splits"]["n"] == 2
    assert record["splits"]["n_fit"] + record["splits"]["n_test"] == N_TRAINING + N_HELD_OUT
    n_measured = len(made_up_profiler.measured)
    again = bench_predictor(bench, ["space"])["space"]
    assert len(made_up_profiler.measured) == n_measured
    assert again == record


def test_a_run_that_was_killed_goes_on_where_it_was(bench, made_up_profiler):
    made_up_profiler.limit = N_TRAINING + N_HELD_OUT + 2  # in the second pass
    with pytest.raises(KeyboardInterrupt):
        bench_predictor(bench, ["space"])
    made_up_profiler.limit = None
    bench_predictor(bench, ["space"])
    assert len(networks_of(bench, HELD_OUT)) == 2 * N_HELD_OUT
    n_all = N_TRAINING + 2 * N_HELD_OUT + len(networks_of(bench, CHOSEN))
    assert len(made_up_profiler.measured) == n_all


def test_a_flagged_measurement_yields_to_the_other(bench):
    good, flagged = (
        SimpleNamespace(
            latency_ms=ms, samples=SimpleNamespace(warning=warning), tags={"genotype": "[1, 2]"}
        )
        for ms, warning in ((1.0, None), (1.4, "busy"))
    )
    truth = predictor_space._truth([flagged, good])
    assert (truth.latency_ms, truth.n_trusted, truth.repeats_ms) == (1.0, 1, (1.4, 1.0))
    assert predictor_space._truth([good, good]).latency_ms == 1.0
    assert predictor_space._truth([flagged, flagged]).n_trusted == 0


def costs_of(latency_ms, macs=None):
    return SimpleNamespace(
        latency_ms=np.array(latency_ms), macs=np.zeros(len(latency_ms)) if macs is None else macs
    )


def test_networks_are_spread_over_the_log_of_latency():
    latency_ms = np.exp(np.linspace(0, 4, 401))
    is_free = np.ones(401, dtype=bool)
    # Percentiles 1 and 99 are rows 4 and 396; the middle is 200.
    assert spread_networks(costs_of(latency_ms), is_free, n=3) == [4, 200, 396]
    is_free[200] = False
    assert spread_networks(costs_of(latency_ms), is_free, n=3) == [4, 199, 396]
    few = np.arange(401) < 2
    assert spread_networks(costs_of(latency_ms), few, n=3) == [1, 0]


def test_a_search_takes_the_most_macs_for_the_latency():
    latency_ms = np.exp(np.linspace(0, 4, 401))
    macs = np.zeros(401)
    macs[[50, 350]] = 1
    is_free = np.ones(401, dtype=bool)
    assert largest_networks(costs_of(latency_ms, macs), is_free, n=2) == [50, 350]
    is_free[50] = False
    assert largest_networks(costs_of(latency_ms, macs), is_free, n=2)[1] == 350


def test_answers_are_judged_by_error_bias_and_interval():
    answer = SimpleNamespace(
        latency_ms=np.array([1.0, 2.2]), low_ms=np.array([0.9, 2.1]), high_ms=np.array([1.1, 2.32]),
        known_share=np.array([1.0, 0.5]),
    )  # fmt: skip
    found = judge(answer, np.array([1.0, 2.0]))
    assert found["bias"] == pytest.approx(0.05)
    assert found["coverage"] == 0.5
    assert found["half_width"] == pytest.approx((0.1 + 0.05) / 2)
    assert found["known_share"] == 0.75
    one = SimpleNamespace(**{name: values[:1] for name, values in vars(answer).items()})
    assert judge(one, np.array([1.0]))["spearman"] is None


def test_a_family_is_predicted_by_what_never_saw_it(bench, made_up_profiler, monkeypatch):
    learned = []
    fit_without = predictor_families.fit_without

    def spy(bench, family):
        monkeypatch.setattr(predictor_families, "NetworkLatencyPredictor", spying(learned, family))
        return fit_without(bench, family)

    monkeypatch.setattr(predictor_families, "fit_without", spy)
    record = bench_predictor(bench, ["families"])["families"]
    assert [family for family, _ in learned] == list(FAMILIES)
    for family, families in learned:
        assert family not in families and {"tiny", "survey", *FAMILIES} - {family} == families
    assert record["survey"]["n_networks"] == 8
    before, after = record["unmeasured"], record["measured"]
    assert set(before["by_family"]) == set(FAMILIES)
    assert before["n"] == after["n"] == len(FAMILIES) * N_PER_FAMILY
    assert before["known_share"] < after["known_share"]
    assert after["mape"] < 0.02
    n_measured = len(made_up_profiler.measured)
    again = bench_predictor(replace(bench, is_new=False), ["families"])["families"]
    assert len(made_up_profiler.measured) == n_measured
    assert again == record


def spying(learned, family):
    from predictors.network_latency import NetworkLatencyPredictor

    class Spy(NetworkLatencyPredictor):
        def fit(self, measurements, **options):
            learned.append((family, {m.tags[FAMILY_TAG] for m in measurements}))
            return super().fit(measurements, **options)

    return Spy


def test_what_cannot_be_exported_or_run_is_a_line_that_says_why(bench, tmp_path, monkeypatch):
    exported = []

    def small(transformers):
        exported.append("small")
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), zoo_models._images(16)

    def broken(transformers):
        raise RuntimeError("no such layer")

    light = tmp_path / "light"
    light.mkdir()
    proto = network_to_onnx(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), (1, 8, 8))
    (light / "light_good.onnx").write_bytes(proto.SerializeToString())
    (light / "light_bad.onnx").write_bytes(b"no model")
    monkeypatch.setattr(zoo, "LIGHT_FOLDER", light)
    monkeypatch.setattr(zoo, "ZOO", {"small": small, "broken": broken})
    monkeypatch.setattr(zoo_models, "ZOO", {"small": small, "broken": broken})
    monkeypatch.setattr(
        zoo_models, "import_module", lambda name: SimpleNamespace(
            logging=SimpleNamespace(set_verbosity_error=lambda: None)
        )
    )  # fmt: skip
    record = bench_predictor(bench, ["zoo"])["zoo"]
    assert {row["name"] for row in record["unmeasured"]["networks"]} == {"light_good", "small"}
    assert set(record["not_asked"]) == {"light_bad", "broken"}
    assert "no such layer" in record["not_asked"]["broken"]
    assert record["measured"]["n"] == 2
    assert bench_predictor(bench, ["zoo"])["zoo"] == record
    assert exported == ["small"]
    assert onnx.load(tmp_path / "m.zoo" / "small.onnx").graph.node


def test_without_transformers_its_networks_say_what_to_install(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(zoo_models, "import_module", missing)
    with pytest.raises(ConfigError, match=r"hwnas\[bench\]"):
        zoo_models.export_zoo_model("bert")


def test_a_part_that_fails_does_not_stop_the_others(bench, monkeypatch):
    def fails(bench):
        raise PredictorError("too little")

    monkeypatch.setattr(whole, "PARTS", {"space": fails, "speed": lambda bench: {"n": 1}})
    record = bench_predictor(bench, ["space", "speed"])
    assert record["space"] == {"error": "too little"} and record["speed"] == {"n": 1}
    with pytest.raises(PredictorError, match="too little"):
        bench_predictor(bench, ["space"])
    with pytest.raises(ConfigError, match="did you mean 'space'"):
        bench_predictor(bench, ["spaces"])


def test_nothing_is_measured_where_it_shall_not(bench, made_up_profiler):
    for part in ("space", "families", "zoo"):
        with pytest.raises(PredictorError):
            bench_predictor(replace(bench, is_new=False), [part])
    assert not made_up_profiler.measured


def test_time_of_work_that_was_killed_counts_until_its_last_measurement(tmp_path):
    ledger = Ledger(tmp_path / "ledger.json")
    store = SimpleNamespace(path="a.db", measured_between=lambda target: (1000.0, 1300.0))
    work, other = "a.db: work", "a.db: other"
    assert ledger.minutes(work, store, TARGET) == 5  # measured without a ledger
    ledger.put(work, [[1000.0, 1060.0], [1240.0, None]])
    assert ledger.minutes(work, store, TARGET) == 2
    assert ledger.minutes(other, store, TARGET) == 0  # those measurements are of the first
    with ledger.spending(work, store, TARGET):
        pass
    (_, killed, last) = ledger.get(work, None)
    assert killed == [1240.0, 1300.0] and last[1] >= last[0] > 1300


def test_a_damaged_ledger_is_told(tmp_path):
    for text in ("{", "[]"):
        (tmp_path / "ledger.json").write_text(text)
        with pytest.raises(ConfigError, match=r"ledger\.json"):
            Ledger(tmp_path / "ledger.json").get("work", None)


@pytest.mark.parametrize(
    "changes",
    [{"n_held_out": 0}, {"n_splits": 0}, {"train_minutes": 0}, {"measure_seconds": -1.0},
     {"seconds": float("nan")}, {"families": ("plain",)}],
)  # fmt: skip
def test_options_that_cannot_be_used_are_refused(bench, changes):
    with pytest.raises(ConfigError):
        replace(bench, **changes)


def test_the_command_prints_json_or_tables(bench, monkeypatch, tmp_path):
    record = bench_predictor(bench, ["space", "families"])
    record["zoo"] = record["families"] | {"not_asked": {"broken": "no such layer"}}
    record["speed"] = {
        "costing": {"genotypes_per_second": 2e6},
        "answering": [{"model": "plain-1", "n_nodes": 9, "median_s": 0.2, "process_s": 1.5}],
    }
    scores = {"mape": 0.1, "within_5": 0.5, "within_10": 1.0, "spearman": None}
    record["kinds"] = {"kinds": {"median": {"fit_seconds": 1.0, "accuracy": {"space": scores}}}}
    assert set(PARTS) <= set(record)
    asked = []

    def answer(bench, parts):
        asked.append((bench, parts))
        return record

    monkeypatch.setattr(whole, "bench_predictor", answer)
    options = ["predictor", "--measurements", str(tmp_path / "m.db"), "--held-out", "7"]
    found = CliRunner().invoke(app, [*options, "--part", "zoo, speed", "--no-measure", "--json"])
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["space"]["held_out"] == json.loads(
        json.dumps(record["space"]["held_out"])
    )
    settings, parts = asked[0]
    assert parts == ["zoo", "speed"]
    assert settings.n_held_out == 7 and settings.measure_seconds is None and settings.is_new
    tables = CliRunner().invoke(app, options, env={"COLUMNS": "200"})
    assert tables.exit_code == 0, tables.output
    for text in ("held out", "all families", "recurrent-0", "no such layer", "genotypes a second"):
        assert text in tables.stdout
    assert asked[1][1] == list(PARTS)


def test_store_keeps_networks_of_other_spaces_apart(bench, make_tiny_space):
    bench_predictor(bench, ["space"])
    other = replace(bench, space=make_tiny_space((1, 12, 12), 10))
    with MeasurementStore(bench.database(HELD_OUT)) as store:
        n_before = len(store.networks(TARGET))
    record = bench_predictor(other, ["space"])["space"]
    assert record["held_out"]["n"] == N_HELD_OUT
    with MeasurementStore(bench.database(HELD_OUT)) as store:
        assert len(store.networks(TARGET)) == n_before + 2 * N_HELD_OUT
