"""The workloads of bench/gpu.py on one GPU: terms of their floors, contestants and targets.

Nothing here uses a GPU before a workload's data are created: `bench/gpu.py --dry-run` lists all on any
machine. Contestants are functions of the data that return a call; calls return tensors (or CuPy arrays).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

OURS = "relkernels"
SIZE = {"float32": 4, "tf32": 4, "bfloat16": 2, "float16": 2, "float64": 8}
# Tolerance of ||a - b|| / ||b|| between contestants, each of which rounds in its own order.
TOLERANCE = {"float32": 2e-5, "tf32": 3e-3, "bfloat16": 2e-2, "float16": 5e-3}


@dataclass(frozen=True, kw_only=True)
class GpuWorkload:
    """A computation of one size.

    Attributes
    ----------
    flops, read, written
        Operations in the definition, and bytes, each counted once: the terms of the floor.
    arithmetic
        The arithmetic whose measured rate bounds the operations: float32, tf32, bfloat16 or float16.
    data
        Creates the contestants' input; called once, on the GPU.
    contestants
        Functions that take the data and return a call, by name.
    targets
        Minimum ratio of a peer's time to ours, by peer; "best" is the fastest of them, "ceiling" the share of
        the arithmetic's measured rate.
    samples
        Maximum number of samples per contestant; small if a call takes seconds.
    """

    name: str
    title: str
    flops: float
    read: float
    written: float
    arithmetic: str
    data: Callable[[], Any]
    contestants: Mapping[str, Callable[[Any], Callable[[], Any]]]
    targets: Mapping[str, float] = field(default_factory=dict)
    tolerance: float = 0.0
    samples: int = 30

    @property
    def bytes(self) -> float:
        """Bytes read and written."""
        return self.read + self.written


def _normal(*shape: int, dtype: str = "float32", seed: int = 0) -> Any:
    import torch

    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(shape, generator=generator, device="cuda").to(getattr(torch, dtype))


def _ours(
    operation: str, precision: str | None = None, **options: Any
) -> Callable[[dict], Callable[[], Any]]:
    """Ours, on tensors; `data` has the arguments by name."""

    def prepare(data: dict) -> Callable[[], Any]:
        from relkernels import cuda

        arguments = {**{n: a for n, a in data.items() if not n.startswith("_")}, **options}
        if precision is not None:
            arguments["precision"] = precision
        return lambda: cuda.call(operation, arguments)

    return prepare


def _with_tf32(allowed: bool, call: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        import torch

        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = allowed
        try:
            return call()
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before

    return run


# ---- Relation matrices from features

N, D = 16_384, 256


def _relation(arithmetic: str, symmetric: bool, targets: Mapping[str, float]) -> GpuWorkload:
    dtype = "float32" if arithmetic == "tf32" else arithmetic

    def data() -> dict:
        x = _normal(N, D, dtype=dtype)
        return {"x": x} if symmetric else {"x": x, "y": _normal(N, D, dtype=dtype, seed=1)}

    def cublas(data: dict) -> Callable[[], Any]:
        x, y = data["x"], data.get("y", data["x"])
        return _with_tf32(arithmetic == "tf32", lambda: x @ y.T)

    def cupy(data: dict) -> Callable[[], Any]:
        import cupy

        x = cupy.from_dlpack(data["x"])
        y = cupy.from_dlpack(data["y"]) if "y" in data else x
        return lambda: x @ y.T

    contestants = {
        OURS: _ours("relation_matrix", "tf32" if arithmetic == "tf32" else None),
        "cuBLAS (PyTorch)": cublas,
    }
    if arithmetic == "float32":
        contestants["CuPy"] = cupy
    kind = "symmetric" if symmetric else "asymmetric"
    return GpuWorkload(
        name=f"relation_matrix/{kind}/{arithmetic}",
        title=f"{kind} relation from features, n = m = {N:,}, d = {D}, {arithmetic}",
        flops=(1.0 if symmetric else 2.0) * N * N * D,
        read=(1 if symmetric else 2) * N * D * SIZE[arithmetic],
        written=N * N * SIZE[arithmetic],
        arithmetic=arithmetic,
        data=data,
        contestants=contestants,
        targets=targets,
        tolerance=TOLERANCE[arithmetic],
    )


# ---- Multi-layer perceptrons

WIDTHS, ROWS = (64, 256, 256, 64), 2**20


def _random_mlp(widths: tuple[int, ...], activation: str) -> Any:
    from relkernels import MLP

    return MLP.random(widths, activation, random_state=0)


def _torch_mlp(phi: Any, dtype: str) -> Any:
    """The same map as a torch.nn.Sequential on the GPU."""
    import torch
    from torch import nn

    layers: list[Any] = []
    for i, (w, b) in enumerate(zip(phi.weights, phi.biases, strict=True)):
        linear = nn.Linear(*w.shape)
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(w.T.copy()))
            linear.bias.copy_(torch.tensor(b))
        layers.append(linear)
        if i < len(phi.weights) - 1:
            layers.append(nn.GELU() if phi.activation.name == "gelu" else nn.ReLU())
    return nn.Sequential(*layers).to("cuda", getattr(torch, dtype)).requires_grad_(False)


def _parameters(widths: tuple[int, ...]) -> int:
    return sum(a * b for a, b in zip(widths, widths[1:], strict=False))


def _eager(data: dict) -> Callable[[], Any]:
    net, x = data["_net"], data["x"]
    return lambda: net(x)


def _compiled(data: dict) -> Callable[[], Any]:
    import torch

    net, x = torch.compile(data["_net"]), data["x"]
    return lambda: net(x)


def _mlp(activation: str, arithmetic: str, targets: Mapping[str, float]) -> GpuWorkload:
    def data() -> dict:
        phi = _random_mlp(WIDTHS, activation)
        x = _normal(ROWS, WIDTHS[0], dtype=arithmetic)
        return {"x": x, "mlp": phi, "_net": _torch_mlp(phi, arithmetic)}

    return GpuWorkload(
        name=f"feature_map/{activation}/{arithmetic}",
        title=f"MLP {'-'.join(map(str, WIDTHS))} {activation}, n = 2^20, {arithmetic}",
        flops=2.0 * ROWS * _parameters(WIDTHS),
        read=ROWS * WIDTHS[0] * SIZE[arithmetic],
        written=ROWS * WIDTHS[-1] * SIZE[arithmetic],
        arithmetic=arithmetic,
        data=data,
        contestants={OURS: _ours("feature_map"), "PyTorch": _eager, "torch.compile": _compiled},
        targets=targets,
        tolerance=TOLERANCE[arithmetic],
    )


# ---- Attention

TOKENS, HEADS = 8_192, 16


def _sdpa(backend: str, causal: bool) -> Callable[[dict], Callable[[], Any]]:
    def prepare(data: dict) -> Callable[[], Any]:
        from torch.nn.attention import SDPBackend, sdpa_kernel
        from torch.nn.functional import scaled_dot_product_attention

        q, k, v = (data[name][None] for name in "qkv")

        def call() -> Any:
            with sdpa_kernel(getattr(SDPBackend, backend)):
                return scaled_dot_product_attention(q, k, v, is_causal=causal)[0]

        return call

    return prepare


def _attention(d: int, causal: bool, arithmetic: str, targets: Mapping[str, float]) -> GpuWorkload:
    def data() -> dict:
        return {
            name: _normal(HEADS, TOKENS, d, dtype=arithmetic, seed=seed) for seed, name in enumerate("qkv")
        }

    backends = {"SDPA, memory-efficient": "EFFICIENT_ATTENTION"}
    if arithmetic != "float32":
        backends |= {"SDPA, flash": "FLASH_ATTENTION", "SDPA, cuDNN": "CUDNN_ATTENTION"}
    kind = "causal" if causal else "full"
    return GpuWorkload(
        name=f"attention/{kind}/{d}/{arithmetic}",
        title=f"{kind} attention, {HEADS} heads of {d}, n = {TOKENS:,}, {arithmetic}",
        flops=(0.5 if causal else 1.0) * 4 * HEADS * TOKENS**2 * d,
        read=3 * HEADS * TOKENS * d * SIZE[arithmetic],
        written=HEADS * TOKENS * d * SIZE[arithmetic],
        arithmetic=arithmetic,
        data=data,
        contestants={OURS: _ours("attention", causal=causal)}
        | {name: _sdpa(backend, causal) for name, backend in backends.items()},
        targets=targets,
        tolerance=TOLERANCE[arithmetic],
    )


# ---- Retrieval

QUERIES, KEYS, KEY_WIDTH, BEST = 10_000, 10_000_000, 64, 10
CHUNK = 250_000  # keys per product of the peers: 10 GB of float32 scores


def _values_alone(call: Callable[[], Any]) -> Callable[[], Any]:
    # The order of equal and nearly equal scores may differ: the values are compared, not the indices.
    return lambda: call()[0]


def _ours_retrieve(data: dict) -> Callable[[], Any]:
    return _values_alone(_ours("retrieve", k=BEST)(data))


def _topk(data: dict) -> Callable[[], Any]:
    import torch

    q, keys = data["q"], data["keys"]

    def call() -> Any:
        values = indices = None
        for start in range(0, len(keys), CHUNK):
            found, places = torch.topk(q @ keys[start : start + CHUNK].T, BEST, dim=1)
            places = places + start
            if values is not None:
                found, places = torch.cat([values, found], 1), torch.cat([indices, places], 1)
                found, order = torch.topk(found, BEST, dim=1)
                places = places.gather(1, order)
            values, indices = found, places
        return values, indices

    return _with_tf32(False, _values_alone(call))


def _retrieve(arithmetic: str, targets: Mapping[str, float]) -> GpuWorkload:
    def data() -> dict:
        return {
            "q": _normal(QUERIES, KEY_WIDTH, dtype=arithmetic),
            "keys": _normal(KEYS, KEY_WIDTH, dtype=arithmetic, seed=1),
        }

    return GpuWorkload(
        name=f"retrieve/{arithmetic}",
        title=f"retrieve {BEST} of {KEYS:,} keys for {QUERIES:,} queries, d = {KEY_WIDTH}, {arithmetic}",
        flops=2.0 * QUERIES * KEYS * KEY_WIDTH,
        read=(QUERIES + KEYS) * KEY_WIDTH * SIZE[arithmetic],
        written=QUERIES * BEST * (8 + SIZE[arithmetic]),
        arithmetic=arithmetic,
        data=data,
        contestants={OURS: _ours_retrieve, "matmul + topk (PyTorch)": _topk},
        targets=targets,
        tolerance=TOLERANCE[arithmetic],
        samples=3,
    )


# ---- Matrix-free products

POINTS, POINT_WIDTH = 1_000_000, 64
ROWS_AT_ONCE = 4_000  # rows of the relation that the peer holds: 16 GB


def _exp_in_chunks(data: dict) -> Callable[[], Any]:
    import torch

    x, y, v, scale = data["x"], data["y"], data["v"], data["scale"]

    def call() -> Any:
        parts = [
            (torch.exp_((x[i : i + ROWS_AT_ONCE] @ y.T).mul_(scale))) @ v
            for i in range(0, len(x), ROWS_AT_ONCE)
        ]
        return torch.cat(parts)

    return _with_tf32(False, call)


def _exp_product() -> GpuWorkload:
    def data() -> dict:
        return {
            "x": _normal(POINTS, POINT_WIDTH),
            "y": _normal(POINTS, POINT_WIDTH, seed=1),
            "v": _normal(POINTS, seed=2),
            "link": "exp",
            "scale": 0.05,
        }

    return GpuWorkload(
        name="relation_matvec/exp/float32",
        title=f"exp-link product, n = m = {POINTS:,}, d = {POINT_WIDTH}, float32",
        flops=2.0 * POINTS**2 * (POINT_WIDTH + 1),
        read=4.0 * POINTS * (2 * POINT_WIDTH + 1),
        written=4.0 * POINTS,
        arithmetic="float32",
        data=data,
        contestants={OURS: _ours("relation_matvec"), "PyTorch in chunks": _exp_in_chunks},
        targets={"ceiling": 0.7},
        tolerance=1e-3,  # sums of a million terms of both signs
        samples=2,
    )


# ---- Many small relations

SETS, OBJECTS, SET_WIDTHS = 4_096, 32, (32, 64, 64, 16)
_NAME_OF_SETS = "-".join(map(str, SET_WIDTHS))


def _sets(arithmetic: str, targets: Mapping[str, float]) -> GpuWorkload:
    def data() -> dict:
        phi = _random_mlp(SET_WIDTHS, "relu")
        x = _normal(SETS, OBJECTS, SET_WIDTHS[0], dtype=arithmetic)
        return {"x": x, "phi": phi, "_net": _torch_mlp(phi, arithmetic)}

    def eager(data: dict) -> Callable[[], Any]:
        net, x = data["_net"], data["x"]

        def call() -> Any:
            f = net(x)
            return f @ f.mT

        return call

    def compiled(data: dict) -> Callable[[], Any]:
        import torch

        return torch.compile(eager(data))

    return GpuWorkload(
        name=f"relation_matrix/sets/{arithmetic}",
        title=f"{SETS:,} sets of {OBJECTS} objects through an MLP {_NAME_OF_SETS}, {arithmetic}",
        flops=SETS * OBJECTS * (2.0 * _parameters(SET_WIDTHS) + OBJECTS * SET_WIDTHS[-1]),
        read=SETS * OBJECTS * SET_WIDTHS[0] * SIZE[arithmetic],
        written=SETS * OBJECTS**2 * SIZE[arithmetic],
        arithmetic=arithmetic,
        data=data,
        contestants={OURS: _ours("relation_matrix"), "PyTorch": eager, "torch.compile": compiled},
        targets=targets,
        tolerance=TOLERANCE[arithmetic],
    )


# ---- Gradients

PAIRS = 4_096


def _attention_vjp() -> GpuWorkload:
    d = 64

    def data() -> dict:
        return {name: _normal(4, PAIRS, d, seed=seed) for seed, name in enumerate(("q", "k", "v", "grad"))}

    def ours(data: dict) -> Callable[[], Any]:
        call = _ours("attention_vjp")(data)
        return lambda: call()[:3]

    def sdpa(data: dict) -> Callable[[], Any]:
        import torch
        from torch.nn.functional import scaled_dot_product_attention

        q, k, v = (data[name].clone().requires_grad_() for name in "qkv")

        def call() -> Any:
            out = scaled_dot_product_attention(q[None], k[None], v[None])[0]
            return torch.autograd.grad(out, (q, k, v), data["grad"])

        return call

    return GpuWorkload(
        name="attention_vjp/64/float32",
        title=f"attention and its gradient, 4 heads of {d}, n = {PAIRS:,}, float32",
        flops=14.0 * 4 * PAIRS**2 * d,
        read=4 * 4.0 * 4 * PAIRS * d,
        written=3 * 4.0 * 4 * PAIRS * d,
        arithmetic="float32",
        data=data,
        contestants={OURS: ours, "SDPA and autograd": sdpa},
        tolerance=1e-4,
    )


WORKLOADS = [
    _relation("bfloat16", False, {"cuBLAS (PyTorch)": 0.9}),
    _relation("bfloat16", True, {"cuBLAS (PyTorch)": 1.5}),
    _relation("float16", False, {}),
    _relation("tf32", False, {}),
    _relation("float32", False, {}),
    _mlp("relu", "bfloat16", {"PyTorch": 3.0, "torch.compile": 1.5}),
    _mlp("gelu", "bfloat16", {"PyTorch": 3.0, "torch.compile": 1.5}),
    *(_attention(d, causal, "bfloat16", {"best": 1.0}) for d in (64, 128) for causal in (False, True)),
    *(_attention(64, causal, "float32", {"best": 2.0}) for causal in (False, True)),
    _sets("float32", {"PyTorch": 3.0}),
    _sets("bfloat16", {"PyTorch": 3.0}),
    _attention_vjp(),
    _retrieve("float32", {"matmul + topk (PyTorch)": 3.0}),
    _retrieve("bfloat16", {"matmul + topk (PyTorch)": 3.0}),
    _exp_product(),
]
