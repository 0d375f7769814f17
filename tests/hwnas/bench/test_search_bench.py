import json
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
import typer
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.samplers import NSGAIISampler
from typer.testing import CliRunner

from hwnas.bench.peers import Meter, SampledStudy, Spent
from hwnas.bench.search import Run, _summary, bench_search, draw_curves, run_strategy
from hwnas.bench.tables import read_search_table
from hwnas.cli.bench_search import search
from hwnas.errors import ConfigError, DataError
from hwnas.progress import Silent
from hwnas.strategies import SpaceExhaustedError, make_strategy


def synthetic(n_columns, n_rows=None, seed=0, n_options=4):
    """Random additive values and pairwise interactions; latency is nearly additive."""
    rng = np.random.default_rng(seed)
    if n_rows is None:
        genotypes = np.array(list(np.ndindex(*[n_options] * n_columns)))
    else:
        genotypes = rng.integers(0, n_options, size=(n_rows, n_columns))
    values = rng.normal(size=(n_columns, n_options))
    pairs = 0.4 * rng.normal(size=(n_columns, n_columns, n_options, n_options))
    columns = np.arange(n_columns)
    quality = values[columns, genotypes].sum(axis=1)
    for i in range(n_columns):
        for j in range(i):
            quality += pairs[i, j, genotypes[:, i], genotypes[:, j]] / n_columns**0.5
    cost = np.abs(rng.normal(size=(n_columns, n_options)) + 0.5 * values)
    latency = 1 + cost[columns, genotypes].sum(axis=1)
    frame = pd.DataFrame({f"op_{i}": genotypes[:, i] for i in columns})
    frame["op_0"] = np.array(["a", "b", "c", "d"])[genotypes[:, 0]]
    frame["acc"] = 1 - 0.05 - 0.4 / (1 + np.exp(quality / n_columns**0.5))
    frame["phone_ms"] = latency
    return frame.drop_duplicates([f"op_{i}" for i in columns])


@pytest.fixture
def write(tmp_path):
    def write(frame, name="t.parquet"):
        frame.to_parquet(tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def read(write):
    return lambda frame: read_search_table(write(frame), accuracy="acc", latency="phone_ms")


def bench(path, strategies, **changes):
    settings = {
        "accuracy": "acc", "latency": "phone_ms", "n_evaluations": 12, "n_seeds": 2,
        "latency_is_known": True, "progress": Silent(),
    }  # fmt: skip
    return bench_search(path, strategies=strategies, **{**settings, **changes})


def test_a_table_is_read_as_choices_and_two_objectives(read):
    frame = pd.DataFrame(
        {"op_a": ["x", "y", "x"], "op_b": [3, 3, 7], "acc": [0.9, 0.8, 0.5], "phone_ms": [4, 2, 3]}
    )
    table = read(frame)
    assert [choice.options for choice in table.space.choices] == [("x", "y"), (3, 7)]
    assert table.row((0, 1)) == 2
    assert table.row((1, 1)) is None
    assert table.objectives(0) == (pytest.approx(0.1), 4.0)
    # Scaled latencies 1, 0, 1/2; to the point (error 0.9, latency 1) the second alone covers
    # 0.7 * 1, the third adds nothing, the first touches the border: that is the whole front.
    assert table.hypervolume(np.array([0, 1, 2])) == pytest.approx(1)
    assert table.hypervolume(np.array([2])) == pytest.approx(0.4 * 0.5 / 0.7)
    assert table.hypervolumes(np.array([0, 2, 1, 0])) == pytest.approx([0, 0.2 / 0.7, 1, 1])


def test_a_place_that_lacks_an_option_has_the_choice_of_the_others(read):
    frame = pd.DataFrame(
        {
            "op_a": ["x", "y", "z"],
            "op_b": ["x", "z", "x"],
            "acc": [0.9, 0.8, 0.5],
            "phone_ms": [1, 2, 3],
        }
    )
    table = read(frame)
    assert [choice.options for choice in table.space.choices] == [("x", "y", "z")] * 2
    assert table.row((1, 2)) == 1


def test_strategies_see_the_choices_and_what_is_predicted(read):
    table = read(synthetic(3, n_rows=30))
    known, unknown = (table.problem(latency_is_known=flag) for flag in (True, False))
    there = table.space.rows
    assert known.predict(there).latency_ms == pytest.approx(table.latency_ms)
    assert np.isnan(unknown.predict(there).latency_ms).all()
    everything = np.array(list(np.ndindex(4, 4, 4)))
    exists = [table.row(tuple(row)) is not None for row in everything.tolist()]
    assert 0 < sum(exists) < 64
    for problem in (known, unknown):
        assert problem.is_feasible(everything).tolist() == exists


@pytest.mark.parametrize("latency_is_known", [True, False])
@pytest.mark.parametrize("name", ["guided", "evolution", "random"])
def test_all_of_a_table_is_found_and_then_it_ends(read, name, latency_is_known):
    table = read(synthetic(3, n_rows=30))
    run = run_strategy(name, table, n_evaluations=99, seed=0, latency_is_known=latency_is_known)
    assert len(run.curve) == len(table)
    assert run.curve[-1] == pytest.approx(1)
    assert (np.diff(run.curve) >= 0).all()
    assert run.n_missing == run.n_repeated == 0
    strategy = make_strategy(name, table.problem(latency_is_known=True), seed=1)
    for _ in range(len(table)):
        strategy.ask()
    with pytest.raises(SpaceExhaustedError):
        strategy.ask()


@pytest.mark.parametrize("n_columns", [5, 6])
@pytest.mark.parametrize("latency_is_known", [True, False])
def test_the_default_needs_far_fewer_evaluations_than_random(read, n_columns, latency_is_known):
    table = read(synthetic(n_columns, seed=n_columns))
    guided, random = (
        run_strategy(name, table, n_evaluations=40, seed=0, latency_is_known=latency_is_known)
        for name in ("guided", "random")
    )
    assert 1 - guided.curve[-1] < 0.3 * (1 - random.curve[-1])
    assert guided.evaluations_to(random.curve[-1]) < 30


def test_a_table_that_holds_little_of_its_space_is_searched_within_it(read):
    table = read(synthetic(12, n_rows=3000))  # of 16.8 million
    guided, random = (
        run_strategy(name, table, n_evaluations=40, seed=0, latency_is_known=True)
        for name in ("guided", "random")
    )
    assert guided.n_missing == 0
    assert guided.curve[-1] > random.curve[-1]


def test_a_proposal_that_is_missing_or_known_costs_nothing(read):
    table = read(synthetic(3, n_rows=30))
    meter = Meter(table, n_evaluations=2)
    first, second = (tuple(row) for row in table.space.rows[:2].tolist())
    missing = next(g for g in np.ndindex(4, 4, 4) if table.row(g) is None)
    assert meter.evaluate(first) == meter.evaluate(first) == table.objectives(0)
    assert meter.evaluate(missing) is None
    assert (meter.n_repeated, meter.n_missing, meter.rows) == (1, 1, [0])
    meter.evaluate(second)
    with pytest.raises(Spent):
        meter.evaluate(second)
    stuck = Meter(table, n_evaluations=2)
    with pytest.raises(Spent):
        [stuck.evaluate(missing) for _ in range(1000)]


def test_peers_run_through_their_own_packages(write):
    names = ["optuna-nsga2", "optuna-tpe"]
    record = bench(write(synthetic(4)), [*names, "random"], n_evaluations=40, n_seeds=1)
    for name in names:
        found = record["strategies"][name]
        assert found["version"].startswith("optuna ")
        assert len(found["curve"]) == 40
        assert found["ask_tell_s"] is found["ask_tell_last_tenth_s"] is None
    assert record["strategies"]["random"]["version"] is None


def test_pymoo_runs_where_it_is_installed(read):
    pytest.importorskip("pymoo")
    table = read(synthetic(4))
    runs = [
        run_strategy("pymoo-nsga2", table, n_evaluations=60, seed=seed, latency_is_known=False)
        for seed in (0, 0, 1)
    ]
    assert len(runs[0].curve) == 60
    assert runs[0].curve.tolist() == runs[1].curve.tolist() != runs[2].curve.tolist()


def test_a_peer_that_is_not_installed_is_named_and_the_others_run(write, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    record = bench(write(synthetic(3)), ["pymoo-nsga2", "random"], n_evaluations=5, n_seeds=1)
    assert list(record["strategies"]) == ["random"]
    assert list(record["not_available"]) == ["pymoo-nsga2"]
    assert "pip install pymoo" in record["not_available"]["pymoo-nsga2"]


def test_the_record_holds_medians_and_quartiles_and_is_drawn(write, tmp_path):
    record = bench(write(synthetic(4)), ["default", "random"], n_evaluations=15, n_seeds=3)
    assert json.loads(json.dumps(record)) == record
    guided = record["strategies"]["default"]
    assert list(guided["evaluations_to"]) == ["99%", "99.5%", "99.9%"]
    assert list(guided["hypervolume_at"]) == ["10", "15"]
    at = guided["hypervolume_at"]["15"]
    assert at["q1"] <= at["median"] <= at["q3"] <= 1
    assert guided["evaluations_below_random"] == 0  # none from 30 on, there are 15
    assert guided["ask_tell_s"] > 0 and guided["ask_tell_last_tenth_s"] > 0
    page = draw_curves(record)
    assert "phone_ms of t.parquet" in page
    assert 'src="http' not in page


def test_the_command_prints_json_or_a_table_and_draws(write, tmp_path):
    app = typer.Typer()
    app.command()(search)
    options = [
        "--table", str(write(synthetic(3))), "--accuracy", "acc", "--latency", "phone_ms",
        "--strategies", "default,random", "--evaluations", "12", "--seeds", "1", "--latency-known",
    ]  # fmt: skip
    as_json = CliRunner().invoke(app, [*options, "--json", "--plot", str(tmp_path / "p.html")])
    assert list(json.loads(as_json.stdout)["strategies"]) == ["default", "random"]
    assert (tmp_path / "p.html").exists()
    as_table = CliRunner().invoke(app, options, env={"COLUMNS": "200"})
    assert as_table.exit_code == 0
    assert "default" in as_table.output and "after 12" in as_table.output


def test_runs_that_do_not_get_there_count_as_late():
    from hwnas.bench.search import _quartiles

    inf = float("inf")
    assert _quartiles([30, 10, 20]) == {"q1": 10, "median": 20, "q3": 30}
    assert _quartiles([30, inf, 20])["median"] == 30
    assert _quartiles([30, inf, inf])["median"] is None


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pd.DataFrame({"acc": [0.5], "phone_ms": [1.0]}), "no column that starts with 'op'"),
        (pd.DataFrame({"op": [1, 2], "acc": [50, 160.0], "phone_ms": [1.0, 2]}), "shares in"),
        (pd.DataFrame({"op": [1, 2], "acc": [0.5, 0.6], "phone_ms": [0.0, 2]}), "must be > 0"),
        (pd.DataFrame({"op": [1, 2], "acc": [0.5, 0.6], "phone_ms": [2.0, 2]}), "differ"),
        (pd.DataFrame({"op": [1, 2], "acc": ["a", "b"], "phone_ms": [2.0, 3]}), "not numbers"),
        (pd.DataFrame({"op": [1, 2], "acc": [0.05, 0.6], "phone_ms": [2.0, 3]}), "no front"),
        (
            pd.DataFrame({"op": np.arange(2000), "acc": 0.5, "phone_ms": np.arange(1.0, 2001)}),
            "2,000 different values; a choice has 1,024 at most",
        ),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(read, frame, message):
    with pytest.raises(DataError, match=message):
        read(frame)


def test_names_that_do_not_exist_are_refused_with_the_nearest(write, tmp_path):
    path = write(synthetic(3))
    with pytest.raises(ConfigError, match="did you mean 'phone_ms'"):
        bench(path, ["random"], latency="fone_ms")
    with pytest.raises(ConfigError, match="did you mean 'optuna-nsga2'"):
        bench(path, ["optuna-nsga"])
    with pytest.raises(ConfigError, match="two columns, got 'acc' for both"):
        bench(path, ["random"], latency="acc")
    with pytest.raises(ConfigError, match="at least one strategy"):
        bench(path, [])
    with pytest.raises(DataError, match="cannot read the table"):
        bench(tmp_path / "none.parquet", ["random"])
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(DataError, match="cannot read the table"):
        bench(tmp_path / "text.parquet", ["random"])


def test_costs_of_devices_that_are_named_like_choices_are_no_choices(write):
    frame = synthetic(3).assign(openvino_ms=lambda f: 2 * f.phone_ms, opal_mj=lambda f: f.phone_ms)
    table = read_search_table(write(frame), accuracy="acc", latency="openvino_ms")
    assert [choice.name for choice in table.space.choices] == ["op_0", "op_1", "op_2"]
    assert table.latency_ms == pytest.approx(frame["openvino_ms"].to_numpy())


def test_what_is_not_said_of_a_row_is_an_option_of_its_own(read):
    frame = pd.DataFrame(
        {
            "op_kind": ["a", "b", None, "a"],
            "op_width": [8, None, 16, 16],
            "acc": [0.5, 0.7, 0.9, 0.9],
            "phone_ms": [1.0, 3.0, 4.0, np.inf],
        }
    )
    table = read(frame)
    assert [choice.options for choice in table.space.choices] == [("", "a", "b"), (7, 8, 16)]
    assert len(table) == 3  # what takes for ever was not measured
    assert table.row((0, 2)) == 2


def test_peers_search_a_table_that_holds_little_of_its_space(write, tmp_path):
    names = ["optuna-tpe", *(["pymoo-nsga2"] if find_spec("pymoo") else [])]
    path = write(synthetic(10, n_rows=40))  # of a million
    record = bench(path, [*names, "random"], n_evaluations=30, n_seeds=2)
    for name in names:
        found = record["strategies"][name]
        assert found["n_ended_early"] == 2
        assert 10 <= found["n_evaluated"] < 30
    assert record["strategies"]["random"]["n_ended_early"] == 0
    app = typer.Typer()
    app.command()(search)
    options = [
        "--table", str(path), "--accuracy", "acc", "--latency", "phone_ms", "--strategies",
        "optuna-tpe", "--evaluations", "30", "--seeds", "1", "--latency-known",
    ]  # fmt: skip
    told = CliRunner().invoke(app, options)
    assert "optuna-tpe ended early with 1 of 1 seeds" in told.stderr
    assert "others evaluated it" in told.stderr
    with pytest.raises(ConfigError, match="is a folder"):
        CliRunner().invoke(app, [*options, "--plot", str(tmp_path)], catch_exceptions=False)


def test_a_peer_that_finds_nothing_of_a_table_has_no_hypervolume(write, monkeypatch):
    monkeypatch.setattr("hwnas.bench.peers.N_STARTING", 0)
    path = write(synthetic(12, n_rows=20))
    found = bench(path, ["optuna-tpe"], n_evaluations=2, n_seeds=1)["strategies"]["optuna-tpe"]
    assert found["n_evaluated"] == 0 and found["curve"] == [0]


def test_peers_see_numbers_in_their_order(read):
    study = SampledStudy("optuna-tpe", read(synthetic(3)), seed=0)
    assert isinstance(study.distributions["op_0"], CategoricalDistribution)
    assert study.distributions["op_1"] == IntDistribution(0, 3)


def test_rows_without_a_value_are_left_out_and_repeated_ones_averaged(read):
    frame = pd.DataFrame(
        {"op": [1, 1, 2, 3], "acc": [0.5, 0.7, 0.9, None], "phone_ms": [1.0, 3.0, 4.0, 5.0]}
    )
    table = read(frame)
    assert len(table) == 2
    assert table.objectives(table.row((0,))) == (pytest.approx(0.4), 2.0)


def test_accuracies_may_be_percent(read):
    frame = pd.DataFrame({"op": [1, 2], "acc": [60.0, 0.5], "phone_ms": [1.0, 2.0]})
    np.testing.assert_allclose(read(frame).error, [0.4, 0.995])


def test_an_index_of_pandas_is_a_column_like_others(tmp_path):
    path = tmp_path / "index.parquet"
    frame = pd.DataFrame(
        {"op_a": [0, 0, 1, 1], "op_b": ["x", "y", "x", "y"], "acc": 0.5, "phone_ms": [1.0, 2, 3, 4]}
    )
    for index in ("op_a", ["op_a", "op_b"]):
        frame.set_index(index).to_parquet(path)
        table = read_search_table(path, accuracy="acc", latency="phone_ms")
        assert len(table) == 4
        assert {choice.name for choice in table.space.choices} == {"op_a", "op_b"}


def test_types_with_gaps_of_their_own_are_read(tmp_path):
    path = tmp_path / "gaps.parquet"
    frame = pd.DataFrame({
        "op_flag": pd.array([True, None, False, True], "boolean"),
        "op_width": pd.array([0, 255, None, 3], "UInt8"),
        "acc": 0.5, "phone_ms": [1.0, 2.0, 3.0, 4.0],
    })  # fmt: skip
    frame.to_parquet(path)
    table = read_search_table(path, accuracy="acc", latency="phone_ms")
    assert [len(choice.options) for choice in table.space.choices] == [3, 4]
    assert [choice.options for choice in table.space.choices][1] == (-1.0, 0.0, 3.0, 255.0)
    assert len(table) == 4


def test_columns_that_say_nothing_are_no_choices_and_long_ones_widen_no_flag(read):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({f"op_{i}": rng.integers(0, 2, 60) for i in range(5)})
    frame["op_width"], frame["op_stem"] = np.arange(60), "conv"
    frame["acc"], frame["phone_ms"] = rng.random(60), rng.random(60) + 1
    table = read(frame)
    sizes = {choice.name: len(choice.options) for choice in table.space.choices}
    assert sizes == {**{f"op_{i}": 2 for i in range(5)}, "op_width": 60}


def test_what_is_asked_for_is_no_choice_whatever_its_name(write):
    frame = pd.DataFrame({"op": [1, 2], "optimal": [0.5, 0.6], "openvino_latency": [1.0, 2.0]})
    table = read_search_table(write(frame), accuracy="optimal", latency="openvino_latency")
    assert [choice.name for choice in table.space.choices] == ["op"]


def test_a_space_consists_of_the_rows_of_its_table(read):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({f"op{i}": rng.integers(0, 9, 50) for i in range(9)})
    table = read(frame.assign(acc=rng.random(50), phone_ms=rng.random(50) + 1))
    assert table.space.size == 50
    listed = table.space.all_genotypes()
    assert {row.tobytes() for row in listed} == {row.tobytes() for row in table.space.rows}
    assert [tuple(row) for row in listed] == sorted(tuple(row) for row in listed)


def test_peers_learn_what_is_missing_and_end_when_nothing_new_comes(read):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({f"op{i}": rng.integers(0, 4, 40) for i in range(8)})
    table = read(frame.assign(acc=rng.random(40), phone_ms=rng.random(40) + 1))
    study = SampledStudy("optuna-nsga2", table, seed=0)
    missing = next(g for g in ((i, 0, 0, 0, 0, 0, 0, 0) for i in range(4)) if table.row(g) is None)
    study._study.enqueue_trial(study._params(missing))
    for _ in range(21):  # those that it starts with come first
        study.tell(table.objectives(row) if (row := table.row(study.ask())) is not None else None)
    *_, last = study._study.get_trials()
    assert last.state.is_finished() and last.values == [1.0, table.latency_ms.max()]
    assert all(value > 0 for value in last.constraints.values())
    meter = Meter(table, 30)
    assert all(meter.evaluate(missing) is None for _ in range(1000))
    with pytest.raises(Spent):
        meter.evaluate(missing)


def test_told_trials_are_generations_of_nsga2(read):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({f"op{i}": rng.integers(0, 4, 90) for i in range(4)})
    table = read(frame.assign(acc=rng.random(90), phone_ms=rng.random(90) + 1))
    study = SampledStudy("optuna-nsga2", table, seed=0)
    for row in range(60):
        study.add(table.genotype(row), table.objectives(row))
    study.ask()
    *_, last = study._study.get_trials()
    assert last.system_attrs[NSGAIISampler._get_generation_key()] == 3


def test_a_run_that_ended_early_is_compared_where_it_stayed():
    early, random = Run(np.full(5, 0.1), 0, 0), Run(np.linspace(0, 1, 60), 0, 0)
    found = _summary("early", [early], {"early": [early], "random": [random]}, True)
    assert found["evaluations_below_random"] == 31
