"""The linear part of a learned utility: a conditional logit with penalties that held-out choices select."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...maps.activations import Activation
from ...maps.mlp import MLP
from .choice_samples import ChoiceSamples
from .conditional_logit import NEWTON_ITERATIONS, ConditionalLogit, Solved
from .folds import folds, splits

# Folds over which penalties are compared, and queries and entries of items used for it at most.
_FOLDS = 5
_QUERIES = 2000
_ENTRIES = 1_000_000
# Entries of items from which the coefficients are estimated, at most.
_FITTED_ENTRIES = 5_000_000

# Curvature of the likelihood, relative to the largest, in a direction that choices do not determine.
_FLAT = 1e-12

# Kinds of coefficients, each with a penalty: of item columns, of alternatives, and of their products with
# query columns.
_ITEMS, _CONSTANTS, _CROSSED_CONSTANTS, _CROSSED_ITEMS = range(4)
# Penalties compared: precisions of a normal prior on coefficients of standardised columns.
_MAIN = (0.1, 1.0, 10.0, 100.0)
_CROSSED = (1000.0, 100.0, 10.0, 1.0, 0.1)
# Penalties without enough queries to compare any.
_UNKNOWN = (1.0, 1.0, 10.0, 10.0)

# Size of the constant feature of maps that normalize, in units of the length of the others.
_CONSTANT = 3.0

# Hidden units h(s x) and h(-s x) carry a linear function x: h(s x) - h(-s x) = gain * x, exactly with s = 1,
# and nearly with a small s where h is odd about a point.
_CARRIERS = {
    "identity": (1.0, 2.0),
    "relu": (1.0, 1.0),
    "gelu": (1.0, 1.0),
    "gelu_tanh": (1.0, 1.0),
    "silu": (1.0, 1.0),
    "softplus": (1.0, 1.0),
    "tanh": (0.02, 0.04),
    "erf": (0.02, 0.08 / np.sqrt(np.pi)),
    "sin": (0.02, 0.04),
    "sigmoid": (0.02, 0.01),
    "sigma_1": (0.02, 0.02),
}


def kinds(d_q: int, d_y: int, n_alternatives: int) -> np.ndarray:
    """Return the kind of each coefficient, (1 + d_q, d_y)."""
    kind = np.full((1 + d_q, d_y), _CROSSED_ITEMS)
    kind[0] = _ITEMS
    if n_alternatives:
        kind[:, -n_alternatives:] = _CROSSED_CONSTANTS
        kind[0, -n_alternatives:] = _CONSTANTS
    return kind


def logit_of(samples: ChoiceSamples) -> ConditionalLogit:
    """Return the conditional logit of these queries."""
    rows = samples.queries
    return ConditionalLogit(
        samples.Q[rows], samples.sets.select(rows), samples.probabilities(), samples.weight
    )


def penalties(samples: ChoiceSamples, rng: np.random.RandomState) -> np.ndarray:
    """Return the penalty of each kind, infinite for one to leave out, with the least held-out loss."""
    rows = rng.permutation(len(samples))[: _at_most(samples, _ENTRIES, _QUERIES)]
    samples = samples.select(np.sort(rows))
    kind = kinds(samples.Q.shape[1], samples.sets.items.shape[1], samples.n_alternatives)
    live = _live(samples, kind)
    fold = folds(len(samples), _FOLDS, samples.groups, rng)
    pairs = [(logit_of(samples.select(a)), logit_of(samples.select(b))) for a, b in splits(fold)]
    if len(pairs) < 2:
        return np.array(_UNKNOWN)

    def held_out(penalty: np.ndarray, starts: Sequence[np.ndarray]) -> tuple[float, list[np.ndarray]]:
        free = live & np.isfinite(penalty[kind])
        total, weight, found = 0.0, 0.0, []
        for (training, judge), start in zip(pairs, starts, strict=True):
            solved = training.fit(free, np.where(free, penalty[kind], 0.0), start)
            found.append(solved.coefficients)
            total += judge.total * float(judge.share @ judge.losses(solved.coefficients))
            weight += judge.total
        return total / weight, found

    starts = [np.zeros(kind.shape) for _ in pairs]
    best = np.array([_MAIN[0], _MAIN[0], np.inf, np.inf])
    least, starts = held_out(best, starts)
    for group, tried in (
        ((_ITEMS, _CONSTANTS), _MAIN[1:]),
        ((_CROSSED_CONSTANTS,), _CROSSED),
        ((_CROSSED_ITEMS,), _CROSSED),
    ):
        if not (live & np.isin(kind, group)).any():
            continue
        for value in tried:
            penalty = best.copy()
            penalty[list(group)] = value
            loss, found = held_out(penalty, starts)
            if not loss < least:
                break
            best, least, starts = penalty, loss, found
    return best


def coefficients(samples: ChoiceSamples, penalty: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Return the penalized conditional logit's coefficients, (1 + d_q, d_y)."""
    most = _at_most(samples, _FITTED_ENTRIES, len(samples))
    if most < len(samples):
        samples = samples.select(np.sort(rng.permutation(len(samples))[:most]))
    kind = kinds(samples.Q.shape[1], samples.sets.items.shape[1], samples.n_alternatives)
    free = _live(samples, kind) & np.isfinite(penalty[kind])
    ridge = np.where(free, penalty[kind], 0.0)
    return logit_of(samples).fit(free, ridge, np.zeros(kind.shape)).coefficients


def _live(samples: ChoiceSamples, kind: np.ndarray) -> np.ndarray:
    """Return which coefficients can matter: those of query columns that are not constant."""
    Q = samples.Q[samples.queries]
    varies = np.ptp(Q, axis=0) > 0
    return np.broadcast_to(np.concatenate([[True], varies])[:, None], kind.shape)


def _at_most(samples: ChoiceSamples, entries: int, queries: int) -> int:
    """Return the number of queries whose items have no more entries than this."""
    width = samples.sets.items.shape[1]
    mean = float(samples.sets.sizes[samples.queries].mean())
    per_query = mean if samples.sets.shared else mean * width
    return int(np.clip(entries / per_query, 2, queries))


def carried_rank(widths: Sequence[Sequence[int]], activation: Activation) -> int:
    """Return the rank of the bilinear utilities that maps of these widths can begin with."""
    if _carrier(activation) is None and any(len(w) > 2 for w in widths):
        return 0
    return min([w[-1] for w in widths] + [h // 2 for w in widths for h in w[1:-1]])


def maps_of(
    coefficients: np.ndarray,
    widths: Sequence[Sequence[int]],
    activation: Activation,
    rng: np.random.RandomState,
    dtype: np.dtype,
) -> list[MLP]:
    """Return maps phi and psi with ``<phi(q), psi(x)> = (1, q)' C x``, ready to learn more.

    The other hidden units have random weights. The features that the linear part does not need are zero in
    phi and random in psi, so that their product is zero and its gradient is not. If C has a larger rank than
    these maps can carry, it is replaced by the nearest of that rank.
    """
    u, s, vt = np.linalg.svd(coefficients, full_matrices=False)
    rank = min(int((s > 1e-9 * s[0]).sum()) if s[0] > 0 else 0, carried_rank(widths, activation))
    left, right = u[:, :rank] * np.sqrt(s[:rank]), vt[:rank].T * np.sqrt(s[:rank])
    maps = []
    for own, w, b, zero in (
        (widths[0], left[1:], left[0], True),
        (widths[1], right, np.zeros(rank), False),
    ):
        start = MLP.random(own, activation, rng, np.float64)
        weights, biases = [a.copy() for a in start.weights], [a.copy() for a in start.biases or ()]
        last = weights[-1]
        last[:, rank:] *= 0.0 if zero else own[-1] ** -0.5
        last[:, :rank] = 0.0
        for layer in weights[1:-1]:
            layer[:, : 2 * rank] = 0.0
        if rank:
            _carry(weights, biases, w, b, activation)
        maps.append(MLP([a.astype(dtype) for a in weights], [a.astype(dtype) for a in biases], activation))
    return maps


def on_sphere(maps: Sequence[MLP], samples: ChoiceSamples) -> list[MLP]:
    """Return maps to features of unit length with nearly the inner products of `maps`, divided by `scale_of`.

    A constant feature of each map, where the other has none, is large beside its other features, so that all
    lengths are nearly equal. It needs two features that the linear part leaves free. Without them, lengths
    differ, and items of different lengths are compared by direction only.
    """
    phi, _ = maps
    assert phi.biases is not None
    free = np.flatnonzero(~(phi.weights[-1].any(axis=0) | (phi.biases[-1] != 0)))[:2]
    found = []
    for i, (mlp, table) in enumerate(zip(maps, _some_rows(samples), strict=True)):
        assert mlp.biases is not None
        output, bias = mlp.weights[-1].copy(), mlp.biases[-1].copy()
        if len(free) == 2:
            output[:, free] = 0.0
            others = MLP([*mlp.weights[:-1], output], mlp.biases, mlp.activation)
            bias[free[i]] = _CONSTANT * max(_length(others, table), 1.0)
        weights, biases = [*mlp.weights[:-1], output], [*mlp.biases[:-1], bias]
        found.append(MLP(weights, biases, mlp.activation, normalize=True))
    return found


def scale_of(maps: Sequence[MLP], samples: ChoiceSamples) -> float:
    """Return the product of the lengths that features of both maps have before they are normalized."""
    lengths = [
        _length(MLP(mlp.weights, mlp.biases, mlp.activation), table)
        for mlp, table in zip(maps, _some_rows(samples), strict=True)
    ]
    return max(lengths[0] * lengths[1], 1.0)


def _some_rows(samples: ChoiceSamples) -> list[np.ndarray]:
    """Return some queries and some items."""
    tables = samples.Q[samples.queries], samples.sets.items
    return [t[np.linspace(0, len(t) - 1, min(len(t), _QUERIES)).astype(int)] for t in tables]


def _length(mlp: MLP, table: np.ndarray) -> float:
    """Return the root of the mean squared length of features."""
    return float(np.sqrt(np.square(mlp(table), dtype=np.float64).sum(axis=1).mean()))


def _carry(
    weights: list[np.ndarray], biases: list[np.ndarray], w: np.ndarray, b: np.ndarray, activation: Activation
) -> None:
    """Let the first outputs be ``x @ w + b``, by the first units of each hidden layer."""
    rank = w.shape[1]
    carrier = _carrier(activation)
    for i, (layer, bias) in enumerate(zip(weights, biases, strict=True)):
        last = i == len(weights) - 1
        if i > 0:
            assert carrier is not None
            eye = np.eye(rank) / carrier[1]
            w, b = np.concatenate([eye, -eye]), np.zeros(rank)
        if last:
            layer[: len(w), :rank], bias[:rank] = w, b
            continue
        assert carrier is not None
        scale = carrier[0]
        layer[: len(w), : 2 * rank] = np.concatenate([scale * w, -scale * w], axis=1)
        bias[: 2 * rank] = np.concatenate([scale * b, -scale * b])


def _carrier(activation: Activation) -> tuple[float, float] | None:
    """Return the scale and the gain of hidden units that carry a linear function, or None."""
    if activation.name == "leaky_relu":
        gain = 1.0 + float(activation.parameter or 0.0)
        return (1.0, gain) if gain > 0.1 else None
    if activation.name == "relu_power":
        return (1.0, 1.0) if activation.parameter == 1 else None
    return _CARRIERS.get(activation.name)


def maximum_likelihood(samples: ChoiceSamples, weight_decay: float, max_iter: int | None) -> Solved:
    """Return the coefficients of the conditional logit of a linear utility."""
    free = _identified(samples)
    logit = logit_of(samples)
    penalty = np.full(free.shape, weight_decay * logit.total)
    return logit.fit(free, penalty, np.zeros(free.shape), max_iter or NEWTON_ITERATIONS)


def inference(samples: ChoiceSamples, phi: MLP, psi: MLP) -> tuple[np.ndarray, np.ndarray]:
    """Return the coefficients of a linear utility in the columns of these samples, and standard errors.

    The errors are from the inverse of the observed information: infinite for coefficients that the choices
    do not determine, NaN for those that are not in the model.
    """
    assert phi.biases is not None
    of_query = np.vstack([phi.biases[0], phi.weights[0]]).astype(np.float64)
    free = _identified(samples)
    found = np.where(free, of_query @ psi.weights[0].T, 0.0)
    information = logit_of(samples).hessian(found, free)
    size = np.sqrt(np.diag(information))
    size[size == 0] = 1.0
    curvature, directions = np.linalg.eigh(information / np.outer(size, size))
    flat = curvature < _FLAT * curvature.max(initial=0.0)
    shares = np.where((np.abs(directions) < np.sqrt(_FLAT)) & flat, 0.0, np.square(directions))
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.where(shares > 0, shares / np.where(flat, 0.0, curvature), 0.0).sum(axis=1)
    errors = np.full(free.shape, np.nan)
    errors[free] = np.sqrt(variance) / size
    return found, errors


def _identified(samples: ChoiceSamples) -> np.ndarray:
    """Return the coefficients of a linear utility.

    They are those of item columns and, relative to the first alternative, constants of the others and their
    products with query columns; without alternatives, the products of query and item columns instead.
    """
    n = samples.n_alternatives
    kind = kinds(samples.Q.shape[1], samples.sets.items.shape[1], n)
    free = _live(samples, kind).copy()
    if n:
        free &= kind != _CROSSED_ITEMS
        free[:, -n] = False
    return free
