"""Relational attention on arrays of JAX."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from .. import gradients, ops
from ..base import check
from ..ops.allowed import Allowed, Window
from ._host import hosted
from ._operators import at_least, call, differentiable, like
from ._tracing import result_of
from .attentions import mask_of
from .maps import floats, widened
from .relations import factor

_NAMES = "q", "k", "q_rel", "k_rel", "v"


class _Relational(NamedTuple):
    rel_activation: str
    causal: bool
    window: Any
    align: str

    def options(self) -> dict[str, Any]:
        return self._asdict()


def relational_attention(
    q: Any,
    k: Any,
    q_rel: Any,
    k_rel: Any,
    v: Any,
    *,
    rel_activation: str = "identity",
    scale: Any = None,
    rel_scale: Any = None,
    mask: Any = None,
    causal: bool = False,
    window: Window = None,
    align: str = "upper_left",
    return_lse: bool = False,
) -> Any:
    """Return attention over relations and over values, with gradients, neither scores nor relations stored.

    Parameters
    ----------
    q : array of shape (..., h, n, d)
        A dimension of one head, or of one relation, broadcasts as leading dimensions do.
    k : array of shape (..., h, m, d)
    q_rel : array of shape (..., R, n, d_r)
    k_rel : array of shape (..., R, m, d_r)
    v : array of shape (..., h, m, d_v)
    rel_activation : str, default "identity"
        As in `relkernels.relational_attention`.
    scale, rel_scale : float or array of one element, optional
        None is 1 / sqrt(d) and 1 / sqrt(d_r). Arrays have gradients.
    mask : array of bool, optional
        True = may attend; broadcast to (..., h, n, m).
    causal, window, align
        As in `relkernels.attention`.
    return_lse : bool, default False
        Also return the log-sum-exp of each row's scores, with its gradient.

    Returns
    -------
    relations : array of shape (..., h, n, R)
    values : array of shape (..., h, n, d_v)
    lse : array of shape (..., h, n)
        Only with `return_lse`.

    Raises
    ------
    TypeError, ValueError
        As in `relation_matrix`.

    Examples
    --------
    >>> import jax, relkernels.jax as rkj
    >>> q, k, v = jax.random.normal(jax.random.key(0), (3, 8, 100, 16))  # 8 heads
    >>> q_rel, k_rel = jax.random.normal(jax.random.key(1), (2, 4, 100, 16))  # 4 relations
    >>> relations, values = rkj.relational_attention(q, k, q_rel, k_rel, v, rel_activation="relu")
    >>> relations.shape, values.shape
    ((8, 100, 4), (8, 100, 16))
    """
    given = [floats(name, a, 3) for name, a in zip(_NAMES, (q, k, q_rel, k_rel, v), strict=True)]
    check.same_dtype(*zip(_NAMES, given, strict=True))
    wide = [widened(a) for a in given]
    _, band, _ = Allowed(None, causal, window, align).limits()
    options = _Relational(rel_activation, causal, None if band == (None, None) else tuple(band), align)
    scales = (
        factor(1 / math.sqrt(max(a.shape[-1], 1)) if number is None else number, a.dtype, name)
        for name, number, a in (("scale", scale, wide[0]), ("rel_scale", rel_scale, wide[2]))
    )
    relations, values, lse = _relational_attention(options, *wide, mask_of(mask), *scales)
    both = relations.astype(given[0].dtype), values.astype(given[0].dtype)
    return (*both, lse) if check.flag("return_lse", return_lse) else both


def _attend(
    o: _Relational, q: Any, k: Any, q_rel: Any, k_rel: Any, v: Any, mask: Any, scale: Any, rel_scale: Any
) -> Any:
    arrays = dict(zip(_NAMES, (q, k, q_rel, k_rel, v), strict=True)) | {"mask": mask}
    result = result_of("relational_attention", arrays, return_lse=True, **o.options())
    given = (q, k, q_rel, k_rel, v, at_least(3, mask), scale, rel_scale)
    return call("relational_attention", result, (3, 3, 3, 3, 3, 3, None, None), given, **o.options())


@hosted("relational_attention")
def _attend_on_host(
    q: Any, k: Any, q_rel: Any, k_rel: Any, v: Any, mask: Any, scale: Any, rel_scale: Any, **options: Any
) -> Any:
    return ops.relational_attention(
        q, k, q_rel, k_rel, v, mask=mask, scale=float(scale), rel_scale=float(rel_scale), return_lse=True,
        **options,
    )  # fmt: skip


def _attend_backward(o: _Relational, arrays: Any, out: Any, grad: Any) -> Any:
    given = (*arrays, *out, *grad)
    result = like(*arrays[:5], *arrays[6:])  # all but the mask
    found = call("relational_attention_vjp", result, (None,) * len(given), given, **o.options())
    *grads, of_scale, of_rel_scale = found
    return *grads, None, of_scale, of_rel_scale


@hosted("relational_attention_vjp")
def _attend_vjp_on_host(
    q: Any, k: Any, q_rel: Any, k_rel: Any, v: Any, mask: Any, scale: Any, rel_scale: Any,
    relations: Any, values: Any, lse: Any, grad_relations: Any, grad_values: Any, grad_lse: Any,
    **options: Any,
) -> Any:  # fmt: skip
    found = gradients.relational_attention_vjp(
        q, k, q_rel, k_rel, v, grad_relations, grad_values, mask=mask, scale=float(scale),
        rel_scale=float(rel_scale), grad_lse=grad_lse, result=(relations, values, lse), **options,
    )  # fmt: skip
    return *found, found.grad_scale, found.grad_rel_scale


_relational_attention = differentiable(_attend, _attend_backward)
