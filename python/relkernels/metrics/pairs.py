"""Sets of pairs (row, item) with values: the relevant items of each row, and those to leave out."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from ..arrays import host
from ..base import check
from ..base.describe import described

_FORMS = "a sparse matrix, an array of shape (n, m), or for each row its item or a list of its items"


class Pairs(Protocol):
    """Pairs of n rows with m items."""

    def block(self, rows: slice) -> Any:
        """Return these rows as a SciPy CSR array of float64 with sorted indices; only pairs are stored."""


class StoredPairs:
    """Pairs in a CSR array."""

    def __init__(self, name: str, matrix: Any, shape: tuple[int, int]) -> None:
        from scipy.sparse import csr_array

        if matrix.shape != shape:
            check.fail(name, f"shape {shape}, rows and items of scores", matrix.shape)
        if matrix.dtype.kind not in "fiub":
            raise TypeError(f"{name}: expected numbers, got values of dtype {matrix.dtype}")
        with check.naming(name):
            self._matrix = csr_array(matrix, dtype=np.float64)
            self._matrix.sum_duplicates()
        values = self._matrix.data
        if not (np.isfinite(values).all() and (values >= 0).all()):
            check.fail(name, "finite values >= 0", "negative, NaN or infinite ones")
        self._matrix.eliminate_zeros()

    def block(self, rows: slice) -> Any:
        """Return these rows."""
        return self._matrix[rows]


class SameLabel:
    """Pairs of objects that have the same label."""

    def __init__(self, labels: np.ndarray) -> None:
        _, self._codes = np.unique(labels, return_inverse=True)

    def block(self, rows: slice) -> Any:
        """Return these rows."""
        from scipy.sparse import csr_array

        return csr_array(self._codes[rows][:, None] == self._codes, dtype=np.float64)


def n_rows(pairs: Any) -> int:
    """Return the number of rows of pairs in any of the forms that the measures accept."""
    if getattr(pairs, "ndim", 1) == 2:
        return int(pairs.shape[0])
    return len(check.sequence("relevant", pairs, _FORMS))


def as_pairs(name: str, value: Any, shape: tuple[int, int]) -> Pairs:
    """Return pairs in any of the forms that the measures accept."""
    from scipy import sparse

    if isinstance(value, (StoredPairs, SameLabel)):
        return value
    value = host(name, value)
    if sparse.issparse(value):
        return StoredPairs(name, value, shape)
    if isinstance(value, np.ndarray) and value.ndim == 2:
        if value.dtype.kind not in "fiub":
            raise TypeError(f"{name}: expected {_FORMS}, got {described(value)}")
        return StoredPairs(name, value, shape)
    if len(check.sequence(name, value, _FORMS)) != shape[0]:
        check.fail(name, f"one item or list of items for each of {shape[0]} rows", f"length {len(value)}")
    return StoredPairs(name, _from_lists(name, value, shape), shape)


def _from_lists(name: str, lists: Any, shape: tuple[int, int]) -> Any:
    from scipy.sparse import csr_array

    each = [np.atleast_1d(np.asarray(items)) for items in lists]
    for i, items in enumerate(each):
        if items.ndim != 1 or (len(items) and items.dtype.kind not in "iu"):
            raise TypeError(f"{name}[{i}]: expected an item or a list of items, got {described(items)}")
        if len(items) and not (items.min() >= 0 and items.max() < shape[1]):
            check.fail(f"{name}[{i}]", f"items from 0 to {shape[1] - 1}", f"{items.min()} to {items.max()}")
    distinct = [np.unique(items) for items in each]
    sizes = [len(items) for items in distinct]
    indices = np.concatenate(distinct).astype(np.int64) if distinct else np.empty(0, np.int64)
    return csr_array((np.ones(len(indices)), indices, np.cumsum([0, *sizes])), shape=shape)
