"""Relational attention: attention that returns relations of what it attends to."""

from __future__ import annotations

import math
from typing import Any, Literal, overload

import numpy as np

from ..arrays import Array, operation
from ..arrays.engine import engine_of
from ..base import check, shapes
from ..maps.activations import NAMES
from .allowed import Allowed, Window
from .links import LINKS, LINKS_OF_DISTANCE
from .sides import spread

# Activations without a required parameter, and links of inner products.
REL_ACTIVATIONS = tuple(
    dict.fromkeys(
        [name for name in NAMES if name != "relu_power"]
        + [link for link in LINKS if link not in LINKS_OF_DISTANCE]
    )
)


NAMES_OF_SIDES = "q", "k", "q_rel", "k_rel", "v"


class Related:
    """The checked arguments that relational attention and its gradient share.

    Attributes
    ----------
    given : tuple of ndarray
        q, k, q_rel, k_rel and v.
    arrays : tuple of ndarray
        The same with the leading dimensions of the results.
    lead : tuple of int
    heads, relations, n, width : int
        `width` is that of the values.
    options : tuple
        The arguments of kernels that follow the arrays.
    """

    __slots__ = ("arrays", "dtype", "engine", "given", "heads", "lead", "n", "options", "relations", "width")

    def __init__(
        self,
        q: Any,
        k: Any,
        q_rel: Any,
        k_rel: Any,
        v: Any,
        rel_activation: str,
        scale: float | None,
        rel_scale: float | None,
        allowed: Allowed,
    ) -> None:
        q, k = check.features("q", q, 3), check.features("k", k, 3)
        q_rel, k_rel = check.features("q_rel", q_rel, 3), check.features("k_rel", k_rel, 3)
        v = check.floats("v", v, 3)
        check.same_dtype(("q", q), ("k", k), ("q_rel", q_rel), ("k_rel", k_rel), ("v", v))
        check.same_width("q", q, q.shape[-1], "k", k, k.shape[-1])
        check.same_width("q_rel", q_rel, q_rel.shape[-1], "k_rel", k_rel, k_rel.shape[-1])
        for name, a, like_name, like in (
            ("q_rel", q_rel, "q", q),
            ("k_rel", k_rel, "k", k),
            ("v", v, "k", k),
        ):
            if a.shape[-2] != like.shape[-2]:
                expected = f"{like.shape[-2]} rows, one for each row of {like_name} {like.shape}"
                check.fail(name, expected, a.shape)
        self.given = q, k, q_rel, k_rel, v
        self.dtype, self.engine = q.dtype, engine_of(q)
        self.n, self.width = q.shape[-2], v.shape[-1]
        name = check.choice("rel_activation", rel_activation, REL_ACTIVATIONS)
        factors = (
            check.scale(scale, q.dtype, 1 / math.sqrt(q.shape[-1])),
            check.scale(rel_scale, q.dtype, 1 / math.sqrt(q_rel.shape[-1]), "rel_scale"),
        )
        pairs = self.n, k.shape[-2]
        mask = check.mask(allowed.mask, *pairs)
        self.heads = check.batch_shape(("q", q, 2), ("k", k, 2), ("v", v, 2))[-1]
        self.relations = check.batch_shape(("q_rel", q_rel, 2), ("k_rel", k_rel, 2))[-1]
        if mask is not None and mask.ndim > 2 and mask.shape[-3] not in (1, self.heads):
            wanted = f"a shape that broadcasts to (..., {self.heads}, {pairs[0]}, {pairs[1]})"
            check.fail("mask", wanted, mask.shape)
        # Broadcast without the dimension of heads or relations.
        batched = [(name, a, 3) for name, a in zip(NAMES_OF_SIDES, self.given, strict=True)]
        if mask is not None:
            batched.append(("mask", mask, min(mask.ndim, 3)))
        self.lead = check.batch_shape(*batched)
        of_heads, of_relations = (*self.lead, self.heads), (*self.lead, self.relations)
        self.arrays = tuple(
            spread(a, at, 2)
            for a, at in zip(
                self.given, (of_heads, of_heads, of_relations, of_relations, of_heads), strict=True
            )
        )
        if mask is not None:
            mask = np.broadcast_to(mask, (*of_heads, *pairs))
        self.options = name, NAMES.get(name) or 0.0, *factors, mask, allowed.band(*pairs)

    def shapes(self) -> tuple[shapes.Shape, shapes.Shape, shapes.Shape]:
        """Return the shapes of the relations, of the values and of the log-sum-exp."""
        return shapes.relational(self.lead, self.heads, self.n, self.relations, self.width)

    def attend(self, want_lse: bool) -> tuple[Any, Any, Any]:
        """Return the relations, the values and the log-sum-exp, None unless it is wanted."""
        *shapes_of_both, shape_of_lse = self.shapes()
        name = "relational_attention"
        relations, values = (self.engine.empty(name, shape, self.dtype) for shape in shapes_of_both)
        lse = self.engine.empty_sums(name, shape_of_lse, self.dtype) if want_lse else None
        self.engine.run(name, *self.arrays, *self.options, relations, values, lse)
        return relations, values, lse


@overload
def relational_attention(
    q: Array,
    k: Array,
    q_rel: Array,
    k_rel: Array,
    v: Array,
    *,
    rel_activation: str = "identity",
    scale: float | None = None,
    rel_scale: float | None = None,
    mask: Array | None = None,
    causal: bool = False,
    window: Window = None,
    align: str = "upper_left",
    return_lse: Literal[False] = False,
) -> tuple[Array, Array]: ...
@overload
def relational_attention(
    q: Array,
    k: Array,
    q_rel: Array,
    k_rel: Array,
    v: Array,
    *,
    rel_activation: str = "identity",
    scale: float | None = None,
    rel_scale: float | None = None,
    mask: Array | None = None,
    causal: bool = False,
    window: Window = None,
    align: str = "upper_left",
    return_lse: Literal[True],
) -> tuple[Array, Array, Array]: ...
@operation("q", "k", "q_rel", "k_rel", "v", "mask")
def relational_attention(
    q: Array,
    k: Array,
    q_rel: Array,
    k_rel: Array,
    v: Array,
    *,
    rel_activation: str = "identity",
    scale: float | None = None,
    rel_scale: float | None = None,
    mask: Array | None = None,
    causal: bool = False,
    window: Window = None,
    align: str = "upper_left",
    return_lse: bool = False,
) -> Any:
    """Return attention over relations and over values, neither scores nor relations ever stored.

    With the weights ``alpha = softmax_j(scale * <q_i, k_j>)`` of each of h heads, and R relations that all
    heads share, the results are

    - ``relations[i, l] = sum_j alpha_ij act(rel_scale * <q_rel_il, k_rel_jl>)`` for each relation l, and
    - ``values[i] = sum_j alpha_ij v_j``.

    Relational attention (Altabaa & Lafferty, arXiv 2405.16727) adds a linear map of the first to values that
    are symbols. Memory is O((n + m) (h d + R d_r)) for any number of pairs.

    Parameters
    ----------
    q : ndarray of shape (..., h, n, d)
        A dimension of one head, or of one relation, broadcasts as leading dimensions do.
    k : ndarray of shape (..., h, m, d)
    q_rel : ndarray of shape (..., R, n, d_r)
        The first side of each relation. The same array as `k_rel` makes the relations symmetric.
    k_rel : ndarray of shape (..., R, m, d_r)
    v : ndarray of shape (..., h, m, d_v)
    rel_activation : str, default "identity"
        The function act, by name: an activation of `MLP` without a parameter ("relu", "gelu", "silu",
        "tanh", "sigmoid", "softplus", ...; the slope of "leaky_relu" is 0.01), "exp" or "square".
    scale : float, optional
        Any finite number; None is 1 / sqrt(d).
    rel_scale : float, optional
        Any finite number; None is 1 / sqrt(d_r).
    mask : ndarray of bool, optional
        True = may attend; broadcast to (..., h, n, m). What a row may not attend to cannot reach it, NaN
        and infinities included.
    causal : bool, default False
        Row i may attend to columns j <= i + o, o as `align` says.
    window : int or (int or None, int or None), optional
        As in `attention`; tiles outside the window are not computed.
    align : {"upper_left", "lower_right"}, default "upper_left"
        As in `attention`.
    return_lse : bool, default False
        Also return the log-sum-exp of each row's scores.

    Returns
    -------
    relations : ndarray of shape (..., h, n, R)
    values : ndarray of shape (..., h, n, d_v)
        In both, a row with nothing to attend to is zero.
    lse : ndarray of shape (..., h, n)
        Only with `return_lse`; -inf for a row with nothing to attend to.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.
    MemoryError
        If the output would not fit in memory.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> rng = np.random.default_rng(0)
    >>> q, k, v = rng.standard_normal((3, 8, 100, 16), dtype=np.float32)  # 8 heads
    >>> q_rel, k_rel = rng.standard_normal((2, 4, 100, 16), dtype=np.float32)  # 4 relations
    >>> relations, values = rk.relational_attention(q, k, q_rel, k_rel, v, rel_activation="relu", causal=True)
    >>> relations.shape, values.shape
    ((8, 100, 4), (8, 100, 16))
    """
    allowed = Allowed(mask, causal, window, align)
    related = Related(q, k, q_rel, k_rel, v, rel_activation, scale, rel_scale, allowed)
    wanted = check.flag("return_lse", return_lse)
    relations, values, lse = related.attend(wanted)
    return (relations, values, lse) if wanted else (relations, values)
