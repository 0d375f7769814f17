"""What whole networks say of kernels, what kernels in place and alone say, and how they agree."""

from dataclasses import replace

import numpy as np
import pytest

from predictors.evidence import Evidence
from predictors.joint_fit import fit_jointly
from predictors.network_correction import kernel_terms


def kernel_ms_of(fit, evidence):
    """What the fit says of each kernel of the evidence."""
    correction = np.zeros(len(evidence.kernels))
    for name, process in fit.processes.items():
        here = evidence.groups == name
        correction[here], _ = process.predict(evidence.x[here])
    return fit.rooflines.latency_ms(evidence.work, evidence.groups) * np.exp(correction)


def without_profiles(evidence):
    return replace(
        evidence,
        profiled_ms=np.zeros(len(evidence.latency_ms)),
        in_place_ms=np.full(len(evidence.kernels), np.nan),
    )


@pytest.fixture(scope="module")
def tiny_networks(make_conv, make_elementwise):
    """Sixty networks of kernels of about a microsecond."""
    rng = np.random.default_rng(0)

    def kernel():
        channels, size = (int(c) for c in rng.choice([4, 8, 12, 16], 2)), int(rng.choice([4, 6, 8]))
        conv = make_conv(*channels, size, kernel_size=int(rng.choice([1, 3])))
        return conv if rng.random() < 0.6 else make_elementwise(int(rng.choice([8, 16])), size)

    return [[kernel() for _ in range(rng.integers(5, 60))] for _ in range(60)]


@pytest.fixture(scope="module")
def tiny_ms(kernel_ms):
    """A fifth of the usual truth, and slower for few channels, which no roofline says."""

    def truth(kernel):
        few_channels = 1 + 4 / kernel.outputs[0].shape[1]
        return 0.2 * kernel_ms(kernel) * few_channels

    return truth


def test_kernels_shorter_than_the_profilers_own_time_are_found_from_whole_networks(
    tiny_networks, measure, tiny_ms
):
    measured = measure(tiny_networks, ms_of=tiny_ms, profiler_ms=0.002, noise=0.005, b=0.0, c=0.01)
    evidence = Evidence.of(measured)
    truth = np.array([tiny_ms(kernel) for kernel in evidence.kernels])
    assert np.median(truth) < 0.002
    assert np.median(evidence.in_place_ms / truth) > 2  # what the profile says
    fit, _ = fit_jointly(evidence)
    error = np.abs(kernel_ms_of(fit, evidence) / truth - 1)
    assert np.median(error) < 0.1
    assert error.max() < 0.4


def test_kernels_in_place_tell_apart_what_networks_always_run_together(
    make_elementwise, measure, kernel_ms
):
    rng = np.random.default_rng(0)

    def pair():
        shape = int(rng.choice([8, 16, 24, 32])), int(rng.choice([14, 20, 28]))
        return [make_elementwise(*shape, kind=kind) for kind in ("Add", "Mul")]

    networks = [[k for _ in range(rng.integers(3, 15)) for k in pair()] for _ in range(20)]

    def truth(kernel):
        return kernel_ms(kernel) * (3 if kernel.kind == "Add" else 1)

    both = Evidence.of(measure(networks, ms_of=truth))
    ratio = []
    for evidence in (both, without_profiles(both)):
        ms = kernel_ms_of(fit_jointly(evidence)[0], evidence)
        adds, muls = (ms[both.groups == kind].sum() for kind in ("Add", "Mul"))
        ratio.append(adds / muls)
    assert ratio[0] == pytest.approx(3, rel=0.15)
    assert ratio[1] == pytest.approx(1, rel=0.1)  # each is as likely to be the slow one


def test_few_networks_and_kernels_in_place_less_the_profilers_own_time_say_much(
    random_networks, measure, kernel_ms
):
    def truth(kernel):
        return kernel_ms(kernel) * (1 + 8 / kernel.outputs[0].shape[1])

    networks = [kernels[:8] for kernels in random_networks(12)]
    evidence = Evidence.of(measure(networks, ms_of=truth, profiler_ms=0.0005, b=0.0))
    large = np.array([truth(kernel) > 0.01 for kernel in evidence.kernels])
    error, blind = (
        np.abs(
            kernel_ms_of(fit_jointly(given)[0], evidence) / list(map(truth, evidence.kernels)) - 1
        )
        for given in (evidence, without_profiles(evidence))
    )
    assert np.median(error[large]) < 0.1
    assert np.median(error[large]) < 0.6 * np.median(blind[large])


class TestAlone:
    def test_what_a_group_takes_longer_alone_is_found(self, random_networks, measure, kernel_ms):
        networks = random_networks(20)
        evidence = Evidence.of(measure(networks))
        by_group = {
            name: [k for k, of in zip(evidence.kernels, evidence.groups, strict=True) if of == name]
            for name in ("Conv/pointwise", "Conv/spatial", "Add")
        }
        alone = {k: 1.5 * kernel_ms(k) for k in by_group["Conv/pointwise"][:9]}
        alone |= {k: kernel_ms(k) for k in by_group["Conv/spatial"][:4]}
        alone |= {k: 7 * kernel_ms(k) for k in by_group["Add"][:2]}
        factor = fit_jointly(Evidence.of(measure(networks), alone))[0].alone_factor
        # Three more count as given in which both agree, and the model follows them a little.
        assert 0.5 * np.log(1.5) < factor["Conv/pointwise"] < 0.8 * np.log(1.5)
        assert factor["Conv/spatial"] == pytest.approx(0, abs=0.05)
        assert "Add" not in factor  # two say nothing of a group

    def test_too_few_measured_both_ways_change_nothing(self, random_networks, measure, kernel_ms):
        measured = measure(random_networks(12))
        alone = {run.kernel: 2 * kernel_ms(run.kernel) for run in measured[0].kernels[:2]}
        assert fit_jointly(Evidence.of(measured, alone))[0].alone_factor == {}

    def test_one_that_no_network_runs_says_something_of_those_like_it(
        self, random_networks, measure, kernel_ms, make_conv
    ):
        measured = measure(random_networks(12))
        alone = {make_conv(c, c, 56): 1.5 * kernel_ms(make_conv(c, c, 56)) for c in (192, 256, 384)}
        like_them = Evidence.of(measure([[make_conv(224, 224, 56)]]))
        without, with_them = (
            kernel_ms_of(fit_jointly(Evidence.of(measured, given))[0], like_them)[0]
            for given in ({}, alone)
        )
        assert 1.1 * without < with_them < 1.6 * without


def test_what_disagrees_with_the_rest_counts_less(random_networks, measure):
    networks = random_networks(40)
    clean, odd = Evidence.of(measure(networks)), Evidence.of(measure(networks, outliers=(5, 17)))
    odd.in_place_ms[::20] *= 20
    assert odd.latency_ms[5] == pytest.approx(3 * clean.latency_ms[5])
    one, other = (kernel_ms_of(fit_jointly(evidence)[0], clean) for evidence in (clean, odd))
    error = np.abs(other / one - 1)
    assert np.median(error) < 0.03
    assert error.max() < 0.3


def test_others_do_not_answer_for_a_kernel_that_takes_far_longer_than_its_like(
    random_networks, measure, kernel_ms
):
    """A reference implementation that a runtime falls back to, say."""
    networks = random_networks(40)
    keys = sorted({kernel.key for kernels in networks for kernel in kernels})
    slow = set(keys[::30])
    measured = measure(
        networks, ms_of=lambda k: kernel_ms(k) * (30 if k.key in slow else 1), noise=0.03
    )
    evidence = Evidence.of(measured)
    others = np.array([kernel.key not in slow for kernel in evidence.kernels])
    truth = np.array([kernel_ms(kernel) for kernel in evidence.kernels])
    error = np.abs(kernel_ms_of(fit_jointly(evidence)[0], evidence) / truth - 1)[others]
    assert np.median(error) < 0.3
    assert np.quantile(error, 0.95) < 0.8


def test_what_a_run_costs_beside_its_kernels_is_found(random_networks, measure):
    networks = [kernels[:12] for kernels in random_networks(60)]
    for run_ms in (0.0, 0.3):
        fit, _ = fit_jointly(Evidence.of(measure(networks, b=0.0, c=run_ms)))
        assert fit.rooflines.run_ms == pytest.approx(run_ms, abs=0.03)


def test_what_the_weights_of_a_network_cost_is_no_matter_of_its_kernels(random_networks, measure):
    # The same kernels take up to a tenth longer where all weights do not fit the cache.
    networks = random_networks(80)
    evidence = Evidence.of(measure(networks, b=0.0))
    weights = np.array(
        [sum(k.inputs[1].n_bytes for k in ks if k.kind == "Conv") for ks in networks]
    )
    slower = 0.1 * (weights > np.median(weights))
    _, without = fit_jointly(evidence)
    _, with_it = fit_jointly(replace(evidence, latency_ms=evidence.latency_ms * np.exp(slower)))
    sums = evidence.counts @ kernel_terms(evidence.kernels)
    found = with_it(sums) - without(sums)
    step = found[slower > 0].mean() - found[slower == 0].mean()
    assert 0.03 < step < 0.12
