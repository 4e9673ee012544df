"""Which pairs may attend: a mask, the causal rule, a window along the diagonal, segments of a ragged batch.

A pair may attend if all of them allow it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..base import check
from ..base.describe import described

# The kernels take limits as 64-bit integers; no array is as long as this.
_FARTHEST = 2**61
ALIGNMENTS = ("upper_left", "lower_right")
# Least and greatest j - i of the pairs (i, j) that may attend; None: no limit.
Band = tuple[int | None, int | None]
# Offsets of queries and of keys, and whether bands are aligned with the last rows and columns of segments.
Ragged = tuple[np.ndarray, np.ndarray, bool]
Window = int | tuple[int | None, int | None] | None


class Allowed(NamedTuple):
    """Which keys j each query i may attend to, as the parameters of `attention` say.

    Attributes
    ----------
    mask : ndarray of bool or None
        True = may attend.
    causal : bool
        j <= i + o.
    window : int, (int or None, int or None) or None
        (left, right): i + o - left <= j <= i + o + right. None is no limit; w stands for (w, w).
    align : {"upper_left", "lower_right"}
        o = 0, or o = m - n: the last query is aligned with the last key.
    offset : int
        Added to o: how far the first query is ahead of the first key, in blocks of a larger whole.
    q_offsets, k_offsets : ndarray of int64 or None
        Of the segments of queries and of keys in a ragged batch.
    """

    mask: Any = None
    causal: bool = False
    window: Window = None
    align: str = "upper_left"
    offset: int = 0
    q_offsets: Any = None
    k_offsets: Any = None

    def limits(self) -> tuple[bool, Band, str]:
        """Return `causal`, `window` as a pair and `align`; TypeError or ValueError for a bad one."""
        window = _limits(self.window)
        return check.flag("causal", self.causal), window, check.choice("align", self.align, ALIGNMENTS)

    def band(self, n: int, m: int) -> Band:
        """Return the limits of j - i for n queries and m keys; TypeError or ValueError for a bad argument."""
        causal, (left, right), align = self.limits()
        if causal:
            right = 0
        shift = self.offset + (m - n if align == "lower_right" else 0)
        return None if left is None else shift - left, None if right is None else shift + right

    def ragged(self, q: np.ndarray, keys: np.ndarray, keys_name: str) -> Ragged | None:
        """Return the segments, None without offsets; TypeError or ValueError for bad ones."""
        if self.q_offsets is None and self.k_offsets is None:
            return None
        for name, other in (("q_offsets", "k_offsets"), ("k_offsets", "q_offsets")):
            if getattr(self, name) is None:
                raise TypeError(f"{name}: expected a vector of int64 with {other}, got None")
        of_q = check.offsets("q_offsets", self.q_offsets, "q", q)
        of_k = check.offsets("k_offsets", self.k_offsets, keys_name, keys)
        if of_k.size != of_q.size:
            check.fail("k_offsets", f"{of_q.size} offsets, as many as q_offsets", of_k.size)
        if self.mask is not None:
            raise TypeError(f"mask: expected None with q_offsets, got {described(self.mask)}")
        return of_q, of_k, self.align == "lower_right"


def _limits(window: Any) -> Band:
    if window is None:
        return None, None
    if isinstance(window, (tuple, list)):
        if len(window) != 2:
            check.fail("window", "two limits, (left, right)", f"{len(window)} entries")
        left, right = (_limit(f"window[{i}]", limit) for i, limit in enumerate(window))
        return left, right
    if isinstance(window, (str, bytes)) or not hasattr(window, "__index__"):
        raise TypeError(f"window: expected an integer, a pair (left, right) or None, got {described(window)}")
    width = _limit("window", window)
    return width, width


def _limit(name: str, value: Any) -> int | None:
    return None if value is None else min(check.integer(name, value, 0), _FARTHEST)
