"""Rows of keys in the form in which `Keys` stores them: features through a map, in the dtype of storage."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays.allocate import empty
from ..arrays.half import HALVES, narrow, widen
from ..arrays.kinds import in_main_memory
from ..arrays.sparse import is_sparse
from ..base import check
from ..maps.mlp import MLP, mapped_rows, mapped_width
from .key_store import ELEMENTS
from .sparse import mapped_points

# Bytes of features that are computed at a time before they are rounded to the dtype of storage.
_BLOCK = 16 << 20


class Rows:
    """Rows given as keys: an array of any library in main memory, or a sparse matrix with a map.

    Attributes
    ----------
    dtype : str
        Of their features.
    width : int
        Number of their features.
    shape : (int, int)
    """

    def __init__(self, name: str, rows: Any, psi: MLP | None) -> None:
        self._name, self._psi = name, psi
        if is_sparse(rows) and psi is not None:
            mapped_rows(name, rows, "psi", psi)
            self._rows, self.dtype, points = rows.tocsr(), psi.dtype.name, rows
        elif is_sparse(rows):
            mapped_points(name, rows, "psi", psi, None, 2)  # raises TypeError
        else:
            self._rows, self.dtype = in_main_memory(name, rows)
            points = self._rows
            if self.dtype in HALVES:
                points = np.broadcast_to(np.zeros((), np.float32), points.shape)
            points = check.features(name, points)
            if points.ndim != 2:
                check.fail(name, "shape (rows, features)", points.shape)
            check.same_dtype((name, points), ("psi", psi))
        self.shape: tuple[int, int] = points.shape
        self.width = mapped_width(name, points, "psi", psi)

    def stored(self, dtype: str) -> np.ndarray:
        """Return the features in a dtype of storage; a read-only array of features as it is."""
        kind = ELEMENTS[dtype]
        n = self.shape[0]
        if self._psi is None and self.dtype == dtype:
            flags = self._rows.flags
            if dtype not in HALVES and flags.c_contiguous and flags.aligned and not flags.writeable:
                return self._rows
        features = empty("Keys", (n, self.width), kind)
        step = max(_BLOCK // (8 * self.width), 1)
        for first in range(0, n, step):
            part = slice(first, min(first + step, n))
            features[part] = self._block(part, dtype)
        return features

    def _block(self, part: slice, dtype: str) -> np.ndarray:
        rows = self._rows[part]
        if self._psi is None and self.dtype == dtype:
            return rows.view(np.uint16) if dtype == "bfloat16" else rows
        if self.dtype in HALVES:
            rows = widen(rows, self.dtype)
        precision = "bf16" if self.dtype == "bfloat16" else None
        features = mapped_points(self._name, rows, "psi", self._psi, precision, 2)
        if dtype not in HALVES:
            return features
        return narrow(features.astype(np.float32, copy=False), dtype)
