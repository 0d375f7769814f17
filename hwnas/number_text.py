"""Numbers as text for people."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def as_number(value: Any) -> float | None:
    """The value as a finite number, or None."""
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    try:
        return float(value) if is_number and math.isfinite(value) else None
    except OverflowError:  # an integer of hundreds of digits
        return None


def number(value: Any, unit: str = "", *, digits: int = 3) -> str:
    """A number with `digits` significant digits and no exponent; an en dash for none.

    Example:
        >>> number(0.21, "ms"), number(1234.5), number(float("nan"), "ms")
        ('0.210 ms', '1,234', '–')
    """
    if (plain := as_number(value)) is None:
        return "–"
    magnitude = math.floor(math.log10(abs(plain))) if plain else 0
    return f"{plain:,.{max(0, digits - 1 - magnitude)}f} {unit}".rstrip()


def percent(share: Any) -> str:
    """A share as percent with one decimal; an en dash for none."""
    return "–" if (plain := as_number(share)) is None else f"{100 * plain:.1f} %"
