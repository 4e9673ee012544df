"""Attention with 64 features and values: full, causal, with a bias, in a window, of one query, grouped.

Also in bfloat16, its scores, and on a GPU.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ...ops import attention, attention_scores
from ..workload import BF16, CEILING, FLOAT32, OURS, AbsentError, Entry, Workload, points
from . import tensors

D = 64
# The mean of many values of either sign is much smaller than they are: over 524,288 keys PyTorch is 1.3e-5
# from a float64 reference, NumPy 5e-6, ours 7e-7.
ONE_QUERY = 5e-5
# A row sees itself and this many rows before it.
WINDOW = 256
# Rows that NumPy processes at a time, as one would to fit the matrix of scores into memory.
ROWS = 1024
# Heads of keys, and heads of queries on each of them.
HEADS, GROUP = 8, 4


class Data(NamedTuple):
    """Queries, keys, values (on a GPU, tensors), and whether row i may only attend to columns j <= i.

    `bias` is for each pair; with a window, row i may only attend to columns j >= i - window.
    """

    q: Any
    k: Any
    v: Any
    causal: bool
    bias: Any = None
    window: int | None = None


def with_relkernels(data: Data) -> Entry:
    """Ours."""
    return Entry(lambda: attention(data.q, data.k, data.v, causal=data.causal))


def with_relkernels_options(data: Data) -> Entry:
    """Ours, with a bias or a window."""
    options: Any = {"causal": data.causal, "window": (data.window, None)}
    if data.bias is not None:
        if "bias" not in inspect.signature(attention).parameters:
            raise AbsentError("this version has no attention(..., bias=...)")
        options["bias"] = data.bias
    call: Any = attention
    return Entry(lambda: call(data.q, data.k, data.v, **options))


def with_relkernels_bf16(data: Data) -> Entry:
    """Ours, multiplying in bfloat16."""
    if "precision" not in inspect.signature(attention).parameters:
        raise AbsentError('this version has no attention(..., precision="bf16")')
    call: Any = attention
    return Entry(lambda: call(data.q, data.k, data.v, causal=data.causal, precision="bf16"))


def softmax_with_numpy(q: np.ndarray, k: np.ndarray, first: int | None = None) -> np.ndarray:
    """Return the softmax of scaled scores in place; causal for rows that start at `first`."""
    r = q @ k.T
    r *= np.float32(1 / D**0.5)
    if first is not None:
        r[np.arange(len(k)) > first + np.arange(len(q))[:, None]] = -np.inf
    r -= r.max(axis=1, keepdims=True)
    np.exp(r, out=r)
    r /= r.sum(axis=1, keepdims=True)
    return r


def with_numpy(data: Data) -> Entry:
    """Follow the definition, a block of rows at a time."""
    q, k, v, causal = data[:4]

    def call() -> np.ndarray:
        out = np.empty((len(q), v.shape[1]), q.dtype)
        for i in range(0, len(q), ROWS):
            rows = slice(i, i + ROWS)
            m = min(i + ROWS, len(k)) if causal else len(k)
            out[rows] = softmax_with_numpy(q[rows], k[:m], i if causal else None) @ v[:m]
        return out

    return Entry(call)


def _tensors(data: Data, bf16: bool = False) -> list[Any]:
    import torch

    kind = torch.bfloat16 if bf16 else torch.float32
    return [torch.from_numpy(a)[None, None].to(kind) for a in data[:3]]


def _first(result: Any) -> list[np.ndarray]:
    return [result[0, 0].float().numpy()]


def _with_torch(data: Data, bf16: bool) -> Entry:
    import torch

    q, k, v = _tensors(data, bf16)
    attend = torch.nn.functional.scaled_dot_product_attention
    return Entry(lambda: attend(q, k, v, is_causal=data.causal), _first)


def with_torch(data: Data) -> Entry:
    """torch.nn.functional.scaled_dot_product_attention."""
    return _with_torch(data, False)


def with_torch_masked(data: Data) -> Entry:
    """Do the same with an array of n x m: a bias that is -inf, or a mask that is False, for other pairs."""
    import torch

    q, k, v = _tensors(data)
    n, m = len(data.q), len(data.k)
    seen = torch.ones(n, m, dtype=torch.bool).tril()
    if data.window is not None:
        seen = seen.triu(-data.window)
    mask = seen if data.bias is None else torch.from_numpy(data.bias).masked_fill(~seen, -torch.inf)
    attend = torch.nn.functional.scaled_dot_product_attention
    return Entry(lambda: attend(q, k, v, attn_mask=mask[None, None]), _first)


def with_torch_bf16(data: Data) -> Entry:
    """Do the same on tensors of bfloat16."""
    return _with_torch(data, True)


def with_keops(data: Data) -> Entry:
    """Reduce a symbolic matrix by sumsoftmaxweight."""
    from pykeops.numpy import LazyTensor

    scores = LazyTensor(data.q[:, None, :]) | LazyTensor(data.k[None, :, :])
    scores = scores * float(1 / D**0.5)
    values = LazyTensor(data.v[None, :, :])
    return Entry(lambda: scores.sumsoftmaxweight(values, axis=1, backend="CPU"))


def grouped_with_merged_rows(data: Data) -> Entry:
    """Ours on the same work as one matrix of rows per head of keys: the floor of what grouping costs."""
    q, k, v = data.q.reshape(HEADS, -1, D), data.k[:, 0], data.v[:, 0]
    return Entry(lambda: attention(q, k, v), lambda out: [out.reshape(data.q.shape)])


def grouped_with_repeated_keys(data: Data) -> Entry:
    """Ours with keys and values repeated in memory for each head of queries."""
    k, v = (np.repeat(a, GROUP, axis=1) for a in (data.k, data.v))
    return Entry(lambda: attention(data.q, k, v, causal=data.causal))


def grouped_with_torch(data: Data) -> Entry:
    """scaled_dot_product_attention with enable_gqa."""
    import torch

    q, k, v = (torch.from_numpy(a.reshape(1, -1, *a.shape[-2:])) for a in data[:3])
    attend = torch.nn.functional.scaled_dot_product_attention
    return Entry(
        lambda: attend(q, k, v, is_causal=data.causal, enable_gqa=True),
        lambda out: [out.reshape(data.q.shape).numpy()],
    )


def scores_with_relkernels(data: Data) -> Entry:
    """Ours."""
    return Entry(lambda: attention_scores(data.q, data.k))


def scores_with_numpy(data: Data) -> Entry:
    """Follow the definition, in place."""
    return Entry(lambda: softmax_with_numpy(data.q, data.k))


def scores_with_torch(data: Data) -> Entry:
    """torch.softmax of the scaled product."""
    import torch

    q, k = torch.from_numpy(data.q), torch.from_numpy(data.k)
    return Entry(lambda: torch.softmax((q @ k.T).mul_(1 / D**0.5), dim=1))


_CONTESTANTS = {
    "full": {OURS: with_relkernels, "numpy": with_numpy, "torch": with_torch, "keops": with_keops},
    "causal": {OURS: with_relkernels, "numpy": with_numpy, "torch": with_torch},
    "bias": {OURS: with_relkernels_options, "torch": with_torch_masked},
    "window": {OURS: with_relkernels_options, "torch": with_torch_masked},
    "bf16": {OURS: with_relkernels_bf16, "torch": with_torch_bf16},
    "one_query": {OURS: with_relkernels, "numpy": with_numpy, "torch": with_torch},
    "grouped": {
        OURS: with_relkernels,
        "merged rows": grouped_with_merged_rows,
        "repeated keys": grouped_with_repeated_keys,
        "torch": grouped_with_torch,
    },
    "scores": {OURS: scores_with_relkernels, "numpy": scores_with_numpy, "torch": scores_with_torch},
}
_SIZES = {
    "full": (1, 16, 64, 128, 512, 4096, 16384),
    "causal": (16, 128, 512, 4096, 16384),
    "bias": (512, 4096),
    "window": (4096, 16384),
    "bf16": (128, 4096),
    "one_query": (1024, 16384, 65536, 524288),
    "grouped": (16, 128, 1024),
    "scores": (16, 128, 1024, 8192),
}
_TITLES = {
    "full": "attention, n = {size}",
    "causal": "causal attention, n = {size}",
    "bias": "causal attention with a bias, n = {size}",
    "window": f"causal attention in a window of {WINDOW}, n = {{size}}",
    "bf16": "attention, bf16, n = {size}",
    "one_query": "attention of one query over {size} keys",
    "grouped": "attention, 32 heads on 8 of keys, n = {size}",
    "scores": "attention scores, n = {size}",
}
_TARGETS: dict[tuple[str, int], dict[str, float]] = {
    **{("full", n): {"best": 1.15} for n in (512, 4096, 16384)},
    **{("causal", n): {"best": 1.6} for n in (512, 4096, 16384)},
    ("bias", 4096): {"best": 1.2},
    ("window", 16384): {"best": 1.5},
    ("bf16", 4096): {"best": 1.1},
    ("one_query", 65536): {"best": 1.5, CEILING: 0.8},
}
_AVX2_TARGETS = {
    ("full", 512): {"best": 1.1},
    ("full", 4096): {"best": 1.2},
    **{("causal", n): {"best": 1.5} for n in (512, 4096, 16384)},
}
# KeOps does not block its loops: it would take half a minute at the largest size.
_KEOPS_UP_TO = 4096


def _grouped(size: int) -> Data:
    q = points(HEADS * GROUP * size, seed=1)
    k, v = (points(HEADS * size, seed=seed) for seed in (2, 3))
    shared = (HEADS, 1, size, D)
    return Data(q.reshape(HEADS, GROUP, size, D), k.reshape(shared), v.reshape(shared), False)


def _workload(series: str, size: int) -> Workload:
    n, m = (1 if series == "one_query" else size), size
    causal = series in ("causal", "bias", "window")
    keys = HEADS if series == "grouped" else 1
    heads = keys * GROUP if series == "grouped" else 1
    pairs = n * (m + 1) / 2 if causal else float(n) * m
    if series == "window":
        pairs -= max(n - WINDOW, 0) * (n - WINDOW - 1) / 2
    width = 2 if series == "bf16" else 4
    read = width * D * (float(n) * heads + (1 if series == "scores" else 2) * m * keys)
    read += 4.0 * pairs if series == "bias" else 0.0
    limit = {"bf16": "bf16_dot", "one_query": "read"}.get(series, "fma_float32")
    return Workload(
        family="attention",
        series=series,
        size=size,
        axis="keys" if series == "one_query" else "n",
        title=_TITLES[series],
        flops=(2 if series == "scores" else 4) * pairs * D * heads,
        read=read,
        written=4.0 * n * m if series == "scores" else float(width) * n * D * heads,
        limit=limit,
        data=lambda: (
            _grouped(size)
            if series == "grouped"
            else Data(
                points(n, seed=1),
                points(m, seed=2),
                points(m, seed=3),
                causal,
                points(n, m, seed=4) if series == "bias" else None,
                WINDOW if series == "window" else None,
            )
        ),
        contestants={
            who: prepare
            for who, prepare in _CONTESTANTS[series].items()
            if who != "keops" or size <= _KEOPS_UP_TO
        },
        tolerance={"bf16": BF16, "one_query": ONE_QUERY}.get(series, FLOAT32),
        targets=_TARGETS.get((series, size), {}),
        isa_targets={"avx2": _AVX2_TARGETS[series, size]} if (series, size) in _AVX2_TARGETS else {},
        quick=size <= 1024,
    )


# ---- on a GPU ----------------------------------------------------------------------------------


def gpu_with_relkernels(data: Data) -> Entry:
    """Ours, on tensors."""
    return tensors.entry(lambda: attention(data.q, data.k, data.v, causal=data.causal))


def gpu_with_torch(backend: str) -> Callable[[Data], Entry]:
    """Use scaled_dot_product_attention with one of its backends."""

    def prepare(data: Data) -> Entry:
        from torch.nn.attention import SDPBackend, sdpa_kernel
        from torch.nn.functional import scaled_dot_product_attention

        q, k, v = (a[None] for a in data[:3])

        def call() -> Any:
            with sdpa_kernel(getattr(SDPBackend, backend)):
                return scaled_dot_product_attention(q, k, v, is_causal=data.causal)[0]

        return tensors.entry(call)

    return prepare


# Names in the results, and in PyTorch.
_BACKENDS = {
    "SDPA, memory-efficient": "EFFICIENT_ATTENTION",
    "SDPA, flash": "FLASH_ATTENTION",
    "SDPA, cuDNN": "CUDNN_ATTENTION",
}


def gpu_workload(
    d: int, causal: bool, dtype: str, target: float, n: int = 8_192, heads: int = 16
) -> Workload:
    """Return the workload of a number of features and a dtype."""
    width, kind = tensors.SIZE[dtype], "causal" if causal else "full"
    # Only one of the backends takes float32.
    backends = dict(list(_BACKENDS.items())[:1]) if dtype == "float32" else _BACKENDS

    def data() -> Data:
        q, k, v = (tensors.normal(heads, n, d, dtype=dtype, seed=seed) for seed in range(3))
        return Data(q, k, v, causal)

    return Workload(
        device="cuda",
        family="attention",
        series=f"{kind}_{d}_{dtype}",
        size=n,
        title=f"{kind} attention, {heads} heads of {d}, n = {{size}}, {dtype}",
        flops=(0.5 if causal else 1.0) * 4 * heads * n**2 * d,
        read=3.0 * heads * n * d * width,
        written=1.0 * heads * n * d * width,
        limit=dtype,
        data=data,
        contestants={
            OURS: gpu_with_relkernels,
            **{name: gpu_with_torch(backend) for name, backend in backends.items()},
        },
        targets={"best": target},
        tolerance=tensors.TOLERANCE[dtype],
    )


WORKLOADS = [
    *(_workload(series, size) for series, sizes in _SIZES.items() for size in sizes),
    *(gpu_workload(d, causal, "bfloat16", 1.0) for d in (64, 128) for causal in (False, True)),
    *(gpu_workload(64, causal, "float32", 2.0) for causal in (False, True)),
]
