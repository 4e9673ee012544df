"""The k largest inner products with keys of 64 features, on the CPU and on a GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ...ops import Keys, retrieve
from ..workload import OURS, Entry, Workload, points
from . import tensors

D = 64


class Data(NamedTuple):
    """Queries, keys (on a GPU, tensors), and k."""

    q: Any
    keys: Any
    k: int


def _comparable(data: Data) -> Any:
    """Values, and the inner products at the indices: correct indices may differ if values tie."""

    def arrays(result: Any) -> list[np.ndarray]:
        values, indices = (np.asarray(part) for part in result)
        return [values, np.einsum("nd,nkd->nk", data.q, data.keys[indices])]

    return arrays


def with_relkernels(data: Data) -> Entry:
    """Ours."""
    return Entry(lambda: retrieve(data.q, data.keys, data.k), _comparable(data))


def with_prepared_keys(data: Data) -> Entry:
    """Ours, on `Keys` that are prepared beforehand, as Faiss's index is."""
    keys = Keys(data.keys)
    return Entry(lambda: retrieve(data.q, keys, data.k), _comparable(data))


def with_numpy(data: Data) -> Entry:
    """Compute the matrix, argpartition, and a sort of the result."""
    q, keys, k = data

    def call() -> tuple[np.ndarray, np.ndarray]:
        r = q @ keys.T
        best = np.argpartition(r, -k, axis=1)[:, -k:]
        values = np.take_along_axis(r, best, axis=1)
        order = np.argsort(-values, axis=1)
        return np.take_along_axis(values, order, axis=1), np.take_along_axis(best, order, axis=1)

    return Entry(call, _comparable(data))


def with_torch(data: Data) -> Entry:
    """Compute the matrix, then torch.topk."""
    import torch

    q, keys = torch.from_numpy(data.q), torch.from_numpy(data.keys)
    return Entry(lambda: torch.topk(q @ keys.T, data.k), _comparable(data))


def with_faiss(data: Data) -> Entry:
    """IndexFlatIP, filled beforehand."""
    import faiss

    index = faiss.IndexFlatIP(D)
    index.add(data.keys)
    return Entry(lambda: index.search(data.q, data.k), _comparable(data))


def with_sklearn(data: Data) -> Entry:
    """NearestNeighbors by brute force, on keys extended by one coordinate to equal norms.

    Then |q - k|² = |q|² + M² - 2 <q, k> (Bachrach et al. 2014), M the largest norm of a key.
    """
    from sklearn.neighbors import NearestNeighbors

    squares = np.einsum("nd,nd->n", data.keys, data.keys)
    greatest = squares.max()
    keys = np.column_stack([data.keys, np.sqrt(greatest - squares)])
    q = np.column_stack([data.q, np.zeros(len(data.q), data.q.dtype)])
    found = NearestNeighbors(n_neighbors=data.k, algorithm="brute").fit(keys)
    own = np.einsum("nd,nd->n", data.q, data.q)[:, None]

    def arrays(result: Any) -> list[np.ndarray]:
        distances, indices = result
        return _comparable(data)(((own + greatest - distances**2) / 2, indices))

    return Entry(lambda: found.kneighbors(q), arrays)


_BASE = {OURS: with_relkernels, "numpy": with_numpy, "torch": with_torch, "faiss": with_faiss}
_TARGETS: dict[tuple[int, int, int], dict[str, float]] = {
    (1000, 100_000, 1): {"torch": 4.5, "faiss": 9.0},
    (1000, 100_000, 10): {"torch": 4.5, "faiss": 9.0},
    (1000, 100_000, 100): {"torch": 4.5, "faiss": 9.0},
    (1, 100_000, 10): {"best": 1.2},
    (16, 100_000, 10): {"best": 1.5},
}
_AVX2_TARGETS = {
    (1, 100_000, 10): {"faiss": 1.2},
    (1000, 100_000, 10): {"faiss": 8.0},
    (1000, 100_000, 100): {"faiss": 6.0},
}


def _prepared(m: int) -> Workload:
    whole = _workload("prepared_1", m, 1, m, 10, "retrieve 10, 1 query × {size} keys prepared once")
    return replace(
        whole,
        contestants={**whole.contestants, OURS: with_prepared_keys},
        targets={},
        isa_targets={"avx2": {"faiss": 3.0}} if m == 100_000 else {},
    )


def _workload(series: str, size: int, n: int, m: int, k: int, title: str) -> Workload:
    quick = m <= 10_000
    # Half a second or more per call, with a known outcome: one size is enough.
    slow = {"sklearn": with_sklearn} if k == 10 and n * m <= 100_000_000 else {}
    return Workload(
        family="retrieve",
        series=series,
        size=size,
        axis="k" if series == "largest" else "keys",
        title=title,
        flops=2.0 * n * m * D,
        read=4.0 * D * (n + m),
        written=12.0 * n * k,
        limit="read" if n == 1 else "fma_float32",
        data=lambda: Data(points(n, seed=1), points(m, seed=2), k),
        contestants=_BASE | slow,
        targets=_TARGETS.get((n, m, k), {}),
        isa_targets={"avx2": _AVX2_TARGETS[n, m, k]} if (n, m, k) in _AVX2_TARGETS else {},
        quick=quick,
    )


# ---- on a GPU ----------------------------------------------------------------------------------


# Keys per product of the peer: 10 GB of float32 scores.
CHUNK = 250_000
# The order of equal and nearly equal scores may differ: the values are compared, not the indices.
VALUES = slice(1)


def gpu_with_relkernels(data: Data) -> Entry:
    """Ours, on tensors."""
    return tensors.entry(lambda: retrieve(data.q, data.keys, data.k), VALUES)


def gpu_with_torch(data: Data) -> Entry:
    """Compute the matrix in chunks, with torch.topk of each, and of the best so far."""
    import torch

    q, keys, k = data

    def call() -> Any:
        values: Any = None
        indices: Any = None
        for start in range(0, len(keys), CHUNK):
            found, places = torch.topk(q @ keys[start : start + CHUNK].T, k, dim=1)
            places = places + start
            if values is not None:
                found, places = torch.cat([values, found], 1), torch.cat([indices, places], 1)
                found, order = torch.topk(found, k, dim=1)
                places = places.gather(1, order)
            values, indices = found, places
        return values, indices

    return tensors.entry(tensors.with_tf32(False, call), VALUES)


def gpu_workload(dtype: str, n: int = 10_000, m: int = 10_000_000, k: int = 10) -> Workload:
    """Return the workload of a dtype."""
    width = tensors.SIZE[dtype]
    return Workload(
        device="cuda",
        family="retrieve",
        series=f"queries_{n}_{dtype}",
        size=m,
        axis="keys",
        title=f"retrieve {k} of {{size}} keys for {n:,} queries, d = {D}, {dtype}",
        flops=2.0 * n * m * D,
        read=1.0 * (n + m) * D * width,
        written=1.0 * n * k * (8 + width),
        limit=dtype,
        data=lambda: Data(tensors.normal(n, D, dtype=dtype), tensors.normal(m, D, dtype=dtype, seed=1), k),
        contestants={OURS: gpu_with_relkernels, "matmul + topk (PyTorch)": gpu_with_torch},
        targets={"matmul + topk (PyTorch)": 3.0},
        tolerance=tensors.TOLERANCE[dtype],
    )


WORKLOADS = [
    *(
        _workload(
            f"queries_{n}",
            m,
            n,
            m,
            10,
            f"retrieve 10, {n:,} {'query' if n == 1 else 'queries'} × {{size}} keys",
        )
        for n, sizes in (
            (1, (100, 1_000, 10_000, 100_000, 1_000_000)),
            (16, (100, 1_000, 10_000, 100_000, 1_000_000)),
            (1000, (100, 1_000, 10_000, 100_000)),
        )
        for m in sizes
    ),
    *(_prepared(m) for m in (10_000, 100_000, 1_000_000)),
    *(
        _workload("largest", k, 1000, 100_000, k, "retrieve {size}, 1,000 queries × 100,000 keys")
        for k in (1, 100)
    ),
    *(gpu_workload(dtype) for dtype in ("float32", "bfloat16")),
]
