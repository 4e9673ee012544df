"""Checks that both classes share."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import host
from ..arrays.sparse import FORMATS, check_sparse, is_sparse
from ..base import check
from ..base.describe import described


def matrix(name: str, values: Any) -> Any:
    """Return a matrix of numbers: an array, or a sparse matrix in CSR format, whose rows can be selected."""
    given = values
    if is_sparse(values):
        if values.format in FORMATS:
            check_sparse(name, values)
        with check.naming(name):
            values = values.tocsr()
    else:
        with check.naming(name):
            values = np.asarray(host(name, values))
    if values.ndim != 2 or values.dtype.kind not in "fiub":
        got = f"{described(given)}: pass the matrix that it returns" if callable(given) else described(values)
        raise TypeError(f"{name}: expected a matrix of numbers, got {got}")
    return values


def table(name: str, rows: Any) -> Any:
    """Return a table that has a shape, such as an array, a sparse matrix or a frame, as it is."""
    if not isinstance(getattr(rows, "shape", None), tuple):
        with check.naming(name):
            rows = np.asarray(rows)
    if len(rows.shape) not in (1, 2):
        raise TypeError(f"{name}: expected a table, one row per object, got {described(rows)}")
    return rows


def selected_rows(key: Any, n: int) -> np.ndarray:
    """Return the rows that an index selects: a slice, an array of integers or booleans, ``(rows, ...)``."""
    rows = key[0] if isinstance(key, tuple) and len(key) == 2 and key[1] is Ellipsis else key
    found = None if isinstance(rows, tuple) else np.arange(n)[rows]
    if found is None or found.ndim != 1:
        raise TypeError(f"expected a slice or an array of rows, got {described(key)}")
    return found
