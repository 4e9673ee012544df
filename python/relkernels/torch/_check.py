"""Checks that the public operations cannot make: of tensors before a map or an operator takes them."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor, nn

from ..base import check
from ..base.describe import described

# Computed in float32, with results of the dtype of the first argument.
_HALVES = (torch.bfloat16, torch.float16)
_FLOATS = "float32, float64, bfloat16 or float16"


def kind(value: object) -> str:
    """Describe a value that was given instead of a tensor, briefly however large it is."""
    if isinstance(value, Tensor):
        return f"a tensor of dtype {value.dtype} and shape {tuple(value.shape)} on {value.device}"
    return described(value)


def dense(name: str, value: Any, wanted: str = "a torch.Tensor") -> Tensor:
    """Return `value` if it is a dense tensor on the CPU, on a CUDA device or on the meta device."""
    if not isinstance(value, Tensor):
        hint = "; torch.as_tensor makes one of it" if hasattr(value, "__array__") else ""
        raise TypeError(f"{name}: expected {wanted}, got {kind(value)}{hint}")
    if value.device.type not in ("cpu", "cuda", "meta"):
        raise TypeError(f"{name}: expected a tensor on the CPU or on a CUDA device, got {kind(value)}")
    if value.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got one of layout {value.layout}")
    return value


def constant(name: str, value: Any) -> Tensor:
    """Return `value` if it is a dense tensor that requires no gradient."""
    if dense(name, value).requires_grad:
        raise TypeError(
            f"{name}: expected a tensor that requires no gradient, as none is provided; detach() it"
        )
    tensor: Tensor = value
    return tensor


def device(value: Any) -> torch.device | None:
    """Return a device, or None for PyTorch's default."""
    if value is None or isinstance(value, torch.device):
        return value
    if not isinstance(value, str):
        raise TypeError(f"device: expected a torch.device, its name or None, got {described(value)}")
    try:
        return torch.device(value)
    except RuntimeError:
        check.fail("device", "a torch.device or its name", described(value))


def floats(name: str, value: Any, ndim: int = 2) -> Tensor:
    """Return `value` if it is a dense tensor of floats with `ndim` dimensions or more."""
    value = dense(name, value, f"a torch.Tensor of {_FLOATS}")
    if value.dtype not in (torch.float32, torch.float64, *_HALVES):
        raise TypeError(f"{name}: expected {_FLOATS}, got {kind(value)}")
    if value.ndim < ndim:
        check.fail(name, f"at least {ndim} dimension{'s' * (ndim != 1)}", f"shape {tuple(value.shape)}")
    return value


def arithmetic(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which floats of `dtype` are computed."""
    return torch.float32 if dtype in _HALVES else dtype


def widened(value: Tensor) -> Tensor:
    """Return 16-bit floats as float32, other tensors as they are."""
    return value.float() if value.dtype in _HALVES else value


def narrowed(value: Tensor, like: Tensor) -> Tensor:
    """Return a result in the dtype of the argument `like`; `Tensor.to` takes 5 us to do nothing."""
    return value if value.dtype == like.dtype else value.to(like.dtype)


def alike(first: tuple[str, Tensor], *others: tuple[str, Tensor]) -> None:
    """Refuse tensors that differ in dtype, or of which only some are on the meta device.

    Under autocast, 16-bit and float32 tensors may be mixed.
    """
    a = first[1]
    for other, b in others:
        on_one_device(first, (other, b))
        if a.dtype != b.dtype and not (arithmetic(a.dtype) == arithmetic(b.dtype) and _autocasts(a)):
            check.same_dtype(first, (other, b))


def _autocasts(a: Tensor) -> bool:
    return not a.is_meta and torch.is_autocast_enabled(a.device.type)


def on_one_device(first: tuple[str, Tensor], *others: tuple[str, Tensor]) -> None:
    """Refuse tensors of which only some are on the meta device; the kernels check other devices."""
    name, a = first
    for other, b in others:
        if b.is_meta != a.is_meta:
            raise TypeError(f"{other}: expected a tensor on {a.device}, as {name} is, got {kind(b)}")


def features(name: str, value: Any) -> Tensor:
    """Return `value` if its rows are points: at least two dimensions, the last not empty."""
    value = floats(name, value)
    if value.shape[-1] == 0:
        check.fail(name, "rows of at least one feature (last dimension > 0)", tuple(value.shape))
    return value


def scale(value: Any, beside: tuple[str, Tensor] | None = None, name: str = "scale") -> Tensor:
    """Return a finite factor of either sign as a float64 tensor of no dimensions.

    The operations check the value of a tensor, when they read it.
    """
    if isinstance(value, Tensor):
        value = floats(name, value, 0)
        if value.numel() != 1:
            check.fail(name, "a number or a tensor of one element", f"shape {tuple(value.shape)}")
        if beside is not None:
            on_one_device(beside, (name, value))
        return value.reshape(()).to(torch.float64)
    number = check.real(name, value)
    if not math.isfinite(number):
        check.fail(name, "a finite number", repr(value))
    return _number(number)


def _number(value: float) -> Tensor:
    # In 5 us; torch.tensor takes 20 between other work.
    return torch.scalar_tensor(value, dtype=torch.float64, device="cpu")


# Of calls that say nothing of the scale, or the same each time. Operators change no argument.
_kept_number = functools.lru_cache(maxsize=64)(_number)


def ordinary_scale(value: Any, width: Any = None) -> Tensor | None:
    """Return a scale as operators take it; None, not for an ordinary call, if it is not simply a number.

    If `value` is None, it is 1 / sqrt of the last dimension of `width`.
    """
    if value is None and type(width) in (Tensor, nn.Parameter) and width.ndim:
        last = width.shape[-1]
        value = 1 / math.sqrt(last) if last else None
    # Zeros have a sign, which the keys of a cache have not.
    return _kept_number(value) if type(value) is float and value else None
