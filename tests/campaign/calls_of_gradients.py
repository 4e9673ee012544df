"""Good calls of the vector-Jacobian products, of the loss, and of the states of blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import reference
import relkernels as rk
from relkernels import states
from strategies import ACTIVATIONS

from . import gradients
from .calls import (
    Call,
    attended,
    generator,
    given,
    growth,
    ragged,
    scored,
    softmax_options,
    with_mask,
    with_values,
    without,
)
from .checks import ATTENTION, GRADIENT, RELATION, close, exponent, feature_size, gradients_close, same_bits
from .drawing import COLUMNS, ROWS, SMOOTH, WIDTHS, Draw


def activations(draw: Draw) -> tuple[Any, ...]:
    """In float32 a rounding error can cross a kink, which changes the gradient."""
    return SMOOTH if draw.dtype is np.float32 else ACTIVATIONS


@generator("feature_map_vjp")
def feature_map_vjp(draw: Draw) -> Call:
    mlp = draw.mlp(draw.pick(*WIDTHS), draw.pick(*WIDTHS), activations(draw))
    (lead,) = draw.leads(1)
    n = draw.pick(*ROWS)
    x, grad = draw.array(*lead, n, mlp.widths[0]), draw.array(*lead, n, mlp.widths[-1])

    def check(result: Any) -> None:
        expected = gradients.feature_map_vjp(x, mlp, grad)
        sizes = gradients.feature_map_vjp(x, mlp, grad, absolute=True)
        gradients_close(result, expected, sizes, GRADIENT[draw.dtype], "gradient")

    return Call(rk.feature_map_vjp, {"x": x, "mlp": mlp, "grad": grad}, check, 3, (-2,))


@generator("normalize_vjp")
def normalize_vjp(draw: Draw) -> Call:
    (lead,) = draw.leads(1)
    shape = (*lead, draw.pick(*ROWS), draw.pick(*WIDTHS))
    x, grad = draw.array(*shape), draw.array(*shape)

    def check(out: Any) -> None:
        f, g = reference.normalize(x), reference.float64(grad)
        length = np.linalg.norm(reference.float64(x), axis=-1, keepdims=True)
        inverse = np.divide(1, length, out=np.zeros_like(length), where=length != 0)
        size = inverse * np.linalg.norm(g, axis=-1, keepdims=True) + np.zeros_like(f)
        expected = (g - f * (f * g).sum(-1, keepdims=True)) * inverse
        close(out, expected, GRADIENT[draw.dtype], size, "gradient")

    return Call(rk.normalize_vjp, {"x": x, "grad": grad}, check, 2, (-2,))


@generator("relation_matrix_vjp")
def relation_matrix_vjp(draw: Draw) -> Call:
    heads = draw.pick(1, 1, 2, 3)
    d_x, phi, d_y, psi = draw.maps(activations(draw), heads)
    lead_x, lead_y = draw.leads(2)
    x = draw.array(*lead_x, draw.pick(*ROWS), d_x)
    y = None if d_x == d_y and draw.chance(0.35) else draw.array(*lead_y, draw.pick(*COLUMNS), d_y)
    other = x if y is None else y
    lead = np.broadcast_shapes(x.shape[:-2], other.shape[:-2])
    grad = draw.array(*lead, *((heads,) if heads > 1 else ()), x.shape[-2], other.shape[-2])
    scale = draw.pick(1.0, 0.5, 0.0, -2.0)
    arguments = {"x": x, "y": y, "grad": grad, "phi": phi, "psi": psi, "scale": scale, "heads": heads}

    def check(result: Any) -> None:
        expected = gradients.relation_matrix_vjp(gradients.EXACT, **arguments)
        sizes = gradients.relation_matrix_vjp(gradients.SIZES, **arguments)
        got = (*result, np.float64(result.grad_scale))
        gradients_close(got, expected, sizes, GRADIENT[draw.dtype], "gradient")

    return Call(rk.relation_matrix_vjp, arguments, check, 3)


@generator("relation_matvec_vjp")
def relation_matvec_vjp(draw: Draw) -> Call:
    d_x, phi, d_y, psi = draw.maps(activations(draw))
    lead_x, lead_y = draw.leads(2)
    n, m, c = draw.pick(*ROWS), draw.pick(*COLUMNS), draw.pick(None, 0, 1, 3)
    x, y = draw.array(*lead_x, n, d_x), draw.array(*lead_y, m, d_y)
    v = draw.array(m) if c is None else draw.array(*(1,) * len(lead_y), m, c)
    lead = np.broadcast_shapes(lead_x, lead_y)
    grad = draw.array(*lead, n, *(() if c is None else (c,)))
    link, scale = draw.pick("identity", "square", "gaussian"), draw.pick(0.1, 0.03, 0.0)
    arguments = {"x": x, "y": y, "v": v, "grad": grad, "phi": phi, "psi": psi, "link": link, "scale": scale}

    def check(result: Any) -> None:
        expected = gradients.relation_matvec_vjp(gradients.EXACT, **arguments)
        sizes = gradients.relation_matvec_vjp(gradients.SIZES, **arguments)
        got = (*result, np.float64(result.grad_scale))
        gradients_close(got, expected, sizes, GRADIENT[draw.dtype], "gradient")

    return Call(rk.relation_matvec_vjp, arguments, check, 4)


@generator("attention_vjp")
def attention_vjp(draw: Draw) -> Call:
    d_q, phi, d_k, psi = draw.maps(activations(draw))
    a = with_values(draw, scored(draw, attended(draw)) | without(softmax_options(draw), "precision"))
    q = draw.array(*a["q"].shape[:-1], d_q)
    k = draw.array(*a["k"].shape[:-1], d_k)
    a |= {"q": q, "k": k, "phi": phi, "psi": psi}
    lead = np.broadcast_shapes(*(a[name].shape[:-2] for name in ("q", "k", "v", "mask", "bias") if name in a))
    grad = draw.array(*lead, q.shape[-2], a["v"].shape[-1])
    arguments = {"q": q, "k": k, "v": a["v"], "grad": grad} | without(a, "q", "k", "v")
    if draw.chance(0.3):
        arguments["grad_lse"] = draw.array(*lead, q.shape[-2])
    offsets = ragged(draw, a)
    check = of_attention(draw, gradients.attention_vjp, arguments, offsets)
    return Call(rk.attention_vjp, arguments | offsets, check, 4)


@generator("attention_scores_vjp")
def attention_scores_vjp(draw: Draw) -> Call:
    d_q, phi, d_k, psi = draw.maps(activations(draw))
    a = scored(draw, attended(draw)) | without(softmax_options(draw), "precision")
    q = draw.array(*a["q"].shape[:-1], d_q)
    k = draw.array(*a["k"].shape[:-1], d_k)
    a |= {"q": q, "k": k, "phi": phi, "psi": psi}
    lead = np.broadcast_shapes(*(a[name].shape[:-2] for name in ("q", "k", "mask", "bias") if name in a))
    grad = draw.array(*lead, q.shape[-2], k.shape[-2])
    arguments = {"q": q, "k": k, "grad": grad} | without(a, "q", "k")
    check = of_attention(draw, gradients.attention_scores_vjp, arguments)
    return Call(rk.attention_scores_vjp, arguments, check, 3)


def of_attention(draw: Draw, definition: Any, arguments: dict[str, Any], offsets: Any = None) -> Any:
    """Return the check of a gradient of attention, of a ragged batch or not, or of its weights."""

    def check(result: Any) -> None:
        defined = with_mask(arguments, offsets) if offsets else arguments
        expected, sizes = (definition(rules, **defined) for rules in (gradients.EXACT, gradients.SIZES))
        got = (*result, np.float64(result.grad_scale), result.grad_bias)
        gradients_close(got, expected, sizes, GRADIENT[draw.dtype] * growth(arguments), "gradient")

    return check


def targets(draw: Draw, n: int, m: int, symmetric: bool, loss: str) -> tuple[Any, np.ndarray]:
    """Return a target in the operation's format, and as a matrix."""
    kind = draw.pick("matrix", "row", "pair", "labels")
    if kind == "labels" and n == m:
        labels = draw.rng.integers(0, 3, n)
        return labels, (labels[:, None] == labels).astype(float)
    if kind == "pair":
        a, b = draw.rng.integers(0, 3, n), draw.rng.integers(0, 3, m)
        equal = (a[:, None] == b).astype(float)
        if loss != "softmax" or equal.any(axis=1).all():
            return (a, b), equal
    shape = (n, m) if kind != "row" else (m,)
    t = draw.laid_out((0.1 + 0.8 * draw.rng.random(shape)).astype(draw.dtype))
    return t, np.broadcast_to(t, (n, m))


@generator("relation_loss")
def relation_loss(draw: Draw) -> Call:
    d_x, phi, d_y, psi = draw.maps(activations(draw))
    n, m = draw.pick(*ROWS[1:]), draw.pick(*COLUMNS[1:])
    x = draw.array(n, d_x)
    y = None if d_x == d_y and draw.chance(0.35) else draw.array(m, d_y)
    m = n if y is None else m
    loss = draw.pick("squared", "logistic", "softmax", *(["hinge"] if draw.dtype is np.float64 else []))
    target, matrix = targets(draw, n, m, y is None, loss)
    weight = None
    if draw.chance(0.3):
        shape = (n, m) if loss != "softmax" and draw.chance(0.5) else (n,)
        weight = draw.laid_out((0.5 + draw.rng.random(shape)).astype(draw.dtype))
    other, scale = x if y is None else y, draw.pick(1.0, 1.0, 0.5, -0.7)

    def check(result: Any) -> None:
        value, grad_phi, grad_psi = result
        expected = reference.relation_loss(x, y, matrix, phi, psi, loss, weight, scale)
        f, g = feature_size(x, phi), feature_size(other, phi if psi is None else psi)
        grown = exponent(f, g, scale, f.shape[-1])
        size = grown**2 if loss == "squared" else grown
        close(np.float64(value), np.float64(expected), RELATION[draw.dtype], size, "loss")
        arguments = (x, y, matrix, phi, psi, loss, weight, scale)
        right = gradients.relation_loss(gradients.EXACT, *arguments)
        sizes = gradients.relation_loss(gradients.SIZES, *arguments)
        bound = GRADIENT[draw.dtype] * (grown if loss == "softmax" else 1)
        got = (result.grad_x, result.grad_y, grad_phi, grad_psi, np.float64(result.grad_scale))
        gradients_close(got, right, sizes, bound, "gradient")

    arguments = given(x=x, y=y, target=target, phi=phi, psi=psi, loss=loss, sample_weight=weight)
    arguments |= {"scale": scale}
    return Call(rk.relation_loss, arguments, check, 3)


@generator("states")
def states_of_blocks(draw: Draw) -> Call:
    """The merged states of two ranges of columns equal the state of all columns."""
    a = with_values(draw, without(attended(draw), "mask"))
    q, k, v, phi, psi = (a[name] for name in ("q", "k", "v", "phi", "psi"))
    m = k.shape[-2]
    cut, best = int(draw.rng.integers(0, m + 1)), draw.pick(1, 2, 7)

    def merged() -> list[Any]:
        top, soft, sums = states.TopK(best), states.SoftmaxAccumulate(0.1), states.LinkedSum("relu", 0.1)
        parts = [slice(0, cut), slice(cut, m)]
        of_top = [top.accept(q, k[..., p, :], p.start, phi, psi) for p in parts]
        of_soft = [soft.accept(q, k[..., p, :], v[..., p, :], phi, psi) for p in parts]
        columns = v[(None,) * max(k.ndim - v.ndim, 0)]  # of as many dimensions as the keys
        of_sums = [sums.accept(q, k[..., p, :], columns[..., p, :], phi, psi) for p in parts]
        return [s.finish(s.merge(*of)) for s, of in ((top, of_top), (soft, of_soft), (sums, of_sums))]

    def check(result: Any) -> None:
        top, soft, sums = result
        whole = states.TopK(best).finish(states.TopK(best).accept(q, k, 0, phi, psi))
        same_bits(top, whole, "the best of two ranges")
        grown = growth(a | {"scale": 0.1}) * ATTENTION[draw.dtype]
        expected, lse = reference.attention(q, k, v, phi, psi, scale=0.1)
        size = np.linalg.norm(v) * np.sqrt(max(expected.size, 1) / max(v.size, 1))
        close(soft[0], expected, grown, size, "attention of two ranges")
        close(soft[1], lse, grown, np.sqrt(lse.size), "log-sum-exp of two ranges")
        expected = reference.relation_matvec(q, k, v, phi, psi, "relu", 0.1)
        close(sums[0], expected, grown, size * np.sqrt(max(m, 1)), "sums of two ranges")

    return Call(merged, {}, check, 0)
