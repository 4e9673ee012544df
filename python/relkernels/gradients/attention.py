"""Vector-Jacobian products of attention and of its weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import Array, operation
from ..base import check, shapes
from ..base.describe import described
from ..maps.mlp import MLP
from ..ops.allowed import Allowed, Window
from ..ops.attended import attend
from ..ops.scoring import Scoring
from ..ops.sides import Attended, spread
from .results import AttentionGradients, AttentionScoresGradients
from .vjp import contiguous, summed_to, through_maps


@operation("q", "k", "v", "grad", "mask", "bias", "q_offsets", "k_offsets", "grad_lse", "result")
def attention_vjp(
    q: Array,
    k: Array,
    v: Array,
    grad: Array,
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    scale: float | None = None,
    mask: Array | None = None,
    causal: bool = False,
    window: Window = None,
    align: str = "upper_left",
    bias: Array | None = None,
    softcap: float | None = None,
    q_offsets: Array | None = None,
    k_offsets: Array | None = None,
    grad_lse: Array | None = None,
    result: tuple[Array, Array] | None = None,
    of_bias: bool = True,
) -> AttentionGradients[Array]:
    """Return the gradients of ``sum(grad * attention(q, k, v, phi, psi, ...))``.

    Scores are computed again tile by tile (Dao et al. 2022): memory is O((n + m) d), besides the gradient of
    the bias. The gradient of `scale` is ``sum(dR * R) / scale``, with dR the gradient of the scaled inner
    products R; it is formed without the division, and so also for `scale` 0.

    Parameters
    ----------
    q, k, v, phi, psi, scale, mask, causal, window, align, bias, softcap, q_offsets, k_offsets
        As in `attention`.
    grad : ndarray of shape (..., n, d_v)
    grad_lse : ndarray of shape (..., n), optional
        Gradient with respect to the log-sum-exp, which adds ``sum(grad_lse * lse)``; None is zero.
    result : tuple of ndarray, optional
        What `attention` returned for the same arguments with `return_lse`; None computes it again.
    of_bias : bool, default True
        False leaves the gradient of the bias out, and saves its memory.

    Returns
    -------
    AttentionGradients
        Unpacks into ``grad_q, grad_k, grad_v, grad_phi, grad_psi``; `grad_scale` and `grad_bias` are also
        attributes. Gradients of maps are None for a map that is None; where `psi` stands for `phi`, its part
        is in `grad_phi`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.
    MemoryError
        If the output would not fit in memory.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> q, k, v, grad = np.random.default_rng(0).standard_normal((4, 6, 3))
    >>> [g.shape for g in rk.attention_vjp(q, k, v, grad)[:3]]
    [(6, 3), (6, 3), (6, 3)]
    """
    allowed = Allowed(mask, causal, window, align, q_offsets=q_offsets, k_offsets=k_offsets)
    a = Attended(q, k, v, phi, psi, scale, Scoring(allowed, bias, softcap), None, has_values=True)
    slope = check.floats("grad", grad)
    check.same_dtype(("q", a.x), ("grad", slope))
    expected, shape_of_lse = shapes.attention(a.lead, a.n, a.values.shape[-1])
    if slope.shape != expected:
        check.fail("grad", f"shape {expected}, that of the attention", slope.shape)
    slope_of_lse = None if grad_lse is None else check.floats("grad_lse", grad_lse, 1)
    if slope_of_lse is not None:
        check.same_dtype(("q", a.x), ("grad_lse", slope_of_lse))
        if slope_of_lse.shape != shape_of_lse:
            check.fail("grad_lse", f"shape {shape_of_lse}, that of the log-sum-exp", slope_of_lse.shape)
    if result is not None:
        given = _checked_result(result, a, (expected, shape_of_lse))
    mapped = a.of_features(*a.features())
    assert mapped.v is not None
    out, lse = attend(mapped, True) if result is None else given
    engine = a.engine
    parts = engine.empty_parts("attention_vjp", shape_of_lse, a.dtype)
    grad_f = engine.empty("attention_vjp", mapped.q.shape, a.dtype)
    grad_g, grad_v = _sums_of_groups(mapped)
    grad_bias, to_bias = _bias_gradient("attention_vjp", a, bias, of_bias)
    operands = mapped.q, mapped.k, mapped.v, *a.scoring, a.scale, out, lse, slope, slope_of_lse
    written = (spread(grad, a.lead, 2, writeable=True) for grad in (grad_g, grad_v))
    engine.run("attention_vjp", *operands, grad_f, *written, to_bias, parts, *a.ragged)
    grad_q, grad_k, grad_phi, grad_psi = through_maps(a, grad_f, grad_g)
    grad_values: Any = summed_to(grad_v, a.values.shape)
    total = engine.total(parts)
    return AttentionGradients(grad_q, grad_k, grad_values, grad_phi, grad_psi, total, grad_bias)


@operation("q", "k", "grad", "mask", "bias")
def attention_scores_vjp(
    q: Array,
    k: Array,
    grad: Array,
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    scale: float | None = None,
    mask: Array | None = None,
    causal: bool = False,
    window: Window = None,
    align: str = "upper_left",
    bias: Array | None = None,
    softcap: float | None = None,
    of_bias: bool = True,
) -> AttentionScoresGradients[Array]:
    """Return the gradients of ``sum(grad * attention_scores(q, k, phi, psi, ...))``.

    The weights are computed again tile by tile: memory is O((n + m) d), besides `grad` and the gradient of
    the bias.

    Parameters
    ----------
    q, k, phi, psi, scale, mask, causal, window, align, bias, softcap
        As in `attention_scores`.
    grad : ndarray of shape (..., n, m)
        Not read where a pair may not attend.
    of_bias : bool, default True
        False leaves the gradient of the bias out, and saves its memory.

    Returns
    -------
    AttentionScoresGradients
        Unpacks into ``grad_q, grad_k, grad_phi, grad_psi``; `grad_scale` and `grad_bias` are also
        attributes. Gradients of maps are None for a map that is None; where `psi` stands for `phi`, its part
        is in `grad_phi`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.
    MemoryError
        If the output would not fit in memory.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> q, k = np.random.default_rng(0).standard_normal((2, 6, 3))
    >>> [g.shape for g in rk.attention_scores_vjp(q, k, np.ones((6, 6)), causal=True)[:2]]
    [(6, 3), (6, 3)]
    """
    scoring = Scoring(Allowed(mask, causal, window, align), bias, softcap)
    a = Attended(q, k, None, phi, psi, scale, scoring, None)
    slope = check.floats("grad", grad)
    check.same_dtype(("q", a.x), ("grad", slope))
    expected = shapes.relation(a.lead, a.n, a.m)
    if slope.shape != expected:
        check.fail("grad", f"shape {expected}, that of the scores", slope.shape)
    mapped = a.of_features(*a.features())
    engine = a.engine
    grad_f, grad_g = (engine.empty("attention_scores_vjp", of.shape, a.dtype) for of in (mapped.q, mapped.k))
    grad_bias, to_bias = _bias_gradient("attention_scores_vjp", a, bias, of_bias)
    parts = engine.empty_parts("attention_scores_vjp", (*a.lead, a.n), a.dtype)
    operands = mapped.q, mapped.k, *a.scoring, a.scale, slope
    engine.run("attention_scores_vjp", *operands, grad_f, grad_g, to_bias, parts)
    return AttentionScoresGradients(*through_maps(a, grad_f, grad_g), engine.total(parts), grad_bias)


def _bias_gradient(what: str, a: Attended, bias: Any, wanted: bool) -> tuple[Any, Any]:
    """Return an output of the shape of the bias, and the same with as many dimensions as the queries."""
    if not check.flag("of_bias", wanted) or bias is None:
        return None, None
    grad = a.engine.empty(what, bias.shape, a.dtype)
    return grad, grad.reshape((1,) * (a.q.ndim - grad.ndim) + grad.shape)


def _sums_of_groups(a: Attended) -> tuple[Any, Any]:
    """Return outputs for the gradients of keys and values.

    Kernels sum over leading dimensions along which both are broadcast: outputs have size 1 there.
    """
    assert a.values is not None
    own = shapes.leading(a.y.shape, a.values.shape)
    lead = (1,) * (len(a.lead) - len(own)) + own
    shapes_of_sums = ((*lead, *of.shape[-2:]) for of in (a.k, a.v) if of is not None)
    sums = tuple(a.engine.empty("attention_vjp", shape, a.dtype) for shape in shapes_of_sums)
    if 0 in a.lead:  # no item: the kernel writes nothing
        for of in sums:
            a.engine.fill(of, 0)
    return sums


def _checked_result(
    result: Any, a: Attended, expected: tuple[shapes.Shape, shapes.Shape]
) -> tuple[np.ndarray, np.ndarray]:
    """Return what attention gave, the log-sum-exp contiguous, as the kernels need it."""
    if not isinstance(result, tuple) or len(result) != 2:
        got = f"a tuple of {len(result)}" if isinstance(result, tuple) else described(result)
        raise TypeError(f"result: expected a tuple of two arrays (out, lse), got {got}")
    parts = []
    for i, shape in enumerate(expected):
        name = f"result[{i}]"
        part = check.floats(name, result[i], 1)
        check.same_dtype(("q", a.x), (name, part))
        if part.shape != shape:
            check.fail(name, f"shape {shape}, that of what attention returned", part.shape)
        parts.append(part)
    out, lse = parts
    return out, contiguous(lse)
