"""The operators of attention and of its weights, built like those of `_ops`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import gradients, ops
from ..base import shapes
from . import _formulas
from ._conversions import _given, _if, _number, _tensor
from ._library import differentiable, differentiable_by, fake, operator

_SCORING = "Tensor? mask, bool causal, SymInt? left, SymInt? right, str align, Tensor scale"
_TERMS = "Tensor? bias, float? softcap"
_NO_TERMS = "Tensor? bias=None, float? softcap=None"
_RAGGED = "Tensor? q_offsets, Tensor? k_offsets"
_NOT_RAGGED = "Tensor? q_offsets=None, Tensor? k_offsets=None"
_LEADING = {"f": 2, "g": 2, "mask": 2, "bias": 2}


def _options(
    mask: Any,
    causal: Any,
    left: Any,
    right: Any,
    align: Any,
    scale: Any,
    bias: Any = None,
    softcap: Any = None,
    *offsets: Any,
) -> dict[str, Any]:
    """Return the options of the public functions, from the arguments of an operator."""
    window = None if left is None and right is None else (left, right)
    allowed = {"mask": _given(mask), "causal": causal, "window": window, "align": align}
    ragged = dict(zip(("q_offsets", "k_offsets"), map(_given, offsets), strict=False))
    return {**allowed, **ragged, "scale": float(scale), "bias": _given(bias), "softcap": softcap}


def _lead(*arrays: Any) -> shapes.Shape:
    """Return the leading dimensions of a result; masks and biases may have fewer than two dimensions."""
    return shapes.leading(*(a.shape for a in arrays if a is not None))


# ---- softmax_j(cap(scale <f_i, g_j> + bias_ij)) v_j


@operator(
    f"attention(Tensor f, Tensor g, Tensor v, {_SCORING}, {_NO_TERMS}, {_NOT_RAGGED}) -> (Tensor, Tensor)",
    **_LEADING,
    v=2,
)
def attention(f: Tensor, g: Tensor, v: Tensor, *scoring: Any) -> tuple[Tensor, Tensor]:
    """Attention over features, and the log-sum-exp of each row of scores."""
    out, lse = ops.attention(_given(f), _given(g), _given(v), **_options(*scoring), return_lse=True)
    return _tensor(out), _tensor(lse)


@fake(attention)
def _(
    f: Tensor, g: Tensor, v: Tensor, mask: Any, causal: Any, left: Any, right: Any, align: Any, scale: Any,
    bias: Any = None, softcap: Any = None, q_offsets: Any = None, k_offsets: Any = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    lead = _lead(f, g, v, mask, bias)
    return tuple(map(f.new_empty, shapes.attention(lead, f.shape[-2], v.shape[-1])))


@operator(
    f"attention_vjp(Tensor f, Tensor g, Tensor v, {_SCORING}, {_TERMS}, {_RAGGED}, Tensor out, "
    "Tensor lse, Tensor grad, Tensor? grad_lse, bool of_bias) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
def attention_vjp(f: Tensor, g: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    """Gradients of f, g, v, the scale and the bias, from the results of the forward pass."""
    *scoring, out, lse, grad, grad_lse, of_bias = rest
    found = gradients.attention_vjp(
        _given(f),
        _given(g),
        _given(v),
        _given(grad),
        **_options(*scoring),
        grad_lse=_given(grad_lse),
        result=(_given(out), _given(lse)),
        of_bias=of_bias,
    )
    grad_scale = _number(found.grad_scale, scoring[5])
    return *map(_tensor, found[:3]), grad_scale, _if(of_bias, found.grad_bias, f)


@fake(attention_vjp)
def _(f: Tensor, g: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    scale, bias, of_bias = rest[5], rest[6], rest[-1]
    of_all = tuple(a.new_empty(a.shape) for a in (f, g, v, scale))
    return *of_all, f.new_empty(bias.shape if of_bias else 0)


def _save_attention(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    f, g, v, mask, *ctx.band, scale, bias, ctx.softcap, q_offsets, k_offsets = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(f, g, v, mask, scale, bias, q_offsets, k_offsets, *output)


def _attention_backward(ctx: Any, grad: Tensor | None, grad_lse: Tensor | None) -> tuple[Any, ...]:
    *arrays, scale, bias, q_offsets, k_offsets, out, lse = ctx.saved_tensors
    of_bias = bias is not None and ctx.needs_input_grad[9]
    grad = torch.zeros_like(out) if grad is None else grad
    terms = scale, bias, ctx.softcap, q_offsets, k_offsets
    *found, grad_scale, grad_bias = attention_vjp(
        *arrays, *ctx.band, *terms, out, lse, grad, grad_lse, of_bias
    )
    bias_or_none = grad_bias if of_bias else None
    return *found, *(None,) * (1 + len(ctx.band)), grad_scale, bias_or_none, None, None, None


differentiable(attention, _attention_backward, _save_attention, _formulas.attention)
differentiable_by(attention_vjp, _formulas.attention_vjp, "out", "lse")


# ---- softmax_j(cap(scale <f_i, g_j> + bias_ij))


@operator(f"attention_scores(Tensor f, Tensor g, {_SCORING}, {_TERMS}) -> Tensor", **_LEADING)
def attention_scores(f: Tensor, g: Tensor, *scoring: Any) -> Tensor:
    """Attention weights over features."""
    return _tensor(ops.attention_scores(_given(f), _given(g), **_options(*scoring)))


@fake(attention_scores)
def _(f: Tensor, g: Tensor, mask: Any, causal: Any, left: Any, right: Any, align: Any, scale: Any, bias: Any,
      softcap: Any) -> Tensor:  # fmt: skip
    return f.new_empty(shapes.relation(_lead(f, g, mask, bias), f.shape[-2], g.shape[-2]))


@operator(
    f"attention_scores_vjp(Tensor f, Tensor g, {_SCORING}, {_TERMS}, Tensor grad, bool of_bias) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)
def attention_scores_vjp(f: Tensor, g: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    """Gradients of f, g, the scale and the bias."""
    *scoring, grad, of_bias = rest
    sides = _given(f), _given(g), _given(grad)
    found = gradients.attention_scores_vjp(*sides, **_options(*scoring), of_bias=of_bias)
    grad_scale = _number(found.grad_scale, scoring[5])
    return *map(_tensor, found[:2]), grad_scale, _if(of_bias, found.grad_bias, f)


@fake(attention_scores_vjp)
def _(f: Tensor, g: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    scale, bias, of_bias = rest[5], rest[6], rest[-1]
    of_all = tuple(a.new_empty(a.shape) for a in (f, g, scale))
    return *of_all, f.new_empty(bias.shape if of_bias else 0)


def _save_scores(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    f, g, mask, *ctx.band, scale, bias, ctx.softcap = inputs
    ctx.save_for_backward(f, g, mask, scale, bias)


def _scores_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    *arrays, scale, bias = ctx.saved_tensors
    of_bias = bias is not None and ctx.needs_input_grad[8]
    terms = scale, bias, ctx.softcap
    *found, grad_scale, grad_bias = attention_scores_vjp(*arrays, *ctx.band, *terms, grad, of_bias)
    return *found, *(None,) * (1 + len(ctx.band)), grad_scale, grad_bias if of_bias else None, None


differentiable(attention_scores, _scores_backward, _save_scores, _formulas.attention_scores)
differentiable_by(attention_scores_vjp, _formulas.attention_scores_vjp)
