"""The operator of relational attention, made as those of `_ops`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import gradients, ops
from ..base import shapes
from . import _formulas
from ._library import differentiable, differentiable_by, fake, operator
from ._ops import _given, _number, _tensor

_SIDES = "Tensor q, Tensor k, Tensor q_rel, Tensor k_rel, Tensor v"
_HOW = (
    "Tensor? mask, bool causal, SymInt? left, SymInt? right, str align, Tensor scale, Tensor rel_scale, "
    "str rel_activation"
)
_LEADING = {"q": 3, "k": 3, "q_rel": 3, "k_rel": 3, "v": 3, "mask": 3}
# Numbers of arguments.
_OF_SIDES, _OF_HOW = 5, 8


def _options(mask: Any, causal: Any, left: Any, right: Any, align: Any, *rest: Any) -> dict[str, Any]:
    """Return the options of the public functions, from the arguments of an operator."""
    scale, rel_scale, rel_activation = rest
    window = None if left is None and right is None else (left, right)
    allowed = {"mask": _given(mask), "causal": causal, "window": window, "align": align}
    factors = {"scale": float(scale), "rel_scale": float(rel_scale)}
    return {**allowed, **factors, "rel_activation": rel_activation}


@operator(f"relational_attention({_SIDES}, {_HOW}) -> (Tensor, Tensor, Tensor)", **_LEADING)
def relational_attention(*arguments: Any) -> tuple[Tensor, ...]:
    """Relations, values, and the log-sum-exp of each row of scores."""
    sides, how = arguments[:_OF_SIDES], arguments[_OF_SIDES:]
    found = ops.relational_attention(*map(_given, sides), **_options(*how), return_lse=True)
    return tuple(map(_tensor, found))


@fake(relational_attention)
def _(*arguments: Any) -> tuple[Tensor, ...]:
    q, k, q_rel, k_rel, v, mask = arguments[: _OF_SIDES + 1]
    heads = shapes.leading(q.shape, k.shape, v.shape)[-1]
    relations = shapes.leading(q_rel.shape, k_rel.shape)[-1]
    lead = shapes.broadcast(*(a.shape[:-3] for a in (q, k, q_rel, k_rel, v, mask) if a is not None))
    return tuple(map(q.new_empty, shapes.relational(lead, heads, q.shape[-2], relations, v.shape[-1])))


@operator(
    f"relational_attention_vjp({_SIDES}, {_HOW}, Tensor relations, Tensor values, Tensor lse, "
    "Tensor grad_relations, Tensor grad_values, Tensor? grad_lse) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
def relational_attention_vjp(*arguments: Any) -> tuple[Tensor, ...]:
    """Gradients of q, k, q_rel, k_rel, v and both scales, from the results of the forward pass."""
    sides, rest = arguments[:_OF_SIDES], arguments[_OF_SIDES:]
    how, (*result, of_relations, of_values, of_lse) = rest[:_OF_HOW], rest[_OF_HOW:]
    found = gradients.relational_attention_vjp(
        *map(_given, (*sides, of_relations, of_values)),
        **_options(*how),
        grad_lse=_given(of_lse),
        result=tuple(map(_given, result)),
    )
    scales = zip((found.grad_scale, found.grad_rel_scale), how[5:7], strict=True)
    return *map(_tensor, found), *(_number(grad, like) for grad, like in scales)


@fake(relational_attention_vjp)
def _(*arguments: Any) -> tuple[Tensor, ...]:
    scales = arguments[_OF_SIDES + 5 : _OF_SIDES + 7]
    return tuple(a.new_empty(a.shape) for a in (*arguments[:_OF_SIDES], *scales))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *arrays, ctx.causal, ctx.left, ctx.right, ctx.align, scale, rel_scale, ctx.activation = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*arrays, scale, rel_scale, *output)


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    *arrays, scale, rel_scale, relations, values, lse = ctx.saved_tensors
    how = ctx.causal, ctx.left, ctx.right, ctx.align, scale, rel_scale, ctx.activation
    of_relations, of_values, of_lse = grads
    of_relations = torch.zeros_like(relations) if of_relations is None else of_relations
    of_values = torch.zeros_like(values) if of_values is None else of_values
    above = relations, values, lse, of_relations, of_values, of_lse
    *of_sides, of_scale, of_rel_scale = relational_attention_vjp(*arrays, *how, *above)
    return *of_sides, *(None,) * 5, of_scale, of_rel_scale, None


differentiable(relational_attention, _backward, _save, _formulas.relational_attention)
differentiable_by(relational_attention_vjp, _formulas.relational_attention_vjp, "relations", "values", "lse")
