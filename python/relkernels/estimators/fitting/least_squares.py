"""Ridge regression whose penalties are chosen by leave-one-out, in closed form."""

from __future__ import annotations

import numpy as np

# Penalties to choose from, relative to the mean eigenvalue of the Gram matrix.
_PENALTIES = 10.0 ** np.arange(-8, 5)
# Eigenvalues below this fraction of the largest are rounding errors.
_ROUNDING = 1e-12


def ridge(features: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the coefficients and the intercepts, which are not penalized, of a ridge regression.

    Each column of `targets` has its own penalty: the one with the least sum of squared leave-one-out errors.
    So columns of noise shrink to their means while the others are fitted closely. With the hat matrix S of a
    penalty, the error at row i of the regression without row i is ``(t - S t)_i / (1 - S_ii)``; a single
    eigendecomposition of the smaller Gram matrix gives S for every penalty.

    Generalised cross-validation, which replaces ``S_ii`` by its mean, is cheaper and as good except where
    there are about as many rows as features.
    """
    mean, level = features.mean(axis=0), targets.mean(axis=0)
    centred, values = features - mean, targets - level
    n, p = centred.shape
    wide = n <= p
    eigenvalues, vectors = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    kept = eigenvalues > _ROUNDING * eigenvalues[-1]
    if not kept.any():  # constant features
        return np.zeros((p, targets.shape[1])), level
    eigenvalues, vectors = eigenvalues[kept], vectors[:, kept]
    root = np.sqrt(eigenvalues)
    left = vectors if wide else centred @ vectors / root
    squares = np.square(left)
    along = left.T @ values
    beyond = values - left @ along  # the part that no penalty fits
    # 1 - S_ii without its share of `squares`; computed apart because the difference may be tiny.
    free = np.maximum(1 - 1 / n - squares.sum(axis=1), 0)

    def errors(penalty: float) -> np.ndarray:
        shrink = penalty / (eigenvalues + penalty)
        residual = beyond + left @ (shrink[:, None] * along)
        left_out = residual / (free + squares @ shrink)[:, None]
        return np.square(left_out).sum(axis=0)

    penalties = _PENALTIES * eigenvalues.mean()
    chosen = penalties[np.argmin([errors(penalty) for penalty in penalties], axis=0)]
    solved = along / (eigenvalues[:, None] + chosen)
    coefficients = centred.T @ (vectors @ solved) if wide else vectors @ (root[:, None] * solved)
    return coefficients, level - mean @ coefficients
