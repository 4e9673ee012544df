"""Losses of the estimators, from `feature_loss` over pairs of features and the chain rule through maps.

Each returns its value, the gradient with respect to each map, and that with respect to each of its `numbers`:
either none, or the logarithm of a scale by which inner products are multiplied, one over the temperature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ...gradients import MLPGradient, feature_loss, feature_map_vjp
from ...maps.mlp import MLP
from ...ops import feature_map

# Rows per block for which weights, targets or utilities are stored as a matrix.
_BLOCK = 256


class PairBatch(NamedTuple):
    """Pairs by index: anchor i is paired with the next `sizes[i]` entries of `partners`.

    Attributes
    ----------
    anchors : ndarray of int of shape (k,)
    sizes : ndarray of int of shape (k,)
    partners : ndarray of int of shape (sum(sizes),)
    targets : ndarray of the shape of `partners`
    """

    anchors: np.ndarray
    sizes: np.ndarray
    partners: np.ndarray
    targets: np.ndarray


class Evaluated(NamedTuple):
    """A loss, and its gradients with respect to each map and each number."""

    value: float
    of_maps: list[MLPGradient]
    of_numbers: list[float]


# The logarithm of a scale, or nothing.
Numbers = Sequence[float] | np.ndarray

# A loss of features and its gradients with respect to both sides.
_OfFeatures = Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray, np.ndarray]]


def _back(x: np.ndarray, mlp: MLP, gradient: np.ndarray) -> MLPGradient:
    return feature_map_vjp(x, mlp, gradient)[1]


def _target_rows(
    target: np.ndarray | tuple[np.ndarray, np.ndarray], rows: slice, dtype: object
) -> np.ndarray:
    """Return these rows of the matrix that `target` represents."""
    if isinstance(target, tuple) or target.dtype.kind in "iub":
        left, right = target if isinstance(target, tuple) else (target, target)
        return (left[rows, None] == right).astype(dtype)
    return target[rows]


def counted_loss(
    f: np.ndarray,
    g: np.ndarray,
    target: np.ndarray | tuple[np.ndarray, np.ndarray],
    loss: str,
    count_f: np.ndarray,
    count_g: np.ndarray,
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return `feature_loss` as if row i occurred `count_f[i]` times and column j `count_g[j]` times.

    Counts are positive, not necessarily integers. Under softmax, a column's count multiplies its exponential:
    the column gets one more feature, the logarithm of its count, and each row a 1 to multiply it by.
    """
    total = float(count_f.sum(dtype=np.float64))
    softmax = loss == "softmax"
    if softmax:
        log_count = np.log(count_g)
        rows, columns = np.column_stack([f, np.ones_like(count_f)]), np.column_stack([g, log_count])
    else:
        rows, columns = f, g
    value, grad_f, grad_g = 0.0, np.empty_like(f), np.zeros_like(g)
    for begin in range(0, len(f), _BLOCK):
        at = slice(begin, begin + _BLOCK)
        wanted = _target_rows(target, at, f.dtype)
        weight = count_f[at]
        share = float(weight.sum(dtype=np.float64)) / total
        if softmax:
            wanted = wanted * count_g
            part, d_rows, d_columns = feature_loss(rows[at], columns, wanted, loss, weight)
            shift = (wanted @ log_count) / wanted.sum(axis=1)
            part += float(np.dot(weight, shift)) / float(weight.sum(dtype=np.float64))
        else:
            weights = weight[:, None] * count_g
            part, d_rows, d_columns = feature_loss(rows[at], columns, wanted, loss, weights)
        value += share * part
        grad_f[at] = share * d_rows[:, : f.shape[1]]
        grad_g += share * d_columns[:, : g.shape[1]]
    return value, grad_f, grad_g


def _loss(
    f: np.ndarray,
    g: np.ndarray,
    target: np.ndarray | tuple[np.ndarray, np.ndarray],
    loss: str,
    count_f: np.ndarray | None,
    count_g: np.ndarray | None,
) -> tuple[float, np.ndarray, np.ndarray]:
    if count_f is None and count_g is None:
        return feature_loss(f, g, target, loss)
    ones = np.ones(max(len(f), len(g)), f.dtype)
    count_f = ones[: len(f)] if count_f is None else count_f
    count_g = ones[: len(g)] if count_g is None else count_g
    return counted_loss(f, g, target, loss, count_f, count_g)


def _of_scaled(
    loss: _OfFeatures, f: np.ndarray, g: np.ndarray, numbers: Numbers
) -> tuple[float, np.ndarray, np.ndarray, list[float]]:
    """Return the loss of inner products times a scale, and its gradients.

    The scale multiplies the features `f`, so its gradient follows from theirs.
    """
    if not len(numbers):
        return *loss(f, g), []
    scale = f.dtype.type(np.exp(float(numbers[0])))
    scaled = f * scale
    value, grad_f, grad_g = loss(scaled, g)
    return value, grad_f * scale, grad_g, [float(np.vdot(grad_f, scaled))]


def symmetric_loss(
    x: np.ndarray,
    target: np.ndarray,
    phi: MLP,
    loss: str,
    count: np.ndarray | None = None,
    numbers: Numbers = (),
) -> Evaluated:
    """Return the loss over all pairs of rows of `x`, each of which counts `count` times."""
    f = feature_map(x, phi)
    value, grad_f, grad_g, slopes = _of_scaled(
        lambda f, g: _loss(f, g, target, loss, count, count), f, f, numbers
    )
    return Evaluated(value, [_back(x, phi, grad_f + grad_g)], slopes)


def asymmetric_loss(
    x: np.ndarray,
    y: np.ndarray,
    target: np.ndarray | tuple[np.ndarray, np.ndarray],
    phi: MLP,
    psi: MLP,
    loss: str,
    count: np.ndarray | None = None,
    numbers: Numbers = (),
) -> Evaluated:
    """Return the loss over all pairs of a row of `x`, which counts `count` times, and one of `y`."""
    value, grad_f, grad_g, slopes = _of_scaled(
        lambda f, g: _loss(f, g, target, loss, count, None), feature_map(x, phi), feature_map(y, psi), numbers
    )
    return Evaluated(value, [_back(x, phi, grad_f), _back(y, psi, grad_g)], slopes)


def contrastive_loss(
    x: np.ndarray,
    y: np.ndarray,
    phi: MLP,
    psi: MLP,
    log_scale: float,
    count: np.ndarray | None = None,
) -> Evaluated:
    """Return InfoNCE in both directions, row i of `x` matched to row i of `y`, and its gradients.

    The logits are ``exp(log_scale) * <phi(x_i), psi(y_j)>`` (Radford et al. 2021).
    """
    own = np.arange(x.shape[0])

    def both_ways(f: np.ndarray, g: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        forth, forth_f, forth_g = _loss(f, g, (own, own), "softmax", count, count)
        back, back_g, back_f = _loss(g, f, (own, own), "softmax", count, count)
        return (forth + back) / 2, (forth_f + back_f) / 2, (forth_g + back_g) / 2

    value, grad_f, grad_g, slopes = _of_scaled(
        both_ways, feature_map(x, phi), feature_map(y, psi), [log_scale]
    )
    return Evaluated(value, [_back(x, phi, grad_f), _back(y, psi, grad_g)], slopes)


def listwise_loss(
    f: np.ndarray, g: np.ndarray, sizes: np.ndarray, target: np.ndarray, weight: np.ndarray | None = None
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the cross-entropy of softmax over sets with separate items, and its gradients.

    With utilities ``u_j = <f_i, g_j>`` of the `sizes[i]` items of set i, stored set by set in `g`, its loss
    is ``logsumexp_j u_j - sum_j target_j u_j``; the value is the mean over sets weighted by `weight`.
    Targets sum to one in each set.
    """
    owner = np.repeat(np.arange(len(f)), sizes)
    starts = np.cumsum(sizes) - sizes
    of_query = f[owner]
    u = np.einsum("jd,jd->j", of_query, g)
    top = np.maximum.reduceat(u, starts)
    e = np.exp(u - top[owner])
    mass = np.add.reduceat(e, starts)
    values = top + np.log(mass) - np.add.reduceat(target * u, starts)
    share = np.full(len(f), 1 / len(f)) if weight is None else weight / weight.sum(dtype=np.float64)
    d_u = ((e / mass[owner] - target) * share[owner]).astype(f.dtype)[:, None]
    return float(np.dot(values, share)), np.add.reduceat(d_u * g, starts), d_u * of_query


def preference_loss(
    q: np.ndarray,
    items: np.ndarray,
    sizes: np.ndarray,
    target: np.ndarray,
    phi: MLP,
    psi: MLP,
    weight: np.ndarray | None = None,
    numbers: Numbers = (),
) -> Evaluated:
    """Return `listwise_loss` of the features of queries and of their items."""
    value, grad_f, grad_g, slopes = _of_scaled(
        lambda f, g: listwise_loss(f, g, sizes, target, weight),
        feature_map(q, phi),
        feature_map(items, psi),
        numbers,
    )
    return Evaluated(value, [_back(q, phi, grad_f), _back(items, psi, grad_g)], slopes)


def _pairs_of_features(
    f: np.ndarray, g: np.ndarray, pairs: PairBatch, loss: str, weight: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the loss over only the listed pairs: blocks of all pairs, with weight zero for the others."""
    if loss == "softmax":
        starts = np.cumsum(pairs.sizes) - pairs.sizes
        mass = np.add.reduceat(pairs.targets, starts)
        target = pairs.targets / np.repeat(mass, pairs.sizes)
        value, d_rows, d_columns = listwise_loss(
            f[pairs.anchors], g[pairs.partners], pairs.sizes, target, weight[starts]
        )
        return value, _scattered(len(f), pairs.anchors, d_rows), _scattered(len(g), pairs.partners, d_columns)
    total = float(weight.sum(dtype=np.float64))
    owner = np.repeat(pairs.anchors, pairs.sizes)
    order = np.argsort(owner, kind="stable")
    owner, partners, targets = owner[order], pairs.partners[order], pairs.targets[order]
    weight = weight[order]
    value, grad_f, grad_g = 0.0, np.zeros_like(f), np.zeros_like(g)
    cuts = np.searchsorted(owner, np.arange(0, len(f) + _BLOCK, _BLOCK))
    for begin, low, high in zip(range(0, len(f), _BLOCK), cuts[:-1], cuts[1:], strict=False):
        share = float(weight[low:high].sum(dtype=np.float64)) / total
        if share == 0:
            continue
        columns, column = np.unique(partners[low:high], return_inverse=True)
        rows = slice(begin, min(begin + _BLOCK, len(f)))
        shape = (rows.stop - rows.start, len(columns))
        wanted, weights = np.zeros(shape, f.dtype), np.zeros(shape, f.dtype)
        wanted[owner[low:high] - begin, column] = targets[low:high]
        np.add.at(weights, (owner[low:high] - begin, column), weight[low:high])
        part, d_rows, d_columns = feature_loss(f[rows], g[columns], wanted, loss, weights)
        value += share * part
        grad_f[rows] = share * d_rows
        grad_g[columns] += share * d_columns
    return value, grad_f, grad_g


def _scattered(n: int, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sum `values` by row."""
    out = np.zeros((n, values.shape[1]), values.dtype)
    np.add.at(out, rows, values)
    return out


def pair_loss(
    x: np.ndarray,
    y: np.ndarray | None,
    pairs: PairBatch,
    phi: MLP,
    psi: MLP | None,
    loss: str,
    count_x: np.ndarray | None = None,
    count_y: np.ndarray | None = None,
    numbers: Numbers = (),
) -> Evaluated:
    """Return the loss over the listed pairs of rows of `x` and of `y` (None: of `x`, through `phi`).

    Only rows that occur in pairs are mapped. Under softmax, each anchor chooses among its partners.
    """
    weight = np.ones(len(pairs.partners), x.dtype)
    if count_x is not None:
        weight = np.repeat(count_x[pairs.anchors], pairs.sizes)
    if count_y is not None and loss != "softmax":
        weight = weight * count_y[pairs.partners]
    if y is None or psi is None:
        objects, at = np.unique(np.concatenate([pairs.anchors, pairs.partners]), return_inverse=True)
        local = pairs._replace(anchors=at[: len(pairs.anchors)], partners=at[len(pairs.anchors) :])
        f = feature_map(x[objects], phi)
        value, grad_f, grad_g, slopes = _of_scaled(
            lambda f, g: _pairs_of_features(f, g, local, loss, weight), f, f, numbers
        )
        return Evaluated(value, [_back(x[objects], phi, grad_f + grad_g)], slopes)
    rows, anchors = np.unique(pairs.anchors, return_inverse=True)
    columns, partners = np.unique(pairs.partners, return_inverse=True)
    local = pairs._replace(anchors=anchors, partners=partners)
    f, g = feature_map(x[rows], phi), feature_map(y[columns], psi)
    value, grad_f, grad_g, slopes = _of_scaled(
        lambda f, g: _pairs_of_features(f, g, local, loss, weight), f, g, numbers
    )
    return Evaluated(value, [_back(x[rows], phi, grad_f), _back(y[columns], psi, grad_g)], slopes)
