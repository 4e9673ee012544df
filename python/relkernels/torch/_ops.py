"""The operations as PyTorch operators ``torch.ops.relkernels.*``, each with its vector-Jacobian product.

Those of feature maps are in `_feature_map`, of attention in `_attention`, of retrieval in `_retrieval`.

An operator calls the public function of the same name, on whatever device that function supports. It has a
fake kernel that gives shapes (what `torch.compile` and `torch.export` trace with) and a backward that calls
another operator, so that gradients are traced too. Other derivatives come from its formula (`_formulas`).

The scale is a float64 tensor of no dimensions, of either sign, on any device. The functions take it as a
number, so that reading one on a CUDA device waits for the device.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import gradients, ops
from ..base import shapes
from . import _formulas
from ._conversions import _given, _if, _number, _tensor
from ._library import differentiable, differentiable_by, fake, operator

_PAIRS = "Tensor f, Tensor? g, Tensor scale"


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
    f, g, scale, ctx.heads, ctx.link = inputs
    ctx.save_for_backward(f, g, scale)


def _pairs_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    f, g, scale = ctx.saved_tensors
    of_f, of_g, of_scale, *_ = ctx.needs_input_grad
    found = relation_matrix_vjp(f, g, scale, ctx.heads, grad, of_f, of_g, of_scale, ctx.link)
    grad_f, grad_g, grad_scale = found
    return grad_f if of_f else None, grad_g if of_g else None, grad_scale if of_scale else None, None, None


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
