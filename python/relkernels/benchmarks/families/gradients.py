"""Gradients: of feature maps, relation matrices and attention, and of a loss over all pairs; on a GPU."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...gradients import attention_vjp, feature_map_vjp, relation_loss, relation_matrix_vjp
from ...maps.mlp import MLP
from ..workload import OURS, Entry, Workload, points
from . import networks, tensors
from .attention import softmax_with_numpy

D = 64
CLASSES = 10
# Gradients of weights are sums over all rows or pairs, in a different order for each contestant.
TOLERANCE = 1e-4


class MapData(NamedTuple):
    """Rows, the map, the gradient of its features."""

    x: np.ndarray
    phi: MLP
    grad: np.ndarray


class LossData(NamedTuple):
    """Rows, the map, the rows' labels, and the labels' targets as a matrix of zeros and ones."""

    x: np.ndarray
    phi: MLP
    labels: np.ndarray
    target: np.ndarray


class PairData(NamedTuple):
    """Two sets of features, values, and the gradient of the relation (n, m) or of the attention (n, d).

    Tensors on a GPU.
    """

    x: Any
    y: Any
    v: Any
    grad: Any


def _flat(result: Any) -> list[np.ndarray]:
    """Return the arrays of one of our gradients, including the maps' gradients, without None."""
    if isinstance(result, networks.MLPGradient):
        return networks.gradient_arrays(result)
    if isinstance(result, (tuple, list)):
        return [a for part in result if part is not None for a in _flat(part)]
    return [np.asarray(result)]


def _torch_gradients(layers: int) -> Any:
    """Gradients of PyTorch in our layout: those of arrays, then weights, then biases."""

    def arrays(result: Any) -> list[np.ndarray]:
        parts = [np.asarray(part.detach()) for part in result]
        first = len(parts) - 2 * layers
        weights = [w.T for w in parts[first : first + layers]]
        return parts[:first] + weights + parts[first + layers :]

    return arrays


# ---- feature map -------------------------------------------------------------------------------


def map_with_relkernels(data: MapData) -> Entry:
    """Ours."""
    return Entry(lambda: feature_map_vjp(data.x, data.phi, data.grad), _flat)


def map_with_numpy(data: MapData) -> Entry:
    """Follow the chain rule with BLAS."""

    def call() -> Any:
        _, back = networks.relu_vjp_with_numpy(data.phi, data.x)
        return back(data.grad)

    return Entry(call, _flat)


def map_with_torch(data: MapData) -> Entry:
    """torch.autograd.grad."""
    import torch

    weights, biases = networks.torch_parameters(data.phi)
    x, grad = torch.from_numpy(data.x).requires_grad_(), torch.from_numpy(data.grad)

    def call() -> Any:
        out = networks.torch_forward(x, weights, biases, "relu", grad=True)
        return torch.autograd.grad(out, [x, *weights, *biases], grad)

    return Entry(call, _torch_gradients(len(weights)))


# ---- loss over all pairs -----------------------------------------------------------------------


def labels_with_relkernels(data: LossData) -> Entry:
    """Ours, from labels."""
    return Entry(lambda: relation_loss(data.x, None, data.labels, data.phi), _flat)


def matrix_with_relkernels(data: LossData) -> Entry:
    """Ours, from a matrix of targets."""
    return Entry(lambda: relation_loss(data.x, None, data.target, data.phi), _flat)


def loss_with_numpy(data: LossData) -> Entry:
    """Store the relation and its difference from the targets; follow the chain rule."""

    def call() -> Any:
        f, back = networks.relu_vjp_with_numpy(data.phi, data.x)
        r = f @ f.T
        r -= data.target
        value = np.vdot(r, r) / r.size
        grad = r @ f
        grad *= np.float32(4 / r.size)  # both sides of a symmetric relation
        return value, *back(grad)[1:]

    return Entry(call, _flat)


def loss_with_torch(data: LossData) -> Entry:
    """torch.autograd.grad of the mean square."""
    import torch

    weights, biases = networks.torch_parameters(data.phi)
    x, target = torch.from_numpy(data.x), torch.from_numpy(data.target)

    def call() -> Any:
        f = networks.torch_forward(x, weights, biases, "relu", grad=True)
        loss = torch.nn.functional.mse_loss(f @ f.T, target)
        return loss, *torch.autograd.grad(loss, [*weights, *biases])

    return Entry(call, _torch_gradients(len(weights)))


# ---- relation matrix and attention -------------------------------------------------------------


def relation_with_relkernels(data: PairData) -> Entry:
    """Ours."""
    return Entry(lambda: relation_matrix_vjp(data.x, data.y, data.grad), _flat)


def relation_with_numpy(data: PairData) -> Entry:
    """Two products."""
    return Entry(lambda: (data.grad @ data.y, data.grad.T @ data.x))


def relation_with_torch(data: PairData) -> Entry:
    """Two products of tensors."""
    import torch

    x, y, grad = (torch.from_numpy(a) for a in (data.x, data.y, data.grad))
    return Entry(lambda: (grad @ y, grad.T @ x))


def attention_with_relkernels(data: PairData) -> Entry:
    """Ours."""
    return Entry(lambda: attention_vjp(data.x, data.y, data.v, data.grad), _flat)


def attention_with_numpy(data: PairData) -> Entry:
    """Follow the chain rule on the whole matrix."""
    q, k, v, grad = data

    def call() -> Any:
        a = softmax_with_numpy(q, k)
        d = grad @ v.T
        grad_v = a.T @ grad
        d -= np.einsum("nm,nm->n", a, d)[:, None]
        d *= a
        d *= np.float32(1 / D**0.5)
        return d @ k, d.T @ q, grad_v

    return Entry(call)


def attention_with_torch(data: PairData) -> Entry:
    """torch.autograd.grad of scaled_dot_product_attention."""
    import torch

    q, k, v = (torch.from_numpy(a)[None, None].requires_grad_() for a in (data.x, data.y, data.v))
    grad = torch.from_numpy(data.grad)[None, None]

    def call() -> Any:
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return torch.autograd.grad(out, [q, k, v], grad)

    return Entry(call, lambda result: [part[0, 0].numpy() for part in result])


def _map(n: int) -> Workload:
    parameters = networks.parameters(networks.WIDTHS)
    return Workload(
        family="gradients",
        series="feature_map",
        size=n,
        title="feature_map_vjp, MLP 64-256-256-64 relu, n = {size}",
        flops=6.0 * n * parameters,
        read=4.0 * n * 2 * D,
        written=4.0 * (n * D + parameters),
        limit="fma_float32",
        data=lambda: MapData(points(n), networks.network(), points(n, seed=1)),
        contestants={OURS: map_with_relkernels, "numpy": map_with_numpy, "torch": map_with_torch},
        tolerance=TOLERANCE,
        targets={"best": 1.5} if n >= 4096 else {},
        quick=n <= 512,
    )


def _loss_data(n: int) -> LossData:
    labels = np.arange(n) % CLASSES
    return LossData(points(n), networks.network(), labels, (labels[:, None] == labels).astype(np.float32))


def _loss(series: str, n: int) -> Workload:
    parameters = networks.parameters(networks.WIDTHS)
    of_target = n if series == "loss_labels" else float(n) * n
    ours = labels_with_relkernels if series == "loss_labels" else matrix_with_relkernels
    return Workload(
        family="gradients",
        series=series,
        size=n,
        title=f"relation_loss, squared, targets by {series.removeprefix('loss_')}, n = {{size}}",
        # R, and the products of its derivative with the features.
        flops=6.0 * n * parameters + 4.0 * n * n * D,
        read=4.0 * (n * D + of_target),
        written=4.0 * parameters,
        limit="fma_float32",
        data=lambda: _loss_data(n),
        contestants={OURS: ours, "numpy": loss_with_numpy, "torch": loss_with_torch},
        tolerance=TOLERANCE,
        targets={"best": 1.5} if n == 4096 else {},
        quick=n <= 512,
    )


def _relation(n: int) -> Workload:
    return Workload(
        family="gradients",
        series="relation_matrix",
        size=n,
        title="relation_matrix_vjp from features, n = {size}",
        flops=4.0 * n * n * D,
        read=4.0 * (n * n + 2 * n * D),
        written=4.0 * 2 * n * D,
        limit="fma_float32",
        data=lambda: PairData(points(n), points(n, seed=1), points(0), points(n, n)),
        contestants={
            OURS: relation_with_relkernels,
            "numpy": relation_with_numpy,
            "torch": relation_with_torch,
        },
        tolerance=TOLERANCE,
        quick=n <= 512,
    )


def _attention(n: int) -> Workload:
    return Workload(
        family="gradients",
        series="attention",
        size=n,
        title="attention_vjp, n = {size}",
        # 2 products forward, 5 backward.
        flops=14.0 * n * n * D,
        read=4.0 * 4 * n * D,
        written=4.0 * 3 * n * D,
        limit="fma_float32",
        data=lambda: PairData(*(points(n, seed=s) for s in range(4))),
        contestants={
            OURS: attention_with_relkernels,
            "numpy": attention_with_numpy,
            "torch": attention_with_torch,
        },
        tolerance=TOLERANCE,
        quick=n <= 512,
    )


# ---- on a GPU ----------------------------------------------------------------------------------


def gpu_attention_with_relkernels(data: PairData) -> Entry:
    """Ours, on tensors; without gradients of maps, which are None."""
    return tensors.entry(lambda: attention_vjp(*data), slice(3))


def gpu_attention_with_torch(data: PairData) -> Entry:
    """torch.autograd.grad of scaled_dot_product_attention."""
    import torch

    q, k, v = (a.clone().requires_grad_() for a in data[:3])

    def call() -> Any:
        out = torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None])[0]
        return torch.autograd.grad(out, (q, k, v), data.grad)

    return tensors.entry(call)


def gpu_attention(n: int = 4_096, heads: int = 4) -> Workload:
    """Return the workload in float32."""
    return Workload(
        device="cuda",
        family="gradients",
        series="attention_float32",
        size=n,
        title=f"attention and its gradient, {heads} heads of {D}, n = {{size}}, float32",
        flops=14.0 * heads * n**2 * D,
        read=4 * 4.0 * heads * n * D,
        written=3 * 4.0 * heads * n * D,
        limit="float32",
        data=lambda: PairData(*(tensors.normal(heads, n, D, seed=s) for s in range(4))),
        contestants={OURS: gpu_attention_with_relkernels, "SDPA and autograd": gpu_attention_with_torch},
        tolerance=TOLERANCE,
    )


WORKLOADS = [
    *(_map(n) for n in (64, 512, 4096, 65536)),
    *(_loss("loss_labels", n) for n in (64, 512, 4096)),
    *(_loss("loss_matrix", n) for n in (64, 512, 4096)),
    *(_relation(n) for n in (64, 512, 2048, 8192)),
    *(_attention(n) for n in (64, 512, 4096)),
    gpu_attention(),
]
