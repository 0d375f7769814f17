"""Where the time of a measuring campaign went, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

ASKING, CHOOSING, EXPORTING = "asking for kernels", "choosing networks", "exporting networks"
NETWORKS, KERNELS, STORING = "measuring networks", "measuring kernels alone", "storing"


@dataclass
class CampaignReport:
    """Where a campaign's time went; filled as it goes, so that an interrupted one tells it too.

    Attributes:
        seconds: By stage; asking for kernels includes exporting the pieces of the space.
        n_measured: Networks measured now.
        n_known: Networks that were stored before, also by another process at the same time.
        n_failed: Networks that could not be measured, now or before.
        n_isolated: Kernels measured outside of any network.
        n_not_isolated: Kernels that cannot be measured so.
    """

    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(
            (ASKING, CHOOSING, EXPORTING, NETWORKS, KERNELS, STORING), 0.0
        )
    )
    n_measured: int = 0
    n_known: int = 0
    n_failed: int = 0
    n_isolated: int = 0
    n_not_isolated: int = 0

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start

    def describe(self) -> str:
        """One line for people.

        Example:
            >>> CampaignReport({"exporting networks": 3.2}, n_measured=12, n_known=3).describe()
            '12 networks measured, 3 known before; exporting networks 3 s'
        """
        counts = [f"{self.n_measured} networks measured"]
        counts += [f"{self.n_known} known before"] if self.n_known else []
        counts += [f"{self.n_failed} failed"] if self.n_failed else []
        counts += [f"{self.n_isolated} kernels measured alone"] if self.n_isolated else []
        counts += [f"{self.n_not_isolated} kernels cannot be"] if self.n_not_isolated else []
        stages = [f"{stage} {s:.0f} s" for stage, s in self.seconds.items() if s >= 0.5]
        return "; ".join([", ".join(counts), *([", ".join(stages)] if stages else [])])
