"""Counts of units from both sides: lower bounds, networks built, pruned and trained, Barron-type counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import bounds
from ..estimators import AsymmetricRelation, SymmetricRelation
from .study import Criterion, Row, Verdict, groups, listed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..plot.panels import Panel

CLAIM = (
    "The number of hidden units that an accuracy needs on [-1, 1]^D is known up to a factor of ten: no "
    "network has fewer than the lower bound, and a network that is built by a formula, some of whose units "
    "are then removed and the others trained, has at most ten times as many (derived, with certified "
    "errors). Counts of Barron's type also suffice, but are far larger."
)
ACCURACIES = (0.3, 0.1, 0.03, 0.01)
WIDTHS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
FACTOR = 10
STEEP = 4.0  # of the relation "order", tanh(4 (y - x))
# The largest |tanh''| is 4 / 3^(3/2), and the Hessian of r(y - x) has the norm 2 |r''|.
BEND = 2 * STEEP**2 * 4 / 3**1.5
# Pairs of cells of a certificate of a trained network, and dimensions that have certificates.
CELLS, CERTIFIED = 1 << 21, 2
# Units of simpler networks, as thresholds for (relation, length scale, dimension, eps): knots without lowered
# values, ridges with factors of 1, and 32 trained units for the Gaussian kernel of l = 1 in two dimensions.
SIMPLER = {
    ("gaussian", 1.0, 1, 0.1): 4,
    ("gaussian", 1.0, 1, 0.01): 11,
    ("gaussian", 0.5, 1, 0.1): 7,
    ("gaussian", 0.5, 1, 0.01): 21,
    ("gaussian", 1.0, 2, 0.1): 32,
    ("gaussian", 0.5, 2, 0.1): 336,
    ("gaussian", 1.0, 4, 0.3): 1076,
    ("gaussian", 1.0, 4, 0.1): 2760,
    ("gaussian", 1.0, 8, 0.3): 870_000,
    ("order", 1.0, 1, 0.1): 24,
    ("order", 1.0, 1, 0.01): 72,
    ("laplace", 1.0, 1, 0.1): 11,
}


def pieces(quick: bool) -> list[Row]:
    """Return relations, dimensions, smallest accuracies and largest trained widths."""
    if quick:
        some = [("gaussian", 1.0, 1, 0.1, 8), ("order", 1.0, 1, 0.3, 8), ("gaussian", 1.0, 2, 0.3, 16)]
    else:
        some = [
            ("gaussian", 1.0, 1, 0.01, 64),
            ("gaussian", 0.5, 1, 0.01, 64),
            ("matern32", 1.0, 1, 0.01, 64),
            ("laplace", 1.0, 1, 0.03, 64),
            ("periodic", 1.0, 1, 0.01, 64),
            ("order", 1.0, 1, 0.01, 64),
            ("gaussian", 1.0, 2, 0.1, 64),
            ("gaussian", 0.5, 2, 0.1, 64),
            ("gaussian", 1.0, 4, 0.1, 128),
            ("gaussian", 1.0, 8, 0.3, 0),
        ]
    names = ("relation", "length_scale", "dimension", "least_eps", "widest")
    iterations, seeds = (100, 1) if quick else (300, 2)
    return [{**dict(zip(names, p, strict=True)), "iterations": iterations, "seeds": seeds} for p in some]


class Problem(NamedTuple):
    """A relation on a cube as `bounds` takes it, and as a function of two arrays."""

    relation: Any
    function: Callable[[np.ndarray, np.ndarray], np.ndarray]
    box: np.ndarray
    promise: dict[str, Any]

    @property
    def two_maps(self) -> bool:
        """Whether the relation needs two maps."""
        return callable(self.relation)

    def error(self, maps: Any, fresh: np.ndarray) -> tuple[float, float]:
        """Return the largest error found, and the certified one, infinite without a certificate."""
        found = bounds.report(maps, fresh, fresh if self.two_maps else None, self.function).found
        if len(self.box) > CERTIFIED:
            return found, math.inf
        certificate = bounds.certify(maps, self.relation, self.box, max_pairs=CELLS, **self.promise)
        return max(found, certificate.found), certificate.upper


def order(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return tanh(4 (y - x))."""
    found: np.ndarray = np.tanh(STEEP * (b.T - a))
    return found


def problem(name: str, length: float, dimension: int) -> Problem:
    """Return the relation of a piece."""
    box = np.tile([-1.0, 1.0], (dimension, 1))
    if name == "order":
        return Problem(order, order, box, {"curvature": BEND})

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        h = a[:, None] - b[None]
        if name == "periodic":
            return np.exp(-2 / length**2 * np.square(np.sin(math.pi / 2 * h)).sum(axis=2))
        rho = np.sqrt(np.square(h).sum(axis=2)) / length
        if name == "gaussian":
            return np.exp(-0.5 * rho**2)
        return np.exp(-rho) if name == "laplace" else (1 + math.sqrt(3) * rho) * np.exp(-math.sqrt(3) * rho)

    return Problem(name, kernel, box, {"length_scale": length})


def fitted(p: Problem, X: np.ndarray, Y: np.ndarray, width: int, piece: Row, seed: int, init: Any) -> Any:
    """Return the maps of a fit by least squares: of X, or of X and Y."""
    settings: dict[str, Any] = {
        "n_features": min(32, width) if isinstance(init, str) else "auto",
        "solver": "lbfgs",
        "max_iter": piece["iterations"],
        "tol": 1e-12,
        "random_state": seed,
        "init": init,
    }
    if p.two_maps:
        two = AsymmetricRelation((width,), **settings).fit(X, Y, p.function(X, Y))
        return two.phi_, two.psi_
    return SymmetricRelation((width,), **settings).fit(X, p.function(X, X)).phi_


class Fit(NamedTuple):
    """A trained network: units of all maps, largest error found, certified error, and the one that counts."""

    units: int
    found: float
    certified: float

    @property
    def error(self) -> float:
        """The certified error; the one found, where there are no certificates."""
        return self.found if math.isinf(self.certified) else self.certified


def ladder(p: Problem, piece: Row, rng: np.random.Generator) -> Iterator[Fit]:
    """Train wider and wider networks, the best of several seeds each, until the least accuracy is reached."""
    D = len(p.box)
    X, Y, fresh = np.clip(rng.uniform(-1.2, 1.2, (3, 300 + 100 * D, D)), -1, 1)
    for width in WIDTHS:
        if width > piece["widest"]:
            return
        fits = [fitted(p, X, Y, width, piece, seed, "auto") for seed in range(piece["seeds"])]
        errors = [p.error(maps, fresh) for maps in fits]
        best = min((Fit(width * (1 + p.two_maps), *e) for e in errors), key=lambda fit: fit.error)
        yield best
        if best.error <= piece["least_eps"]:
            return


def barron_type(p: Problem, eps: float, dimension: int, rng: np.random.Generator) -> float:
    """Return the units that suffice by variation norms of the sections."""
    points = rng.uniform(-1, 1, (400, dimension))
    if p.two_maps:  # the slope of tanh(4 t) rises to 4 and falls to 0: int |r''| = 8
        norms, two = (2 * STEEP, 2 * STEEP), (points, points)
        return bounds.asymmetric(p.function, eps, dimensions=(1, 1), norms=norms, points=two).value
    norm = bounds.kernel_norm(p.relation, dimension, **p.promise)
    return bounds.symmetric(p.function, eps, dimension=dimension, norm=norm, points=points).value


def measure(piece: Row) -> list[Row]:
    """Return one row for each accuracy: counts, and errors of the networks."""
    D = piece["dimension"]
    p = problem(piece["relation"], piece["length_scale"], D)
    rng = np.random.default_rng(D)
    fits = list(ladder(p, piece, rng))
    X, Y, fresh = np.clip(rng.uniform(-1.2, 1.2, (3, 300 + 100 * D, D)), -1, 1)
    rows = []
    for eps in ACCURACIES:
        if eps < piece["least_eps"]:
            break
        built = bounds.neurons(p.relation, eps, p.box, **p.promise)
        row: Row = {"eps": eps, "lower": built.lower, "built": built.upper, "built_error": built.error}
        maps = built.phi if built.psi is None else (built.phi, built.psi)
        row["certified"] = built.certificate is not None
        row["construction"] = built.construction
        if maps is not None:
            row["built_found"] = bounds.report(maps, fresh, fresh if p.two_maps else None, p.function).found
        if D <= CERTIFIED:
            pruned = bounds.neurons(p.relation, eps, p.box, train=True, **p.promise)
            row |= {"pruned": pruned.upper, "pruned_error": pruned.error}
        reached = next((fit for fit in fits if fit.error <= eps), None)
        if reached is not None:
            row |= {"trained": reached.units, "trained_error": reached.error}
        row |= {"proved": built.proved, "barron_type": barron_type(p, eps, D, rng)}
        if D <= CERTIFIED and built.phi is not None:
            width = built.phi.n_neurons
            for name, init in (("built", maps), ("random", "auto")):
                same = built.psi is None or built.psi.n_neurons == width
                if same:
                    row[f"from_{name}"] = p.error(fitted(p, X, Y, width, piece, 0, init), fresh)[0]
        rows.append(row)
    return rows


def upper(row: Row) -> float:
    """Return the least number of units of a network whose error is proved."""
    return min(row["built"], row.get("pruned", math.inf))


def judge(rows: list[Row]) -> Verdict:
    """Compare counts from below, from above and by training."""
    certain = {name: [r for r in rows if name in r] for name in ("built", "pruned", "trained")}
    certain["trained"] = [r for r in certain["trained"] if r["dimension"] <= CERTIFIED]
    below = [_name(r) for name, some in certain.items() for r in some if r[name] < r["lower"]]
    found = [r for r in rows if "built_found" in r]
    above = [_name(r) for r in found if r["built_found"] > r["built_error"] * (1 + 1e-9)]
    known = [(r, SIMPLER[key]) for r in rows if (key := _key(r)) in SIMPLER]
    more = [_name(r) for r, most in known if upper(r) > most]
    loose = [f"{_name(r)}: {r['lower']:g}, {upper(r):g}" for r in rows if upper(r) > FACTOR * _least(r)]
    trained = [r for r in rows if "trained" in r]
    wasteful = [_name(r) for r in trained if upper(r) > FACTOR * r["trained"]]
    starts = [r for r in rows if "from_built" in r]
    worse = [_name(r) for r in starts if r["from_built"] > r["from_random"]]
    ratios = [upper(r) / _least(r) for r in rows]
    gaps = [r["barron_type"] / upper(r) for r in rows if math.isfinite(r["barron_type"])]
    fewer = sum(upper(r) < r["trained"] for r in trained)
    beyond = sum("trained" not in r for r in rows if r["widest"])
    pruned = [r["pruned"] / r["built"] for r in certain["pruned"]]
    return Verdict(
        f"Upper count / lower bound: {min(ratios):.2g} to {max(ratios):.3g}, median {np.median(ratios):.2g}, "
        f"over {len(rows)} relations and accuracies. Pruning and training keeps {min(pruned):.2g} to "
        f"{max(pruned):.2g} of the units built. The upper count is below what training from random starts "
        f"needs in {fewer} of {len(trained)} cases, and {beyond} more were not reached by training. Counts "
        f"of Barron's type are {min(gaps):.1e} to {max(gaps):.1e} times the upper count, where finite.",
        [
            Criterion(
                "No network with a certified error of eps has fewer units than the lower bound.",
                _count(below, sum(map(len, certain.values()))),
                not below,
                proven=True,
            ),
            Criterion(
                "No error found exceeds the certified or proved error of a built network.",
                _count(above, len(found)),
                not above,
                proven=True,
            ),
            Criterion(
                "The upper count is at most that of simpler networks.",
                _count(more, len(known)),
                not more,
            ),
            Criterion(
                f"The upper count is at most {FACTOR} times the lower bound.",
                _count(loose, len(rows)),
                not loose,
            ),
            Criterion(
                f"The upper count is at most {FACTOR} times what training from random starts needs.",
                _count(wasteful, len(trained)),
                not wasteful,
            ),
            Criterion(
                "With as many units, training from the built network ends with a smaller largest error than "
                "training from a random one.",
                f"{_count(worse, len(starts))}; median ratio {_median_ratio(starts):.2g}",
                not worse,
            ),
        ],
    )


def _median_ratio(rows: list[Row]) -> float:
    """Return the median ratio of the errors from both starts."""
    return float(np.median([r["from_built"] / r["from_random"] for r in rows]))


def _least(row: Row) -> float:
    """Return the lower bound, at least one unit."""
    return max(row["lower"], 1.0)


def _key(row: Row) -> tuple[str, float, int, float]:
    return row["relation"], float(row["length_scale"]), row["dimension"], row["eps"]


def _name(row: Row) -> str:
    scale = "" if row["relation"] == "order" else f" l = {row['length_scale']:g}"
    return f"{row['relation']}{scale} D = {row['dimension']} eps = {row['eps']:g}"


def _count(failed: list[str], of: int) -> str:
    """Return how many passed, and which failed."""
    return f"{of - len(failed)} of {of}" + (f"; not: {listed(failed)}" if failed else "")


def panels(rows: list[Row]) -> list[Panel]:
    """Return a panel for each relation and dimension: counts against the accuracy."""
    from ..plot.panels import Panel
    from ..plot.style import PALETTE, finish, label_ticks, series

    # Networks are shown at their own error, counts at the accuracy they are for.
    lines = (
        ("Barron-type count", "eps", "barron_type"),
        ("trained from random starts", "trained_error", "trained"),
        ("built, by proof alone", "eps", "proved"),
        ("built", "built_error", "built"),
        ("built, pruned and trained", "pruned_error", "pruned"),
        ("lower bound", "eps", "lower"),
    )

    def counts(ax: Axes, some: list[Row]) -> None:
        ax.set_xscale("log")
        ax.set_yscale("log")
        for (label, error, units), color in zip(lines, PALETTE, strict=True):
            shown = [r for r in some if 0 < r.get(units, 0) < math.inf]
            if shown:
                series(ax, [r[error] for r in shown], [r[units] for r in shown], label, color)
        ax.set_xlim(min(ACCURACIES) / 2, 2 * max(ACCURACIES))
        label_ticks(ax, ACCURACIES)
        finish(ax, "error", "hidden units")

    return [
        Panel(_name({**some[0], "eps": 0}).removesuffix(" eps = 0"), partial(counts, some=some))
        for some in groups(rows, "relation", "length_scale", "dimension").values()
    ]
