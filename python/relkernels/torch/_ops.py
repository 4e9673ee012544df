"""The kernels as PyTorch operators ``torch.ops.relkernels.*``, each with its vector-Jacobian product.

Tensors and NumPy arrays share their memory, both ways. An operator has a kernel for the CPU, a fake one
that gives shapes (what `torch.compile` and `torch.export` trace with) and a backward that calls another
operator, so that gradients are traced too. That other operator has a backward only to say that second
derivatives are not provided.

The scale is a float64 tensor of no dimensions, of either sign. Its gradient is taken without the relation:
with R = scale <f, g> and H = dR g, the gradient of f is scale H and that of the scale the sum of f * H.

Weights are packed again in each call. That takes 0.3 ms for 100,000 parameters, a few hundredths of a step
over a thousand rows, and no update of a parameter can be missed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import _core, gradients, ops
from ..base import check
from ..maps.activations import Activation
from ..maps.mlp import MLP
from ..ops.allowed import InBand
from ..ops.attended import attend
from ..ops.sides import Attended, spread
from ._library import differentiable, differentiable_once, fake, operator

_MAP = "Tensor x, Tensor[] weights, Tensor[] biases, str activation, float? parameter"
PAIRS = "Tensor f, Tensor? g, Tensor scale"
_ATTENDED = "Tensor f, Tensor g, Tensor v, Tensor? mask, SymInt? least, SymInt? greatest, Tensor scale"


def as_array(tensor: Tensor | None) -> Any:
    """Return a tensor's memory as an array."""
    return None if tensor is None else tensor.numpy(force=True)


def as_tensor(array: np.ndarray) -> Tensor:
    """Return an array's memory as a tensor."""
    return torch.from_numpy(np.ascontiguousarray(array))


def factor_of(scale: Tensor, f: Tensor) -> float:
    """Return the scale as a finite number that the dtype of the features can hold."""
    return check.scale(float(scale), as_array(f).dtype)


def inner(f: np.ndarray, h: Any, like: Tensor) -> Tensor:
    """Sum of f * h over all elements; f may be broadcast."""
    return like.new_full((), float(np.multiply(f, h).sum(dtype=np.float64)))


# ---- phi(x)


def _mlp(weights: list[Tensor], biases: list[Tensor], activation: str, parameter: float | None) -> MLP:
    arrays = [as_array(b) for b in biases]
    return MLP([as_array(w) for w in weights], arrays or None, Activation(activation, parameter))


@operator(f"feature_map({_MAP}) -> Tensor")
def feature_map(
    x: Tensor, weights: list[Tensor], biases: list[Tensor], activation: str, parameter: float | None
) -> Tensor:
    """Features of the rows of x; no biases where the list is empty."""
    return as_tensor(ops.feature_map(as_array(x), _mlp(weights, biases, activation, parameter)))


@fake(feature_map)
def _(
    x: Tensor, weights: list[Tensor], biases: list[Tensor], activation: str, parameter: float | None
) -> Tensor:
    return x.new_empty((*x.shape[:-1], weights[-1].shape[1]))


@operator(f"feature_map_vjp({_MAP}, Tensor grad) -> Tensor[]")
def feature_map_vjp(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    activation: str,
    parameter: float | None,
    grad: Tensor,
) -> list[Tensor]:
    """Gradients of x, of each of the weights and of each of the biases."""
    mlp = _mlp(weights, biases, activation, parameter)
    grad_x, gradient = gradients.feature_map_vjp(as_array(x), mlp, as_array(grad))
    return [as_tensor(a) for a in (grad_x, *gradient.weights, *(gradient.biases or ()))]


@fake(feature_map_vjp)
def _(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    activation: str,
    parameter: float | None,
    grad: Tensor,
) -> list[Tensor]:
    return [a.new_empty(a.shape) for a in (x, *weights, *biases)]


def _save_map(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weights, biases, ctx.activation, ctx.parameter = inputs
    ctx.layers = len(weights)
    ctx.save_for_backward(x, *weights, *biases)


def _map_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, *parameters = ctx.saved_tensors
    weights, biases = parameters[: ctx.layers], parameters[ctx.layers :]
    grad_x, *rest = feature_map_vjp(x, weights, biases, ctx.activation, ctx.parameter, grad)
    return grad_x, rest[: ctx.layers], rest[ctx.layers :], None, None


differentiable(feature_map, _map_backward, _save_map)
differentiable_once(feature_map_vjp)


# ---- scale <f_i, g_j>


@operator(f"relation_matrix({PAIRS}, int heads) -> Tensor")
def relation_matrix(f: Tensor, g: Tensor | None, scale: Tensor, heads: int) -> Tensor:
    """Inner products of features; g None stands for f, and the result is symmetric."""
    return as_tensor(ops.relation_matrix(as_array(f), as_array(g), scale=factor_of(scale, f), heads=heads))


@fake(relation_matrix)
def _(f: Tensor, g: Tensor | None, scale: Tensor, heads: int) -> Tensor:
    other = f if g is None else g
    lead = torch.broadcast_shapes(f.shape[:-2], other.shape[:-2])
    groups = (heads,) if heads > 1 else ()
    return f.new_empty((*lead, *groups, f.shape[-2], other.shape[-2]))


@operator(
    f"relation_matrix_vjp({PAIRS}, int heads, Tensor grad, bool of_f, bool of_g, bool of_scale) "
    "-> (Tensor, Tensor, Tensor)"
)
def relation_matrix_vjp(
    f: Tensor,
    g: Tensor | None,
    scale: Tensor,
    heads: int,
    grad: Tensor,
    of_f: bool,
    of_g: bool,
    of_scale: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of f, of g and of the scale; one that is not wanted is empty."""
    rows, columns = as_array(f), as_array(f if g is None else g)
    lead = np.broadcast_shapes(rows.shape[:-2], columns.shape[:-2])
    both = g is None and of_f
    grad_f = np.empty((*lead, *rows.shape[-2:]), rows.dtype) if of_f or of_scale else None
    grad_g = np.empty((*lead, *columns.shape[-2:]), rows.dtype) if of_g or both else None
    spread_rows = spread(rows, lead, 2)
    _core.relation_matrix_vjp(
        spread_rows, spread(columns, lead, 2), as_array(grad), 1.0, heads, grad_f, grad_g
    )
    grad_scale = inner(spread_rows, grad_f, scale) if of_scale else scale.new_empty(0)
    if both:
        assert grad_f is not None
        grad_f += grad_g
        grad_g = None
    factor = factor_of(scale, f)
    return (
        _wanted(grad_f if of_f else None, f, factor),
        _wanted(grad_g, f if g is None else g, factor),
        grad_scale,
    )


def _wanted(grad: np.ndarray | None, like: Tensor, factor: float = 1.0) -> Tensor:
    if grad is None:
        return like.new_empty(0)
    if factor != 1:
        grad *= grad.dtype.type(factor)
    return as_tensor(gradients.vjp.summed_to(grad, tuple(like.shape)))


@fake(relation_matrix_vjp)
def _(
    f: Tensor,
    g: Tensor | None,
    scale: Tensor,
    heads: int,
    grad: Tensor,
    of_f: bool,
    of_g: bool,
    of_scale: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_f = f.new_empty(f.shape if of_f else 0)
    grad_g = f.new_empty(0) if g is None or not of_g else g.new_empty(g.shape)
    return grad_f, grad_g, scale.new_empty(() if of_scale else 0)


def _save_pairs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    f, g, scale, ctx.heads = inputs
    ctx.save_for_backward(f, g, scale)


def _pairs_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    f, g, scale = ctx.saved_tensors
    needed = ctx.needs_input_grad[:3]
    grads = relation_matrix_vjp(f, g, scale, ctx.heads, grad, *needed)
    return *(a if need else None for a, need in zip(grads, needed, strict=True)), None


differentiable(relation_matrix, _pairs_backward, _save_pairs)
differentiable_once(relation_matrix_vjp)


# ---- softmax_j(scale <f_i, g_j>) v_j


@operator(f"attention({_ATTENDED}) -> (Tensor, Tensor)")
def attention(
    f: Tensor,
    g: Tensor,
    v: Tensor,
    mask: Tensor | None,
    least: int | None,
    greatest: int | None,
    scale: Tensor,
) -> tuple[Tensor, Tensor]:
    """Attention over features, and the log-sum-exp of each row of scores, which has no gradient."""
    arguments = as_array(f), as_array(g), as_array(v), None, None, factor_of(scale, f)
    out, lse = attend(Attended(*arguments, InBand(as_array(mask), (least, greatest)), None), True)
    return as_tensor(out), as_tensor(lse)


@fake(attention)
def _(
    f: Tensor,
    g: Tensor,
    v: Tensor,
    mask: Tensor | None,
    least: int | None,
    greatest: int | None,
    scale: Tensor,
) -> tuple[Tensor, Tensor]:
    lead = torch.broadcast_shapes(*(a.shape[:-2] for a in (f, g, v, mask) if a is not None))
    rows = (*lead, f.shape[-2])
    return f.new_empty((*rows, v.shape[-1])), f.new_empty(rows)


@operator(
    f"attention_vjp({_ATTENDED}, Tensor out, Tensor lse, Tensor grad) -> (Tensor, Tensor, Tensor, Tensor)"
)
def attention_vjp(
    f: Tensor,
    g: Tensor,
    v: Tensor,
    mask: Tensor | None,
    least: int | None,
    greatest: int | None,
    scale: Tensor,
    out: Tensor,
    lse: Tensor,
    grad: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of f, g, v and of the scale, from the results of the forward pass."""
    factor = factor_of(scale, f)
    rows, keys, values = as_array(f), as_array(g), as_array(v)
    scaled = rows * rows.dtype.type(factor)  # so that its gradient is H, for any scale
    allowed = InBand(as_array(mask), (least, greatest))
    attended = Attended(scaled, keys, values, None, None, 1.0, allowed, None)
    grads = gradients.vjp.attention_of_features_vjp(attended, as_array(out), as_array(lse), as_array(grad))
    grad_scale = inner(rows, grads[0], scale)
    return _wanted(grads[0], f, factor), _wanted(grads[1], g), _wanted(grads[2], v), grad_scale


@fake(attention_vjp)
def _(
    f: Tensor,
    g: Tensor,
    v: Tensor,
    mask: Tensor | None,
    least: int | None,
    greatest: int | None,
    scale: Tensor,
    out: Tensor,
    lse: Tensor,
    grad: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return f.new_empty(f.shape), g.new_empty(g.shape), v.new_empty(v.shape), scale.new_empty(())


def _save_attention(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    f, g, v, mask, *ctx.band, scale = inputs
    out, lse = output
    ctx.mark_non_differentiable(lse)
    ctx.save_for_backward(f, g, v, mask, scale, out, lse)


def _attention_backward(ctx: Any, grad: Tensor, grad_lse: Tensor) -> tuple[Any, ...]:
    f, g, v, mask, scale, out, lse = ctx.saved_tensors
    grads = attention_vjp(f, g, v, mask, *ctx.band, scale, out, lse, grad)
    of_f, of_g, of_v, _, _, _, of_scale = ctx.needs_input_grad
    needed = (of_f, of_g, of_v, of_scale)
    grad_f, grad_g, grad_v, grad_scale = (a if need else None for a, need in zip(grads, needed, strict=True))
    return grad_f, grad_g, grad_v, None, None, None, grad_scale


differentiable(attention, _attention_backward, _save_attention)
differentiable_once(attention_vjp)
