"""The rows of `Keys` at one moment, and exact retrieval over them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import _core
from ..arrays.allocate import empty
from .excluded import Excluded
from .sides import Attended

# Dtypes of storage by name, and those of their elements: bfloat16 is stored as its bits.
ELEMENTS: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(np.uint16),
}
# Keys per panel of codes, and the most features that codes have.
_PANEL, _WIDEST = 16, 65_536


def panels(rows: int) -> int:
    """Return the number of panels of codes of this many keys."""
    return -(-rows // _PANEL)


class Stored(NamedTuple):
    """Keys at one moment. A change makes another object, so a search over this one can go on.

    Arrays may have room after the rows. Only the newest object may fill it, in `extended`: `Keys` calls that
    under its lock. Rows that were removed stay until half of all rows are such.

    Attributes
    ----------
    dtype : str
        Of the storage.
    features : ndarray of shape (room, d)
    codes : ndarray of int8 of shape (panels, ceil(d / 4), 16, 4) or None
        Features in 8 bits, by which the kernel skips keys that cannot be among the best; only for float32.
    terms : ndarray of float32 of shape (panels, 4, 16) or None
        Scales and norms of the codes.
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
    codes: np.ndarray | None
    terms: np.ndarray | None
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
        new = cls(dtype, features, None, None, ids, None, rows, rows, next_id)._with_codes(rows)
        new._encode(0)
        return new

    def contents(self) -> dict[str, Any]:
        """Return the arrays without room, and the next id, from which `restored` makes the same rows."""
        rows = self.trimmed()
        contents = {"codes": rows.codes, "features": rows.features, "terms": rows.terms, "ids": rows.ids}
        return {name: a for name, a in contents.items() if a is not None} | {"next_id": rows.next_id}

    @classmethod
    def restored(
        cls,
        dtype: str,
        features: np.ndarray,
        ids: np.ndarray,
        next_id: int,
        codes: np.ndarray | None = None,
        terms: np.ndarray | None = None,
    ) -> Stored:
        """Return the rows with these contents."""
        return cls(dtype, features, codes, terms, ids, None, len(ids), len(ids), next_id)

    @staticmethod
    def shapes_of_codes(dtype: str, rows: int, width: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of codes and terms, or nothing if such rows have none."""
        if dtype != "float32" or width > _WIDEST:
            return {}
        count = panels(rows)
        return {"codes": (count, -(-width // 4), _PANEL, 4), "terms": (count, 4, _PANEL)}

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
        held = (self.features, self.codes, self.terms, self.ids, self.kept)
        return [a for a in held if a is not None]

    @property
    def kept_ids(self) -> np.ndarray:
        """The ids of the rows that were not removed, read-only."""
        ids = self.ids[: self.rows] if self.kept is None else self.ids[: self.rows][self.kept]
        ids.flags.writeable = False
        return ids

    def trimmed(self) -> Stored:
        """Return the same rows without the room, whose arrays this object shares."""
        used = slice(panels(self.rows))
        return self._replace(
            features=self.features[: self.rows],
            codes=None if self.codes is None else self.codes[used],
            terms=None if self.terms is None else self.terms[used],
            ids=self.ids[: self.rows],
        )

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
        new = grown._replace(kept=kept, rows=rows, size=self.size + added, next_id=self.next_id + added)
        new._encode(self.rows)
        return new

    def _with_room(self, room: int) -> Stored:
        """Return the same rows in larger arrays."""
        new = self._replace(
            features=empty("Keys", (room, self.width), self.features.dtype),
            ids=empty("Keys", (room,), self.ids.dtype),
        )._with_codes(room)
        for larger, a in zip(new.arrays, self.trimmed().arrays, strict=True):
            larger[: len(a)] = a
        return new

    def _with_codes(self, room: int) -> Stored:
        """Return the same with new arrays for the codes, not yet encoded, if the rows have codes."""
        shapes = self.shapes_of_codes(self.dtype, room, self.width)
        if not shapes:
            return self
        return self._replace(
            codes=empty("Keys", shapes["codes"], np.dtype(np.int8)),
            terms=empty("Keys", shapes["terms"], np.dtype(np.float32)),
        )

    def _encode(self, first: int) -> None:
        """Write the codes of the rows from `first` on; those of the rows before may be in use."""
        if self.codes is None or self.terms is None:
            return
        features = self.features[: self.rows]
        panel, begun = divmod(first, _PANEL)
        if begun:
            rows = features[panel * _PANEL : (panel + 1) * _PANEL]
            codes, terms = np.empty_like(self.codes[:1]), np.empty_like(self.terms[:1])
            _core.encode_keys(rows, 0, codes, terms)
            self.codes[panel, :, begun:] = codes[0, :, begun:]
            self.terms[panel, :, begun:] = terms[0, :, begun:]
            panel += 1
        if panel * _PANEL < self.rows:
            _core.encode_keys(features, panel * _PANEL, self.codes, self.terms)

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

    def codes_for(self, precision: Any) -> tuple[Any, ...]:
        """Return codes and terms, if a search in this precision can use them."""
        usable = self.codes is not None and self.rows > 0 and precision is None
        return (self.codes, self.terms) if usable else ()

    def to_ids(self, indices: np.ndarray) -> None:
        """Replace rows by their ids, in place; -1 stays."""
        if self.next_id != self.rows:  # otherwise the ids are the numbers of the rows
            found = indices >= 0
            indices[found] = self.ids[indices[found]]

    def rows_of(self, excluded: Excluded, ids: bool) -> Excluded:
        """Return lists of rows for lists of ids, or of places in `kept_ids`."""
        if ids:
            if self.next_id == self.rows:
                return excluded
            return excluded.translated(self.places(excluded.columns))
        if self.kept is None:
            return excluded
        own = excluded.columns - excluded.first
        inside = (own >= 0) & (own < self.size)
        rows = np.flatnonzero(self.kept)
        return excluded.translated(np.where(inside, rows[np.where(inside, own, 0)], -1))

    def allowed(self, a: Attended) -> np.ndarray | None:
        """Return the mask of all rows for a search whose mask has the rows that were not removed."""
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
