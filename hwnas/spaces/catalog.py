"""The ready-made spaces by name. One line here makes a space available to `--space`."""

from collections.abc import Callable

from hwnas.errors import ConfigError, unknown_name
from hwnas.spaces.base import SearchSpace, Shape
from hwnas.spaces.mobilenet import mobile_space

# name -> function of the data's (channels, height, width) and number of classes
SPACES: dict[str, Callable[[Shape, int], SearchSpace]] = {"mobile": mobile_space}


def make_space(name: str, input_shape: Shape, n_classes: int) -> SearchSpace:
    """The space of that name, for data of that shape.

    Raises:
        ConfigError: There is no such space, or it does not fit the data.
    """
    if name not in SPACES:
        raise ConfigError(unknown_name("space", name, SPACES))
    try:
        return SPACES[name](input_shape, n_classes)
    except ValueError as error:
        raise ConfigError(f"space {name!r} does not fit this data: {error}") from None
