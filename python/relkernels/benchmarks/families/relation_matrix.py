"""Relation matrices: from x through an MLP, from features, and many small ones at once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...maps.mlp import MLP
from ...ops import relation_matrix
from ..workload import OURS, Entry, Workload, points
from . import networks

# Sets of 32 objects, as in abstractor layers.
SET = 32
SET_WIDTHS = (32, 64, 64, 16)


class Data(NamedTuple):
    """Objects on both sides (None: the same) and the map (None: x are features)."""

    x: np.ndarray
    y: np.ndarray | None
    phi: MLP | None


def with_relkernels(data: Data) -> Entry:
    """Ours."""
    return Entry(lambda: relation_matrix(data.x, data.y, data.phi))


def _entry(data: Data, forward: Any, x: Any, y: Any) -> Entry:
    def call() -> Any:
        f = forward(x) if forward else x
        return f @ (f if y is None else y).swapaxes(-1, -2)

    return Entry(call)


def with_numpy(data: Data) -> Entry:
    """BLAS: a symmetric product if both sides are the same."""
    return _entry(data, networks.with_numpy(data.phi) if data.phi else None, data.x, data.y)


def with_torch(data: Data) -> Entry:
    """Do the same on tensors."""
    import torch

    x, y = (None if a is None else torch.from_numpy(a) for a in (data.x, data.y))
    return _entry(data, networks.with_torch(data.phi) if data.phi else None, x, y)


def with_sklearn(data: Data) -> Entry:
    """sklearn.metrics.pairwise.linear_kernel."""
    from sklearn.metrics.pairwise import linear_kernel

    if data.phi is None:
        return Entry(lambda: linear_kernel(data.x, data.y))
    model = networks.with_sklearn(data.phi)
    return Entry(lambda: linear_kernel(model.predict(data.x)))


_TITLES = {
    "symmetric_mlp": "symmetric relation from x, n = {size}",
    "symmetric_features": "symmetric relation from features, n = {size}",
    "asymmetric_features": "asymmetric relation from features, n = {size}",
}
_TARGETS = {
    "symmetric_mlp": {256: 1.5, 2048: 1.5, 8192: 2.5},
    "symmetric_features": {2048: 1.6, 8192: 2.0},
    "asymmetric_features": {2048: 1.0, 8192: 2.0},
}


def _workload(series: str, n: int) -> Workload:
    through_mlp, symmetric = series.endswith("_mlp"), series.startswith("symmetric")
    maps = 2.0 * n * networks.parameters(networks.WIDTHS) if through_mlp else 0.0
    target = _TARGETS[series].get(n)
    return Workload(
        family="relation_matrix",
        series=series,
        size=n,
        title=_TITLES[series],
        flops=maps + (1 if symmetric else 2) * 64.0 * n * n,
        read=4.0 * n * 64 * (1 if symmetric else 2),
        written=4.0 * n * n,
        limit="fma_float32",
        data=lambda: Data(
            points(n),
            None if symmetric else points(n, seed=1),
            networks.network() if through_mlp else None,
        ),
        contestants={
            OURS: with_relkernels,
            "numpy": with_numpy,
            "torch": with_torch,
            "sklearn": with_sklearn,
        },
        targets={} if target is None else {"best": target},
        quick=n in (16, 256),
    )


def _sets(count: int) -> Workload:
    row = networks.parameters(SET_WIDTHS)
    return Workload(
        family="relation_matrix",
        series="sets_mlp",
        size=count,
        axis="sets",
        title="sets of 32 objects, MLP 32-64-64-16, {size} of them",
        flops=count * SET * (2.0 * row + 1.0 * SET * SET_WIDTHS[-1]),
        read=4.0 * count * SET * SET_WIDTHS[0],
        written=4.0 * count * SET * SET,
        limit="fma_float32",
        data=lambda: Data(
            points(count * SET, SET_WIDTHS[0]).reshape(count, SET, -1),
            None,
            networks.network(widths=SET_WIDTHS),
        ),
        contestants={OURS: with_relkernels, "numpy": with_numpy, "torch": with_torch},
        targets={"best": 1.8} if count == 256 else {},
        quick=count in (1, 16),
    )


WORKLOADS = [_workload(series, n) for series in _TITLES for n in (16, 256, 2048, 8192)] + [
    _sets(count) for count in (1, 16, 256, 8192)
]
