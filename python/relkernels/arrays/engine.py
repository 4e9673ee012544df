"""Who computes: the processor, or a registered device (`relkernels.cuda`).

The functions of `ops` and `gradients` check their arguments, then use the engine of their first array to
allocate outputs and to run a kernel by name. Arrays on a device are represented by stand-ins (NumPy arrays
with the shape and strides of the device array, never read), so CPU and GPU share all checks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np

from .. import _core
from ..base import check
from ..base.describe import option
from .allocate import available, empty


class Map(Protocol):
    """What engines read of an MLP."""

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...] | None
    widths: tuple[int, ...]
    activation: Any
    normalize: bool
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


A = TypeVar("A", bound=np.ndarray)


class Engine(Protocol[A]):
    """What computes with arrays of type A: NumPy arrays, or the stand-ins of a device."""

    __slots__ = ()

    def empty(self, what: str, shape: tuple[int, ...], dtype: np.dtype) -> A:
        """Return an uninitialized output; `what` names it in the MemoryError."""

    def empty_sums(self, what: str, shape: tuple[int, ...], dtype: np.dtype) -> A:
        """Return an uninitialized output for sums, which keep the kernels' precision."""

    def empty_parts(self, what: str, shape: tuple[int, ...], dtype: np.dtype) -> A:
        """Return an uninitialized output for the parts of a number that `total` adds up."""

    def total(self, parts: A) -> Any:
        """Return the sum over all elements: a number, or an array of shape () on a device."""

    def empty_like(self, a: A) -> A:
        """Return an uninitialized packed array of the shape and dtype of an output."""

    def precision(self, value: str | None, dtype: np.dtype) -> str | None:
        """Return how factors are multiplied, as the kernels name it; or raise ValueError."""

    def packed(self, phi: Map | None, precision: str | None = None) -> Any:
        """Return the weights of a map as kernels take them; None for the identity."""

    def available(self) -> int | None:
        """Return how many bytes an output may take; None if only its allocation will show."""

    def upload(self, a: np.ndarray) -> np.ndarray:
        """Return an array in main memory as kernels can read it."""

    def any_nan(self, a: A) -> bool:
        """Return whether any element is NaN; waits for a device."""

    def read(self, a: A) -> np.ndarray:
        """Return the array in main memory; waits for a device."""

    def row_sums(self, a: A) -> np.ndarray:
        """Return the sums over the last of two axes, in main memory; waits for a device."""

    def least(self, a: A) -> float:
        """Return the least element, NaN if any is; waits for a device."""

    def run(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Run a kernel.

        Its last positional arguments are its outputs, or it returns an object that holds them.
        """

    def copy(self, out: A, a: A) -> None:
        """Copy an array into one of the same shape and any strides."""

    def fill(self, out: A, value: float) -> None:
        """Set all elements of an array, of any strides, to a number."""

    def add(self, a: A, b: A) -> A:
        """Return the sum of two arrays of one shape."""

    def sum(self, a: A, axes: tuple[int, ...]) -> A:
        """Return the sum over axes, which stay as ones."""


class Processor(Engine[np.ndarray]):
    """Runs the kernels of `_core` over NumPy arrays."""

    __slots__ = ()

    empty = staticmethod(empty)
    empty_sums = staticmethod(empty)
    available = staticmethod(available)
    precision = staticmethod(precision)

    @staticmethod
    def empty_parts(what: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return an output of float64."""
        return empty(what, shape, np.dtype(np.float64))

    @staticmethod
    def total(parts: np.ndarray) -> float:
        """Return the sum as a number."""
        return float(parts.sum())

    @staticmethod
    def empty_like(a: np.ndarray) -> np.ndarray:
        """Return a packed array of the shape and dtype of an output."""
        return empty("out", a.shape, a.dtype)

    @staticmethod
    def packed(phi: Map | None, precision: str | None = None) -> Any:
        """Return the handle of a map."""
        return None if phi is None else phi._handle

    @staticmethod
    def upload(a: np.ndarray) -> np.ndarray:
        """Return the array itself."""
        return a

    @staticmethod
    def any_nan(a: np.ndarray) -> bool:
        """Return whether any element is NaN."""
        return bool(np.isnan(a).any())

    @staticmethod
    def read(a: np.ndarray) -> np.ndarray:
        """Return the array itself."""
        return a

    @staticmethod
    def row_sums(a: np.ndarray) -> np.ndarray:
        """Return the sums in float64."""
        return a.sum(axis=1, dtype=np.float64)

    @staticmethod
    def least(a: np.ndarray) -> float:
        """Return the least element."""
        return float(a.min())

    @staticmethod
    def run(name: str, *arguments: Any, **options: Any) -> Any:
        """Call the function of `_core`."""
        return getattr(_core, name)(*arguments, **options)

    @staticmethod
    def copy(out: np.ndarray, a: np.ndarray) -> None:
        """Copy by assignment, as also fill."""
        out[...] = a

    @staticmethod
    def fill(out: np.ndarray, value: float) -> None:
        """Set all elements of an array to a number."""
        out[...] = value

    @staticmethod
    def add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return the sum of two arrays."""
        return a + b

    @staticmethod
    def sum(a: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        """Return the sum over axes, which stay as ones."""
        return a.sum(axis=axes, keepdims=True)


PROCESSOR = Processor()


def engine_of(a: np.ndarray) -> Engine[Any]:
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
