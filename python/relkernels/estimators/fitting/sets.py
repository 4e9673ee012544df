"""Sets of items: of equal sizes, of different sizes, or one set that all queries share."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...base import check
from ...base.describe import described
from ..tables import check_array


class ItemSets:
    """The sets of items that b queries choose from.

    Attributes
    ----------
    items : ndarray of shape (sum(sizes), d_x), or (n, d_x) if all queries share one set
        Stored set by set.
    sizes : ndarray of int of shape (b,)
    shared : bool
    available : ndarray of bool of shape (b, n), or None
        The places of the stored items in sets that were given with n items, some of them not available.
    """

    def __init__(
        self, items: np.ndarray, sizes: np.ndarray, shared: bool, available: np.ndarray | None = None
    ) -> None:
        self.items = items
        self.sizes = sizes
        self.shared = shared
        self.available = available
        self.starts = np.zeros(len(sizes), np.int64) if shared else np.cumsum(sizes) - sizes

    @classmethod
    def read(cls, name: str, sets: Any, b: int, dtype: np.dtype) -> ItemSets:
        """Read (b, n, d_x), b arrays of shape (n_i, d_x), or one set: (n, d_x), or (n,) for one feature."""
        several = isinstance(sets, (list, tuple)) or (
            isinstance(sets, np.ndarray) and sets.dtype == object and sets.ndim == 1
        )
        with check.naming(name):
            dimensions = np.ndim(sets[0]) if several and len(sets) else 0
        if dimensions == 2:
            if len(sets) != b:
                check.fail(name, f"{b} sets, one for each query", f"{len(sets)} sets")
            read = [_array(f"{name}[{i}]", one, 2, dtype) for i, one in enumerate(sets)]
            widths = {one.shape[1] for one in read}
            if len(widths) > 1:
                shapes = f"{sorted(widths)} features"
                check.fail(name, "items with the same number of features", shapes)
            return cls(np.concatenate(read), np.array([len(one) for one in read]), shared=False)
        if not isinstance(getattr(sets, "shape", None), tuple):  # a frame keeps its columns' names
            with check.naming(name):
                sets = np.asarray(sets)
        if len(sets.shape) < 3:
            items = check_array(sets, dtype=dtype, ensure_2d=False, input_name=name)
            items = items.reshape(-1, 1) if items.ndim == 1 else items
            return cls(items, np.full(b, len(items)), shared=True)
        values = _array(name, sets, 3, dtype)
        if len(values) != b:
            check.fail(name, f"{b} sets, one for each query", f"shape {values.shape}")
        return cls(
            np.ascontiguousarray(values).reshape(-1, values.shape[2]),
            np.full(b, values.shape[1]),
            shared=False,
        )

    def of_available(self, name: str, available: Any) -> ItemSets:
        """Return the sets without the items that a mask (b, n) excludes."""
        with check.naming(name):
            mask = np.asarray(available)
        n = int(self.sizes[0])
        if mask.dtype != bool:
            raise TypeError(f"{name}: expected a mask of booleans, got {described(mask)}")
        if (self.sizes != n).any() or mask.shape != (len(self.sizes), n):
            wanted = "sets of one size and a mask (b, n) of their items"
            check.fail(name, wanted, f"sets of {np.unique(self.sizes)} items and shape {mask.shape}")
        sizes = mask.sum(axis=1)
        if not sizes.all():
            check.fail(name, "at least one item in each set", f"none in set {sizes.argmin()}")
        if sizes.min() == n:
            return self
        place = np.nonzero(mask)[1] if self.shared else np.flatnonzero(mask)
        return ItemSets(self.items[place], sizes, shared=False, available=mask)

    def with_items(self, items: np.ndarray) -> ItemSets:
        """Return the same sets with other columns."""
        return ItemSets(items, self.sizes, self.shared, self.available)

    def select(self, rows: np.ndarray) -> ItemSets:
        """Return the sets of these queries."""
        items = self.items if self.shared else self.items[self.places(rows)]
        available = None if self.available is None else self.available[rows]
        return ItemSets(items, self.sizes[rows], self.shared, available)

    def places(self, rows: np.ndarray) -> np.ndarray:
        """Return the indices in `items` of the sets of these queries, set by set."""
        sizes = self.sizes[rows]
        begin = np.repeat(self.starts[rows] - (np.cumsum(sizes) - sizes), sizes)
        return begin + np.arange(int(sizes.sum()))

    def padded(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the items as (b, n, d_x), or (n, d_x) if shared, and a mask of the items or None for all."""
        if self.shared:
            return self.items, None
        most = int(self.sizes.max())
        if (self.sizes == most).all():
            return self.items.reshape(len(self.sizes), most, -1), None
        mask = np.arange(most) < self.sizes[:, None]
        return self.spread(self.items), mask[:, None, :]

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Return (sum(sizes), c) values as (b, n, c), padded with zeros."""
        there = np.arange(int(self.sizes.max())) < self.sizes[:, None]
        out = np.zeros((*there.shape, values.shape[1]), values.dtype)
        out[there] = values
        return out

    def place_in_given(self, index: np.ndarray) -> np.ndarray:
        """Return the indices in the given sets of these items of the stored ones."""
        if self.available is None:
            return index
        return np.nonzero(self.available)[1][self.starts + index]

    def as_given(self, rows: Any) -> Any:
        """Return rows of numbers of the stored items as (b, n) with -inf for items that are not available."""
        if self.available is None:
            return rows
        values = np.concatenate(rows)
        out = np.full(self.available.shape, -np.inf, values.dtype)
        out[self.available] = values
        return out

    def indices(self, name: str, chosen: Any) -> np.ndarray:
        """Return the index among the stored items of one item in each set, given by its place in the set."""
        with check.naming(name):
            index = np.asarray(chosen)
        if index.dtype.kind not in "iu":
            raise TypeError(f"{name}: expected integer indices, got {described(index)}")
        if index.shape != self.sizes.shape:
            check.fail(name, f"shape {self.sizes.shape}, one index for each query", index.shape)
        sizes = self.sizes if self.available is None else np.full(index.shape, self.available.shape[1])
        wrong = np.flatnonzero((index < 0) | (index >= sizes))
        if len(wrong):
            i = wrong[0]
            check.fail(name, f"an index below {sizes[i]}, the size of set {i}", index[i])
        if self.available is None:
            return index.astype(np.int64)
        rows = np.arange(len(index))
        wrong = np.flatnonzero(~self.available[rows, index])
        if len(wrong):
            i = wrong[0]
            check.fail(name, f"an item that is available in set {i}", index[i])
        return np.cumsum(self.available, axis=1)[rows, index] - 1

    def grades(self, name: str, grades: Any) -> list[np.ndarray]:
        """Return a row of finite grades for each set, one for each of its available items."""
        rows = [check.numbers(f"{name}[{i}]", row) for i, row in enumerate(check.sequence(name, grades))]
        if len(rows) != len(self.sizes):
            check.fail(name, f"{len(self.sizes)} rows, one for each query", len(rows))
        if self.available is not None:
            for i, (row, mask) in enumerate(zip(rows, self.available, strict=True)):
                if row.shape != mask.shape:
                    check.fail(f"{name}[{i}]", f"shape {mask.shape}, one grade for each item", row.shape)
            rows = [row[mask] for row, mask in zip(rows, self.available, strict=True)]
        for i, (row, size) in enumerate(zip(rows, self.sizes, strict=True)):
            if row.shape != (size,):
                check.fail(f"{name}[{i}]", f"shape ({size},), one grade for each item", row.shape)
            if not np.isfinite(row).all():
                check.fail(f"{name}[{i}]", "finite grades", row[~np.isfinite(row)][0])
        return rows


def _array(name: str, values: Any, ndim: int, dtype: np.dtype) -> np.ndarray:
    """Return finite values with `ndim` dimensions, none of them empty."""
    values = check.sequence(name, values)
    if np.ndim(values) != ndim:
        check.fail(name, f"{ndim} dimensions", f"shape {np.shape(values)}")
    if 0 in np.shape(values):
        check.fail(name, "at least one item with at least one feature", f"shape {np.shape(values)}")
    return check_array(values, dtype=dtype, allow_nd=True, input_name=name)
