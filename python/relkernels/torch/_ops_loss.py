"""The operator of the losses over all pairs, beside those of `_ops`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import gradients
from ..base import check
from ._library import differentiable, differentiable_once, fake, operator
from ._ops import PAIRS, as_array, as_tensor, factor_of


@operator(
    f"relation_loss({PAIRS}, Tensor target, Tensor? columns, Tensor? weight, str loss) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)
def relation_loss(
    f: Tensor,
    g: Tensor | None,
    scale: Tensor,
    target: Tensor,
    columns: Tensor | None,
    weight: Tensor | None,
    loss: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss, and its gradients of f, g and the scale, which the same walk over the pairs gives.

    `target` is a matrix or labels; `columns` the labels of g where they are others. Without g, the
    gradient of f is whole and that of g empty.
    """
    targets = as_array(target) if columns is None else (as_array(target), as_array(columns))
    rows = as_array(f)
    others = rows if g is None else as_array(g)
    for name, a in (("x", rows), ("x" if g is None else "y", others)):
        if len(a) == 0:
            check.fail(name, "at least one row", a.shape)
    found = gradients.feature_loss(rows, others, targets, loss, as_array(weight), factor_of(scale, f))
    total, grad_scale = f.new_full((), found.value), scale.new_full((), found.grad_scale)
    if g is None:
        return total, as_tensor(found.grad_f + found.grad_g), f.new_empty(0), grad_scale
    return total, as_tensor(found.grad_f), as_tensor(found.grad_g), grad_scale


@fake(relation_loss)
def _(
    f: Tensor,
    g: Tensor | None,
    scale: Tensor,
    target: Tensor,
    columns: Tensor | None,
    weight: Tensor | None,
    loss: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_g = f.new_empty(0 if g is None else g.shape)
    return f.new_empty(()), f.new_empty(f.shape), grad_g, scale.new_empty(())


@operator(
    f"relation_loss_vjp({PAIRS}, Tensor grad_f, Tensor grad_g, Tensor grad_scale, Tensor grad) "
    "-> (Tensor, Tensor, Tensor)"
)
def relation_loss_vjp(
    f: Tensor,
    g: Tensor | None,
    scale: Tensor,
    grad_f: Tensor,
    grad_g: Tensor,
    grad_scale: Tensor,
    grad: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """All gradients times that of the loss; f, g and the scale tie second derivatives to their refusal."""
    return grad_f * grad, grad_g * grad, grad_scale * grad


@fake(relation_loss_vjp)
def _(
    f: Tensor,
    g: Tensor | None,
    scale: Tensor,
    grad_f: Tensor,
    grad_g: Tensor,
    grad_scale: Tensor,
    grad: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return grad_f.new_empty(grad_f.shape), grad_g.new_empty(grad_g.shape), grad_scale.new_empty(())


def _save_loss(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    f, g, scale, *_ = inputs
    _, *grads = output
    ctx.mark_non_differentiable(*grads)
    ctx.save_for_backward(f, g, scale, *grads)


def _loss_backward(ctx: Any, grad: Tensor, *others: Tensor) -> tuple[Any, ...]:
    f, g, scale, *grads = ctx.saved_tensors
    of_f, of_g, of_scale = relation_loss_vjp(f, g, scale, *grads, grad)
    needed = ctx.needs_input_grad
    return of_f, None if g is None else of_g, of_scale if needed[2] else None, None, None, None, None


differentiable(relation_loss, _loss_backward, _save_loss)
differentiable_once(relation_loss_vjp)
