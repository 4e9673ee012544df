"""What the workloads of a GPU share: tensors, MLPs of PyTorch, and the comparison of results.

Nothing here uses a GPU before a workload's data are created, so that workloads can be listed anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...maps.mlp import MLP
from ..workload import Entry

DEVICE = "cuda"
SIZE = {"float32": 4, "tf32": 4, "bfloat16": 2, "float16": 2}
# Tolerance of ||a - b|| / ||b|| between contestants, each of which rounds in its own order.
TOLERANCE = {"float32": 2e-5, "tf32": 3e-3, "bfloat16": 2e-2, "float16": 5e-3}


def normal(*shape: int, dtype: str = "float32", seed: int = 0) -> Any:
    """Return a tensor of normal values."""
    import torch

    generator = torch.Generator(DEVICE).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=DEVICE).to(getattr(torch, dtype))


def results(result: Any) -> list[Any]:
    """Return the tensors of a result, after waiting for it, so that errors of kernels are raised here."""
    import torch

    found = _flat(result)
    if any(a.is_cuda for a in found):
        torch.cuda.synchronize()
    return found


def _flat(result: Any) -> list[Any]:
    import torch

    if isinstance(result, (tuple, list)):
        return [a for part in result for a in _flat(part)]
    return [result if isinstance(result, torch.Tensor) else torch.from_dlpack(result)]


def entry(call: Callable[[], Any], compared: slice = slice(None)) -> Entry:
    """Return a contestant; of a result that is a tuple, the parts `compared` count."""
    return Entry(call, lambda result: results(result[compared] if isinstance(result, tuple) else result))


def with_tf32(allowed: bool, call: Callable[[], Any]) -> Callable[[], Any]:
    """Return the call with PyTorch's products of float32 in TF32, or not."""

    def run() -> Any:
        import torch

        matmul = torch.backends.cuda.matmul
        before, matmul.allow_tf32 = matmul.allow_tf32, allowed
        try:
            return call()
        finally:
            matmul.allow_tf32 = before

    return run


def module(phi: MLP, dtype: Any) -> Any:
    """Return an MLP as a torch.nn.Sequential of a dtype on the device."""
    import torch
    from torch import nn

    assert phi.biases is not None
    layers: list[Any] = []
    for i, (w, b) in enumerate(zip(phi.weights, phi.biases, strict=True)):
        linear = nn.Linear(*w.shape)
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(w.T.copy()))
            linear.bias.copy_(torch.tensor(b))
        layers.append(linear)
        if i < len(phi.weights) - 1:
            layers.append(nn.GELU() if phi.activation.name == "gelu" else nn.ReLU())
    return nn.Sequential(*layers).to(DEVICE, dtype).requires_grad_(False)
