"""A map whose inner products estimate the probability that two objects have the same label.

With p(x) the probabilities of the classes at x, two independent objects have equal labels with probability
``sum_c p_c(x) p_c(y) = <p(x), p(y)>``. No relation ranks pairs better, and it is an inner product of
features of one map. So the map is fitted to p: regressions on a wide hidden layer give scores
(`label_scores`), and further layers compute their softmax (`softmax_head`). Three quarters or more of the
hidden units are random (Huang, Zhu & Siew 2006), replaced by a `sensitive_layer` if that lowers the
cross-entropy in cross-validation; the others have their kinks along single columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse
from scipy.special import logsumexp

from ...gradients import feature_loss
from ...maps.activations import Activation
from ...maps.mlp import MLP
from ...ops import feature_map
from .label_scores import FEWEST_DISTINCT, FOLDS, Scores, label_scores, ridge_scores
from .random_layer import random_layer, with_column_units
from .sensitive_layer import sensitive_layer, unit_slopes
from .softmax_head import softmax_head

# Most classes for which the indicators are regressed.
MOST_CLASSES = 256
# Rows up to which hidden features are stored.
_STORED = 4096
# Rows whose pairs give the loss of the map.
_JUDGED = 8192
# The comparison with a sensitive layer: most rows, units, most columns.
_COMPARED = 768
_UNITS_COMPARED = 512
_MOST_COLUMNS = 1024
# Fewest distinct rows for each column with a sensitive layer. With fewer, held-out precision among the 10
# nearest falls by 0.01 on some tables even where cross-validation favours it.
_ROWS_PER_COLUMN = 10


def label_map(
    X: Any,
    codes: np.ndarray,
    weight: np.ndarray | None,
    n_features: int | None,
    activation: str | Activation,
    rng: np.random.RandomState,
    *,
    normalize: bool = False,
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
    normalize : bool
        Divide the probabilities, or their projections, by their length.
    """
    n_classes = int(codes.max()) + 1
    count = np.ones(len(codes)) if weight is None else weight.astype(np.float64)
    layer = random_layer(X, activation, rng)
    known = X.dtype, codes, count, n_classes
    some = np.linspace(0, len(codes) - 1, min(len(codes), _STORED)).astype(int)
    if _sensitive_is_better(layer, X, codes, count, n_classes):
        scores = ridge_scores(_features(layer, X), *known)
        layer = sensitive_layer(layer, unit_slopes(layer, X[some]), scores.weight, count[some])
    layer = with_column_units(layer, X[some], count[some])
    features = _features(layer, X)
    seen = features if sparse.issparse(X) else X.__getitem__
    scores = label_scores(features, *known, lambda rows: _folds(seen(rows), codes[rows]))
    head = softmax_head(scores.fitted, layer.activation, n_features or n_classes, rng)
    assert layer.biases is not None
    weights = [layer.weights[1] @ scores.weight @ head.weights[0], *head.weights[1:]]
    biases = [scores.bias @ head.weights[0] + head.biases[0], *head.biases[1:]]
    mlp = MLP(
        [layer.weights[0], *(weight.astype(X.dtype) for weight in weights)],
        [layer.biases[0], *(bias.astype(X.dtype) for bias in biases)],
        activation,
        normalize=normalize,
    )
    judged = slice(0, _JUDGED)
    p = feature_map(X[judged], mlp)
    return mlp, feature_loss(p, p, codes[judged], "squared")[0]


def _folds(X: np.ndarray, codes: np.ndarray, fewest: float = 0) -> np.ndarray | None:
    """Return the fold of each row, or None if there are too few distinct rows.

    Folds are by rank among the distinct rows of each class, so that an object of weight 2 is as two objects.
    """
    distinct, rank = np.unique(np.column_stack([codes, X]), axis=0, return_inverse=True)
    return None if len(distinct) < max(fewest, FEWEST_DISTINCT) else rank.ravel() % FOLDS


def _sensitive_is_better(layer: MLP, X: Any, codes: np.ndarray, count: np.ndarray, n_classes: int) -> bool:
    """Return whether a sensitive layer gives less cross-entropy in cross-validation than the random one.

    It must be less by more than its standard error: on few rows, a gain by chance costs more than one missed.

    The left-out predictions of `ridge_scores` cannot tell: a sensitive layer is made from all rows.
    """
    if sparse.issparse(X) or X.shape[1] > _MOST_COLUMNS:
        return False
    rows = np.linspace(0, len(X) - 1, min(len(X), _COMPARED)).astype(int)
    fewest = _ROWS_PER_COLUMN * X.shape[1] * len(rows) / len(X)
    rows = rows[count[rows] > 0]
    X, codes, count = X[rows], codes[rows], count[rows]
    fold = _folds(X, codes, fewest)
    if fold is None:
        return False
    assert layer.biases is not None
    (first, output), units = layer.weights, slice(_UNITS_COMPARED)
    biases = [bias[units] for bias in layer.biases]
    layer = MLP([first[:, units], output[units, units]], biases, layer.activation)
    hidden, slopes = layer(X), unit_slopes(layer, X)
    gain = np.empty(len(X))
    for k in range(FOLDS):
        train, test = fold != k, fold == k

        def entropy(hidden: np.ndarray, scores: Scores, test: np.ndarray = test) -> np.ndarray:
            predicted = hidden[test] @ scores.weight + scores.bias
            own = predicted[np.arange(len(predicted)), codes[test]]
            return np.asarray(logsumexp(predicted, axis=1) - own)

        known = codes[train], count[train], n_classes
        scores = ridge_scores(hidden[train].__getitem__, X.dtype, *known)
        stretched = sensitive_layer(layer, slopes[train], scores.weight, count[train])(X)
        gain[test] = entropy(hidden, scores)
        gain[test] -= entropy(stretched, ridge_scores(stretched[train].__getitem__, X.dtype, *known))
    total = count @ gain
    error = np.sqrt(count @ np.square(gain - total / count.sum()))
    return bool(total > error)


def _features(layer: MLP, X: Any) -> Callable[[Any], np.ndarray]:
    """Return the function from indices of rows to their hidden features, which are stored if they are few."""
    if X.shape[0] > _STORED:
        return lambda rows: layer(X[rows])
    return np.asarray(layer(X)).__getitem__
