"""Float64 definitions of every operation, slow and obvious, with which all tests compare.

Inputs of any dtype are converted to float64 first; nothing here is meant to be fast or clever.
"""

from __future__ import annotations

import numpy as np
from scipy import special


def float64(a):
    return np.asarray(a, dtype=np.float64)


def activation(name, z, parameter=None):
    if name == "identity":
        return z
    if name == "relu":
        return np.maximum(z, 0)
    if name == "leaky_relu":
        return np.where(z < 0, parameter * z, z)
    if name == "relu_power":
        return np.maximum(z, 0) ** parameter
    if name == "gelu":
        return z * special.ndtr(z)
    if name == "gelu_tanh":
        return z / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
    if name == "silu":
        return z * special.expit(z)
    if name == "tanh":
        return np.tanh(z)
    if name == "sigmoid":
        return special.expit(z)
    if name == "softplus":
        return np.logaddexp(0, z)
    if name == "gaussian":
        return np.exp(-z * z / 2)
    if name == "sigma_1":
        return np.maximum(z, 0) - np.maximum(z - 1, 0)
    return {"erf": special.erf, "sin": np.sin, "cos": np.cos}[name](z)


def normalize(x):
    x = float64(x)
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    return np.divide(x, length, out=x.copy(), where=length != 0)


def feature_map(x, mlp):
    h = float64(x)
    if mlp is None:
        return h
    biases = mlp.biases or [np.zeros(w.shape[1]) for w in mlp.weights]
    for layer, (w, b) in enumerate(zip(mlp.weights, biases, strict=True)):
        h = h @ float64(w) + float64(b)
        if layer < len(mlp.weights) - 1:
            h = activation(mlp.activation.name, h, mlp.activation.parameter)
    return normalize(h) if mlp.normalize else h


def feature_magnitude(x, mlp):
    """|x| through |weights|: the size of the terms, to which rounding errors of a feature are relative.

    Random cases of a few numbers can cancel almost to zero, where ||out - ref|| / ||ref|| is meaningless.
    A hidden unit of sigmoid, softplus or cos is not 0 where its input is: its value there counts as a term.
    """
    h = np.abs(float64(x))
    if mlp is None:
        return h
    biases = mlp.biases or [np.zeros(w.shape[1]) for w in mlp.weights]
    at_zero = np.abs(activation(mlp.activation.name, np.float64(0), mlp.activation.parameter))
    for layer, (w, b) in enumerate(zip(mlp.weights, biases, strict=True)):
        h = h @ np.abs(float64(w)) + np.abs(float64(b))
        if layer < len(mlp.weights) - 1:
            h = h + at_zero
    if mlp.activation.name == "relu_power":
        h = h ** max(1, mlp.activation.parameter) + h
    return h


def both_features(x, y, phi, psi):
    psi = phi if psi is None else psi
    return feature_map(x, phi), feature_map(x if y is None else y, psi)


def relation_matrix(x, y=None, phi=None, psi=None, scale=1.0, heads=1):
    f, g = both_features(x, y, phi, psi)
    if heads == 1:
        return scale * f @ np.swapaxes(g, -1, -2)
    f = np.stack(np.split(f, heads, axis=-1), axis=-3)
    g = np.stack(np.split(g, heads, axis=-1), axis=-3)
    return scale * f @ np.swapaxes(g, -1, -2)


def allowed(shape, mask, causal, window=None, align="upper_left"):
    n, m = shape[-2:]
    may = np.ones(shape, bool) if mask is None else np.broadcast_to(mask, shape).copy()
    ahead = np.arange(m)[None, :] - np.arange(n)[:, None] - (m - n if align == "lower_right" else 0)
    left, right = window if isinstance(window, tuple) else (window, window)
    if causal:
        may &= ahead <= 0
    if left is not None:
        may &= ahead >= -left
    if right is not None:
        may &= ahead <= right
    return may


def scores_and_lse(
    q,
    k,
    phi=None,
    psi=None,
    scale=None,
    mask=None,
    causal=False,
    window=None,
    align="upper_left",
    bias=None,
    softcap=None,
):
    f, g = both_features(q, k, phi, psi)
    r = (1 / np.sqrt(f.shape[-1]) if scale is None else scale) * f @ np.swapaxes(g, -1, -2)
    bias = np.zeros((1, 1)) if bias is None else float64(bias)
    lead = np.broadcast_shapes(r.shape, bias.shape, () if mask is None else np.shape(mask))
    may = allowed(lead, mask, causal, window, align) & (bias != -np.inf)
    r = r + bias
    if softcap is not None:
        r = softcap * np.tanh(r / softcap)
    r = np.where(may, r, -np.inf)
    top = np.max(r, axis=-1, keepdims=True, initial=-np.inf)
    with np.errstate(invalid="ignore"):  # a score of +inf
        p = np.exp(r - np.where(top == -np.inf, 0, top))
    total = p.sum(axis=-1, keepdims=True)
    weights = np.where(total == 0, 0, p / np.where(total == 0, 1, total))
    return weights, special.logsumexp(r, axis=-1) if r.shape[-1] else np.full(r.shape[:-1], -np.inf)


def gradient_of_terms(grad_weights, grad_lse, q, k, phi=None, psi=None, softcap=None, bias=None, **options):
    """Return the gradient of sum(grad_weights * A) + sum(grad_lse * lse) with respect to scale * R + bias."""
    a = attention_scores(q, k, phi, psi, softcap=softcap, bias=bias, **options)
    grad = np.where(a == 0, 0, float64(grad_weights))
    of_scores = a * (grad - (a * grad).sum(axis=-1, keepdims=True) + float64(grad_lse)[..., None])
    return of_scores * slope_of_cap(q, k, phi, psi, options.get("scale"), bias, softcap)


def slope_of_cap(q, k, phi=None, psi=None, scale=None, bias=None, softcap=None):
    """Return the derivatives of the capped scores with respect to scale * R + bias."""
    if softcap is None:
        return 1.0
    f, g = both_features(q, k, phi, psi)
    r = (1 / np.sqrt(f.shape[-1]) if scale is None else scale) * f @ np.swapaxes(g, -1, -2)
    r = r if bias is None else r + np.where(float64(bias) == -np.inf, 0, bias)
    return 1 / np.cosh(np.clip(r / softcap, -300, 300)) ** 2


def attention_scores(q, k, phi=None, psi=None, **options):
    return scores_and_lse(q, k, phi, psi, **options)[0]


def attention(q, k, v, phi=None, psi=None, **options):
    scores, lse = scores_and_lse(q, k, phi, psi, **options)
    out = scores @ float64(v)
    return out, np.broadcast_to(lse, out.shape[:-1])


def relational_attention(q, k, q_rel, k_rel, v, rel_activation="identity", rel_scale=None, **options):
    """Return the relations (..., h, n, R), the values (..., h, n, d_v) and the log-sum-exp (..., h, n)."""
    weights, lse = scores_and_lse(q, k, **options)
    f, g = float64(q_rel), float64(k_rel)
    z = (1 / np.sqrt(f.shape[-1]) if rel_scale is None else rel_scale) * f @ np.swapaxes(g, -1, -2)
    known = rel_activation in ("exp", "square")
    r = link(rel_activation, z) if known else activation(rel_activation, z, 0.01)
    relations = np.einsum("...hij,...rij->...hir", weights, r)
    values = weights @ float64(v)
    lead = np.broadcast_shapes(relations.shape[:-1], values.shape[:-1])
    return tuple(np.broadcast_to(a, lead + a.shape[len(a.shape) - more :]) for a, more in
                 ((relations, 1), (values, 1), (lse, 0)))  # fmt: skip


def segments(q_offsets, k_offsets):
    """Return the slices of queries and of keys of each segment of a ragged batch."""
    cuts = zip(q_offsets, q_offsets[1:], k_offsets, k_offsets[1:], strict=False)
    return [(slice(a, b), slice(c, d)) for a, b, c, d in cuts]


def ragged_mask(q_offsets, k_offsets, **options):
    """Return which of all pairs of a ragged batch may attend, by the options that `allowed` takes."""
    may = np.zeros((q_offsets[-1], k_offsets[-1]), bool)
    for rows, columns in segments(q_offsets, k_offsets):
        block = may[rows, columns]
        block[...] = allowed(block.shape, None, **{"causal": False} | options)
    return may


def link(name, r):
    return {
        "identity": lambda: r,
        "exp": lambda: np.exp(r),
        "relu": lambda: np.maximum(r, 0),
        "square": lambda: r * r,
    }[name]()


def squared_distances(x, y=None, phi=None, psi=None, scale=1.0):
    f, g = both_features(x, y, phi, psi)
    return scale * np.square(f[..., :, None, :] - g[..., None, :, :]).sum(axis=-1)


def of_distance(name, t):
    r = np.sqrt(t)
    return {
        "gaussian": lambda: np.exp(-t / 2),
        "matern12": lambda: np.exp(-r),
        "matern32": lambda: (1 + np.sqrt(3) * r) * np.exp(-np.sqrt(3) * r),
        "matern52": lambda: (1 + np.sqrt(5) * r + 5 / 3 * t) * np.exp(-np.sqrt(5) * r),
    }[name]()


def linked_relation(x, y, phi=None, psi=None, link_name="identity", scale=1.0):
    if link_name == "gaussian" or link_name.startswith("matern"):
        return of_distance(link_name, squared_distances(x, y, phi, psi, scale))
    return link(link_name, relation_matrix(x, y, phi, psi, scale))


def relation_matvec(x, y, v, phi=None, psi=None, link_name="identity", scale=1.0):
    """With v of shape (..., m, c)."""
    return linked_relation(x, y, phi, psi, link_name, scale) @ float64(v)


def retrieve(r, k, mask=None):
    """Return the best k of the given scores: value descending, then index ascending; NaN last."""
    may = allowed(r.shape, mask, False)
    values = np.full((*r.shape[:-1], k), -np.inf)
    indices = np.full((*r.shape[:-1], k), -1)
    for row in np.ndindex(r.shape[:-1]):
        columns = [j for j in range(r.shape[-1]) if may[row][j]]
        columns.sort(key=lambda j: (np.isnan(r[row][j]), -r[row][j] if r[row][j] == r[row][j] else 0, j))
        for place, j in enumerate(columns[:k]):
            values[row][place], indices[row][place] = r[row][j], j
    return values, indices


def not_excluded(shape, exclude=None):
    """Return the pairs (..., n, m) that lists of indices, -1 for none, do not exclude."""
    may = np.ones(shape, bool)
    if exclude is not None:
        lists = exclude[:, None] if exclude.ndim == 1 else exclude
        lists = np.broadcast_to(lists, (*shape[:-1], lists.shape[-1]))
        for row in np.ndindex(shape[:-1]):
            may[row][lists[row][lists[row] >= 0]] = False
    return may


def retrieve_above(r, threshold, mask=None):
    """Return offsets, indices and values of the given scores at or above the threshold of their row."""
    above = (r >= np.asarray(threshold, r.dtype)[..., None]) & allowed(r.shape, mask, False)
    counts = above.sum(axis=-1).reshape(-1)
    return np.concatenate([[0], np.cumsum(counts)]), np.nonzero(above)[-1], r[above]


def relation_loss(x, y, target, phi=None, psi=None, loss="squared", weight=None, scale=1.0):
    """With target (n, m); weight (n,) or (n, m)."""
    f, g = both_features(x, y, phi, psi)
    r, t = scale * f @ g.T, np.broadcast_to(float64(target), (len(f), len(g)))
    if loss == "softmax":
        terms = special.logsumexp(r, axis=1) - (t * r).sum(axis=1) / t.sum(axis=1)
    elif loss == "squared":
        terms = (r - t) ** 2
    elif loss == "logistic":
        terms = np.logaddexp(0, r) - t * r
    else:
        terms = np.maximum(0, 1 - (2 * t - 1) * r)
    w = np.ones_like(terms) if weight is None else float64(weight)
    if w.ndim < terms.ndim:
        w = np.broadcast_to(w[:, None], terms.shape)
    return float((w * terms).sum() / w.sum())


def error_and_norm(out, reference):
    """||out - reference|| and ||reference|| over finite entries; the non-finite ones must agree."""
    out, reference = float64(out), float64(reference)
    assert out.shape == reference.shape, (out.shape, reference.shape)
    finite = np.isfinite(reference)
    np.testing.assert_array_equal(np.where(finite, 0, out), np.where(finite, 0, reference))
    assert np.isfinite(out[finite]).all()
    return np.linalg.norm(out[finite] - reference[finite]), np.linalg.norm(reference[finite])


def relative_error(out, reference):
    """||out - reference|| / ||reference||, the measure of the numerical promises."""
    error, norm = error_and_norm(out, reference)
    return error / norm if norm > 0 else error


def assert_close(out, reference, bound, magnitude):
    """||out - reference|| <= bound * ||magnitude||: for cases that may cancel to nothing."""
    error, norm = error_and_norm(out, reference)
    assert error <= bound * max(norm, np.linalg.norm(magnitude)), (error, norm)
