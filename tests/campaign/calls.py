"""Good calls of operations: random arguments, and the check of the result against its definition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import reference
import reference_nngp
import relkernels as rk

from .checks import ATTENTION, RELATION, close, exponent, feature_size, same_bits
from .drawing import COLUMNS, ROWS, WIDTHS, Draw

LINKS = ("identity", "exp", "relu", "square")


@dataclass
class Call:
    """A valid call of a public operation, and the check of its result.

    Attributes
    ----------
    required : int
        Number of leading arguments that may be positional.
    results_of_row : tuple of int
        The axes of the results along which row i depends only on row i of the first argument.
    """

    function: Callable[..., Any]
    arguments: dict[str, Any]
    check: Callable[[Any], None]
    required: int = 1
    results_of_row: tuple[int, ...] = ()
    takes_out: bool = False
    fresh: Callable[[], dict[str, Any]] = field(default=dict)  # arguments that a call consumes


# Name of an operation -> generator of good calls.
GENERATORS: dict[str, Callable[[Draw], Call]] = {}


def generator(name: str) -> Callable[[Callable[[Draw], Call]], Callable[[Draw], Call]]:
    def register(function: Callable[[Draw], Call]) -> Callable[[Draw], Call]:
        GENERATORS[name] = function
        return function

    return register


def given(**arguments: Any) -> dict[str, Any]:
    """Return the arguments without keyword-only ones that are None."""
    keep = ("x", "y", "phi", "psi")
    return {name: value for name, value in arguments.items() if value is not None or name in keep}


def precision(draw: Draw) -> str | None:
    return "bf16" if draw.dtype is np.float32 and draw.chance(0.2) else None


def bound(table: dict[Any, float], draw: Draw, rounding: str | None) -> float:
    return table[rounding or draw.dtype]


def sizes(x: np.ndarray, y: np.ndarray, phi: Any, psi: Any) -> tuple[np.ndarray, np.ndarray]:
    """Sizes of the terms of both features."""
    return feature_size(x, phi), feature_size(y, phi if psi is None else psi)


@generator("feature_map")
def feature_map(draw: Draw) -> Call:
    mlp, rounding = draw.mlp(draw.pick(*WIDTHS), draw.pick(*WIDTHS)), precision(draw)
    (lead,) = draw.leads(1)
    x = draw.array(*lead, draw.pick(*ROWS), mlp.widths[0])

    def check(out: Any) -> None:
        size = feature_size(x, mlp)
        close(out, reference.feature_map(x, mlp), bound(RELATION, draw, rounding), size, "features")

    arguments = given(x=x, mlp=mlp, precision=rounding)
    return Call(rk.feature_map, arguments, check, 2, (-2,), True)


@generator("normalize")
def normalize(draw: Draw) -> Call:
    (lead,) = draw.leads(1)
    x = draw.array(*lead, draw.pick(*ROWS), draw.pick(*WIDTHS))

    def check(out: Any) -> None:
        expected = reference.normalize(x)
        close(out, expected, RELATION[draw.dtype], np.ones_like(expected), "rows of unit length")

    return Call(rk.normalize, {"x": x}, check, 1, (-2,), True)


@generator("relation_matrix")
def relation_matrix(draw: Draw) -> Call:
    heads, rounding = draw.pick(1, 1, 1, 2, 3), precision(draw)
    d_x, phi, d_y, psi = draw.maps(heads=heads)
    lead_x, lead_y = draw.leads(2)
    x = draw.array(*lead_x, draw.pick(*ROWS), d_x)
    y = None if d_x == d_y and draw.chance(0.35) else draw.array(*lead_y, draw.pick(*COLUMNS), d_y)
    scale = draw.pick(1.0, 0.5, 0.0, 3, -1.5)

    def check(out: Any) -> None:
        f, g = sizes(x, x if y is None else y, phi, psi)
        expected = reference.relation_matrix(x, y, phi, psi, scale, heads)
        size = np.linalg.norm(f) * np.linalg.norm(g) * abs(scale)
        close(out, expected, bound(RELATION, draw, rounding), size, "relation")
        if y is None and psi in (None, phi):
            same_bits(out, out.swapaxes(-1, -2), "a symmetric relation and its transpose")

    arguments = given(x=x, y=y, phi=phi, psi=psi, scale=scale, heads=heads, precision=rounding)
    return Call(rk.relation_matrix, arguments, check, 1, () if y is None else (-2,), True)


def attended(draw: Draw, keys: str = "k") -> dict[str, Any]:
    """Return q, k, the maps and the options that attention and related operations share."""
    d_q, phi, d_k, psi = draw.maps()
    lead_q, lead_k = draw.leads(2)
    n, m = draw.pick(*ROWS), draw.pick(*COLUMNS)
    q, k = draw.array(*lead_q, n, d_q), draw.array(*lead_k, m, d_k)
    mask = draw.mask(np.broadcast_shapes(lead_q, lead_k), n, m)
    return {"q": q, keys: k, "phi": phi, "psi": psi} | given(mask=mask)


def scored(draw: Draw, a: dict[str, Any]) -> dict[str, Any]:
    """Add a bias and a cap, or neither, to q, k and their options."""
    n, m = a["q"].shape[-2], a["k"].shape[-2]
    lead = np.broadcast_shapes(a["q"].shape[:-2], a["k"].shape[:-2])
    if draw.chance(0.3):
        bias = draw.array(*draw.pick((), lead), draw.pick(1, n), draw.pick(1, m))
        if draw.chance(0.5):
            bias = draw.laid_out(np.where(draw.rng.random(bias.shape) < 0.3, bias.dtype.type(-np.inf), bias))
        a = a | {"bias": bias}
    return a | ({"softcap": draw.pick(0.5, 3, 50.0)} if draw.chance(0.2) else {})


def allowed(draw: Draw) -> dict[str, Any]:
    """Return the causal rule and a window, or neither."""
    options: dict[str, Any] = {"causal": True} if draw.chance(0.3) else {}
    if draw.chance(0.3):
        limits = (None, 0, 1, 7, 64, 10**30)
        options["window"] = draw.pick(0, 5, (draw.pick(*limits), draw.pick(*limits)))
    return options | ({"align": "lower_right"} if draw.chance(0.2) else {})


def softmax_options(draw: Draw) -> dict[str, Any]:
    options = given(scale=draw.pick(None, None, 0.1, 0.0, 2, -0.3), precision=precision(draw))
    return options | allowed(draw)


def without(arguments: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name not in names}


def growth(a: dict[str, Any]) -> float:
    """Return the factor by which an error of the scores can grow."""
    f, g = sizes(a["q"], a["k"], a["phi"], a["psi"])
    bias = a.get("bias")
    terms = 0 if bias is None else np.max(np.abs(bias), initial=0, where=np.isfinite(bias))
    return exponent(f, g, a.get("scale"), f.shape[-1]) + terms


def ragged(draw: Draw, a: dict[str, Any], keys: str = "k") -> dict[str, Any]:
    """Return the offsets of a ragged batch for some calls without a mask; none for the others."""
    if a.get("mask") is not None or a.get("bias") is not None or draw.chance(0.7):
        return {}
    segments = draw.pick(1, 2, 5)

    def offsets(rows: int) -> np.ndarray:
        return np.array([0, *np.sort(draw.rng.integers(0, rows + 1, segments - 1)), rows], np.int64)

    return {"q_offsets": offsets(a["q"].shape[-2]), "k_offsets": offsets(a[keys].shape[-2])}


def with_mask(a: dict[str, Any], offsets: dict[str, Any]) -> dict[str, Any]:
    """Return arguments whose mask allows the pairs that the segments, the causal rule and the window do."""
    if not offsets:
        return a
    rule = {name: a[name] for name in ("causal", "window", "align") if name in a}
    return without(a, *rule) | {"mask": reference.ragged_mask(*offsets.values(), **rule)}


@generator("attention_scores")
def attention_scores(draw: Draw) -> Call:
    a = scored(draw, attended(draw)) | softmax_options(draw)

    def check(out: Any) -> None:
        expected = reference.attention_scores(**without(a, "precision"))
        limit = bound(ATTENTION, draw, a.get("precision")) * growth(a)
        close(out, expected, limit, np.sqrt(out.size), "scores")

    return Call(rk.attention_scores, a, check, 2, (-2,), True)


def with_values(draw: Draw, a: dict[str, Any]) -> dict[str, Any]:
    """Add values for the keys, in their position among the arguments."""
    m, lead = a["k"].shape[-2], draw.pick((), a["k"].shape[:-2])
    v = draw.array(*lead, m, draw.pick(0, 1, 3, 16, 33))
    return {"q": a["q"], "k": a["k"], "v": v} | a


@generator("attention")
def attention(draw: Draw) -> Call:
    a = with_values(draw, scored(draw, attended(draw)) | softmax_options(draw))
    return_lse, offsets = draw.chance(0.5), ragged(draw, a)

    def check(result: Any) -> None:
        out, lse = result if return_lse else (result, None)
        expected, expected_lse = reference.attention(**without(with_mask(a, offsets), "precision"))
        limit = bound(ATTENTION, draw, a.get("precision")) * growth(a)
        size = np.linalg.norm(a["v"]) * np.sqrt(max(out.size, 1) / max(a["v"].size, 1))
        close(out, expected, limit, size, "attention")
        if lse is not None:
            close(lse, expected_lse, limit, np.sqrt(lse.size), "log-sum-exp")

    arguments = a | offsets | ({"return_lse": True} if return_lse else {})
    rows = () if offsets else (-2, -1) if return_lse else (-2,)
    return Call(rk.attention, arguments, check, 3, rows, True)


def how_many(draw: Draw, rows: int) -> tuple[int, dict[str, Any]]:
    """Return k, and the argument `pad` if k is above the number of rows."""
    if draw.chance(0.8):
        return int(draw.rng.integers(1, rows + 1)), {}
    return rows + draw.pick(0, 1, 5), {"pad": True}


@generator("retrieve")
def retrieve(draw: Draw) -> Call:
    a = attended(draw, "keys")
    if a["keys"].shape[-2] == 0 or a["q"].shape[-2] * a["keys"].shape[-2] > 4000:
        return retrieve(draw)
    rounding, exclude = precision(draw), excluded(draw, a)
    k, pad = how_many(draw, a["keys"].shape[-2])
    single = a["q"].ndim == 2 and len(a["q"]) == 1 and a.get("mask") is None and exclude is None
    if single:
        a["q"] = a["q"][0]
    offsets = {} if single or exclude is not None else ragged(draw, a, "keys")

    def check(result: Any) -> None:
        """Check for exact equality with the sorted relation matrix."""
        q = a["q"][None] if single else a["q"]
        r = rk.relation_matrix(q, a["keys"], a["phi"], a["psi"], precision=rounding)
        allowed = with_mask(a, offsets).get("mask")
        values, indices = reference.retrieve(*searchable(r, allowed, exclude, k))
        if single:
            values, indices = values[..., 0, :], indices[..., 0, :]
        for rows, columns in reference.segments(*offsets.values()) if offsets else ():
            part = indices[..., rows, :]
            part[part >= 0] -= columns.start
        same_bits(result, (values.astype(draw.dtype), indices.astype(np.int64)), "the sorted relation")

    options = given(precision=rounding, exclude=exclude)
    arguments = {"q": a["q"], "keys": a["keys"], "k": k} | a | offsets | pad | options
    return Call(rk.retrieve, arguments, check, 3, () if single or offsets else (-2, -2), True)


@generator("retrieve_above")
def retrieve_above(draw: Draw) -> Call:
    a = attended(draw, "keys")
    if a["q"].shape[-2] * a["keys"].shape[-2] > 4000:
        return retrieve_above(draw)
    rounding, exclude = precision(draw), excluded(draw, a)
    size = float(draw.pick(0.0, 1.0, 10.0, -1.0))
    n = a["q"].shape[-2]
    threshold = draw.pick(size, -np.inf, (size * draw.rng.standard_normal(n)).astype(draw.dtype))

    def check(result: Any) -> None:
        """Check for exact equality with the elements of the relation matrix."""
        r = rk.relation_matrix(a["q"], a["keys"], a["phi"], a["psi"], precision=rounding)
        r, bars, mask = searchable(r, a.get("mask"), exclude, threshold)
        same_bits(result, reference.retrieve_above(r, bars, mask), "the relation at or above the threshold")

    options = given(precision=rounding, exclude=exclude, limit=draw.pick(None, None, 10**12))
    arguments = {"q": a["q"], "keys": a["keys"], "threshold": threshold} | a | options
    return Call(rk.retrieve_above, arguments, check, 3)


def excluded(draw: Draw, a: dict[str, Any]) -> np.ndarray | None:
    """Return indices that the rows of a search may not return, or None."""
    n, m = a["q"].shape[-2], a["keys"].shape[-2]
    if draw.chance(0.7):
        return None
    shape = draw.pick((n,), (n, 1), (n, 5), (1, 3))
    return draw.rng.integers(-1, m, shape).astype(draw.pick("i8", "i4"))


def searchable(r: np.ndarray, mask: Any, exclude: Any, k: Any) -> tuple[np.ndarray, Any, np.ndarray | None]:
    """Return scores, k and the pairs that may be found, in one shape."""
    r = r if mask is None else np.broadcast_to(r, np.broadcast_shapes(r.shape, mask.shape))
    if exclude is not None:
        may = reference.not_excluded(r.shape, exclude)
        mask = may if mask is None else may & mask
    return r, k, mask


@generator("retrieve_blocks")
def retrieve_blocks(draw: Draw) -> Call:
    d_q, phi, d_k, psi = draw.maps()
    m = draw.pick(*COLUMNS[1:])
    n = draw.pick(None, *ROWS)  # None: a single query
    q, keys = draw.array(d_q) if n is None else draw.array(n, d_q), draw.array(m, d_k)
    mask = draw.rng.random((m,) if n is None else (n, m)) < 0.5 if draw.chance(0.3) else None
    (k, pad), rounding = how_many(draw, m), precision(draw)
    cuts = np.sort(draw.rng.integers(0, m + 1, draw.pick(0, 1, 3)))
    blocks = tuple(np.split(keys, cuts))
    once = draw.chance(0.5)  # a generator, or a tuple

    def check(result: Any) -> None:
        expected = rk.retrieve(q, keys, k, phi, psi, mask=mask, precision=rounding, **pad)
        same_bits(result, expected, "retrieve on all keys")

    arguments = given(q=q, blocks=blocks, k=k, phi=phi, psi=psi, mask=mask, precision=rounding) | pad
    fresh = (lambda: {"blocks": iter(blocks)}) if once else dict
    return Call(rk.retrieve_blocks, arguments, check, 3, () if n is None else (-2, -2), fresh=fresh)


@generator("retrieve_above_blocks")
def retrieve_above_blocks(draw: Draw) -> Call:
    d_q, phi, d_k, psi = draw.maps()
    n, m = draw.pick(*ROWS), draw.pick(*COLUMNS[1:])
    q, keys = draw.array(n, d_q), draw.array(m, d_k)
    mask = draw.rng.random((n, m)) < 0.5 if draw.chance(0.3) else None
    exclude, rounding = excluded(draw, {"q": q, "keys": keys}), precision(draw)
    blocks = tuple(np.split(keys, np.sort(draw.rng.integers(0, m + 1, draw.pick(0, 1, 3)))))
    threshold = float(draw.pick(0.0, 1.0, -1.0))
    options = given(mask=mask, exclude=exclude, precision=rounding)

    def check(result: Any) -> None:
        expected = rk.retrieve_above(q, keys, threshold, phi, psi, **options)
        same_bits(result, expected, "retrieve_above on all keys")

    arguments = given(q=q, blocks=blocks, threshold=threshold, phi=phi, psi=psi) | options
    return Call(rk.retrieve_above_blocks, arguments, check, 3)


def linked_size(x: Any, y: Any, v: Any, phi: Any, psi: Any, link: str, scale: float) -> float:
    """Return the size of the terms of a product with the relation, and the growth of errors in its link."""
    f, g = sizes(x, y, phi, psi)
    terms = reference.relation_matvec(x, y, np.abs(v), phi, psi, link, scale)
    products = abs(scale) * f @ np.swapaxes(g, -1, -2)
    if link != "exp":  # if products cancel, terms are small but their errors are not
        terms = reference.link(link, products) @ np.abs(reference.float64(v))
    return float(np.linalg.norm(terms)) * (exponent(f, g, scale, f.shape[-1]) if link == "exp" else 1)


@generator("relation_matvec")
def relation_matvec(draw: Draw) -> Call:
    d_x, phi, d_y, psi = draw.maps()
    lead_x, lead_y = draw.leads(2)
    n, m, c = draw.pick(*ROWS), draw.pick(*COLUMNS), draw.pick(None, 0, 1, 2, 7)
    x, y = draw.array(*lead_x, n, d_x), draw.array(*lead_y, m, d_y)
    v = draw.array(m) if c is None else draw.array(*(1,) * len(lead_y), m, c)
    link, scale, rounding = draw.pick(*LINKS), draw.pick(0.1, 0.0, 0.03, -0.1), precision(draw)

    def check(out: Any) -> None:
        v2 = v[:, None] if c is None else v
        expected = reference.relation_matvec(x, y, v2, phi, psi, link, scale)
        size = linked_size(x, y, v2, phi, psi, link, scale)
        expected = expected[..., 0] if c is None else expected
        close(out, expected, bound(ATTENTION, draw, rounding), size, "product")

    arguments = given(x=x, y=y, v=v, phi=phi, psi=psi, link=link, scale=scale, precision=rounding)
    return Call(rk.relation_matvec, arguments, check, 3, (-1,) if c is None else (-2,), True)


@generator("as_linear_operator")
def as_linear_operator(draw: Draw) -> Call:
    d_x, phi, d_y, psi = draw.maps()
    n, m = draw.pick(*ROWS[1:]), draw.pick(*COLUMNS[1:])
    x = draw.array(n, d_x)
    y = None if d_x == d_y and draw.chance(0.3) else draw.array(m, d_y)
    m = n if y is None else m
    link, scale = draw.pick(*LINKS), draw.pick(0.1, -0.2, 0.0)

    def check(operator: Any) -> None:
        other = x if y is None else y
        v, u = draw.numbers((m, 2)), draw.numbers((n,))
        of_y, of_x = (phi if psi is None else psi), phi
        expected = reference.relation_matvec(x, other, v, phi, psi, link, scale)
        size = linked_size(x, other, v, phi, psi, link, scale)
        close(operator @ v, expected, ATTENTION[draw.dtype], size, "product")
        f, g = reference.feature_map(x, of_x), reference.feature_map(other, of_y)
        expected = reference.relation_matvec(g, f, u[:, None], None, None, link, scale)[:, 0]
        size = linked_size(g, f, u[:, None], None, None, link, scale)
        size = max(size, linked_size(x, other, np.ones((m, 1)), phi, psi, link, scale))
        close(operator.rmatvec(u), expected, ATTENTION[draw.dtype], size, "product with the adjoint")

    arguments = given(x=x, y=y, phi=phi, psi=psi, link=link, scale=scale)
    return Call(rk.as_linear_operator, arguments, check, 1)


@generator("nngp_kernel")
def nngp_kernel(draw: Draw) -> Call:
    name = draw.pick(*reference_nngp.CLOSED)
    d, n = draw.pick(*WIDTHS), draw.pick(0, 1, 2, 3)
    x = draw.array(n, d)
    y = None if draw.chance(0.4) else draw.array(draw.pick(0, 1, 2, 4), d)
    kind = "nngp" if reference_nngp.CLOSED[name][1] is None else draw.pick("nngp", "ntk")
    # A step layer takes the square root of small angles, and of their errors.
    depth = draw.pick(0, 1) if name == "step" else draw.pick(0, 1, 2)
    options = {"weight_std": draw.pick(1.0, 1.3), "bias_std": draw.pick(0.0, 0.4), "kind": kind}
    activation = {
        "relu_power(2)": rk.relu_power(2),
        "leaky_relu(0.25)": rk.leaky_relu(0.25),
    }.get(name, name)

    def check(out: Any) -> None:
        a, b = reference.float64(x), None if y is None else reference.float64(y)
        others = a if b is None else b
        expected = reference_nngp.closed_kernel(a, others, name, depth, **options)
        expected = expected.reshape(len(a), len(others))

        def of_itself(p: np.ndarray) -> float:
            return reference_nngp.closed_kernel(p[None], p[None], name, depth, **options)[0, 0]

        own = [np.array([of_itself(p) for p in s]) for s in (a, others)]
        size = np.sqrt(np.outer(*(np.maximum(o, 0) for o in own)))
        # Steps depend on angles, and angles on the square root of rounding errors.
        rough = name == "step" or kind == "ntk"
        limit = {np.float32: 1e-6, np.float64: 1e-7 if rough else 1e-12}[draw.dtype]
        close(out, expected, limit, size, "kernel")

    arguments = given(x=x, y=y, depth=depth, activation=activation, **options)
    return Call(rk.nngp_kernel, arguments, check, 1, () if y is None else (-2,), True)
