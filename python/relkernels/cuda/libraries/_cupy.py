"""CuPy's arrays."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import cupy
import numpy as np

from . import Description, Kind


def _dtype(element: str) -> np.dtype:
    if element == "bfloat16":
        import ml_dtypes  # CuPy's arrays of bfloat16 are of this dtype

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(element)


class _CuPy(Kind):
    name = "CuPy"

    def array_class(self) -> type:
        return cupy.ndarray

    def device(self, a: Any) -> int | None:
        return a.device.id

    def describe(self, a: Any) -> Description:
        steps = tuple(step // a.itemsize for step in a.strides)
        return Description(a.data.ptr, a.shape, steps, a.dtype.name)

    def readable(self, name: str, a: Any) -> Any:
        if any(step % a.itemsize for step in a.strides) or a.data.ptr % a.itemsize:
            raise TypeError(f"{name}: expected elements aligned to their size, got strides {a.strides}")
        return a

    def empty(self, shape: tuple[int, ...], element: str, device: int) -> Any:
        return cupy.empty(shape, _dtype(element))

    def view(self, a: Any, shape: tuple[int, ...], steps: tuple[int, ...], offset: int) -> Any:
        strides = tuple(step * a.itemsize for step in steps)
        return cupy.ndarray(shape, a.dtype, a.data + offset * a.itemsize, strides)

    def copy(self, out: Any, a: Any) -> None:
        out[...] = a

    def fill(self, a: Any, value: float) -> None:
        a[...] = value

    def add(self, a: Any, b: Any) -> Any:
        return a + b

    def sum(self, a: Any, axes: tuple[int, ...]) -> Any:
        return a.sum(axis=axes, keepdims=True)

    def upload(self, a: np.ndarray, device: int) -> Any:
        return cupy.asarray(a)

    def download(self, a: Any) -> np.ndarray:
        return a.get()

    def any_nan(self, a: Any) -> bool:
        if a.dtype.name == "bfloat16":  # which CuPy does not compare
            return bool(((a.view(np.uint16) & 0x7FFF) > 0x7F80).any())
        return bool(cupy.isnan(a).any())

    def least(self, a: Any) -> float:
        return float(a.min())

    def stream(self, device: int) -> int:
        return cupy.cuda.get_current_stream(device).ptr

    def guard(self, device: int) -> AbstractContextManager[Any]:
        return cupy.cuda.Device(device)

    def capturing(self, device: int) -> bool:
        return cupy.cuda.get_current_stream(device).is_capturing()

    def synchronize(self, device: int) -> None:
        cupy.cuda.Device(device).synchronize()

    def memory_errors(self) -> tuple[type[BaseException], ...]:
        return (MemoryError,)


KIND = _CuPy()
