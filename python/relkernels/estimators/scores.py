"""How well a relation fits values: scores of the estimators of relations."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.utils import column_or_1d

from ..base import check
from ..samples import RowPairs
from ..samples.row_pairs import known_elsewhere, observed, values_of_pairs


def undefined(why: str) -> float:
    """Return NaN after a warning, as scikit-learn does where a measure is not defined."""
    warnings.warn(f"score is not defined {why}", UndefinedMetricWarning, stacklevel=3)
    return float("nan")


def pair_weights(weight: np.ndarray | None, other: np.ndarray | None) -> np.ndarray | None:
    """Return the weight of each pair: the product of those of its rows and of its columns."""
    if weight is None:
        return None
    return weight[:, None] * (np.ones(1) if other is None else other)


def determination(relation: np.ndarray, truth: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Return the coefficient of determination."""
    if weight is not None:
        weight = np.broadcast_to(weight, truth.shape)
    if np.ptp(truth if weight is None else truth[weight > 0]) == 0:
        return undefined("for pairs that all have the same value")
    residual = np.square(relation - truth, dtype=np.float64)
    spread = np.square(truth - np.average(truth, weights=weight), dtype=np.float64)
    if weight is not None:
        residual, spread = weight * residual, weight * spread
    return 1.0 - float(residual.sum()) / float(spread.sum())


def area_under_roc(related: np.ndarray, relation: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Return the area under the ROC curve of values as a test of a relation that holds or not."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(related, relation, sample_weight=weight))


def score_of_values(relation: np.ndarray, values: Any, weight: np.ndarray | None = None) -> float:
    """Return how well a relation fits values: the area under the ROC curve for binary values, else R^2."""
    if weight is not None:
        weight = np.broadcast_to(weight, relation.shape)
    if sparse.issparse(values):
        entries = values.tocoo()
        stored = entries.row, entries.col  # `nonzero` would skip observed zeros
        if np.ptp(values.data) > 0:
            some = None if weight is None else weight[stored]
            return determination(np.asarray(relation[stored]).ravel(), values.data, some)
        there = np.zeros(relation.shape, bool)
        there[stored] = True
    elif np.isin(values, (0, 1)).all() and np.ptp(values) > 0:
        there = values > 0
    else:
        return determination(relation, values, weight)
    if there.all():
        return undefined("if all pairs are related")
    return area_under_roc(there.ravel(), relation.ravel(), None if weight is None else weight.ravel())


def score_of_labels(relation: np.ndarray, y: Any, weight: np.ndarray | None) -> float:
    """Return the area under the ROC curve of r(x_i, x_j), i < j, as a test of equal labels."""
    with check.naming("y"):
        labels = column_or_1d(y)
    if len(labels) != len(relation):
        check.fail("y", f"{len(relation)} labels, one for each row of X", len(labels))
    upper = np.triu_indices(len(labels), 1)
    equal = labels[upper[0]] == labels[upper[1]]
    if equal.all() or not equal.any():
        reason = "for labels that are all equal" if equal.all() else "unless two rows have the same label"
        return undefined(f"{reason}: StratifiedKFold splits labels evenly, KFold does not")
    return area_under_roc(equal, relation[upper], None if weight is None else weight[upper])


def score_of_pairs(pairs: RowPairs, y: Any, first: np.ndarray, second: np.ndarray, symmetric: bool) -> float:
    """Return how well the inner products of features of two tables fit the values of pairs of rows.

    This is the area under the ROC curve for values 0 and 1, or -1 and 1. If all values are equal, the pairs
    are tested against those that no split has. Otherwise it is R^2.
    """
    values = values_of_pairs(y, pairs)
    if np.ptp(values) == 0:
        related = observed(pairs, np.ones(len(pairs)), symmetric)
        others = known_elsewhere(pairs, symmetric).toarray() == 0
        if symmetric:
            np.fill_diagonal(others, False)
        there = related.toarray() > 0
        tested = there | others
        if not others[~there].any():
            return undefined("if all pairs are related")
        return area_under_roc(there[tested], (first @ second.T)[tested])
    rows, columns = pairs.pairs.T
    relation = np.einsum("ij,ij->i", first[rows], second[columns])
    if np.isin(values, (0, 1)).all() or np.isin(values, (-1, 1)).all():
        return area_under_roc(values > 0, relation)
    return determination(relation, values)
