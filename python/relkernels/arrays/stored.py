"""Arrays of 16-bit floats in main memory, which kernels read as they are stored.

Kernels widen a tile at a time to float32, so a call needs no copy of its arrays and reads half the bytes. For
the checks such an array has a stand-in of float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .engine import Processor
from .half import widen
from .stand_ins import Interface, StandIn, stand_in

# The operations whose kernels take arrays in 16 bits; in all others such arrays are widened first.
READ_AS_STORED = frozenset(
    (
        "feature_map",
        "relation_matrix",
        "attention_scores",
        "attention",
        "retrieve",
        "retrieve_above",
        "relation_matvec",
    )
)
# As the kernels take them: bfloat16 as its bits.
_STORAGE = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(np.uint16)}


class StoredProcessor(Processor):
    """Runs the kernels of `_core` over arrays of 16-bit floats; outputs are float32 arrays."""

    __slots__ = ()

    @staticmethod
    def run(name: str, *arguments: Any, **options: Any) -> Any:
        """Call the function of `_core` with the arrays themselves in place of their stand-ins."""
        stored = (_itself(a) if isinstance(a, StandIn) else a for a in arguments)
        return Processor.run(name, *stored, **options)


STORED_PROCESSOR = StoredProcessor()


def as_stored(a: np.ndarray, dtype: str) -> StandIn:
    """Return the float32 stand-in for an array of float16, or of bfloat16's bits."""
    storage = _STORAGE[dtype]
    if not a.flags.aligned or any(step % storage.itemsize for step in a.strides) or not a.dtype.isnative:
        a = a.astype(a.dtype.newbyteorder("="))
    steps = [step // storage.itemsize for step in a.strides]
    return stand_in(STORED_PROCESSOR, a, a.__array_interface__["data"][0], a.shape, steps, dtype)


def widened(a: StandIn) -> np.ndarray:
    """Return the array that a stand-in represents as float32, by a copy."""
    return widen(_itself(a), a.element)


def _itself(a: StandIn) -> np.ndarray:
    """Return the array that a stand-in represents, which may be a view of its owner."""
    storage = _STORAGE[a.element]
    interface = {
        "version": 3,
        "typestr": storage.str,
        "shape": a.shape,
        "strides": tuple(step * storage.itemsize for step in a.steps),
        "data": (a.address, True),
    }
    return np.asarray(Interface(interface))
