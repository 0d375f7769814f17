import pandas as pd
import pytest

from hwnas.bench.tables import read_search_table
from hwnas.errors import DataError
from hwnas.evaluators.table import TableEvaluator
from hwnas.record import Record
from hwnas.search import search
from hwnas.strategies import Trial, make_strategy


@pytest.fixture
def table(tmp_path):
    rows = {
        "op_a": ["conv", "conv", "pool"],
        "op_b": [1, 2, 1],
        "accuracy": [0.9, 0.95, 0.6],
        "device_ms": [2.0, 4.0, 1.0],
    }
    pd.DataFrame(rows).to_parquet(tmp_path / "search.parquet")
    return read_search_table(tmp_path / "search.parquet", accuracy="accuracy", latency="device_ms")


def test_a_candidate_has_the_error_and_latency_of_its_row(table):
    evaluation = TableEvaluator(table)(Trial(0, (0, 1), None))
    assert evaluation.objectives == (pytest.approx(0.05), 4.0)
    assert evaluation.result == {"val_accuracy": pytest.approx(0.95)}


def test_what_is_not_in_the_table_is_an_error(table):
    with pytest.raises(DataError, match="'search' has no row with {'op_a': 'pool', 'op_b': 2}"):
        TableEvaluator(table)(Trial(0, (1, 1), None))


def test_a_whole_table_is_searched(table, tmp_path):
    problem = table.problem(latency_is_known=True)
    with Record.open(tmp_path / "study.db", problem.space, create=True) as record:
        trials = search(
            problem, make_strategy("random", problem, seed=0), TableEvaluator(table), record,
            n_trials=9,
        )  # fmt: skip
    assert {trial.objectives for trial in trials} == {
        table.objectives(row) for row in range(len(table))
    }
