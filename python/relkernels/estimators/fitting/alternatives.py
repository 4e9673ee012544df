"""Alternatives with names: columns of ones and zeros that tell items which alternative they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...base import check
from .sets import ItemSets


def with_alternatives(sets: ItemSets, names: np.ndarray, known: np.ndarray) -> ItemSets:
    """Return the sets with a column for each known alternative: 1 for its items, 0 for the others."""
    code = np.searchsorted(known, names)
    columns = np.zeros((len(sets.items), len(known)), sets.items.dtype)
    columns[np.arange(len(code)), code] = 1
    return sets.with_items(np.concatenate([sets.items, columns], axis=1))


def read_alternatives(name: str, given: Any, sets: ItemSets, known: np.ndarray | None) -> np.ndarray:
    """Return the name of the alternative of each stored item.

    `given` has a name for each place in the sets, (n,), or for each item: (b, n), or b rows of n_i names.
    With `known` alternatives, those of a fit, names must be among them.
    """
    rows = _rows(name, given, sets)
    if known is not None:
        unknown = np.setdiff1d(rows, known) if (rows.dtype.kind == "U") == (known.dtype.kind == "U") else rows
        if len(unknown):
            check.fail(name, f"alternatives of the fit, {known.tolist()}", repr(unknown.tolist()[0]))
    return rows


def _rows(name: str, given: Any, sets: ItemSets) -> np.ndarray:
    ragged = sets.available is None and (sets.sizes != sets.sizes[0]).any()
    if ragged:
        rows = [_names(name, row) for row in check.sequence(name, given)]
        sizes = [row.shape for row in rows]
        if sizes != [(size,) for size in sets.sizes]:
            check.fail(
                name, "a name for each item of each set", f"{len(rows)} rows for {len(sets.sizes)} sets"
            )
        return np.concatenate(rows)
    names = _names(name, given)
    b = len(sets.sizes)
    n = sets.available.shape[1] if sets.available is not None else int(sets.sizes[0])
    if sets.shared:
        if names.shape != (n,):
            check.fail(name, f"shape ({n},), a name for each item that all queries share", names.shape)
        return names
    if names.shape not in ((n,), (b, n)):
        check.fail(name, f"shape ({n},) or ({b}, {n}), a name for each item", names.shape)
    names = np.broadcast_to(names, (b, n))
    return names.ravel() if sets.available is None else names[sets.available]


def _names(name: str, given: Any) -> np.ndarray:
    """Return names as an array of integers or strings."""
    with check.naming(name):
        names = np.asarray(given)
    if names.dtype == object and all(isinstance(one, str) for one in names.ravel()):
        names = names.astype(str)
    if names.dtype.kind not in "iuU":
        raise TypeError(f"{name}: expected names or integers, got {names.dtype}")
    return names
