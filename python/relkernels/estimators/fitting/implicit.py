"""Linear maps from implicit feedback: pairs that were observed, among all that could have been.

The maps ``phi(x) = x W`` and ``psi(y) = y V`` minimize

    sum_stored c (1 - <x_i W, y_j V>)^2 + unobserved * sum_all <x_i W, y_j V>^2 + ridge

over the pairs (i, j) that are stored with confidence c (Hu, Koren & Volinsky 2008; Rendle et al. 2022). The
sum over all pairs is the trace of a product of two Gram matrices of d x d: it costs O((n + m) d^2), and pairs
that are not stored are not visited. With one side fixed, the other is a least-squares problem; the sides take
turns.

The ridge of a column is proportional to the weight of its rows in the objective, the frequency scaling of
Rendle et al. It does not depend on the unit of a column. A ridge that does not grow with the rows of a column
was worse where side features stood beside ids (recall 0.29 instead of 0.34 on films).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .implicit_solvers import Fixed, blocks_of, solve_rows, solve_table
from .progress import progress_bar

# Deviation of the relation's values at the start, beside the 1 of observed pairs.
_START = 0.1


class Penalties(NamedTuple):
    """The weights of all pairs and of the ridge."""

    unobserved: float
    ridge: float


class Factors(NamedTuple):
    """The weights of both maps, the objective after each iteration, and the error that ended the fit."""

    W: np.ndarray
    V: np.ndarray
    curve: list[float]
    stopped_by: BaseException | None = None


@dataclass(frozen=True)
class _Side:
    """One of the two tables, the pairs seen from it, how often each row counts, and the ridge of columns."""

    table: Any
    pairs: Any
    weight: np.ndarray
    ridge: np.ndarray

    def features(self, W: np.ndarray) -> np.ndarray:
        return self.table @ W

    def solve(self, W: np.ndarray, other: _Side, V: np.ndarray, unobserved: float) -> np.ndarray:
        """Return better weights of this side's map for those of the other side's."""
        fixed = Fixed(self.pairs, other.features(V), other.weight, unobserved)
        if not _are_ids(self.table):
            return solve_table(fixed, self.table, self.weight, self.ridge, W)
        ids = self.table.indices
        solved = np.zeros_like(W)
        solved[ids] = solve_rows(fixed, self.ridge[ids] / self.weight)
        return solved


def _side(table: Any, pairs: Any, weight: np.ndarray, of_other: np.ndarray, penalties: Penalties) -> _Side:
    mass = pairs @ of_other + penalties.unobserved * of_other.sum()
    ridge = penalties.ridge * (table.multiply(table).T @ (mass * weight))
    ridge[ridge == 0] = 1  # columns without values, whose weights stay zero
    return _Side(table, pairs, weight, ridge.astype(table.dtype))


def _are_ids(table: Any) -> bool:
    """Tell whether each row has one 1, in a column of its own."""
    return bool(
        (np.diff(table.indptr) == 1).all()
        and (table.data == 1).all()
        and np.bincount(table.indices, minlength=table.shape[1]).max() == 1
    )


def _objective(left: _Side, right: _Side, W: np.ndarray, V: np.ndarray, unobserved: float) -> float:
    F, G = left.features(W), right.features(V)
    gram = ((F.T * left.weight) @ F).astype(np.float64) * ((G.T * right.weight) @ G)
    total = unobserved * float(gram.sum())
    for rows, part in blocks_of(left.pairs, F.shape[1]):
        lines = np.repeat(np.arange(part.shape[0]), np.diff(part.indptr))
        relation = np.einsum("nd,nd->n", F[rows][lines], G[part.indices], dtype=np.float64)
        c = part.data * left.weight[rows][lines] * right.weight[part.indices]
        total += float(c @ np.square(1 - relation))
    for side, weights in ((left, W), (right, V)):
        total += float(side.ridge @ np.square(weights, dtype=np.float64).sum(axis=1))
    return total


def factorize(
    X: Any,
    Y: Any,
    pairs: Any,
    weight: np.ndarray | None,
    n_features: int,
    penalties: Penalties,
    max_iter: int,
    tol: float,
    rng: np.random.RandomState,
    verbose: bool = False,
) -> Factors:
    """Return linear maps of two tables that minimize the objective above.

    An interrupt, or an objective that is not finite, ends the fit with the maps of the last whole iteration.

    Parameters
    ----------
    X, Y : CSR array
        Tables of one dtype.
    pairs : CSR array of shape (rows of X, rows of Y)
        Confidences > 0 of the observed pairs.
    weight : ndarray, optional
        How often each row of X counts.
    max_iter, tol
        The sides take turns until an iteration improves the objective by less than the fraction `tol`.
    """
    dtype = X.dtype
    ones = np.ones(Y.shape[0], dtype)
    weight = np.ones(X.shape[0], dtype) if weight is None else weight
    left = _side(X, pairs, weight, ones, penalties)
    right = _side(Y, pairs.T.tocsr(), ones, weight, penalties)
    W = np.zeros((X.shape[1], n_features), dtype)
    V = (rng.standard_normal((Y.shape[1], n_features)) * _START / np.sqrt(n_features)).astype(dtype)
    V[np.bincount(Y.indices, minlength=Y.shape[1]) == 0] = 0
    curve: list[float] = []
    try:
        with progress_bar(verbose, max_iter) as advance, np.errstate(over="ignore", invalid="ignore"):
            for _ in range(max_iter):
                better = left.solve(W, right, V, penalties.unobserved)
                other = right.solve(V, left, better, penalties.unobserved)
                loss = _objective(left, right, better, other, penalties.unobserved)
                if not np.isfinite(loss):
                    raise np.linalg.LinAlgError
                W, V = better, other
                curve.append(loss)
                advance(loss, pairs.nnz)
                if len(curve) > 1 and curve[-2] - curve[-1] < tol * curve[-2]:
                    break
    except KeyboardInterrupt as interrupt:
        return Factors(W, V, curve, interrupt)
    except np.linalg.LinAlgError:
        remedy = "scale the columns (to unit variance, say); the maps before it are kept"
        error = FloatingPointError(f"iteration {len(curve) + 1} had numbers that are not finite: {remedy}")
        return Factors(W, V, curve, error)
    return Factors(W, V, curve)
