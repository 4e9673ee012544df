"""The last layers of a map whose features are the softmax of scores.

A relu network computes any function of one variable that is linear between knots, and softmax is composed
of such functions and sums: ``softmax(s)_c = exp(s_c - log(sum_b exp(s_b)))``. So with relu nothing is fitted:
each exp and log is linear between knots, the features stay in [0, 1] wherever the map is evaluated, and the
width grows by a fixed number for each class. With other activations, one hidden layer is fitted to the
softmax of scores near those of the training objects.
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy.linalg import solve
from scipy.special import softmax

from ...maps.activations import Activation
from ...maps.mlp import MLP

# Least distance of knots of an exp, and most of their intervals, for few and for many classes. With 0.25,
# probabilities are within 0.015, and precision among the 10 nearest is within 0.001 of that of the softmax.
_STEP = 0.25
_MOST_STEPS = 96
_MANY_CLASSES = 48
_STEPS_OF_MANY_CLASSES = 32
# Knots lie up to this times the largest score of a training object. Where that exceeds `_FARTHEST`, all
# scores are divided: float32 holds exp(48) and its reciprocal.
_BEYOND = 1.5
_FARTHEST = 48.0
# Probabilities below exp(-_FAINT) are 0.
_FAINT = 9.0
# Kinks of a fitted layer along the score of each class, and differences of scores.
_KNOTS = 12
_KNOTS_OF_FEW_CLASSES = 24
_DIFFERENCES = 64
# Scores on which a layer is fitted: those of the objects, and copies up to this number, stretched by up to
# this factor and disturbed by this part of their deviation.
_NEAR = 4096
_STRETCH = 1.15
_DISTURBANCE = 0.3
_HEAD_RIDGE = 1e-4


class Layers(NamedTuple):
    """Weights and biases of consecutive layers; an activation follows every layer but the last."""

    weights: list[np.ndarray]
    biases: list[np.ndarray]


def softmax_head(
    scores: np.ndarray, activation: Activation, n_features: int, rng: np.random.RandomState
) -> Layers:
    """Return layers that take scores to `n_features` features: their softmax.

    With fewer features than classes, the probabilities minus their means are projected onto the subspace that
    keeps most of their inner products. Features beyond the number of classes are 0.

    Parameters
    ----------
    scores : ndarray of shape (n, n_classes)
        Scores of training objects. Those of each object have mean 0.
    """
    output, bias = _projection(softmax(scores, axis=1), n_features)
    if activation.name == "relu":
        return _piecewise_linear(scores, output, bias)
    return _fitted(scores, activation, output, bias, rng)


def _projection(p: np.ndarray, n_features: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrix and the constant that take probabilities to features."""
    n_classes = p.shape[1]
    if n_features >= n_classes:
        return np.eye(n_classes, n_features), np.zeros(n_features)
    mean = p.mean(axis=0)  # without which inner products change by little but a constant
    _, _, right = np.linalg.svd(p - mean, full_matrices=False)
    output = np.zeros((n_classes, n_features))
    output[:, : len(right)] = right[:n_features].T
    return output, -mean @ output


def _piecewise_linear(scores: np.ndarray, output: np.ndarray, bias: np.ndarray) -> Layers:
    """Return the layers of softmax with an exp and a log that are linear between knots.

    The five layers give ``s + reach``; the exp of every score; the log of their sum; the exp of every score
    minus that log; the features. The second and the third pass the scores on.
    """
    n_classes = scores.shape[1]
    own = np.eye(n_classes)
    reach = max(_BEYOND * float(np.abs(scores).max()), 1.0)
    scale = min(1.0, _FARTHEST / reach)
    reach *= scale
    lowest = -_FAINT - np.log(n_classes)  # the sum is at least 1, because the largest score is at least 0
    most = _MOST_STEPS if n_classes <= _MANY_CLASSES else _STEPS_OF_MANY_CLASSES
    step = max(_STEP, (reach - lowest) / most)

    knots = _knots(lowest, reach, step)
    bends = np.diff(np.diff(np.exp(knots)) / np.diff(knots), prepend=0.0)
    starts = knots[:-1] + reach
    exps = np.hstack([np.repeat(own, len(starts), axis=1), own])
    exps_bias = np.concatenate([np.tile(-starts, n_classes), np.zeros(n_classes)])

    # log(total) = logs[-1] - sum_j falls_j * relu(1 - total / levels_j), all falls positive: nothing cancels
    logs = _knots(0.0, reach + np.log(n_classes), step)
    levels = np.exp(logs)
    falls = -np.diff(np.diff(logs) / np.diff(levels), append=0.0) * levels[1:]
    levels = levels[1:]
    total = np.tile(bends, n_classes)[:, None] / levels
    log = np.block([[-total, np.zeros((len(total), n_classes))], [np.zeros((n_classes, len(levels))), own]])
    log_bias = np.concatenate([1 - n_classes * np.exp(lowest) / levels, np.zeros(n_classes)])

    faint = _knots(-_FAINT, 0.0, step)
    p = np.exp(faint)
    p[0] = 0
    rises = np.diff(np.diff(p) / np.diff(faint), prepend=0.0, append=0.0)
    last = np.repeat(np.vstack([np.tile(falls[:, None], n_classes), own]), len(faint), axis=1)
    last_bias = np.tile(-reach - logs[-1] - faint, n_classes)
    return Layers(
        [scale * own, exps, log, last, np.kron(own, rises[:, None]) @ output],
        [np.full(n_classes, reach), exps_bias, log_bias, last_bias, bias],
    )


def _knots(low: float, high: float, step: float) -> np.ndarray:
    return np.linspace(low, high, int(np.ceil((high - low) / step)) + 1)


def _fitted(
    scores: np.ndarray,
    activation: Activation,
    output: np.ndarray,
    bias: np.ndarray,
    rng: np.random.RandomState,
) -> Layers:
    """Return a hidden layer and an output that give the features of scores near those given.

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
    wanted = softmax(points, axis=1) @ output + bias
    center, middle = units.mean(axis=0), wanted.mean(axis=0)
    units = units - center
    gram = units.T @ units
    gram[np.diag_indices_from(gram)] += _HEAD_RIDGE * np.trace(gram) / len(gram)
    last = solve(gram, units.T @ (wanted - middle), assume_a="pos")
    return Layers([directions, last], [-knots, middle - center @ last])
