"""Arrays of 16-bit floats: computed in float32, returned in their own dtype.

NumPy has no bfloat16 of its own; arrays of ml_dtypes' bfloat16 (which JAX uses, and to which PyTorch tensors
can be viewed) are recognised by the name of their dtype. Every bfloat16 and float16 is a float32 exactly.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")

_HALVES = ("bfloat16", "float16")


def _is_half(a: object) -> bool:
    return isinstance(a, np.ndarray) and a.dtype.name in _HALVES


def accepts_half(*names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let an operation's array arguments of these names, its first ones, be bfloat16 or float16.

    All of them must have one dtype. Bfloat16 asks for ``precision="bf16"``: its products are exact in that
    arithmetic. Floating results come back in the inputs' dtype, rounded to nearest.
    """

    def decorate(operation: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(operation)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            first = args[0] if args else kwargs.get(names[0])
            if not isinstance(first, np.ndarray) or first.dtype.char in "fd" or not _is_half(first):
                return operation(*args, **kwargs)
            return cast(R, _in_float32(operation, names, first.dtype, args, dict(kwargs)))

        return call

    return decorate


def _narrow(a: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return a.astype(dtype) if a.dtype == np.float32 else a


def _in_float32(
    operation: Callable[..., Any],
    names: tuple[str, ...],
    dtype: np.dtype,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    wide = list(args)
    for i, name in enumerate(names):
        holder: Any = wide if i < len(args) else kwargs
        key: Any = i if i < len(args) else name
        if i >= len(args) and name not in kwargs:
            continue
        value = holder[key]
        if isinstance(value, np.ndarray):
            if value.dtype != dtype:
                raise TypeError(f"{name}: expected {dtype}, the dtype of {names[0]}, got {value.dtype}")
            holder[key] = value.astype(np.float32)
    out = kwargs.pop("out", None)
    if out is not None and not (isinstance(out, np.ndarray) and out.dtype == dtype):
        got = f"dtype {out.dtype}" if isinstance(out, np.ndarray) else type(out).__name__
        raise TypeError(f"out: expected an array of dtype {dtype}, that of {names[0]}, got {got}")
    if dtype.name == "bfloat16":
        kwargs["precision"] = "bf16"
    result = operation(*wide, **kwargs)
    if out is None:
        return (
            tuple(_narrow(a, dtype) for a in result) if isinstance(result, tuple) else _narrow(result, dtype)
        )
    if out.shape != result.shape:
        raise ValueError(f"out: expected shape {result.shape}, got {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out: expected a writeable array, got a read-only one")
    out[...] = result.astype(dtype)
    return out
