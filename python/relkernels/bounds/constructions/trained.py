"""Smaller networks than a construction has: units are removed, and the others trained.

*Removing.* Let phi(x) = sum_u A_u h_u(x), h the hidden units and a constant, G = mean h h' and M = mean
psi psi' over points. If unit u is left out and the output weights of the others are adapted, the mean square
of <phi - phi', psi> is A_u M A_u' / (G^-1)_uu (Hassibi and Stork 1993). The unit with the least is removed.

*Training.* L-BFGS minimises the logarithm of the p-norm of the errors of all pairs of points, which is
close to the largest of them. Fresh points with too large an error, and those at which `certify` finds one,
are added, and training goes on. There is no proof for these networks but a certificate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ...gradients import feature_map_vjp
from ...maps.mlp import MLP
from .._certify import Certificate
from ..certificates.relations import RelationOnCells

Maps = tuple[MLP, ...]
# The norm that is minimised, iterations of L-BFGS, and how often points are added.
_POWER, _ITERATIONS, _ROUNDS = 16, 300, 6
# Points of each side, in one dimension and in more.
_POINTS = 129, 500
# How many of the worst fresh points of each side are added at a time, and how many are kept in all.
_WORST, _MOST = 8, 800
# Parts of eps: training stops at the first, which leaves room to remove more units; more than the second is
# refused.
_ENOUGH, _MARGIN = 0.9, 0.98
# Parts of the pairs of cells of a certificate: to find a large error, and to prove that there is none.
_SMALL, _LARGE = 1 / 64, 2.0


class Trained(NamedTuple):
    """The maps, one or two, and the certificate of their error."""

    maps: Maps
    certificate: Certificate


def smaller(
    relation: RelationOnCells,
    boxes: tuple[np.ndarray, np.ndarray],
    maps: Maps,
    eps: float,
    least: float,
    certify: Callable[[Maps, float], Certificate | None],
) -> Trained | None:
    """Return the smallest maps found with a certificate of eps; None if they all have as many units.

    `maps` are one map for both sides, or two. `certify(maps, part)` uses this part of the pairs of cells, and
    returns None if none are left. Fewer units than `least` are not tried.
    """
    pairs = _Pairs(relation, boxes[: len(maps)])
    found: list[Maps] = []
    best: Trained | None = None
    total = sum(m.n_neurons for m in maps)
    step = max(total // 4, 1)
    # Smaller networks have fewer kinks and need fewer cells: those that are only not refuted come later.
    while step:
        step = min(step, total - max(math.ceil(least), len(maps)))
        if step < 1:
            break
        tried, certificate = _unrefuted(without_units(maps, pairs.points, step), pairs, eps, certify)
        if tried is None:
            step //= 2
            continue
        maps, total = tried, total - step
        if certificate is not None and certificate.certified:
            best, found = Trained(maps, certificate), []
        else:
            found.append(maps)
    for maps in reversed(found):
        closer, _ = pairs.train(maps, 0.0)
        certificate = certify(closer, _LARGE)
        if certificate is not None and certificate.certified:
            return Trained(closer, certificate)
    return best


def _unrefuted(
    maps: Maps, pairs: _Pairs, eps: float, certify: Callable[[Maps, float], Certificate | None]
) -> tuple[Maps | None, Certificate | None]:
    """Train maps until no error above eps is found; return them, if so, and the last certificate."""
    for _ in range(_ROUNDS):
        maps, error = pairs.train(maps, _ENOUGH * eps)
        if error > _MARGIN * eps:
            break
        if pairs.add_worst(maps, _MARGIN * eps):
            continue
        certificate = certify(maps, _SMALL)
        if certificate is None or certificate.found <= eps:
            return maps, certificate
        pairs.add([each[None] for each in certificate.at])
    return None, None


class _Pairs:
    """The points whose pairs maps are trained on: of one set for one map, of two for two."""

    def __init__(self, relation: RelationOnCells, boxes: Sequence[np.ndarray]) -> None:
        self.relation, self.boxes, self._rng = relation, boxes, np.random.default_rng(0)
        self.points = [self._sample(box) for box in boxes]

    def _sample(self, box: np.ndarray) -> np.ndarray:
        """Return points of a box, in more than one dimension random ones of which some are on its faces."""
        if len(box) == 1:
            u = np.linspace(0, 1, _POINTS[0])[:, None]
        else:
            u = np.clip(1.3 * self._rng.random((_POINTS[1], len(box))) - 0.15, 0, 1)
        found: np.ndarray = box[:, 0] + u * (box[:, 1] - box[:, 0])
        return found

    def add(self, at: Sequence[np.ndarray]) -> None:
        """Add points (n, D) of x and of y; the oldest are dropped."""
        new = [np.concatenate(at)] if len(self.points) == 1 else at
        self.points = [np.concatenate(both)[-_MOST:] for both in zip(self.points, new, strict=True)]

    def add_worst(self, maps: Maps, enough: float) -> bool:
        """Add the worst of fresh points if their errors are larger than `enough`; return whether they are."""
        if len(self.boxes[0]) == 1:
            return False
        x, y = self._sample(self.boxes[0]), self._sample(self.boxes[-1])
        error = np.abs(maps[0](x) @ maps[-1](y).T - self.relation.at(x, y))
        if error.max() <= enough:
            return False
        i, j = np.argsort(error.max(axis=1))[-_WORST:], np.argsort(error.max(axis=0))[-_WORST:]
        self.add([x[i], y[j]])
        return True

    def train(self, maps: Maps, enough: float) -> tuple[Maps, float]:
        """Return maps trained until the largest error at the points is `enough`, and that error."""
        return trained(self.relation, maps, self.points, enough)


def trained(
    relation: RelationOnCells, maps: Maps, points: Sequence[np.ndarray], enough: float
) -> tuple[Maps, float]:
    """Return maps trained until the largest error at the points is `enough`, and that error."""
    from scipy.optimize import minimize

    x, y = points[0], points[-1]
    truth = relation.at(x, y)
    shapes = [a.shape for m in maps for a in _arrays(m)]
    best: tuple[float, np.ndarray] = (math.inf, np.zeros(0))

    def split(flat: np.ndarray) -> Maps:
        parts, at = [], 0
        for shape in shapes:
            size = math.prod(shape)
            parts.append(flat[at : at + size].reshape(shape))
            at += size
        return tuple(MLP(parts[i : i + 4 : 2], parts[i + 1 : i + 4 : 2]) for i in range(0, len(parts), 4))

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best
        now = split(flat)
        F = now[0](x)
        G = F if len(now) == 1 else now[1](y)
        E = F @ G.T - truth
        largest = float(np.abs(E).max())
        if largest < best[0]:
            best = largest, flat.copy()
        E /= largest
        odd = E * E
        odd *= odd
        odd = odd * odd * odd * (E * E) * E  # E^15
        power = float(np.vdot(odd, E))
        odd /= power * largest
        grad = odd @ G if len(now) == 2 else odd @ G + odd.T @ F
        found = [feature_map_vjp(x, now[0], grad)[1]]
        if len(now) == 2:
            found.append(feature_map_vjp(y, now[1], odd.T @ F)[1])
        value = math.log(largest) + math.log(power / E.size) / _POWER
        return value, np.concatenate([a.ravel() for g in found for a in _arrays(g)])

    def stop(intermediate_result: object) -> None:
        if best[0] <= enough:
            raise StopIteration

    start = np.concatenate([a.ravel() for m in maps for a in _arrays(m)])
    options = {"maxiter": _ITERATIONS, "maxcor": 20, "ftol": 1e-6, "gtol": 1e-12}
    minimize(objective, start, jac=True, method="L-BFGS-B", callback=stop, options=options)
    return split(best[1]), best[0]


def without_units(maps: Maps, points: Sequence[np.ndarray], count: int) -> Maps:
    """Return maps with `count` units fewer in all, the output weights of the others adapted."""
    sides = [_Side(m, x) for m, x in zip(maps, points, strict=True)]
    for _ in range(count):
        losses = [s.losses(sides[-1 - i].moments()) for i, s in enumerate(sides)]
        side = int(np.argmin([each.min() for each in losses]))
        sides[side].remove(int(losses[side].argmin()))
    return tuple(s.mlp() for s in sides)


class _Side:
    """A map whose units are removed."""

    def __init__(self, mlp: MLP, x: np.ndarray) -> None:
        assert mlp.biases is not None
        self.first, self.shift = mlp.weights[0], mlp.biases[0]
        self.output = np.concatenate([mlp.weights[1], mlp.biases[1][None]])
        hidden = np.maximum(x @ self.first + self.shift, 0)
        design = np.concatenate([hidden, np.ones((len(x), 1))], axis=1)
        self.gram = design.T @ design / len(x)

    def _inverse(self) -> np.ndarray:
        jitter = 1e-10 * np.trace(self.gram) / len(self.gram)
        found: np.ndarray = np.linalg.inv(self.gram + jitter * np.eye(len(self.gram)))
        return found

    def moments(self) -> np.ndarray:
        """Return the mean of the outer products of the features."""
        found: np.ndarray = self.output.T @ self.gram @ self.output
        return found

    def losses(self, of_other: np.ndarray) -> np.ndarray:
        """Return the mean square error that removing each unit causes; the last unit of a map stays."""
        if self.first.shape[1] == 1:
            return np.array([math.inf])
        A = self.output[:-1]
        found: np.ndarray = ((A @ of_other) * A).sum(axis=1) / self._inverse().diagonal()[:-1]
        return found

    def remove(self, u: int) -> None:
        """Remove a unit, and adapt the output weights of the others."""
        inverse = self._inverse()
        self.output = self.output - np.outer(inverse[:, u], self.output[u]) / inverse[u, u]
        self.output = np.delete(self.output, u, axis=0)
        self.gram = np.delete(np.delete(self.gram, u, axis=0), u, axis=1)
        self.first, self.shift = np.delete(self.first, u, axis=1), np.delete(self.shift, u)

    def mlp(self) -> MLP:
        return MLP([self.first, self.output[:-1]], [self.shift, self.output[-1]])


def _arrays(layers: object) -> list[np.ndarray]:
    """Return the weights and biases of a map with one hidden layer, or of its gradient, in a fixed order."""
    weights, biases = layers.weights, layers.biases  # type: ignore[attr-defined]
    return [weights[0], biases[0], weights[1], biases[1]]
