"""Relations between two spaces, on real tables: two maps beside the bound, the rank floor and other methods.

The columns of a table are cut in two; each half is reduced to the leading principal components of its
training rows, in units in which all rows are in the cube [-1, 1]^D. x is a row of the first half, y a row of
the second. Two relations:

- "function": exp(-|Cx - y|^2 / (2 l^2)), C the ridge regression of the second half on the first, l the median
  distance of two rows y. It is a function on the cubes, so the bound applies.
- "observed": exp(-|y(x) - y|^2 / (2 l^2)), y(x) the row that was observed with x. It is known at the rows
  only and is no smooth function of x; the rank floor applies.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.spatial.distance import cdist, pdist
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from .. import bounds
from ..estimators import AsymmetricRelation
from .quality_tables import matched
from .study import Criterion, Row, Verdict, groups, listed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..plot.panels import Panel

CLAIM = (
    "Two networks approximate relations between objects of two different spaces by <phi(x), psi(y)> (Altabaa "
    "& Lafferty), with neurons counted from the singular values of the relation; no pair of maps with d "
    "features is below the d-th tail of the singular values (Eckart & Young)."
)
TABLES = ("breast cancer", "wine", "digits")
RELATIONS = ("function", "observed")
COMPONENTS = 6
NEIGHBOURS = 5


def pieces(quick: bool) -> list[Row]:
    """Return tables, relations and numbers of features and of neurons of each map."""
    features, rows = ([2, 8], 200) if quick else ([1, 2, 4, 8, 16, 32], 900)
    return [
        {"table": t, "relation": r, "features": d, "rows": rows}
        for t in TABLES
        for r in RELATIONS
        for d in features
    ]


class Domains(NamedTuple):
    """Rows of two spaces, indices of training and held-out rows, the map C and the length l."""

    X: np.ndarray
    Y: np.ndarray
    train: np.ndarray
    test: np.ndarray
    carry: np.ndarray
    length: float

    def function(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return the relation "function" of points of the two cubes."""
        return np.exp(-cdist(a @ self.carry, b, "sqeuclidean") / (2 * self.length**2))

    def values(self, relation: str, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return a relation of some rows x and rows y of the table."""
        if relation == "function":
            return self.function(self.X[rows], self.Y[columns])
        return np.exp(-cdist(self.Y[rows], self.Y[columns], "sqeuclidean") / (2 * self.length**2))

    def norms(self) -> tuple[float, float]:
        """Return bounds of the variation norms of the sections of "function".

        x -> exp(-|Cx - y|^2 / (2 l^2)) has frequencies C'z / l, z normal: E|C'z|_1^2 <= D |C|^2.
        """
        in_x = 2 * self.X.shape[1] * float(np.square(self.carry).sum()) / self.length**2
        return in_x, bounds.kernel_norm("gaussian", self.Y.shape[1], length_scale=self.length)


@functools.lru_cache(maxsize=1)
def domains(table: str, rows: int) -> Domains:
    """Return the two spaces of a table; a third of the rows is held out."""
    halves = matched(table)
    order = np.random.default_rng(0).permutation(len(halves[0]))[:rows]
    cut = 2 * len(order) // 3
    X, Y = (_cube(half[order], cut) for half in halves)
    train, test = np.arange(cut), np.arange(cut, len(order))
    carry = Ridge(fit_intercept=False).fit(X[train], Y[train]).coef_.T
    return Domains(X, Y, train, test, np.ascontiguousarray(carry), float(np.median(pdist(Y[train]))))


def _cube(half: np.ndarray, n_training: int) -> np.ndarray:
    """Return leading components, those of the first rows; the unit alone depends on all rows."""
    components = PCA(min(COMPONENTS, half.shape[1]), random_state=0)
    leading = make_pipeline(StandardScaler(), components).fit(half[:n_training]).transform(half)
    found: np.ndarray = leading / np.abs(leading).max()
    return found


def measure(piece: Row) -> list[Row]:
    """Fit two maps, by default options, to the pairs of training rows; return errors on held-out pairs."""
    of = domains(piece["table"], piece["rows"])
    relation, d = piece["relation"], piece["features"]
    X, Y = of.X[of.train], of.Y[of.train]
    fresh_x, fresh_y = of.X[of.test], of.Y[of.test]
    known, truth = of.values(relation, of.train, of.train), of.values(relation, of.test, of.test)
    model = AsymmetricRelation(n_features=d, random_state=0).fit(X, Y, known)
    found = bounds.report(model, fresh_x, fresh_y, truth)
    neurons = model.phi_.widths[1] + model.psi_.widths[1]
    row: Row = {
        "neurons": neurons,
        "sup_error": found.found,
        "rms_error": found.l2,
        "rank_floor_rms": found.comparisons[0].bound.value,
        "floor_holds": found.comparisons[0].holds,
        "neighbours_rms": _rms(_neighbours(X, fresh_x) @ known @ _neighbours(Y, fresh_y).T - truth),
        "rms_of_constant": float(truth.std()),
    }
    if relation == "observed":
        row["regression_rms"] = _rms(of.function(fresh_x, fresh_y) - truth)
        return [row]
    row["skeleton_rms"] = _rms(_skeleton(of.function, X, Y, fresh_x, fresh_y, d) - truth)
    sides = fresh_x.shape[1], fresh_y.shape[1]
    bound = bounds.asymmetric(
        of.function, found.found, dimensions=sides, norms=of.norms(), points=(fresh_x, fresh_y)
    )
    row["neurons_by_bound"] = bound.value
    row["bound_over_neurons"] = bound.value / neurons
    return [row]


def _rms(error: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(error))))


def _neighbours(known: np.ndarray, fresh: np.ndarray) -> Any:
    """Return the matrix that takes the mean over the nearest known rows."""
    return NearestNeighbors(n_neighbors=NEIGHBOURS).fit(known).kneighbors_graph(fresh) / NEIGHBOURS


def _skeleton(
    relation: Callable[[np.ndarray, np.ndarray], np.ndarray],
    X: np.ndarray,
    Y: np.ndarray,
    fresh_x: np.ndarray,
    fresh_y: np.ndarray,
    d: int,
) -> np.ndarray:
    """Return r(x, J) r(I, J)^+ r(I, y), I and J 4d random landmarks, the inverse of rank d (Nyström)."""
    rng = np.random.default_rng(0)
    a, b = X[rng.permutation(len(X))[: 4 * d]], Y[rng.permutation(len(Y))[: 4 * d]]
    u, s, vt = np.linalg.svd(relation(a, b), full_matrices=False)
    left, right = relation(fresh_x, b) @ vt[:d].T, u[:, :d].T @ relation(a, fresh_y)
    return np.asarray((left / s[:d]) @ right)


def judge(rows: list[Row]) -> Verdict:
    """Compare errors with the rank floor, with the bound, and with other methods."""
    summaries, rises, behind, regression, far = [], [], [], [], []
    for (table, relation), some in groups(rows, "table", "relation").items():
        last, first, name = some[-1], some[0], f"{table}, {relation}"
        summaries.append(
            f"{name}: rms {last['rms_error']:.3g} with {last['features']} features (floor "
            f"{last['rank_floor_rms']:.2g}, nearest neighbours {last['neighbours_rms']:.3g}, constant "
            f"{last['rms_of_constant']:.3g})"
        )
        best = min(some, key=lambda r: r["rms_error"])
        if best is not last:
            rises.append(
                f"{name}, {last['rms_error']:.3g} with {last['features']}, {best['rms_error']:.3g} with "
                f"{best['features']}"
            )
        if first["rms_error"] > 1.5 * first["rank_floor_rms"]:
            far.append(f"{name}, {first['rms_error'] / first['rank_floor_rms']:.3g}")
        if last["rms_error"] >= last["neighbours_rms"]:
            behind.append(f"{name}, {last['rms_error']:.3g} against {last['neighbours_rms']:.3g}")
        if "regression_rms" in last and last["rms_error"] >= last["regression_rms"]:
            regression.append(f"{table}, {last['rms_error']:.3g} against {last['regression_rms']:.3g}")
    below = [r for r in rows if not r["floor_holds"]]
    bounded = [r for r in rows if "neurons_by_bound" in r]
    skeleton = [r for r in bounded if r["rms_error"] >= r["skeleton_rms"]]
    ratios = [r["bound_over_neurons"] for r in bounded if r["bound_over_neurons"] > 0]
    useless = len(bounded) - len(ratios)
    count, observed = len(summaries), sum("regression_rms" in r for r in rows[:: len(rows) // len(summaries)])
    fewest, most = rows[0]["features"], rows[-1]["features"]

    def measured(total: int, failed: list[str]) -> str:
        return f"{total - len(failed)} of {total}" + (f"; not: {listed(failed)}" if failed else "")

    return Verdict(
        "; ".join(summaries)
        + f". The derived bound requires {min(ratios):.3g} to {max(ratios):.3g} times the "
        "neurons used for the largest errors found.",
        [
            Criterion(
                "No pair of maps is below the floor of its rank.",
                f"{len(rows) - len(below)} of {len(rows)}",
                not below,
                proven=True,
            ),
            Criterion(
                "No fit needs more neurons than the bound says suffice for its largest error found, and each "
                "has a smaller largest error than zero.",
                f"bound / neurons at least {min(ratios):.3g}; {useless} fits no better than zero",
                min(ratios) >= 1 and useless == 0,
            ),
            Criterion(
                "The bound is at most 1,000 times the neurons used.",
                f"{sum(r <= 1000 for r in ratios)} of {len(ratios)}",
                max(ratios) <= 1000,
            ),
            Criterion(
                f"With the fewest features, {fewest}, the rms error is at most 1.5 times the floor.",
                measured(count, far),
                not far,
            ),
            Criterion("The rms error is least with the most features.", measured(count, rises), not rises),
            Criterion(
                f"With {most} features, the rms error is smaller than that of the mean over {NEIGHBOURS} "
                "nearest neighbours in each space.",
                measured(count, behind),
                not behind,
            ),
            Criterion(
                "The rms error for the function is smaller than that of Nyström's method with as many "
                "features from four times as many random landmarks in each space.",
                measured(len(bounded), [f"{r['table']} with {r['features']} features" for r in skeleton]),
                not skeleton,
            ),
            Criterion(
                f"With {most} features, the rms error for the observed relation is smaller than that of the "
                "kernel at the ridge regression of y on x.",
                measured(observed, regression),
                not regression,
            ),
        ],
    )


def panels(rows: list[Row]) -> list[Panel]:
    """Return a panel per table and relation: errors against features, the floor and other methods."""
    from ..plot import error_against_width
    from ..plot.panels import Panel
    from ..plot.style import finish

    lines = {
        "rms_error": "two maps",
        "rank_floor_rms": "rank floor",
        "skeleton_rms": "Nyström",
    }
    levels = {"neighbours_rms": "nearest neighbours", "regression_rms": "ridge regression"}

    def errors(ax: Axes, some: list[Row]) -> None:
        features = [r["features"] for r in some]
        for key, label in lines.items():
            if key in some[0]:
                error_against_width(
                    features,
                    [r[key] for r in some],
                    label=label,
                    slope=False,
                    xlabel="features",
                    ylabel="rms error on held-out rows",
                    ax=ax,
                )
        for style, (key, label) in zip(("--", ":"), levels.items(), strict=True):
            if key in some[0]:
                ax.axhline(some[0][key], color="0.4", linestyle=style, label=label)
        finish(ax, "features", "rms error on held-out rows")

    return [
        Panel(", ".join(key), partial(errors, some=some))
        for key, some in groups(rows, "table", "relation").items()
    ]
