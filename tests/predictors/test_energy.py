"""No counter is needed: the measurements are made up, and so is the law of their energy."""

from dataclasses import replace

import numpy as np
import pytest

from predictors.energy import MIN_NETWORKS, EnergyPredictor
from predictors.errors import NotFittedError, PredictorError
from predictors.network_latency import LatencyPrediction

WATTS, MJ_PER_GIGA_MAC, MJ_PER_GIGABYTE, MJ = 12.0, 150.0, 400.0, 0.03
N = 60


def latency(ms, low=1.0, high=1.0):
    ms = np.asarray(ms, dtype=np.float64)
    return LatencyPrediction(ms, low * ms, high * ms, np.ones(len(ms)))


def sums_of(measurements):
    return np.array(
        [EnergyPredictor.terms([r.kernel for r in m.kernels]).sum(axis=0) for m in measurements]
    )


def ms_of(measurements):
    return np.array([m.latency_ms for m in measurements])


@pytest.fixture(scope="session")
def with_energy(random_networks, measure):
    """Networks whose energy follows the law above."""

    def make(n=N, *, noise=0.0, seed=0):
        rng = np.random.default_rng(seed)
        found = measure(random_networks(n, seed=seed), noise=0.1, seed=seed)
        work_mj = sums_of(found) @ [MJ_PER_GIGA_MAC, MJ_PER_GIGABYTE]
        energy_mj = (WATTS * ms_of(found) + work_mj + MJ) * rng.lognormal(0, noise, n)
        return [replace(m, energy_mj=float(e)) for m, e in zip(found, energy_mj, strict=True)]

    return make


def energies(measurements):
    return np.array([m.energy_mj for m in measurements])


def test_the_law_is_found(with_energy):
    predictor = EnergyPredictor().fit(with_energy())
    expected = [WATTS, MJ_PER_GIGA_MAC, MJ_PER_GIGABYTE, MJ]
    np.testing.assert_allclose(predictor.coef_, expected, rtol=0.02)
    new = with_energy(20, seed=1)
    found = predictor.predict_sums(latency(ms_of(new)), sums_of(new))
    np.testing.assert_allclose(found.energy_mj, energies(new), rtol=0.01)


def test_no_part_of_the_energy_is_negative(with_energy):
    falling = [replace(m, energy_mj=1 / m.latency_ms) for m in with_energy()]
    assert (EnergyPredictor().fit(falling).coef_ >= 0).all()


def test_new_networks_lie_in_the_interval_about_as_often_as_it_says(with_energy):
    covered = []
    for seed in range(6):
        found = with_energy(100, noise=0.05, seed=seed)
        predictor = EnergyPredictor(level=0.8).fit(found[:60])
        said = predictor.predict_sums(latency(ms_of(found[60:])), sums_of(found[60:]))
        truth = energies(found[60:])
        covered += ((said.low_mj <= truth) & (truth <= said.high_mj)).tolist()
    assert 0.68 < np.mean(covered) < 0.92


def test_an_unsure_latency_widens_the_interval(with_energy):
    measured = with_energy(noise=0.05)
    predictor = EnergyPredictor().fit(measured)
    ms, sums = ms_of(measured), sums_of(measured)
    sure = predictor.predict_sums(latency(ms), sums)
    unsure = predictor.predict_sums(latency(ms, low=0.5, high=2.0), sums)
    assert unsure.energy_mj.tolist() == sure.energy_mj.tolist()
    assert (unsure.low_mj < sure.low_mj).all() and (unsure.high_mj > sure.high_mj).all()
    assert (sure.low_mj <= sure.energy_mj).all() and (sure.energy_mj <= sure.high_mj).all()


def test_networks_without_an_energy_are_left_out(with_energy):
    measured = with_energy(noise=0.05)
    silent = [replace(m, energy_mj=None, digest=f"silent {i}") for i, m in enumerate(measured)]
    alone, among = (EnergyPredictor().fit(found) for found in (measured, [*silent, *measured]))
    assert alone.coef_.tolist() == among.coef_.tolist()


def test_of_a_network_measured_twice_the_newer_holds(with_energy):
    measured = with_energy()
    older = [replace(m, energy_mj=9 * m.energy_mj) for m in measured[:5]]
    predictor = EnergyPredictor().fit([*older, *measured])
    assert predictor.held_out_.shape == (2, N)
    np.testing.assert_allclose(predictor.coef_[0], WATTS, rtol=0.02)


def test_a_saved_predictor_predicts_the_same(with_energy):
    measured = with_energy(noise=0.05)
    predictor = EnergyPredictor(level=0.7).fit(measured)
    again = EnergyPredictor.from_data(*predictor.to_data())
    ms, sums = ms_of(measured), sums_of(measured)
    for name in ("low_mj", "energy_mj", "high_mj"):
        before, after = (
            getattr(p.predict_sums(latency(ms), sums), name) for p in (predictor, again)
        )
        assert before.tolist() == after.tolist()
    assert again.level == 0.7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": np.zeros((2, 0))}, "no rising positions"),
        ({"scale": np.array([[1.0, 1.0], [1.0, 2.0]])}, "no rising positions"),
        ({"scale": np.array([[0.0], [-1.0]])}, "is not > 0"),
        ({"held_out": np.zeros((2, 5))}, "held against is not > 0"),
        ({"held_out": np.ones(5)}, "reshape"),
        ({"coef": [-1.0, 0.0, 0.0, 0.0]}, "no energies > 0"),
        ({"coef": [0.0, 0.0, 0.0, 0.0]}, "no energies > 0"),
    ],
)
def test_a_file_that_says_what_no_fit_finds_is_refused_as_it_is_read(with_energy, change, message):
    data, arrays = EnergyPredictor().fit(with_energy()).to_data()
    with pytest.raises(ValueError, match=message):
        EnergyPredictor.from_data(data | change, arrays | change)


def test_nothing_has_no_terms():
    assert EnergyPredictor.terms([]).shape == (0, 2)


def test_too_few_networks_and_predicting_before_fit_are_refused(with_energy):
    few = with_energy(MIN_NETWORKS - 1)
    assert not EnergyPredictor.is_measured(few)
    assert EnergyPredictor.is_measured(with_energy(MIN_NETWORKS))
    with pytest.raises(PredictorError, match="energy of at least 8 different networks .* got 7"):
        EnergyPredictor().fit([*few, *few])
    with pytest.raises(NotFittedError):
        EnergyPredictor().predict_sums(latency([1.0]), np.ones((1, 2)))
    with pytest.raises(NotFittedError):
        EnergyPredictor().to_data()
    with pytest.raises(ValueError, match="level must lie between 0 and 1, got level=0"):
        EnergyPredictor(level=0)


def test_disturbed_energies_do_not_count(with_energy):
    steady, busy = with_energy(), np.ones(10, dtype=np.int64)
    wrong = [
        replace(m, energy_mj=9 * m.energy_mj, samples=replace(m.samples, switches=busy))
        for m in steady[:20]
    ]
    found = EnergyPredictor().fit([*steady, *wrong]).coef_
    np.testing.assert_allclose(found, EnergyPredictor().fit(steady).coef_)
