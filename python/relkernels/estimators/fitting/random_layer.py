"""A wide random hidden layer, on whose features closed forms regress."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...maps.activations import Activation
from ...maps.mlp import MLP

# Units of the layer, fewer where its weights would exceed this number (tables of very many columns).
_WIDTH = 1024
_MOST_WEIGHTS = 1 << 25


def random_layer(X: Any, activation: str | Activation, rng: np.random.RandomState) -> MLP:
    """Return an MLP that computes the features of a random layer, for columns in units of their deviation.

    Pre-activations have about variance 1 and biases are normal, so that the kinks of the units spread over
    the data. The output layer is the identity.
    """
    n_columns = X.shape[1]
    width = max(64, min(_WIDTH, _MOST_WEIGHTS // max(n_columns, 1)))
    weight = (rng.standard_normal((n_columns, width)) / np.sqrt(n_columns)).astype(X.dtype)
    bias = rng.standard_normal(width).astype(X.dtype)
    return MLP([weight, np.eye(width, dtype=X.dtype)], [bias, np.zeros(width, X.dtype)], activation)
