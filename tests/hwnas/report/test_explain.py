import json

import numpy as np
import pandas as pd
import pytest
import tomli_w

from hwnas.budget import Budget
from hwnas.cost import CostTable
from hwnas.errors import RunFolderError
from hwnas.profiling import untrained_model
from hwnas.report.explain import explain_again, explain_run
from hwnas.report.explanation import EXPLANATION, read_explanation, write_explanation
from hwnas.spaces import catalog
from hwnas.strategies import Problem
from predictors.cost import CostPredictor
from predictors.files import save_predictor
from profilers.profiler import Profiler
from profilers.store import MeasurementStore


@pytest.fixture(scope="module")
def explained(tmp_path_factory, make_tiny_space, tiny_predictor):
    """The tiny space under a budget that half of it keeps, a front of two, and what explains it."""
    folder = tmp_path_factory.mktemp("run")
    space = make_tiny_space((1, 8, 8), 10)
    profiler = Profiler(tiny_predictor.target_)
    predictor = CostPredictor(tiny_predictor)
    with MeasurementStore(folder / "m.db") as store:
        table = CostTable(space, profiler, store)
        table.use(predictor)
        every = space.all_genotypes()
        costs = table.predict(every)
        limit = float(np.median(costs.high_ms))
        problem = Problem(space, table.predict, (Budget("latency_ms", limit),))
        members = [(0, 0, 0, 0, 0, 0), (1, 2, 1, 1, 1, 1)]
        rows = []
        for i, genotype in enumerate(members):
            (folder / f"n{i}.onnx").write_bytes(
                untrained_model(space.architecture(genotype)).proto.SerializeToString()
            )
            rows.append({"name": f"n{i}", "onnx": f"n{i}.onnx", "latency_ms": 1 + i,
                         "genotype": json.dumps(genotype)})  # fmt: skip
        pd.DataFrame(rows).to_csv(folder / "front.csv", index=False)
        arguments = (problem, table, predictor, profiler)
        yield folder, space, every, costs, problem, arguments, explain_run(folder, *arguments)


def every_combination(space):
    return np.stack(np.meshgrid(*map(range, space.n_options), indexing="ij"), -1).reshape(-1, 6)


def test_shares_of_the_variance_are_those_of_all_networks(explained):
    _, space, _, _, problem, _, found = explained
    rows = every_combination(space)
    grid = np.log(problem.predict(rows).latency_ms).reshape(space.n_options)
    for j, choice in enumerate(found.choices):
        others = tuple(axis for axis in range(6) if axis != j)
        # By definition: the variance of the means; the mean of the variances that are left.
        alone = grid.mean(axis=others).var() / grid.var()
        together = grid.var(axis=j).mean() / grid.var()
        assert choice.alone == pytest.approx(alone, abs=0.02)
        assert choice.together == pytest.approx(together, abs=0.05)
        assert choice.together > choice.alone - 0.05


def test_options_are_counted_among_networks_that_keep_the_budget_and_on_the_front(explained):
    _, space, _, _, problem, _, found = explained
    rows = every_combination(space)
    keeps, active = problem.is_feasible(rows), space.active(rows)
    for j, choice in enumerate(found.choices):
        counted = rows[keeps & active[:, j], j]
        shares = np.bincount(counted, minlength=space.n_options[j]) / len(counted)
        assert [o.random for o in choice.options] == pytest.approx(shares.tolist(), abs=0.03)
    by_name = {choice.name: choice for choice in found.choices}
    assert [o.front for o in by_name["stem"].options] == [0.5, 0.5]
    # Of the first member no block reads it: without depth there is no kernel.
    assert by_name["kernel_1"].n_front == 1
    assert [o.front for o in by_name["kernel_1"].options] == [0.0, 1.0]
    assert 0.4 < found.n_feasible / found.n_random < 0.6


def test_the_time_of_a_member_is_that_of_its_blocks_and_that_of_its_kinds(explained):
    _, space, _, _, problem, _, found = explained
    for member, genotype in zip(found.members, [(0,) * 6, (1, 2, 1, 1, 1, 1)], strict=True):
        blocks = [type(block).__name__ for block in space.architecture(genotype).blocks]
        assert [layer.block for layer in member.layers] == blocks
        of_blocks = [layer.latency_ms for layer in member.layers]
        assert min(of_blocks) > 0
        of_kinds = sum(kind.latency_ms for kind in member.kinds)
        assert sum(of_blocks) == pytest.approx(of_kinds)
        latency_ms = problem.predict(np.array([genotype])).latency_ms[0]
        assert of_kinds + member.overhead_ms == pytest.approx(latency_ms, rel=0.02)
    assert found.members[0].in_shape == "1×8×8"


def test_the_same_folder_is_explained_the_same_and_read_back_as_it_was(explained, tmp_path):
    folder, *_, arguments, found = explained
    assert explain_run(folder, *arguments) == found
    write_explanation(tmp_path, found)
    assert read_explanation(tmp_path) == found
    assert read_explanation(folder) is None


def test_a_run_without_a_front_is_explained_by_its_choices_alone(explained, tmp_path):
    *_, arguments, found = explained
    (tmp_path / "config.toml").write_text("[search]\n")
    alone = explain_run(tmp_path, *arguments)
    assert alone.members == () and alone.n_random == found.n_random
    assert [c.alone for c in alone.choices] == [c.alone for c in found.choices]
    assert {o.front for c in alone.choices for o in c.options} == {None}


def test_a_model_outside_of_the_run_folder_is_not_read(explained, tmp_path):
    *_, arguments, _ = explained
    row = {"name": "n", "onnx": "../n.onnx", "latency_ms": 1, "genotype": "[0, 0, 0, 0, 0, 0]"}
    pd.DataFrame([row]).to_csv(tmp_path / "front.csv", index=False)
    with pytest.raises(RunFolderError, match=r"names '\.\./n.onnx', which is not in"):
        explain_run(tmp_path, *arguments)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "[" * 100_000,
        '{"format": "hwnas explanation 9"}',
        '{"format": "hwnas explanation 1", "n_random": -1}',
        '{"format": "hwnas explanation 1", "n_random": 1, "n_feasible": 1, "choices": [1]}',
        '{"format": "hwnas explanation 1", "n_random": NaN, "n_feasible": 1, "choices": []}',
    ],
)
def test_a_file_that_is_no_explanation_is_named_with_what_to_do(tmp_path, text):
    (tmp_path / EXPLANATION).write_text(text)
    with pytest.raises(RunFolderError, match="cannot be understood .*delete it"):
        read_explanation(tmp_path)


def test_a_run_is_explained_again_from_its_folder(explained, monkeypatch, make_tiny_space):
    folder, *_, problem, arguments, found = explained
    monkeypatch.setitem(catalog.SPACES, "tiny", make_tiny_space)
    tables = {
        "search": {"data": "digits", "space": "tiny"},
        "budget": {"limits": [str(budget) for budget in problem.budgets]},
    }
    (folder / "config.toml").write_text(tomli_w.dumps(tables))
    save_predictor(arguments[2], folder / "predictor.npz")
    again = explain_again(folder, folder / "m.db")
    # A file keeps the predictor to some digits, and the limit is rounded.
    for one, other in zip(again.members, found.members, strict=True):
        assert [layer.fields for layer in one.layers] == [layer.fields for layer in other.layers]
        times = [[layer.latency_ms for layer in member.layers] for member in (one, other)]
        assert times[0] == pytest.approx(times[1], rel=1e-3)
    alone = [[choice.alone for choice in e.choices] for e in (again, found)]
    assert alone[0] == pytest.approx(alone[1], abs=1e-3)
    assert again.n_feasible == pytest.approx(found.n_feasible, rel=0.05)
