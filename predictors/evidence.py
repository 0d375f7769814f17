"""What was measured, as arrays: networks as counts of kernels, kernels in place, kernels alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from predictors.features import group, scaled_features, work
from profilers.kernels import Kernel
from profilers.measurement import NetworkMeasurement

if TYPE_CHECKING:
    from scipy.sparse import csr_array

FloatArray = NDArray[np.float64]
MIN_MS = 1e-6


@dataclass(frozen=True)
class Evidence:
    """Measurements of one target; kernels are distinct.

    Attributes:
        kernels: `n_kernels` of them.
        counts: How often each network runs each kernel, `(n_networks, n_kernels)`.
        latency_ms: Of the networks, end to end, `(n_networks,)`.
        profiled_ms: Sum of the kernels that the network's own profile shows, `(n_networks,)`.
        in_place_ms: Median of the kernel's measurements in networks, `(n_kernels,)`; nan: none.
        alone_ms: Of the kernel outside of any network, `(n_kernels,)`; nan: not measured so.
    """

    kernels: tuple[Kernel, ...]
    counts: csr_array
    latency_ms: FloatArray
    profiled_ms: FloatArray
    in_place_ms: FloatArray
    alone_ms: FloatArray

    @classmethod
    def of(
        cls, networks: Sequence[NetworkMeasurement], alone_ms: Mapping[Kernel, float] | None = None
    ) -> Evidence:
        """Gather measurements."""
        from scipy.sparse import csr_array  # slow to import, and needed to fit only

        alone = alone_ms or {}
        position: dict[str, int] = {}
        kernels: list[Kernel] = []
        rows, columns, ms = [], [], []
        for row, network in enumerate(networks):
            for run in network.kernels:
                at = position.setdefault(run.kernel.key, len(kernels))
                if at == len(kernels):
                    kernels.append(run.kernel)
                rows.append(row)
                columns.append(at)
                ms.append(run.latency_ms)
        for kernel in alone:
            if position.setdefault(kernel.key, len(kernels)) == len(kernels):
                kernels.append(kernel)
        n = len(kernels)
        counts = csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(networks), n))
        return cls(
            kernels=tuple(kernels),
            counts=counts,
            latency_ms=np.array([network.latency_ms for network in networks]),
            profiled_ms=np.array([network.kernel_sum_ms for network in networks]),
            in_place_ms=_medians(np.array(columns, np.int64), np.array(ms), n),
            alone_ms=np.maximum([alone.get(kernel, np.nan) for kernel in kernels], MIN_MS),
        )

    @cached_property
    def groups(self) -> NDArray[np.str_]:
        """Of each kernel, `(n_kernels,)`."""
        return np.array([group(kernel) for kernel in self.kernels])

    @cached_property
    def x(self) -> FloatArray:
        """Scaled features of the kernels, `(n_kernels, d)`."""
        return scaled_features(self.kernels)

    @cached_property
    def work(self) -> FloatArray:
        """Launch, MACs and bytes of the kernels, `(n_kernels, 3)`."""
        return work(self.kernels)

    @cached_property
    def around(self) -> csr_array:
        """Of each kernel, the networks that run it, in equal shares, `(n_kernels, n_networks)`."""
        present = (self.counts > 0).astype(np.float64)
        n_networks = np.maximum(np.asarray(present.sum(axis=0)).ravel(), 1.0)
        return present.multiply(1 / n_networks[None, :]).T.tocsr()

    @property
    def has_in_place(self) -> NDArray[np.bool_]:
        """Whether a network showed the kernel, `(n_kernels,)`."""
        return ~np.isnan(self.in_place_ms)

    @property
    def has_alone(self) -> NDArray[np.bool_]:
        """Whether the kernel was measured outside of any network, `(n_kernels,)`."""
        return ~np.isnan(self.alone_ms)


def _medians(columns: NDArray[np.int64], values: FloatArray, n: int) -> FloatArray:
    """Median of the values of each of `n` columns, nan where there is none."""
    order = np.argsort(columns, kind="stable")
    present, first = np.unique(columns[order], return_index=True)
    found = np.full(n, np.nan)
    found[present] = [np.median(part) for part in np.split(values[order], first[1:])]
    return np.asarray(np.maximum(found, MIN_MS), dtype=np.float64)
