"""Import the two sibling packages and make sure that they are ours.

Their import names are generic: a folder of the same name where Python is started, or another
distribution, can shadow or overwrite them. Then the first sign should be a message that says so.
"""

from types import ModuleType

import profilers as profilers


def _check_ours(package: ModuleType) -> None:
    if getattr(package, "__distribution__", None) != "hwnas":
        where = getattr(package, "__file__", None) or list(package.__path__)
        raise ImportError(
            f"`import {package.__name__}` found {where}, which does not belong to hwnas. Start "
            f"Python elsewhere if it is a folder of yours; otherwise uninstall the distribution "
            f"that put it there and reinstall: pip install --force-reinstall --no-deps hwnas"
        )


_check_ours(profilers)
import predictors as predictors  # noqa: E402  (after `profilers`, which it imports)

_check_ours(predictors)
