"""Where a call computes: on the processor here, or on a device (`relkernels.cuda`).

The functions of `ops` and `gradients` check their arguments, then ask the engine of their first array for
outputs and have it run a kernel by name. Arrays on a device take part as stand-ins, NumPy arrays that carry
their engine and are never read (`cuda.stand_ins`): shapes, strides and errors are decided in one place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import _check, _core
from ._allocate import empty

if TYPE_CHECKING:
    from .mlp import MLP


class Engine:
    """The processor's: kernels of `_core` over NumPy arrays."""

    __slots__ = ()

    # (what, shape, dtype) -> an uninitialized output; or MemoryError, which names the bytes.
    empty = staticmethod(empty)
    # The same for sums that stay in the kernels' precision, whatever that of the arrays.
    empty_sums = staticmethod(empty)

    @staticmethod
    def empty_parts(what: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return an uninitialized output for the parts of a number that `total` adds up."""
        return empty(what, shape, np.dtype(np.float64))

    @staticmethod
    def total(parts: np.ndarray) -> Any:
        """Return the sum over all elements, as a number."""
        return float(parts.sum())

    @staticmethod
    def empty_like(a: np.ndarray) -> np.ndarray:
        """Return an uninitialized packed array of the shape and dtype of an output."""
        return empty("out", a.shape, a.dtype)

    # (precision, dtype) -> how factors are multiplied, as the kernels name it; or ValueError.
    precision = staticmethod(_check.precision)

    @staticmethod
    def packed(phi: MLP | None, precision: str | None = None) -> Any:
        """Return the weights of a map as kernels take them; None for the identity."""
        return None if phi is None else phi._handle

    @staticmethod
    def run(name: str, *arguments: Any) -> None:
        """Run a kernel; its last arguments are its outputs."""
        getattr(_core, name)(*arguments)

    @staticmethod
    def copy(out: np.ndarray, a: np.ndarray) -> None:
        """Copy an array into one of the same shape and any strides."""
        out[...] = a

    @staticmethod
    def fill(out: np.ndarray, value: float) -> None:
        """Set all elements of an array, of any strides, to a number."""
        out[...] = value

    @staticmethod
    def add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return the sum of two arrays of one shape."""
        return a + b

    @staticmethod
    def sum(a: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        """Return the sum over axes, which stay as ones."""
        return a.sum(axis=axes, keepdims=True)


PROCESSOR = Engine()


def engine_of(a: np.ndarray) -> Engine:
    """Return the engine that computes with an array."""
    return PROCESSOR if type(a) is np.ndarray else getattr(a, "engine", PROCESSOR)
