"""A map whose inner products estimate the probability that two objects have the same label, in closed form.

With p(x) the probabilities of the classes at x, two independent objects have equal labels with probability
``sum_c p_c(x) p_c(y) = <p(x), p(y)>``. No relation ranks pairs better, and it is an inner product of
features of one map. So the map is fitted to p: ridge regression of the indicators of the classes on a wide
random hidden layer gives scores (Huang, Zhu & Siew 2006), a softmax with a temperature turns scores into
probabilities, and a second hidden layer computes that softmax. The ridge and the temperature have the least
cross-entropy of predictions for each object from all others, which ridge regression gives in closed form
(Allen's PRESS). If that lowers the cross-entropy in cross-validation, the hidden layer is replaced by a
`sensitive_layer`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from scipy.linalg import solve
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax

from ...gradients import feature_loss
from ...maps.activations import Activation
from ...maps.mlp import MLP
from ...ops import feature_map
from .least_squares import StreamedRidge
from .random_layer import random_layer
from .sensitive_layer import sensitive_layer, unit_slopes

# Most classes for which the indicators are regressed.
MOST_CLASSES = 256
# Rows up to which hidden features are stored.
_STORED = 4096
# Rows whose left-out predictions choose the ridge.
_JUDGED = 8192
# The comparison with a sensitive layer: folds, most rows, units, fewest distinct rows, most columns.
_FOLDS = 3
_COMPARED = 768
_UNITS_COMPARED = 512
_FEWEST_COMPARED = 50
_MOST_COLUMNS = 1024
# Ridge relative to the sum of the variances of the hidden features.
_RIDGES = 10.0 ** np.arange(-6, 3.1, 0.5)
# Log inverse temperatures tried.
_LOG_SHARPNESS = (-2.0, 5.0)
# Kinks of the second hidden layer along the score of each class, and differences of scores.
_KNOTS = 12
_KNOTS_OF_FEW_CLASSES = 24
_DIFFERENCES = 64
# Scores on which the second layer is fitted: those of the objects, and copies up to this number, stretched by
# up to this factor and disturbed by this part of their deviation.
_NEAR = 4096
_STRETCH = 1.15
_DISTURBANCE = 0.3
_HEAD_RIDGE = 1e-4


class _Scores(NamedTuple):
    """Scores of the classes as a linear function of the hidden features, and those of left-out objects."""

    weight: np.ndarray  # (width, n_classes)
    bias: np.ndarray  # (n_classes,)
    fitted: np.ndarray  # (n_judged, n_classes), scores of some of the objects


class _Head(NamedTuple):
    """A hidden layer ``activation(scores @ directions - knots)`` and the output layer on it."""

    directions: np.ndarray  # (n_classes, width)
    knots: np.ndarray  # (width,)
    output: np.ndarray  # (width, n_features)
    bias: np.ndarray  # (n_features,)


def label_map(
    X: Any,
    codes: np.ndarray,
    weight: np.ndarray | None,
    n_features: int | None,
    activation: str | Activation,
    rng: np.random.RandomState,
) -> tuple[MLP, float]:
    """Return the map, and the mean squared difference of its relation from equality of labels.

    Parameters
    ----------
    X : ndarray or CSR matrix of shape (n, n_columns), in units of the columns' deviation
    codes : ndarray of int of shape (n,)
        The classes, from 0.
    weight : ndarray of shape (n,), optional
    n_features : int, optional
        None is the number of classes. With fewer, the probabilities minus their means are projected onto the
        subspace that keeps most of their inner products.
    """
    n_classes = int(codes.max()) + 1
    count = np.ones(len(codes)) if weight is None else weight.astype(np.float64)
    layer = random_layer(X, activation, rng)
    scores = _ridge_scores(_features(layer, X), X.dtype, codes, count, n_classes)
    if _sensitive_is_better(layer, X, codes, count, n_classes):
        rows = np.linspace(0, len(codes) - 1, min(len(codes), _STORED)).astype(int)
        layer = sensitive_layer(layer, unit_slopes(layer, X[rows]), scores.weight, count[rows])
        scores = _ridge_scores(_features(layer, X), X.dtype, codes, count, n_classes)
    head = _softmax_layer(scores.fitted, layer.activation, n_features or n_classes, rng)
    assert layer.biases is not None
    mlp = MLP(
        [layer.weights[0], (scores.weight @ head.directions).astype(X.dtype), head.output.astype(X.dtype)],
        [
            layer.biases[0],
            (scores.bias @ head.directions - head.knots).astype(X.dtype),
            head.bias.astype(X.dtype),
        ],
        activation,
    )
    judged = slice(0, _JUDGED)
    features = feature_map(X[judged], mlp)
    return mlp, feature_loss(features, features, codes[judged], "squared")[0]


def _sensitive_is_better(layer: MLP, X: Any, codes: np.ndarray, count: np.ndarray, n_classes: int) -> bool:
    """Return whether a sensitive layer gives less cross-entropy in cross-validation than the random one.

    The left-out predictions of `_ridge_scores` cannot tell: a sensitive layer is made from all rows.
    """
    if sparse.issparse(X) or X.shape[1] > _MOST_COLUMNS:
        return False
    rows = np.linspace(0, len(X) - 1, min(len(X), _COMPARED)).astype(int)
    rows = rows[count[rows] > 0]
    X, codes, count = X[rows], codes[rows], count[rows]
    # Folds by rank among the distinct rows of each class, so that an object of weight 2 is as two objects.
    distinct, rank = np.unique(np.column_stack([codes, X]), axis=0, return_inverse=True)
    if len(distinct) < _FEWEST_COMPARED:
        return False
    fold = rank.ravel() % _FOLDS
    assert layer.biases is not None
    (first, output), units = layer.weights, slice(_UNITS_COMPARED)
    biases = [bias[units] for bias in layer.biases]
    layer = MLP([first[:, units], output[units, units]], biases, layer.activation)
    hidden, slopes = layer(X), unit_slopes(layer, X)
    gain = 0.0
    for k in range(_FOLDS):
        train, test = fold != k, fold == k

        def entropy(hidden: np.ndarray, scores: _Scores, test: np.ndarray = test) -> float:
            predicted = hidden[test] @ scores.weight + scores.bias
            own = predicted[np.arange(len(predicted)), codes[test]]
            return float(count[test] @ (logsumexp(predicted, axis=1) - own))

        known = codes[train], count[train], n_classes
        scores = _ridge_scores(hidden[train].__getitem__, X.dtype, *known)
        stretched = sensitive_layer(layer, slopes[train], scores.weight, count[train])(X)
        gain += entropy(hidden, scores)
        gain -= entropy(stretched, _ridge_scores(stretched[train].__getitem__, X.dtype, *known))
    return gain > 0


def _features(layer: MLP, X: Any) -> Callable[[Any], np.ndarray]:
    """Return the function from indices of rows to their hidden features, which are stored if they are few."""
    if X.shape[0] > _STORED:
        return lambda rows: layer(X[rows])
    return np.asarray(layer(X)).__getitem__


def _ridge_scores(
    features: Callable[[Any], np.ndarray],
    dtype: np.dtype,
    codes: np.ndarray,
    count: np.ndarray,
    n_classes: int,
) -> _Scores:
    """Return the ridge regression of the classes' indicators, scaled to the scores of a softmax."""
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
            best = entropy, sharpness, penalty
    _, sharpness, penalty = best
    coefficients = regression.coefficients(penalty, sharpness)
    weight = regression.basis @ coefficients
    fitted = left_out.principal @ coefficients + sharpness * share
    return _Scores(weight, sharpness * share - regression.mean @ weight, fitted)


def _sharpness(scores: np.ndarray, codes: np.ndarray, count: np.ndarray) -> tuple[float, float]:
    """Return the least mean cross-entropy of softmax(sharpness * scores), and that sharpness."""
    below = scores - scores.max(axis=1, keepdims=True)  # so that no exponential overflows
    own, share = below[np.arange(len(codes)), codes], count / count.sum()

    def entropy(log_sharpness: float) -> float:
        sharpness = np.exp(log_sharpness)
        return float(share @ (np.log(np.exp(sharpness * below).sum(axis=1)) - sharpness * own))

    found = minimize_scalar(entropy, bounds=_LOG_SHARPNESS, method="bounded")
    return float(found.fun), float(np.exp(found.x))


def _softmax_layer(
    scores: np.ndarray, activation: Activation, n_features: int, rng: np.random.RandomState
) -> _Head:
    """Return a hidden layer and an output that give the softmax of scores near those given.

    Its units have their kinks along the score of each class, and along differences of two scores: for two
    classes, the softmax is a function of the one difference.
    """
    n_classes = scores.shape[1]
    pairs = np.array(list(combinations(range(n_classes), 2)))
    if len(pairs) > _DIFFERENCES:
        pairs = pairs[np.sort(rng.choice(len(pairs), _DIFFERENCES, replace=False))]
    differences = np.eye(n_classes)[:, pairs[:, 0]] - np.eye(n_classes)[:, pairs[:, 1]]
    along = differences if n_classes == 2 else np.column_stack([np.eye(n_classes), differences])
    scores = np.unique(scores, axis=0)  # so that an object of weight 2 is as two objects
    spread = _DISTURBANCE * scores.std()
    copies = -(-_NEAR // len(scores))
    points = np.tile(scores, (1 + copies, 1))[: max(_NEAR, len(scores))]
    points[len(scores) :] *= rng.uniform(2 - _STRETCH, _STRETCH, (len(points) - len(scores), 1))
    points[len(scores) :] += spread * rng.standard_normal(points[len(scores) :].shape)
    reach = points @ along
    along = along / np.maximum(reach.std(axis=0), np.finfo(float).tiny)
    n_knots = _KNOTS_OF_FEW_CLASSES if n_classes < 5 else _KNOTS
    levels = np.quantile(points @ along, np.linspace(0, 1, n_knots + 1)[:-1], axis=0)
    directions, knots = np.repeat(along, len(levels), axis=1), levels.T.ravel()
    units = MLP([directions, np.eye(len(knots))], [-knots, np.zeros(len(knots))], activation)(points)
    wanted = softmax(points, axis=1)
    if n_features < n_classes:
        wanted = wanted - wanted.mean(axis=0)  # which changes inner products by little but a constant
        _, _, right = np.linalg.svd(wanted, full_matrices=False)
        wanted = wanted @ right[:n_features].T
    center, middle = units.mean(axis=0), wanted.mean(axis=0)
    units = units - center
    gram = units.T @ units
    gram[np.diag_indices_from(gram)] += _HEAD_RIDGE * np.trace(gram) / len(gram)
    output = np.zeros((len(knots), n_features))
    output[:, : wanted.shape[1]] = solve(gram, units.T @ (wanted - middle), assume_a="pos")
    bias = np.zeros(n_features)
    bias[: len(middle)] = middle
    return _Head(directions, knots, output, bias - center @ output)
