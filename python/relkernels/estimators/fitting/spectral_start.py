"""Maps that fit given relation values, in closed form, from the spectrum of the relation.

Mercer: ``r(x, y) = sum_i lambda_i e_i(x) e_i(y)``, so ``phi_i = sqrt(lambda_i) e_i`` is the best map of
its width. Schmidt, if r is not symmetric: ``r(x, y) = sum_i sigma_i u_i(x) v_i(y)``, so
``phi_i = sqrt(sigma_i) u_i`` and ``psi_i = sqrt(sigma_i) v_i``.

These functions are known only at the points whose relation values are known. A layer of random features
extends them to all others: its output layer is fitted by ridge regression, with the penalty that predicts
left-out points best. Functions that the inputs cannot predict shrink towards constants. The solver continues
from these maps.

Columns of the inputs should have about unit variance: random directions see little of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse

from ...maps.mlp import MLP
from .least_squares import ridge

# Most points whose relation is decomposed: 2,048 take about a second.
_DECOMPOSED = 2048
# Most points to which the output layer is fitted.
_FITTED = 4096
# A kernel that is known as a function is evaluated on fresh points too if there are fewer rows than this.
_FRESH_BELOW = 1024
# By default there are enough features for this part of the variance of the relation, at most this number.
_ENOUGH, _MOST_FEATURES = 0.999, 64
# Eigenvalues below this fraction of the largest are rounding errors.
_ROUNDING = 1e-12


def mercer_start(
    mlp: MLP,
    X: Any,
    values: np.ndarray | Callable[[Any, Any], np.ndarray],
    rng: np.random.RandomState,
    arguments: Any = None,
    *,
    auto: bool = False,
) -> MLP:
    """Return `mlp` with new hidden biases and an output layer fitted to the leading eigenfunctions.

    Parameters
    ----------
    mlp : MLP
    X : ndarray or CSR matrix of shape (n, n_columns)
    values : ndarray of shape (n, n), or function
        A symmetric matrix for the rows of X, or a kernel: a function that returns the matrix of values
        between the rows of two arrays.
    arguments : ndarray or CSR matrix of shape (n, n_columns), optional
        The rows of X as the kernel takes them, before their columns were scaled. None means X.
    auto : bool
        Choose the number of features by the spectrum, instead of that of `mlp`.
    """
    from scipy.linalg import eigh

    rows = _sample(X.shape[0], _FITTED, rng)
    points = X[rows]
    if callable(values):
        places = points if arguments is None else arguments[rows]
        points, places = _with_fresh_points(points, places, rng)
        chosen = _sample(points.shape[0], _DECOMPOSED, rng)
        sections = np.asarray(values(places, places[chosen]), np.float64)
    else:
        chosen = _sample(len(rows), _DECOMPOSED, rng)
        sections = values[np.ix_(rows, rows[chosen])].astype(np.float64)
    block = sections[chosen]
    n = len(chosen)
    wanted = min(_MOST_FEATURES if auto else mlp.widths[-1], n)
    spectrum, vectors = eigh((block + block.T) / 2, subset_by_index=[n - wanted, n - 1])
    functions = _extended(sections, vectors, spectrum)[:, ::-1]  # the largest eigenvalue first
    if auto:
        n_features = _enough(block, np.maximum(spectrum[::-1], 0))
        mlp, functions = _with_features(mlp, n_features), functions[:, :n_features]
    return _with_fitted_output(mlp, points, functions, rng)


def schmidt_start(
    phi: MLP,
    psi: MLP,
    X: Any,
    Y: Any,
    values: np.ndarray,
    rng: np.random.RandomState,
    *,
    auto: bool = False,
) -> tuple[MLP, MLP]:
    """Return both maps with new hidden biases and output layers fitted to the leading singular functions.

    `values` are a matrix between the rows of X and those of Y; `auto` as in `mercer_start`.
    """
    from sklearn.utils.extmath import randomized_svd

    rows, columns = _sample(X.shape[0], _FITTED, rng), _sample(Y.shape[0], _FITTED, rng)
    some_rows, some_columns = (_sample(len(some), _DECOMPOSED, rng) for some in (rows, columns))
    of_rows = values[np.ix_(rows, columns[some_columns])].astype(np.float64)
    of_columns = values[np.ix_(rows[some_rows], columns)].astype(np.float64)
    block = of_rows[some_rows]
    wanted = min(_MOST_FEATURES if auto else phi.widths[-1], *block.shape)
    left, spectrum, right = randomized_svd(block, wanted, random_state=rng)
    if auto:
        n_features = _enough(block, spectrum)
        phi, psi = _with_features(phi, n_features), _with_features(psi, n_features)
        left, spectrum, right = left[:, :n_features], spectrum[:n_features], right[:n_features]
    return (
        _with_fitted_output(phi, X[rows], _extended(of_rows, right.T, spectrum), rng),
        _with_fitted_output(psi, Y[columns], _extended(of_columns.T, left, spectrum), rng),
    )


def _sample(n: int, most: int, rng: np.random.RandomState) -> np.ndarray:
    return np.arange(n) if n <= most else np.sort(rng.choice(n, most, replace=False))


def _enough(block: np.ndarray, spectrum: np.ndarray) -> int:
    """Return the least number of leading terms that leave little of the variance of a relation."""
    total = np.square(block).sum()
    left = np.maximum(total - np.cumsum(np.square(spectrum)), 0)
    variance = total - block.size * block.mean() ** 2
    return min(1 + int(np.count_nonzero(left > (1 - _ENOUGH) * variance)), len(spectrum))


def _with_features(mlp: MLP, n_features: int) -> MLP:
    """Return the map with another number of features, whose output layer is to be fitted."""
    assert mlp.biases is not None
    output = np.zeros((mlp.widths[-2], n_features), mlp.dtype)
    biases = [*mlp.biases[:-1], np.zeros(n_features, mlp.dtype)]
    return MLP([*mlp.weights[:-1], output], biases, mlp.activation, normalize=mlp.normalize)


def _with_fresh_points(X: Any, arguments: Any, rng: np.random.RandomState) -> tuple[Any, Any]:
    """Return the rows of X and, if they are few, fresh points, so that few rows are not overfitted.

    A fresh point is a row plus up to half of the difference between two others, which keeps the correlations
    between the columns, clipped to the range of each column. The rows in other
    units, `arguments`, are extended alike. Rows are drawn in proportion to their squared
    distance from the mean: far from it few rows tell the fit what the functions are, and errors are large.
    """
    missing = _FRESH_BELOW - X.shape[0]
    if missing <= 0 or sparse.issparse(X):
        return X, arguments
    far = np.square(X - X.mean(axis=0), dtype=np.float64).sum(axis=1)
    share = far / far.sum() if far.any() else None
    base, start, end = rng.choice(len(X), (3, missing), p=share)
    step = rng.uniform(0, 0.5, (missing, 1)).astype(X.dtype)

    def extended(A: np.ndarray) -> np.ndarray:
        fresh = np.clip(A[base] + step * (A[end] - A[start]), A.min(axis=0), A.max(axis=0))
        return np.concatenate([A, fresh])

    return extended(X), extended(arguments)


def _extended(sections: np.ndarray, vectors: np.ndarray, spectrum: np.ndarray) -> np.ndarray:
    """Return the functions ``sum_j r(x, y_j) v_ij / sqrt(lambda_i)`` of each row r(x, .) of `sections`.

    At the decomposed points they are ``sqrt(lambda_i)`` times the eigenvectors or singular vectors; elsewhere
    this is the extension of Nystroem. Those of eigenvalues that are not positive are zero.
    """
    positive = spectrum > _ROUNDING * np.abs(spectrum).max()
    root = np.sqrt(np.where(positive, spectrum, 1))
    functions: np.ndarray = sections @ np.where(positive, vectors / root, 0)
    return functions


def _with_fitted_output(mlp: MLP, X: Any, functions: np.ndarray, rng: np.random.RandomState) -> MLP:
    """Return `mlp` with new hidden biases and the output layer that best fits these values.

    Each hidden unit is centred on a random row, where a relu has its kink: units are then spent where the
    data are.
    """
    hidden, biases = X, []
    for weights in mlp.weights[:-1]:
        centres = hidden[rng.randint(hidden.shape[0], size=weights.shape[1])]
        centres = centres.toarray() if sparse.issparse(centres) else centres
        biases.append(-np.einsum("ij,ji->i", centres, weights))
        hidden = _hidden_layer(hidden, weights, biases[-1], mlp)
    hidden = hidden.toarray() if sparse.issparse(hidden) else hidden
    coefficients, intercepts, _ = ridge(hidden.astype(np.float64), functions)
    output = np.zeros(mlp.weights[-1].shape, mlp.dtype)
    output[:, : functions.shape[1]] = coefficients
    bias = np.zeros(mlp.widths[-1], mlp.dtype)
    bias[: functions.shape[1]] = intercepts
    return MLP([*mlp.weights[:-1], output], [*biases, bias], mlp.activation, normalize=mlp.normalize)


def _hidden_layer(X: Any, weights: np.ndarray, bias: np.ndarray, mlp: MLP) -> np.ndarray:
    """Return the activations of one hidden layer."""
    eye = np.eye(len(bias), dtype=mlp.dtype)
    return MLP([weights, eye], [bias, np.zeros_like(bias)], mlp.activation)(X)
