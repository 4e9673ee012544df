"""The rows of `Keys` at one moment, and exact retrieval over them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..arrays.allocate import empty
from ..arrays.engine import PROCESSOR
from ..arrays.half import HALVES, widen
from .sides import Attended, spread

# Dtypes of storage by name, and those of their elements: bfloat16 is stored as its bits.
ELEMENTS: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(np.uint16),
}
# Bytes of float32 to which rows of 16 bits are widened at a time.
_BLOCK = 4 << 20

Best = tuple[np.ndarray, np.ndarray]


def merged(a: Best, b: Best, k: int) -> Best:
    """Return the `k` best of two results of `retrieve` over different keys, with their indices."""
    values, indices = (np.concatenate(both, axis=-1) for both in zip(a, b, strict=True))
    # lexsort's last key is the primary one: found or padding; then value, NaN last; then index.
    best = np.lexsort((indices, -values, indices < 0), axis=-1)[..., :k]
    return np.take_along_axis(values, best, axis=-1), np.take_along_axis(indices, best, axis=-1)


class Stored(NamedTuple):
    """Keys at one moment. A change makes another object, so a search over this one can go on.

    Arrays may have room after the rows. Only the newest object may fill it, in `extended`: `Keys` calls that
    under its lock. Rows that were removed stay until half of all rows are such.

    Attributes
    ----------
    dtype : str
        Of the storage.
    features : ndarray of shape (room, d)
    ids : ndarray of int64 of shape (room,)
        Ascending.
    kept : ndarray of bool of shape (rows,) or None
        False for rows that were removed; None if there are none.
    rows : int
    size : int
        Rows that were not removed.
    next_id : int
    """

    dtype: str
    features: np.ndarray
    ids: np.ndarray
    kept: np.ndarray | None
    rows: int
    size: int
    next_id: int

    @classmethod
    def of(cls, dtype: str, features: np.ndarray, ids: np.ndarray | None = None, next_id: int = 0) -> Stored:
        """Return new rows with these features; without `ids` they are numbered from 0."""
        rows = len(features)
        if ids is None:
            ids, next_id = np.arange(rows), rows
        return cls(dtype, features, ids, None, rows, rows, next_id)

    def contents(self) -> dict[str, Any]:
        """Return the arrays without room, and the next id, from which `restored` makes the same rows."""
        rows = self.trimmed()
        return {"features": rows.features, "ids": rows.ids, "next_id": rows.next_id}

    @classmethod
    def restored(cls, dtype: str, features: np.ndarray, ids: np.ndarray, next_id: int) -> Stored:
        """Return the rows with these contents."""
        return cls(dtype, features, ids, None, len(ids), len(ids), next_id)

    @property
    def width(self) -> int:
        """Number of features."""
        return self.features.shape[1]

    @property
    def arithmetic(self) -> np.dtype:
        """Dtype of queries and of scores."""
        return ELEMENTS["float64" if self.dtype == "float64" else "float32"]

    @property
    def arrays(self) -> list[np.ndarray]:
        """All arrays, with their room."""
        return [a for a in (self.features, self.ids, self.kept) if a is not None]

    @property
    def kept_ids(self) -> np.ndarray:
        """The ids of the rows that were not removed, read-only."""
        ids = self.ids[: self.rows] if self.kept is None else self.ids[: self.rows][self.kept]
        ids.flags.writeable = False
        return ids

    def trimmed(self) -> Stored:
        """Return the same rows without the room, whose arrays this object shares."""
        return self._replace(features=self.features[: self.rows], ids=self.ids[: self.rows])

    def compact(self) -> Stored:
        """Return the same without the rows that were removed; arrays are copied if there are any."""
        if self.kept is None:
            return self.trimmed()
        features = empty("Keys", (self.size, self.width), self.features.dtype)
        np.compress(self.kept, self.features[: self.rows], axis=0, out=features)
        return Stored.of(self.dtype, features, self.ids[: self.rows][self.kept], self.next_id)

    def extended(self, features: np.ndarray) -> Stored:
        """Return these rows and more, which receive the next ids."""
        if len(features) == 0:
            return self
        rows = self.rows + len(features)
        grown = self if rows <= len(self.features) else self._with_room(max(rows, 2 * self.rows))
        grown.features[self.rows : rows] = features
        grown.ids[self.rows : rows] = np.arange(self.next_id, self.next_id + len(features))
        kept = self.kept
        if kept is not None:
            kept = np.concatenate([kept, np.ones(len(features), np.bool_)])
        added = len(features)
        return grown._replace(kept=kept, rows=rows, size=self.size + added, next_id=self.next_id + added)

    def _with_room(self, room: int) -> Stored:
        """Return the same rows in larger arrays."""
        larger = []
        for a in (self.features, self.ids):
            larger.append(empty("Keys", (room, *a.shape[1:]), a.dtype))
            larger[-1][: self.rows] = a[: self.rows]
        return self._replace(features=larger[0], ids=larger[1])

    def places(self, ids: np.ndarray) -> np.ndarray:
        """Return the rows that have these ids; -1 for ids that no row has."""
        own = self.ids[: self.rows]
        places = np.searchsorted(own, ids)
        inside = places < self.rows
        inside[inside] = own[places[inside]] == ids[inside]
        if self.kept is not None:
            inside[inside] = self.kept[places[inside]]
        return np.where(inside, places, -1)

    def without(self, places: np.ndarray) -> Stored:
        """Return these rows without some, each given once."""
        if places.size == 0:
            return self
        kept = np.ones(self.rows, np.bool_) if self.kept is None else self.kept.copy()
        kept[places] = False
        rest = self._replace(kept=kept, size=self.size - len(places))
        return rest.compact() if 2 * rest.size <= rest.rows else rest

    def search(self, a: Attended, values: np.ndarray, indices: np.ndarray) -> None:
        """Write the best scores of queries and the ids of their keys.

        `a` has the queries, and the mask over the rows that were not removed; its keys are not read.
        """
        mask = self._allowed(a)
        if self.dtype in HALVES:
            self._search_blocks(a, mask, values, indices)
        else:
            keys = spread(self.features[: self.rows], a.lead, 2)
            PROCESSOR.run("retrieve", a.q, keys, None, None, a.precision, mask, values, indices)
        if self.next_id != self.rows:  # otherwise the ids are the numbers of the rows
            found = indices >= 0
            indices[found] = self.ids[indices[found]]

    def _allowed(self, a: Attended) -> np.ndarray | None:
        """Return the mask of all rows."""
        if self.kept is None:
            return a.mask
        if a.mask is None:
            allowed = self.kept
        else:
            # The caller's mask, without the axes along which it was broadcast.
            given = a.mask[tuple(slice(None if step else 1) for step in a.mask.strides)]
            allowed = np.zeros((*given.shape[:-1], self.rows), np.bool_)
            allowed[..., self.kept] = given
        return np.broadcast_to(allowed, (*a.lead, a.n, self.rows))

    def _search_blocks(
        self, a: Attended, mask: np.ndarray | None, values: np.ndarray, indices: np.ndarray
    ) -> None:
        """Search rows of 16 bits, which are widened to float32 block by block."""
        k = values.shape[-1]
        best: Best | None = None
        step = max(_BLOCK // (4 * self.width), k)
        for first in range(0, self.rows, step):
            block = widen(self.features[first : min(first + step, self.rows)], self.dtype)
            shape = (*values.shape[:-1], min(k, len(block)))
            part = np.empty(shape, values.dtype), np.empty(shape, indices.dtype)
            allowed: Any = None if mask is None else mask[..., first : first + step]
            keys = spread(block, a.lead, 2)
            PROCESSOR.run("retrieve", a.q, keys, None, None, a.precision, allowed, *part)
            part[1][part[1] >= 0] += first
            best = part if best is None else merged(best, part, k)
        if best is not None:
            values[...], indices[...] = best
