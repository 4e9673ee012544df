"""Matrix-free products sum_j link(R_ij) v_j of inner products and of distances, on the CPU and on a GPU."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...ops import relation_matvec
from ..workload import CEILING, OURS, Entry, Workload, points
from . import tensors

D = 64
# Rows at a time, for peers that have to store the matrix.
ROWS = 2000
# Terms of opposite sign cancel: a sum of n terms has fewer correct digits than the terms.
TOLERANCE = 1e-4


class Data(NamedTuple):
    """Objects (on both sides) and the vector."""

    x: np.ndarray
    v: np.ndarray


def with_relkernels(data: Data) -> Entry:
    """Ours."""
    return Entry(lambda: relation_matvec(data.x, data.x, data.v, link="exp"))


def with_numpy(data: Data) -> Entry:
    """Follow the definition, a block of rows at a time."""
    x, v = data

    def call() -> np.ndarray:
        parts = []
        for i in range(0, len(x), ROWS):
            r = x[i : i + ROWS] @ x.T
            parts.append(np.exp(r, out=r) @ v)
        return np.concatenate(parts)

    return Entry(call)


def with_torch(data: Data) -> Entry:
    """Do the same on tensors."""
    import torch

    x, v = torch.from_numpy(data.x), torch.from_numpy(data.v)

    def call() -> Any:
        return torch.cat([torch.exp_(x[i : i + ROWS] @ x.T) @ v for i in range(0, len(x), ROWS)])

    return Entry(call)


def with_keops(data: Data) -> Entry:
    """Multiply a symbolic matrix by the vector."""
    from pykeops.numpy import LazyTensor

    matrix = (LazyTensor(data.x[:, None, :]) | LazyTensor(data.x[None, :, :])).exp()
    v = data.v[:, None]
    matrix.backend = "CPU"
    return Entry(lambda: (matrix @ v)[:, 0])


def _workload(n: int) -> Workload:
    return Workload(
        family="relation_matvec",
        series="exp",
        size=n,
        title="exp-link product, {size} × {size}",
        flops=2.0 * n * n * D,
        read=4.0 * n * (D + 1),
        written=4.0 * n,
        limit="fma_float32",
        data=lambda: Data(points(n) / 5, points(n, 1)[:, 0].copy()),
        contestants={OURS: with_relkernels, "numpy": with_numpy, "torch": with_torch, "keops": with_keops},
        tolerance=TOLERANCE,
        targets={"best": 4.5} if n == 20_000 else {},
        isa_targets={"avx2": {"best": 4.0}} if n == 20_000 else {},
        quick=n <= 1024,
    )


# ---- the gaussian kernel: peers take squared norms less products, which lose digits far from the origin


def _scale(data: Data) -> float:
    """Return that of a kernel whose length scale is typical of the distances."""
    return 25 / data.x.shape[1]


def gaussian_with_relkernels(data: Data) -> Entry:
    """Ours."""
    scale = _scale(data)
    return Entry(lambda: relation_matvec(data.x, data.x, data.v, link="gaussian", scale=scale))


# Rows at a time, for peers that make several passes over a block: 5 MB of it stay in the caches.
BLOCK = 64


def gaussian_with_numpy(data: Data) -> Entry:
    """Take squared norms less products, a block of rows at a time."""
    x, v = data
    scale = np.float32(_scale(data))

    def call() -> np.ndarray:
        squares, parts = (x * x).sum(axis=1) * (scale / 2), []
        for i in range(0, len(x), BLOCK):
            t = (x[i : i + BLOCK] * scale) @ x.T
            t -= squares
            t -= squares[i : i + BLOCK, None]
            np.minimum(t, 0, out=t)
            parts.append(np.exp(t, out=t) @ v)
        return np.concatenate(parts)

    return Entry(call)


def gaussian_with_torch(data: Data) -> Entry:
    """Do the same on tensors, with the first two passes in the product."""
    import torch

    x, v = torch.from_numpy(data.x), torch.from_numpy(data.v)
    scale = _scale(data)

    def call() -> Any:
        squares, parts = (x * x).sum(1) * (-scale / 2), []
        for i in range(0, len(x), BLOCK):
            t = torch.addmm(squares[None], x[i : i + BLOCK], x.T, alpha=scale)
            parts.append(t.add_(squares[i : i + BLOCK, None]).clamp_(max=0).exp_() @ v)
        return torch.cat(parts)

    return Entry(call)


def gaussian_with_keops(data: Data) -> Entry:
    """Multiply a symbolic matrix by the vector."""
    from pykeops.numpy import LazyTensor

    difference = LazyTensor(data.x[:, None, :]) - LazyTensor(data.x[None, :, :])
    matrix = (-((difference**2).sum(-1)) * (_scale(data) / 2)).exp()
    v = data.v[:, None]
    matrix.backend = "CPU"
    return Entry(lambda: (matrix @ v)[:, 0])


def _gaussian(n: int, d: int) -> Workload:
    peers = {"numpy": gaussian_with_numpy, "torch": gaussian_with_torch, "keops": gaussian_with_keops}
    return Workload(
        family="relation_matvec",
        series=f"gaussian_{d}",
        size=n,
        title=f"gaussian product of {d} features, {{size}} × {{size}}",
        flops=3.0 * n * n * d,  # a difference and a multiply-add
        read=4.0 * n * (d + 1),
        written=4.0 * n,
        limit="fma_float32",
        data=lambda: Data(points(n, d) / 5, points(n, 1)[:, 0].copy()),
        contestants={OURS: gaussian_with_relkernels, **peers},
        tolerance=TOLERANCE,
        targets={"numpy": 3.0, "torch": 3.0, "keops": 5.0} if n == 20_000 else {},
        quick=n <= 1024,
    )


# ---- on a GPU ----------------------------------------------------------------------------------


class GpuData(NamedTuple):
    """Tensors of objects on both sides and the vector; the scale of the inner products."""

    x: Any
    y: Any
    v: Any
    scale: float


# Rows of the relation that the peer holds: 16 GB.
GPU_ROWS = 4_000


def gpu_with_relkernels(data: GpuData) -> Entry:
    """Ours, on tensors."""
    x, y, v, scale = data
    return tensors.entry(lambda: relation_matvec(x, y, v, link="exp", scale=scale))


def gpu_with_torch(data: GpuData) -> Entry:
    """Compute the relation in chunks of rows."""
    import torch

    x, y, v, scale = data

    def call() -> Any:
        parts = [torch.exp_((x[i : i + GPU_ROWS] @ y.T).mul_(scale)) @ v for i in range(0, len(x), GPU_ROWS)]
        return torch.cat(parts)

    return tensors.entry(tensors.with_tf32(False, call))


def gpu_workload(n: int = 1_000_000) -> Workload:
    """Return the workload in float32."""
    return Workload(
        device="cuda",
        family="relation_matvec",
        series="exp_float32",
        size=n,
        title=f"exp-link product, n = m = {{size}}, d = {D}, float32",
        flops=2.0 * n**2 * (D + 1),
        read=4.0 * n * (2 * D + 1),
        written=4.0 * n,
        limit="float32",
        data=lambda: GpuData(
            tensors.normal(n, D), tensors.normal(n, D, seed=1), tensors.normal(n, seed=2), 0.05
        ),
        contestants={OURS: gpu_with_relkernels, "PyTorch in chunks": gpu_with_torch},
        targets={CEILING: 0.7},
        tolerance=1e-3,  # sums of a million terms of both signs
    )


WORKLOADS = [
    *(_workload(n) for n in (1, 16, 64, 1024, 4096, 20_000)),
    *(_gaussian(n, d) for d in (3, 64) for n in (1024, 20_000)),
    gpu_workload(),
]
