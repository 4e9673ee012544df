"""Relations between objects that are not vectors: functions, laws, strings, sequences, and real ones."""

from __future__ import annotations

import math
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import NearestNeighbors

from .. import bounds
from ..estimators import AsymmetricRelation, HilbertCubeEncoder, SymmetricRelation
from .functional_objects import DECAY, KINDS, TERMS, entry, made, shifted_order, substrings_in_common
from .study import Criterion, Row, Verdict, groups, listed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..plot.panels import Panel

CLAIM = (
    "Objects that are not vectors are encoded by a separating sequence of functionals as points of the "
    "Hilbert cube; networks on the first N coordinates approximate continuous relations between them, to any "
    "accuracy as N grows (Galimberti, arXiv 2406.09310); the cost of truncation is bounded by the modulus of "
    "continuity."
)
WIDEST = 128
NEIGHBOURS = 5


def pieces(quick: bool) -> list[Row]:
    """Return kinds of objects, encoders, numbers of coordinates and of neurons; coordinates vary first."""
    coordinates, at, narrow = ([1, 4, 16], 16, [8]) if quick else ([1, 2, 4, 8, 16, 24], 16, [8, 32])
    count, iterations = (300, 25) if quick else (1200, 60)
    sizes = [(n, WIDEST) for n in coordinates] + [(at, width) for width in narrow]
    return [
        {
            "objects": name,
            "functionals": functionals,
            "coordinates": n,
            "neurons": width,
            "count": count,
            "iterations": iterations,
        }
        for name, kind in KINDS.items()
        for functionals in kind.functionals
        for n, width in sizes
    ]


def _encoder(functionals: str, n: int) -> HilbertCubeEncoder:
    if functionals == "entries":
        return HilbertCubeEncoder([partial(entry, k) for k in range(n)])
    kernel = substrings_in_common if functionals == "kernel" else None
    return HilbertCubeEncoder(functionals, n, kernel=kernel, random_state=0)


def measure(piece: Row) -> list[Row]:
    """Encode, fit a relation on two thirds of the objects, evaluate it on pairs of the others."""
    objects, relation = made(piece["objects"], piece["count"])
    order = np.random.default_rng(6).permutation(len(objects))
    cut = 2 * len(order) // 3
    train, test = order[:cut], order[cut:]
    encoder = _encoder(piece["functionals"], piece["coordinates"])
    X = 4 * encoder.fit([objects[i] for i in train]).transform(objects) - 2
    known, truth = relation[np.ix_(train, train)], relation[np.ix_(test, test)]
    options: dict[str, Any] = {
        "n_features": 24,
        "activation": "gelu",
        "standardize": False,  # the coordinates have one scale, which small ones keep
        "solver": "lbfgs",
        "max_iter": piece["iterations"],
        "tol": 1e-12,
        "random_state": 0,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # all fits take the same number of steps
        if KINDS[piece["objects"]].symmetric:
            one = SymmetricRelation((piece["neurons"],), **options).fit(X[train], known)
            fitted, found = one.relation_matrix(X[train]), one.relation_matrix(X[test])
        else:
            # Half of the neurons for each map.
            two = AsymmetricRelation((piece["neurons"] // 2,), **options).fit(X[train], X[train], known)
            fitted = two.relation_matrix(X[train], X[train])
            found = two.relation_matrix(X[test], X[test])
    error = found - truth
    near = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(X[train]).kneighbors_graph(X[test]) / NEIGHBOURS
    row: Row = {
        "sup_error": float(np.abs(error).max()),
        "rms_error": _rms(error),
        "training_rms": _rms(fitted - known),
        "neighbours_rms": _rms(near @ known @ near.T - truth),
        "rms_of_constant": float(truth.std()),
    }
    if piece["neurons"] == WIDEST:
        some = [objects[i] for i in test]
        if piece["functionals"] == "fourier":
            row |= _cut_of_functions(piece["coordinates"], some)
        if piece["functionals"] == "entries":
            row |= _cut_of_sequences(piece["coordinates"], some)
    return [row]


def _rms(error: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(error))))


def _cut_of_functions(n: int, objects: list[Any]) -> Row:
    """Compare the relation of the functions with that of their first n coefficients, and with the bound.

    With the coefficients as coordinates h_k = 1/2 + a_k / (2 r_k), |a_k| <= r_k = k^-DECAY, and weights 2
    r_k, the distance is that of L2. exp(-|f - g|^2 / 2) is Lipschitz with constant exp(-1/2) in each of f and
    g, so truncating both costs twice the modulus.
    """
    ranges = 2 / np.arange(1, TERMS + 1) ** DECAY
    encoder = HilbertCubeEncoder("fourier", TERMS, weights=ranges, interval=(0.0, 1.0))
    a = encoder.fit(objects).family_(objects)
    whole = np.exp(-np.square(a[:, None] - a[None]).sum(axis=2) / 2)
    cut = np.exp(-np.square(a[:, None, :n] - a[None, :, :n]).sum(axis=2) / 2)
    lipschitz = 2 * math.exp(-0.5)
    tail = math.sqrt(float((ranges[n:] ** 2).sum()))
    needed = bounds.hilbert_cube(encoder, lipschitz, max(lipschitz * tail / 2, 1e-12) * (1 + 1e-9)).value
    return {
        "cut": float(np.abs(whole - cut).max()),
        "cut_bound": lipschitz * tail / 2,
        "coordinates_by_bound": needed,
    }


def _cut_of_sequences(n: int, objects: list[Any]) -> Row:
    """Compare the relation of the sequences with that of their first n entries, and with the bound.

    Without the later entries, term n keeps x_n and loses y_(n+1): it changes by less than 2^-n, as tanh(y -
    x) is in (-1, 1), by up to 2. Later terms become 0 and change by less than 2^-k: in all 3 * 2^-n.
    """
    change = np.abs(shifted_order(objects, 2 * TERMS) - shifted_order(objects, n)).max()
    return {"cut": float(change), "cut_bound": 3 * 0.5**n}


def judge(rows: list[Row]) -> Verdict:
    """Check how errors fall with coordinates and neurons, their size, and the cost of truncation."""
    wide = groups([r for r in rows if r["neurons"] == WIDEST], "objects", "functionals")
    every = groups(rows, "objects", "functionals")
    summaries, falls, rises, gains, large, behind = [], [], [], [], [], []
    for key, some in wide.items():
        best, first, last = min(some, key=lambda r: r["rms_error"]), some[0], some[-1]
        name = " by ".join(key)
        summaries.append(
            f"{name}: rms {first['rms_error']:.3g} with {first['coordinates']}, {best['rms_error']:.3g} with "
            f"{best['coordinates']} coordinates (nearest neighbours {best['neighbours_rms']:.3g}, constant "
            f"{best['rms_of_constant']:.3g})"
        )
        falls.append((last["rms_error"] / first["rms_error"], name))
        if last is not best:
            rises.append(
                f"{name}, {last['rms_error']:.3g} with {last['coordinates']}, {best['rms_error']:.3g} with "
                f"{best['coordinates']} (on the training pairs {last['training_rms']:.3g} and "
                f"{best['training_rms']:.3g})"
            )
        narrow = [r for r in every[key] if r["neurons"] < WIDEST]
        at = next(r for r in some if r["coordinates"] == narrow[0]["coordinates"])
        gains.append((at["rms_error"] / narrow[0]["rms_error"], name))
        if best["rms_error"] > best["rms_of_constant"] / 4:
            large.append(f"{name}, {best['rms_error'] / best['rms_of_constant']:.2g}")
        if at["rms_error"] >= at["neighbours_rms"]:
            behind.append(f"{name}, {at['rms_error']:.3g} against {at['neighbours_rms']:.3g}")
    cuts = [r for r in rows if r.get("cut_bound")]
    worst = max(r["cut"] / r["cut_bound"] for r in cuts)
    (fall, slowest), (gain, least) = max(falls), max(gains)
    fewest, count = min(r["neurons"] for r in rows), len(wide)
    return Verdict(
        "; ".join(summaries) + ".",
        [
            Criterion(
                "Truncating the coordinates changes the relation by at most the derived bound.",
                f"at most {worst:.3g} of the bound",
                worst <= 1,
                proven=True,
            ),
            Criterion(
                "The rms error is smaller with the most coordinates than with one, for each encoder.",
                f"at most {fall:.2g} times as large, for {slowest}",
                fall < 1,
            ),
            Criterion(
                "The rms error is least with the most coordinates, for each encoder.",
                f"{count - len(rises)} of {count}"
                + (f"; not (same training): {'; '.join(rises)}" if rises else ""),
                not rises,
            ),
            Criterion(
                f"The rms error is smaller with {WIDEST} neurons than with {fewest}, for each encoder.",
                f"at most {gain:.2g} times as large, for {least}",
                gain < 1,
            ),
            Criterion(
                "The least rms error is at most a quarter of that of a constant, for each encoder.",
                f"{count - len(large)} of {count}" + (f"; not: {listed(large)}" if large else ""),
                not large,
            ),
            Criterion(
                f"The rms error is smaller than that of the mean over {NEIGHBOURS} nearest neighbours of "
                "each object by the same coordinates.",
                f"{count - len(behind)} of {count}" + (f"; not: {'; '.join(behind)}" if behind else ""),
                not behind,
            ),
        ],
    )


def panels(rows: list[Row]) -> list[Panel]:
    """Return panels of the error against coordinates and neurons, and of the truncation cost."""
    from ..plot import error_against_width
    from ..plot.panels import Panel

    def errors(ax: Axes, some: list[Row], against: str) -> None:
        for key, of_one in groups(some, "objects", "functionals").items():
            of_one = sorted(of_one, key=lambda r: r[against])
            error_against_width(
                [r[against] for r in of_one],
                [r["rms_error"] / r["rms_of_constant"] for r in of_one],
                label=", ".join(key),
                slope=False,
                xlabel=against,
                ylabel="rms error / that of a constant",
                ax=ax,
            )

    def cut(ax: Axes) -> None:
        for key, cuts in groups([r for r in rows if r.get("cut_bound")], "objects").items():
            columns = ("coordinates", "cut", "cut_bound")
            coordinates, changes, limits = ([r[k] for r in cuts] for k in columns)
            error_against_width(
                coordinates,
                changes,
                bound=limits,
                label=key[0],
                slope=False,
                xlabel="coordinates",
                ylabel="largest change of the relation",
                ax=ax,
            )

    wide = [r for r in rows if r["neurons"] == WIDEST]
    numeric = ("functions", "measures", "terrain")
    at = next(r["coordinates"] for r in rows if r["neurons"] < WIDEST)
    return [
        Panel("Curves and measures", partial(errors, some=_of(wide, numeric, True), against="coordinates")),
        Panel(
            "Laws, strings, sequences, digits",
            partial(errors, some=_of(wide, numeric, False), against="coordinates"),
        ),
        Panel(
            f"{at} coordinates",
            partial(
                errors,
                some=_of([r for r in rows if r["coordinates"] == at], numeric, False),
                against="neurons",
            ),
        ),
        Panel("Cost of the cut", cut),
    ]


def _of(rows: list[Row], names: tuple[str, ...], included: bool) -> list[Row]:
    return [r for r in rows if (r["objects"] in names) == included]
