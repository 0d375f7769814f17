"""The report's sections about choices: which of them matter, and what the front has in common."""

from __future__ import annotations

from hwnas.report.data import RunData, number, percent
from hwnas.report.explanation import ChoiceEffect, OptionShare
from hwnas.report.html import Bar, bars, section, side_by_side
from hwnas.report.importance import Importances, importances_of

N_SHOWN = 12  # choices in one list: the others matter little
MIN_SHARED = 0.6  # of the members, that have an option which is said to be common
MIN_MORE = 0.15  # by which that is more than among random networks


def choices_sections(run: RunData) -> str:
    """Which choices matter, for each objective and for the front, and what its members share."""
    found = importances_of(run)
    parts = [
        "" if found is None else _accuracy_section(found.error),
        _latency_section(run, None if found is None else found.latency),
        "" if found is None else _near_front_section(found.front),
        common_section(run),
    ]
    shown = [part for part in parts if part]
    return "\n".join(side_by_side(shown[i : i + 2]) for i in range(0, len(shown), 2))


def common_section(run: RunData) -> str:
    """Options that most members have and random networks within the budget have not."""
    explanation = run.explanation
    if explanation is None or len(explanation.members) < 2:
        return ""
    n_members = len(explanation.members)
    shared = [
        (choice, option)
        for choice in explanation.choices
        for option in choice.options
        if _is_common(choice, option, n_members)
    ]
    shared.sort(key=lambda pair: (pair[1].random or 0.0) - (pair[1].front or 0.0))
    text = (
        f"Options that at least {MIN_SHARED:.0%} of the members have: the bar is their share of "
        f"the {n_members} members, the mark that of {explanation.n_feasible:,} random networks "
        f"within the budgets; both where the choice decides something."
    )
    if not shared:
        text = (
            f"No option is much more frequent among the {n_members} members than among "
            f"{explanation.n_feasible:,} random networks within the budgets."
        )
    rows = [
        Bar(
            f"{choice.name} = {option.option}",
            (option.front or 0.0,),
            f"{round((option.front or 0.0) * choice.n_front)} of {choice.n_front}",
            f"random {percent(option.random)}",
            mark=option.random,
        )
        for choice, option in shared[:N_SHOWN]
    ]
    return section("What the front has in common", f"<p>{text}</p>", bars(rows))


def _is_common(choice: ChoiceEffect, option: OptionShare, n_members: int) -> bool:
    if option.front is None or option.random is None or 2 * choice.n_front < n_members:
        return False
    return option.front >= MIN_SHARED and option.front - option.random >= MIN_MORE


def _accuracy_section(found: Importances) -> str:
    text = (
        f"Share of the variance of validation accuracy after short training that each choice "
        f"explains, over {found.n_trials} trials (functional ANOVA). {_chance_text(found)}"
    )
    return section("Which choices matter for accuracy", f"<p>{text}</p>", _importance_bars(found))


def _latency_section(run: RunData, found: Importances | None) -> str:
    """By the predictor where it was asked; else by the trials."""
    title = "Which choices matter for latency"
    explanation = run.explanation
    if explanation is None:
        if found is None:
            return ""
        text = (
            f"Share of the variance of predicted latency that each choice explains, over "
            f"{found.n_trials} trials (functional ANOVA). {_chance_text(found)}"
        )
        return section(title, f"<p>{text}</p>", _importance_bars(found))
    ranked = sorted(explanation.choices, key=lambda c: -max(c.alone, c.together or 0.0))
    rows = []
    for choice in ranked[:N_SHOWN]:
        more = max(0.0, (choice.together or 0.0) - choice.alone)
        factor = _factor(choice)
        said = "" if factor is None else f"{number(factor, digits=2)}× by option"
        rows.append(Bar(choice.name, (choice.alone, more), percent(choice.alone), said))
    text = (
        f"Share of the variance of latency, predicted for {explanation.n_random:,} random networks "
        f"of the space, on a logarithmic scale: what each choice explains alone, and, pale, "
        f"together with others. Beside it: from its fastest option to its slowest."
    )
    return section(title, f"<p>{text}</p>", bars(rows))


def _near_front_section(found: Importances) -> str:
    text = (
        f"How much each choice tells the best quarter of {found.n_trials} trials, by both "
        f"objectives, from the others (PED-ANOVA); shares of the sum."
    )
    return section(
        "Which choices decide who comes near the front", f"<p>{text}</p>", _importance_bars(found)
    )


def _importance_bars(found: Importances) -> str:
    if not any(found.shares.values()):
        return "<p>The trials do not differ in it.</p>"
    return bars(
        [
            Bar(name, (share,), percent(share), mark=found.by_chance,
                is_faint=found.by_chance is not None and share <= found.by_chance)
            for name, share in list(found.shares.items())[:N_SHOWN]
        ]
    )  # fmt: skip


def _chance_text(found: Importances) -> str:
    return (
        f"The mark is what a choice without any influence reaches by chance in so few trials, "
        f"{percent(found.by_chance)}."
    )


def _factor(choice: ChoiceEffect) -> float | None:
    known = [option.latency_ms for option in choice.options if option.latency_ms]
    return max(known) / min(known) if len(known) > 1 else None
