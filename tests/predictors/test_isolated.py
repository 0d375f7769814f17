"""Kernels measured outside of any network, beside those that networks have shown."""

import numpy as np
import pytest

from predictors.kernel_latency import KernelLatencyPredictor
from predictors.network_latency import NetworkLatencyPredictor
from profilers.measurement import KernelLatency


@pytest.fixture(scope="module")
def shown(make_conv):
    return [make_conv(i, o, 14) for i in (8, 16, 32, 64) for o in (8, 16, 32, 64)]


def fit(shown, kernel_ms, isolated):
    return KernelLatencyPredictor().fit(
        shown, np.array([kernel_ms(k) for k in shown]), isolated=isolated
    )


def test_a_kernel_measured_alone_is_known_and_moves_the_answer_to_it(shown, make_conv, kernel_ms):
    new = make_conv(512, 512, 14)  # far outside
    without = fit(shown, kernel_ms, {})
    ms, is_known = without.predict([new])
    assert not is_known[0]
    moved, is_known = fit(shown, kernel_ms, {new: 3 * float(ms[0])}).predict([new])
    assert is_known[0]
    assert 2.5 * ms[0] < moved[0] < 3 * ms[0]


def test_where_the_learner_is_surer_isolation_changes_little(shown, make_conv, kernel_ms):
    new = make_conv(24, 24, 14)  # in the middle of what was measured
    without = fit(shown, kernel_ms, {})
    assert without.error_ < 0.05
    moved = fit(shown, kernel_ms, {new: 1.3 * kernel_ms(new)}).predict([new])[0]
    assert moved[0] == pytest.approx(without.predict([new])[0][0], rel=0.1)


def test_nothing_is_learned_about_others(shown, make_conv, kernel_ms):
    new, other = make_conv(512, 512, 14), make_conv(400, 512, 14)
    without, with_it = (fit(shown, kernel_ms, isolated) for isolated in ({}, {new: 99.0}))
    kernels = [*shown, other]
    assert with_it.predict(kernels)[0] == pytest.approx(without.predict(kernels)[0])
    assert not with_it.predict([other])[1][0]


@pytest.mark.parametrize("n_both_ways", [2, 3])
def test_a_kind_that_is_slower_alone_is_corrected_if_enough_were_measured_both_ways(
    shown, make_conv, kernel_ms, n_both_ways
):
    new = make_conv(512, 512, 14)
    both_ways = {k: 1.5 * kernel_ms(k) for k in shown[:n_both_ways]}
    raw_ms = kernel_ms(new) * (1.5 if n_both_ways >= 3 else 1.0)
    corrected = fit(shown, kernel_ms, both_ways | {new: raw_ms}).predict([new])[0]
    plain = fit(shown, kernel_ms, {new: kernel_ms(new)}).predict([new])[0]
    assert corrected == pytest.approx(plain, rel=1e-6)


def test_intervals_rest_on_networks_and_new_kernels_become_known(
    random_networks, measure, make_conv, kernel_ms
):
    networks = measure(random_networks(20), noise=0.02)
    new = make_conv(300, 300, 56)
    isolated = {new: KernelLatency("Conv", new, kernel_ms(new), 9)}
    without, with_it = (
        NetworkLatencyPredictor().fit(networks, isolated=given) for given in (None, isolated)
    )
    assert without.predict([[new]]).known_share[0] == 0
    assert with_it.predict([[new]]).known_share[0] == 1
    assert with_it.held_out_.shape == without.held_out_.shape
