"""Matrix-free products sum_j link(<x_i, y_j>) v_j with 64 features."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...ops import relation_matvec
from ..workload import OURS, Entry, Workload, points

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
        quick=n <= 1024,
    )


WORKLOADS = [_workload(n) for n in (64, 1024, 4096, 20_000)]
