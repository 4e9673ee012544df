"""Starting points for fits to given relation values, from the spectrum of the relation.

Mercer: ``r(x, y) = sum_i lambda_i e_i(x) e_i(y)``, so ``phi_i = sqrt(lambda_i) e_i`` is the best map of
its width. Schmidt, if r is not symmetric: ``r(x, y) = sum_i sigma_i u_i(x) v_i(y)``, so
``phi_i = sqrt(sigma_i) u_i`` and ``psi_i = sqrt(sigma_i) v_i``. The output layer is set to the least-squares
fit of these functions by the random hidden features, from which the solver continues.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse

from ...maps.mlp import MLP

# Most objects that are decomposed: 2,048 take a fraction of a second.
_MOST = 2048
# Weight of the ridge relative to the mean square of the hidden features.
_RIDGE = 1e-6


def mercer_start(
    mlp: MLP,
    X: np.ndarray,
    targets: Callable[[np.ndarray], np.ndarray],
    rng: np.random.RandomState,
) -> MLP:
    """Return `mlp` with random hidden biases and an output layer fitted to the eigenvectors."""
    from scipy.linalg import eigh

    rows = _sample(X.shape[0], rng)
    values = np.asarray(targets(rows), np.float64)
    wanted = min(mlp.widths[-1], len(rows))
    low = len(rows) - wanted
    spectrum, vectors = eigh((values + values.T) / 2, subset_by_index=[low, len(rows) - 1])
    return _fitted_output(mlp, X[rows], vectors * np.sqrt(np.maximum(spectrum, 0)), rng)


def schmidt_start(
    phi: MLP, psi: MLP, X: np.ndarray, Y: np.ndarray, values: np.ndarray, rng: np.random.RandomState
) -> tuple[MLP, MLP]:
    """Return both maps with random hidden biases and output layers fitted to the singular vectors."""
    from sklearn.utils.extmath import randomized_svd

    rows, columns = _sample(X.shape[0], rng), _sample(Y.shape[0], rng)
    block = values[np.ix_(rows, columns)].astype(np.float64)
    wanted = min(phi.widths[-1], len(rows), len(columns))
    left, spectrum, right = randomized_svd(block, wanted, random_state=rng)
    root = np.sqrt(spectrum)
    return (
        _fitted_output(phi, X[rows], left * root, rng),
        _fitted_output(psi, Y[columns], right.T * root, rng),
    )


def _sample(n: int, rng: np.random.RandomState) -> np.ndarray:
    return np.arange(n) if n <= _MOST else np.sort(rng.choice(n, _MOST, replace=False))


def _fitted_output(mlp: MLP, X: Any, functions: np.ndarray, rng: np.random.RandomState) -> MLP:
    """Return `mlp` with random hidden biases and the output layer that best fits these values."""
    from scipy.linalg import solve

    wanted = np.zeros((X.shape[0], mlp.widths[-1]))
    wanted[:, : functions.shape[1]] = functions
    assert mlp.biases is not None
    hidden_weights = list(mlp.weights[:-1])
    hidden_biases = [(0.5 * rng.standard_normal(b.shape)).astype(mlp.dtype) for b in mlp.biases[:-1]]
    if not hidden_weights:
        hidden = X.toarray() if sparse.issparse(X) else X
    else:
        width = mlp.widths[-2]
        reader = MLP(
            [*hidden_weights, np.eye(width, dtype=mlp.dtype)],
            [*hidden_biases, np.zeros(width, mlp.dtype)],
            mlp.activation,
        )
        hidden = reader(X)
    design = np.column_stack([hidden, np.ones(X.shape[0])]).astype(np.float64)
    gram = design.T @ design
    gram[np.diag_indices_from(gram)] += _RIDGE * np.trace(gram) / len(gram)
    output = solve(gram, design.T @ wanted, assume_a="pos")
    return MLP(
        [*hidden_weights, output[:-1].astype(mlp.dtype)],
        [*hidden_biases, output[-1].astype(mlp.dtype)],
        mlp.activation,
    )
