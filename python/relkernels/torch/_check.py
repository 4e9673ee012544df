"""Checks of tensors: the errors of `relkernels.base.check`, for arguments that are PyTorch's."""

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


def dense(name: str, value: Any, wanted: str) -> None:
    """Refuse anything but a dense tensor on the CPU."""
    if not isinstance(value, Tensor):
        hint = "; torch.as_tensor makes one of it" if hasattr(value, "__array__") else ""
        raise TypeError(f"{name}: expected {wanted}, got {kind(value)}{hint}")
    if value.device.type != "cpu":
        raise TypeError(f"{name}: expected a tensor on the CPU, got {kind(value)}")
    if value.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got one of layout {value.layout}")


def floats(name: str, value: Any, ndim: int = 2) -> Tensor:
    """Return `value` if it is a dense float32 or float64 tensor on the CPU of `ndim` dimensions or more."""
    dense(name, value, f"a torch.Tensor of {check.FLOATS}")
    if value.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name}: expected {check.FLOATS}, got {kind(value)}")
    if value.ndim < ndim:
        raise ValueError(
            f"{name}: expected at least {ndim} dimension{'s' * (ndim != 1)}, got shape {tuple(value.shape)}"
        )
    return value


def features(name: str, value: Any) -> Tensor:
    """Return `value` if its rows are points: at least two dimensions, the last not empty."""
    value = floats(name, value)
    if value.shape[-1] == 0:
        check.fail(name, "rows of at least one feature (last dimension > 0)", tuple(value.shape))
    return value


def scale(value: Any) -> Tensor:
    """Return a finite factor of either sign as a float64 tensor of no dimensions.

    The value of a tensor is checked where the kernels read it.
    """
    if isinstance(value, Tensor):
        value = floats("scale", value, 0)
        if value.numel() != 1:
            check.fail("scale", "a number or a tensor of one element", f"shape {tuple(value.shape)}")
        return value.reshape(()).to(torch.float64)
    number = check.real("scale", value)
    if not math.isfinite(number):
        check.fail("scale", "a finite number", repr(value))
    return torch.tensor(number, dtype=torch.float64, device="cpu")


def mask(value: Any, rows: int, columns: int) -> Tensor | None:
    """Return a boolean mask that broadcasts to (..., rows, columns), of two dimensions at least."""
    if value is None:
        return None
    dense("mask", value, "a boolean tensor (True = may be attended)")
    if value.dtype != torch.bool:
        raise TypeError(f"mask: expected a boolean tensor (True = may be attended), got {kind(value)}")
    while value.ndim < 2:
        value = value.unsqueeze(0)
    if value.shape[-2] not in (1, rows) or value.shape[-1] not in (1, columns):
        check.fail("mask", f"a shape that broadcasts to (..., {rows}, {columns})", tuple(value.shape))
    return value


def same_batch(*named: tuple[str, Tensor | None]) -> None:
    """Refuse (name, tensor or None) pairs whose leading dimensions do not broadcast together."""
    given = [(name, a) for name, a in named if a is not None]
    leading = [a.shape[:-2] for _, a in given]
    if not any(leading):
        return
    try:
        torch.broadcast_shapes(*leading)
    except RuntimeError:
        shapes = ", ".join(f"{name} of shape {tuple(a.shape)}" for name, a in given)
        check.fail(given[0][0], "leading dimensions that broadcast together", shapes)
