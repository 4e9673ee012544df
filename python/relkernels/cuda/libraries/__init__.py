"""Libraries with arrays on CUDA devices: what each must provide, and which one an array belongs to.

A library is imported here when one of its arrays is passed in, so it has been imported before.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import numpy as np


class Description(NamedTuple):
    """Address, shape, strides in elements and dtype of an array."""

    address: int
    shape: tuple[int, ...]
    steps: tuple[int, ...]
    element: str


class Kind(Protocol):
    """What an array library must provide. Work and memory belong to its current stream on a device."""

    # As messages name it.
    name: str
    # Takes over a call of arrays that go in and out as another kind: (call, name, arguments, arrays).
    through: Callable[..., Any] | None = None

    def array_class(self) -> type:
        """Return the class of its arrays."""

    def device(self, a: Any) -> int | None:
        """Return the index of an array's device; None for one in main memory."""

    def describe(self, a: Any) -> Description:
        """Return the description of an array."""

    def readable(self, name: str, a: Any) -> Any:
        """Return an array whose elements are stored as they are; or TypeError, naming the argument."""

    def empty(self, shape: tuple[int, ...], element: str, device: int) -> Any:
        """Return an uninitialized contiguous array."""

    def view(self, a: Any, shape: tuple[int, ...], steps: tuple[int, ...], offset: int) -> Any:
        """Return a view of an array from its element `offset` on."""

    def copy(self, out: Any, a: Any) -> None:
        """Copy an array into one of the same shape."""

    def fill(self, a: Any, value: float) -> None:
        """Set all elements of an array."""

    def add(self, a: Any, b: Any) -> Any:
        """Return the sum of two arrays."""

    def sum(self, a: Any, axes: tuple[int, ...]) -> Any:
        """Return the sum over axes, which stay as ones."""

    def upload(self, a: np.ndarray, device: int) -> Any:
        """Return a copy of an array in main memory."""

    def download(self, a: Any) -> np.ndarray:
        """Return a copy of an array, of a dtype of NumPy, in main memory; waits for it."""

    def any_nan(self, a: Any) -> bool:
        """Return whether any element is NaN; waits for it."""

    def least(self, a: Any) -> float:
        """Return the least element, NaN if any is; waits for it."""

    def stream(self, device: int) -> int:
        """Return the handle of the current stream."""

    def guard(self, device: int) -> AbstractContextManager[Any]:
        """Return a context in which a device is the current one."""

    def capturing(self, device: int) -> bool:
        """Return whether a graph captures the current stream."""

    def synchronize(self, device: int) -> None:
        """Wait for everything on a device."""

    def memory_errors(self) -> tuple[type[BaseException], ...]:
        """Return what is raised where memory is short."""


# Top-level package of an array's class -> module that has its KIND.
_MODULES = {
    "cupy": f"{__name__}._cupy",
    "torch": f"{__name__}._torch",
    "jax": f"{__name__}._jax",
    "jaxlib": f"{__name__}._jax",
}


@functools.lru_cache(256)
def _kind_of_class(cls: type) -> Kind | None:
    for base in cls.__mro__:
        module = _MODULES.get(base.__module__.partition(".")[0])
        if module is not None:
            kind = importlib.import_module(module).KIND
            if issubclass(cls, kind.array_class()):
                return kind
    return None


def kind_of(value: object) -> Kind | None:
    """Return the kind of an array, or None for everything else, NumPy's arrays included."""
    cls: Any = type(value)
    return _kind_of_class(cls)


def device_of(value: object) -> int | None:
    """Return the index of an array's CUDA device, or None."""
    kind = kind_of(value)
    return None if kind is None else kind.device(value)


def place(value: object) -> str:
    """Return in words the kind and the device of an array."""
    kind, device = kind_of(value), device_of(value)
    where = "in main memory" if device is None else f"on cuda:{device}"
    return f"an array of {'NumPy' if kind is None else kind.name} {where}"
