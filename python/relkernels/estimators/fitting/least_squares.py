"""Ridge regression with the errors at left-out rows in closed form, by which penalties are chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

# Penalties to choose from, relative to the mean eigenvalue of the Gram matrix.
_PENALTIES = 10.0 ** np.arange(-8, 5)
# Eigenvalues below this fraction of the largest are rounding errors.
_ROUNDING = 1e-12
# Rows per block of features that are not stored together.
_BLOCK = 4096


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


class StreamedRidge:
    """Ridge regression for any penalty, on features that are computed in blocks and never stored together.

    The features are centred, and targets must have mean 0: the intercept is not penalized.

    Parameters
    ----------
    features, targets : function
        Return the features and the targets of the rows that an index selects.
    count : ndarray of shape (n,)
        Row i counts as `count[i]` rows.
    rounding : float
        Relative rounding error of the features.

    Attributes
    ----------
    mean : ndarray of shape (n_features,)
    spectrum, basis : ndarray of shape (rank,), and (n_features, rank)
        The positive eigenvalues and the eigenvectors of the scatter of the features.
    """

    def __init__(
        self,
        features: Callable[[Any], np.ndarray],
        targets: Callable[[Any], np.ndarray],
        count: np.ndarray,
        rounding: float,
    ) -> None:
        blocks = [slice(begin, min(begin + _BLOCK, len(count))) for begin in range(0, len(count), _BLOCK)]
        self._features, self._targets = features, targets
        self._total = count.sum()
        self.mean = sum(count[rows] @ features(rows) for rows in blocks) / self._total
        self.spectrum, self.basis = self._principal(blocks, count, rounding)
        self._moments = sum(self._on_basis(rows).T @ (count[rows, None] * targets(rows)) for rows in blocks)

    def _on_basis(self, rows: Any) -> np.ndarray:
        return (self._features(rows) - self.mean) @ self.basis

    def _principal(
        self, blocks: list[slice], count: np.ndarray, rounding: float
    ) -> tuple[np.ndarray, np.ndarray]:
        n, width = len(count), len(self.mean)
        if n < width:  # from the inner products of rows, which are fewer
            rows = np.sqrt(count)[:, None] * (self._features(slice(0, n)) - self.mean)
            spectrum, vectors = np.linalg.eigh(rows @ rows.T)
        else:
            scatter = np.zeros((width, width))
            for block in blocks:
                centred = self._features(block) - self.mean
                scatter += centred.T @ (count[block, None] * centred)
            spectrum, vectors = np.linalg.eigh(scatter)
        there = spectrum > max(n, width) * rounding * max(spectrum[-1], np.finfo(float).tiny)
        spectrum, vectors = spectrum[there], vectors[:, there]
        return spectrum, rows.T @ vectors / np.sqrt(spectrum) if n < width else vectors

    def coefficients(self, penalty: float, factor: float) -> np.ndarray:
        """Return the coefficients on `basis`, times a factor."""
        return factor * (1 / (self.spectrum + penalty))[:, None] * self._moments

    def left_out(self, rows: np.ndarray) -> LeftOut:
        """Return the regression of each of these rows on all others."""
        return LeftOut(self._on_basis(rows), self._targets(rows), self.spectrum, self._moments, self._total)


class LeftOut(NamedTuple):
    """Rows that are left out of a `StreamedRidge` one at a time."""

    principal: np.ndarray  # (n, rank), their features on the basis
    targets: np.ndarray  # (n, n_targets)
    spectrum: np.ndarray
    moments: np.ndarray
    total: float

    def errors(self, penalty: float) -> np.ndarray:
        """Return the errors at the left-out rows; the leverage is ``S_ii`` of `ridge`."""
        shrunk = 1 / (self.spectrum + penalty)
        leverage = np.minimum(np.square(self.principal) @ shrunk + 1 / self.total, 1 - 1e-9)
        return (self.targets - self.principal @ (shrunk[:, None] * self.moments)) / (1 - leverage)[:, None]
