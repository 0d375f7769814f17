"""A few small neural networks that disagree where they have seen little: the model of BANANAS.

All networks of the ensemble are trained side by side, as one more axis of their arrays. They differ
in their first weights and in the examples that they are shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ensemble", "fit_ensemble"]

FloatArray = NDArray[np.float64]
N_HIDDEN = 32  # units of each of the two hidden layers
N_STEPS = 200
BATCH_SIZE = 32
LEARNING_RATE = 0.01
WEIGHT_DECAY = 1e-4
BETA_1, BETA_2, TINY = 0.9, 0.999, 1e-8  # of Adam
MIN_SCALE = 1e-6


@dataclass(frozen=True)
class Ensemble:
    """Networks that were trained on the same examples.

    Attributes:
        weights: Of each layer, `(n_networks, n_in, n_out)`.
        biases: Of each layer, `(n_networks, 1, n_out)`.
        mean: Of the targets, `(n_targets,)`; networks predict how many `scale`s above it.
        scale: Of the targets, `(n_targets,)`.
    """

    weights: tuple[FloatArray, ...]
    biases: tuple[FloatArray, ...]
    mean: FloatArray
    scale: FloatArray

    def predict(self, inputs: FloatArray) -> FloatArray:
        """What each network says, `(n, k)` to `(n_networks, n, n_targets)`."""
        outputs = _forward(inputs[None], self.weights, self.biases)[-1]
        return np.asarray(outputs * self.scale + self.mean)


def fit_ensemble(
    inputs: FloatArray, targets: FloatArray, *, n_networks: int, rng: np.random.Generator
) -> Ensemble:
    """Train the networks: two hidden layers, squared error, Adam with a falling rate.

    Args:
        inputs: `(n, k)`, each column of a scale around 1.
        targets: `(n, n_targets)`, in any unit.
        n_networks: Of the ensemble.
        rng: First weights, and the examples of each step.

    Reference:
        Lakshminarayanan et al., Simple and scalable predictive uncertainty estimation using deep
        ensembles, NeurIPS 2017. https://arxiv.org/abs/1612.01474
        Kingma and Ba, Adam, ICLR 2015. https://arxiv.org/abs/1412.6980
    """
    mean = targets.mean(axis=0)
    scale = np.maximum(targets.std(axis=0), MIN_SCALE)
    scaled = (targets - mean) / scale
    sizes = (inputs.shape[1], N_HIDDEN, N_HIDDEN, targets.shape[1])
    weights = [
        rng.normal(size=(n_networks, n_in, n_out)) * np.sqrt(2 / max(n_in, 1))
        for n_in, n_out in pairwise(sizes)
    ]
    biases = [np.zeros((n_networks, 1, n_out)) for n_out in sizes[1:]]
    parameters = [*weights, *biases]
    # Each network knows its own bootstrap sample only, or all would be sure of the same.
    known = rng.integers(len(inputs), size=(n_networks, len(inputs)))
    moments = [(np.zeros_like(values), np.zeros_like(values)) for values in parameters]
    for step in range(1, N_STEPS + 1):
        picks = rng.integers(len(inputs), size=(n_networks, min(BATCH_SIZE, len(inputs))))
        rows = np.take_along_axis(known, picks, axis=1)
        gradients = _gradients(inputs[rows], scaled[rows], weights, biases)
        rate = LEARNING_RATE * (1 - (step - 1) / N_STEPS)
        rate *= np.sqrt(1 - BETA_2**step) / (1 - BETA_1**step)
        for values, gradient, (first, second) in zip(parameters, gradients, moments, strict=True):
            first += (1 - BETA_1) * (gradient - first)
            second += (1 - BETA_2) * (gradient**2 - second)
            values -= rate * first / (np.sqrt(second) + TINY)
        for values in weights:
            values *= 1 - WEIGHT_DECAY
    return Ensemble(tuple(weights), tuple(biases), mean, scale)


def _forward(
    inputs: FloatArray, weights: tuple[FloatArray, ...], biases: tuple[FloatArray, ...]
) -> list[FloatArray]:
    """Inputs, then what comes out of each layer; the last one is linear."""
    layers = [inputs]
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        values = layers[-1] @ weight + bias
        layers.append(np.maximum(values, 0) if i < len(weights) - 1 else values)
    return layers


def _gradients(
    inputs: FloatArray, targets: FloatArray, weights: list[FloatArray], biases: list[FloatArray]
) -> list[FloatArray]:
    """Of half the mean squared error by the weights, then by the biases."""
    layers = _forward(inputs, tuple(weights), tuple(biases))
    upstream = (layers[-1] - targets) / inputs.shape[1]
    of_weights: list[FloatArray] = []
    of_biases: list[FloatArray] = []
    for i in reversed(range(len(weights))):
        of_weights.append(layers[i].swapaxes(1, 2) @ upstream)
        of_biases.append(upstream.sum(axis=1, keepdims=True))
        if i:
            upstream = (upstream @ weights[i].swapaxes(1, 2)) * (layers[i] > 0)
    return [*reversed(of_weights), *reversed(of_biases)]
