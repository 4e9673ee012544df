"""Tensors as the public functions take them, and their results as tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _given(a: Tensor | None) -> Any:
    """Return a tensor as the public functions take it: without its graph, and with its sign applied.

    On the CPU as a NumPy view of its memory: DLPack would add 40 us to a call.
    """
    if a is None:
        return None
    return a.numpy(force=True) if a.is_cpu else a.detach().resolve_neg()


def _tensor(result: Any) -> Tensor:
    """Return an array that a public function returned as a tensor."""
    return result if isinstance(result, Tensor) else torch.from_numpy(result)


def _if(wanted: bool, result: Any, like: Tensor) -> Tensor:
    """Return a result as a tensor if it is wanted, else an empty one."""
    return _tensor(result) if wanted else like.new_empty(0)


def _number(value: Any, like: Tensor) -> Tensor:
    """Return a number, or an array of one on a device, as a tensor of no dimensions."""
    if isinstance(value, Tensor):
        return value.to(like)
    return torch.scalar_tensor(value, dtype=like.dtype, device=like.device)
