"""Floats of 16 bits as bits: to float32, which holds every bfloat16 and float16 exactly, and back.

NumPy has no bfloat16. Its bits are the upper half of a float32's, so neither direction needs ml_dtypes;
arrays of ml_dtypes' bfloat16 are accepted, and those of other libraries are read as arrays of bits.
"""

from __future__ import annotations

import numpy as np

HALVES = ("bfloat16", "float16")

# Elements that are rounded at a time: their temporaries stay in L2.
_BLOCK = 1 << 15


def widen(a: np.ndarray, dtype: str) -> np.ndarray:
    """Return an array of `dtype`, or of bfloat16's bits, as float32."""
    if dtype == "float16":
        return a.astype(np.float32)
    bits = a.view(np.uint16).astype(np.uint32)
    bits <<= 16
    return bits.view(np.float32)


def narrow(a: np.ndarray, dtype: str) -> np.ndarray:
    """Return float32 values to the nearest of `dtype`, ties to even; bfloat16 as its bits."""
    if dtype == "float16":
        with np.errstate(over="ignore"):
            return a.astype(np.float16)
    values = np.ascontiguousarray(a).reshape(-1).view(np.uint32)
    bits = np.empty(values.shape, np.uint16)
    for start in range(0, values.size, _BLOCK):
        block = values[start : start + _BLOCK]
        # Adding just below half of the last kept bit, and that bit itself, carries where it is to round up.
        rounded = block >> 16
        rounded &= 1
        rounded += block
        rounded += 0x7FFF
        rounded >>= 16
        nan = (block & 0x7FFFFFFF) > 0x7F800000  # a carry would make infinity of it
        rounded[nan] = block[nan] >> 16 | 0x40
        bits[start : start + _BLOCK] = rounded
    return bits.reshape(a.shape)
