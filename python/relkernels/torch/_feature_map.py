"""The operator phi(x), built like those of `_ops`, and a direct call of its kernel on the CPU.

No weights are kept between calls, so no update of a parameter can be missed. Eager calls of a feature map on
the CPU read them where they are (`mapped`). The operators, which compiled graphs and tensors on a CUDA device
use, pack them again in each call, those on a CUDA device by way of the host.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import _core, gradients, ops
from ..arrays.engine import PROCESSOR
from ..base import shapes
from ..maps.activations import Activation
from ..maps.mlp import MLP
from . import _formulas
from ._conversions import _given, _tensor
from ._library import differentiable, differentiable_by, fake, is_eager, is_plain, operator
from ._threads import on_pytorch_threads

_LARGEST = float(np.finfo(np.float32).max)
_MAP = "Tensor x, Tensor[] weights, Tensor[] biases, str activation, float? parameter, bool normalize"


def _mlp(
    weights: list[Tensor],
    biases: list[Tensor],
    activation: str,
    parameter: float | None,
    normalize: bool,
) -> MLP:
    arrays = [b.numpy(force=True) for b in biases] or None
    given = Activation(activation, parameter)
    return MLP([w.numpy(force=True) for w in weights], arrays, given, normalize=normalize)


@operator(f"feature_map({_MAP}) -> Tensor", x=2)
def feature_map(x: Tensor, *map_: Any) -> Tensor:
    """Features of the rows of x; no biases where the list is empty."""
    return _tensor(ops.feature_map(_given(x), _mlp(*map_)))


@fake(feature_map)
def _(x: Tensor, weights: list[Tensor], *rest: Any) -> Tensor:
    return x.new_empty(shapes.features(x.shape, weights[-1].shape[1]))


@operator(f"feature_map_vjp({_MAP}, Tensor grad) -> Tensor[]")
def feature_map_vjp(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    activation: str,
    parameter: float | None,
    normalize: bool,
    grad: Tensor,
) -> list[Tensor]:
    """Gradients of x, of each of the weights and of each of the biases."""
    mlp = _mlp(weights, biases, activation, parameter, normalize)
    grad_x, gradient = gradients.feature_map_vjp(_given(x), mlp, _given(grad))
    return [_tensor(a) for a in (grad_x, *gradient.weights, *(gradient.biases or ()))]


@fake(feature_map_vjp)
def _(x: Tensor, weights: list[Tensor], biases: list[Tensor], *rest: Any) -> list[Tensor]:
    return [a.new_empty(a.shape) for a in (x, *weights, *biases)]


def _save_map(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weights, biases, *ctx.activation = inputs
    ctx.layers = len(weights)
    ctx.save_for_backward(x, *weights, *biases)


def _map_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, *parameters = ctx.saved_tensors
    n = ctx.layers
    grad_x, *rest = feature_map_vjp(x, parameters[:n], parameters[n:], *ctx.activation, grad)
    return grad_x, rest[:n], rest[n:], None, None, None


differentiable(feature_map, _map_backward, _save_map, _formulas.feature_map)
differentiable_by(feature_map_vjp, _formulas.feature_map_vjp)


@on_pytorch_threads
def _backward_of_map(*arguments: Any) -> None:
    _core.feature_map_backward(*arguments)


class _Mapped(torch.autograd.Function):
    """feature_map of plain tensors: keeps the hidden layers and computes only the gradients needed."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        layers: int,
        activation: str,
        parameter: float | None,
        normalize: bool,
        *rest: Any,
    ) -> Any:
        ctx.map = layers, activation, parameter, normalize
        parameters = list(rest[:layers]), list(rest[layers:])
        out, hidden = _forward(x, *parameters, activation, parameter, normalize, True)
        ctx.save_for_backward(x, hidden, *rest)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        layers, activation, parameter, normalize = ctx.map
        x, hidden, *rest = ctx.saved_tensors
        (grad,) = grads
        weights, biases = rest[:layers], rest[layers:]
        if torch.is_grad_enabled() or not (is_eager() and is_plain(grad)):
            of_x, *of_rest = feature_map_vjp(x, weights, biases, activation, parameter, normalize, grad)
            return of_x, None, None, None, None, *of_rest
        needs_x, _, _, _, _, *needed = ctx.needs_input_grad
        points, above = _given(x), _given(grad)
        of_x, *of_rest = (
            PROCESSOR.empty("feature_map", tuple(a.shape), points.dtype) if needs else None
            for a, needs in zip((x, *rest), (needs_x, *needed), strict=True)
        )
        _backward_of_map(
            points.reshape(-1, points.shape[-1]),
            [_given(w) for w in weights],
            activation,
            parameter or 0.0,
            normalize,
            hidden.numpy(),
            above.reshape(-1, above.shape[-1]),
            None if of_x is None else of_x.reshape(-1, of_x.shape[-1]),
            of_rest[:layers],
            of_rest[layers:],
        )
        found = (None if a is None else torch.from_numpy(a) for a in (of_x, *of_rest))
        return next(found), None, None, None, None, *found


@on_pytorch_threads
def _forward(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    activation: str,
    parameter: float | None,
    normalize: bool,
    keep: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return the features of plain tensors, and the hidden layers if they are to be kept."""
    points = _given(x)
    out = PROCESSOR.empty("feature_map", (*x.shape[:-1], weights[-1].shape[1]), points.dtype)
    hidden = _core.feature_map_forward(
        points.reshape(-1, points.shape[-1]),
        [_given(w) for w in weights],
        [_given(b) for b in biases],
        activation,
        parameter or 0.0,
        normalize,
        out.reshape(-1, out.shape[-1]),
        keep,
    )
    return torch.from_numpy(out), None if hidden is None else torch.from_numpy(hidden)


def _is_direct(x: Tensor, weights: list[Tensor], biases: list[Tensor], parameter: float | None) -> bool:
    """Whether a call need not pass the dispatcher. For layers that do not fit the operator raises."""
    if not is_eager() or (parameter is not None and not abs(parameter) < _LARGEST):
        return False
    width = x.shape[-1]
    for w in weights:
        if not is_plain(w) or w.ndim != 2 or w.shape[0] != width or w.dtype != x.dtype:
            return False
        width = w.shape[1]
    if biases and len(biases) != len(weights):
        return False
    for b, w in zip(biases, weights, strict=False):
        if not is_plain(b) or b.shape != w.shape[1:] or b.dtype != x.dtype or not b.is_contiguous():
            return False
    return is_plain(x) and isinstance(_given(x[:0]), np.ndarray) and 0 not in (width, *x.shape[-1:])


def mapped(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    activation: str,
    parameter: float | None,
    normalize: bool,
) -> Tensor:
    """Return what `feature_map` does, on the CPU without its overhead; the same bits."""
    if not _is_direct(x, weights, biases, parameter):
        features: Tensor = feature_map(x, weights, biases, activation, parameter, normalize)
        return features
    if torch.is_grad_enabled() and any(a.requires_grad for a in (x, *weights, *biases)):
        map_ = activation, parameter, normalize
        kept: Tensor = _Mapped.apply(x, len(weights), *map_, *weights, *biases)
        return kept
    return _forward(x, weights, biases, activation, parameter, normalize, False)[0]
