"""The tables and targets that `RelationValues` and `RowPairs` hold, as arguments of a fit."""

from __future__ import annotations

from typing import Any

from ..base import check
from ..samples import RelationValues, RowPairs
from ..samples.row_pairs import observed, values_of_pairs


def check_pairs(pairs: RowPairs, sample_weight: Any, *, symmetric: bool) -> None:
    """Check that pairs of rows suit an estimator, and have no weights."""
    if symmetric and pairs.Y is not None:
        check.fail("X", "pairs of rows of one table: AsymmetricRelation has two", repr(pairs))
    if sample_weight is not None:
        check.fail("sample_weight", "None for pairs of rows: weights are of rows", sample_weight)


def among_rows(X: Any, y: Any, sample_weight: Any) -> tuple[Any, Any]:
    """Return the table and the targets of a symmetric relation, which `samples` may wrap."""
    if isinstance(X, RowPairs):
        check_pairs(X, sample_weight, symmetric=True)
        return X.X, observed(X, values_of_pairs(y, X), symmetric=True)
    if not isinstance(y, RelationValues):
        return X, _columns_of_rows(y)
    if y.Y is not None:
        check.fail("y", "relation values in one table: AsymmetricRelation has two", repr(y))
    return X, y.values


def _columns_of_rows(y: Any) -> Any:
    """Return a pandas frame of which rows were selected with the same columns, by labels; others as given."""
    if not hasattr(y, "iloc") or y.ndim != 2 or y.shape[0] >= y.shape[1]:
        return y
    known = y.index.is_unique and y.columns.is_unique and y.index.isin(y.columns).all()
    return y.loc[:, y.index] if known else y


def between_tables(X: Any, y: Any, R: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
    """Return both tables and the values of a relation between them, which `samples` may wrap."""
    if R is not None and (isinstance(X, RowPairs) or isinstance(y, RelationValues)):
        check.fail("R", "None where y has the values", R)
    if isinstance(X, RowPairs):
        check_pairs(X, sample_weight, symmetric=False)
        return X.X, X.second, observed(X, values_of_pairs(y, X), symmetric=False)
    if isinstance(y, RelationValues):
        return X, X if y.Y is None else y.Y, y.values
    return X, y, R
