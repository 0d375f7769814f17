"""Kernels measured outside of any network, beside those that networks have shown."""

import numpy as np
import pytest

from predictors.errors import NotFittedError
from predictors.joint_fit import AGREEING
from predictors.kernel_latency import KNOWN_ERROR, OWN_STD, KernelLatencyPredictor
from predictors.network_latency import NetworkLatencyPredictor
from profilers.measurement import KernelLatency


@pytest.fixture(scope="module")
def measured(random_networks, measure):
    return measure(random_networks(30), noise=0.01, b=0.0)


@pytest.fixture(scope="module")
def fitted_kernels(measured):
    return KernelLatencyPredictor.learn(measured)[0]


@pytest.fixture(scope="module")
def far(make_conv):
    """Larger than anything measured."""
    return make_conv(2048, 2048, 56)


def test_a_kernel_measured_alone_is_known_and_moves_the_answer_to_it(fitted_kernels, far):
    (before_ms,), (before_error,) = fitted_kernels.estimate([far])
    (after_ms,), (after_error,) = fitted_kernels.knowing({far: 3 * before_ms}).estimate([far])
    assert after_error < KNOWN_ERROR < before_error
    assert 2 * before_ms < after_ms < 3 * before_ms
    assert far.key not in fitted_kernels.measured_  # the one that was asked is as it was
    assert fitted_kernels.estimate([far])[0].tolist() == [before_ms]


def test_the_surer_the_model_is_the_less_isolation_changes(fitted_kernels, make_conv, far):
    kernels = [make_conv(24, 32, 14), make_conv(20, 28, 10), make_conv(128, 128, 28), far]
    before_ms, before_error = fitted_kernels.estimate(kernels)
    informed = fitted_kernels.knowing(dict(zip(kernels, 1.5 * before_ms, strict=True)))
    after_ms, after_error = informed.estimate(kernels)
    assert (np.diff(before_error) > 0).all()
    moved = np.log(after_ms / before_ms) / np.log(1.5)
    assert (np.diff(moved) > 0).all()
    assert 0 < moved[0] < moved[-1] < 1
    assert (after_error < np.hypot(before_error, OWN_STD)).all()


def test_knowing_one_says_nothing_of_others(fitted_kernels, measured, make_conv, far):
    others = [*(run.kernel for run in measured[0].kernels), make_conv(2048, 2048, 55)]
    with_it = fitted_kernels.knowing({far: 99.0})
    for one, other in zip(fitted_kernels.estimate(others), with_it.estimate(others), strict=True):
        assert np.array_equal(one, other)
    assert with_it.knowing({others[-1]: 7.0}).measured_ >= {far.key, others[-1].key}


def test_learning_from_it_says_something_of_those_like_it(measured, fitted_kernels, make_conv, far):
    (before_ms,), _ = fitted_kernels.estimate([far])
    like_it = make_conv(2000, 2048, 56)
    (without_ms,), (without_error,) = fitted_kernels.estimate([like_it])
    learned, _ = KernelLatencyPredictor.learn(measured, {far: 1.5 * before_ms})
    (with_ms,), (with_error,) = learned.estimate([like_it])
    assert with_ms > 1.15 * without_ms
    assert with_error < without_error


def test_what_networks_show_is_not_looked_up(measured, far):
    shown = measured[0].kernels[0].kernel
    learned, _ = KernelLatencyPredictor.learn(measured, {shown: 99.0, far: 99.0})
    assert learned.looked_up_.keys() == {far.key}
    assert learned.measured_ >= {shown.key, far.key}
    assert learned.estimate([shown])[0][0] < 1


@pytest.mark.parametrize("n_both_ways", [2, 3, 9])
def test_a_group_that_is_slower_alone_is_corrected_if_enough_were_measured_both_ways(
    measured, fitted_kernels, make_conv, kernel_ms, n_both_ways
):
    new = make_conv(64, 64, 28)
    pointwise = {
        run.kernel: 1.5 * kernel_ms(run.kernel)
        for m in measured
        for run in m.kernels
        if run.kernel.attribute("kernel_shape") == (1, 1)
    }
    both_ways = dict(list(pointwise.items())[:n_both_ways])
    learned, _ = KernelLatencyPredictor.learn(measured, both_ways | {new: 1.5 * kernel_ms(new)})
    factor = learned.alone_factor_.get("Conv/pointwise", 0.0)
    (ms,), _ = learned.estimate([new])
    if n_both_ways < 3:
        assert factor == 0
        assert ms > 1.1 * kernel_ms(new)
    else:
        share = n_both_ways / (n_both_ways + AGREEING)
        assert factor == pytest.approx(share * np.log(1.5), rel=0.1)
        assert ms == pytest.approx(1.5 ** (1 - share) * kernel_ms(new), rel=0.1)


def test_what_isolation_does_to_a_group_is_not_taken_off_what_ran_among_others(
    measured, make_conv, kernel_ms
):
    pointwise = {
        run.kernel: 1.5 * kernel_ms(run.kernel)
        for m in measured
        for run in m.kernels
        if run.kernel.attribute("kernel_shape") == (1, 1)
    }
    learned, _ = KernelLatencyPredictor.learn(measured, dict(list(pointwise.items())[:9]))
    new = make_conv(64, 64, 28)
    alone, among = (
        learned.knowing({new: kernel_ms(new)}, is_alone=is_alone) for is_alone in (True, False)
    )
    (alone_ms,), (among_ms,) = alone.estimate([new])[0], among.estimate([new])[0]
    assert alone_ms < 0.95 * among_ms


class TestNetworks:
    @pytest.fixture(scope="class")
    @classmethod
    def isolated(cls, far, kernel_ms):
        return {far: KernelLatency("Conv", far, kernel_ms(far), 9)}

    def test_intervals_rest_on_networks_and_new_kernels_become_known(self, measured, far, isolated):
        without, with_it = (
            NetworkLatencyPredictor().fit(measured, isolated=given) for given in (None, isolated)
        )
        assert without.predict([[far]]).known_share[0] == 0
        assert with_it.predict([[far]]).known_share[0] == 1
        assert with_it.held_out_.shape == without.held_out_.shape

    def test_a_fitted_predictor_that_is_told_more_stays_as_it_was(
        self, fitted, far, isolated, random_networks
    ):
        asked = [[far], *random_networks(3, seed=4)]
        before = fitted.predict(asked)
        informed = fitted.with_excerpt({far: isolated[far].latency_ms})
        found, after = informed.predict(asked), fitted.predict(asked)
        for name in before.__dataclass_fields__:
            assert np.array_equal(getattr(before, name), getattr(after, name)), name
            assert np.array_equal(getattr(before, name)[1:], getattr(found, name)[1:]), name
        assert (before.known_share[0], found.known_share[0]) == (0, 1)
        width = [p.high_ms[0] / p.low_ms[0] for p in (before, found)]
        assert width[1] < width[0]
        assert (informed.target_, informed.level) == (fitted.target_, fitted.level)
        assert informed.calibrations_ == fitted.calibrations_
        assert informed.held_out_ is not None

    def test_fit_comes_first(self):
        with pytest.raises(NotFittedError):
            NetworkLatencyPredictor().with_excerpt({})
