"""Good calls of relational attention and of its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import reference
import relkernels as rk

from . import gradients
from .calls import Call, allowed, generator, given
from .checks import ATTENTION, GRADIENT, close, exponent, gradients_close
from .drawing import COLUMNS, ROWS, SMOOTH, WIDTHS, Draw

NAMES = "q", "k", "q_rel", "k_rel", "v"


def related(draw: Draw) -> dict[str, Any]:
    """Return the sides, with leading dimensions, and options."""
    n, m, h, relations = draw.pick(*ROWS), draw.pick(*COLUMNS), draw.pick(1, 2, 4), draw.pick(0, 1, 2, 5)
    d, d_rel, d_v = draw.pick(*WIDTHS), draw.pick(*WIDTHS), draw.pick(0, 1, 3, 16, 33)
    # k and v may have one head for all queries.
    shared = draw.pick(h, h, 1)
    shapes = (h, n, d), (shared, m, d), (relations, n, d_rel), (relations, m, d_rel), (shared, m, d_v)
    sides = {
        name: draw.array(*lead, *shape)
        for name, lead, shape in zip(NAMES, draw.leads(len(NAMES)), shapes, strict=True)
    }
    mask = draw.mask(draw.pick((h,), (1,), ()), n, m)
    activation = draw.pick("identity", *(name for name in SMOOTH if name != "identity"))
    options = given(
        rel_activation=activation,
        scale=draw.pick(None, None, 0.1, 0.0, -0.3),
        rel_scale=draw.pick(None, 0.2, 0.0),
        mask=mask,
    )
    return sides | options | allowed(draw)


def growth(a: dict[str, Any]) -> float:
    """Return the factor by which an error of the scores and of the relations can grow."""
    of_scores = exponent(np.abs(a["q"]), np.abs(a["k"]), a.get("scale"), a["q"].shape[-1])
    return of_scores * exponent(np.abs(a["q_rel"]), np.abs(a["k_rel"]), None, a["q_rel"].shape[-1])


@generator("relational_attention")
def relational_attention(draw: Draw) -> Call:
    a, return_lse = related(draw), draw.chance(0.5)

    def check(result: Any) -> None:
        expected = reference.relational_attention(**a)
        limit = ATTENTION[draw.dtype] * growth(a)
        for i, (got, wanted) in enumerate(zip(result, expected, strict=False)):
            size = np.sqrt(max(got.size, 1)) * (1 + np.max(np.abs(a["v"]), initial=0))
            close(got, wanted, limit, size, ("relations", "values", "log-sum-exp")[i])

    arguments = a | ({"return_lse": True} if return_lse else {})
    return Call(rk.relational_attention, arguments, check, 5, (-2, -2, *((-1,) if return_lse else ())))


@generator("relational_attention_vjp")
def relational_attention_vjp(draw: Draw) -> Call:
    a = related(draw)
    relations, values, lse = reference.relational_attention(**a)
    above = {
        "grad_relations": draw.array(*relations.shape),
        "grad_values": draw.array(*values.shape),
        **({"grad_lse": draw.array(*lse.shape)} if draw.chance(0.3) else {}),
    }

    def check(result: Any) -> None:
        expected, sizes = (
            gradients.relational_attention_vjp(rules, **a, **above)
            for rules in (gradients.EXACT, gradients.SIZES)
        )
        got = (*result, np.float64(result.grad_scale), np.float64(result.grad_rel_scale))
        gradients_close(got, expected, sizes, GRADIENT[draw.dtype] * growth(a), "gradient")

    sides = {name: a[name] for name in NAMES}
    arguments = sides | above | {name: value for name, value in a.items() if name not in NAMES}
    return Call(rk.relational_attention_vjp, arguments, check, 7)
