"""Scores of classes as a linear function of hidden features, chosen by predictions for left-out objects.

Two regressions on the same features are added. Ridge regression of the indicators of the classes has left-out
predictions in closed form (Allen's PRESS), but cannot follow a class that lies between two others.
Multinomial logistic regression can, and is solved by L-BFGS, for every penalty and fold at once.
Their weights in the sum have the least cross-entropy for left-out objects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import logsumexp

from .least_squares import StreamedRidge

# Rows whose left-out predictions choose the ridge.
_JUDGED = 8192
# Ridge relative to the sum of the variances of the hidden features.
_RIDGES = 10.0 ** np.arange(-6, 3.1, 0.5)
# Log inverse temperatures tried.
_LOG_SHARPNESS = (-2.0, 5.0)
# Logistic regression: penalties relative to the sum of the variances, most rows in cross-validation and
# after it, principal components of the features, most classes, steps of L-BFGS.
_PENALTIES = 10.0 ** np.arange(-1, -5.1, -1)
_VALIDATED = 768
_FITTED = 4096
_COMPONENTS = 768
_MOST_CLASSES = 16
_STEPS = 60
# Cross-validation: folds, and the fewest distinct rows.
FOLDS = 3
FEWEST_DISTINCT = 50


class Scores(NamedTuple):
    """Scores of the classes as a linear function of the hidden features, and those of some objects."""

    weight: np.ndarray  # (width, n_classes)
    bias: np.ndarray  # (n_classes,)
    fitted: np.ndarray  # (n_judged, n_classes)


class _Regression(NamedTuple):
    """Scores as a linear function of principal components of the features."""

    components: StreamedRidge
    weight: np.ndarray  # (rank, n_classes)
    bias: np.ndarray  # (n_classes,)
    rows: np.ndarray  # (n_judged,)
    principal: np.ndarray  # (n_judged, rank), the components of those rows
    left_out: np.ndarray  # (n_judged, n_classes), scores of each row from all others

    def scores(self, weight: np.ndarray, bias: np.ndarray) -> Scores:
        """Return the scores with a weight and a bias of the components, less the mean over the classes."""
        weight, bias = _centred(weight), _centred(bias)
        of_features = self.components.basis @ weight
        bias_of_features = bias - self.components.mean @ of_features
        return Scores(of_features, bias_of_features, self.principal @ weight + bias)


def ridge_scores(
    features: Callable[[Any], np.ndarray],
    dtype: np.dtype,
    codes: np.ndarray,
    count: np.ndarray,
    n_classes: int,
) -> Scores:
    """Return the ridge regression of the classes' indicators, scaled to the scores of a softmax.

    Parameters
    ----------
    features : function
        Returns the hidden features of the rows that an index selects.
    codes, count : ndarray of shape (n,)
        The classes from 0, and the number of rows for which each row counts.
    """
    found = _ridge(features, dtype, codes, count, n_classes)
    return found.scores(found.weight, found.bias)


def label_scores(
    features: Callable[[Any], np.ndarray],
    dtype: np.dtype,
    codes: np.ndarray,
    count: np.ndarray,
    n_classes: int,
    fold: Callable[[np.ndarray], np.ndarray | None],
) -> Scores:
    """Return the sum of ridge regression and logistic regression; parameters as in `ridge_scores`.

    Parameters
    ----------
    fold : function
        Returns the folds of rows, or None if they are too few.
    """
    found = _ridge(features, dtype, codes, count, n_classes)
    judged = np.flatnonzero(count[found.rows] > 0)
    validated = judged[np.linspace(0, len(judged) - 1, min(len(judged), _VALIDATED)).astype(int)]
    folds = fold(found.rows[validated]) if n_classes <= _MOST_CLASSES else None
    if folds is None:
        return found.scores(found.weight, found.bias)
    spectrum = found.components.spectrum[-_COMPONENTS:]
    principal = found.principal[:, -_COMPONENTS:]
    penalties = _PENALTIES * spectrum.sum() * count[found.rows[validated]].sum() / count.sum()

    def regress(rows: np.ndarray, counts: np.ndarray, penalties: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        variance = spectrum / count.sum()
        return _logistic(principal[rows], variance, codes[found.rows[rows]], counts, penalties, n_classes)

    rows, known = found.rows[validated], count[found.rows[validated]]
    trained = np.repeat([known * (folds != k) for k in range(FOLDS)], len(penalties), axis=0)
    weights, biases = regress(validated, trained, np.tile(penalties, FOLDS))
    left_out = np.empty((len(penalties), len(rows), n_classes))
    for k in range(FOLDS):
        own, at = folds == k, slice(k * len(penalties), (k + 1) * len(penalties))
        left_out[:, own] = principal[validated[own]] @ weights[at] + biases[at][:, None]
    sharpest = [_sharpness(scores, codes[rows], known) for scores in left_out]
    best = int(np.argmin([entropy for entropy, _ in sharpest]))
    both = np.stack([_centred(found.left_out[validated]), _centred(left_out[best])])
    of_ridge, of_logistic = _least_entropy(both, codes[rows], known)
    if of_logistic == 0:
        return found.scores(of_ridge * found.weight, of_ridge * found.bias)
    fitted = judged[np.linspace(0, len(judged) - 1, min(len(judged), _FITTED)).astype(int)]
    weight, bias = regress(fitted, count[found.rows[fitted]][None], penalties[best : best + 1])
    total = of_ridge * found.weight
    total[-len(spectrum) :] += of_logistic * weight[0]
    return found.scores(total, of_ridge * found.bias + of_logistic * bias[0])


def _centred(scores: np.ndarray) -> np.ndarray:
    return scores - scores.mean(axis=-1, keepdims=True)


def _ridge(
    features: Callable[[Any], np.ndarray],
    dtype: np.dtype,
    codes: np.ndarray,
    count: np.ndarray,
    n_classes: int,
) -> _Regression:
    n = len(codes)
    share = np.bincount(codes, count, n_classes) / count.sum()

    def indicators(rows: Any) -> np.ndarray:
        return np.eye(n_classes)[codes[rows]] - share

    regression = StreamedRidge(features, indicators, count, np.finfo(dtype).eps)
    judged = np.linspace(0, n - 1, min(n, _JUDGED)).astype(int)
    left_out = regression.left_out(judged)
    best: tuple[Any, ...] = (np.inf,)
    for penalty in _RIDGES * regression.spectrum.sum():
        predicted = left_out.targets + share - left_out.errors(penalty)
        entropy, sharpness = _sharpness(predicted, codes[judged], count[judged])
        if entropy < best[0]:
            best = entropy, sharpness, penalty, predicted
    _, sharpness, penalty, predicted = best
    weight = regression.coefficients(penalty, sharpness)
    return _Regression(
        regression, weight, sharpness * share, judged, left_out.principal, sharpness * predicted
    )


def _sharpness(scores: np.ndarray, codes: np.ndarray, count: np.ndarray) -> tuple[float, float]:
    """Return the least mean cross-entropy of softmax(sharpness * scores), and that sharpness."""
    below = scores - scores.max(axis=1, keepdims=True)  # so that no exponential overflows
    own, share = _likely(below, codes, count), count / count.sum()

    def entropy(log_sharpness: float) -> float:
        sharpness = np.exp(log_sharpness)
        return float(share @ (np.log(np.exp(sharpness * below).sum(axis=1)) - sharpness * own))

    found = minimize_scalar(entropy, bounds=_LOG_SHARPNESS, method="bounded")
    return float(found.fun), float(np.exp(found.x))


def _likely(scores: np.ndarray, codes: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return the mean of the scores (..., n, n_classes) of each row over classes that it might have.

    It has its class as surely as if one more object of each class had been seen (Laplace's rule; Platt 1999),
    so that the least cross-entropy is at a finite sharpness even if no prediction is wrong.
    """
    n_classes = scores.shape[-1]
    doubt = n_classes / (count.sum() + n_classes)
    own = scores[..., np.arange(len(codes)), codes]
    return np.asarray((1 - doubt) * own + doubt * scores.mean(axis=-1))


def _least_entropy(scores: np.ndarray, codes: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return the weights, at least 0, of scores (m, n, n_classes) with the least cross-entropy of the sum."""
    share, likely = count / count.sum(), _likely(scores, codes, count)

    def entropy(weights: np.ndarray) -> tuple[float, np.ndarray]:
        total = np.tensordot(weights, scores, 1)
        log_sum = logsumexp(total, axis=1)
        p = np.exp(total - log_sum[:, None])
        slopes = np.einsum("mnc,nc->mn", scores, p) - likely
        return float(share @ (log_sum - weights @ likely)), slopes @ share

    start = np.full(len(scores), 1 / len(scores))
    found = minimize(entropy, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(scores))
    return np.asarray(found.x)


def _softmax_loss(scores: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the cross-entropy of each row (..., n), and the softmax of the scores (..., n, n_classes)."""
    p = scores - scores.max(axis=-1, keepdims=True)
    own = p[..., np.arange(len(codes)), codes]
    np.exp(p, out=p)
    total = p.sum(axis=-1, keepdims=True)
    p /= total
    return np.log(total[..., 0]) - own, p


def _logistic(
    principal: np.ndarray,
    variance: np.ndarray,
    codes: np.ndarray,
    counts: np.ndarray,
    penalties: np.ndarray,
    n_classes: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights and the biases of multinomial logistic regressions on principal components.

    Parameters
    ----------
    principal : ndarray of shape (n, rank)
    variance : ndarray of shape (rank,)
        The variance of each component.
    counts : ndarray of shape (m, n)
        For each of the m regressions, the number of rows for which each row counts.
    penalties : ndarray of shape (m,)
        Half of this times the sum of the squared weights is added to the sum of the cross-entropies.
    """
    n, rank = principal.shape
    m = len(penalties)
    totals = counts.sum(axis=1)
    # In units in which the second derivatives are about 1.
    unit = 1 / np.sqrt(variance + penalties[:, None] * n_classes / totals[:, None])  # (m, rank)
    shrink = (penalties / totals)[:, None] * np.square(unit)
    share = counts / totals[:, None]
    at = np.arange(n)

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        weights, biases = x[: m * rank * n_classes].reshape(m, rank, n_classes), x[m * rank * n_classes :]
        scaled = (unit[:, :, None] * weights).transpose(1, 0, 2).reshape(rank, -1)
        scores = (principal @ scaled).reshape(n, m, n_classes).transpose(1, 0, 2)
        entropy, p = _softmax_loss(scores + biases.reshape(m, 1, n_classes), codes)
        p[:, at, codes] -= 1
        p *= share[:, :, None]
        slopes = principal.T @ p.transpose(1, 0, 2).reshape(n, -1)
        slopes = unit[:, :, None] * slopes.reshape(rank, m, n_classes).transpose(1, 0, 2)
        decay = shrink[:, :, None] * weights
        value = np.vdot(share, entropy) + 0.5 * np.vdot(decay, weights)
        return float(value), np.concatenate([(slopes + decay).ravel(), p.sum(axis=1).ravel()])

    start = np.zeros(m * (rank + 1) * n_classes)
    x = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": _STEPS}).x
    weights = x[: m * rank * n_classes].reshape(m, rank, n_classes)
    return unit[:, :, None] * weights, x[m * rank * n_classes :].reshape(m, n_classes)
