"""SciPy's sparse matrices, checked, as the kernels read them.

Kernels do not check column indices, so they are checked here. SciPy accepts indices outside of the matrix,
converts such a matrix by writing outside of arrays, and its `check_format` changes the matrix.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np

from ..base import check
from ..base.describe import described

FORMATS = ("csr", "csc", "coo")


def is_sparse(a: Any) -> bool:
    """Return whether this is a matrix or an array of `scipy.sparse`."""
    if type(a) is np.ndarray:
        return False
    sparse = sys.modules.get("scipy.sparse")
    return sparse is not None and bool(sparse.issparse(a))


class SparseRows(NamedTuple):
    """Rows in CSR format: row i has the entries from ``offsets[i]`` up to ``offsets[i + 1]``.

    Attributes
    ----------
    values : ndarray of shape (entries,)
    columns : ndarray of int32 or int64 of shape (entries,)
        In any order; a column that is stored twice counts twice.
    offsets : ndarray of int64 of shape (rows + 1,)
    shape : (int, int)
    """

    values: np.ndarray
    columns: np.ndarray
    offsets: np.ndarray
    shape: tuple[int, int]

    @property
    def dtype(self) -> np.dtype:
        """Return the dtype of the values."""
        return self.values.dtype

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the arrays as kernels take them."""
        return self.values, self.columns, self.offsets


def check_sparse(name: str, a: Any) -> None:
    """Check that a matrix in CSR, CSC or COO format has two dimensions, and its indices within them."""
    if a.ndim != 2:
        check.fail(name, "2 dimensions, as a sparse matrix has", a.shape)
    n, width = a.shape
    if a.format == "coo":
        _check_indices(name, "row", a.row, n, a.shape)
        _check_indices(name, "column", a.col, width, a.shape)
    elif a.format == "csc":
        _check_compressed(name, a, "row", width, n)
    else:
        _check_compressed(name, a, "column", n, width)


def sparse_rows(name: str, a: Any, dtype: np.dtype) -> SparseRows:
    """Return the rows of a sparse matrix; integers and booleans are converted to `dtype`, floats are not.

    A CSR matrix of floats is not copied. Other formats are converted, which sums the duplicates of COO.
    """
    if a.format not in FORMATS:
        raise TypeError(
            f"{name}: expected a sparse matrix in CSR, CSC or COO format, got {described(a)}: "
            f"use {name}.tocsr()"
        )
    kind = a.dtype
    if (kind.char not in "fd" and kind.kind not in "biu") or not kind.isnative:
        advice = "" if kind.kind == "c" else f": use {name}.astype(np.{dtype})"
        raise TypeError(f"{name}: expected {check.FLOATS}, integers or booleans, got {kind}{advice}")
    check_sparse(name, a)
    if kind.kind in "biu":
        a = a.astype(dtype)  # first: the sum of two booleans is a boolean
    a = a.tocsr()
    end = int(a.indptr[-1])
    columns = a.indices[:end]
    wide = columns.dtype.itemsize > np.dtype(np.int32).itemsize
    return SparseRows(
        _packed(a.data[:end], a.data.dtype),
        _packed(columns, np.int64 if wide else np.int32),
        _packed(a.indptr, np.int64),
        a.shape,
    )


def _packed(a: np.ndarray, dtype: Any) -> np.ndarray:
    """Return a vector as kernels read it: aligned, without gaps; a copy if it is not so."""
    return np.require(a, dtype, ["C", "A"])


def _check_indices(name: str, axis: str, indices: np.ndarray, size: int, shape: tuple[int, ...]) -> None:
    if indices.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers as {axis} indices, got {indices.dtype}")
    if indices.size and not (indices.min() >= 0 and indices.max() < size):
        worst = indices.min() if indices.min() < 0 else indices.max()
        check.fail(name, f"{axis} indices from 0 to {size - 1}, for shape {shape}", int(worst))


def _check_compressed(name: str, a: Any, axis: str, majors: int, minors: int) -> None:
    """Check the arrays of a matrix that is compressed by rows or by columns."""
    ends = a.indptr
    wanted = f"an indptr of {majors + 1} ascending offsets, for shape {a.shape}"
    if ends.shape != (majors + 1,):
        check.fail(name, wanted, f"one of shape {ends.shape}")
    stored = min(a.data.size, a.indices.size)
    if ends[0] != 0 or ends[-1] > stored:
        check.fail(name, f"an indptr from 0 to at most {stored} entries", f"from {ends[0]} to {ends[-1]}")
    if (ends[1:] < ends[:-1]).any():
        check.fail(name, wanted, "one that descends")
    if a.data.ndim != 1 or a.indices.ndim != 1:
        check.fail(name, "data and indices of one dimension", f"{a.data.shape} and {a.indices.shape}")
    _check_indices(name, axis, a.indices[: ends[-1]], minors, a.shape)
