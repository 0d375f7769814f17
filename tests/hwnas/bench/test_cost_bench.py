import pytest
import torch

from hwnas import profiling
from hwnas.bench.cost import bench_cost
from hwnas.errors import ConfigError
from hwnas.progress import Silent
from hwnas.spaces import catalog


def test_both_ways_give_the_same_answer_and_the_cache_is_faster(
    tmp_path, monkeypatch, make_tiny_space
):
    monkeypatch.setitem(catalog.SPACES, "tiny", make_tiny_space)
    monkeypatch.setitem(profiling.profile_space.__kwdefaults__, "seconds", 0.05)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    record = bench_cost(
        "tiny", "digits", None, n_genotypes=1000, n_rounds=2, measurements=tmp_path / "m.db",
        progress=Silent(),
    )  # fmt: skip
    assert record["largest_difference"] <= 1e-6
    assert record["ratio"] > 10
    assert record["genotypes_per_second_min"] <= record["genotypes_per_second_max"]
    assert record["n_pieces"] > 0
    assert (record["n_genotypes"], record["n_rounds"], record["space"]) == (1000, 2, "tiny")


@pytest.mark.parametrize("changes", [{"n_genotypes": 0}, {"n_rounds": 0}])
def test_nothing_to_measure_is_refused(tmp_path, changes):
    asked = {"n_genotypes": 1, "n_rounds": 1} | changes
    with pytest.raises(ConfigError, match="at least one genotype and round"):
        bench_cost(
            "mobile", "digits", None, measurements=tmp_path / "m.db", progress=Silent(), **asked
        )
