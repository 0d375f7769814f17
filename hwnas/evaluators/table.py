"""Evaluate by looking up what somebody found out before: tabular benchmarks."""

from __future__ import annotations

from hwnas.bench.tables import SearchTable
from hwnas.errors import DataError
from hwnas.search import Evaluation
from hwnas.strategies.base import Trial


class TableEvaluator:
    """The error and the latency that a table has for a candidate.

    Attributes:
        table: As `read_search_table` reads it; its space is what is searched.

    Reference:
        Ying et al., NAS-Bench-101, ICML 2019; Dong and Yang, NAS-Bench-201, ICLR 2020.
    """

    def __init__(self, table: SearchTable) -> None:
        self.table = table

    def __call__(self, trial: Trial) -> Evaluation:
        """Look the candidate up.

        Raises:
            DataError: It is not in the table.
        """
        row = self.table.row(trial.genotype)
        if row is None:
            options = self.table.space.options(trial.genotype)
            raise DataError(f"the table {self.table.space.name!r} has no row with {options}")
        error, latency_ms = self.table.objectives(row)
        return Evaluation((error, latency_ms), {"val_accuracy": 1 - error})
