from dataclasses import replace

import numpy as np
import pytest

from predictors.baselines import (
    KernelLookup,
    MacsLinear,
    MedianLatency,
    Overhead,
    Roofline,
    distinct_kernels,
    fit_line,
    kernels_of,
    rows_by_group,
)
from predictors.errors import NotFittedError, PredictorError
from predictors.graph_network import GraphNetwork
from predictors.learned_baselines import (
    ForestPerGroup,
    KernelBoosting,
    KernelGaussianProcess,
    NetworkBoosting,
)
from predictors.metrics import accuracy

PLAIN = (MedianLatency, MacsLinear, Roofline, KernelLookup)
LEARNED = (ForestPerGroup, KernelBoosting, NetworkBoosting, KernelGaussianProcess, GraphNetwork)


@pytest.mark.parametrize("model", [*PLAIN, *LEARNED])
def test_a_model_that_was_not_fitted_or_has_nothing_to_learn_from_says_so(model):
    with pytest.raises(NotFittedError, match=rf"{model.__name__}\.predict was called before fit"):
        model().predict([[]])
    with pytest.raises(PredictorError, match="at least one measured network is needed, got none"):
        model().fit([])


@pytest.mark.parametrize("model", PLAIN)
def test_no_networks_a_network_without_kernels_and_an_unknown_kind_have_a_latency(
    model, random_networks, measure
):
    networks = random_networks(10)
    fitted = model().fit(measure(networks))
    assert fitted.predict([]).shape == (0,)
    foreign = [replace(kernel, kind="Einsum") for kernel in networks[0]]
    found = fitted.predict([[], networks[0], foreign])
    assert found.shape == (3,)
    assert (found > 0).all()
    assert np.isfinite(found).all()


def test_the_median_is_the_median_of_what_was_measured(random_networks, measure):
    measurements = measure(random_networks(7))
    expected = sorted(m.latency_ms for m in measurements)[3]
    assert MedianLatency().fit(measurements).predict([[], []]).tolist() == [expected, expected]


def test_a_line_is_found_and_no_part_of_it_is_negative():
    macs = np.array([1e6, 2e6, 5e6, 9e6])
    terms = np.column_stack([np.ones(4), macs])
    np.testing.assert_allclose(fit_line(terms, 0.3 + 2e-7 * macs), [0.3, 2e-7], rtol=1e-9)
    # Steeper than proportional: the best line has a negative part, the best allowed has none.
    assert fit_line(terms, 1e-13 * macs**2)[0] == 0


def test_latency_that_is_a_line_in_macs_is_predicted_by_it(random_networks, measure, kernel_ms):
    networks = random_networks(30)
    ms = MacsLinear().fit(measure(networks)).predict(networks)
    order = np.argsort([sum(kernel_ms(k) for k in kernels) for kernels in networks])
    assert accuracy(ms, [m.latency_ms for m in measure(networks)]).spearman > 0.9
    assert ms[order[-1]] > 2 * ms[order[0]]


def test_a_roofline_finds_the_speeds_that_made_the_latencies(random_networks, measure, make_conv):
    fitted = Roofline().fit(measure(random_networks(40)))
    # The truth of these tests: 50 GMAC/s, 20 GB/s.
    np.testing.assert_allclose(
        fitted.lines_["Conv/pointwise"], [0.002, 1 / 50e6, 1 / 20e6], rtol=1e-6
    )
    new = random_networks(20, seed=1)
    truth = [m.latency_ms for m in measure(new)]
    assert accuracy(fitted.predict(new), truth).mape < 1e-3
    larger = [[make_conv(256, 256, 56, kernel_size=3)] * 4]
    np.testing.assert_allclose(
        fitted.predict(larger), [m.latency_ms for m in measure(larger)], rtol=1e-2
    )


def test_a_table_answers_with_what_was_measured_else_with_the_nearest_of_the_kind(
    measure, make_conv, make_elementwise, kernel_ms
):
    small, large = make_conv(8, 8, 7), make_conv(48, 48, 28)
    add = make_elementwise(48, 28)
    fitted = KernelLookup().fit(measure([[small, large, add], [large], [small, add]]))
    np.testing.assert_allclose(
        fitted.kernel_ms([add, small, large]), [kernel_ms(k) for k in (add, small, large)]
    )
    near_small, near_large = make_conv(8, 9, 7), make_conv(48, 47, 28)
    np.testing.assert_allclose(
        fitted.kernel_ms([near_large, near_small]), [kernel_ms(large), kernel_ms(small)]
    )
    # Of its own kind, although a convolution moves as many bytes.
    assert fitted.kernel_ms([make_elementwise(8, 7)])[0] == pytest.approx(kernel_ms(add))


@pytest.mark.parametrize(("a", "b", "c"), [(1.0, 0.001, 0.02), (1.1, -0.0005, 0.05)])
def test_an_overhead_is_found_in_spite_of_outliers(random_networks, measure, kernel_ms, a, b, c):
    networks = random_networks(60)

    def times(kernels):
        return np.array([kernel_ms(kernel) for kernel in kernels])

    overhead = Overhead.fit(times, measure(networks, a=a, b=b, c=c, outliers=(3, 20, 41)))
    truth = [m.latency_ms for m in measure(networks, a=a, b=b, c=c)]
    assert accuracy(overhead.predict(times, networks), truth).mape < 0.005


def test_a_negative_overhead_never_makes_time_negative(make_conv):
    overhead = Overhead(1.0, -1.0, 0.0)
    found = overhead.predict(lambda kernels: np.full(len(kernels), 0.5), [[make_conv(8, 8, 7)] * 3])
    assert found.tolist() == pytest.approx([0.05 * 1.5])


def test_a_kernel_met_often_counts_once_by_its_lower_quartile(measure, make_conv):
    kernel, other = make_conv(8, 8, 7), make_conv(8, 16, 7)
    measurements = measure([[kernel] * 5, [other]])
    runs = tuple(
        replace(run, latency_ms=ms)
        for run, ms in zip(measurements[0].kernels, (5.0, 1.0, 3.0, 2.0, 4.0), strict=True)
    )
    kernels, ms = distinct_kernels([replace(measurements[0], kernels=runs), measurements[1]])
    assert kernels == [kernel, other]
    assert ms[0] == 2.0


def test_groups_with_too_few_kernels_stand_only_among_all(make_conv, make_elementwise):
    kernels = [*(make_conv(8, n, 7) for n in range(1, 7)), make_elementwise(8, 7)]
    found = {kind: rows.tolist() for kind, rows in rows_by_group(kernels).items()}
    assert found == {"": list(range(7)), "Conv/pointwise": list(range(6))}
    assert set(rows_by_group(kernels, at_least=1)) == {"", "Conv/pointwise", "Add"}


def test_networks_come_back_as_their_kernels(random_networks, measure):
    networks = random_networks(3)
    assert kernels_of(measure(networks)) == networks
