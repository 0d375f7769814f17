"""Networks drawn at random from all that networks use, to learn a target's kernels with.

What runs is not the operators that a model names but the kernels that a runtime makes of them, and
how fast one is depends on what is around it. So kernels are surveyed where they occur: in whole
networks of random groups of operators (`convolutions.py`, `sequences.py`, `domains.py`), as
exporters write them (`operators.py`), with sizes spread evenly on a logarithmic scale.
"""

from __future__ import annotations

import numpy as np

from profilers.onnx_models import OnnxModel, make_model
from profilers.survey.domains import DOMAINS
from profilers.survey.graph import MIN_WIDTH, Graph, Limits, NoRoomError, Style
from profilers.survey.operators import COMMON

DOMAIN_SHARES = {"image": 0.52, "signal": 0.18, "sequence": 0.3}
TINY_SHARE = 0.33
N_GROUPS = (10, 40)
TRIES_EACH = 4  # groups that do not fit are drawn again
MACS, TINY_MACS = (2e7, 1.5e9), (1e5, 5e6)  # of a model at most, log-uniform
ELEMENTS, TINY_ELEMENTS = 2e7, 3e5  # of all its tensors together, 80 MB
WIDTH, TINY_WIDTH = (96, 1024), (8, 64)  # the most channels, log-uniform
NARROW = 3  # times as many as the fewest, or more
# Where weights exceed the caches, reading them is what takes time: networks of people have 10 to
# 100 MB of them. A tenth of those drawn have more than 18, a quarter more than 5.
WEIGHTS = 1.6e7
# Classifiers of the older networks: their time is that of reading the weights.
HEAVY_SHARE, HEAVY_WEIGHTS = 0.05, 3.2e7
ALIGNED_SHARE = 0.5  # of networks all widths of which are multiples of eight
# Real networks repeat a few kinds of blocks: their code and tables stay in the caches. Of 0 kinds:
# any. And how often a block is repeated at once.
N_KINDS, REPEATS = (0, 1, 2, 2, 3, 4, 6), (1, 1, 1, 2, 3, 4)
USUAL_SHARE = 0.85
OPSETS = (17, 17, 20)


def survey_model(seed: int, *, batch: int = 1) -> OnnxModel:
    """Draw a network on images, signals or sequences; a third of them are tiny.

    Args:
        seed: The same gives the same network and weights.
        batch: Examples in one run; the cost of a run stays within the same bounds.

    Example:
        >>> survey_model(3).digest == survey_model(3).digest != survey_model(4).digest
        True
    """
    # A draw whose beginning or end does not fit is left for the next one of the same seed.
    for attempt in range(100):
        try:
            return _draw(np.random.default_rng([seed, attempt]), f"survey-{seed}", batch)
        except NoRoomError:
            continue
    raise AssertionError(f"no network of {seed=} fits into its limits")


def _draw(rng: np.random.Generator, name: str, batch: int) -> OnnxModel:
    domain = DOMAINS[str(rng.choice(list(DOMAIN_SHARES), p=list(DOMAIN_SHARES.values())))]
    is_tiny, is_heavy = rng.random() < TINY_SHARE, rng.random() < HEAVY_SHARE
    wide = _log_uniform(rng, *(TINY_WIDTH if is_tiny else WIDTH))
    limits = Limits(
        macs=_log_uniform(rng, *(TINY_MACS if is_tiny else MACS)),
        elements=TINY_ELEMENTS if is_tiny else ELEMENTS,
        weights=HEAVY_WEIGHTS if is_heavy else WEIGHTS,
        narrow=round(
            _log_uniform(rng, MIN_WIDTH * (1 if is_tiny else 3), max(12.0, wide / NARROW))
        ),
        wide=round(wide),
    )
    style = Style(
        activation=int(rng.integers(len(COMMON))),
        multiples_share=1.0 if rng.random() < ALIGNED_SHARE else rng.random(),
        norm_share=rng.random() if rng.random() < 0.5 else 0.0,
    )
    g = Graph(rng, limits, style, opset=int(rng.choice(OPSETS)), batch=batch)
    x = domain.begin(g, is_tiny)
    n_groups, n_done = int(rng.integers(N_GROUPS[0], N_GROUPS[1] + 1)), 0
    kinds = [g.pick(domain.groups) for _ in range(int(rng.choice(N_KINDS)))]
    for _ in range(TRIES_EACH * n_groups):
        is_usual = bool(kinds) and g.chance(USUAL_SHARE)
        group, drawn = g.pick(kinds if is_usual else domain.groups), rng.bit_generator.state
        for _ in range(int(rng.choice(REPEATS))):
            mark = g.mark()
            rng.bit_generator.state = drawn  # the same again, as far as it fits
            try:
                x = group(g, x)
            except NoRoomError:
                g.undo(mark)
                break
            n_done += 1
        if n_done >= n_groups:
            break
    return make_model(g.proto(domain.end(g, x)), name=name)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
