"""`neurons`: lower and upper bounds of the number of units that an accuracy needs, and a network.

Upper bound: networks built by `constructions.knots` and `constructions.ridges`, whose proofs give the first
count. Smaller networks of the same families are then tried in increasing order until `certify` bounds the
error of one by eps; on request its units are pruned and trained (`constructions.trained`). Lower bound:
`width_floors`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..base import check
from ..maps.mlp import MLP
from ..ops import relation_matrix
from ._certify import Certificate, boxes_of, certify
from ._symmetric_floor import symmetric_floor
from .bound import positive
from .certificates.relations import Function, Periodic, Polynomial, Radial, RelationOnCells, relation_on_cells
from .constructions import knots, quadrature, ridges, trained
from .width_floors import kink_floor, rank_floor

# More dimensions have too many cells.
_MOST_CERTIFIED = 2
# Random directions instead of products of rules from this dimension on.
_RANDOM = 6
# Errors for which ridges are tried, relative to eps, and their ratio.
_LOOSEST, _STEP = 4.0, 2 ** (1 / 12)
# Networks whose error on a sample is closer to eps are not tried: they would take too many cells.
_MARGIN = 0.98
# Trained networks have this many times the pairs of cells of the others.
_TRAINED = 4


@dataclass(frozen=True)
class NeuronCount:
    """Bounds of the number of hidden units, and the network that has the upper one.

    Attributes
    ----------
    lower, upper : float
        No maps of one hidden layer of relus with fewer units than `lower` have an error of at most eps
        everywhere in the box; `phi` (and `psi`), with `upper` units, do. Infinite: none was found, or none
        exists.
    eps : float
    phi, psi : MLP or None
        The network, in float64. `psi` is None for one map; both are None if the weights would be too many.
    error : float
        Bound of the largest error of the network.
    certificate : Certificate or None
        The bound by `certify`; None if `error` is that of the construction's proof.
    construction : str
        "knots" or "ridges"; with "random" the proof holds with probability 0.99 over its random draws, with
        "trained" units were removed and the others trained.
    proved : float
        The count by the proofs of the constructions alone.
    floors : Mapping
        Lower bounds by name: "rank", of the last hidden layer of any map, and "kinks", of maps of one hidden
        layer of relus; for two maps their sums. "symmetric": the error that one map cannot go below.
    """

    lower: float
    upper: float
    eps: float
    phi: MLP | None
    psi: MLP | None
    error: float
    certificate: Certificate | None
    construction: str
    proved: float
    floors: Mapping[str, float]

    def __str__(self) -> str:
        if math.isinf(self.upper):
            end = "no network can have it" if math.isinf(self.lower) else "no network was found"
            return f"error {self.eps:.4g}: {end}"
        by = "certificate" if self.certificate is not None else "proof"
        return (
            f"error {self.eps:.4g}: between {self.lower:,.0f} and {self.upper:,.0f} units "
            f"({self.construction}, error at most {self.error:.4g} by {by})"
        )


class _Built(NamedTuple):
    """A network of a construction: a count, the error if it is proved, and how to build the maps."""

    units: int
    error: float
    name: str
    maps: Callable[[], tuple[MLP, MLP, float]]
    n_weights: int


class _Question(NamedTuple):
    relation: RelationOnCells
    boxes: tuple[np.ndarray, np.ndarray]
    one_map: bool


def _of_knots(q: _Question, n: int, m: int, error: float, lower: bool) -> _Built:
    def maps() -> tuple[MLP, MLP, float]:
        return knots.interpolant(q.relation, *q.boxes, n, m, q.one_map, lower)

    return _Built(n if q.one_map else n + m, error, "knots", maps, max(n, m) ** 2)


def _of_ridges(found: ridges.Ridges, box: np.ndarray, name: str) -> _Built:
    def maps() -> tuple[MLP, MLP, float]:
        phi = ridges.network(found, box)
        return phi, phi, 0.0

    weights = found.total * (2 * len(found.directions.weights) + 1)
    return _Built(max(found.total, 1), found.error, name, maps, weights)


def _ridges(q: _Question, eps: float, random_state: int) -> Iterator[_Built]:
    """Return networks of ridges with a proof of eps."""
    box, kernel = q.boxes[0], q.relation
    rules: Iterable[ridges.Directions] = ()
    name = "ridges"
    if isinstance(kernel, Periodic):
        rules = quadrature.fourier(kernel, box, eps)
    elif isinstance(kernel, Radial) and kernel.name == "gaussian" and len(box) < _RANDOM:
        rules = quadrature.gauss_hermite(kernel, box, eps)
    elif isinstance(kernel, Radial) and kernel.name != "laplace" and len(box) > 1:
        name = "random ridges"
        rules = quadrature.random_directions(kernel, box, eps, np.random.default_rng(random_state))
    for directions in rules:
        found = ridges.share(directions, box, eps)
        if found is not None:
            yield _of_ridges(found, box, name)


def _proved(q: _Question, eps: float, random_state: int) -> _Built | None:
    """Return the smallest network with a proof of eps."""
    found = list(_ridges(q, eps, random_state))
    if len(q.boxes[0]) == len(q.boxes[1]) == 1:
        sides = knots.intervals(q.relation, *q.boxes)
        n, m = knots.cheapest(*sides, eps, q.one_map)
        found.append(_of_knots(q, n, m, sides[0].error(n) + sides[1].error(m), False))
    return min(found, key=lambda b: b.units, default=None)


def _smaller(q: _Question, eps: float, least: float, most: float, random_state: int) -> Iterator[_Built]:
    """Return networks with fewer units than a proof needs, in increasing order."""
    found: list[_Built] = []
    if len(q.boxes[0]) == len(q.boxes[1]) == 1:
        x, y = knots.intervals(q.relation, *q.boxes)
        ratio = 1.0 if q.one_map or x.factor == 0 else (y.factor / x.factor) ** (1 / (x.power + 1))
        n = 1
        while n < most:
            m = n if q.one_map else max(round(ratio * n), 1)
            if least <= (n if q.one_map else n + m) < most:
                found += [_of_knots(q, n, m, math.inf, lower) for lower in (True, False)]
            n = max(n + 1, n * 33 // 32)
    error = _LOOSEST * eps
    # On fixed steps, so that a larger eps tries what a smaller one does.
    error = _STEP ** math.floor(math.log(error, _STEP))
    seen = set()
    while error > eps / _STEP:
        for built in _ridges(q, error, random_state):
            if least <= built.units < most and built.units not in seen and "random" not in built.name:
                seen.add(built.units)
                found.append(built)
        error /= _STEP
    return iter(sorted(found, key=lambda b: b.units))


def _seems_close(q: _Question, phi: MLP, psi: MLP, eps: float) -> bool:
    """Return whether the error is below eps on a sample that includes corners and equal points."""
    rng, samples = np.random.default_rng(0), []
    for box in q.boxes:
        u = np.linspace(0, 1, 257)[:, None] if len(box) == 1 else rng.random((400, len(box)))
        u = np.concatenate([u, np.clip(1.5 * u - 0.25, 0, 1)])
        samples.append(box[:, 0] + u * (box[:, 1] - box[:, 0]))
    x, y = samples[0], samples[0] if q.one_map else samples[1]
    return bool(np.abs(q.relation.at(x, y) - relation_matrix(x, y, phi, psi)).max() <= _MARGIN * eps)


def _hull(boxes: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.minimum(boxes[0], boxes[1])[:, 0], np.maximum(boxes[0], boxes[1])[:, 1]
    hull = np.stack([low, high], axis=1)
    return hull, hull


def _symmetric_floor(relation: RelationOnCells, box: np.ndarray) -> float:
    """Return the error that one map cannot go below, from a sample of the box."""
    x = box[:, 0] + np.random.default_rng(0).random((200, len(box))) * (box[:, 1] - box[:, 0])
    x[:2] = box.T
    return symmetric_floor(relation.at(x, x)).value


def neurons(
    relation: Any,
    eps: float,
    box: Any,
    *,
    dimension: int | None = None,
    maps: int | None = None,
    lipschitz: float | tuple[float, float] | None = None,
    curvature: float | None = None,
    max_pairs: int = 1 << 22,
    train: bool = False,
    random_state: int = 0,
    **parameters: Any,
) -> NeuronCount:
    """Return how many units ``|r(x, y) - <phi(x), psi(y)>| <= eps`` needs on a box, and a network.

    Parameters
    ----------
    relation : str or callable
        As in `certify`: "gaussian", "matern32", "laplace", "periodic" or "polynomial", which one map
        represents; or a function r(A, B) of rows with a bound of its slope or second derivatives.
        In more than one dimension, networks are built for "gaussian", "matern32" and "periodic".
    eps : float
        Accuracy, > 0.
    box : array-like of shape (D, 2), or a pair of them
        Lower and upper bound of each coordinate: of x and y, or of x, then of y.
    dimension : int, optional
        `box` is then one pair (low, high) for this many coordinates.
    maps : {1, 2}, optional
        For a function: one map for both sides, or two. None means two.
    lipschitz, curvature : float, optional
        For a function, as in `certify`.
    max_pairs : int, default 2**22
        Pairs of cells of all certificates, in up to two dimensions; one has at most a quarter. 0: counts
        by proofs alone.
    train : bool, default False
        Then remove units of the network and train the others, as long as the error is certified, with up to
        4 `max_pairs` pairs of cells. In up to two dimensions; takes seconds in one and up to minutes in two.
    random_state : int, default 0
        Of the random directions in six and more dimensions.
    **parameters
        Of the kernel: `length_scale`, `degree`, `offset`, `period`.

    Returns
    -------
    NeuronCount

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Examples
    --------
    >>> from relkernels import bounds
    >>> count = bounds.neurons("gaussian", 0.01, [(-1, 1)], length_scale=0.5)
    >>> count.lower, count.upper, count.certificate.upper <= 0.01
    (9, 15, True)
    >>> count.phi.widths[1]
    15
    """
    accuracy = positive("eps", eps)
    if dimension is not None:
        side = check.numbers("box", box)
        if side.shape != (2,):
            check.fail("box", "one pair (low, high) if dimension is given", f"shape {side.shape}")
        box = np.tile(side, (check.integer("dimension", dimension, 1), 1))
    boxes = boxes_of(box)
    dimensions = len(boxes[0]), len(boxes[1])
    promised = relation_on_cells("relation", relation, dimensions, lipschitz, curvature, parameters)
    most_pairs, seed = (
        check.integer("max_pairs", max_pairs, 0),
        check.integer("random_state", random_state, 0),
    )
    if check.flag("train", train) and (most_pairs == 0 or max(dimensions) > _MOST_CERTIFIED):
        what = "max_pairs=0" if most_pairs == 0 else f"{max(dimensions)} dimensions"
        check.fail("train", f"False with {what}: trained networks need certificates", True)
    is_function = isinstance(promised, Function)
    if maps is not None:
        check.integer("maps", maps, 1, 2)
        if maps == 2 and not is_function:
            check.fail("maps", f"None or 1 for {relation}, which one map represents", maps)
    one_map = maps == 1 or not is_function
    if one_map and dimensions[0] != dimensions[1]:
        check.fail("maps", "2 for boxes of different dimensions", maps)
    if max(dimensions) > 1 and (
        is_function or isinstance(promised, Polynomial) or getattr(promised, "name", "") == "laplace"
    ):
        name = "a function" if is_function else relation
        check.fail("box", f"one coordinate for {name}", f"{max(dimensions)} coordinates")

    floors: dict[str, float] = {}
    twins = one_map and np.array_equal(*boxes)
    rank, kinks = rank_floor(promised, boxes, accuracy, twins), kink_floor(promised, boxes, accuracy)
    if one_map:
        floors |= {"rank": rank, "kinks": max(kinks)}
        lower: float = max(rank, *kinks)
    else:
        floors |= {"rank": 2 * rank, "kinks": sum(kinks)}
        lower = max(rank, kinks[0]) + max(rank, kinks[1])
    if one_map and is_function:
        floors["symmetric"] = _symmetric_floor(promised, boxes[0])
        if floors["symmetric"] > accuracy * (1 + 1e-9):
            return NeuronCount(
                math.inf, math.inf, accuracy, None, None, math.inf, None, "none", math.inf, floors
            )
    question = _Question(promised, _hull(boxes) if one_map else boxes, one_map)

    proved = _proved(question, accuracy, seed)
    best, certificate, pair, error = proved, None, None, math.inf
    if proved is not None:
        error = proved.error
        if proved.n_weights <= knots.MOST_WEIGHTS:
            *pair, off = proved.maps()
            error += off
            if error > accuracy * (1 + 1e-9):  # not positive semi-definite
                best = proved = pair = None

    left = most_pairs

    def bounded(maps: Sequence[MLP], part: float = 1 / 4) -> Certificate | None:
        nonlocal left
        if left <= 0:
            return None
        found = certify(
            (maps[0], maps[-1]),
            relation,
            boxes,
            lipschitz=lipschitz,
            curvature=curvature,
            eps=accuracy,
            max_pairs=max(min(left, int(part * most_pairs)), 1),
            **parameters,
        )
        left -= found.n_pairs
        return found

    if most_pairs and max(dimensions) <= _MOST_CERTIFIED:
        limit = 1e9 if best is None else best.units
        for built in _smaller(question, accuracy, lower, min(limit, 1000), seed):
            if left <= 0:
                break
            tried = built.maps()[:2]
            if not _seems_close(question, *tried, accuracy):
                continue
            found = bounded(tried)
            if found is not None and found.certified:
                best, pair, certificate = built, list(tried), found
                break
        if certificate is None and pair is not None:
            left = max(left, most_pairs // 4)
            found = bounded(pair)
            certificate = found if found is not None and found.certified else None
        if certificate is not None:
            error = certificate.upper
    if best is not None and pair is not None and train:
        left = _TRAINED * most_pairs
        kept = pair[:1] if one_map else pair
        fewer = trained.smaller(promised, boxes, tuple(kept), accuracy, lower, bounded)
        if fewer is not None:
            units = sum(m.n_neurons for m in fewer.maps)
            best = best._replace(units=units, name=f"trained {best.name}")
            pair, certificate = [fewer.maps[0], fewer.maps[-1]], fewer.certificate
            error = certificate.upper
    if best is None:
        return NeuronCount(lower, math.inf, accuracy, None, None, math.inf, None, "none", math.inf, floors)
    phi, psi = (None, None) if pair is None else pair
    return NeuronCount(
        lower,
        best.units,
        accuracy,
        phi,
        None if one_map else psi,
        error,
        certificate,
        best.name,
        math.inf if proved is None else proved.units,
        floors,
    )
