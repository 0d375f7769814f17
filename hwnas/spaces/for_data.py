"""A space of the catalog for a data set, checked before anything is measured or trained."""

from __future__ import annotations

from hwnas.data import DataSet, Preprocessing
from hwnas.errors import HwnasError
from hwnas.spaces.base import SearchSpace
from hwnas.spaces.catalog import BY_KIND, make_space


def space_for(name: str, data: DataSet) -> SearchSpace:
    """The space of that name for networks that take the data's examples and give its classes.

    Raises:
        ConfigError: There is no such space, or it is for other data.
        DataError: Its networks take examples of another shape.
    """
    space = make_space(name, data.input_shape, data.n_classes, vocabulary=data.vocabulary)
    for shape in space.input_table.values:
        Preprocessing.of(data, shape)
    return space


def default_space(data: DataSet) -> str:
    """The first space of the catalog that is for such data.

    Raises:
        ConfigError, DataError: There is none; why the first one of that kind is not.
    """
    reasons: list[HwnasError] = []
    for name in BY_KIND[data.kind]:
        try:
            space_for(name, data)
        except HwnasError as error:
            reasons.append(error)
        else:
            return name
    raise reasons[0]
