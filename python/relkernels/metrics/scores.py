"""The scores that a measure ranks by: features of rows and items, a matrix, or a function of rows."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from ..arrays import host
from ..base import check
from ..base.describe import described
from ..ops import relation_matrix, retrieve
from .pairs import n_rows

_FORMS = "features of rows and of items, a matrix of shape (n, m), or a function of a slice of rows"


class Scores(Protocol):
    """Scores of m items for each of n rows."""

    shape: tuple[int, int]

    def best(self, rows: slice, k: int, allowed: np.ndarray | None) -> np.ndarray:
        """Return the k best items of these rows as `retrieve` orders them; -1 where there are fewer."""

    def block(self, rows: slice) -> np.ndarray:
        """Return the scores of these rows."""


class FeatureScores:
    """Inner products of features."""

    def __init__(self, rows: np.ndarray, items: np.ndarray) -> None:
        self._rows, self._items = rows, items
        self.shape = (len(rows), len(items))

    def best(self, rows: slice, k: int, allowed: np.ndarray | None) -> np.ndarray:
        """Return the best items."""
        return retrieve(self._rows[rows], self._items, k, mask=allowed)[1]

    def block(self, rows: slice) -> np.ndarray:
        """Return the scores of these rows."""
        return relation_matrix(self._rows[rows], self._items)


class GivenScores:
    """Scores that a matrix or a function holds."""

    def __init__(self, scores: Any, n: int) -> None:
        self._scores = scores
        self.shape = (n, self._read(slice(0, 1)).shape[1] if n else 0)

    def _read(self, rows: slice) -> np.ndarray:
        with check.naming("scores"):
            found = self._scores(rows) if callable(self._scores) else self._scores[rows]
        return _table("scores", found)

    def best(self, rows: slice, k: int, allowed: np.ndarray | None) -> np.ndarray:
        """Return the best items."""
        block = self.block(rows)
        # Each score is the inner product of a key of one feature with the query 1.
        one = np.ones((len(block), 1, 1), block.dtype)
        mask = None if allowed is None else allowed[:, None, :]
        return retrieve(one, block[:, :, None], k, mask=mask)[1][:, 0]

    def block(self, rows: slice) -> np.ndarray:
        """Return the scores of these rows."""
        block = self._read(rows)
        expected = (rows.stop - rows.start, self.shape[1])
        if block.shape != expected:
            check.fail("scores", f"shape {expected} for rows {rows.start} to {rows.stop}", block.shape)
        if np.isnan(block).any():
            check.fail("scores", "numbers", "NaN")
        return block


def as_scores(scores: Any, relevant: Any) -> Scores:
    """Return scores in any of the forms that the measures accept; a function has the rows of `relevant`."""
    if callable(scores):
        return GivenScores(scores, n_rows(relevant))
    if isinstance(scores, tuple):
        if len(scores) != 2:
            check.fail("scores", _FORMS, f"a tuple of {len(scores)}")
        rows, items = (_table(f"scores[{i}]", host("scores", side)) for i, side in enumerate(scores))
        if rows.dtype != items.dtype:
            rows, items = rows.astype(np.float64), items.astype(np.float64)
        for i, side in enumerate((rows, items)):
            if not np.isfinite(side).all():
                check.fail(f"scores[{i}]", "finite features", "NaN or infinite ones")
        return FeatureScores(rows, items)
    matrix = _table("scores", host("scores", scores))
    return GivenScores(matrix, len(matrix))


def _table(name: str, values: Any) -> np.ndarray:
    """Return a two-dimensional float32 or float64 array."""
    with check.naming(name):
        table = np.asarray(values)
    if table.dtype.kind not in "fiub" or table.ndim != 2:
        raise TypeError(f"{name}: expected {_FORMS}, got {described(values)}")
    return table if table.dtype in (np.float32, np.float64) else table.astype(np.float64)
