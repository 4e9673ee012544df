"""Floats of 16 bits as bits: to float32, which holds every bfloat16 and float16 exactly, and back.

NumPy has no bfloat16. Its bits are the upper half of a float32's, so neither direction needs ml_dtypes;
arrays of ml_dtypes' bfloat16 are accepted, and those of other libraries are read as arrays of bits.
"""

from __future__ import annotations

import numpy as np

from .. import _core

HALVES = ("bfloat16", "float16")


def widen(a: np.ndarray, dtype: str) -> np.ndarray:
    """Return an array of `dtype`, or of bfloat16's bits, as float32."""
    if dtype == "float16":
        return a.astype(np.float32)
    bits = a.view(np.uint16).astype(np.uint32)
    bits <<= 16
    return bits.view(np.float32)


def narrow(a: np.ndarray, dtype: str) -> np.ndarray:
    """Return float32 values to the nearest of `dtype`, ties to even; bfloat16 as its bits."""
    bits = np.empty(a.shape, np.float16 if dtype == "float16" else np.uint16)
    _core.narrow(np.ascontiguousarray(a).reshape(-1), bits.reshape(-1))
    return bits
