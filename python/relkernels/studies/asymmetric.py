"""Asymmetric relations: two maps succeed where one fails by the antisymmetric and the negative part."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import bounds
from ..estimators import SymmetricRelation
from ..maps.mlp import MLP
from .fitting import two_maps
from .study import Criterion, Row, Verdict, groups, slope

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..plot.panels import Panel

CLAIM = (
    "Two networks approximate every continuous relation by <phi(x), psi(y)>, symmetric or not (Altabaa & "
    "Lafferty); the error of one network is at least half of sup |r(x,y) - r(y,x)|, and in mean square at "
    "least the antisymmetric part plus the negative part of the spectrum (derived)."
)
RELATIONS = ("order", "directed-distance", "distance", "cross-domain")
STEEP = 4.0
# What `certify` may rely on. The largest |tanh''| is 4 / 3^(3/2), and the Hessian of r(y - x) has the norm
# 2 |r''|; the mean of relu(y_i - x_i), i = 1, 2, has a slope of at most 1 / sqrt 2 in x and in y.
PROMISES: dict[str, dict[str, Any]] = {
    "order": {"curvature": 2 * STEEP**2 * 4 / 3**1.5},
    "directed-distance": {"lipschitz": math.sqrt(0.5)},
    "distance": {"lipschitz": 1.0},
}


def pieces(quick: bool) -> list[Row]:
    """Return relations and widths."""
    widths = [8, 32, 96] if quick else [8, 16, 32, 64, 128, 256]
    points, iterations, cells = (300, 100, 1 << 19) if quick else (600, 400, 1 << 23)
    return [
        {"relation": r, "width": w, "points": points, "iterations": iterations, "cells": cells}
        for r in RELATIONS
        for w in widths
    ]


def relation_function(name: str) -> tuple[Any, int, int, tuple[float, float]]:
    """Return relation, dimensions and variation norms of its sections on the cubes [-1, 1]^D."""
    if name == "order":  # x before y; r' rises to STEEP and returns to 0: int |r''| = 2 STEEP
        return (lambda a, b: np.tanh(STEEP * (b.T - a))), 1, 1, (2 * STEEP, 2 * STEEP)
    if name == "directed-distance":  # one relu unit per coordinate, in x and in y
        return (lambda a, b: np.maximum(b[None] - a[:, None], 0).mean(axis=2)), 2, 2, (1.0, 1.0)
    if name == "distance":  # symmetric, indefinite; r'' is twice a point mass
        return (lambda a, b: -np.abs(a - b.T)), 1, 1, (2.0, 2.0)
    carry = np.array([[0.8, -0.5, 0.3], [0.2, 0.7, -0.6]])

    def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-np.square((a @ carry.T)[:, None] - b[None]).sum(axis=2) / 2)

    # x -> exp(-|Cx - y|^2 / 2) has frequencies C'z, z normal: E|C'z|_1^2 <= 3 |C|^2.
    return cross, 3, 2, (2 * 3 * float((carry**2).sum()), bounds.kernel_norm("gaussian", 2))


def certified(name: str, maps: tuple[MLP, MLP], cells: int) -> Row:
    """Return the certified error of <phi, psi>, and bounds of the number of units that it needs."""
    relation, D, _, _ = relation_function(name)
    box, promise = np.tile([-1.0, 1.0], (D, 1)), PROMISES[name]
    found = bounds.certify(maps, relation, box, max_pairs=cells, **promise)
    row = {"certified_error": found.upper, "certified_found": found.found}
    if D == 1:
        count = bounds.neurons(relation, found.upper, box, max_pairs=0, **promise)
        row |= {"neurons_at_least": count.lower, "neurons_built": count.upper}
    return row


def measure(piece: Row) -> list[Row]:
    """Fit two maps, and one if the domains agree; return errors on fresh points."""
    relation, d_x, d_y, norms = relation_function(piece["relation"])
    rng = np.random.default_rng(d_x)
    n, width = piece["points"], piece["width"]
    X, fresh_x = np.clip(rng.uniform(-1.2, 1.2, (2, n, d_x)), -1, 1)
    Y, fresh_y = np.clip(rng.uniform(-1.2, 1.2, (2, n, d_y)), -1, 1)
    features = min(32, width)
    maps = two_maps(X, Y, relation(X, Y), width, features, "relu", 0, piece["iterations"])
    found = bounds.report(maps, fresh_x, fresh_y, relation)
    bound = bounds.asymmetric(
        relation, found.found, dimensions=(d_x, d_y), norms=norms, points=(fresh_x, fresh_y)
    )
    certificate = certified(piece["relation"], maps, piece["cells"]) if piece["relation"] in PROMISES else {}
    row: Row = {
        "sup_error": max(found.found, certificate.get("certified_found", 0.0)),
        "rms_error": found.l2,
        "rank_floor_rms": found.comparisons[0].bound.value,
        "neurons_by_bound": bound.value,
        "bound_over_neurons": bound.value / (2 * width),
        "floors_hold": all(c.holds for c in found.comparisons),
        **certificate,
    }
    if piece["relation"] != "cross-domain":
        values = relation(X, X)
        one = SymmetricRelation(
            (2 * width,),
            n_features=features,
            activation="relu",
            solver="lbfgs",
            max_iter=piece["iterations"],
            tol=1e-12,
            random_state=0,
        ).fit(X, (values + values.T) / 2)
        alone = bounds.report(one, fresh_x, target=relation)
        floors = {c.bound.arguments.get("norm"): c for c in alone.comparisons}
        row |= {
            "one_map_sup": alone.found,
            "one_map_rms": floors["l2"].measured,  # on the same pairs as the floor
            "one_map_floor_sup": floors["sup"].bound.value,
            "one_map_floor_rms": floors["l2"].bound.value,
        }
        row["floors_hold"] = row["floors_hold"] and all(c.holds for c in alone.comparisons)
    return [row]


def judge(rows: list[Row]) -> Verdict:
    """Check that two maps go below the floor of one map, one map never does, and errors are certified."""
    summaries, shares, falls = [], {}, {}
    for (relation,), some in groups(rows, "relation").items():
        p = slope([r["width"] for r in some], [r["rms_error"] for r in some])
        last = some[-1]
        falls[relation] = last["rms_error"] / some[0]["rms_error"]
        if last.get("one_map_floor_rms"):
            summaries.append(
                f"{relation}: two maps reach rms {last['rms_error']:.3g} (~ N^{p:.2f}), one map "
                f"{last['one_map_rms']:.3g} over its floor {last['one_map_floor_rms']:.3g}"
            )
            shares[relation] = last["rms_error"] / last["one_map_floor_rms"]
        else:
            summaries.append(f"{relation}: rms {last['rms_error']:.3g} (~ N^{p:.2f})")
    finite = [r["bound_over_neurons"] for r in rows if 0 < r["bound_over_neurons"] < math.inf]
    floors = sum(not r["floors_hold"] for r in rows)
    certain = [r for r in rows if "certified_error" in r]
    above = sum(r["sup_error"] > r["certified_error"] * (1 + 1e-9) for r in certain)
    counted = [r for r in certain if "neurons_at_least" in r]
    short = sum(2 * r["width"] < r["neurons_at_least"] for r in counted)
    built = [2 * r["width"] / r["neurons_built"] for r in counted]
    gaps = {
        relation: max(r["certified_error"] / r["sup_error"] for r in some)
        for (relation,), some in groups(certain, "relation").items()
    }
    useless = sum(r["bound_over_neurons"] == 0 for r in rows)
    return Verdict(
        "; ".join(summaries)
        + ". The certified error is at most "
        + ", ".join(f"{gap:.3g} times the largest found for {name}" for name, gap in gaps.items())
        + f". In one dimension the fits have {min(built):.2g} to {max(built):.2g} times the neurons of the "
        "network that is built with a proof of the same error. The counts of Barron's type for the errors "
        f"found are {min(finite):.3g} to {max(finite):.3g} times the neurons used.",
        [
            Criterion(
                "No model's error is below the floor of its rank or, for one map, of one map.",
                f"{floors} of {len(rows)} fits are below",
                floors == 0,
                proven=True,
            ),
            Criterion(
                "No error found exceeds its certificate.",
                f"{above} of {len(certain)} certificates are exceeded",
                above == 0,
                proven=True,
            ),
            Criterion(
                "No fit has fewer neurons than its certified error needs.",
                f"{short} of {len(counted)} fits in one dimension have fewer",
                short == 0,
                proven=True,
            ),
            Criterion(
                "With the most neurons, two maps have a smaller rms error than the floor of one map.",
                ", ".join(f"{share:.2g} of the floor for {name}" for name, share in shares.items()),
                max(shares.values()) < 1,
            ),
            Criterion(
                "Every fit has a smaller largest error than zero.",
                f"{useless} fits no better than zero",
                useless == 0,
            ),
            Criterion(
                "The rms error of two maps is smaller with the most neurons than with the fewest.",
                ", ".join(f"{fall:.2g} times as large for {name}" for name, fall in falls.items()),
                max(falls.values()) < 1,
            ),
        ],
    )


def panels(rows: list[Row]) -> list[Panel]:
    """Return panels by relation: errors of two maps and of one against neurons, and the floors."""
    from ..plot import error_against_width
    from ..plot.panels import Panel
    from ..plot.style import finish

    every = [r[k] for r in rows for k in ("rms_error", "sup_error", "one_map_rms") if r.get(k)]
    limits = 0.7 * min(every), 1.5 * max(every)  # one scale for all panels

    def errors(ax: Axes, some: list[Row]) -> None:
        neurons = [2 * r["width"] for r in some]
        for key, label in (
            ("rms_error", "two maps, rms"),
            ("sup_error", "two maps, sup"),
            ("one_map_rms", "one map, rms"),
        ):
            if key in some[0]:
                error_against_width(neurons, [r[key] for r in some], label=label, slope=False, ax=ax)
        if "one_map_floor_rms" in some[0]:
            color = ax.lines[-1].get_color()
            ax.axhline(some[0]["one_map_floor_rms"], color=color, linestyle="--", label="floor of one map")
        ax.set_ylim(*limits)
        finish(ax, "neurons", "error")

    return [Panel(name, partial(errors, some=some)) for (name,), some in groups(rows, "relation").items()]
