"""The operations as PyTorch operators ``torch.ops.relkernels.*``, each with its vector-Jacobian product.

Those of attention are in `_attention`.

An operator calls the public function of the same name, on whatever device that function supports. It has a
fake kernel that gives shapes (what `torch.compile` and `torch.export` trace with) and a backward that calls
another operator, so that gradients are traced too. Other derivatives come from its formula (`_formulas`).

The scale is a float64 tensor of no dimensions, of either sign, on any device. The functions take it as a
number, so that reading one on a CUDA device waits for the device.

No weights are kept between calls, so no update of a parameter can be missed. Eager calls of a feature map on
the CPU read them where they are (`mapped`). The operators, which compiled graphs and tensors on a CUDA device
use, pack them again in each call, those on a CUDA device by way of the host.
"""

from __future__ import annotations

import math
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
from ._library import differentiable, differentiable_by, fake, is_eager, is_plain, operator
from ._threads import on_pytorch_threads

_LARGEST = float(np.finfo(np.float32).max)
_MAP = "Tensor x, Tensor[] weights, Tensor[] biases, str activation, float? parameter, bool normalize"
_PAIRS = "Tensor f, Tensor? g, Tensor scale"


def _given(a: Tensor | None) -> Any:
    """Return a tensor as the public functions take it: without its graph, and with its sign applied.

    On the CPU as a NumPy view of its memory: DLPack would add 40 us to a call.
    """
    if a is None:
        return None
    return a.numpy(force=True) if a.is_cpu else a.detach().resolve_neg()


def _tensor(result: Any) -> Tensor:
    """Return an array that a public function returned as a tensor."""
    return result if isinstance(result, Tensor) else torch.from_numpy(result)


def _if(wanted: bool, result: Any, like: Tensor) -> Tensor:
    """Return a result as a tensor if it is wanted, else an empty one."""
    return _tensor(result) if wanted else like.new_empty(0)


def _number(value: Any, like: Tensor) -> Tensor:
    """Return a number, or an array of one on a device, as a tensor of no dimensions."""
    if isinstance(value, Tensor):
        return value.to(like)
    return torch.scalar_tensor(value, dtype=like.dtype, device=like.device)


# ---- phi(x)


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


# ---- link(scale <f_i, g_j>)
#
# The link has a default so that exported programs that do not name one still run. PyTorch omits arguments
# that equal their defaults when it calls a Python kernel.


@operator(f"relation_matrix({_PAIRS}, int heads, str link='identity') -> Tensor", f=2, g=2)
def relation_matrix(f: Tensor, g: Tensor | None, scale: Tensor, heads: int, link: str = "identity") -> Tensor:
    """Links of inner products or distances; g None stands for f, and the result is symmetric."""
    return _tensor(ops.relation_matrix(_given(f), _given(g), link=link, scale=float(scale), heads=heads))


@fake(relation_matrix)
def _(f: Tensor, g: Tensor | None, scale: Tensor, heads: int, link: str = "identity") -> Tensor:
    other = f if g is None else g
    lead = shapes.leading(f.shape, other.shape)
    return f.new_empty(shapes.relation(lead, f.shape[-2], other.shape[-2], heads))


@operator(
    f"relation_matrix_vjp({_PAIRS}, int heads, Tensor grad, bool of_f, bool of_g, bool of_scale, "
    "str link='identity') -> (Tensor, Tensor, Tensor)"
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
    link: str = "identity",
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of f, of g and of the scale; one that is not wanted is empty."""
    of_rows = of_f or of_scale
    if g is None and not of_f:
        g = f  # the scale's gradient needs the rows only
    of = None if g is None or (of_rows and of_g) else "x" if of_rows else "y"
    sides = _given(f), _given(g), _given(grad)
    found = gradients.relation_matrix_vjp(*sides, link=link, scale=float(scale), heads=heads, of=of)
    grad_scale = _number(found.grad_scale, scale) if of_scale else scale.new_empty(0)
    return _if(of_f, found.grad_x, f), _if(of_g, found.grad_y, f), grad_scale


@fake(relation_matrix_vjp)
def _(f: Tensor, g: Tensor | None, scale: Tensor, heads: int, grad: Tensor, *rest: Any) -> Any:
    of_f, of_g, of_scale, *_ = rest
    grad_g = f.new_empty(0 if g is None or not of_g else g.shape)
    return f.new_empty(f.shape if of_f else 0), grad_g, scale.new_empty(() if of_scale else 0)


def _save_pairs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.heads, ctx.link = inputs
    ctx.save_for_backward(*tensors)


def _pairs_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    needed = ctx.needs_input_grad[:3]
    grads = relation_matrix_vjp(*ctx.saved_tensors, ctx.heads, grad, *needed, ctx.link)
    return *(a if need else None for a, need in zip(grads, needed, strict=True)), None, None


differentiable(relation_matrix, _pairs_backward, _save_pairs, _formulas.relation_matrix)
differentiable_by(relation_matrix_vjp, _formulas.relation_matrix_vjp)


# ---- sum_j link(scale <f_i, g_j>) v_j


@operator("relation_matvec(Tensor f, Tensor g, Tensor v, Tensor scale, str link) -> Tensor", f=2, g=2, v=2)
def relation_matvec(f: Tensor, g: Tensor, v: Tensor, scale: Tensor, link: str) -> Tensor:
    """Products with v of shape (..., m, c), of at least the dimensions of g."""
    return _tensor(ops.relation_matvec(_given(f), _given(g), _given(v), link=link, scale=float(scale)))


@fake(relation_matvec)
def _(f: Tensor, g: Tensor, v: Tensor, scale: Tensor, link: str) -> Tensor:
    lead = shapes.leading(f.shape, g.shape, v.shape)
    return f.new_empty((*lead, f.shape[-2], v.shape[-1]))


@operator(
    "relation_matvec_vjp(Tensor f, Tensor g, Tensor v, Tensor scale, str link, Tensor grad, bool of_pairs, "
    "bool of_v) -> (Tensor, Tensor, Tensor, Tensor)"
)
def relation_matvec_vjp(
    f: Tensor, g: Tensor, v: Tensor, scale: Tensor, link: str, grad: Tensor, of_pairs: bool, of_v: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of f, g, v and of the scale; those of the pairs, or that of v, are empty if not wanted."""
    if not of_pairs:  # one product with the transposed relation
        of_values = relation_matvec(g, f, grad, scale, link).sum_to_size(v.shape) if of_v else v.new_empty(0)
        return f.new_empty(0), f.new_empty(0), of_values, scale.new_empty(0)
    given = map(_given, (f, g, v, grad))
    found = gradients.relation_matvec_vjp(*given, link=link, scale=float(scale))
    of_f, of_g, values = map(_tensor, found[:3])
    return of_f, of_g, values, _number(found.grad_scale, scale)


@fake(relation_matvec_vjp)
def _(
    f: Tensor, g: Tensor, v: Tensor, scale: Tensor, link: str, grad: Tensor, of_pairs: bool, of_v: bool
) -> Any:
    pairs = (a.new_empty(a.shape if of_pairs else 0) for a in (f, g, scale))
    of_f, of_g, of_scale = pairs
    return of_f, of_g, v.new_empty(v.shape if of_pairs or of_v else 0), of_scale


def _save_product(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.link = inputs
    ctx.save_for_backward(*tensors)


def _product_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    needed = of_f, of_g, of_v, of_scale = ctx.needs_input_grad[:4]
    grads = relation_matvec_vjp(*ctx.saved_tensors, ctx.link, grad, of_f or of_g or of_scale, of_v)
    return *(a if need else None for a, need in zip(grads, needed, strict=True)), None


differentiable(relation_matvec, _product_backward, _save_product, _formulas.relation_matvec)
differentiable_by(relation_matvec_vjp, _formulas.relation_matvec_vjp)


# ---- the k largest <f_i, g_j>


@operator(
    "retrieve(Tensor f, Tensor g, SymInt k, Tensor? mask, Tensor? exclude, bool pad) -> (Tensor, Tensor)",
    f=2,
    g=2,
    mask=2,
    exclude=2,
)
def retrieve(f: Tensor, g: Tensor, k: int, *rest: Any) -> tuple[Tensor, Tensor]:
    """Best inner products of each row, and their columns, which have no gradient."""
    mask, exclude, pad = rest
    options = {"mask": _given(mask), "exclude": _given(exclude), "pad": pad}
    values, indices = ops.retrieve(_given(f), _given(g), k, **options)
    return _tensor(values), _tensor(indices)


@fake(retrieve)
def _(f: Tensor, g: Tensor, k: int, mask: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor]:
    lead = shapes.leading(*(a.shape for a in (f, g, mask) if a is not None))
    shape = (*lead, f.shape[-2], k)
    return f.new_empty(shape), f.new_empty(shape, dtype=torch.int64)


@operator(
    "retrieve_vjp(Tensor f, Tensor g, Tensor indices, Tensor grad, bool of_f, bool of_g) -> (Tensor, Tensor)"
)
def retrieve_vjp(
    f: Tensor, g: Tensor, indices: Tensor, grad: Tensor, of_f: bool, of_g: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of f and of g: of the sum of grad_ic <f_i, g_j>, j the c-th index of row i, -1 for none."""
    *lead, n, k = indices.shape
    items, (m, d) = math.prod(lead), g.shape[-2:]
    rows = f.expand(*lead, n, d).reshape(items * n, d)
    keys = g.expand(*lead, m, d).reshape(items * m, d)
    first = m * torch.arange(items, device=f.device).reshape(items, 1, 1)
    places = (indices.reshape(items, n, k).clamp(min=0) + first).reshape(items * n, k)
    absent = (indices < 0).reshape(items * n, k, 1)
    grad_f, grad_g = torch.zeros_like(rows), torch.zeros_like(keys)
    for c in range(k if m else 0):  # a column at a time, so that memory is that of the features
        weight = grad.reshape(items * n, k, 1)[:, c]
        if of_f:
            grad_f += (weight * keys[places[:, c]]).masked_fill(absent[:, c], 0)
        if of_g:
            grad_g.index_add_(0, places[:, c], (weight * rows).masked_fill(absent[:, c], 0))
    grads = grad_f.reshape(*lead, n, d), grad_g.reshape(*lead, m, d)
    wanted = zip((of_f, of_g), grads, (f, g), strict=True)
    of_rows, of_keys = (a.sum_to_size(like.shape) if want else a.new_empty(0) for want, a, like in wanted)
    return of_rows, of_keys


@fake(retrieve_vjp)
def _(f: Tensor, g: Tensor, indices: Tensor, grad: Tensor, of_f: bool, of_g: bool) -> tuple[Tensor, ...]:
    return f.new_empty(f.shape if of_f else 0), g.new_empty(g.shape if of_g else 0)


def _save_retrieve(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    indices = output[1]
    ctx.mark_non_differentiable(indices)
    ctx.save_for_backward(*inputs[:2], indices)


def _retrieve_backward(ctx: Any, grad: Tensor, grad_indices: Any) -> tuple[Any, ...]:
    needed = ctx.needs_input_grad[:2]
    grads = retrieve_vjp(*ctx.saved_tensors, grad, *needed)
    return *(a if need else None for a, need in zip(grads, needed, strict=True)), None, None, None, None


differentiable(retrieve, _retrieve_backward, _save_retrieve, _formulas.retrieve)
differentiable_by(retrieve_vjp, _formulas.retrieve_vjp)


# ---- losses over all pairs


@operator(
    f"relation_loss({_PAIRS}, Tensor target, Tensor? columns, Tensor? weight, str loss) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)
def relation_loss(f: Tensor, g: Tensor | None, scale: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    """Loss, and its gradients of f, g and the scale, which the same walk over the pairs gives.

    `target` is a matrix or labels; `columns` the labels of g where they are others. Without g, the
    gradient of f is whole and that of g empty.
    """
    *constants, loss = rest
    target, columns, weight = map(_given, constants)
    targets = target if columns is None else (target, columns)
    options = {"loss": loss, "sample_weight": weight, "scale": float(scale)}
    found = gradients.relation_loss(_given(f), _given(g), targets, **options)
    grads = _tensor(found.grad_x), _if(g is not None, found.grad_y, f)
    return _number(found.value, f), *grads, _number(found.grad_scale, scale)


@fake(relation_loss)
def _(f: Tensor, g: Tensor | None, scale: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    grad_g = f.new_empty(0 if g is None else g.shape)
    return f.new_empty(()), f.new_empty(f.shape), grad_g, scale.new_empty(())


@operator(
    f"relation_loss_vjp({_PAIRS}, Tensor target, Tensor? columns, Tensor? weight, str loss, Tensor grad_f, "
    "Tensor grad_g, Tensor grad_scale, Tensor grad) -> (Tensor, Tensor, Tensor)"
)
def relation_loss_vjp(f: Tensor, g: Tensor | None, scale: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    """All gradients times that of the loss. Second derivatives are with respect to the other arguments."""
    _, _, _, _, *grads, grad = rest
    return tuple(a * grad for a in grads)


@fake(relation_loss_vjp)
def _(f: Tensor, g: Tensor | None, scale: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return tuple(a.new_empty(a.shape) for a in rest[4:7])


def _save_loss(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.loss = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*tensors, *output[1:])


def _loss_backward(ctx: Any, grad: Tensor, *others: Tensor) -> tuple[Any, ...]:
    f, g, scale, target, columns, weight, *found = ctx.saved_tensors
    constants = target, columns, weight, ctx.loss
    of_f, of_g, of_scale = relation_loss_vjp(f, g, scale, *constants, *found, grad)
    return of_f, None if g is None else of_g, of_scale, None, None, None, None


differentiable(relation_loss, _loss_backward, _save_loss, _formulas.relation_loss)
differentiable_by(relation_loss_vjp, _formulas.relation_loss_vjp, "grad_f", "grad_g", "grad_scale")
