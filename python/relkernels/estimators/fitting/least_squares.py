"""Ridge regression whose penalties are chosen by leave-one-out, in closed form."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Penalties to choose from, relative to the mean eigenvalue of the Gram matrix.
_PENALTIES = 10.0 ** np.arange(-8, 5)
# Eigenvalues below this fraction of the largest are rounding errors.
_ROUNDING = 1e-12


class Ridge(NamedTuple):
    """The regression ``features @ coefficients + intercepts``, and its errors at left-out rows."""

    coefficients: np.ndarray  # (n_features, n_targets)
    intercepts: np.ndarray  # (n_targets,)
    errors: np.ndarray  # (n, n_targets)


def ridge(features: np.ndarray, targets: np.ndarray, count: np.ndarray | None = None) -> Ridge:
    """Return a ridge regression, whose intercepts are not penalized.

    Each column of `targets` has its own penalty: the one with the least sum of squared leave-one-out errors.
    So columns of noise shrink to their means while the others are fitted closely. With the hat matrix S of a
    penalty, the error at row i of the regression without row i is ``(t - S t)_i / (1 - S_ii)``; a single
    eigendecomposition of the smaller Gram matrix gives S for every penalty.

    Row i counts as `count[i]` rows, one of which is left out.

    Generalised cross-validation, which replaces ``S_ii`` by its mean, is cheaper and as good except where
    there are about as many rows as features.
    """
    count = np.ones(len(features)) if count is None else count
    total, root_count = count.sum(), np.sqrt(count)[:, None]
    mean, level = count @ features / total, count @ targets / total
    centred, values = root_count * (features - mean), root_count * (targets - level)
    n, p = centred.shape
    wide = n <= p
    eigenvalues, vectors = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    kept = eigenvalues > _ROUNDING * eigenvalues[-1]
    if not kept.any():  # constant features
        return Ridge(np.zeros((p, targets.shape[1])), level, targets - level)
    eigenvalues, vectors = eigenvalues[kept], vectors[:, kept]
    root = np.sqrt(eigenvalues)
    left = vectors if wide else centred @ vectors / root
    squares = np.square(left / root_count)
    along = left.T @ values
    beyond = values - left @ along  # the part that no penalty fits
    # 1 - S_ii without its share of `squares`; computed apart because the difference may be tiny.
    free = np.maximum(1 - 1 / total - squares.sum(axis=1), 0)

    def errors(penalty: float) -> np.ndarray:
        shrink = penalty / (eigenvalues + penalty)
        residual = (beyond + left @ (shrink[:, None] * along)) / root_count
        return residual / (free + squares @ shrink)[:, None]

    penalties = _PENALTIES * eigenvalues.mean()
    best = np.argmin([count @ np.square(errors(penalty)) for penalty in penalties], axis=0)
    left_out = np.empty_like(values)
    for i in np.unique(best):
        left_out[:, best == i] = errors(penalties[i])[:, best == i]
    solved = along / (eigenvalues[:, None] + penalties[best])
    coefficients = centred.T @ (vectors @ solved) if wide else vectors @ (root[:, None] * solved)
    return Ridge(coefficients, level - mean @ coefficients, left_out)
