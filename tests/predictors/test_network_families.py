"""Networks of several families: how far off predictions are for a family that was not measured."""

from dataclasses import replace

import numpy as np
import pytest

from predictors.kernel_latency import KernelLatencyPredictor
from predictors.network_latency import ANY_FAMILY, NetworkLatencyPredictor
from profilers.measurement import FAMILY_TAG, SPACE_TAG, SURVEY_FAMILY, KernelLatency

N_EACH = 12
FACTORS = {"adds": 1.0, "muls": 3.0, "subs": 0.4}


@pytest.fixture(scope="module")
def make_family(make_elementwise, make_conv):
    """Networks of convolutions, which all families have, and of the family's own kernels."""

    def make(family, n, seed):
        rng = np.random.default_rng(seed)
        kind = family.capitalize()[:-1]
        return [
            [
                kernel
                for _ in range(rng.integers(3, 15))
                for kernel in (
                    make_conv(16, int(rng.choice([8, 16, 32])), int(rng.choice([7, 14]))),
                    make_elementwise(
                        int(rng.choice([16, 32, 64])), int(rng.choice([14, 28])), kind
                    ),
                )
            ]
            for _ in range(n)
        ]

    return make


@pytest.fixture(scope="module")
def truth(kernel_ms):
    """What is physics for one family's own kernels is threefold for another's."""
    by_kind = {family.capitalize()[:-1]: factor for family, factor in FACTORS.items()}
    return lambda kernel: kernel_ms(kernel) * by_kind.get(kernel.kind, 1.0)


@pytest.fixture(scope="module")
def measured(make_family, measure, truth):
    def of(family, networks, seed):
        tags = {FAMILY_TAG: family}
        return measure(networks, ms_of=truth, noise=0.01, seed=seed, tags=tags)

    found = [
        m
        for seed, family in enumerate(FACTORS)
        for m in of(family, make_family(family, N_EACH, seed), seed)
    ]
    mixed = [make_family(family, 3, 10 + i) for i, family in enumerate(FACTORS)]
    return [*found, *of(SURVEY_FAMILY, [kernels for part in mixed for kernels in part], 10)]


@pytest.fixture(scope="module")
def steps():
    return []


@pytest.fixture(scope="module")
def predictor(measured, steps):
    return NetworkLatencyPredictor(level=0.8).fit(
        measured, on_progress=lambda *now: steps.append(now)
    )


@pytest.fixture(scope="module")
def without_survey(measured):
    """As in the survey all kernels were seen, only without it a family is new."""
    families = [m for m in measured if m.tags[FAMILY_TAG] != SURVEY_FAMILY]
    return NetworkLatencyPredictor(level=0.8).fit(families)


def test_intervals_are_narrower_for_a_family_that_was_measured(
    without_survey, make_family, measure, truth
):
    assert without_survey.calibrations_.keys() == {ANY_FAMILY, *FACTORS}
    for seed, family in enumerate(FACTORS, start=20):
        new = make_family(family, 20, seed)
        of_it, of_any = (without_survey.predict(new, family=f) for f in (family, ANY_FAMILY))
        assert np.array_equal(of_it.latency_ms, of_any.latency_ms)
        width, any_width = (np.log(p.high_ms / p.low_ms) for p in (of_it, of_any))
        assert (2 * width < any_width).all(), family
        measured_ms = np.array([m.latency_ms for m in measure(new, ms_of=truth, seed=seed)])
        inside = (of_it.low_ms <= measured_ms) & (measured_ms <= of_it.high_ms)
        assert inside.mean() >= 0.6, family
        low, high = without_survey.interval_at(0.5, family=family)
        any_low, any_high = without_survey.interval_at(0.5)
        assert high / low < any_high / any_low


def test_what_was_measured_alone_for_a_family_is_not_known_where_the_family_is_new(
    measured, monkeypatch, make_elementwise
):
    own, shared = make_elementwise(16, 14, "Add"), make_elementwise(999, 14, "Mul")
    families = [m for m in measured if m.tags[FAMILY_TAG] != SURVEY_FAMILY]
    asked = []
    fit_once = NetworkLatencyPredictor._fit_once

    def note(self, networks, alone_ms):
        asked.append(({m.tags[FAMILY_TAG] for m in networks}, set(alone_ms)))
        fit_once(self, networks, alone_ms)

    monkeypatch.setattr(NetworkLatencyPredictor, "_fit_once", note)
    isolated = {kernel: KernelLatency("k", kernel, 0.01, 10) for kernel in (own, shared)}
    NetworkLatencyPredictor().fit(families, isolated=isolated)
    for names, alone in asked:
        assert alone == ({own, shared} if "adds" in names else {shared})
    assert any("adds" not in names for names, _ in asked)


def test_a_family_of_which_nothing_is_known_gets_the_intervals_of_new_ones(predictor, make_family):
    networks = make_family("adds", 3, 30)
    for family in ("never heard of", SURVEY_FAMILY, ANY_FAMILY):
        found, expected = predictor.predict(networks, family=family), predictor.predict(networks)
        assert np.array_equal(found.high_ms, expected.high_ms), family


def test_a_new_family_may_be_off_on_either_side(without_survey, make_family):
    """However the measured ones were: the next one is no more of them."""
    new = make_family("adds", 20, 50)
    found, of_it = (without_survey.predict(new, family=f) for f in (ANY_FAMILY, "adds"))
    np.testing.assert_allclose(found.latency_ms / found.low_ms, found.high_ms / found.latency_ms)
    assert not np.allclose(of_it.latency_ms / of_it.low_ms, of_it.high_ms / of_it.latency_ms)


def test_a_family_of_few_networks_has_no_intervals_of_its_own(measured):
    # At level 0.8, nine networks are needed.
    few = [m for m in measured if m.tags[FAMILY_TAG] != "subs"]
    few += [m for m in measured if m.tags[FAMILY_TAG] == "subs"][:8]
    found = NetworkLatencyPredictor(level=0.8).fit(few)
    assert found.calibrations_.keys() == {ANY_FAMILY, "adds", "muls"}


def test_a_space_for_other_data_has_intervals_of_its_own(measured):
    def of_space(m):
        return replace(m, tags=m.tags | {SPACE_TAG: f"adds-{m.name[-1] in '02468'}"})

    networks = [of_space(m) if m.tags[FAMILY_TAG] == "adds" else m for m in measured]
    found = NetworkLatencyPredictor(level=0.5).fit(networks)
    assert found.calibrations_.keys() == {ANY_FAMILY, "adds-True", "adds-False", "muls", "subs"}
    # But they are left out together: they are of one kind.
    plain = NetworkLatencyPredictor(level=0.5).fit(measured)
    assert np.array_equal(found.left_out_["family"], plain.left_out_["family"])


class TestLeftOut:
    def test_each_family_is_a_part_and_the_survey_is_none(self, predictor, measured):
        families = np.array([m.tags[FAMILY_TAG] for m in measured])
        parts = predictor.left_out_["family"][0]
        for number, family in enumerate(sorted(FACTORS)):
            assert set(parts[families == family].tolist()) == {number}
        assert set(parts[families == SURVEY_FAMILY].tolist()) == {-1}
        assert set(predictor.left_out_["network"][0].tolist()) == {0, 1, 2, 3, 4}

    def test_the_survey_is_as_if_single_networks_were_left_out(self, predictor):
        by_network, by_family = predictor.left_out_["network"], predictor.left_out_["family"]
        survey = by_family[0] == -1
        assert np.array_equal(by_family[1:, survey], by_network[1:, survey])
        assert not np.array_equal(by_family[1:, ~survey], by_network[1:, ~survey])
        assert np.array_equal(predictor.held_out_[0], by_network[1])

    def test_a_family_is_predicted_by_a_model_that_saw_none_of_it(self, predictor, measured):
        families = np.array([m.tags[FAMILY_TAG] for m in measured])
        others = [m for m in measured if m.tags[FAMILY_TAG] != "muls"]
        kernels, correction = KernelLatencyPredictor.learn(others, {})
        model = NetworkLatencyPredictor(level=0.8)
        model.kernels_, model.correction_ = kernels, correction
        own = [[run.kernel for run in m.kernels] for m in measured if m not in others]
        sums = np.array([model.terms(each).sum(axis=0) for each in own])
        expected = (sums[:, 0] + kernels.rooflines_.run_ms) * np.exp(correction(sums[:, 3:]))
        found = predictor.left_out_["family"][1, families == "muls"]
        np.testing.assert_allclose(found, expected, rtol=1e-6)

    def test_progress_counts_folds_families_and_all(self, predictor, steps):
        assert steps == [(i, 9) for i in range(1, 10)]

    def test_networks_of_one_family_are_left_out_one_by_one(self, measured):
        one = [m for m in measured if m.tags[FAMILY_TAG] == "adds"]
        found = NetworkLatencyPredictor(level=0.8).fit(one)
        assert set(found.left_out_["family"][0].tolist()) == {-1}
        assert np.array_equal(found.left_out_["family"][1:], found.left_out_["network"][1:])


def test_plain_data_keeps_the_intervals_of_all_families(predictor, make_family):
    again = NetworkLatencyPredictor.from_data(*predictor.to_data())
    assert again.calibrations_.keys() == predictor.calibrations_.keys()
    networks = make_family("muls", 3, 40)
    for family in (*FACTORS, ANY_FAMILY):
        found, expected = (p.predict(networks, family=family) for p in (again, predictor))
        np.testing.assert_allclose(found.high_ms, expected.high_ms, rtol=1e-5)
        np.testing.assert_allclose(found.low_ms, expected.low_ms, rtol=1e-5)
