"""scikit-learn's checks of tables, extended to arrays of other libraries, sparse indices and frames' columns.

Arrays of other libraries keep their dtype and are not copied (scikit-learn converts them to float64), and
messages name the columns of a frame that are not numeric.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sklearn.utils import check_array as _check_array
from sklearn.utils.validation import _check_sample_weight, _check_y, check_consistent_length
from sklearn.utils.validation import validate_data as _validate_data

from ..arrays import host
from ..arrays.sparse import FORMATS, check_sparse, is_sparse
from ..base import check


def validate_data(estimator: Any, X: Any, *, name: str = "X", **options: Any) -> Any:
    """Return `sklearn.utils.validation.validate_data` of a table X, which messages call `name`."""
    table = _table(name, X)
    return _named(name, table, lambda: _validate_data(estimator, table, **options))


def check_array(table: Any, *, input_name: str, **options: Any) -> Any:
    """Return `sklearn.utils.check_array` of a table."""
    table = _table(input_name, table)
    return _named(input_name, table, lambda: _check_array(table, input_name=input_name, **options))


def _table(name: str, X: Any) -> Any:
    """Return a table as scikit-learn reads it; refuse sparse indices that crash its conversions."""
    if is_sparse(X) and X.format in FORMATS:
        check_sparse(name, X)
    return host(name, X)


def equal_rows(A: Any, B: Any) -> np.ndarray:
    """Return whether each row of a table equals that of another; both are dense, or both sparse."""
    if is_sparse(A):
        return np.asarray((A != B).sum(axis=1)).ravel() == 0
    return np.asarray((A == B).all(axis=1))


def check_sample_weight(weight: Any, X: np.ndarray, dtype: Any) -> np.ndarray:
    """Return the weights of the rows of X, none of them negative."""
    with check.naming("sample_weight"):
        weights = _check_sample_weight(weight, X, dtype=dtype, ensure_non_negative=True)
    if not np.isfinite(weights).all():
        check.fail("sample_weight", "finite weights", "NaN or infinite ones")
    return weights


def check_target(estimator: Any, X: np.ndarray, y: Any) -> np.ndarray:
    """Return the numeric targets of the rows of X, in one or two dimensions."""
    with check.naming("y"):
        target = _check_y(host("y", y), multi_output=True, y_numeric=True, estimator=estimator)
        check_consistent_length(X, target)
    return target


def _named(name: str, table: Any, checked: Callable[[], Any]) -> Any:
    try:
        with check.naming(name):
            return checked()
    except (TypeError, ValueError) as error:
        columns = ", ".join(_not_numeric(table))
        if not columns:
            raise
        with check.naming(name):  # of a frame of many columns
            raise ValueError(f"{name}: expected columns of numbers, got {columns}") from error


def _not_numeric(table: Any) -> Iterator[str]:
    """Yield the columns of a pandas or polars frame that do not convert to numbers."""
    if not (hasattr(table, "columns") and hasattr(table, "__getitem__") and hasattr(table, "shape")):
        return
    for column in table.columns:
        values = table[column]
        dtype = getattr(values, "dtype", None)
        is_numeric = getattr(dtype, "is_numeric", None)  # of polars
        if getattr(dtype, "kind", "O") in "fiub" or (is_numeric is not None and is_numeric()):
            continue
        try:
            np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError):
            yield f"{column!r} of dtype {dtype}"
