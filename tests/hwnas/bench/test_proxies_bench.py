import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from hwnas.bench.proxies import bench_proxies, cell_of
from hwnas.cli.bench_proxies import proxies
from hwnas.errors import ConfigError, DataError, HwnasError
from hwnas.networks import counts
from hwnas.progress import Silent
from hwnas.spaces.nasbench201 import cell_text, nasbench201_space

PUBLISHED = Path(__file__).parents[4] / "shared" / "data" / "zero_cost" / "zerocost_subset.parquet"
CELLS = ["(2, 2, 2, 2, 2, 2)", "(1, 1, 3, 1, 1, 1)", "(3, 2, 1, 0, 2, 2)", "(1, 1, 0, 1, 1, 1)"]


@pytest.fixture
def table(tmp_path):
    """Four cells whose published scores are their own parameters, and a row of another space."""
    space = nasbench201_space((3, 16, 16), 120)
    params = [counts(space.architecture(cell_of(cell))).params for cell in CELLS]
    frame = pd.DataFrame(
        {
            "space": ["nb201"] * 4 + ["nb301"],
            "task": "ImageNet16-120",
            "arch": [CELLS[0], *CELLS[1:], "other"],
            "val_accuracy": [40.0, 30.0, 35.0, 10.0, 0.0],
            "zc_params": [*params, 0.0],
        }
    )
    frame.to_parquet(tmp_path / "t.parquet")
    return tmp_path / "t.parquet"


def bench(path, **changes):
    settings = {"task": "ImageNet16-120", "n_cells": 9, "batch_size": 4, "seed": 0}
    return bench_proxies(path, **{**settings, **changes}, progress=Silent())


def test_scores_are_compared_with_published_ones_and_with_accuracy(table):
    record = bench(table)
    assert json.loads(json.dumps(record)) == record
    assert record["n_cells"] == 4
    found = record["proxies"]
    assert found["params"]["with_published"]["value"] == 1
    assert found["params"]["published_with_accuracy"] == found["params"]["with_accuracy"]
    assert found["synflow"]["with_published"] is None
    assert -1 <= found["synflow"]["with_accuracy"]["value"] <= 1


def test_cells_are_read_as_the_paper_and_as_naslib_write_them():
    cell = cell_of("(2, 3, 0, 4, 1, 2)")
    assert cell_text(cell) == (
        "|nor_conv_3x3~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
    )
    assert cell_of(cell_text(cell)) == cell
    for text in ("(1, 2)", "(1, 1, 1, 1, 1, 9)", "cell", "|x~0|"):
        with pytest.raises(HwnasError, match="named like"):
            cell_of(text)


def test_what_cannot_be_compared_is_refused(table, tmp_path):
    with pytest.raises(ConfigError, match="unknown task 'cifar'"):
        bench(table, task="cifar")
    with pytest.raises(DataError, match="has 0 cells of nb201 and cifar10"):
        bench(table, task="cifar10")
    with pytest.raises(ConfigError, match="at least 3 cells"):
        bench(table, n_cells=2)
    with pytest.raises(DataError, match="cannot read the table"):
        bench(tmp_path / "none.parquet")
    pd.DataFrame({"arch": ["x"]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(DataError, match="no column 'space'"):
        bench(tmp_path / "other.parquet")


def test_ctrl_c_compares_what_was_scored(table, monkeypatch):
    from hwnas.bench import proxies as module

    original, scored = module.zero_cost_scores, []

    def score(*given, **named):
        if len(scored) == 3:
            raise KeyboardInterrupt
        scored.append(original(*given, **named))
        return scored[-1]

    monkeypatch.setattr(module, "zero_cost_scores", score)
    assert bench(table)["n_cells"] == 3


def test_the_command_prints_a_table_or_json(table):
    app = typer.Typer()
    app.command()(proxies)
    options = ["--table", str(table), "--task", "ImageNet16-120", "--cells", "3"]
    options += ["--batch-size", "2"]
    told = CliRunner().invoke(app, [*options, "--json"])
    assert set(json.loads(told.stdout)["proxies"]) >= {"synflow", "naswot", "zico"}
    assert "synflow" in CliRunner().invoke(app, options, env={"COLUMNS": "200"}).output


@pytest.mark.slow  # a minute
@pytest.mark.skipif(not PUBLISHED.exists(), reason="needs the published scores")
def test_cells_rank_as_the_published_scores_rank_them():
    found = bench(PUBLISHED, n_cells=16, task="cifar10", batch_size=16)["proxies"]
    expected = {"synflow": 0.95, "grad_norm": 0.9, "snip": 0.9, "naswot": 0.75, "params": 0.75}
    for name, at_least in expected.items():
        assert found[name]["with_published"]["value"] >= at_least, name
    assert np.isfinite([row["with_accuracy"]["value"] for row in found.values()]).all()
