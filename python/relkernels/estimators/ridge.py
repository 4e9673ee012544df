"""`RandomFeatureRidge`: ridge regression on random features, through its normal equations.

Only moments of the features are stored, and those of two sets of rows can be merged (Chan, Golub & LeVeque
1983): rows may be given in blocks and in any order, and the solution is that of all rows at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import linalg
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin, clone
from sklearn.utils.validation import check_is_fitted

from ..base import check
from ..base.describe import described
from .random_features import MultiLayerRandomFeatures
from .tables import check_sample_weight, check_target, validate_data

# Bytes of float64 features in memory at a time.
_FEATURES = 64 << 20


@dataclass(frozen=True)
class Moments:
    """Weight, means and centred second moments of the joint rows (features, targets), in float64.

    Without an intercept, moments are not centred and the means stay 0.
    """

    weight: float
    mean: np.ndarray  # (D + T,)
    second: np.ndarray  # (D + T, D + T): sum of w (z - mean) (z - mean)'

    @classmethod
    def init(cls, width: int) -> Moments:
        """Return the moments of no rows."""
        return cls(0.0, np.zeros(width), np.zeros((width, width)))

    @classmethod
    def accept(cls, rows: np.ndarray, weights: np.ndarray | None, centred: bool) -> Moments:
        """Return the moments of joint rows."""
        weight = float(len(rows)) if weights is None else float(weights.sum())
        mean = np.zeros(rows.shape[1])
        if centred and weight > 0:
            mean = np.average(rows, axis=0, weights=weights)
            rows = rows - mean
        weighted = rows if weights is None else rows * weights[:, None]
        return cls(weight, mean, weighted.T @ rows)

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets of rows."""
        weight = self.weight + other.weight
        if not self.weight or not other.weight:
            return self if self.weight else other
        shift = other.mean - self.mean
        share = other.weight / weight
        second = self.second + other.second
        if shift.any():
            second += np.outer(shift * (self.weight * share), shift)
        return Moments(weight, self.mean + share * shift, second)

    def finish(self, n_targets: int, alpha: float) -> tuple[np.ndarray, np.ndarray]:
        """Return coefficients (D, T) and intercepts (T,) of the ridge solution."""
        d = len(self.mean) - n_targets
        gram = self.second[:d, :d].copy()
        gram[np.diag_indices(d)] += alpha
        right = self.second[:d, d:]
        try:
            coefficients = linalg.solve(gram, right, assume_a="pos") if alpha else None
        except linalg.LinAlgError:
            coefficients = None
        if coefficients is None:  # the solution of least norm
            coefficients = linalg.pinvh(gram) @ right
        return coefficients, self.mean[d:] - self.mean[:d] @ coefficients


class RandomFeatureRidge(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Ridge regression on random features: the random architecture with its last layer trained.

    Minimizes ``sum_i w_i |y_i - c - F(x_i) b|^2 + alpha |b|^2`` over b and the intercept c, where F are the
    features of `MultiLayerRandomFeatures` (Takhanov, arXiv 2404.17461; Rahimi & Recht 2007), through the
    normal equations: features are computed, added to their D x D moments, and discarded.

    Parameters
    ----------
    features : MultiLayerRandomFeatures, optional
        Cloned before use; None means the default parameters with random_state 0.
    alpha : float, default 1.0
        Finite, not negative. 0 gives the least-squares solution of least norm up to the accuracy of moments,
        in which directions of the features below 1e-7 of the largest are lost.
    fit_intercept : bool, default True

    Attributes
    ----------
    features_ : MultiLayerRandomFeatures
    coef_ : ndarray of shape (D,) or (n_targets, D)
    intercept_ : float or ndarray of shape (n_targets,)
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only if X had column names.

    See Also
    --------
    relkernels.dask.fit : The same regression on Dask arrays.

    Notes
    -----
    Rows may be split over any number of calls of `partial_fit`: up to rounding, the result is the solution
    for all of them, not an approximation that depends on their order. Moments are summed in float64 and
    centred block by block. Memory is O(D^2) plus 64 MiB of features and time is O(n D^2), so this suits many
    rows, and scikit-learn's other solvers suit many features.

    Examples
    --------
    >>> import numpy as np
    >>> from relkernels import MultiLayerRandomFeatures, RandomFeatureRidge
    >>> x = np.linspace(-1, 1, 400)[:, None]
    >>> features = MultiLayerRandomFeatures((128,), bias_std=1.0, random_state=0)
    >>> model = RandomFeatureRidge(features, alpha=1e-3)
    >>> for part in np.split(x, 4):
    ...     model = model.partial_fit(part, np.sin(3 * part[:, 0]))
    >>> model.score(x, np.sin(3 * x[:, 0])) > 0.999
    True
    """

    def __init__(
        self,
        features: MultiLayerRandomFeatures | None = None,
        alpha: float = 1.0,
        fit_intercept: bool = True,
    ) -> None:
        self.features = features
        self.alpha = alpha
        self.fit_intercept = fit_intercept

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> RandomFeatureRidge:
        """Fit to these rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features_in)
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
        sample_weight : array-like of shape (n_samples,), optional
            A row of weight w counts as w equal rows.

        Returns
        -------
        self
        """
        for name in ("features_", "moments_", "coef_", "intercept_"):
            self.__dict__.pop(name, None)
        return self.partial_fit(X, y, sample_weight)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> RandomFeatureRidge:
        """Add these rows to those of the last `fit` and of calls since then, and solve again.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`.

        Returns
        -------
        self
        """
        moments = self.moments_of(X, y, sample_weight)
        return self.solve(self.moments_.merge(moments) if hasattr(self, "moments_") else moments)

    def begin(self, X: np.ndarray, target_shape: tuple[int, ...]) -> RandomFeatureRidge:
        """Draw the weights of the features.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features_in)
            Only its number of features is used.
        target_shape : tuple of int
            Shape of one row of y.

        Returns
        -------
        self
        """
        base = MultiLayerRandomFeatures(random_state=0) if self.features is None else self.features
        if not isinstance(base, MultiLayerRandomFeatures):
            raise TypeError(f"features: expected a MultiLayerRandomFeatures, got {described(base)}")
        self.features_ = clone(base).fit(X[:1])
        self.n_features_in_ = X.shape[1]
        self._target_shape = target_shape
        return self

    @property
    def width(self) -> int:
        """Columns of the joint rows (features, targets); defined once weights are drawn."""
        return self.features_._n_features_out + math.prod(self._target_shape)

    def moments_of(self, X: Any, y: Any, sample_weight: Any = None) -> Moments:
        """Return the moments of these rows; draw the weights of the features on the first call.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`.

        Returns
        -------
        Moments
            Moments of (features, targets), to be combined by `merge` and passed to `solve`.
        """
        known = hasattr(self, "features_")
        if y is None:
            raise ValueError("RandomFeatureRidge requires y to be passed, but the target y is None")
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=not known)
        y = check_target(self, X, y)
        weights = None
        if sample_weight is not None:
            weights = check_sample_weight(sample_weight, X, np.float64)
            if not weights.sum() > 0:
                check.fail("sample_weight", "at least one weight > 0", f"all zero, shape {weights.shape}")
        centred = check.flag("fit_intercept", self.fit_intercept)
        if not known:
            self.begin(X, y.shape[1:])
        elif y.shape[1:] != self._target_shape:
            check.fail("y", f"targets of shape {self._target_shape}, as before", y.shape[1:])
        targets = y.reshape(len(y), -1)
        width = self.width
        moments = Moments.init(width)
        step = max(_FEATURES // (8 * width), 256)
        for at in range(0, len(X), step):
            rows = slice(at, at + step)
            joint = np.hstack([self.features_.transform(X[rows]), targets[rows]], dtype=np.float64)
            part = None if weights is None else weights[rows]
            moments = moments.merge(Moments.accept(joint, part, centred))
        return moments

    def solve(self, moments: Moments) -> RandomFeatureRidge:
        """Keep these moments and solve their normal equations.

        Parameters
        ----------
        moments : Moments

        Returns
        -------
        self
        """
        alpha = check.real("alpha", self.alpha)
        if not 0 <= alpha < np.inf:
            check.fail("alpha", "a finite number >= 0", repr(self.alpha))
        self.moments_ = moments
        n_targets = math.prod(self._target_shape)
        coefficients, intercepts = moments.finish(n_targets, alpha)
        self.coef_ = coefficients.T.reshape(*self._target_shape, -1)
        self.intercept_ = intercepts if self._target_shape else float(intercepts[0])
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the predictions for the rows of X.

        Parameters
        ----------
        X : array-like of shape (n, n_features_in)

        Returns
        -------
        ndarray of shape (n,) or (n, n_targets)
        """
        check_is_fitted(self, "coef_")
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        out = np.empty((len(X), *self._target_shape))
        step = max(_FEATURES // (8 * self.features_._n_features_out), 256)
        for at in range(0, len(X), step):
            rows = slice(at, at + step)
            out[rows] = self.features_.transform(X[rows]) @ self.coef_.T + self.intercept_
        return out
