"""Checks of relation values: dense matrices, and sparse matrices of observed pairs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy import sparse

from ..base import check
from .tables import check_array

# Asymmetry relative to the largest entry that counts as rounding.
_ROUNDING = 1e-6


def _asymmetry(name: str, difference: float, largest: float) -> None:
    if difference > _ROUNDING * max(largest, 1e-30):
        check.fail(name, "a symmetric matrix", f"entries that differ by {difference:.3g}")


def _finite(name: str, values: np.ndarray, shape: tuple[int, ...]) -> None:
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        hint = (
            "; pass a sparse matrix of the observed pairs where some are unknown" if values.ndim == 2 else ""
        )
        check.fail(name, "finite relation values", f"{bad} NaN or infinite in shape {shape}{hint}")


def _shape(name: str, got: tuple[int, ...], shape: tuple[int, int], expected: str) -> None:
    """Check the shape of a matrix of values; mention what selects its columns if only rows were selected."""
    if got != shape:
        only_rows = len(got) == 2 and got[0] == shape[0] and got[1] > shape[1]
        hint = "; to select columns with the rows, scikit-learn needs relkernels.RelationValues"
        check.fail(name, expected, f"{got}{hint if only_rows else ''}")


def values_matrix(name: str, values: Any, shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """Return relation values as a dense matrix of this shape."""
    matrix = check_array(values, dtype=dtype, input_name=name, ensure_all_finite=False)
    square = "square " if shape[0] == shape[1] else ""
    _shape(name, matrix.shape, shape, f"a {square}matrix of shape {shape}")
    _finite(name, matrix, matrix.shape)
    return matrix


def symmetric_values(name: str, values: Any, n: int, dtype: np.dtype) -> np.ndarray:
    """Return relation values among n objects."""
    matrix = values_matrix(name, values, (n, n), dtype)
    _asymmetry(name, float(np.abs(matrix - matrix.T).max()), float(np.abs(matrix).max()))
    return matrix


def observed_pairs(
    name: str, values: Any, shape: tuple[int, int], dtype: np.dtype, loss: str, symmetric: bool = False
) -> Any:
    """Return a sparse matrix of observed pairs in CSR format, indices sorted and within `shape`."""
    _shape(name, values.shape, shape, f"pair indices below {shape}, the rows of both tables")
    if hasattr(values, "check_format"):  # before a conversion that would dereference invalid indices
        try:
            values.check_format(full_check=True)
        except ValueError as error:
            check.fail(name, f"pair indices below {shape}", str(error))
    elif values.format == "coo" and values.nnz:
        low, high = min(values.row.min(), values.col.min()), (values.row.max(), values.col.max())
        if low < 0 or high[0] >= shape[0] or high[1] >= shape[1]:
            check.fail(name, f"pair indices below {shape}", f"indices up to {high}, from {low}")
    observed = values.tocsr().astype(dtype)
    observed.sum_duplicates()
    if observed.nnz == 0:
        check.fail(name, "at least one observed pair", f"a sparse matrix of shape {shape} without entries")
    _finite(name, observed.data, shape)
    if loss == "softmax" and not (observed.data > 0).all():
        check.fail(name, "values > 0 with loss='softmax'", observed.data.min())
    if symmetric:
        difference = abs(observed - observed.T)
        _asymmetry(name, float(difference.max()), float(abs(observed).max()))
    return observed


def is_matrix(y: Any) -> bool:
    """Return True for a matrix of values, False for one column of labels."""
    with check.naming("y"):
        values = np.asarray(y)
    return values.ndim == 2 and values.shape[1] > 1


def values_of(kernel: Callable[..., Any], A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """Return the values that a kernel gives between the rows of two arrays."""
    with check.naming("y"):
        values = np.asarray(kernel(A, B))
    shape = A.shape[0], B.shape[0]
    if values.shape != shape:
        check.fail("y", f"a kernel that returns shape {shape}", values.shape)
    return values.astype(A.dtype, copy=False)


def selected(y: Any, rows: np.ndarray) -> Any:
    """Return the targets among these objects."""
    if callable(y):
        return y
    if sparse.issparse(y):
        return y[rows][:, rows]
    return y[rows] if y.ndim == 1 else y[np.ix_(rows, rows)]


def targets_among(y: Any, X: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from indices of objects to targets as `relation_loss` expects them."""
    if callable(y):
        return lambda rows: values_of(y, X[rows], X[rows])
    return partial(selected, y)


def relation_values(R: Any, shape: tuple[int, int], dtype: np.dtype, loss: str) -> Any:
    """Return relation values between two tables, dense or as a sparse matrix of observed pairs."""
    if sparse.issparse(R):
        return observed_pairs("R", R, shape, dtype, loss)
    return values_matrix("R", R, shape, dtype)
