"""phi(x) through an MLP 64 → 256 → 256 → 64, on the CPU and on a GPU."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from ...maps.mlp import MLP
from ...ops import feature_map
from ..workload import BF16, CEILING, FLOAT32, OURS, AbsentError, Entry, Workload, points
from . import networks, tensors


class Data(NamedTuple):
    """Rows (on a GPU, a tensor) and the map."""

    x: Any
    phi: MLP


def _data(n: int, activation: str) -> Callable[[], Data]:
    return lambda: Data(points(n), networks.network(activation))


def with_relkernels(data: Data) -> Entry:
    """Ours."""
    return Entry(lambda: feature_map(data.x, data.phi))


def with_relkernels_bf16(data: Data) -> Entry:
    """Ours, multiplying in bfloat16."""
    if "precision" not in inspect.signature(feature_map).parameters:
        raise AbsentError('this version has no feature_map(..., precision="bf16")')
    call: Any = feature_map
    return Entry(lambda: call(data.x, data.phi, precision="bf16"))


def with_numpy(data: Data) -> Entry:
    """BLAS, and NumPy's elementwise functions in place."""
    forward = networks.with_numpy(data.phi)
    return Entry(lambda: forward(data.x))


def with_torch(data: Data) -> Entry:
    """torch.nn.functional.linear and an activation in place."""
    import torch

    forward, x = networks.with_torch(data.phi), torch.from_numpy(data.x)
    return Entry(lambda: forward(x))


def with_torch_bf16(data: Data) -> Entry:
    """Do the same on tensors of bfloat16."""
    import torch

    forward, x = networks.with_torch(data.phi, bf16=True), torch.from_numpy(data.x).to(torch.bfloat16)
    return Entry(lambda: forward(x))


def with_sklearn(data: Data) -> Entry:
    """MLPRegressor.predict."""
    model = networks.with_sklearn(data.phi)
    return Entry(lambda: model.predict(data.x))


_WITH_SKLEARN = {"sklearn": with_sklearn}
# Targets by activation and n.
_TARGETS: dict[tuple[str, int], dict[str, float]] = {
    ("relu", 1): {"best": 1.5},
    ("relu", 64): {"best": 1.5},
    ("relu", 4096): {"best": 1.25},
    ("relu", 65536): {"best": 2.2, CEILING: 0.85},
    ("gelu_tanh", 65536): {"best": 2.5},
    ("tanh", 65536): {"best": 2.5},
    ("relu_bf16", 4096): {"best": 1.2},
    ("relu_bf16", 65536): {"best": 4.0},
}
_SWEEPS = {
    "relu": (1, 8, 64, 512, 4096, 65536, 262144),
    "gelu_tanh": (1, 64, 4096, 65536),
    "tanh": (1, 64, 4096, 65536),
}


def _workload(series: str, n: int) -> Workload:
    bf16 = series.endswith("_bf16")
    activation = series.removesuffix("_bf16")
    peers = {"numpy": with_numpy, "torch": with_torch}
    if activation != "gelu_tanh":  # MLPRegressor lacks it
        peers |= _WITH_SKLEARN
    return Workload(
        family="feature_map",
        series=series,
        size=n,
        title=f"MLP 64-256-256-64 {series.replace('_bf16', ', bf16')}, n = {{size}}",
        flops=2.0 * n * networks.parameters(networks.WIDTHS),
        read=4.0 * n * 64,
        written=4.0 * n * 64,
        limit="bf16_dot" if bf16 else "fma_float32",
        data=_data(n, activation),
        contestants={OURS: with_relkernels_bf16, "torch": with_torch_bf16}
        if bf16
        else {OURS: with_relkernels, **peers},
        tolerance=BF16 if bf16 else FLOAT32,
        targets=_TARGETS.get((series, n), {}),
        isa_targets={"avx2": {CEILING: 0.9}} if series == "relu" and n >= 64 else {},
        quick=n in (1, 64),
    )


# ---- on a GPU ----------------------------------------------------------------------------------


def gpu_with_relkernels(data: Data) -> Entry:
    """Ours, on tensors."""
    return tensors.entry(lambda: feature_map(data.x, data.phi))


def gpu_with_torch(data: Data) -> Entry:
    """torch.nn.Sequential."""
    net = tensors.module(data.phi, data.x.dtype)
    return tensors.entry(lambda: net(data.x))


def gpu_with_torch_compile(data: Data) -> Entry:
    """Do the same, compiled."""
    import torch

    net = torch.compile(tensors.module(data.phi, data.x.dtype))
    return tensors.entry(lambda: net(data.x))


def gpu_workload(activation: str, dtype: str, n: int = 2**20) -> Workload:
    """Return the workload of an activation and a dtype."""
    width, widths = tensors.SIZE[dtype], networks.WIDTHS
    return Workload(
        device="cuda",
        family="feature_map",
        series=f"{activation}_{dtype}",
        size=n,
        title=f"MLP {'-'.join(map(str, widths))} {activation}, n = {{size}}, {dtype}",
        flops=2.0 * n * networks.parameters(widths),
        read=1.0 * n * widths[0] * width,
        written=1.0 * n * widths[-1] * width,
        limit=dtype,
        data=lambda: Data(
            tensors.normal(n, widths[0], dtype=dtype), MLP.random(widths, activation, random_state=0)
        ),
        contestants={
            OURS: gpu_with_relkernels,
            "PyTorch": gpu_with_torch,
            "torch.compile": gpu_with_torch_compile,
        },
        targets={"PyTorch": 3.0, "torch.compile": 1.5},
        tolerance=tensors.TOLERANCE[dtype],
    )


WORKLOADS = [
    *(_workload(series, n) for series, sizes in _SWEEPS.items() for n in sizes),
    *(_workload("relu_bf16", n) for n in (64, 4096, 65536)),
    *(gpu_workload(activation, "bfloat16") for activation in ("relu", "gelu")),
]
