import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from predictors import transfer
from predictors.architectures import ArchitectureFeatures
from predictors.errors import NotFittedError, PredictorError, PredictorFileError
from predictors.files import describe_predictor, load_predictor, save_predictor
from predictors.smoothing import smooth
from predictors.summary import TrainingSummary
from predictors.transfer import DeviceSample, TransferPredictor

N_ROWS, N_COLUMNS, N_OPTIONS, NOISE = 400, 6, 4, 0.01


def made_up_table(n_columns=N_COLUMNS, *, n_devices=6, seed=0, product=False):
    """Integer columns, and devices whose costs are mixtures of two profiles, with 1 % noise."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(N_OPTIONS, size=(N_ROWS, n_columns))
    weight = rng.uniform(0.7, 1.3, n_columns)  # columns matter about equally, not the same
    profiles = rng.gamma(1.0, size=(2, N_OPTIONS))
    cost = (weight[:, None] * profiles[:, None, :])[:, np.arange(n_columns), codes].sum(
        -1
    )  # (2, n)
    cost /= cost.mean(axis=1, keepdims=True)
    share = rng.uniform(0.1, 0.9, n_devices)[:, None]
    truth = 0.3 + share * cost[0] + (1 - share) * cost[1]
    if product:
        truth = np.exp(4 * (truth - truth.mean()))
    units = rng.lognormal(1, 1, size=(n_devices, 1))
    latency = truth * units * rng.lognormal(0, NOISE, size=truth.shape)
    features = ArchitectureFeatures.from_columns({f"op_{i}": codes[:, i] for i in range(n_columns)})
    return features, latency


def samples_of(latency, rows):
    return [DeviceSample(f"device {i}", rows, each[rows]) for i, each in enumerate(latency)]


def spearman(a, b):
    return pd.Series(a).rank().corr(pd.Series(b).rank())


ROWS = np.arange(0, N_ROWS, 4)  # the rows are in no order


@pytest.fixture(scope="module")
def table():
    return made_up_table()


@pytest.fixture(scope="module")
def predictor(table):
    features, latency = table
    return TransferPredictor(features, seed=3).fit(samples_of(latency[:-1], ROWS))


def rest(rows):
    return np.setdiff1d(np.arange(N_ROWS), rows)


@pytest.mark.parametrize(("n", "least", "mape"), [(5, 0.97, 0.05), (10, 0.98, 0.02)])
def test_a_few_measurements_predict_all_others_on_a_new_device(table, predictor, n, least, mape):
    new = table[1][-1]
    rows = predictor.choose(n)
    left = rest(rows)
    predicted = predictor.predict(rows, new[rows])
    assert len(np.unique(rows)) == n
    assert spearman(predicted.score[left], new[left]) > least
    assert np.abs(predicted.latency_ms[left] / new[left] - 1).mean() < mape
    assert spearman(predictor.predict_unmeasured(), new) < least


def test_intervals_hold_on_average_over_devices(table):
    features, latency = table
    covered = []
    for i, new in enumerate(latency):
        others = np.delete(latency, i, axis=0)
        predictor = TransferPredictor(features, level=0.9).fit(samples_of(others, ROWS))
        rows = predictor.choose(10)
        predicted = predictor.predict(rows, new[rows])
        inside = (predicted.low_ms <= new) & (new <= predicted.high_ms)
        covered.append(inside[rest(rows)].mean())
    assert 0.85 < np.mean(covered) < 0.99


@pytest.mark.parametrize("n_columns", [4, 12, 30])
def test_any_number_of_columns_will_do(n_columns):
    features, latency = made_up_table(n_columns, seed=1)
    predictor = TransferPredictor(features).fit(samples_of(latency[:-1], ROWS))
    rows, new = predictor.choose(10), latency[-1]
    predicted = predictor.predict(rows, new[rows]).latency_ms
    assert spearman(predicted[rest(rows)], new[rest(rows)]) > 0.95


def test_chosen_rows_tell_more_than_random_ones(table, predictor):
    new = table[1][-1]

    def error(rows):
        left = rest(rows)
        return np.abs(predictor.predict(rows, new[rows]).latency_ms[left] / new[left] - 1).mean()

    rng = np.random.default_rng(0)
    random = [error(rng.choice(N_ROWS, 5, replace=False)) for _ in range(8)]
    assert error(predictor.choose(5)) < np.mean(random)


def test_only_rows_that_can_be_measured_are_chosen(predictor):
    chosen = predictor.choose(4, measured=[3, 7], among=np.arange(10))
    assert len(set(chosen.tolist())) == 4
    assert set(chosen.tolist()) <= set(range(10)) - {3, 7}
    with pytest.raises(PredictorError, match="between 1 and 8 rows can be chosen"):
        predictor.choose(9, measured=[3, 7], among=np.arange(10))


def test_the_same_seed_gives_the_same_answer(table, predictor):
    features, latency = table
    again = TransferPredictor(features, seed=3).fit(samples_of(latency[:-1], ROWS))
    rows = predictor.choose(7)
    np.testing.assert_array_equal(again.choose(7), rows)
    np.testing.assert_array_equal(
        again.predict(rows, latency[-1][rows]).latency_ms,
        predictor.predict(rows, latency[-1][rows]).latency_ms,
    )


def test_units_do_not_matter(table, predictor):
    features, latency = table
    scaled = latency * np.geomspace(1e-3, 1e3, len(latency))[:, None]
    other = TransferPredictor(features, seed=3).fit(samples_of(scaled[:-1], ROWS))
    rows = predictor.choose(7)
    np.testing.assert_array_equal(other.choose(7), rows)
    here, there = predictor.predict(rows, latency[-1][rows]), other.predict(rows, scaled[-1][rows])
    np.testing.assert_allclose(there.score, here.score, rtol=1e-4)
    np.testing.assert_allclose(there.high_ms, here.high_ms * 1e3, rtol=1e-4)


def test_one_stalled_measurement_does_not_bend_the_rest(table, predictor):
    new = table[1][-1]
    rows = predictor.choose(10)
    measured = new[rows].copy()
    measured[4] *= 1.6
    predicted = predictor.predict(rows, measured).latency_ms
    assert np.abs(predicted / new - 1).mean() < 0.03  # 6 % too much of 10 would be 0.06


def test_a_table_of_products_is_modelled_by_its_logarithm():
    features, latency = made_up_table(product=True)
    predictor = TransferPredictor(features).fit(samples_of(latency[:-1], ROWS))
    assert predictor.scale_ == "log latency"
    assert predictor.held_out_error_["log latency"] < predictor.held_out_error_["latency"]
    new, rows = latency[-1], predictor.choose(10)
    assert spearman(predictor.predict(rows, new[rows]).score, new) > 0.95


def test_sums_are_modelled_as_they_are(predictor):
    assert predictor.scale_ == "latency"


def test_training_devices_may_be_known_at_different_rows(table):
    features, latency = table
    devices = [
        DeviceSample(f"device {i}", rows, latency[i][rows])
        for i, rows in enumerate(np.arange(N_ROWS).reshape(-1, 4).T[[0, 1, 2, 3, 0]])
    ]
    predictor = TransferPredictor(features).fit(devices)
    rows, new = predictor.choose(10), latency[-1]
    assert spearman(predictor.predict(rows, new[rows]).score, new) > 0.97


@pytest.mark.parametrize("n_devices", [1, 2])
def test_one_or_two_training_devices_are_enough_to_start(table, n_devices):
    features, latency = table
    predictor = TransferPredictor(features).fit(samples_of(latency[:n_devices], ROWS))
    rows, new = predictor.choose(10), latency[-1]
    predicted = predictor.predict(rows, new[rows])
    assert spearman(predicted.score, new) > 0.95
    assert (predicted.low_ms < predicted.high_ms).all()


@pytest.mark.parametrize("n_devices", [1, 4])
def test_from_fewer_measurements_than_were_asked_for_intervals_are_wider(table, n_devices):
    """By more than what is then less well known: Student's factor of 3 is 6.3 / 1.9 of 10's."""
    features, latency = table
    predictor = TransferPredictor(features).fit(samples_of(latency[:n_devices], ROWS))
    rows, new = predictor.choose(10), latency[-1]
    widths = [
        np.median(np.log(found.high_ms / found.low_ms))
        for n in (3, 10, 12)
        for found in (predictor.predict(predictor.choose(n), new[predictor.choose(n)]),)
    ]
    assert widths[0] > 3 * widths[1] and widths[1] > 0.9 * widths[2]
    assert predictor.predict(rows, new[rows]).low_ms.min() > 0


def test_what_was_measured_already_is_not_chosen_again(predictor):
    first = predictor.choose(5)
    assert not set(predictor.choose(5, measured=first)) & set(first)


def test_outliers_of_a_training_device_are_drawn_in(table):
    features, latency = table
    clean = latency[0][ROWS] / latency[0][ROWS].mean()
    stalled = clean.copy()
    stalled[::10] *= 10
    (curve,) = smooth(features, ROWS, [stalled])
    assert np.abs(curve.values[ROWS] / clean - 1).mean() < 0.1
    assert np.abs(curve.clipped / clean - 1).max() < 1.0


def test_an_option_that_costs_ten_times_as_much_is_no_outlier():
    rng = np.random.default_rng(0)
    codes = rng.integers(4, size=(200, 3))
    features = ArchitectureFeatures.from_columns({f"op_{i}": codes[:, i] for i in range(3)})
    truth = 1 + 0.15 * codes[:, 1] / 3 + 9.0 * (codes[:, 0] == 2)
    truth /= truth.mean()
    rows = np.arange(0, 200, 2)
    sample = (truth * rng.lognormal(0, 0.01, 200))[rows]
    (curve,) = smooth(features, rows, [sample])
    assert np.abs(curve.values / truth - 1).max() < 0.1


def test_many_measurements_take_no_longer_than_some_hundred(predictor, table, monkeypatch):
    monkeypatch.setattr(transfer, "MAX_USED", 20)
    _, latency = table
    new, rows, seen = latency[-1], np.arange(100), []
    condition = transfer.condition
    monkeypatch.setattr(
        transfer, "condition", lambda *of: seen.append(len(of[1])) or condition(*of)
    )
    assert spearman(predictor.predict(rows, new[rows]).score, new) > 0.95
    assert seen == [20]


def test_a_held_out_device_leaves_no_trace_in_the_prior(predictor):
    prior = predictor.prior_
    np.testing.assert_array_equal(prior.without(0).mean, prior.curves[1:].mean(axis=0))
    assert len(prior.without(0).noise) == len(prior.noise) - 1


@pytest.mark.parametrize(
    ("rows", "latency_ms", "message"),
    [
        ([1, 2], [1.0], "one latency per row"),
        ([1], [1.0], "at least 2 different rows"),
        ([1, 2, 1], [1.0, 2.0, 3.0], "row 1 is there 2 times; give each row one latency"),
        ([1, 2], [1.0, 0.0], "a number > 0"),
        ([1, 2], [1.0, np.nan], "a number > 0"),
        ([1, N_ROWS], [1.0, 2.0], f"row {N_ROWS}"),
    ],
)
def test_measurements_that_cannot_be_used_are_refused(predictor, rows, latency_ms, message):
    with pytest.raises(PredictorError, match=message):
        predictor.predict(rows, latency_ms)


def test_mistakes_in_training_get_one_clear_message(table):
    features, _ = table
    with pytest.raises(PredictorError, match="at least one training device"):
        TransferPredictor(features).fit([])
    far = DeviceSample("phone", np.arange(N_ROWS - 10, N_ROWS + 1), np.ones(11))
    with pytest.raises(PredictorError, match="phone has row 400, but there are only 400"):
        TransferPredictor(features).fit([far])
    with pytest.raises(PredictorError, match="phone: at least 10 different rows"):
        DeviceSample("phone", np.arange(9), np.ones(9))
    with pytest.raises(NotFittedError):
        TransferPredictor(features).choose(5)


@pytest.mark.parametrize("n", [0, N_ROWS + 1])
def test_no_more_rows_are_chosen_than_there_are(predictor, n):
    with pytest.raises(PredictorError, match="between 1 and 400 rows"):
        predictor.choose(n)


def test_exact_latencies_are_taken_as_they_are(table):
    features, latency = table
    order = np.random.default_rng(0).permutation(N_ROWS)
    device = DeviceSample("simulator", order, latency[0][order], is_exact=True)
    predictor = TransferPredictor(features).fit([device])
    expected = latency[0] / latency[0].mean()
    np.testing.assert_allclose(predictor.predict_unmeasured(), expected, rtol=1e-9)
    with pytest.raises(PredictorError, match="exact latencies are needed of all 400"):
        TransferPredictor(features).fit(
            [DeviceSample("simulator", ROWS, latency[0][ROWS], is_exact=True)]
        )


def test_a_scale_can_be_asked_for(table):
    features, latency = table
    for scale in ("latency", "log latency"):
        predictor = TransferPredictor(features, scale=scale).fit(samples_of(latency[:3], ROWS))
        assert predictor.scale_ == scale
    with pytest.raises(ValueError, match="scale must be one of"):
        TransferPredictor(features, scale="square")


def test_many_measurements_are_used_in_reasonable_memory(table, predictor):
    rows = np.arange(150)
    answer = predictor.predict(rows, table[1][-1][rows])
    left = rest(rows)
    assert np.abs(answer.latency_ms[left] / table[1][-1][left] - 1).mean() < 0.02


@pytest.fixture(scope="module")
def adapted(table, predictor):
    again = TransferPredictor.from_data(*predictor.to_data())
    rows = again.choose(6)
    return again.adapt(rows, table[1][-1][rows])


class TestFiles:
    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "transfer.npz"

    def test_a_file_gives_the_same_answers_bit_for_bit(self, path, table, adapted):
        save_predictor(adapted, path)
        again = load_predictor(path, TransferPredictor)
        for one, other in (
            (adapted.predict_adapted(), again.predict_adapted()),
            (adapted.predict([1, 5], [3.0, 4.0]), again.predict([1, 5], [3.0, 4.0])),
        ):
            for name in one.__dataclass_fields__:
                np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        np.testing.assert_array_equal(adapted.choose(9), again.choose(9))
        assert again.scale_ == adapted.scale_
        assert again.held_out_error_ == adapted.held_out_error_

    def test_the_summary_names_the_devices_and_how_well_they_predicted_each_other(
        self, path, adapted
    ):
        save_predictor(adapted, path)
        summary = describe_predictor(path)
        assert summary.kind == "transfer"
        assert summary.target is None
        assert summary.training.devices == tuple(f"device {i}" for i in range(5))
        assert summary.training.n_networks == len(ROWS)
        # Five devices; of the hundred rows of each, ten were measured.
        assert summary.training.held_out.n == 5 * (len(ROWS) - 10)
        assert 0 < summary.training.held_out.mape < 0.1

    def test_before_adapt_there_is_no_new_device(self, path, predictor):
        save_predictor(predictor, path)
        again = load_predictor(path, TransferPredictor)
        assert again.measured_ is None
        with pytest.raises(NotFittedError, match="no new device was measured"):
            again.predict_adapted()

    @settings(
        max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(data=st.data())
    def test_whatever_stands_in_its_data_it_is_refused_or_answers_in_finite_numbers(
        self, path, adapted, data
    ):
        described, arrays = adapted.to_data()
        described, arrays = json.loads(json.dumps(described)), dict(arrays)
        if data.draw(st.booleans()):
            name = data.draw(st.sampled_from(sorted(arrays)))
            array = arrays[name].copy()
            at = data.draw(st.integers(0, array.size - 1))
            numbers = [0, 1, 2, 255]
            if array.dtype.kind == "f":
                numbers += [-1.0, 1e-300, 1e17, -1e17]
            array.flat[at] = data.draw(st.sampled_from(numbers))
            changes = [array, array[:-1], array[None], array.astype(np.float32)]
            arrays[name] = data.draw(st.sampled_from(changes))
        else:
            name = data.draw(st.sampled_from(sorted(described)))
            described[name] = data.draw(
                st.none() | st.booleans() | st.integers() | st.floats(-1e18, 1e18) | st.text()
                | st.just([]) | st.just({})
            )  # fmt: skip
        altered = _Data(described, arrays, level=adapted.level)
        save_altered(altered, path)
        try:
            again = load_predictor(path, TransferPredictor)
        except PredictorFileError:
            return
        answers = [again.predict([1, 5, 9], [3.0, 4.0, 5.0])]
        if again.measured_ is not None:
            answers.append(again.predict_adapted())
        for answer in answers:
            for name in answer.__dataclass_fields__:
                assert np.isfinite(getattr(answer, name)).all(), name


class _Data(TransferPredictor):
    """Saves what it is told to."""

    def __init__(self, described, arrays, *, level):
        self.described, self.arrays, self.level = described, arrays, level

    def to_data(self):
        return self.described, self.arrays

    def training_summary(self):
        return TrainingSummary(level=self.level)


def save_altered(altered, path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("predictors.files._kind_of", lambda _: "transfer")
        save_predictor(altered, path)
