"""The fit of an estimator to implicit feedback: which data it suits, and its linear maps."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_limits

from ...base import check
from ...maps.mlp import MLP
from .implicit import factorize
from .implicit_choice import choose_penalties

# A table of ids is sparse, or dense with at most this fraction of values that are not zero.
_FILLED = 0.1
# Improvements of the objective below this fraction no longer change what is retrieved: on films, recall was
# 0.339 after 13 iterations, with 1e-4, and 0.338 after 32.
_LEAST_TOL = 1e-4
# Most iterations with max_iter="auto".
_AUTO_ITERATIONS = 100


class LinearMaps(NamedTuple):
    """Both maps, the objective after each iteration, and the error that ended the fit."""

    maps: tuple[MLP, MLP]
    curve: list[float]
    stopped_by: BaseException | None


def is_implicit(X: Any, Y: Any, R: Any) -> bool:
    """Tell whether R only says which pairs were observed, and both tables are of ids."""
    if not sparse.issparse(R) or np.ptp(R.data) > 0 or not R.data[0] > 0:
        return False
    return all(_has_ids(table) for table in (X, Y))


def _has_ids(table: Any) -> bool:
    return sparse.issparse(table) or bool(np.count_nonzero(table) <= _FILLED * table.size)


def fit_linear(
    X: Any, Y: Any, R: Any, weight: np.ndarray | None, settings: dict[str, Any], rng: np.random.RandomState
) -> LinearMaps:
    """Return linear maps of two tables for the pairs that R stores, its values their confidences."""
    if R.data.min() < 0:
        check.fail("R", "values >= 0, the confidences of pairs, with solver='als'", R.data.min())
    X, Y, pairs = (sparse.csr_array(table, copy=True) for table in (X, Y, R))
    for table in (X, Y, pairs):
        table.sum_duplicates()
        table.eliminate_zeros()
    if pairs.nnz == 0:
        check.fail("R", "at least one observed pair, with a value > 0", "none")
    pairs.data /= pairs.data.mean()
    n_features = settings["n_features"]
    max_iter, tol = settings["max_iter"] or _AUTO_ITERATIONS, max(settings["tol"], _LEAST_TOL)
    # The last bits of sums by BLAS depend on its number of threads; matrices this small gain nothing by more.
    with threadpool_limits(1, user_api="blas"):
        penalties = choose_penalties(X, Y, pairs, weight, n_features, rng)
        found = factorize(X, Y, pairs, weight, n_features, penalties, max_iter, tol, rng, settings["verbose"])
    phi, psi = (MLP([w], [np.zeros(n_features, w.dtype)]) for w in (found.W, found.V))
    return LinearMaps((phi, psi), found.curve, found.stopped_by)
