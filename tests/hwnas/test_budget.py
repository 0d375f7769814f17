import numpy as np
import pytest

from hwnas.budget import Budget, parse_budget
from hwnas.errors import BudgetError


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("latency_ms<=5", Budget("latency_ms", 5.0)),
        ("  latency_ms  <=  2.5 ", Budget("latency_ms", 2.5)),
        ("peak_memory_bytes <= 64e6", Budget("peak_memory_bytes", 64e6)),
        ("params≤1_000_000", Budget("params", 1e6)),
        ("macs<=3E+8", Budget("macs", 3e8)),
        ("latency_ms<=40%", Budget("latency_ms", None, 0.4)),
        ("energy_mj <= 150 %", Budget("energy_mj", None, 1.5)),
        ("latency_ms<=p25", Budget("latency_ms", None, percentile=25.0)),
        ("macs <= p2.5", Budget("macs", None, percentile=2.5)),
    ],
)
def test_budgets_are_read_as_they_are_written(text, budget):
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latenzy_ms<=5", "did you mean 'latency_ms'"),
        ("latency<=5", "no unit: write latency_ms<=5"),
        ("memory<=5", "write peak_memory_bytes<=5"),
        ("latency_ms>=5", "upper limit: write latency_ms<=5"),
        ("latency_ms<5", "write latency_ms<=5"),
        ("latency_ms=5", "write latency_ms<=5"),
        ("latency_ms<=5ms", "plain number in milliseconds"),
        ("latency_ms<=", "plain number"),
        ("latency_ms 5", "cannot read the budget 'latency_ms 5'"),
        ("", "cannot read"),
        ("latency_ms<=0", "positive, finite"),
        ("latency_ms<=-3", "positive, finite"),
        ("latency_ms<=nan", "positive, finite"),
        ("latency_ms<=inf", "positive, finite"),
        ("latency_ms<=0%", "positive, finite"),
        ("latency_ms<=p", "a percentile of the space, such as p25; got 'p'"),
        ("latency_ms<=p25%", "got 'p25%'"),
        ("latency_ms<=p0", "above 0 and not above 100, got 0"),
        ("latency_ms<=p101", "above 0 and not above 100, got 101"),
        ("latency_ms<=pnan", "above 0 and not above 100, got nan"),
    ],
)
def test_what_cannot_be_read_says_what_to_write(text, message):
    with pytest.raises(BudgetError, match=message):
        parse_budget(text)


def test_a_share_of_the_median_becomes_a_number_and_remembers_the_share():
    budget = parse_budget("latency_ms<=40%").resolve([8.0, 10.0, np.nan, 99.0])
    assert budget == Budget("latency_ms", 4.0, 0.4)
    assert budget.resolve([99.0]) is budget
    assert str(budget) == "latency_ms <= 4"


def test_a_percentile_becomes_the_number_that_this_share_of_networks_meets():
    budget = parse_budget("latency_ms<=p25")
    assert str(budget) == "latency_ms <= p25 of the space"
    values = np.arange(1.0, 102.0)  # 26 lies above a quarter of them
    resolved = budget.resolve(values)
    assert resolved == Budget("latency_ms", 26.0, percentile=25.0)
    assert str(resolved) == "latency_ms <= 26"


def test_a_share_or_a_percentile_is_needed_where_there_is_no_number_not_both():
    for relative, percentile in ((None, None), (0.4, 25.0)):
        with pytest.raises(BudgetError, match="needs a limit, a share of the median, or a perc"):
            Budget("latency_ms", None, relative, percentile)


def test_a_share_of_an_unknown_median_is_an_error():
    with pytest.raises(BudgetError, match="median of energy_mj is nan"):
        parse_budget("energy_mj<=50%").resolve([np.nan, np.nan])
    with pytest.raises(BudgetError, match="percentile 25 of energy_mj is nan"):
        parse_budget("energy_mj<=p25").resolve([])


def test_an_unresolved_budget_cannot_be_checked():
    with pytest.raises(BudgetError, match="40% of the space's median was checked before"):
        parse_budget("latency_ms<=40%").excess([1.0])


def test_excess_is_a_share_of_the_limit():
    assert Budget("latency_ms", 4.0).excess([2.0, 4.0, 5.0, np.nan]).tolist() == [
        -0.5,
        0.0,
        0.25,
        np.inf,
    ]
