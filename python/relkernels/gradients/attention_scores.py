"""Vector-Jacobian product of attention weights."""

from __future__ import annotations

from ..arrays import Array, operation
from ..base import check, shapes
from ..maps.mlp import MLP
from ..ops.allowed import Allowed, Window
from ..ops.scoring import Scoring
from ..ops.sides import Attended
from .results import AttentionScoresGradients
from .vjp import bias_gradient, through_maps


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
    grad_bias, to_bias = bias_gradient("attention_scores_vjp", a, bias, of_bias)
    parts = engine.empty_parts("attention_scores_vjp", (*a.lead, a.n), a.dtype)
    operands = mapped.q, mapped.k, *a.scoring, a.scale, slope
    engine.run("attention_scores_vjp", *operands, grad_f, grad_g, to_bias, parts)
    return AttentionScoresGradients(*through_maps(a, grad_f, grad_g), engine.total(parts), grad_bias)
