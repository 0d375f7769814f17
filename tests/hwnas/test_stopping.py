import pytest

from hwnas.stopping import Stall
from hwnas.strategies import Trial


def n_until_stalled(stall, points, share=1.0):
    """How many trials it takes; None if it is not stalled after the last one."""
    for number, point in enumerate(points):
        failure = "it fails" if point is None else None
        stall.tell(Trial(number, (number,), point, failure, share))
        if stall.is_stalled:
            return number + 1
    return None


def test_trials_that_gain_nothing_stop_it_after_twice_the_patience():
    # Five fix the reference point, five more gain nothing.
    assert n_until_stalled(Stall(5), [(0.5, 1.0)] * 20) == 10
    assert n_until_stalled(Stall(5), [None] * 20) == 10


def test_a_gain_starts_the_count_again():
    points = [(0.5, 1.0)] * 8 + [(0.4, 1.0)] + [(0.5, 1.0)] * 20
    assert n_until_stalled(Stall(5), points) == 9 + 5


def test_small_gains_count_together():
    # The reference is (0.55, 1.1); each trial adds 0.4 % of the first volume, 0.05 * 0.1.
    points = [(0.5, 1.0)] * 5 + [(0.5 - 0.0002 * i, 1.0) for i in range(1, 30)]
    assert n_until_stalled(Stall(5, min_gain=0.01), points) is None
    assert n_until_stalled(Stall(5, min_gain=0.05), points) == 10


def test_what_is_worse_than_the_first_trials_gains_nothing():
    worse = [(0.4, 1.2 + 0.1 * i) for i in range(20)]  # slower than 1.1 times the slowest
    assert n_until_stalled(Stall(5), [(0.5, 1.0)] * 5 + worse) == 10


def test_a_share_of_the_training_counts_as_that_share_and_gains_nothing():
    better_each_time = [(0.5 - 0.01 * i, 1.0) for i in range(40)]
    assert n_until_stalled(Stall(5), better_each_time) is None
    assert n_until_stalled(Stall(5), better_each_time, share=0.5) == 20
    stall = Stall(1)  # of thirds three are one, although they add up to it only nearly
    assert n_until_stalled(stall, better_each_time, share=1 / 3) == 6


@pytest.mark.parametrize("sizes", [{"patience": 0}, {"patience": 3, "min_gain": -0.1}])
def test_sizes_that_make_no_sense_are_refused(sizes):
    with pytest.raises(ValueError, match="patience must be > 0"):
        Stall(**sizes)
