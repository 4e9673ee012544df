"""The operator of the k largest <f_i, g_j>, built like those of `_ops`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..base import shapes
from . import _formulas
from ._conversions import _given, _tensor
from ._library import differentiable, differentiable_by, fake, operator


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
