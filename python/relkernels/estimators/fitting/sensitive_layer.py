"""A random hidden layer whose units look along the directions in which fitted scores change.

A random layer weighs all columns alike. With M the mean over the rows of ``J J'``, J the derivative of the
scores by the columns, ``M^(1/2)`` stretches the columns that the scores depend on and shrinks the others, so
that the same random units follow the scores more closely (Radhakrishnan, Beaglehole, Pandit & Belkin 2024).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...maps.mlp import MLP

# Half the difference of pre-activations by which an activation is differentiated.
_STEP = 1e-2


def unit_slopes(layer: MLP, X: Any) -> np.ndarray:
    """Return the derivative of the activation at each unit, of shape (n, width), times a constant."""
    assert layer.biases is not None
    (first, output), (bias, rest) = layer.weights, layer.biases
    above, below = (MLP([first, output], [bias + s, rest], layer.activation)(X) for s in (_STEP, -_STEP))
    return above - below


def sensitive_layer(layer: MLP, slopes: np.ndarray, weight: np.ndarray, count: np.ndarray) -> MLP:
    """Return a random layer with its weights multiplied by the root of M.

    Parameters
    ----------
    layer : MLP
        A random layer, as of `random_layer`.
    slopes : ndarray of shape (n, width)
        `unit_slopes` of some rows.
    weight : ndarray of shape (width, n_scores)
        The scores are ``layer(X) @ weight`` and a constant.
    count : ndarray of shape (n,)
        Row i counts as `count[i]` rows.
    """
    first, output = layer.weights
    slopes = np.sqrt(count).astype(slopes.dtype)[:, None] * slopes
    # A row with the slopes s of its units has J = first @ diag(s) @ weight.
    scatter = first @ ((slopes.T @ slopes) * (weight @ weight.T)) @ first.T
    eigenvalues, vectors = np.linalg.eigh(scatter)
    eigenvalues = np.maximum(eigenvalues, 0)
    if not eigenvalues.any():  # constant scores
        return layer
    root = (vectors * np.sqrt(eigenvalues * (len(first) / eigenvalues.sum()))) @ vectors.T
    return MLP([(root @ first).astype(first.dtype), output], layer.biases, layer.activation)
