"""The kernels as PyTorch operators ``torch.ops.relkernels.*``, each with its vector-Jacobian product.

Tensors and NumPy arrays share their memory, both ways. An operator has a kernel for the CPU, a fake one
that gives shapes (what `torch.compile` and `torch.export` trace with) and a backward that calls another
operator, so that gradients are traced too. That other operator has a backward only to say that second
derivatives are not provided.

Weights are packed anew in each call. That takes 0.3 ms for 100,000 parameters, a few hundredths of a
step over a thousand rows, and no update of a parameter, by whatever way, can be missed.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from .. import _check, _core, _operands, gradients, ops
from ..activations import Activation
from ..mlp import MLP

_MAP = "Tensor x, Tensor[] weights, Tensor[] biases, str activation, float? parameter"
_PAIRS = "Tensor f, Tensor? g"
_ATTENDED = "Tensor f, Tensor g, Tensor v, Tensor? mask, bool causal, float scale"


def _operator(schema: str) -> Any:
    """Make an operator of a function on CPU tensors that changes none of them."""
    name = schema[: schema.index("(")]
    return torch.library.custom_op(
        f"relkernels::{name}", mutates_args=(), device_types="cpu", schema=schema[len(name) :]
    )


def _array(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.numpy(force=True)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def _refuse(operator: Any) -> None:
    """Have a derivative of `operator` say that there is none."""

    def backward(ctx: Any, *grads: Tensor) -> NoReturn:
        raise RuntimeError(
            "relkernels.torch: second derivatives are not provided; call backward or grad without "
            "create_graph=True"
        )

    operator.register_autograd(backward)


# ---- phi(x)


def _mlp(weights: list[Tensor], biases: list[Tensor], activation: str, parameter: float | None) -> MLP:
    arrays = [_array(b) for b in biases]
    return MLP([_array(w) for w in weights], arrays or None, Activation(activation, parameter))


@_operator(f"feature_map({_MAP}) -> Tensor")
def feature_map(
    x: Tensor, weights: list[Tensor], biases: list[Tensor], activation: str, parameter: float | None
) -> Tensor:
    """Features of the rows of x; no biases where the list is empty."""
    return _tensor(ops.feature_map(_array(x), _mlp(weights, biases, activation, parameter)))


@feature_map.register_fake
def _(
    x: Tensor, weights: list[Tensor], biases: list[Tensor], activation: str, parameter: float | None
) -> Tensor:
    return x.new_empty((*x.shape[:-1], weights[-1].shape[1]))


@_operator(f"feature_map_vjp({_MAP}, Tensor grad) -> Tensor[]")
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
    grad_x, gradient = gradients.feature_map_vjp(_array(x), mlp, _array(grad))
    return [_tensor(a) for a in (grad_x, *gradient.weights, *(gradient.biases or ()))]


@feature_map_vjp.register_fake
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


feature_map.register_autograd(_map_backward, setup_context=_save_map)
_refuse(feature_map_vjp)


# ---- scale <f_i, g_j>


@_operator(f"relation_matrix({_PAIRS}, float scale, int heads) -> Tensor")
def relation_matrix(f: Tensor, g: Tensor | None, scale: float, heads: int) -> Tensor:
    """Inner products of features; g None stands for f, and the result is symmetric."""
    return _tensor(ops.relation_matrix(_array(f), _array(g), scale=scale, heads=heads))


@relation_matrix.register_fake
def _(f: Tensor, g: Tensor | None, scale: float, heads: int) -> Tensor:
    other = f if g is None else g
    lead = torch.broadcast_shapes(f.shape[:-2], other.shape[:-2])
    groups = (heads,) if heads > 1 else ()
    return f.new_empty((*lead, *groups, f.shape[-2], other.shape[-2]))


@_operator(
    f"relation_matrix_vjp({_PAIRS}, Tensor grad, float scale, int heads, bool of_f, bool of_g) "
    "-> (Tensor, Tensor)"
)
def relation_matrix_vjp(
    f: Tensor, g: Tensor | None, grad: Tensor, scale: float, heads: int, of_f: bool, of_g: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of f and of g; one that is not asked for is empty."""
    rows, columns = _array(f), _array(f if g is None else g)
    lead = np.broadcast_shapes(rows.shape[:-2], columns.shape[:-2])
    both = g is None
    grad_f = np.empty((*lead, *rows.shape[-2:]), rows.dtype) if of_f or both else None
    grad_g = np.empty((*lead, *columns.shape[-2:]), rows.dtype) if of_g or both else None
    _core.relation_matrix_vjp(
        _operands.spread(rows, lead, 2),
        _operands.spread(columns, lead, 2),
        _array(grad),
        scale,
        heads,
        grad_f,
        grad_g,
    )
    if both:
        assert grad_f is not None
        grad_f += grad_g
        grad_g = None
    return _wanted(grad_f, f), _wanted(grad_g, f if g is None else g)


def _wanted(grad: np.ndarray | None, like: Tensor) -> Tensor:
    return like.new_empty(0) if grad is None else _tensor(gradients.vjp.summed_to(grad, tuple(like.shape)))


@relation_matrix_vjp.register_fake
def _(
    f: Tensor, g: Tensor | None, grad: Tensor, scale: float, heads: int, of_f: bool, of_g: bool
) -> tuple[Tensor, Tensor]:
    grad_f = f.new_empty(f.shape if of_f or g is None else 0)
    return grad_f, f.new_empty(0) if g is None or not of_g else g.new_empty(g.shape)


def _save_pairs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    f, g, ctx.scale, ctx.heads = inputs
    ctx.save_for_backward(f, g)


def _pairs_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    f, g = ctx.saved_tensors
    of_f, of_g = ctx.needs_input_grad[:2]
    grad_f, grad_g = relation_matrix_vjp(f, g, grad, ctx.scale, ctx.heads, of_f, of_g)
    return grad_f if of_f else None, grad_g if of_g else None, None, None


relation_matrix.register_autograd(_pairs_backward, setup_context=_save_pairs)
_refuse(relation_matrix_vjp)


# ---- softmax_j(scale <f_i, g_j>) v_j


@_operator(f"attention({_ATTENDED}) -> (Tensor, Tensor)")
def attention(
    f: Tensor, g: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention over features, and the log-sum-exp of each row of scores, which has no gradient."""
    out, lse = ops.attention(
        _array(f), _array(g), _array(v), scale=scale, mask=_array(mask), causal=causal, return_lse=True
    )
    return _tensor(out), _tensor(lse)


@attention.register_fake
def _(
    f: Tensor, g: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    lead = torch.broadcast_shapes(*(a.shape[:-2] for a in (f, g, v, mask) if a is not None))
    rows = (*lead, f.shape[-2])
    return f.new_empty((*rows, v.shape[-1])), f.new_empty(rows)


@_operator(f"attention_vjp({_ATTENDED}, Tensor out, Tensor lse, Tensor grad) -> (Tensor, Tensor, Tensor)")
def attention_vjp(
    f: Tensor,
    g: Tensor,
    v: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float,
    out: Tensor,
    lse: Tensor,
    grad: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of f, g and v from what the forward pass gave."""
    rows, keys, values = _array(f), _array(g), _array(v)
    attended = _operands.Attended(rows, keys, values, None, None, scale, _array(mask), causal, None)
    grads = gradients.vjp.attention_of_features_vjp(
        attended, rows, keys, _array(out), _array(lse), _array(grad)
    )
    grad_f, grad_g, grad_v = (_wanted(a, like) for a, like in zip(grads, (f, g, v), strict=True))
    return grad_f, grad_g, grad_v


@attention_vjp.register_fake
def _(
    f: Tensor,
    g: Tensor,
    v: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float,
    out: Tensor,
    lse: Tensor,
    grad: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return f.new_empty(f.shape), g.new_empty(g.shape), v.new_empty(v.shape)


def _save_attention(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    f, g, v, mask, ctx.causal, ctx.scale = inputs
    out, lse = output
    ctx.mark_non_differentiable(lse)
    ctx.save_for_backward(f, g, v, mask, out, lse)


def _attention_backward(ctx: Any, grad: Tensor, grad_lse: Tensor) -> tuple[Any, ...]:
    f, g, v, mask, out, lse = ctx.saved_tensors
    grads = attention_vjp(f, g, v, mask, ctx.causal, ctx.scale, out, lse, grad)
    needed = ctx.needs_input_grad[:3]
    return *(a if need else None for a, need in zip(grads, needed, strict=True)), None, None, None


attention.register_autograd(_attention_backward, setup_context=_save_attention)
_refuse(attention_vjp)


# ---- a loss over all pairs


@_operator(
    f"relation_loss({_PAIRS}, Tensor target, Tensor? columns, Tensor? weight, str loss) "
    "-> (Tensor, Tensor, Tensor)"
)
def relation_loss(
    f: Tensor, g: Tensor | None, target: Tensor, columns: Tensor | None, weight: Tensor | None, loss: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, and its gradients with respect to f and g, which the same walk over the pairs gives.

    `target` is a matrix or labels; `columns` the labels of g where they are others. Without g, the
    gradient of f is whole and that of g empty.
    """
    targets = _array(target) if columns is None else (_array(target), _array(columns))
    rows = _array(f)
    others = rows if g is None else _array(g)
    for name, a in (("x", rows), ("x" if g is None else "y", others)):
        if len(a) == 0:
            _check.fail(name, "at least one row", a.shape)
    value, grad_f, grad_g = gradients.feature_loss(rows, others, targets, loss, _array(weight))
    total = torch.full((), value, dtype=f.dtype)
    if g is None:
        return total, _tensor(grad_f + grad_g), f.new_empty(0)
    return total, _tensor(grad_f), _tensor(grad_g)


@relation_loss.register_fake
def _(
    f: Tensor, g: Tensor | None, target: Tensor, columns: Tensor | None, weight: Tensor | None, loss: str
) -> tuple[Tensor, Tensor, Tensor]:
    return f.new_empty(()), f.new_empty(f.shape), f.new_empty(0 if g is None else g.shape)


@_operator(f"relation_loss_vjp({_PAIRS}, Tensor grad_f, Tensor grad_g, Tensor grad) -> (Tensor, Tensor)")
def relation_loss_vjp(
    f: Tensor, g: Tensor | None, grad_f: Tensor, grad_g: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """Both gradients times that of the loss; f and g tie second derivatives to what refuses them."""
    return grad_f * grad, grad_g * grad


@relation_loss_vjp.register_fake
def _(f: Tensor, g: Tensor | None, grad_f: Tensor, grad_g: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    return grad_f.new_empty(grad_f.shape), grad_g.new_empty(grad_g.shape)


def _save_loss(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    f, g, *_ = inputs
    _, grad_f, grad_g = output
    ctx.mark_non_differentiable(grad_f, grad_g)
    ctx.save_for_backward(f, g, grad_f, grad_g)


def _loss_backward(ctx: Any, grad: Tensor, *others: Tensor) -> tuple[Any, ...]:
    f, g, grad_f, grad_g = ctx.saved_tensors
    of_f, of_g = relation_loss_vjp(f, g, grad_f, grad_g, grad)
    return of_f, None if g is None else of_g, None, None, None, None


relation_loss.register_autograd(_loss_backward, setup_context=_save_loss)
_refuse(relation_loss_vjp)
