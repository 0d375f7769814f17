"""Genotypes as JSON that people can read and write: `{"choice": option}`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from hwnas.errors import unknown_name
from hwnas.spaces.choices import BoolArray, Choice, Genotype, Option, SpaceError

__all__ = ["check_complete", "read", "written"]


def written(options: Mapping[str, Option], is_active: Sequence[bool] | BoolArray) -> str:
    """The options of the active choices by name."""
    pairs = zip(options.items(), is_active, strict=True)
    return json.dumps({name: option for (name, option), active in pairs if active})


def read(text: str, choices: tuple[Choice, ...]) -> tuple[Genotype, BoolArray]:
    """Option indices, 0 where a choice is missing; and which are missing, `(n_choices,)`.

    Raises:
        SpaceError: It is no JSON object, or names a choice or an option that does not exist.
    """
    expected = 'an object such as {"depth": 2, "width": 16}'
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpaceError(f"a genotype must be JSON, {expected}: {error}") from None
    if not isinstance(given, dict):
        raise SpaceError(f"a genotype must be {expected}, got {text.strip()[:40]}")
    known = {choice.name: choice for choice in choices}
    indices: dict[str, int] = {}
    for name, option in given.items():
        if name not in known:
            raise SpaceError(unknown_name("choice", name, known))
        index = known[name].index(option)
        if index is None:
            raise SpaceError(
                f"choice {name!r} must be one of {json.dumps(known[name].options)}, "
                f"got {json.dumps(option)}"
            )
        indices[name] = index
    genotype = tuple(indices.get(name, 0) for name in known)
    return genotype, np.array([name not in indices for name in known], dtype=bool)


def check_complete(choices: tuple[Choice, ...], is_missed: BoolArray) -> None:
    """Make sure that no active choice was left out.

    Args:
        choices: Of the space.
        is_missed: Which are active and missing, `(n_choices,)`.

    Raises:
        SpaceError: Some are; which, and their options.
    """
    missed = [choice for choice, missed in zip(choices, is_missed, strict=True) if missed]
    if missed:
        told = ", ".join(f"{c.name} (one of {json.dumps(c.options)})" for c in missed)
        raise SpaceError(f"a genotype must say what all active choices are; missing: {told}")
