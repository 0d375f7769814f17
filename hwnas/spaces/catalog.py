"""The ready-made spaces by name, and spaces of the user's own.

One line in `BY_KIND` makes a space available to `--space`. `FILE.py:FUNCTION` and `MODULE:FUNCTION`
name a function of the same form that is not in it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import is_dataclass

import numpy as np

from hwnas.data.kinds import EXAMPLES, Kind
from hwnas.errors import ConfigError, unknown_name
from hwnas.networks import counts
from hwnas.spaces.base import Block, SearchSpace, Shape, SpaceError
from hwnas.spaces.darts import darts_space
from hwnas.spaces.fbnet import fbnet_space, proxylessnas_space
from hwnas.spaces.gpt import gpt_space
from hwnas.spaces.mlp import mlp_space
from hwnas.spaces.mobilenet import mobile_space
from hwnas.spaces.nasbench201 import nasbench201_space
from hwnas.spaces.once_for_all import ofa_mobilenet_v3_space
from hwnas.spaces.recurrent import recurrent_space
from hwnas.spaces.regnet import regnet_space
from hwnas.spaces.resnet import resnet_space
from hwnas.spaces.text_transformer import text_transformer_space
from hwnas.spaces.vgg import vgg_space
from hwnas.spaces.vision_transformer import vit_space
from hwnas.spaces.wavenet import wavenet_space
from hwnas.user_code import is_reference, load_function, user_errors

__all__ = ["SPACES", "describe_spaces", "make_space"]

# From the shape of one example, without the batch, and the number of classes; a space of token ids
# also takes the size of their vocabulary, as `vocabulary`.
Factory = Callable[..., SearchSpace]

BY_KIND: dict[Kind, dict[str, Factory]] = {
    "image": {
        "mobile": mobile_space,
        "ofa_mobilenet_v3": ofa_mobilenet_v3_space,
        "proxylessnas": proxylessnas_space,
        "fbnet": fbnet_space,
        "resnet": resnet_space,
        "regnet": regnet_space,
        "vgg": vgg_space,
        "nasbench201": nasbench201_space,
        "darts": darts_space,
        "vit": vit_space,
    },
    "signal": {"wavenet": wavenet_space, "recurrent": recurrent_space},
    "tokens": {"text_transformer": text_transformer_space, "gpt": gpt_space},
    "table": {"mlp": mlp_space},
}
SPACES = {name: factory for spaces in BY_KIND.values() for name, factory in spaces.items()}
_KIND_OF_SHAPE: dict[int, Kind] = {3: "image", 2: "signal", 1: "table"}  # of numbers
OWN = ("FILE.py:FUNCTION", "MODULE:FUNCTION")


def make_space(
    name: str, input_shape: Shape, n_classes: int, *, vocabulary: int | None = None
) -> SearchSpace:
    """The space of that name, for data of that shape.

    Args:
        name: A key of `SPACES`; or `path/to/file.py:function` or `module:function`, a function
            `(input_shape, n_classes) -> SearchSpace` that raises ValueError if data do not fit.
            If it has a parameter `vocabulary`, it is a space of token ids.
        input_shape: Of one example, without the batch.
        n_classes: Logits that the networks give.
        vocabulary: Token ids are in `[0, vocabulary)`; None: the data are no token ids.

    Raises:
        ConfigError: There is no such space, it cannot be used, or it does not fit the data.
    """
    if name in SPACES:
        _check_kind(name, input_shape, vocabulary)
        return _made(SPACES[name], name, input_shape, n_classes, vocabulary)
    if not is_reference(name):
        raise ConfigError(unknown_name("space", name, (*SPACES, *OWN)))
    factory = load_function(name, ConfigError)
    with user_errors(name, ConfigError):
        space = _made(factory, name, input_shape, n_classes, vocabulary)
        _check_own(name, space, n_classes)
        return space


def describe_spaces() -> dict[str, str]:
    """One line on each space of the catalog, by name."""
    docs = {name: inspect.getdoc(factory) or "" for name, factory in SPACES.items()}
    return {name: doc.partition("\n")[0].replace("`", "") for name, doc in docs.items()}


def _check_kind(name: str, input_shape: Shape, vocabulary: int | None) -> None:
    """Make sure that a space of the catalog is for such data.

    Raises:
        ConfigError: It is not; which ones are.
    """
    given = "tokens" if vocabulary is not None else _KIND_OF_SHAPE.get(len(input_shape))
    own = next((kind for kind, spaces in BY_KIND.items() if name in spaces), given)
    if given is not None and own != given:
        raise ConfigError(
            f"space {name!r} is for {EXAMPLES[own or given]}, but these data are "
            f"{EXAMPLES[given]}, for which there is {' and '.join(BY_KIND[given])}"
        )


def _made(
    factory: Factory, name: str, input_shape: Shape, n_classes: int, vocabulary: int | None
) -> SearchSpace:
    is_of_tokens = "vocabulary" in inspect.signature(factory).parameters
    if is_of_tokens != (vocabulary is not None):
        kinds = {True: "token ids", False: "numbers"}
        raise ConfigError(
            f"space {name!r} does not fit this data: it needs {kinds[is_of_tokens]}, but these are "
            f"{kinds[not is_of_tokens]}"
        )
    try:
        if is_of_tokens:
            return factory(input_shape, n_classes, vocabulary=vocabulary)
        return factory(input_shape, n_classes)
    except SpaceError:  # it says itself what is wrong
        raise
    except ValueError as error:
        raise ConfigError(f"space {name!r} does not fit this data: {error}") from None


def _check_own(name: str, space: object, n_classes: int) -> None:
    """Find now what would be wrong with a user's space later, in the middle of a search.

    Raises:
        ConfigError: It is no space, a slot gives what is no block, or networks give other outputs
            than one for each class.
        SpaceError: It has no valid genotype, or a block does not fit what it is given.
    """
    if not isinstance(space, SearchSpace):
        raise ConfigError(f"{name}: must return a SearchSpace, got {type(space).__name__}")
    for i, table in enumerate(space.slot_tables):
        for value in table.values:
            is_block = isinstance(value, Block) and is_dataclass(value)
            if value is not None and not is_block:
                raise ConfigError(
                    f"{name}: slot {i} of the space must return a frozen dataclass with "
                    f"build(in_shape), or None, got {value!r}"
                )
    _ = space.fingerprint, space.input_table
    last = np.array(space.n_options, dtype=np.int64) - 1
    corners = np.stack([np.zeros_like(last), last])
    drawn = space.sample(np.random.default_rng(0), 1)
    for genotype in np.concatenate([drawn, corners[space.is_valid(corners)]]):
        architecture = space.architecture(tuple(genotype.tolist()))
        architecture.to_json()
        shape = counts(architecture).out_shape
        if shape != (n_classes,):
            raise ConfigError(
                f"{name}: its networks must give one number for each of {n_classes} classes, but "
                f"one of them gives {shape} of an example; write the last layer for `n_classes`"
            )
