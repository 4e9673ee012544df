"""Vector-Jacobian product of relational attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import Array, operation
from ..base import check
from ..base.describe import described
from ..ops.allowed import Allowed, Window
from ..ops.relational import Related
from .results import RelationalGradients
from .vjp import contiguous, summed_to


@operation("q", "k", "q_rel", "k_rel", "v", "grad_relations", "grad_values", "mask", "grad_lse", "result")
def relational_attention_vjp(
    q: Array,
    k: Array,
    q_rel: Array,
    k_rel: Array,
    v: Array,
    grad_relations: Array,
    grad_values: Array,
    *,
    rel_activation: str = "identity",
    scale: float | None = None,
    rel_scale: float | None = None,
    mask: Array | None = None,
    causal: bool = False,
    window: Window = None,
    align: str = "upper_left",
    grad_lse: Array | None = None,
    result: tuple[Array, Array, Array] | None = None,
) -> RelationalGradients[Array]:
    """Return the gradients of ``sum(grad_relations * relations) + sum(grad_values * values)``.

    Scores and relations are computed again tile by tile: memory is O((n + m) (h d + R d_r)).

    Parameters
    ----------
    q, k, q_rel, k_rel, v, rel_activation, scale, rel_scale, mask, causal, window, align
        As in `relational_attention`. Where an activation has a kink its slope is 0.
    grad_relations : ndarray of shape (..., h, n, R)
    grad_values : ndarray of shape (..., h, n, d_v)
    grad_lse : ndarray of shape (..., h, n), optional
        Gradient with respect to the log-sum-exp, which adds ``sum(grad_lse * lse)``; None is zero.
    result : tuple of ndarray, optional
        What `relational_attention` returned for the same arguments with `return_lse`; None computes it again.

    Returns
    -------
    RelationalGradients
        Unpacks into ``grad_q, grad_k, grad_q_rel, grad_k_rel, grad_v``; `grad_scale` and `grad_rel_scale` are
        also attributes.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.
    MemoryError
        If the output would not fit in memory.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 6, 4))  # 2 heads
    >>> gradients = rk.relational_attention_vjp(q, k, q, k, v, np.ones((2, 6, 2)), np.ones((2, 6, 4)))
    >>> [g.shape for g in gradients]
    [(2, 6, 4), (2, 6, 4), (2, 6, 4), (2, 6, 4), (2, 6, 4)]
    """
    allowed = Allowed(mask, causal, window, align)
    related = Related(q, k, q_rel, k_rel, v, rel_activation, scale, rel_scale, allowed)
    shapes = related.shapes()
    above = (
        _checked("grad_relations", grad_relations, shapes[0], related),
        _checked("grad_values", grad_values, shapes[1], related),
        None if grad_lse is None else _checked("grad_lse", grad_lse, shapes[2], related),
    )
    if result is not None:
        if not isinstance(result, tuple) or len(result) != 3:
            got = f"a tuple of {len(result)}" if isinstance(result, tuple) else described(result)
            raise TypeError(f"result: expected a tuple of three arrays (relations, values, lse), got {got}")
        relations, values, lse = (
            _checked(f"result[{i}]", a, shape, related)
            for i, (a, shape) in enumerate(zip(result, shapes, strict=True))
        )
        found: Any = (relations, values, contiguous(lse))
    else:
        found = related.attend(True)
    engine, name = related.engine, "relational_attention_vjp"
    grads = tuple(engine.empty(name, a.shape, related.dtype) for a in related.arrays)
    parts = tuple(engine.empty_parts(name, a.shape[:-1], related.dtype) for a in (grads[0], grads[2]))
    engine.run(name, *related.arrays, *related.options, found, above, grads, *parts)
    summed = (summed_to(grad, a.shape) for grad, a in zip(grads, related.given, strict=True))
    return RelationalGradients(*summed, *map(engine.total, parts))


def _checked(name: str, a: Any, shape: tuple[int, ...], related: Related) -> np.ndarray:
    a = check.floats(name, a, 1)
    check.same_dtype(("q", related.given[0]), (name, a))
    if a.shape != shape:
        check.fail(name, f"shape {shape}, that of the result", a.shape)
    return a
