"""All inner products with keys of 64 features that are at or above a threshold."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...ops import Keys, retrieve, retrieve_above
from ..workload import OURS, Entry, Workload, points

D = 64
# Pairs per query.
FOUND = 10


class Data(NamedTuple):
    """Queries, keys, and the threshold that `FOUND` pairs per query, on average, are above."""

    q: np.ndarray
    keys: np.ndarray
    threshold: float


def _data(n: int, m: int) -> Data:
    q, keys = points(n, seed=1), points(m, seed=2)
    candidates = np.sort(retrieve(q, keys, min(20 * FOUND, m))[0], axis=None)
    # Between two values, so that rounding, which differs between contestants, changes nothing.
    return Data(q, keys, float(candidates[-FOUND * n - 1 : -FOUND * n + 1].mean()))


def _sorted(result: Any) -> list[np.ndarray]:
    """Return offsets, indices and values, indices in order."""
    offsets, indices, values = (np.asarray(part) for part in result)
    rows = np.searchsorted(offsets, np.arange(len(indices)), side="right")
    order = np.lexsort((indices, rows))
    return [offsets, indices[order], values[order]]


def with_relkernels(data: Data) -> Entry:
    """Ours."""
    return Entry(lambda: retrieve_above(*data), _sorted)


def with_prepared_keys(data: Data) -> Entry:
    """Ours, on `Keys` that are prepared beforehand, as Faiss's index is."""
    keys = Keys(data.keys)
    return Entry(lambda: retrieve_above(data.q, keys, data.threshold), _sorted)


def with_the_best(data: Data) -> Entry:
    """`retrieve` of as many keys as a query has pairs on average, for its time: its result is another one."""
    return Entry(lambda: retrieve(data.q, data.keys, FOUND), lambda result: _sorted(retrieve_above(*data)))


def with_numpy(data: Data) -> Entry:
    """Compute the matrix, and the indices of the elements above the threshold."""

    def call() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        r = data.q @ data.keys.T
        above = r >= data.threshold
        offsets = np.concatenate([[0], np.cumsum(above.sum(axis=1))])
        return offsets, np.nonzero(above)[1], r[above]

    return Entry(call, _sorted)


def with_faiss(data: Data) -> Entry:
    """IndexFlatIP.range_search, filled beforehand."""
    import faiss

    index = faiss.IndexFlatIP(D)
    index.add(data.keys)

    def arrays(result: Any) -> list[np.ndarray]:
        offsets, values, indices = result
        return _sorted((offsets, indices, values))

    return Entry(lambda: index.range_search(data.q, data.threshold), arrays)


def _workload(n: int, m: int, prepared: bool = False) -> Workload:
    ours = with_prepared_keys if prepared else with_relkernels
    large = m == 100_000
    targets = {"faiss": 4.0, "retrieve": 1 / 1.15} if large and n == 1000 else {}
    return Workload(
        family="retrieve_above",
        series=f"prepared_{n}" if prepared else f"queries_{n}",
        size=m,
        axis="keys",
        title=f"all above a threshold, {FOUND} per query, {n:,} queries × {{size}} keys"
        + (" prepared once" if prepared else ""),
        flops=2.0 * n * m * D,
        read=4.0 * D * (n + m),
        written=12.0 * n * FOUND,
        limit="fma_float32",
        data=lambda: _data(n, m),
        contestants={OURS: ours, "retrieve": with_the_best, "numpy": with_numpy, "faiss": with_faiss},
        targets=targets,
        quick=not large,
    )


WORKLOADS = [
    *(_workload(1000, m) for m in (10_000, 100_000)),
    _workload(1000, 100_000, prepared=True),
    *(_workload(16, m) for m in (100, 100_000)),
]
