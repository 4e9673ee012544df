"""Float64 definitions of the vector-Jacobian products, and the sizes to which rounding errors are relative.

Each definition is a function of a `Rules` object: with `EXACT` it returns the gradient, with `SIZES` the same
sums with every term replaced by its absolute value, plus a margin for the error of a slope.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import reference
from reference import float64
from scipy import special

from .checks import feature_size


def slope(name: str, z: np.ndarray, parameter: float | None) -> np.ndarray:
    """Return the derivative of `reference.activation`."""
    if name in ("identity", "relu", "leaky_relu"):
        low = {"identity": 1.0, "relu": 0.0, "leaky_relu": parameter}[name]
        return np.where(z > 0, 1.0, low)
    if name == "relu_power":
        return np.where(z > 0, parameter * np.maximum(z, 1e-300) ** (parameter - 1), 0.0)
    if name == "gelu":
        return special.ndtr(z) + z * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
    if name == "gelu_tanh":
        t = np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))
        return (1 + t) / 2 + z / 2 * (1 - t * t) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * z * z)
    s = special.expit(z)
    if name == "silu":
        return s * (1 + z * (1 - s))
    if name == "tanh":
        return 1 - np.tanh(z) ** 2
    return {
        "sigmoid": lambda: s * (1 - s),
        "softplus": lambda: s,
        "erf": lambda: 2 / np.sqrt(np.pi) * np.exp(-z * z),
        "sin": lambda: np.cos(z),
        "cos": lambda: -np.sin(z),
        "gaussian": lambda: -z * np.exp(-z * z / 2),
        "sigma_1": lambda: np.where((z > 0) & (z <= 1), 1.0, 0.0),
    }[name]()


class Gradient(NamedTuple):
    """Like MLPGradient."""

    weights: list[np.ndarray]
    biases: list[np.ndarray] | None


def _hidden(x, mlp, absolute):
    """Return the inputs of every layer, and the slopes of the hidden ones."""
    h, size = float64(x), np.abs(float64(x))
    inputs, slopes = [size if absolute else h], []
    biases = mlp.biases or [np.zeros(w.shape[1]) for w in mlp.weights]
    name, parameter = mlp.activation.name, mlp.activation.parameter
    for w, b in zip(mlp.weights[:-1], biases, strict=False):
        z = h @ float64(w) + float64(b)
        h = reference.activation(name, z, parameter)
        size = size @ np.abs(float64(w)) + np.abs(float64(b))
        s = slope(name, z, parameter)
        slopes.append(np.abs(s) + 1.2 * (1 + size) if absolute else s)
        if name == "relu_power":
            size = size ** max(1, parameter) + size
        size = size + np.abs(h)
        inputs.append(size if absolute else h)
    return inputs, slopes


def feature_map_vjp(x, mlp, grad, absolute=False):
    """Return (grad_x, Gradient)."""
    inputs, slopes = _hidden(x, mlp, absolute)
    take = np.abs if absolute else (lambda a: a)
    delta = take(float64(grad))
    weights, biases = [], []
    for layer in reversed(range(len(mlp.weights))):
        flat = delta.reshape(-1, delta.shape[-1])
        h = inputs[layer]
        weights.insert(0, h.reshape(-1, h.shape[-1]).T @ flat)
        biases.insert(0, flat.sum(0))
        delta = delta @ take(float64(mlp.weights[layer])).T
        if layer:
            delta = delta * slopes[layer - 1]
    return delta, Gradient(weights, None if mlp.biases is None else biases)


def summed_to(grad: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    extra = grad.ndim - len(shape)
    grad = grad.sum(tuple(range(extra)))
    stretched = tuple(i for i, size in enumerate(shape) if size == 1 and grad.shape[i] != 1)
    return grad.sum(stretched, keepdims=True)


class Rules(NamedTuple):
    """The meaning of a feature, a gradient through a map and a number in a definition."""

    absolute: bool

    def take(self, a):
        return np.abs(float64(a)) if self.absolute else float64(a)

    def features(self, x, phi):
        return feature_size(x, phi) if self.absolute else reference.feature_map(x, phi)

    def through(self, x, phi, grad):
        grad = summed_to(grad, (*x.shape[:-1], grad.shape[-1]))
        return (grad, None) if phi is None else feature_map_vjp(x, phi, grad, self.absolute)


EXACT, SIZES = Rules(False), Rules(True)


def _added(a, b):
    if a is None or b is None:
        return None
    biases = None
    if a.biases is not None:
        biases = [p + q for p, q in zip(a.biases, b.biases, strict=True)]
    return Gradient([p + q for p, q in zip(a.weights, b.weights, strict=True)], biases)


def both_sides(rules, x, y, phi, psi, grad_f, grad_g):
    """Return (grad_x, grad_y, grad_phi, grad_psi) like the operations."""
    one_map = psi is None or psi is phi
    grad_x, grad_phi = rules.through(x, phi, grad_f)
    grad_y, grad_psi = rules.through(x if y is None else y, phi if psi is None else psi, grad_g)
    if one_map:
        grad_phi, grad_psi = _added(grad_phi, grad_psi), None
    if y is None:
        grad_x, grad_y = grad_x + grad_y, None
    return grad_x, grad_y, grad_phi, grad_psi


def _split(f, heads):
    return np.stack(np.split(f, heads, axis=-1), axis=-3)


def _joined(f):
    return np.concatenate(np.moveaxis(f, -3, 0), axis=-1)


def relation_matrix_vjp(rules, x, y, grad, phi=None, psi=None, scale=1.0, heads=1):
    f = rules.features(x, phi)
    g = rules.features(x if y is None else y, phi if psi is None else psi)
    factor, slope_r = abs(scale) if rules.absolute else scale, rules.take(grad)
    if heads > 1:
        f, g = _split(f, heads), _split(g, heads)
    grad_f, grad_g = factor * slope_r @ g, factor * np.swapaxes(slope_r, -1, -2) @ f
    if heads > 1:
        grad_f, grad_g = _joined(grad_f), _joined(grad_g)
    grad_scale = (slope_r * (f @ np.swapaxes(g, -1, -2))).sum()
    return *both_sides(rules, x, y, phi, psi, grad_f, grad_g), grad_scale


def relation_matvec_vjp(rules, x, y, v, grad, phi=None, psi=None, link="identity", scale=1.0):
    """With link "identity", "square" or "gaussian"."""
    f, g = rules.features(x, phi), rules.features(y, phi if psi is None else psi)
    single = v.ndim < y.ndim
    v, grad = rules.take(v), rules.take(grad)
    columns, above = (v[..., None], grad[..., None]) if single else (v, grad)
    sign = 1 if rules.absolute else -1
    if link == "gaussian":
        r = np.square(f[..., :, None, :] + sign * g[..., None, :, :]).sum(axis=-1)
        value = np.ones_like(r) if rules.absolute else np.exp(-scale * r / 2)
        slope = sign * value / 2
    else:
        r = f @ np.swapaxes(g, -1, -2)
        value, slope = (
            (scale * r, np.ones_like(r)) if link == "identity" else ((scale * r) ** 2, 2 * scale * r)
        )
    w = above @ np.swapaxes(columns, -1, -2) * slope
    transposed = np.swapaxes(w, -1, -2)
    lead = w.shape[:-2]
    if link == "gaussian":
        grad_f = 2 * scale * (w.sum(-1)[..., None] * f + sign * w @ g)
        grad_g = 2 * scale * (transposed.sum(-1)[..., None] * g + sign * transposed @ f)
    else:
        grad_f, grad_g = scale * w @ g, scale * transposed @ f
    grad_v = np.broadcast_to(np.swapaxes(value, -1, -2) @ above, (*lead, *columns.shape[-2:]))
    grad_v = summed_to(grad_v[..., 0] if single else grad_v, v.shape)
    grad_x, grad_y, grad_phi, grad_psi = both_sides(rules, x, y, phi, psi, grad_f, grad_g)
    return grad_x, grad_y, grad_v, grad_phi, grad_psi, (w * r).sum()


def _of_weights(rules, q, k, above, grad_lse, phi, psi, scale, bias, softcap, allowed):
    """Return the gradients of q, k, the maps, the scale and the bias, from that of the weights."""
    f, g = rules.features(q, phi), rules.features(k, phi if psi is None else psi)
    factor = 1 / np.sqrt(f.shape[-1]) if scale is None else scale
    terms = {"scale": scale, "bias": bias, "softcap": softcap}
    weights = reference.attention_scores(q, k, phi, psi, **terms, **allowed)
    mean = (weights * above).sum(-1, keepdims=True)
    below = weights * (above + mean + grad_lse if rules.absolute else above - mean + grad_lse)
    below = below * reference.slope_of_cap(q, k, phi, psi, **terms)
    factor = abs(factor) if rules.absolute else factor
    grad_f, grad_g = factor * below @ g, factor * np.swapaxes(below, -1, -2) @ f
    sides = both_sides(rules, q, k, phi, psi, grad_f, grad_g)
    of_bias = None if bias is None else summed_to(below, bias.shape)
    return *sides, (below * (f @ np.swapaxes(g, -1, -2))).sum(), of_bias


def attention_vjp(
    rules, q, k, v, grad, phi=None, psi=None, scale=None, bias=None, softcap=None, grad_lse=None, **allowed
):
    v, grad = rules.take(v), rules.take(grad)
    of_lse = 0 if grad_lse is None else rules.take(grad_lse)[..., None]
    above = grad @ np.swapaxes(v, -1, -2)
    grad_q, grad_k, *rest = _of_weights(rules, q, k, above, of_lse, phi, psi, scale, bias, softcap, allowed)
    weights = reference.attention_scores(q, k, phi, psi, scale=scale, bias=bias, softcap=softcap, **allowed)
    grad_v = np.swapaxes(weights, -1, -2) @ grad
    return grad_q, grad_k, summed_to(grad_v, v.shape), *rest


def attention_scores_vjp(
    rules, q, k, grad, phi=None, psi=None, scale=None, bias=None, softcap=None, **allowed
):
    return _of_weights(rules, q, k, rules.take(grad), 0, phi, psi, scale, bias, softcap, allowed)


def relational_attention_vjp(
    rules, q, k, q_rel, k_rel, v, grad_relations, grad_values, rel_activation, grad_lse=None, scale=None,
    rel_scale=None, **allowed,
):  # fmt: skip
    """Return the gradients of the five arrays and of both scales."""
    weights = reference.attention_scores(q, k, scale=scale, **allowed)
    f, g = rules.take(q_rel), rules.take(k_rel)
    factor = 1 / np.sqrt(q.shape[-1]) if scale is None else scale
    rel_factor = 1 / np.sqrt(q_rel.shape[-1]) if rel_scale is None else rel_scale
    z = rel_factor * float64(q_rel) @ np.swapaxes(float64(k_rel), -1, -2)
    r, of_z = reference.activation(rel_activation, z), slope(rel_activation, z, None)
    if rules.absolute:
        factor, rel_factor = abs(factor), abs(rel_factor)
        size = rel_factor * f @ np.swapaxes(g, -1, -2)
        r, of_z = np.abs(r) + size, np.abs(of_z) + 1.2 * (1 + size)
    of_relations, of_values = rules.take(grad_relations), rules.take(grad_values)
    of_lse = 0 if grad_lse is None else rules.take(grad_lse)[..., None]
    above = of_values @ np.swapaxes(rules.take(v), -1, -2)
    above = above + np.einsum("...hir,...rij->...hij", of_relations, r)
    mean = (weights * above).sum(-1, keepdims=True)
    below = weights * (above + mean + of_lse if rules.absolute else above - mean + of_lse)
    of_r = np.einsum("...hir,...hij->...rij", of_relations, weights) * of_z
    x, y = rules.take(q), rules.take(k)
    grads = (
        factor * below @ y,
        factor * np.swapaxes(below, -1, -2) @ x,
        rel_factor * of_r @ g,
        rel_factor * np.swapaxes(of_r, -1, -2) @ f,
        np.swapaxes(weights, -1, -2) @ of_values,
    )
    summed = (summed_to(grad, a.shape) for grad, a in zip(grads, (q, k, q_rel, k_rel, v), strict=True))
    scales = (below * (x @ np.swapaxes(y, -1, -2))).sum(), (of_r * (f @ np.swapaxes(g, -1, -2))).sum()
    return *summed, *scales


def relation_loss(rules, x, y, target, phi=None, psi=None, loss="squared", weight=None, scale=1.0):
    """Return (grad_x, grad_y, grad_phi, grad_psi, grad_scale); target (n, m), weight (n,) or (n, m)."""
    r = reference.relation_matrix(x, y, phi, psi, scale)
    t = np.broadcast_to(float64(target), r.shape)
    if loss == "squared":
        down = 2 * (r - t)
    elif loss == "logistic":
        down = special.expit(r) - t
    elif loss == "hinge":
        s = 2 * t - 1
        down = np.where(1 - s * r > 0, -s, 0.0)
    else:
        down = special.softmax(r, axis=1) - t / t.sum(axis=1, keepdims=True)
    w = np.ones(r.shape[:1] if loss == "softmax" else r.shape) if weight is None else float64(weight)
    if w.ndim == 1 and loss != "softmax":
        w = np.broadcast_to(w[:, None], r.shape)
    down = down * (w if w.ndim == 2 else w[:, None]) / w.sum()
    f, g = rules.features(x, phi), rules.features(x if y is None else y, phi if psi is None else psi)
    if rules.absolute:
        # The error of r also affects its slope, which may be small compared with r.
        size = abs(scale) * f @ g.T
        down = np.abs(down) + (w if w.ndim == 2 else w[:, None]) / w.sum() * (np.abs(t) + size)
        scale = abs(scale)
    grad_f, grad_g = scale * down @ g, scale * down.T @ f
    return *both_sides(rules, x, y, phi, psi, grad_f, grad_g), (down * (f @ g.T)).sum()
