"""The parameters of one or two MLPs and further numbers as one vector, for the solvers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...gradients import MLPGradient
from ...maps.mlp import MLP


def _arrays(layers: MLP | MLPGradient) -> list[np.ndarray]:
    assert layers.biases is not None
    return [a for layer in zip(layers.weights, layers.biases, strict=True) for a in layer]


class Parameters:
    """Conversion of MLPs (with biases, of one dtype) and `numbers` to the vector `start` and back.

    Attributes
    ----------
    start : ndarray of shape (n_parameters,)
    is_weight : ndarray of bool
        True for the weights of an MLP, to which weight decay applies, and False for biases and numbers.
    normalize : bool
        Whether the features of the MLPs have unit length.
    """

    def __init__(self, maps: Sequence[MLP], numbers: Sequence[float] = ()) -> None:
        self.dtype = maps[0].dtype
        self.normalize = maps[0].normalize
        self._kinds = [(m.activation, m.normalize) for m in maps]
        self._shapes = [[a.shape for a in _arrays(m)] for m in maps]
        self._n_numbers = len(numbers)
        arrays = [a for m in maps for a in _arrays(m)]
        self.start = np.concatenate([*(a.ravel() for a in arrays), np.asarray(numbers, self.dtype)])
        self.is_weight = np.zeros(len(self.start), bool)
        at = 0
        for a in arrays:
            self.is_weight[at : at + a.size] = a.ndim == 2
            at += a.size

    def split(self, flat: np.ndarray) -> tuple[list[MLP], np.ndarray]:
        """Return the MLPs and the numbers of a vector."""
        flat = flat.astype(self.dtype, copy=False)
        maps, at = [], 0
        for (activation, normalize), shapes in zip(self._kinds, self._shapes, strict=True):
            parts = []
            for shape in shapes:
                size = int(np.prod(shape))
                parts.append(flat[at : at + size].reshape(shape))
                at += size
            maps.append(MLP(parts[0::2], parts[1::2], activation, normalize=normalize))
        return maps, flat[at:]

    def with_output(self, flat: np.ndarray, factor: float) -> np.ndarray:
        """Return the vector with all output layers multiplied by a factor."""
        if factor == 1:
            return flat
        flat, at = flat.copy(), 0
        for shapes in self._shapes:
            sizes = [int(np.prod(shape)) for shape in shapes]
            end = at + sum(sizes)
            flat[end - sum(sizes[-2:]) : end] *= factor
            at = end
        return flat

    def join(self, gradients: Sequence[MLPGradient], numbers: Sequence[float] = ()) -> np.ndarray:
        """Return gradients as a vector, in the order of the parameters."""
        parts = [a.ravel() for gradient in gradients for a in _arrays(gradient)]
        return np.concatenate([*parts, np.asarray(numbers, self.dtype)])
