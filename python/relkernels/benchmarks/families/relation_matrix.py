"""Relation matrices: from x through an MLP, from features, and many small ones at once; also on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ...maps.mlp import MLP
from ...ops import relation_matrix
from ..workload import CEILING, OURS, Entry, Workload, points
from . import networks, tensors

# Sets of 32 objects, as in abstractor layers.
SET = 32
SET_WIDTHS = (32, 64, 64, 16)


class Data(NamedTuple):
    """Objects on both sides (None: the same; on a GPU, tensors) and the map (None: x are features)."""

    x: Any
    y: Any
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
_FROM_FEATURES = (1, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
_SIZES = {
    "symmetric_mlp": (16, 256, 2048, 8192),
    "symmetric_features": _FROM_FEATURES,
    "asymmetric_features": _FROM_FEATURES,
}
_TARGETS = {
    "symmetric_mlp": {256: 1.5, 2048: 1.5, 8192: 2.5},
    "symmetric_features": {2048: 1.6, 8192: 2.0},
    "asymmetric_features": {2048: 1.0, 8192: 2.0},
}
# The share of the ceiling is for results that fit in every last-level cache.
_AVX2_TARGETS: dict[str, dict[int, dict[str, float]]] = {
    "symmetric_features": {n: {"best": 1.6} for n in _FROM_FEATURES if n >= 256},
    "asymmetric_features": {
        16: {"numpy": 0.83},
        256: {"best": 1.0},
        512: {"best": 1.0, CEILING: 0.92},
        1024: {"best": 1.0, CEILING: 0.92},
        2048: {"best": 1.0},
        4096: {"best": 1.0},
        8192: {"best": 1.2},
    },
}


def _workload(series: str, n: int) -> Workload:
    through_mlp, symmetric = series.endswith("_mlp"), series.startswith("symmetric")
    maps = 2.0 * n * networks.parameters(networks.WIDTHS) if through_mlp else 0.0
    target, avx2 = _TARGETS[series].get(n), _AVX2_TARGETS.get(series, {}).get(n)
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
        isa_targets={} if avx2 is None else {"avx2": avx2},
        quick=n <= 256,
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
        isa_targets={"avx2": {"best": 1.5}} if count == 256 else {},
        quick=count in (1, 16),
    )


# ---- on a GPU ----------------------------------------------------------------------------------


def gpu_with_relkernels(precision: str | None = None) -> Callable[[Data], Entry]:
    """Ours, on tensors."""

    def prepare(data: Data) -> Entry:
        return tensors.entry(lambda: relation_matrix(data.x, data.y, data.phi, precision=precision))

    return prepare


def gpu_with_cublas(tf32: bool) -> Callable[[Data], Entry]:
    """Use one product of PyTorch."""

    def prepare(data: Data) -> Entry:
        x, y = data.x, data.x if data.y is None else data.y
        return tensors.entry(tensors.with_tf32(tf32, lambda: x @ y.T))

    return prepare


def gpu_with_cupy(data: Data) -> Entry:
    """Use one product of CuPy."""
    import cupy

    x = cupy.from_dlpack(data.x)
    y = x if data.y is None else cupy.from_dlpack(data.y)
    return tensors.entry(lambda: x @ y.T)


def gpu_workload(
    arithmetic: str, symmetric: bool, targets: Mapping[str, float], n: int = 16_384, d: int = 256
) -> Workload:
    """Return the workload of an arithmetic, from features."""
    width, tf32 = tensors.SIZE[arithmetic], arithmetic == "tf32"
    dtype = "float32" if tf32 else arithmetic
    kind = "symmetric" if symmetric else "asymmetric"
    return Workload(
        device="cuda",
        family="relation_matrix",
        series=f"{kind}_{arithmetic}",
        size=n,
        title=f"{kind} relation from features, n = m = {{size}}, d = {d}, {arithmetic}",
        flops=(1.0 if symmetric else 2.0) * n * n * d,
        read=(1.0 if symmetric else 2.0) * n * d * width,
        written=1.0 * n * n * width,
        limit=arithmetic,
        data=lambda: Data(
            tensors.normal(n, d, dtype=dtype),
            None if symmetric else tensors.normal(n, d, dtype=dtype, seed=1),
            None,
        ),
        contestants={
            OURS: gpu_with_relkernels("tf32" if tf32 else None),
            "cuBLAS (PyTorch)": gpu_with_cublas(tf32),
            **({"CuPy": gpu_with_cupy} if arithmetic == "float32" else {}),
        },
        targets=targets,
        tolerance=tensors.TOLERANCE[arithmetic],
    )


def _sets_with_module(data: Data) -> Any:
    assert data.phi is not None
    net = tensors.module(data.phi, data.x.dtype)

    def call() -> Any:
        f = net(data.x)
        return f @ f.mT

    return call


def gpu_sets_with_torch(data: Data) -> Entry:
    """torch.nn.Sequential and a batch of products."""
    return tensors.entry(_sets_with_module(data))


def gpu_sets_with_torch_compile(data: Data) -> Entry:
    """Do the same, compiled."""
    import torch

    return tensors.entry(torch.compile(_sets_with_module(data)))


def gpu_sets(dtype: str, count: int = 4_096) -> Workload:
    """Return the workload of many small relations."""
    width, d = tensors.SIZE[dtype], SET_WIDTHS[0]
    return Workload(
        device="cuda",
        family="relation_matrix",
        series=f"sets_{dtype}",
        size=count,
        axis="sets",
        title=f"{{size}} sets of {SET} objects through an MLP {'-'.join(map(str, SET_WIDTHS))}, {dtype}",
        flops=count * SET * (2.0 * networks.parameters(SET_WIDTHS) + SET * SET_WIDTHS[-1]),
        read=1.0 * count * SET * d * width,
        written=1.0 * count * SET**2 * width,
        limit=dtype,
        data=lambda: Data(
            tensors.normal(count, SET, d, dtype=dtype), None, MLP.random(SET_WIDTHS, "relu", random_state=0)
        ),
        contestants={
            OURS: gpu_with_relkernels(),
            "PyTorch": gpu_sets_with_torch,
            "torch.compile": gpu_sets_with_torch_compile,
        },
        targets={"PyTorch": 3.0},
        tolerance=tensors.TOLERANCE[dtype],
    )


WORKLOADS = [
    *(_workload(series, n) for series, sizes in _SIZES.items() for n in sizes),
    *(_sets(count) for count in (1, 16, 256, 8192)),
    gpu_workload("bfloat16", False, {"cuBLAS (PyTorch)": 0.9}),
    gpu_workload("bfloat16", True, {"cuBLAS (PyTorch)": 1.5}),
    *(gpu_workload(arithmetic, False, {}) for arithmetic in ("float16", "tf32", "float32")),
    *(gpu_sets(dtype) for dtype in ("float32", "bfloat16")),
]
