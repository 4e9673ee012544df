"""Checks of tensors: the errors of `relkernels._check`, for arguments that are PyTorch's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _check


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of dtype {value.dtype} and shape {tuple(value.shape)} on {value.device}"
    return f"{type(value).__name__} {value!r}"


def dense(name: str, value: Any, wanted: str) -> None:
    """Refuse what is not a dense tensor on the CPU."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected {wanted}, got {_kind(value)}")
    if value.device.type != "cpu":
        raise TypeError(f"{name}: expected a tensor on the CPU, got {_kind(value)}")
    if value.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got one of layout {value.layout}")


def floats(name: str, value: Any, ndim: int = 2) -> Tensor:
    """Return `value` if it is a dense float32 or float64 tensor on the CPU of `ndim` dimensions or more."""
    dense(name, value, f"a torch.Tensor of {_check.FLOATS}")
    if value.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name}: expected {_check.FLOATS}, got {_kind(value)}")
    if value.ndim < ndim:
        raise ValueError(f"{name}: expected at least {ndim} dimensions, got shape {tuple(value.shape)}")
    return value


def features(name: str, value: Any) -> Tensor:
    """Return `value` if its rows are points: at least two dimensions, the last not empty."""
    value = floats(name, value)
    if value.shape[-1] == 0:
        _check.fail(name, "rows of at least one feature (last dimension > 0)", tuple(value.shape))
    return value


def mask(value: Any, rows: int, columns: int) -> Tensor | None:
    """Return a boolean mask that broadcasts to (..., rows, columns), of two dimensions at least."""
    if value is None:
        return None
    dense("mask", value, "a boolean tensor (True = may be attended)")
    if value.dtype != torch.bool:
        raise TypeError(f"mask: expected a boolean tensor (True = may be attended), got {_kind(value)}")
    while value.ndim < 2:
        value = value.unsqueeze(0)
    if value.shape[-2] not in (1, rows) or value.shape[-1] not in (1, columns):
        _check.fail("mask", f"a shape that broadcasts to (..., {rows}, {columns})", tuple(value.shape))
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
        _check.fail(given[0][0], "leading dimensions that broadcast together", shapes)
