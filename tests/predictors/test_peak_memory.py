import numpy as np
import pytest

from predictors.errors import NotFittedError, PredictorError
from predictors.peak_memory import MIN_NETWORKS, PartTable, PeakMemoryPredictor
from profilers.kernels import Kernel, Tensor
from profilers.measurement import KernelNode
from profilers.memory import PartBuffer, PartMemory, part_memory

KILO = 1024


def part(peak_bytes, *buffers):
    """Buffers as `(kilobytes, is_made_by_peak, is_used_after_peak)`."""
    return PartMemory(peak_bytes, tuple(PartBuffer((256 * k,), 4, *when) for k, *when in buffers))


def estimate(parts, *path):
    return PartTable(parts).estimate(np.array(path)[:, None]).tolist()


SMALL = part(10 * KILO, (10, True, True))
LARGE = part(50 * KILO, (50, True, True))
UNKNOWN = None


def test_the_peak_is_that_of_the_part_that_needs_most():
    assert estimate([SMALL, LARGE], 1, 2, 1) == [60 * KILO]  # beside the large one 10 are held
    assert estimate([SMALL, LARGE], 1, 2) == estimate([SMALL, LARGE], 2, 1) == [50 * KILO]
    assert estimate([SMALL, LARGE], 1, 1) == [10 * KILO]


def test_slots_without_a_part_and_networks_without_one_take_nothing():
    assert estimate([SMALL, LARGE], 0, 2, 0) == [50 * KILO]
    assert estimate([SMALL], 0, 0) == [0]


def test_a_buffer_that_is_in_use_at_the_peak_is_not_held_beside_it():
    both = part(60 * KILO, (10, True, True), (50, True, True))
    assert estimate([SMALL, both], 1, 2, 1) == [60 * KILO]


def test_of_two_buffers_of_a_shape_the_one_that_is_not_in_use_is_held():
    pair = part(20 * KILO, (10, True, True), (10, True, True))
    both = part(60 * KILO, (10, True, True), (50, True, True))
    assert estimate([pair, both], 1, 2, 1) == [70 * KILO]
    assert estimate([pair, both, SMALL], 1, 2, 3) == [60 * KILO]  # only one is needed again


def test_a_buffer_that_a_part_frees_before_its_peak_is_held_if_a_later_part_needs_it():
    frees = part(50 * KILO, (10, True, False), (50, True, True))
    takes = part(50 * KILO, (10, False, True), (50, True, True))
    assert estimate([frees, SMALL], 1, 2) == [60 * KILO]
    assert estimate([frees], 1) == [50 * KILO]
    assert estimate([SMALL, takes], 1, 2) == [60 * KILO]


def test_a_network_with_a_part_whose_memory_is_not_known_is_not_known():
    found = PartTable([SMALL, UNKNOWN]).estimate(np.array([[1, 1], [1, 2]]))
    assert found[0] == 10 * KILO and np.isnan(found[1])


def test_many_shapes_need_several_words_and_agree_with_counting_by_hand():
    rng = np.random.default_rng(0)
    sizes = np.arange(50, 150)  # of each, up to several buffers: more bits than one word has
    parts = []
    for _ in range(40):
        made, used = rng.integers(0, 2, (2, 6)).astype(bool)
        rows = list(zip(rng.choice(sizes, 6).tolist(), made, used | ~made, strict=True))
        live = sum(k for k, made, used in rows if made and used)
        parts.append(part((live + 1) * KILO, *rows))
    paths = rng.integers(0, 41, (5, 200))
    found = PartTable(parts).estimate(paths)
    assert found.tolist() == [by_hand(parts, path) for path in paths.T]


def by_hand(parts, path):
    """The largest of own peak and held buffers, by dictionaries."""

    def count(number, made=False, used=False):
        found = {}
        for b in parts[number - 1].buffers if number else ():
            if b.is_made_by_peak >= made and b.is_used_after_peak >= used:
                found[b.shape] = found.get(b.shape, 0) + 1
        return found

    largest = 0
    for i, number in enumerate(path):
        before = [count(n) for n in path[:i]] + [count(number, made=True)]
        after = [count(n) for n in path[i + 1 :]] + [count(number, used=True)]
        live = count(number, made=True, used=True)
        held = sum(
            4 * shape[0]
            * max(0, min(max(c.get(shape, 0) for c in side) for side in (before, after))
                  - live.get(shape, 0))
            for shape in {shape for c in before for shape in c}
        )  # fmt: skip
        largest = max(largest, held + (parts[number - 1].peak_bytes if number else 0))
    return largest


def test_a_part_counts_what_it_is_given_until_it_was_read():
    x, y = Tensor("float", (1, 8, 16, 16)), Tensor("float", (1, 16, 16, 16))
    nodes = [
        KernelNode("a", Kernel("Abs", (), (x,), (y,)), ("x",), ("y",)),
        KernelNode("b", Kernel("Abs", (), (y,), (y,)), ("y",), ("z",)),
    ]
    found = part_memory(nodes, {"x": x})
    assert found.peak_bytes == 2 * y.n_bytes  # the input was freed before the last kernel
    assert [b.shape for b in found.buffers] == [x.shape, y.shape, y.shape]
    assert [b.is_used_after_peak for b in found.buffers] == [False, True, True]
    assert part_memory(nodes[:1], {"x": x}).peak_bytes == x.n_bytes + y.n_bytes
    assert part_memory([], {}) == PartMemory(0, ())
    assert PartMemory.from_data(found.to_data()) == found


def test_a_part_with_a_kernel_whose_scratch_is_not_known_is_not_known():
    x = Tensor("float", (4,))
    loop = KernelNode("a", Kernel("Loop", (), (x,), (x,)), ("x",), ("y",))
    assert part_memory([loop], {"x": x}) is None


def networks(n, noise, seed=0):
    rng = np.random.default_rng(seed)
    estimated = np.exp(rng.uniform(8, 14, n))
    return estimated, 1.2 * estimated * rng.lognormal(0, noise, n)


def test_a_constant_factor_is_learned():
    predictor = PeakMemoryPredictor().fit(*networks(40, 0.0))
    estimated, measured = networks(20, 0.0, seed=1)
    found = predictor.predict(estimated)
    np.testing.assert_allclose(found.peak_memory_bytes, measured, rtol=0.01)
    assert (found.high_bytes <= 1.05 * measured).all()


def test_new_networks_lie_in_the_interval_about_as_often_as_it_says():
    covered = []
    for seed in range(20):
        estimated, measured = networks(150, 0.1, seed=seed)
        predictor = PeakMemoryPredictor(level=0.8).fit(estimated[:100], measured[:100])
        found = predictor.predict(estimated[100:])
        truth = measured[100:]
        covered += ((found.low_bytes <= truth) & (truth <= found.high_bytes)).tolist()
    assert 0.72 < np.mean(covered) < 0.9


def test_what_is_not_known_stays_not_known():
    predictor = PeakMemoryPredictor().fit(*networks(20, 0.1))
    found = predictor.predict(np.array([np.nan, 1e5]))
    for values in (found.low_bytes, found.peak_memory_bytes, found.high_bytes):
        assert np.isnan(values[0]) and values[1] > 0


def test_a_saved_predictor_predicts_the_same():
    predictor = PeakMemoryPredictor(level=0.7).fit(*networks(20, 0.1))
    again = PeakMemoryPredictor.from_data(*predictor.to_data())
    estimated, _ = networks(5, 0.1, seed=3)
    for name in ("low_bytes", "peak_memory_bytes", "high_bytes"):
        before, after = (getattr(p.predict(estimated), name) for p in (predictor, again))
        assert before.tolist() == after.tolist()
    assert again.level == 0.7


def test_too_few_networks_and_predicting_before_fit_are_refused():
    with pytest.raises(PredictorError, match="at least 8 different networks is needed, got 7"):
        PeakMemoryPredictor().fit(*networks(MIN_NETWORKS - 1, 0.1))
    with pytest.raises(NotFittedError):
        PeakMemoryPredictor().predict(np.ones(1))
    with pytest.raises(NotFittedError):
        PeakMemoryPredictor().to_data()
    with pytest.raises(ValueError, match="level must lie between 0 and 1, got level=1"):
        PeakMemoryPredictor(level=1)
