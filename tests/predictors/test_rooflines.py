"""Costs of launches, MACs and bytes that are known, to be found again."""

from dataclasses import replace

import numpy as np
import pytest

from predictors.evidence import Evidence
from predictors.features import work
from predictors.rooflines import MIN_MS, Rooflines, fit_rooflines

# Of this truth: ms per launch, MAC and byte.
TERMS = np.array([0.002, 1 / 50e6, 1 / 20e6])


@pytest.fixture(scope="module")
def networks(random_networks):
    """Sixty, in which additions are as often as not left out: so all launches can be told apart."""
    rng = np.random.default_rng(1)
    return [
        [k for k in kernels if k.kind == "Conv" or rng.random() < share]
        for kernels, share in zip(random_networks(60), rng.random(60), strict=True)
    ]


def without_profiles(evidence):
    return replace(
        evidence,
        profiled_ms=np.zeros(len(evidence.latency_ms)),
        in_place_ms=np.full(len(evidence.kernels), np.nan),
    )


def test_costs_are_found_from_sums_over_networks_alone(networks, measure):
    evidence = without_profiles(Evidence.of(measure(networks, b=0.0, c=0.02)))
    found, _ = fit_rooflines(evidence)
    assert found.terms.keys() == {"Conv/pointwise", "Conv/spatial", "Add"}
    for name in ("Conv/pointwise", "Conv/spatial"):
        np.testing.assert_allclose(found.terms[name], TERMS, rtol=0.15, err_msg=name)
    assert found.terms["Add"][1] == 0  # it has no MACs
    assert found.run_ms == pytest.approx(0.02, rel=0.3)
    kernel_ms = found.latency_ms(evidence.work, evidence.groups)
    np.testing.assert_allclose(kernel_ms, evidence.work @ TERMS, rtol=0.1)


def test_each_group_has_its_own_costs(networks, measure, kernel_ms):
    def truth(kernel):
        return kernel_ms(kernel) * (3 if kernel.kind == "Add" else 1)

    found, _ = fit_rooflines(without_profiles(Evidence.of(measure(networks, ms_of=truth))))
    (adds, convs) = (found.terms[name][2] for name in ("Add", "Conv/pointwise"))
    assert adds / convs == pytest.approx(3, rel=0.25)


def test_the_profilers_own_time_is_in_no_roofline(networks, measure):
    evidence = Evidence.of(measure(networks, b=0.0, profiler_ms=0.004))
    truth = evidence.work @ TERMS
    assert np.median(evidence.in_place_ms / truth) > 1.3  # as the profile reads them
    found, profile_ms = fit_rooflines(evidence)
    assert profile_ms == pytest.approx(0.004, rel=0.05)
    kernel_ms = found.latency_ms(evidence.work, evidence.groups)
    np.testing.assert_allclose(kernel_ms, truth, rtol=0.15)


def test_networks_that_are_far_off_do_not_bend_it(networks, measure):
    lines = [
        fit_rooflines(without_profiles(Evidence.of(measure(networks, outliers=outliers))))[0]
        for outliers in ((), (3, 20, 40))
    ]
    evidence = Evidence.of(measure(networks))
    clean, bent = (each.latency_ms(evidence.work, evidence.groups) for each in lines)
    np.testing.assert_allclose(bent, clean, rtol=0.1)


def test_a_group_that_was_never_measured_costs_what_kernels_mostly_cost(
    networks, measure, make_elementwise, kernel_ms
):
    found, _ = fit_rooflines(Evidence.of(measure(networks)))
    strangers = [make_elementwise(c, 14, kind="Stranger") for c in (8, 16, 32)]
    ms = found.latency_ms(work(strangers), np.array(["Stranger"] * 3))
    np.testing.assert_allclose(ms, [kernel_ms(k) for k in strangers], rtol=0.5)


def test_no_kernel_takes_no_time():
    nothing = Rooflines({}, np.zeros(3), 0.0)
    assert nothing.latency_ms(np.ones((2, 3)), np.array(["a", "b"])).tolist() == [MIN_MS] * 2
    assert nothing.latency_ms(np.zeros((0, 3)), np.zeros(0, "U1")).shape == (0,)
