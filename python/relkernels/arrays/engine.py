"""Who computes: the processor, or a registered device (`relkernels.cuda`).

The functions of `ops` and `gradients` check their arguments, then use the engine of their first array to
allocate outputs and to run a kernel by name. Arrays on a device are represented by stand-ins (NumPy arrays
with the shape and strides of the device array, never read), so CPU and GPU share all checks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from .. import _core
from ..base import check
from ..base.describe import option
from .allocate import empty


class Map(Protocol):
    """What engines read of an MLP."""

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...] | None
    widths: tuple[int, ...]
    activation: Any
    _handle: Any


def precision(value: str | None, dtype: np.dtype) -> str | None:
    """Return `value` if arrays of `dtype` support this precision."""
    if value is None:
        return None
    if not isinstance(value, str) or value != "bf16":
        where = " for arrays in main memory" if isinstance(value, str) and value == "tf32" else ""
        check.fail("precision", f"None or 'bf16'{where}", option(value))
    if dtype.char != "f":
        check.fail("precision", f"None for {dtype} arrays ('bf16' is for float32)", option(value))
    return value


class Engine:
    """The processor's: kernels of `_core` over NumPy arrays."""

    __slots__ = ()

    # (what, shape, dtype) -> an uninitialized output; or MemoryError, which names the bytes.
    empty = staticmethod(empty)
    # The same for sums, which stay in the kernels' precision.
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
    precision = staticmethod(precision)

    @staticmethod
    def packed(phi: Map | None, precision: str | None = None) -> Any:
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


# DLPack device type -> a function that loads the function that runs calls with arrays there.
_DEVICES: dict[int, Callable[[], Callable[..., Any]]] = {}


def register_device(kind: int, load: Callable[[], Callable[..., Any]]) -> None:
    """Have operations on arrays of a DLPack device type run by ``load()(operation, arguments)``."""
    _DEVICES[kind] = load


def device_call(kind: int) -> Callable[..., Any] | None:
    """Return the function that runs calls with arrays on a device type; None if none is registered."""
    load = _DEVICES.get(kind)
    return None if load is None else load()
