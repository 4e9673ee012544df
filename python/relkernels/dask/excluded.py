"""The argument `exclude` of searches: lists of indices as blocks of rows."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np

from ..arrays.sparse import is_sparse
from ..base import check
from ..ops.excluded import Excluded, excluded
from .arrays import array


def excluded_array(exclude: Any, q: da.Array, m: int, single: bool) -> da.Array | None:
    """Return lists of indices, or a sparse matrix, with a row for each query.

    Blocks of a sparse matrix are sparse, with the rows of a block of queries.
    """
    if exclude is None:
        return None
    n = q.shape[-2]
    if not isinstance(exclude, da.Array):  # all checks that need the indices
        excluded(exclude, None if single else n, m)
    if is_sparse(exclude):
        rows = q.chunks[-2] if exclude.shape[0] == n else (1,)
        return da.from_array(exclude.tocsr(), chunks=(rows, (m,)), asarray=False)
    lists = array("exclude", exclude)
    if lists.dtype.kind not in "iu":
        raise TypeError(f"exclude: expected an array of integer indices, got one of {lists.dtype}")
    given = lists.shape
    if single:
        lists = lists[None, None] if lists.ndim == 0 else lists[..., None, :]
    elif lists.ndim == 1:
        lists = lists[:, None]
    if lists.ndim < 2 or lists.shape[-2] not in (1, n):
        check.fail("exclude", "shape (e,) or ()" if single else f"shape ({n},) or (..., {n}, e)", given)
    return lists


def excluded_block(lists: Any, q: np.ndarray, m: int, first: int) -> Excluded:
    """Return the lists of a block of queries for keys of which the first is number `first` of all m."""
    found = excluded(lists, q.shape[-2], m)
    assert found is not None
    return found.from_column(first)
