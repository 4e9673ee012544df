"""Where results are written: a new array, or the caller's `out`, checked.

`Destination` is the whole of it for an operation: allocate or check before the kernel runs, write through a
temporary if the layout of `out` does not suit the kernels, and return what the caller expects.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..base.describe import described
from .engine import Engine, engine_of


def output(
    out: Any,
    shape: tuple[int, ...],
    dtype: np.dtype,
    *inputs: tuple[str, np.ndarray | None],
    name: str = "out",
) -> np.ndarray:
    """Return `out` if a result of this shape and dtype can be written to it."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"{name}: expected an array, got {described(out)}")
    if out.dtype != dtype:
        raise TypeError(f"{name}: expected dtype {dtype}, got {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {out.shape}")
    if not out.flags.writeable:
        raise ValueError(f"{name}: expected a writable array, got a read-only one of shape {out.shape}")
    if out.size and any(step == 0 and size > 1 for step, size in zip(out.strides, out.shape, strict=True)):
        raise ValueError(f"{name}: expected an array without repeated elements, got strides {out.strides}")
    for other, a in inputs:
        if a is not None and _overlap(out, a):
            raise ValueError(f"{name}: expected memory apart from {other}, got an array that overlaps it")
    return out


def output_pair(
    out: Any,
    parts: str,
    wanted: tuple[tuple[tuple[int, ...], np.dtype], ...],
    *inputs: tuple[str, np.ndarray | None],
) -> tuple[np.ndarray, ...]:
    """Return the two arrays of `out`, if results of these shapes and dtypes can be written to them."""
    if not isinstance(out, tuple) or len(out) != 2:
        got = f"a tuple of {len(out)}" if isinstance(out, tuple) else described(out)
        raise TypeError(f"out: expected a tuple of two arrays {parts}, got {got}")
    first = output(out[0], *wanted[0], *inputs, name="out[0]")
    return first, output(out[1], *wanted[1], *inputs, ("out[0]", first), name="out[1]")


def _overlap(a: np.ndarray, b: np.ndarray) -> bool:
    if not np.may_share_memory(a, b):
        return False
    try:
        effort: Any = 100_000
        return np.shares_memory(a, b, max_work=effort)
    except np.exceptions.TooHardError:
        return True  # too tangled to tell


def _suits(out: np.ndarray, packed: bool) -> bool:
    """Return whether kernels can write to an array: rows of unit stride, or `packed`, rows without gaps."""
    flags = out.flags
    if not flags.aligned or out.size == 0:
        return out.size == 0
    return flags.c_contiguous if packed else out.shape[-1] == 1 or out.strides[-1] == out.itemsize


class Destination:
    """The array that a kernel writes one result to.

    Parameters
    ----------
    engine : Engine
    what : str
        Of which operation, for messages.
    shape, dtype
        Of the result.
    out : array or None
        The caller's, or None for a new array.
    inputs : (name, array) pairs
        What `out` may not overlap.
    packed : bool
        Whether the kernel writes rows without gaps between them.

    Attributes
    ----------
    array : ndarray
        What the kernel writes to: `out` itself, or a temporary if its strides or alignment do not suit.
    """

    __slots__ = ("array", "out")

    def __init__(
        self,
        engine: Engine[Any],
        what: str,
        shape: tuple[int, ...],
        dtype: np.dtype,
        out: Any,
        *inputs: tuple[str, np.ndarray | None],
        packed: bool = False,
    ) -> None:
        self.out = out
        if out is None:
            self.array = engine.empty(what, shape, dtype)
        else:
            self.array = _target(output(out, shape, dtype, *inputs), packed)

    def result(self) -> Any:
        """Return the result, once the kernel has written it: `out` where that was given."""
        if self.out is None:
            return self.array
        if self.out is not self.array:
            engine_of(self.out).copy(self.out, self.array)
        return self.out


class PairDestination:
    """The same for two results, `out` a tuple of two arrays.

    `parts` names them in messages; `wanted` has the shape and dtype of each. The second has the kernels' own
    precision: indices, or sums.
    """

    __slots__ = ("arrays", "out")

    def __init__(
        self,
        engine: Engine[Any],
        what: str,
        parts: str,
        wanted: tuple[tuple[tuple[int, ...], np.dtype], ...],
        out: Any,
        *inputs: tuple[str, np.ndarray | None],
        packed: tuple[bool, bool] = (False, True),
    ) -> None:
        self.out = out
        if out is None:
            first, second = engine.empty(what, *wanted[0]), engine.empty_sums(what, *wanted[1])
        else:
            checked = output_pair(out, parts, wanted, *inputs)
            first, second = (_target(a, tight) for a, tight in zip(checked, packed, strict=True))
        self.arrays = first, second

    def result(self) -> Any:
        """Return both results, once the kernel has written them: `out` where that was given."""
        if self.out is None:
            return self.arrays
        for to, written in zip(self.out, self.arrays, strict=True):
            if to is not written:
                engine_of(to).copy(to, written)
        return self.out


def _target(out: np.ndarray, packed: bool) -> np.ndarray:
    return out if _suits(out, packed) else engine_of(out).empty_like(out)
