"""Checks that the public operations cannot make: of tensors before a map or an operator takes them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..base import check
from ..base.describe import described


def kind(value: object) -> str:
    """Describe a value that was given instead of a tensor, briefly however large it is."""
    if isinstance(value, Tensor):
        return f"a tensor of dtype {value.dtype} and shape {tuple(value.shape)} on {value.device}"
    return described(value)


def dense(name: str, value: Any, wanted: str = "a torch.Tensor") -> Tensor:
    """Return `value` if it is a dense tensor on the CPU or on a CUDA device."""
    if not isinstance(value, Tensor):
        hint = "; torch.as_tensor makes one of it" if hasattr(value, "__array__") else ""
        raise TypeError(f"{name}: expected {wanted}, got {kind(value)}{hint}")
    if value.device.type not in ("cpu", "cuda"):
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


def floats(name: str, value: Any, ndim: int = 2) -> Tensor:
    """Return `value` if it is a dense float32 or float64 tensor of `ndim` dimensions or more."""
    value = dense(name, value, f"a torch.Tensor of {check.FLOATS}")
    if value.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name}: expected {check.FLOATS}, got {kind(value)}")
    if value.ndim < ndim:
        check.fail(name, f"at least {ndim} dimension{'s' * (ndim != 1)}", f"shape {tuple(value.shape)}")
    return value


def features(name: str, value: Any) -> Tensor:
    """Return `value` if its rows are points: at least two dimensions, the last not empty."""
    value = floats(name, value)
    if value.shape[-1] == 0:
        check.fail(name, "rows of at least one feature (last dimension > 0)", tuple(value.shape))
    return value


def scale(value: Any) -> Tensor:
    """Return a finite factor of either sign as a float64 tensor of no dimensions.

    The operations check the value of a tensor, when they read it.
    """
    if isinstance(value, Tensor):
        value = floats("scale", value, 0)
        if value.numel() != 1:
            check.fail("scale", "a number or a tensor of one element", f"shape {tuple(value.shape)}")
        return value.reshape(()).to(torch.float64)
    number = check.real("scale", value)
    if not math.isfinite(number):
        check.fail("scale", "a finite number", repr(value))
    # In 5 us; torch.tensor takes 20 between other work.
    return torch.scalar_tensor(number, dtype=torch.float64, device="cpu")
