import itertools
from dataclasses import replace

import numpy as np
import pytest

from predictors.features import group, work
from predictors.kernel_latency import KNOWN_ERROR, UNKNOWN_GROUP_ERROR, KernelLatencyPredictor
from profilers.kernels import Kernel, Tensor


def learn(measured, alone_ms=None):
    return KernelLatencyPredictor.learn(measured, alone_ms)[0]


@pytest.fixture(scope="module")
def measured(random_networks, measure):
    return measure(random_networks(40), noise=0.01, b=0.0)


@pytest.fixture(scope="module")
def fitted(measured):
    return learn(measured)


@pytest.fixture(scope="module")
def shown(measured):
    """Every kernel of the networks, once."""
    return list({run.kernel: None for m in measured for run in m.kernels})


def test_kernels_of_the_networks_are_known(fitted, shown, kernel_ms):
    ms, known = fitted.predict(shown)
    error = np.abs(ms / [kernel_ms(k) for k in shown] - 1)
    assert np.median(error) < 0.015
    assert error.max() < 0.05
    assert known.all()
    assert fitted.measured_ == {kernel.key for kernel in shown}


def test_a_whole_model_as_one_kernel_is_known_if_it_was_measured(random_networks, measure):
    """As of runtimes that do not show what they run: sizes of inputs and outputs say nothing."""

    def opaque(i):
        image, classes = Tensor("float", (1, 3, 8, 8)), Tensor("float", (1, 10))
        return Kernel("Model", (("model", f"{i:012x}"),), (image,), (classes,))

    predictor = learn(measure([*random_networks(20), *([opaque(i)] for i in range(20))]))
    assert predictor.predict([opaque(3), opaque(20)])[1].tolist() == [True, False]
    assert predictor.estimate([opaque(20)])[1] == UNKNOWN_GROUP_ERROR


def test_answers_follow_the_order_and_repeats_of_the_question(fitted, shown, make_conv):
    new = make_conv(20, 20, 14)
    question = [shown[3], new, shown[0], new, shown[3]]
    for answer in (fitted.predict(question)[0], *fitted.estimate(question)):
        assert answer[0] == answer[4]
        assert answer[1] == answer[3]
        assert len(set(answer.tolist())) == 3
    assert fitted.predict(question)[0][2] == pytest.approx(fitted.predict([shown[0]])[0][0])


def test_sizes_between_the_measured_ones_are_known(fitted, make_conv, kernel_ms):
    new = [
        make_conv(i, o, size, kernel_size=k)
        for i, o, size, k in itertools.product((12, 20, 40), (12, 40), (10, 20), (1, 3))
    ]
    ms, known = fitted.predict(new)
    assert known.all()
    assert np.abs(ms / [kernel_ms(k) for k in new] - 1).max() < 0.05


def test_the_farther_a_kernel_is_from_what_was_measured_the_less_is_known_of_it(
    fitted, make_conv, kernel_ms
):
    kernels = [make_conv(c, c, size) for c, size in ((32, 28), (64, 56), (256, 112), (2048, 448))]
    ms, error = fitted.estimate(kernels)
    assert (np.diff(error) > 0).all()
    assert fitted.predict(kernels)[1].tolist() == (error <= KNOWN_ERROR).tolist()
    assert error[0] < KNOWN_ERROR < error[-1]
    np.testing.assert_allclose(ms, [kernel_ms(k) for k in kernels], rtol=0.2)  # physics still holds


def test_an_unknown_kind_is_unknown_but_has_a_positive_latency(fitted, make_elementwise):
    ms, error = fitted.estimate([make_elementwise(32, 14, kind="Einsum")])
    assert error.tolist() == [UNKNOWN_GROUP_ERROR]
    assert (ms > 0).all()
    assert not fitted.predict([make_elementwise(32, 14, kind="Einsum")])[1].any()


def test_what_deviates_from_physics_is_learned(random_networks, measure, kernel_ms):
    def factor(kernel):
        return 1 + 16 / kernel.inputs[0].shape[1]  # few channels are slow

    networks = random_networks(60)
    fitted = learn(measure(networks, ms_of=lambda k: factor(k) * kernel_ms(k), b=0.0))
    kernels = list({k: None for ks in networks for k in ks if k.kind == "Conv"})
    truth = np.array([factor(k) * kernel_ms(k) for k in kernels])
    physics = fitted.rooflines_.latency_ms(work(kernels), np.array([group(k) for k in kernels]))
    error, of_physics = (
        np.median(np.abs(ms / truth - 1)) for ms in (fitted.predict(kernels)[0], physics)
    )
    assert error < 0.5 * of_physics
    assert error < 0.06


def test_a_network_profiled_in_a_bad_moment_does_not_move_its_kernels(measured, shown):
    runs = tuple(replace(run, latency_ms=5 * run.latency_ms) for run in measured[7].kernels)
    disturbed = [*measured[:7], replace(measured[7], kernels=runs), *measured[8:]]
    one, other = (learn(given).predict(shown)[0] for given in (measured, disturbed))
    np.testing.assert_allclose(other, one, rtol=0.1)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_networks_are_enough_to_answer(measured, shown, kernel_ms, n):
    ms, error = learn(measured[:n]).estimate(shown)
    assert np.isfinite(error).all()
    assert 0.3 < np.median(ms / [kernel_ms(k) for k in shown]) < 3


def test_more_networks_leave_less_unknown(measured, shown):
    few, many = (learn(measured[:n]).estimate(shown)[1] for n in (2, 40))
    assert many.mean() < 0.8 * few.mean()


def test_the_same_measurements_give_the_same_predictor(measured, shown):
    first, second = (learn(measured).estimate(shown) for _ in range(2))
    assert np.array_equal(first, second)


def test_no_question_no_answers(fitted):
    for answers in (fitted.predict([]), fitted.estimate([])):
        assert [answer.shape for answer in answers] == [(0,), (0,)]


class TestPlainData:
    @pytest.fixture(scope="class")
    @classmethod
    def with_alone(cls, fitted, make_conv):
        return fitted.knowing({make_conv(512, 512, 14): 1.25})

    def test_it_gives_the_same_answers_back(self, with_alone, shown, make_conv, make_elementwise):
        again = KernelLatencyPredictor.from_data(*with_alone.to_data())
        new = [make_conv(24, 24, 13), make_conv(512, 512, 14), make_elementwise(3, 3, kind="Odd")]
        for one, other in zip(
            with_alone.estimate([*shown, *new]), again.estimate([*shown, *new]), strict=True
        ):
            np.testing.assert_allclose(other, one, rtol=1e-5)
        assert again.measured_ == with_alone.measured_
        assert again.looked_up_ == with_alone.looked_up_
        assert again.alone_factor_ == with_alone.alone_factor_
        assert again.rooflines_.run_ms == with_alone.rooflines_.run_ms

    def test_other_features_are_refused(self, fitted):
        data, arrays = fitted.to_data()
        with pytest.raises(ValueError, match="other features"):
            KernelLatencyPredictor.from_data(data | {"features": ["log_macs"]}, arrays)

    def test_what_does_not_belong_together_is_refused(self, with_alone):
        data, arrays = with_alone.to_data()
        (key,) = data["looked_up"]
        damage = [
            {"groups": ["Conv"]},
            {"n_inducing": data["n_inducing"][:-1]},
            {"n_inducing": [n + 1 for n in data["n_inducing"]]},
            {"n_inducing": [0, *data["n_inducing"][1:]]},
            {"run_ms": -1.0},
            {"run_ms": float("nan")},
            {"looked_up": {key: [0.0, 0.1]}},
            {"looked_up": {key: [1.0, float("nan")]}},
        ]
        array_damage = [
            {"rooflines": -arrays["rooflines"]},
            {"rooflines": arrays["rooflines"][1:]},
            {"inducing": arrays["inducing"][:-1]},
            {"inducing": arrays["inducing"][:, :-1]},
            {"mean": arrays["mean"][:-1]},
            {"root": arrays["root"][:-1]},
        ]
        for bad_data, bad_arrays in (
            *((data | each, arrays) for each in damage),
            *((data, arrays | each) for each in array_damage),
        ):
            with pytest.raises(ValueError):  # noqa: PT011 (which one depends on what is damaged)
                KernelLatencyPredictor.from_data(bad_data, bad_arrays)
        for name in data:
            with pytest.raises(KeyError):
                KernelLatencyPredictor.from_data(
                    {k: v for k, v in data.items() if k != name}, arrays
                )
