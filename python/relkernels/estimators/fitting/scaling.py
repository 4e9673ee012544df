"""Columns in units of their standard deviation: a fit trains on them, its maps take the columns as given."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
from scipy import sparse

from ...maps.mlp import MLP


class Scaling(NamedTuple):
    """The mean and the scale of each column of a table.

    The scale is the standard deviation, or 1 for a column that is constant up to rounding. The columns of a
    sparse table are not changed: subtracting a mean would fill it.

    Attributes
    ----------
    mean, scale : ndarray of float64 of shape (n_columns,)
    """

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, table: Any, weight: np.ndarray | None = None) -> Self:
        """Return the scaling of a table whose row i counts as `weight[i]` rows."""
        if sparse.issparse(table):
            return cls.none(table.shape[1])
        table = np.ascontiguousarray(table)  # the bits of a mean depend on the order in memory
        # Divided by the largest entry first, so that squares neither overflow nor vanish.
        largest = np.abs(table).max(axis=0).astype(np.float64)
        largest[largest == 0] = 1.0
        unit = table / largest
        mean = np.average(unit, axis=0, weights=weight)
        deviation = np.sqrt(np.average(np.square(unit - mean), axis=0, weights=weight))
        constant = deviation <= 10 * np.finfo(table.dtype).eps
        return cls(mean * largest, np.where(constant, 1.0, deviation * largest))

    @classmethod
    def none(cls, n_columns: int) -> Self:
        """Return the scaling that changes nothing."""
        return cls(np.zeros(n_columns), np.ones(n_columns))

    def __call__(self, table: Any) -> Any:
        """Return the scaled columns."""
        if sparse.issparse(table) or not (self.mean.any() or (self.scale != 1).any()):
            return table
        return ((table - self.mean) / self.scale).astype(table.dtype, copy=False)

    def folded(self, mlp: MLP) -> MLP:
        """Return the map of the given columns that equals `mlp` of the scaled ones."""
        first = mlp.weights[0] / self.scale[:, None]
        return _with_first_layer(mlp, first, -(self.mean @ first))

    def unfolded(self, mlp: MLP) -> MLP:
        """Return the map of the scaled columns that equals `mlp` of the given ones: undoes `folded`."""
        return _with_first_layer(mlp, mlp.weights[0] * self.scale[:, None], self.mean @ mlp.weights[0])


def _with_first_layer(mlp: MLP, weight: np.ndarray, shift: np.ndarray) -> MLP:
    assert mlp.biases is not None
    weights = [weight.astype(mlp.dtype), *mlp.weights[1:]]
    biases = [(mlp.biases[0] + shift).astype(mlp.dtype), *mlp.biases[1:]]
    return MLP(weights, biases, mlp.activation, normalize=mlp.normalize)
