"""Relations between functions on unequal grids, between measures, and between real curves."""

from __future__ import annotations

import functools
import importlib.util
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import bounds
from ..estimators import HilbertCubeEncoder, SymmetricRelation
from .study import Criterion, Row, Verdict, groups

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..plot.panels import Panel

CLAIM = (
    "Objects that are not vectors are encoded by a separating sequence of functionals as points of the "
    "Hilbert cube; networks on the first N coordinates approximate continuous relations between them, to any "
    "accuracy as N grows (Galimberti, arXiv 2406.09310); the cost of truncation is bounded by the modulus of "
    "continuity."
)
DECAY = 1.0  # of the coefficients of the random functions: |a_k| <= k^-DECAY
TERMS = 24


def pieces(quick: bool) -> list[Row]:
    """Return kinds of objects, encoders and numbers of coordinates."""
    coordinates = [1, 2, 4, 8, 16] if quick else [1, 2, 3, 4, 6, 8, 12, 16, 24]
    count, iterations = (420, 30) if quick else (1200, 60)
    kinds = [("functions", "fourier"), ("functions", "legendre"), ("measures", "quantiles")]
    kinds += [("measures", "characteristic")]
    if importlib.util.find_spec("matplotlib") is not None:  # it ships the elevation model
        kinds.append(("terrain", "legendre"))
    return [
        {"objects": o, "functionals": f, "coordinates": n, "count": count, "iterations": iterations}
        for o, f in kinds
        for n in coordinates
    ]


def _functions(rng: np.random.Generator, count: int) -> tuple[list[Any], np.ndarray]:
    """Random Fourier sums, each on its own grid; relation exp(-|f - g|^2 / 2) in L2(0, 1)."""
    k = np.arange(1, TERMS + 1)
    a = rng.uniform(-1, 1, (count, TERMS)) / k**DECAY
    objects = []
    for row in a:
        t = np.concatenate([[0, 1], np.sort(rng.uniform(0, 1, int(rng.integers(150, 400))))])
        half = np.arange(TERMS)
        angle = 2 * np.pi * ((half + 1) // 2)[:, None] * t
        waves = np.sqrt(2) * np.where((half % 2 == 1)[:, None], np.cos(angle), np.sin(angle))
        waves[0] = 1
        objects.append((t, row @ waves))
    return objects, np.exp(-np.square(a[:, None] - a[None]).sum(axis=2) / 2)


def _measures(rng: np.random.Generator, count: int) -> tuple[list[Any], np.ndarray]:
    """Mixtures of two normal laws, as samples; relation exp(-W^2), W the Wasserstein distance of order 2."""
    objects, quantiles = [], []
    levels = (np.arange(400) + 0.5) / 400
    for _ in range(count):
        weight, spread = rng.uniform(0.2, 0.8), rng.uniform(0.1, 0.6, 2)
        mean = rng.uniform(-1, 1, 2)

        def draw(m: int, w: float = weight, mu: Any = mean, s: Any = spread) -> np.ndarray:
            side = (rng.random(m) > w).astype(int)
            return mu[side] + s[side] * rng.standard_normal(m)

        objects.append(draw(int(rng.integers(200, 600))))
        quantiles.append(np.quantile(draw(4000), levels))
    Q = np.stack(quantiles)
    return objects, np.exp(-np.square(Q[:, None] - Q[None]).mean(axis=2))


def _terrain(rng: np.random.Generator, count: int) -> tuple[list[Any], np.ndarray]:
    """Real curves: west-east profiles of the Jacksboro fault elevation model, each at its own points.

    The relation is the correlation of two profiles.
    """
    from matplotlib.cbook import get_sample_data

    data: Any = get_sample_data("jacksboro_fault_dem.npz")
    elevation = np.asarray(data["elevation"], np.float64)
    profiles = elevation[np.sort(rng.permutation(len(elevation))[: min(count, len(elevation))])]
    t = np.linspace(0, 1, profiles.shape[1])
    objects = []
    for row in profiles:
        kept = np.sort(rng.permutation(len(t))[: int(rng.integers(100, 250))])
        objects.append((t[kept], row[kept] / 1000))
    return objects, np.asarray(np.corrcoef(profiles))


@functools.lru_cache(maxsize=1)
def _made(objects: str, count: int) -> tuple[list[Any], np.ndarray]:
    make = {"functions": _functions, "measures": _measures, "terrain": _terrain}[objects]
    return make(np.random.default_rng(5), count)


def measure(piece: Row) -> list[Row]:
    """Encode, fit a symmetric relation on two thirds, evaluate on the rest."""
    objects, relation = _made(piece["objects"], piece["count"])
    order = np.random.default_rng(6).permutation(len(objects))
    cut = 2 * len(order) // 3
    train, test = order[:cut], order[cut:]
    encoder = HilbertCubeEncoder(piece["functionals"], piece["coordinates"], random_state=0)
    X = encoder.fit([objects[i] for i in train]).transform(objects)
    model = SymmetricRelation(
        (128,),
        n_features=24,
        activation="gelu",
        standardize=False,  # the coordinates have one scale, which small ones keep
        solver="lbfgs",
        max_iter=piece["iterations"],
        tol=1e-12,
        random_state=0,
    ).fit(4 * X[train] - 2, relation[np.ix_(train, train)])
    truth = relation[np.ix_(test, test)]
    error = model.relation_matrix(4 * X[test] - 2) - truth
    row: Row = {
        "sup_error": float(np.abs(error).max()),
        "rms_error": float(np.sqrt(np.mean(error**2))),
        "rms_of_constant": float(truth.std()),
    }
    if piece["objects"] == "functions" and piece["functionals"] == "fourier":
        row |= _truncation_cost(piece["coordinates"], test, objects)
    return [row]


def _truncation_cost(n: int, test: np.ndarray, objects: list[Any]) -> Row:
    """Compare the relation of the functions with that of their first n coefficients, and with the bound.

    With the coefficients as coordinates h_k = 1/2 + a_k / (2 r_k), |a_k| <= r_k = k^-DECAY, and weights 2
    r_k, the distance is that of L2. exp(-|f - g|^2 / 2) is Lipschitz with constant exp(-1/2) in each of f and
    g, so truncating both costs twice the modulus.
    """
    ranges = 2 / np.arange(1, TERMS + 1) ** DECAY
    encoder = HilbertCubeEncoder("fourier", TERMS, weights=ranges, interval=(0.0, 1.0))
    a = encoder.fit([objects[i] for i in test]).family_([objects[i] for i in test])
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


def judge(rows: list[Row]) -> Verdict:
    """Check that errors decrease with the coordinates, and that truncation stays within its bound."""
    summaries, falls, rises, lines = [], [], [], groups(rows, "objects", "functionals")
    for (objects, functionals), some in lines.items():
        best = min(some, key=lambda r: r["rms_error"])
        name, last = f"{objects} by {functionals}", some[-1]
        summaries.append(
            f"{name}: rms {some[0]['rms_error']:.3g} with {some[0]['coordinates']}, "
            f"{best['rms_error']:.3g} with {best['coordinates']} coordinates (constant "
            f"{some[0]['rms_of_constant']:.3g})"
        )
        falls.append((last["rms_error"] / some[0]["rms_error"], name))
        if last is not best:
            rises.append(
                f"{name}, {last['rms_error']:.3g} with {last['coordinates']}, {best['rms_error']:.3g} with "
                f"{best['coordinates']}"
            )
    cuts = [r for r in rows if r.get("cut_bound")]
    worst = max(r["cut"] / r["cut_bound"] for r in cuts)
    fall, slowest = max(falls)
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
                f"{len(lines) - len(rises)} of {len(lines)}"
                + (f"; not (same training): {'; '.join(rises)}" if rises else ""),
                not rises,
            ),
        ],
    )


def panels(rows: list[Row]) -> list[Panel]:
    """Return panels of the error against coordinates, and of the truncation cost with its bound."""
    from ..plot import error_against_width
    from ..plot.panels import Panel

    def errors(ax: Axes) -> None:
        for (objects, functionals), some in groups(rows, "objects", "functionals").items():
            error_against_width(
                [r["coordinates"] for r in some],
                [r["rms_error"] / r["rms_of_constant"] for r in some],
                label=f"{objects}, {functionals}",
                slope=False,
                xlabel="coordinates",
                ylabel="rms error / that of a constant",
                ax=ax,
            )

    def cut(ax: Axes) -> None:
        cuts = [r for r in rows if r.get("cut_bound")]
        coordinates, changes, limits = ([r[k] for r in cuts] for k in ("coordinates", "cut", "cut_bound"))
        ylabel = "largest change of the relation"
        error_against_width(
            coordinates, changes, bound=limits, slope=False, xlabel="coordinates", ylabel=ylabel, ax=ax
        )

    return [Panel("Held-out pairs", errors), Panel("Cost of the cut", cut)]
