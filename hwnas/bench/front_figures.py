"""Searches of the front bench in numbers: who held, what stayed unused, parity, INT8 twins."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hwnas.delivery.forms import DROPS, INT8, MAX_DROP, NOT_FASTER, NOT_MEASURED, OK, OVER_BUDGET
from hwnas.export import PARITY_ATOL
from hwnas.number_text import as_number, number
from hwnas.report.data import RunData

__all__ = [
    "Member",
    "SearchFound",
    "Twin",
    "about_models",
    "error_text",
    "points",
    "search_row",
    "summary",
    "twins_of",
]

NOT_MADE = "could not be made"
# By name in the record: what a verdict says then.
REASONS = {
    "accuracy drop": DROPS,
    "not faster": NOT_FASTER,
    "over the budget": OVER_BUDGET,
    "not measured": NOT_MEASURED,
}


@dataclass(frozen=True)
class Member:
    """A delivered network: what was said of it, and what is measured now.

    Attributes:
        name: Of the network.
        latency_ms: Measured by the search.
        again_ms: Measured later.
        is_within: Whether it was within the budget later.
        parity: Largest difference of its model's logits from PyTorch's; None: not known.
    """

    name: str
    latency_ms: float
    again_ms: float
    is_within: bool
    parity: float | None


@dataclass(frozen=True)
class Twin:
    """The INT8 form of a delivered network.

    Attributes:
        is_made: Whether there is a file.
        verdict: `ok`, or what speaks against it.
        drop: Validation accuracy that it loses; None: not known.
        test_drop: Test accuracy that it loses, likewise.
        latency_ratio: Its latency over that of fp32 in the same rounds; None: not measured.
    """

    is_made: bool
    verdict: str
    drop: float | None
    test_drop: float | None
    latency_ratio: float | None

    @property
    def is_dropped(self) -> bool:
        """Whether it loses too much accuracy, by the figures, whatever the verdict says."""
        return any(drop is not None and drop > MAX_DROP for drop in (self.drop, self.test_drop))

    @property
    def reasons(self) -> list[str]:
        """Why it is flagged; empty: it is not."""
        if not self.is_made:
            return [NOT_MADE]
        return [name for name, text in REASONS.items() if text in self.verdict]


@dataclass(frozen=True)
class SearchFound:
    """What one search delivered, and how it holds.

    Attributes:
        percentile: Of the space's latency: its budget.
        seed: Of the search.
        limit_ms: The budget.
        n_trained: Networks of the search that were trained to the end.
        n_over: Those of them that were over the budget.
        members: Of its front.
        twins: INT8 forms of the members, also those that could not be made.
    """

    percentile: float
    seed: int
    limit_ms: float
    n_trained: int
    n_over: int
    members: Sequence[Member]
    twins: Sequence[Twin]

    @property
    def nearest(self) -> Member | None:
        """The member nearest to the budget: the slowest, as measured again."""
        return max(self.members, key=lambda member: member.again_ms, default=None)

    @property
    def nearest_slack(self) -> float:
        """Share of the budget that the nearest member leaves unused."""
        return 1 - self.nearest.again_ms / self.limit_ms if self.nearest else 1.0

    @property
    def changes(self) -> list[float]:
        """By how much members were slower later, as shares."""
        return [member.again_ms / member.latency_ms - 1 for member in self.members]


def twins_of(run: RunData) -> list[Twin]:
    """The INT8 forms of a run's front, as its files tell of them."""
    forms = run.forms[run.forms["form"] == INT8]
    both = forms.merge(run.front, on="name", suffixes=("", "_fp32"))
    columns = (
        both["onnx"] != "",
        both["verdict"],
        both["val_accuracy_fp32"] - both["val_accuracy"],
        both["test_accuracy_fp32"] - both["test_accuracy"],
        both["latency_ms"] / both["fp32_latency_ms"],
    )
    return [
        Twin(bool(is_made), str(verdict), *map(as_number, figures))
        for is_made, verdict, *figures in zip(*columns, strict=True)
    ]


def search_row(search: SearchFound) -> dict[str, Any]:
    """One search in numbers."""
    nearest = search.nearest
    return {
        "percentile": search.percentile,
        "seed": search.seed,
        "limit_ms": search.limit_ms,
        "n_members": len(search.members),
        "n_within": sum(member.is_within for member in search.members),
        "n_trained": search.n_trained,
        "n_over": search.n_over,
        "nearest": nearest.name if nearest else None,
        "nearest_slack": search.nearest_slack,
        "changes": search.changes,
        **_parity(search.members),
        "int8": _int8(search.twins),
    }


def summary(searches: Sequence[SearchFound]) -> dict[str, Any]:
    """Several searches in numbers, also how the second measuring differs from the first."""
    members = [member for search in searches for member in search.members]
    n_within = sum(member.is_within for member in members)
    changes = [abs(change) for search in searches for change in search.changes]
    slacks = [search.nearest_slack for search in searches]
    return {
        "n_searches": len(searches),
        "n_without_front": sum(not search.members for search in searches),
        "n_members": len(members),
        "n_within": n_within,
        "within_share": n_within / max(1, len(members)),
        "mean_nearest_slack": statistics.fmean(slacks),
        "largest_nearest_slack": max(slacks),
        "median_change": statistics.median(changes) if changes else None,
        "largest_change": max(changes, default=None),
        **_parity(members),
        "int8": _int8([twin for search in searches for twin in search.twins]),
    }


def about_models(found: Mapping[str, Any]) -> list[str]:
    """What a summary says of parity and of INT8 forms, a sentence each."""
    lines = [
        f"{found['n_in_parity']} of {found['n_members']} models compute what PyTorch does to "
        f"{PARITY_ATOL:g}; the largest difference is {error_text(found['largest_parity_error'])}"
    ]
    int8 = found["int8"]
    if int8["n_twins"]:
        unflagged = f" ({n} of them unflagged)" if (n := int8["n_dropped_unflagged"]) else ""
        lines += [
            f"INT8: {int8['n_dropped']} of {int8['n_twins']} lose over {points(MAX_DROP)} points "
            f"of accuracy{unflagged}; on validation they lose {points(int8['mean_drop'])} in "
            f"the mean and {points(int8['largest_drop'])} at most, on test "
            f"{points(int8['mean_test_drop'])} and {points(int8['largest_test_drop'])}",
            f"INT8: {int8['n_measured']} were measured; they take "
            f"{number(int8['median_latency_ratio'])} times what fp32 does in the median",
        ]
    if int8["n_flagged"]:
        reasons = (f"{n} {reason}" for reason, n in int8["flagged"].items() if n)
        lines.append(f"INT8: {int8['n_flagged']} are flagged: {', '.join(reasons)}")
    return lines


def points(share: float | None) -> str:
    """A share of examples in points, which are hundredths."""
    return "–" if share is None else f"{100 * share:.1f}"


def error_text(error: float | None) -> str:
    """A difference of logits, in a few characters."""
    return "–" if error is None else f"{error:.1e}"


def _parity(members: Sequence[Member]) -> dict[str, Any]:
    """How closely the models compute what PyTorch does."""
    found = [member.parity for member in members if member.parity is not None]
    return {
        "n_in_parity": sum(error <= PARITY_ATOL for error in found),
        "largest_parity_error": max(found, default=None),
    }


def _int8(twins: Sequence[Twin]) -> dict[str, Any]:
    """What quantizing costs and gains; drops and ratios are of the twins that could be made."""
    made = [twin for twin in twins if twin.is_made]
    drops = [twin.drop for twin in made if twin.drop is not None]
    test_drops = [twin.test_drop for twin in made if twin.test_drop is not None]
    ratios = [twin.latency_ratio for twin in made if twin.latency_ratio is not None]
    dropped = [twin for twin in made if twin.is_dropped]
    return {
        "n_twins": len(made),
        "n_dropped": len(dropped),
        "dropped_share": len(dropped) / max(1, len(made)),
        "n_dropped_unflagged": sum(DROPS not in twin.verdict for twin in dropped),
        "mean_drop": statistics.fmean(drops) if drops else None,
        "largest_drop": max(drops, default=None),
        "mean_test_drop": statistics.fmean(test_drops) if test_drops else None,
        "largest_test_drop": max(test_drops, default=None),
        "n_measured": len(ratios),
        "median_latency_ratio": statistics.median(ratios) if ratios else None,
        "n_flagged": sum(twin.verdict != OK for twin in twins),
        "flagged": {
            reason: sum(reason in twin.reasons for twin in twins) for reason in (*REASONS, NOT_MADE)
        },
    }
