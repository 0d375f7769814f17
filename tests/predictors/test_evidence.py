from dataclasses import replace

import numpy as np
import pytest

from predictors.evidence import MIN_MS, Evidence


@pytest.fixture(scope="module")
def kernels(make_conv, make_elementwise):
    return make_conv(8, 16, 7), make_elementwise(8, 7), make_conv(8, 16, 7, kernel_size=3)


def test_networks_are_counts_of_their_kernels(kernels, measure):
    conv, add, spatial = kernels
    evidence = Evidence.of(measure([[conv, add, conv], [add], [add, spatial]], b=0.0, c=1.0))
    assert evidence.kernels == (conv, add, spatial)
    assert evidence.counts.toarray().tolist() == [[2, 1, 0], [0, 1, 0], [0, 1, 1]]
    assert evidence.latency_ms.shape == (3,)
    assert evidence.groups.tolist() == ["Conv/pointwise", "Add", "Conv/spatial"]
    assert len(evidence.x) == len(evidence.work) == 3


def test_a_kernel_in_place_is_the_median_of_all_its_measurements(kernels, measure):
    conv, add, _ = kernels
    ms = {conv: iter([1.0, 2.0, 50.0, 3.0]), add: iter([7.0])}
    measured = [
        replace(m, kernels=tuple(replace(r, latency_ms=next(ms[r.kernel])) for r in m.kernels))
        for m in measure([[conv, add, conv], [conv, conv]])
    ]
    assert Evidence.of(measured).in_place_ms.tolist() == [2.5, 7.0]


def test_kernels_alone_come_after_those_of_networks(kernels, measure):
    conv, add, spatial = kernels
    evidence = Evidence.of(measure([[conv, add]]), {add: 0.5, spatial: 0.25})
    assert evidence.kernels == (conv, add, spatial)
    assert evidence.counts.toarray().tolist() == [[1, 1, 0]]
    np.testing.assert_array_equal(evidence.alone_ms, [np.nan, 0.5, 0.25])
    assert evidence.has_in_place.tolist() == [True, True, False]
    assert evidence.has_alone.tolist() == [False, True, True]


def test_what_a_clock_could_not_see_is_longer_than_nothing(kernels, measure):
    conv, add, _ = kernels
    evidence = Evidence.of(measure([[conv]], ms_of=lambda _: 0.0), {add: 0.0})
    assert evidence.in_place_ms[0] == MIN_MS
    assert evidence.alone_ms[1] == MIN_MS


def test_a_network_without_kernels_is_a_row_of_zeros(kernels, measure):
    evidence = Evidence.of(measure([[], [kernels[0]]]))
    assert evidence.counts.toarray().tolist() == [[0], [1]]
