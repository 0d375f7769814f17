"""Networks that were left out: their groups, what baselines say, and their intervals."""

import re
from dataclasses import replace

import numpy as np
import pytest

from hwnas.fit_page import error_chart, fit_page, prediction_chart, share_chart
from hwnas.held_out import BASELINES, OURS, hold_out
from hwnas.report.page import Hints
from predictors.network_latency import NetworkLatencyPredictor
from profilers.kernels import Kernel, Tensor
from profilers.measurement import FAMILY_TAG, KernelLatency, NetworkMeasurement
from profilers.targets import Target
from profilers.timing import LatencySamples

TARGET = Target("onnxruntime-cpu", "1.0", "fp32", 1, 1, "0123456789ab", "Toy CPU (2 cores)")


def conv(channels, size):
    x, w = Tensor("float", (1, channels, size, size)), Tensor("float", (channels, channels, 1, 1))
    return Kernel("Conv", (("group", 1),), (x, w), (x,))


def measurement(number, family):
    """A few convolutions, each of 1 µs and 0.02 ns a MAC, and 10 µs beside them."""
    rng = np.random.default_rng([number, *family.encode()])
    kernels = [conv(int(rng.choice([8, 16, 32, 64])), int(rng.choice([4, 8, 16])))
               for _ in range(rng.integers(3, 12))]  # fmt: skip
    runs = tuple(
        KernelLatency(f"k{i}", k, 1e-3 + 2e-8 * k.outputs[0].n_elements * k.inputs[1].shape[0], 9)
        for i, k in enumerate(kernels)
    )
    wall_ms, zeros = np.full(16, 0.01 + sum(run.latency_ms for run in runs)), np.zeros(16, np.int64)
    samples = LatencySamples(wall_ms, wall_ms, zeros, zeros, zeros, np.ones(16))
    name = f"{family or 'net'}-{number}"
    tags = {FAMILY_TAG: family} if family else {}
    return NetworkMeasurement(name, name, TARGET, samples, runs, None, tags=tags)


@pytest.fixture(scope="module")
def measured():
    return [measurement(i, family) for family in ("a", "b", "c & d") for i in range(12)]


@pytest.fixture(scope="module")
def fitted(measured):
    return NetworkLatencyPredictor().fit(measured)


def test_every_network_is_predicted_once_in_its_own_order(fitted, measured):
    found = hold_out(fitted, measured, "network")
    assert found.networks == tuple(measured)
    assert len(set(found.groups)) == 5
    np.testing.assert_allclose(found.latency_ms, fitted.held_out_[0])
    assert (found.low_ms <= found.latency_ms).all() and (found.latency_ms <= found.high_ms).all()
    ours = found.accuracies()[OURS]
    assert ours.n == 36 and ours.spearman > 0.9
    assert set(found.accuracies()) == {OURS, *BASELINES}
    assert ours.mape < found.accuracies()["median of all"].mape


def test_a_baseline_does_not_see_the_group_that_it_is_asked_about(fitted, measured):
    found = hold_out(fitted, measured, "family")
    assert found.groups == tuple(m.tags[FAMILY_TAG] for m in measured)
    rest_ms = [m.latency_ms for m in measured if m.tags[FAMILY_TAG] != "b"]
    of_b = found.of_group("b")
    np.testing.assert_allclose(of_b.baselines_ms["median of all"], np.median(rest_ms))
    assert [m.tags[FAMILY_TAG] for m in of_b.networks] == ["b"] * 12
    assert of_b.half_width.shape == of_b.covered.shape == (12,)


def test_intervals_are_those_of_each_kind_as_they_are_saved(measured):
    noisy = [measurement(i, "c & d") for i in range(12, 36)]
    for m, factor in zip(noisy, np.random.default_rng(0).uniform(0.6, 1.6, 24), strict=True):
        m.samples.wall_ms[:] *= factor
    networks = [*(measurement(i, "a") for i in range(30)), *noisy]
    fitted = NetworkLatencyPredictor().fit(networks)
    assert {"a", "c & d"} < set(fitted.calibrations_)
    found = hold_out(fitted, networks, "network")
    is_noisy = np.array([m.tags[FAMILY_TAG] != "a" for m in found.networks])
    assert found.half_width[~is_noisy].max() < found.half_width[is_noisy].min()
    kernels = [[run.kernel for run in m.kernels] for m in networks]
    for family, those in (("a", ~is_noisy), ("c & d", is_noisy)):
        said = fitted.predict([k for k, is_in in zip(kernels, those, strict=True) if is_in],
                              family=family)  # fmt: skip
        half_width = (said.high_ms - said.low_ms) / 2 / said.latency_ms
        assert np.median(found.half_width[those]) == pytest.approx(np.median(half_width), rel=0.5)


def test_networks_without_kernels_are_no_rows(measured):
    blind = replace(measurement(99, "a"), kernels=())
    fitted = NetworkLatencyPredictor().fit([blind, *measured])
    assert hold_out(fitted, [blind, *measured], "network").networks == tuple(measured)


def test_an_interval_rests_on_the_errors_of_other_groups(fitted, measured):
    """Whatever the latency of family a is measured to be, its intervals stay."""
    before = hold_out(fitted, measured, "family").of_group("a")
    slower = [measurement(i, "a") for i in range(12)]
    for m in slower:
        m.samples.wall_ms[:] *= 3
    after = hold_out(fitted, [*slower, *measured[12:]], "family").of_group("a")
    np.testing.assert_allclose(after.low_ms, before.low_ms)
    np.testing.assert_allclose(after.high_ms, before.high_ms)
    assert after.covered.sum() < before.covered.sum()


def test_one_family_alone_cannot_be_left_out():
    measured = [measurement(i, "") for i in range(12)]
    fitted = NetworkLatencyPredictor().fit(measured)
    assert hold_out(fitted, measured, "family") is None
    assert len(hold_out(fitted, measured, "network").networks) == 12


def test_the_page_shows_every_network_and_escapes_their_names(fitted, measured):
    found = hold_out(fitted, measured, "family")
    html = fit_page(TARGET, 0.9, [("one family", found)])
    assert html == fit_page(TARGET, 0.9, [("one family", found)])
    body = html.partition("</style>")[2].partition("<script")[0]
    assert "c &amp; d" in body and "c & d" not in body
    for chart in (prediction_chart, error_chart, share_chart):
        widest = chart(found, Hints()).partition("</svg>")[0]
        assert len(re.findall(r"<circle[^>]*data-hint", widest)) == 36
    svg = error_chart(found, Hints()).partition("</svg>")[0]
    ys = np.array([float(y) for y in re.findall(r'<circle cx="[^"]*" cy="([^"]*)"', svg)])
    errors = found.latency_ms / found.measured_ms - 1
    # Families are drawn one after the other; all lie on one linear scale, downwards.
    assert np.corrcoef(np.sort(-ys), np.sort(errors))[0, 1] > 0.98  # by the pixel
    assert "src=" not in html.partition("</style>")[2]  # nothing is fetched
