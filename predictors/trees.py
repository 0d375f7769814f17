"""Trees as plain arrays: fitted with scikit-learn, kept and evaluated without it.

So a predictor's file is data, not code, and gives the same answers beside any scikit-learn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
_LEAF = -1


@dataclass(frozen=True)
class TreeEnsemble:
    """The mean of regression trees.

    All nodes of all trees stand in the same arrays of length m; a leaf has `left == -1`.

    Attributes:
        roots: Position of each tree's root, `(n_trees,)`.
        left: Next node where `x[feature] <= threshold`, `(m,)`.
        right: Next node elsewhere, `(m,)`.
        feature: Column that the node looks at, `(m,)`.
        threshold: `(m,)`.
        value: What a leaf answers, `(m,)`.
    """

    roots: NDArray[np.int64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    feature: NDArray[np.int64]
    threshold: FloatArray
    value: FloatArray

    def __post_init__(self) -> None:
        if not self._is_sound():
            raise ValueError("the arrays do not describe trees")

    def _is_sound(self) -> bool:
        names = ("left", "right", "feature", "threshold", "value")
        if self.left.ndim != 1 or len({getattr(self, name).shape for name in names}) != 1:
            return False
        m = len(self.left)
        if self.roots.ndim != 1 or not len(self.roots):
            return False
        # Children stand behind their parents, so that walking down always ends.
        inner = self.left != _LEAF
        here = np.arange(m)[inner]
        return bool(
            ((self.roots >= 0) & (self.roots < m)).all()
            and (self.feature >= 0).all()
            and all(
                ((child[inner] > here) & (child[inner] < m)).all()
                for child in (self.left, self.right)
            )
        )

    @classmethod
    def fit(
        cls,
        x: FloatArray,
        y: FloatArray,
        *,
        n_trees: int,
        min_leaf: int,
        seed: int,
    ) -> TreeEnsemble:
        """Fit extremely randomised trees to `x` `(n, d)` and `y` `(n,)`.

        Reference:
            Geurts, Ernst, Wehenkel, Extremely randomized trees, Machine Learning 63, 2006.
        """
        from sklearn.ensemble import ExtraTreesRegressor

        forest = ExtraTreesRegressor(n_trees, min_samples_leaf=min_leaf, random_state=seed)
        forest.fit(x, y)
        parts: dict[str, list[NDArray[Any]]] = {name: [] for name in cls.__dataclass_fields__}
        offset = 0
        for estimator in forest.estimators_:
            tree = estimator.tree_
            parts["roots"].append(np.array([offset]))
            for name, child in (("left", tree.children_left), ("right", tree.children_right)):
                parts[name].append(np.where(child < 0, _LEAF, child + offset))
            parts["feature"].append(np.maximum(tree.feature, 0))
            parts["threshold"].append(tree.threshold)
            parts["value"].append(tree.value.reshape(-1))
            offset += tree.node_count
        return cls.from_arrays({name: np.concatenate(part) for name, part in parts.items()})

    def predict(self, x: FloatArray) -> FloatArray:
        """Mean answer of the trees for each row of `x` `(n, d)`, `(n,)`."""
        # scikit-learn compares in single precision; so must we, to give the same answers.
        x = x.astype(np.float32)
        node = np.repeat(self.roots[:, None], len(x), axis=1)  # (n_trees, n)
        rows = np.broadcast_to(np.arange(len(x)), node.shape)
        while True:
            inner = self.left[node] != _LEAF
            if not inner.any():
                return np.asarray(self.value[node].mean(axis=0), dtype=np.float64)
            at = node[inner]
            goes_left = x[rows[inner], self.feature[at]] <= self.threshold[at]
            node[inner] = np.where(goes_left, self.left[at], self.right[at])

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> TreeEnsemble:
        """Rebuild from `to_arrays`.

        Raises:
            KeyError, ValueError: The arrays do not describe trees.
        """

        def integers(name: str) -> NDArray[np.int64]:
            return np.asarray(arrays[name], np.int64)

        return cls(
            roots=integers("roots"),
            left=integers("left"),
            right=integers("right"),
            feature=integers("feature"),
            threshold=np.asarray(arrays["threshold"], np.float64),
            value=np.asarray(arrays["value"], np.float64),
        )
