"""Attention over relations, its weights, and exact retrieval, on arrays of JAX."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import gradients, ops
from ..base import check
from ..ops.allowed import Allowed, Window
from ._host import hosted
from ._operators import at_least, call, differentiable, like
from ._tracing import result_of
from .maps import Map, floats, points, widened
from .relations import both_features, factor


class _Scoring(NamedTuple):
    causal: bool
    window: Any
    align: str
    softcap: float | None

    def options(self) -> dict[str, Any]:
        return self._asdict()


def mask_of(mask: Any) -> Any:
    """Return a mask as an array of JAX, or None."""
    if mask is None:
        return None
    mask = jnp.asarray(mask)
    if mask.dtype != bool:
        raise TypeError(f"mask: expected an array of bool (True = may attend), got {mask.dtype}")
    return mask


def _attended(
    q: Any, k: Any, phi: Any, psi: Any, scale: Any, mask: Any, bias: Any, scoring: tuple[Any, ...]
) -> tuple[Any, ...]:
    """Check what attention and its weights share: features of both sides, mask, bias, scale, options."""
    q, k = points("q", q), points("k", k)
    f, g = both_features(q, k, phi, psi, ("q", "k"))
    mask = mask_of(mask)
    if bias is not None:
        bias = floats("bias", bias, 0)
        check.same_dtype(("q", q), ("bias", bias))
        bias = widened(bias)
    causal, window, align, softcap = scoring
    _, band, _ = Allowed(None, causal, window, align).limits()
    cap = check.softcap(softcap, np.dtype(f.dtype))
    options = _Scoring(causal, None if band == (None, None) else tuple(band), align, cap)
    number = factor(1 / math.sqrt(f.shape[-1]) if scale is None else scale, f.dtype)
    return options, f, g, mask, bias, number


def attention(
    q: Any,
    k: Any,
    v: Any,
    phi: Map | None = None,
    psi: Map | None = None,
    *,
    scale: Any = None,
    mask: Any = None,
    causal: bool = False,
    window: Window = None,
    align: str = "upper_left",
    bias: Any = None,
    softcap: float | None = None,
    return_lse: bool = False,
) -> Any:
    """Return attention ``softmax_j(cap(scale * <phi(q_i), psi(k_j)> + bias_ij)) @ v``, with gradients.

    Scores are stored neither on the way forward nor back: memory is O((n + m) d).

    Parameters
    ----------
    q : array of shape (..., n, d_q)
        Leading dimensions broadcast: keys and values of one head serve all heads of a group if they have a
        dimension of 1 there.
    k : array of shape (..., m, d_k)
    v : array of shape (..., m, d_v)
    phi, psi
        As in `relation_matrix`.
    scale : float or array of one element, optional
        None is 1 / sqrt(d), d the feature width. An array has a gradient.
    mask : array of bool, optional
        True = may attend; broadcast to (..., n, m).
    causal, window, align, softcap
        As in `relkernels.attention`.
    bias : array, optional
        Added to the scaled inner products; broadcast to (..., n, m). Has a gradient.
    return_lse : bool, default False
        Also return the log-sum-exp of each row's scores, with its gradient.

    Returns
    -------
    out : array of shape (..., n, d_v)
    lse : array of shape (..., n)
        Only with `return_lse`.

    Raises
    ------
    TypeError, ValueError
        As in `relation_matrix`.

    Examples
    --------
    >>> import jax, relkernels.jax as rkj
    >>> q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 100, 16))
    >>> rkj.attention(q, k, v, causal=True).shape
    (2, 100, 16)
    """
    options, f, g, mask, bias, number = _attended(
        q, k, phi, psi, scale, mask, bias, (causal, window, align, softcap)
    )
    values = floats("v", v)
    check.same_dtype(("q", jnp.asarray(q)), ("v", values))
    out, lse = _attention(options, f, g, widened(values), mask, bias, number)
    out = out.astype(values.dtype)
    return (out, lse) if check.flag("return_lse", return_lse) else out


def _attend(o: _Scoring, f: Any, g: Any, v: Any, mask: Any, bias: Any, scale: Any) -> Any:
    arrays = {"q": f, "k": g, "v": v, "mask": mask, "bias": bias}
    result = result_of("attention", arrays, return_lse=True, **o.options())
    given = tuple(at_least(2, a) for a in (mask, bias))
    return call("attention", result, (2, 2, 2, 2, 2, None), (f, g, v, *given, scale), **o.options())


@hosted("attention", in_place=True)
def _attend_on_host(
    f: Any, g: Any, v: Any, mask: Any, bias: Any, scale: Any, *, out: Any, **options: Any
) -> None:
    ops.attention(f, g, v, mask=mask, bias=bias, scale=float(scale), return_lse=True, out=out, **options)


def _attend_backward(o: _Scoring, arrays: Any, out: Any, grad: Any) -> Any:
    f, g, v, _, bias, scale = arrays
    result = like(*(a for a in (f, g, v, bias, scale) if a is not None))
    given = (*arrays, *out, *grad)
    found = call("attention_vjp", result, (None,) * len(given), given, **o.options())
    of_bias = None if bias is None else found[3]
    return *found[:3], None, of_bias, found[-1]


@hosted("attention_vjp")
def _attend_vjp_on_host(
    f: Any, g: Any, v: Any, mask: Any, bias: Any, scale: Any, out: Any, lse: Any, grad: Any, grad_lse: Any,
    **options: Any,
) -> Any:  # fmt: skip
    found = gradients.attention_vjp(
        f, g, v, grad, mask=mask, bias=bias, scale=float(scale), grad_lse=grad_lse, result=(out, lse),
        **options,
    )  # fmt: skip
    of_bias = () if bias is None else (found.grad_bias,)
    return found.grad_q, found.grad_k, found.grad_v, *of_bias, found.grad_scale


_attention = differentiable(_attend, _attend_backward)


def attention_scores(
    q: Any,
    k: Any,
    phi: Map | None = None,
    psi: Map | None = None,
    *,
    scale: Any = None,
    mask: Any = None,
    causal: bool = False,
    window: Window = None,
    align: str = "upper_left",
    bias: Any = None,
    softcap: float | None = None,
) -> jax.Array:
    """Return the weights ``softmax_j(cap(scale * <phi(q_i), psi(k_j)> + bias_ij))``, with gradients.

    Parameters
    ----------
    q, k, phi, psi, scale, mask, causal, window, align, bias, softcap
        As in `attention`.

    Returns
    -------
    array of shape (..., n, m)

    Raises
    ------
    TypeError, ValueError
        As in `relation_matrix`.

    Examples
    --------
    >>> import jax.numpy as jnp, relkernels.jax as rkj
    >>> rkj.attention_scores(jnp.eye(2), jnp.eye(2), causal=True)[0].tolist()
    [1.0, 0.0]
    """
    options, f, g, mask, bias, number = _attended(
        q, k, phi, psi, scale, mask, bias, (causal, window, align, softcap)
    )
    return _attention_scores(options, f, g, mask, bias, number).astype(jnp.asarray(q).dtype)


def _scores(o: _Scoring, f: Any, g: Any, mask: Any, bias: Any, scale: Any) -> Any:
    result = result_of("attention_scores", {"q": f, "k": g, "mask": mask, "bias": bias}, **o.options())
    given = tuple(at_least(2, a) for a in (mask, bias))
    return call("attention_scores", result, (2, 2, 2, 2, None), (f, g, *given, scale), **o.options())


@hosted("attention_scores", in_place=True)
def _scores_on_host(f: Any, g: Any, mask: Any, bias: Any, scale: Any, *, out: Any, **options: Any) -> None:
    ops.attention_scores(f, g, mask=mask, bias=bias, scale=float(scale), out=out, **options)


def _scores_backward(o: _Scoring, arrays: Any, out: Any, grad: Any) -> Any:
    f, g, _, bias, scale = arrays
    result = like(*(a for a in (f, g, bias, scale) if a is not None))
    found = call("attention_scores_vjp", result, (None,) * 6, (*arrays, grad), **o.options())
    return *found[:2], None, None if bias is None else found[2], found[-1]


@hosted("attention_scores_vjp")
def _scores_vjp_on_host(f: Any, g: Any, mask: Any, bias: Any, scale: Any, grad: Any, **options: Any) -> Any:
    found = gradients.attention_scores_vjp(f, g, grad, mask=mask, bias=bias, scale=float(scale), **options)
    of_bias = () if bias is None else (found.grad_bias,)
    return found.grad_q, found.grad_k, *of_bias, found.grad_scale


_attention_scores = differentiable(_scores, _scores_backward)


class _Search(NamedTuple):
    k: int
    pad: bool


def retrieve(
    q: Any,
    keys: Any,
    k: int,
    phi: Map | None = None,
    psi: Map | None = None,
    *,
    mask: Any = None,
    exclude: Any = None,
    pad: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Return the `k` largest ``<phi(q_i), psi(keys_j)>`` of each row; the values have gradients.

    Parameters
    ----------
    q : array of shape (..., n, d_q)
    keys : array of shape (..., m, d_k)
    k : int
        At least 1; at most m unless `pad` is true.
    phi, psi
        As in `relation_matrix`.
    mask : array of bool, optional
        True = may be retrieved; broadcast to (..., n, m).
    exclude : array of integers of shape (n,) or (..., n, e), optional
        Indices that a row may not return, -1 for none.
    pad : bool, default False
        Accept `k` above m and fill the places without a key, as `relkernels.retrieve` does.

    Returns
    -------
    values : array of shape (..., n, k)
        Gradients go to the queries and to the keys that were found.
    indices : array of the same shape
        Of int64 if JAX has 64-bit types enabled, else of int32.

    Raises
    ------
    TypeError, ValueError
        As in `relation_matrix`; `exclude` is checked when the call runs.

    Examples
    --------
    >>> import jax.numpy as jnp, relkernels.jax as rkj
    >>> values, indices = rkj.retrieve(jnp.array([[1.0, 0.5]]), jnp.array([[1.0, 0.0], [0.0, 1.0]]), 1)
    >>> values.tolist(), indices.tolist()
    ([[1.0]], [[0]])
    """
    q, keys = points("q", q), points("keys", keys)
    f, g = both_features(q, keys, phi, psi, ("q", "keys"))
    assert g is not None
    options = _Search(check.integer("k", k, 1, check.WIDEST), check.flag("pad", pad))
    mask = None if mask is None else jnp.asarray(mask)
    exclude = None if exclude is None else jnp.asarray(exclude)
    if exclude is not None and exclude.ndim == 1:
        exclude = exclude[:, None]
    values, indices = _retrieve(options, f, g, mask, exclude)
    return values.astype(q.dtype), indices


def _find(o: _Search, f: Any, g: Any, mask: Any, exclude: Any) -> Any:
    result = result_of("retrieve", {"q": f, "keys": g, "mask": mask}, k=o.k, pad=o.pad)
    return call("retrieve", result, (2, 2, 2, 2), (f, g, at_least(2, mask), exclude), **o._asdict())


@hosted("retrieve", in_place=True)
def _find_on_host(f: Any, g: Any, mask: Any, exclude: Any, *, out: Any, **options: Any) -> None:
    values, indices = out
    found = indices if indices.dtype == np.int64 else np.empty(indices.shape, np.int64)
    ops.retrieve(f, g, mask=mask, exclude=exclude, out=(values, found), **options)
    if found is not indices:
        indices[...] = found


def _find_backward(o: _Search, arrays: Any, out: Any, grad: Any) -> Any:
    f, g, *_ = arrays
    values, indices = out
    found = jnp.where(indices >= 0, grad[0], 0)  # no gradient of a place without a key
    lead = values.shape[:-2]

    def of_one(f: Any, g: Any, above: Any, at: Any) -> tuple[Any, Any]:
        at = jnp.maximum(at, 0)
        of_g = jnp.zeros_like(g).at[at].add(above[..., None] * f[:, None, :])
        return jnp.einsum("nk,nkd->nd", above, g[at]), of_g

    def flat(a: Any) -> Any:
        return jnp.broadcast_to(a, (*lead, *a.shape[-2:])).reshape(-1, *a.shape[-2:])

    of_f, of_g = jax.vmap(of_one)(flat(f), flat(g), flat(found), flat(indices))
    return _summed_to(of_f, f, lead), _summed_to(of_g, g, lead), None, None


def _summed_to(grad: Any, a: Any, lead: tuple[int, ...]) -> Any:
    """Return a gradient summed over the leading dimensions along which `a` was broadcast."""
    grad = grad.reshape(*lead, *a.shape[-2:])
    own = (*(1,) * (len(lead) + 2 - a.ndim), *a.shape)
    axes = tuple(i for i, (size, full) in enumerate(zip(own, grad.shape, strict=True)) if size != full)
    return grad.sum(axes, keepdims=True).reshape(a.shape)


_retrieve = differentiable(_find, _find_backward)
