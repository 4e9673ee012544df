"""Relational attention with 8 heads and 8 relations, forward and back, beside PyTorch's own operations.

`gpu_workload` is for a GPU, with tensors on it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...gradients import relational_attention_vjp
from ...ops import relational_attention
from ..workload import OURS, Entry, Workload, points
from . import tensors

HEADS = RELATIONS = 8
# Of queries, values and relations.
D = 32


class Data(NamedTuple):
    """q, k, q_rel, k_rel and v, each (8, n, 32); upstream gradients; the function on the relations."""

    sides: tuple[np.ndarray, ...]
    above: tuple[np.ndarray, ...]
    activation: str


def with_relkernels(data: Data) -> Entry:
    """Ours."""
    return Entry(lambda: relational_attention(*data.sides, rel_activation=data.activation))


def gradients_with_relkernels(data: Data) -> Entry:
    """Ours: results, and gradients of all arrays."""

    def call() -> Any:
        result = relational_attention(*data.sides, rel_activation=data.activation, return_lse=True)
        sides = (*data.sides, *data.above)
        grads = relational_attention_vjp(*sides, rel_activation=data.activation, result=result)
        return *result[:2], *grads

    return Entry(call)


def _forward(sides: list[Any], activation: str) -> tuple[Any, Any]:
    """Store the scores and the relations, as the definition reads."""
    import torch

    q, k, q_rel, k_rel, v = sides
    scale = q.shape[-1] ** -0.5
    weights = torch.softmax(q @ k.transpose(-1, -2) * scale, dim=-1)
    relations = q_rel @ k_rel.transpose(-1, -2) * scale
    if activation != "identity":
        relations = getattr(torch, activation)(relations)
    return torch.einsum("hij,rij->hir", weights, relations), weights @ v


def with_torch(data: Data) -> Entry:
    """Products, a softmax and an einsum of tensors."""
    import torch

    sides = [torch.from_numpy(a) for a in data.sides]
    return Entry(lambda: _forward(sides, data.activation))


def gradients_with_torch(data: Data) -> Entry:
    """Do the same, and autograd."""
    import torch

    sides = [torch.from_numpy(a).requires_grad_() for a in data.sides]
    above = [torch.from_numpy(a) for a in data.above]

    def call() -> Any:
        results = _forward(sides, data.activation)
        return *results, *torch.autograd.grad(results, sides, above)

    return Entry(call)


_CONTESTANTS = {
    "identity": {OURS: with_relkernels, "torch": with_torch},
    "relu": {OURS: with_relkernels, "torch": with_torch},
    "gradients": {OURS: gradients_with_relkernels, "torch": gradients_with_torch},
}
_SIZES = (16, 128, 512, 2048, 4096)
_TITLES = {
    "identity": "relational attention, n = {size}",
    "relu": "relational attention, relu of the relations, n = {size}",
    "gradients": "relational attention and its gradients, relu, n = {size}",
}


def _data(series: str, size: int) -> Data:
    def heads(seed: int, count: int, width: int) -> np.ndarray:
        return points(count * size, width, seed).reshape(count, size, width)

    counts = (HEADS, HEADS, RELATIONS, RELATIONS, HEADS)
    sides = tuple(heads(seed, count, D) for seed, count in enumerate(counts, 1))
    above = heads(6, HEADS, RELATIONS), heads(7, HEADS, D)
    return Data(sides, above, "identity" if series == "identity" else "relu")


def _workload(series: str, size: int) -> Workload:
    # Multiply-adds of a pair, forward and back (csrc/operations/relational_attention*.cpp).
    forward = HEADS * 2 * D + RELATIONS * D + HEADS * RELATIONS
    back = HEADS * 5 * D + RELATIONS * 3 * D + 2 * HEADS * RELATIONS
    sides = 4.0 * size * (3 * HEADS + 2 * RELATIONS) * D
    results = 4.0 * size * HEADS * (D + RELATIONS)
    gradients = series == "gradients"
    return Workload(
        family="relational",
        series=series,
        size=size,
        title=_TITLES[series],
        flops=2.0 * size**2 * (forward + (back if gradients else 0)),
        read=sides + (results if gradients else 0),
        written=results + (sides if gradients else 0),
        limit="fma_float32",
        data=lambda: _data(series, size),
        contestants=_CONTESTANTS[series],
        # Sums of many relations of either sign are much smaller than these.
        tolerance=1e-4,
        targets={"best": 2.0} if size >= 128 else {},
        quick=size <= 512,
    )


class GpuData(NamedTuple):
    """q, k, q_rel, k_rel and v, each (8, n, d), on the device."""

    sides: tuple[Any, ...]


def gpu_with_relkernels(data: GpuData) -> Entry:
    """Ours."""
    return tensors.entry(lambda: tuple(relational_attention(*data.sides, rel_activation="relu")))


def gpu_with_torch(data: GpuData) -> Entry:
    """Store the scores and the relations."""
    return tensors.entry(lambda: _forward(list(data.sides), "relu"))


def gpu_workload(dtype: str, n: int = 4_096, d: int = 64) -> Workload:
    """Return the workload of a dtype."""
    width = tensors.SIZE[dtype]
    return Workload(
        device="cuda",
        family="relational",
        series=f"relu_{dtype}",
        size=n,
        title=f"relational attention, 8 heads and 8 relations of {d}, relu, n = {{size}}, {dtype}",
        flops=2.0 * n**2 * (HEADS * 2 * d + RELATIONS * d + HEADS * RELATIONS),
        read=1.0 * width * n * (3 * HEADS + 2 * RELATIONS) * d,
        written=1.0 * width * n * HEADS * (d + RELATIONS),
        limit=dtype,
        data=lambda: GpuData(tuple(tensors.normal(8, n, d, dtype=dtype, seed=seed) for seed in range(5))),
        contestants={OURS: gpu_with_relkernels, "PyTorch": gpu_with_torch},
        targets={"PyTorch": 3.0},
        tolerance=tensors.TOLERANCE[dtype],
    )


WORKLOADS = [
    *(_workload(series, size) for series in _CONTESTANTS for size in _SIZES),
    *(gpu_workload(dtype) for dtype in ("bfloat16", "float32")),
]
