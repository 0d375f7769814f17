"""A small neural network in numpy that learns the value of actions; strategies import no torch."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hwnas.strategies.base import FloatArray

__all__ = ["QNetwork"]

DECAY_MEAN, DECAY_SQUARE, TINY = 0.9, 0.999, 1e-8  # Adam's


class QNetwork:
    """One hidden layer of rectified units: from states to the value of each action.

    Values are 0 at first, whatever the state.

    Args:
        n_inputs: Numbers that describe a state.
        n_actions: Values that it returns.
        rng: Draws the first weights.
        n_hidden: Units.
        learning_rate: Of Adam.

    Reference:
        Kingma and Ba, Adam, ICLR 2015.
    """

    def __init__(
        self,
        n_inputs: int,
        n_actions: int,
        rng: np.random.Generator,
        *,
        n_hidden: int = 64,
        learning_rate: float = 3e-3,
    ) -> None:
        self.learning_rate = learning_rate
        self._weights: list[FloatArray] = [
            rng.normal(0.0, math.sqrt(2.0 / max(n_inputs, 1)), (n_inputs, n_hidden)),
            np.zeros(n_hidden),
            np.zeros((n_hidden, n_actions)),
            np.zeros(n_actions),
        ]
        self._means = [np.zeros_like(weight) for weight in self._weights]
        self._squares = [np.zeros_like(weight) for weight in self._weights]
        self._n_steps = 0

    def values(self, states: FloatArray) -> FloatArray:
        """The value of each action, `(n, n_inputs)` to `(n, n_actions)`."""
        first, bias, second, last_bias = self._weights
        hidden = np.maximum(states @ first + bias, 0.0)
        return np.asarray(hidden @ second + last_bias)

    def learn(self, states: FloatArray, actions: NDArray[np.int64], targets: FloatArray) -> None:
        """One step of Adam towards `targets`, `(n,)`, by the mean squared error."""
        first, bias, second, last_bias = self._weights
        hidden = np.maximum(states @ first + bias, 0.0)
        rows = np.arange(len(states))
        values = hidden @ second + last_bias
        slope = np.zeros_like(values)
        slope[rows, actions] = (values[rows, actions] - targets) / len(states)
        hidden_slope = (slope @ second.T) * (hidden > 0)
        gradients = (
            states.T @ hidden_slope,
            hidden_slope.sum(axis=0),
            hidden.T @ slope,
            slope.sum(axis=0),
        )
        self._n_steps += 1
        for i, gradient in enumerate(gradients):
            self._means[i] += (1 - DECAY_MEAN) * (gradient - self._means[i])
            self._squares[i] += (1 - DECAY_SQUARE) * (gradient**2 - self._squares[i])
            mean = self._means[i] / (1 - DECAY_MEAN**self._n_steps)
            square = self._squares[i] / (1 - DECAY_SQUARE**self._n_steps)
            self._weights[i] -= self.learning_rate * mean / (np.sqrt(square) + TINY)

    def copy_weights(self, other: QNetwork) -> None:
        """Take over the weights of a network of the same size."""
        self._weights = [weight.copy() for weight in other._weights]
