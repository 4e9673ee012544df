"""Jagged nested tensors of PyTorch as packed rows with offsets, the form in which operations take them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..base import check
from ._check import kind


def is_jagged(a: Any) -> bool:
    """Whether `a` is a nested tensor of layout torch.jagged."""
    return isinstance(a, Tensor) and a.layout == torch.jagged


def packed(name: str, a: Any) -> tuple[Tensor, Tensor]:
    """Return the rows of a jagged tensor, of shape (..., rows, d), and the offsets of its segments.

    The offsets are on the CPU, where they are checked: those on a GPU would be read back forward and backward.
    """
    if not is_jagged(a):
        raise TypeError(f"{name}: expected a nested tensor of layout torch.jagged, as q is, got {kind(a)}")
    if a._ragged_idx != a.dim() - 2:
        expected = "a jagged last but one dimension, (b, j, d) or (b, h, j, d)"
        check.fail(name, f"{expected}: use {name}.transpose(1, 2)", f"shape {tuple(a.shape)}")
    if a.lengths() is not None:
        check.fail(name, "a contiguous jagged tensor", "one with lengths beside its offsets")
    offsets = a.offsets()
    return a.values(), (offsets.cpu() if offsets.is_cuda else offsets).to(torch.int64)


def nested_as(a: Any, rows: Tensor) -> Tensor:
    """Return packed rows as a jagged tensor with the segments of `a`."""
    return torch.nested.nested_tensor_from_jagged(rows, a.offsets(), jagged_dim=a.dim() - 2)
