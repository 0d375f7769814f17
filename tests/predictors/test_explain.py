"""Where predicted time goes: sums, shares, and what is not known."""

import numpy as np
import pytest

from predictors.errors import NotFittedError
from predictors.explain import explain, slices
from predictors.network_latency import NetworkLatencyPredictor
from profilers.measurement import KernelNode


def nodes(kernels):
    return [KernelNode(f"n{i}", k, (), (f"t{i}",)) for i, k in enumerate(kernels)]


@pytest.fixture(scope="module")
def network(random_networks, make_conv):
    """Kernels that were measured, twice one that is far larger than any, and one in between."""
    known = random_networks(30)[0]
    huge = make_conv(4096, 4096, 28, kernel_size=3)
    return [*known, huge, known[0], huge]


def test_the_whole_is_what_the_predictor_says(fitted, network):
    found = explain(fitted, nodes(network))
    said = fitted.predict([network])
    assert (found.latency_ms, found.low_ms, found.high_ms, found.known_share) == (
        said.latency_ms[0], said.low_ms[0], said.high_ms[0], said.known_share[0],
    )  # fmt: skip
    assert [k.node.name for k in found.kernels] == [f"n{i}" for i in range(len(network))]
    assert found.kernel_sum_ms + found.overhead_ms == pytest.approx(found.latency_ms)


def test_kernels_like_none_that_was_measured_are_named_once_with_all_their_time(fitted, network):
    found = explain(fitted, nodes(network))
    huge = [k for k in found.kernels if k.node.kernel == network[-1]]
    assert [k.is_known for k in huge] == [False, False]
    assert found.unknown_ms[network[-1]] == pytest.approx(2 * huge[0].latency_ms)
    assert next(iter(found.unknown_ms)) == network[-1]  # the longest first
    assert found.known_share < 0.5


def test_slices_share_out_all_of_the_kernels_time(fitted, network):
    found = explain(fitted, nodes(network))
    n = len(network)
    parts = slices(found, ["first"] * (n - 3) + ["last"] * 3)
    assert [(p.name, p.n_kernels) for p in parts] == [("first", n - 3), ("last", 3)]
    assert sum(p.share for p in parts) == pytest.approx(1)
    assert sum(p.latency_ms for p in parts) == pytest.approx(found.kernel_sum_ms)
    assert parts[0].known_share == 1
    known_ms = found.kernels[-2].latency_ms
    assert parts[1].known_share == pytest.approx(known_ms / parts[1].latency_ms)
    with pytest.raises(ValueError, match="one name for each"):
        slices(found, ["one"])


def test_a_network_without_kernels_is_its_overhead(fitted):
    found = explain(fitted, [])
    assert found.kernel_sum_ms == 0 and found.unknown_ms == {} and slices(found, []) == []
    assert np.isfinite(found.latency_ms)


def test_a_predictor_that_was_not_fitted_explains_nothing():
    with pytest.raises(NotFittedError):
        explain(NetworkLatencyPredictor(), [])
