from dataclasses import replace

import numpy as np
import pytest

from predictors.errors import NotFittedError, PredictorError, WrongTargetError
from predictors.metrics import accuracy
from predictors.network_latency import (
    MIN_NETWORKS,
    MIN_REPEATED,
    N_TERMS,
    NetworkLatencyPredictor,
    _architectures,
    _left_out,
    undisturbed,
)
from profilers.kernels import Kernel, Tensor
from profilers.measurement import CALIBRATION_TAG, EXCERPT_FAMILY, EXCERPT_TAG, FAMILY_TAG


def test_new_networks_are_predicted_within_a_few_percent(fitted, random_networks, measure):
    new = random_networks(40, seed=1)
    truth = [m.latency_ms for m in measure(new, seed=1)]
    found = fitted.predict(new)
    assert accuracy(found.latency_ms, truth).mape < 0.03
    assert (found.low_ms < found.latency_ms).all()
    assert (found.latency_ms < found.high_ms).all()
    assert found.known_share.min() > 0.9


@pytest.mark.parametrize(
    ("a", "b", "c", "mape"),
    [(1.0, 0.001, 0.02, 0.006), (1.1, -0.0005, 0.05, 0.015)],  # a: profiles read a tenth too short
)
def test_the_overhead_is_found(random_networks, measure, a, b, c, mape):
    networks = random_networks(40)
    predictor = NetworkLatencyPredictor().fit(measure(networks, a=a, b=b, c=c))
    truth = [m.latency_ms for m in measure(networks, a=a, b=b, c=c)]
    assert accuracy(predictor.predict(networks).latency_ms, truth).mape < mape


def test_the_profilers_own_time_is_not_predicted(random_networks, measure):
    measured = measure(random_networks(40), profiler_ms=0.015)
    predictor = NetworkLatencyPredictor().fit(measured)
    new = random_networks(40, seed=1)
    truth = [m.latency_ms for m in measure(new)]
    assert np.mean([m.kernel_sum_ms / m.latency_ms for m in measured]) > 1.3
    assert accuracy(predictor.predict(new).latency_ms, truth).mape < 0.03


def test_held_out_networks_lie_in_the_interval_about_as_often_as_it_says(random_networks, measure):
    covered = []
    for seed in range(4):
        networks = random_networks(90, seed=seed)
        measurements = measure(networks, noise=0.04, seed=seed)
        found = NetworkLatencyPredictor(level=0.8).fit(measurements[:50]).predict(networks[50:])
        truth = np.array([m.latency_ms for m in measurements[50:]])
        covered += ((found.low_ms <= truth) & (truth <= found.high_ms)).tolist()
    assert 0.68 < np.mean(covered) < 0.94


def test_a_higher_level_gives_a_wider_interval(random_networks, measure):
    networks = random_networks(40)
    measurements = measure(networks, noise=0.04)
    narrow, wide = (
        NetworkLatencyPredictor(level=level).fit(measurements).predict(networks)
        for level in (0.5, 0.9)
    )
    assert (wide.high_ms > narrow.high_ms).all()
    assert (wide.low_ms < narrow.low_ms).all()


def test_outliers_do_not_bend_the_line_for_the_others(random_networks, measure):
    networks = random_networks(40)
    outliers = (3, 11, 19, 27)
    predictor = NetworkLatencyPredictor().fit(measure(networks, outliers=outliers))
    rest = [i for i in range(40) if i not in outliers]
    truth = [m.latency_ms for m in measure([networks[i] for i in rest])]
    found = predictor.predict([networks[i] for i in rest])
    assert accuracy(found.latency_ms, truth).mape < 0.02


def test_networks_from_a_busy_machine_are_left_out_while_enough_others_are_there(
    random_networks, measure
):
    networks = random_networks(24)
    steady = measure(networks[:16])
    busy = [
        replace(m, samples=replace(m.samples, switches=np.ones(10, dtype=np.int64)))
        for m in measure(networks[16:], a=3.0, seed=1)
    ]
    mixed = NetworkLatencyPredictor().fit([*steady, *busy])
    assert mixed.held_out_.shape == (2, 16)
    only_steady = NetworkLatencyPredictor().fit(steady)
    found, expected = (each.predict(networks).latency_ms for each in (mixed, only_steady))
    assert np.array_equal(found, expected)
    few = NetworkLatencyPredictor().fit([*steady[:4], *busy])
    assert few.held_out_.shape == (2, 12)


def test_disturbed_measurements_do_not_count_where_half_are_trusted(random_networks, measure):
    measured = measure(random_networks(9))
    busy = replace(
        measured[8], samples=replace(measured[8].samples, switches=np.ones(10, dtype=np.int64))
    )
    assert busy.samples.warning is not None
    assert undisturbed([*measured[:8], busy]) == measured[:8]
    assert undisturbed([busy]) == [busy]


def test_parts_of_networks_teach_but_do_not_judge(random_networks, measure):
    whole = measure(random_networks(20))
    parts = measure(random_networks(6, seed=1), seed=1, tags={FAMILY_TAG: EXCERPT_FAMILY})
    with_parts = NetworkLatencyPredictor().fit([*whole, *parts])
    assert with_parts.held_out_.shape == (2, 20)
    assert with_parts.left_out_["network"].shape == (3, 26)
    assert (with_parts.left_out_["network"][0] < 0).tolist() == [False] * 20 + [True] * 6
    assert len(with_parts.calibrations_[""].errors) == 20
    (kernels,) = random_networks(1, seed=1)
    assert {kernel.key for kernel in kernels} <= with_parts.kernels_.measured_
    with pytest.raises(PredictorError, match="different measured networks are needed, got 4"):
        NetworkLatencyPredictor().fit([*whole[:4], *parts])


def test_of_a_network_with_a_loop_nothing_is_known_and_no_end_is_near(fitted, random_networks):
    """What runs inside is not seen: beside it, all that is seen may be little."""
    (network,) = random_networks(1, seed=5)
    state = Tensor("float", (1, 16))
    loop = Kernel("Loop", (("body", "0123456789abcdef"),), (state,), (state,))
    plain, looping = (fitted.predict([kernels]) for kernels in (network, [*network, loop]))
    assert looping.latency_ms[0] < 2 * plain.latency_ms[0]
    assert looping.high_ms[0] > 1000 * plain.high_ms[0]
    assert (plain.known_share[0], looping.known_share[0]) == (pytest.approx(1, abs=0.1), 0)
    measured = fitted.with_excerpt({loop: 0.5}).predict([[*network, loop]])
    assert measured.known_share[0] > 0.9
    assert measured.latency_ms[0] > plain.latency_ms[0] + 0.2


def test_unknown_kernels_widen_the_interval_and_lower_the_known_share(
    fitted, random_networks, make_conv
):
    (known,) = random_networks(1, seed=5)
    foreign = [replace(kernel, kind="Einsum") for kernel in known]
    found = fitted.predict([known, [*known, *foreign[:3]], foreign])
    width = found.high_ms / found.low_ms
    assert width[0] < width[1] < width[2]
    assert found.known_share[0] > found.known_share[1] > found.known_share[2] == 0


def test_sums_are_all_that_the_network_level_needs(fitted, random_networks):
    networks = random_networks(6, seed=2)
    sums = np.array([fitted.terms(kernels).sum(axis=0) for kernels in networks])
    assert sums.shape == (6, N_TERMS)
    by_sums, found = fitted.predict_sums(sums), fitted.predict(networks)
    for name in found.__dataclass_fields__:
        np.testing.assert_allclose(getattr(by_sums, name), getattr(found, name), rtol=1e-9)


def test_no_networks_and_a_network_without_kernels(fitted, random_networks):
    nothing = fitted.predict([])
    assert {getattr(nothing, name).shape for name in nothing.__dataclass_fields__} == {(0,)}
    (network,) = random_networks(1)
    found = fitted.predict([[], network, []])
    assert found.latency_ms.shape == (3,)
    assert found.latency_ms[1] == pytest.approx(fitted.predict([network]).latency_ms[0])
    assert 0 < found.latency_ms[0] == found.latency_ms[2] < found.latency_ms[1]
    assert found.known_share.tolist() == [0, 1, 0]


def test_a_measured_network_without_kernels_is_no_obstacle(random_networks, measure):
    networks = [[], *random_networks(20)]
    predictor = NetworkLatencyPredictor().fit(measure(networks))
    truth = [m.latency_ms for m in measure(networks)]
    assert accuracy(predictor.predict(networks).latency_ms[1:], truth[1:]).mape < 0.03


def test_the_interval_at_a_latency_is_that_of_a_network_as_well_known_as_usual(
    fitted, random_networks
):
    low, high = fitted.interval_at(0.5)
    assert 0.8 < low < 1 < high < 1.25
    found = fitted.predict(random_networks(40))
    of_usual = [fitted.interval_at(ms) for ms in found.latency_ms]
    wider = [h / lo for lo, h in of_usual] < found.high_ms / found.low_ms
    assert 0.1 < wider.mean() < 0.9


def test_no_network_is_held_out_by_a_model_that_saw_it(random_networks, measure):
    # The same network, measured three times, must fall into one fold.
    networks = random_networks(9)
    measurements = [m for seed in range(3) for m in measure(networks, noise=0.02, seed=seed)]
    measurements = [replace(m, digest=m.name) for m in measurements]
    predictor = NetworkLatencyPredictor().fit(measurements)
    predicted, measured = predictor.held_out_
    assert len(predicted) == 27
    for ms in np.unique(np.round(predicted, 9)):
        assert (np.round(predicted, 9) == ms).sum() == 3
    assert sorted(measured) == sorted(m.latency_ms for m in measurements)


def test_progress_counts_up_to_the_number_of_fits(random_networks, measure):
    told = []
    measured = measure(random_networks(10))
    NetworkLatencyPredictor().fit(measured, on_progress=lambda *now: told.append(now))
    assert told == [(i, 6) for i in range(1, 7)]  # five folds, and all


class TestRefused:
    def test_several_targets_are_named(self, random_networks, measure, target):
        networks = random_networks(10)
        other = replace(target, threads=2)
        mixed = [*measure(networks), *measure(networks, target=other)]
        with pytest.raises(
            PredictorError, match="exactly one target are needed, got 2: "
        ) as caught:
            NetworkLatencyPredictor().fit(mixed)
        assert target.key in str(caught.value)
        assert other.key in str(caught.value)

    def test_nothing_measured(self):
        with pytest.raises(PredictorError, match="got 0: none"):
            NetworkLatencyPredictor().fit([])

    def test_too_few_networks(self, random_networks, measure):
        measurements = measure(random_networks(MIN_NETWORKS))
        with pytest.raises(
            PredictorError, match=f"at least {MIN_NETWORKS} .*got {MIN_NETWORKS - 1}"
        ):
            NetworkLatencyPredictor().fit(measurements[1:])
        assert NetworkLatencyPredictor().fit(measurements).kernels_ is not None

    def test_one_network_measured_many_times(self, random_networks, measure):
        same = measure(random_networks(1) * 20, digest="the same")
        with pytest.raises(PredictorError, match="different measured networks are needed, got 1"):
            NetworkLatencyPredictor().fit(same)

    def test_another_target(self, fitted, target):
        fitted.check_target(target)
        with pytest.raises(WrongTargetError, match="1 thread.*but asked about.*4 threads"):
            fitted.check_target(replace(target, threads=4))

    def test_fit_comes_first(self, target, random_networks):
        predictor = NetworkLatencyPredictor()
        for call in (
            lambda: predictor.predict(random_networks(1)),
            lambda: predictor.predict_sums(np.ones((1, N_TERMS))),
            lambda: predictor.terms([]),
            lambda: predictor.interval_at(1.0),
            lambda: predictor.check_target(target),
            predictor.to_data,
        ):
            with pytest.raises(NotFittedError):
                call()

    @pytest.mark.parametrize("level", [0, 1, -0.5, float("nan")])
    def test_a_level_that_is_no_share(self, level):
        with pytest.raises(ValueError, match="level must lie between 0 and 1"):
            NetworkLatencyPredictor(level=level)


class TestPlainData:
    def test_it_gives_the_same_answers_back(self, fitted, random_networks, make_elementwise):
        again = NetworkLatencyPredictor.from_data(*fitted.to_data())
        asked = [*random_networks(5, seed=7), [make_elementwise(5, 5, "Odd")]]
        one, other = fitted.predict(asked), again.predict(asked)
        for name in one.__dataclass_fields__:
            np.testing.assert_allclose(getattr(other, name), getattr(one, name), rtol=1e-5)
        assert (again.target_, again.level, again.seed) == (fitted.target_, 0.9, 0)
        assert np.array_equal(again.held_out_, fitted.held_out_)
        assert again.interval_at(0.5) == fitted.interval_at(0.5)

    def test_what_is_missing_or_damaged_is_refused(self, fitted):
        data, arrays = fitted.to_data()
        for name in data:
            with pytest.raises(KeyError):
                NetworkLatencyPredictor.from_data(
                    {k: v for k, v in data.items() if k != name}, arrays
                )
        for name in arrays:
            with pytest.raises((KeyError, ValueError)):
                NetworkLatencyPredictor.from_data(
                    data, {k: v for k, v in arrays.items() if k != name}
                )
        for damage in ({"level": 2.0}, {"families": []}, {"families": ["a family"]}):
            with pytest.raises(ValueError, match=r"level must lie|no intervals for networks"):
                NetworkLatencyPredictor.from_data(data | damage, arrays)


def test_parts_of_its_networks_are_left_out_with_a_family(random_networks, measure):
    """They show the very kernels that nobody would have of a new family."""
    measured = measure(random_networks(24), noise=0.02)
    tagged = [replace(m, tags={FAMILY_TAG: "a" if i < 12 else "b"}) for i, m in enumerate(measured)]
    parts = [
        replace(
            m,
            digest=f"part of {m.digest}",
            kernels=m.kernels[:2],
            tags={FAMILY_TAG: EXCERPT_FAMILY, EXCERPT_TAG: m.digest},
        )
        for m in tagged
    ]
    families = np.array([m.tags[FAMILY_TAG] for m in [*tagged, *parts]])
    kin = _left_out([*tagged, *parts], families)
    assert kin.tolist() == [0] * 12 + [1] * 12 + [0] * 12 + [1] * 12
    fitted = NetworkLatencyPredictor().fit([*tagged, *parts])
    assert fitted.left_out_["family"][0].tolist() == [0] * 12 + [1] * 12 + [-1] * 24
    assert fitted.knows_others_ and not NetworkLatencyPredictor().fit(tagged[:12]).knows_others_
    # Twelve others there are, but of seven networks: too few to learn from.
    few = [*tagged[:12], *tagged[12:19], *parts[12:19]]
    assert set(_left_out(few, np.array([m.tags[FAMILY_TAG] for m in few]))) == {-1, 0}


def test_networks_that_nobody_named_are_no_family(random_networks, measure):
    measured = measure(random_networks(20), noise=0.02)
    named = [
        replace(m, tags={FAMILY_TAG: family} if i < 10 else {})
        for family in ("named", CALIBRATION_TAG)
        for i, m in enumerate(measured)
    ]
    for networks, parts in ((named[:20], [0] * 10 + [-1] * 10), (named[20:], [-1] * 20)):
        fitted = NetworkLatencyPredictor().fit(networks)
        assert fitted.left_out_["family"][0].tolist() == parts
        assert not fitted.knows_others_


def test_networks_without_kernels_say_nothing(random_networks, measure):
    measured = measure(random_networks(12), noise=0.02)
    folded = [replace(measured[0], digest="folded", kernels=())]
    fitted = NetworkLatencyPredictor().fit([*measured, *folded])
    assert fitted.held_out_.shape == (2, 12)


def test_disturbed_networks_are_kept_where_too_few_others_are_whole(random_networks, measure):
    measured = measure(random_networks(9), noise=0.02)
    switched = np.ones(10, dtype=np.int64)
    disturbed = [replace(m, samples=replace(m.samples, switches=switched)) for m in measured[:4]]
    parts = [
        replace(
            measured[8],
            digest=f"part {i}",
            kernels=measured[i % 9].kernels[:1],
            tags={FAMILY_TAG: EXCERPT_FAMILY, EXCERPT_TAG: measured[8].digest},
        )
        for i in range(20)
    ]
    assert len(undisturbed([*disturbed, *measured[4:], *parts])) == 29


def test_copies_with_other_weights_and_excerpts_are_held_out_with_their_network(
    random_networks, measure
):
    """Else what is held out would have been seen, and intervals would be too narrow."""
    networks = random_networks(16)
    measured = measure(networks, noise=0.02)
    copies = [replace(m, digest=f"copy of {m.digest}") for m in measure(networks, seed=1)]
    parts = [
        replace(
            m,
            digest=f"part of {m.digest}",
            kernels=m.kernels[:2],
            tags={FAMILY_TAG: EXCERPT_FAMILY, EXCERPT_TAG: m.digest},
        )
        for m in measured
    ]
    folds = NetworkLatencyPredictor().fit([*measured, *copies, *parts]).left_out_["network"][0]
    assert (folds[:16] == folds[16:32]).all()
    assert len(set(folds[:16])) == 5
    names = _architectures([*measured, *copies, *parts])
    assert names[:16] == names[16:32] == names[32:]
    same = [replace(measured[0], digest=f"copy {i}") for i in range(9)]
    with pytest.raises(PredictorError, match="different measured networks are needed, got 1"):
        NetworkLatencyPredictor().fit(same)


def test_a_measurement_that_is_given_twice_repeats_nothing(random_networks, measure):
    networks = random_networks(MIN_REPEATED + 2)
    measured = measure(networks)
    assert NetworkLatencyPredictor().fit([*measured, *measured]).drift_ > 0
    again = measure(networks, noise=0.01, seed=1)
    digests = zip(again, measured, strict=True)
    again = [replace(m, digest=first.digest) for m, first in digests]
    assert NetworkLatencyPredictor().fit([*measured, *again]).drift_ == 0
