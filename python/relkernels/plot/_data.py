"""Checks of numbers that several plots share."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..base import check


def numbers(name: str, values: Any, count: int | None = None, *, positive: bool = False) -> np.ndarray:
    """Return values as a one-dimensional float64 array, of `count` elements if that is given."""
    found = check.numbers(name, values)
    if found.ndim != 1 or (count is not None and len(found) != count):
        shape = "(k,)" if count is None else f"({count},)"
        check.fail(name, f"numbers of shape {shape}", f"shape {found.shape}")
    if positive and not (good := np.isfinite(found) & (found > 0)).all():
        check.fail(name, "finite numbers > 0", f"{found[~good][0]:g}")
    return found
