import itertools

import numpy as np
import pytest

from predictors.errors import NotFittedError
from predictors.kernel_latency import KernelLatencyPredictor


@pytest.fixture(scope="module")
def grid(make_conv, make_elementwise):
    """Convolutions and additions on a grid of sizes."""
    convs = [
        make_conv(i, o, size, kernel_size=k)
        for i, o, size, k in itertools.product((8, 16, 32, 64), (8, 32, 64), (7, 14, 28), (1, 3))
    ]
    adds = [make_elementwise(c, size) for c, size in itertools.product((8, 32, 64), (7, 14, 28))]
    return [*convs, *adds]


@pytest.fixture(scope="module")
def fitted(grid, kernel_ms):
    return KernelLatencyPredictor().fit(grid, np.array([kernel_ms(k) for k in grid]))


def test_what_was_measured_is_looked_up(fitted, grid, kernel_ms):
    ms, known = fitted.predict(grid)
    np.testing.assert_allclose(ms, [kernel_ms(k) for k in grid], rtol=1e-12)
    assert known.all()


def test_answers_follow_the_order_and_repeats_of_the_question(fitted, grid, make_conv):
    new = make_conv(24, 24, 14)
    question = [grid[3], new, grid[0], new, grid[3]]
    ms, known = fitted.predict(question)
    assert ms[0] == ms[4]
    assert ms[1] == ms[3]
    assert ms[2] == fitted.predict([grid[0]])[0][0]
    assert known.all()


def test_sizes_between_the_measured_ones_follow_the_roofline(fitted, make_conv, kernel_ms):
    new = [
        make_conv(i, o, size, kernel_size=k)
        for i, o, size, k in itertools.product((12, 24, 48), (16, 48), (10, 20), (1, 3))
    ]
    ms, known = fitted.predict(new)
    relative = np.abs(ms / [kernel_ms(k) for k in new] - 1)
    assert known.all()
    assert relative.max() < 0.05
    assert fitted.error_ < 0.05


def test_beyond_twice_the_measured_sizes_nothing_is_known(fitted, make_conv):
    ms, known = fitted.predict(
        [make_conv(64, 64, 28), make_conv(64, 100, 28), make_conv(512, 512, 56), make_conv(1, 1, 1)]
    )
    assert known.tolist() == [True, True, False, False]
    assert ms[2] > ms[0]  # physics still holds


def test_an_unknown_kind_is_unknown_but_has_a_positive_latency(fitted, make_elementwise):
    ms, known = fitted.predict([make_elementwise(32, 14, kind="Einsum")])
    assert not known.any()
    assert (ms > 0).all()


def test_one_outlier_among_repeats_does_not_move_a_kernel(grid, kernel_ms):
    kernels = [kernel for kernel in grid for _ in range(5)]
    ms = np.array([kernel_ms(kernel) for kernel in kernels])
    ms[::5] *= 10
    fitted = KernelLatencyPredictor().fit(kernels, ms)
    np.testing.assert_allclose(
        fitted.predict(grid)[0], [kernel_ms(kernel) for kernel in grid], rtol=1e-9
    )


def test_a_kernel_met_once_in_a_bad_moment_is_drawn_to_what_others_say(grid, kernel_ms):
    kernels = [kernel for kernel in grid for _ in range(5)]
    truth = np.array([kernel_ms(kernel) for kernel in kernels])
    odd = grid[70]
    keep = np.array([kernel.key != odd.key for kernel in kernels])
    kernels = [*(k for k, is_kept in zip(kernels, keep, strict=True) if is_kept), odd]
    fitted = KernelLatencyPredictor().fit(kernels, np.append(truth[keep], 3 * kernel_ms(odd)))
    (answer,), (is_known,) = fitted.predict([odd])
    assert is_known
    assert answer < 2 * kernel_ms(odd)  # a third of the way in log from 1 to 3 is 1.44


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_kernels_are_enough_to_answer(grid, kernel_ms, make_conv, n):
    fitted = KernelLatencyPredictor().fit(grid[:n], np.array([kernel_ms(k) for k in grid[:n]]))
    ms, _ = fitted.predict([*grid[:n], make_conv(24, 24, 14)])
    assert np.isfinite(ms).all()
    assert (ms > 0).all()


def test_the_same_measurements_give_the_same_predictor(grid, kernel_ms, make_conv):
    new = [make_conv(c, c, 20) for c in (10, 20, 50)]
    ms = np.array([kernel_ms(k) for k in grid])
    first, second = (KernelLatencyPredictor(seed=4).fit(grid, ms).predict(new) for _ in range(2))
    assert np.array_equal(first[0], second[0])


def test_no_question_no_answers(fitted):
    ms, known = fitted.predict([])
    assert ms.shape == known.shape == (0,)


def test_lengths_must_match(grid):
    for kernels, ms in (([], np.zeros(0)), (grid[:2], np.ones(3))):
        with pytest.raises(ValueError, match="as many latencies as kernels"):
            KernelLatencyPredictor().fit(kernels, ms)


def test_fit_comes_first(grid):
    with pytest.raises(NotFittedError):
        KernelLatencyPredictor().predict(grid)
    with pytest.raises(NotFittedError):
        KernelLatencyPredictor().to_data()


class TestPlainData:
    def test_it_gives_the_same_answers_back(self, fitted, grid, make_conv, make_elementwise):
        again = KernelLatencyPredictor.from_data(*fitted.to_data())
        question = [*grid, make_conv(24, 24, 14), make_elementwise(3, 3, kind="Einsum")]
        for one, other in zip(fitted.predict(question), again.predict(question), strict=True):
            assert np.array_equal(one, other)
        assert again.error_ == fitted.error_

    def test_other_features_are_refused(self, fitted):
        data, arrays = fitted.to_data()
        with pytest.raises(ValueError, match="other features"):
            KernelLatencyPredictor.from_data(data | {"features": ["log_macs"]}, arrays)

    def test_arrays_that_do_not_belong_together_are_refused(self, fitted):
        data, arrays = fitted.to_data()
        damaged = [
            (data | {"roofline_kinds": ["Conv"]}, arrays),
            (data | {"roofline_kinds": [f"x{k}" for k in data["roofline_kinds"]]}, arrays),
            (data, arrays | {"extents": arrays["extents"][:1]}),
            (data, arrays | {"trees_feature": arrays["trees_feature"] + 99}),
        ]
        for bad_data, bad_arrays in damaged:
            with pytest.raises(ValueError):  # noqa: PT011 (which one depends on what is damaged)
                KernelLatencyPredictor.from_data(bad_data, bad_arrays)
