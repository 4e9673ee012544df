"""Symmetric relations: the error of <phi, phi> against neurons, for kernels of different smoothness."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import bounds
from ..bounds.certificates.relations import relation_on_cells
from ..bounds.width_floors import kink_floor, rank_floor
from ..estimators import SymmetricRelation
from ..maps.mlp import MLP
from .study import Criterion, Row, Verdict, groups, listed, slope

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..plot.panels import Panel

CLAIM = (
    "One network phi approximates every continuous symmetric positive-definite relation by <phi(x), phi(y)> "
    "to any accuracy (Altabaa & Lafferty), with neurons governed by the decay of the kernel's spectrum; no "
    "model is below the floor of its rank, and none has fewer neurons than its certified error needs."
)
KERNELS = ("gaussian", "laplace", "matern32", "polynomial", "periodic")
LENGTH = 1.0
DEGREE = 3
# In these dimensions errors are certified, up to these multiples of the largest error found.
CLOSE = {1: 1.02, 2: 1.15}


def pieces(quick: bool) -> list[Row]:
    """Return kernels, dimensions and widths."""
    dimensions, widths = ((1, 2), [8, 32, 96]) if quick else ((1, 2, 4, 8), [8, 16, 32, 64, 128, 256])
    points, iterations, cells = (400, 80, 1 << 19) if quick else (800, 300, 1 << 23)
    return [
        {"kernel": k, "dimension": D, "width": w, "points": points, "iterations": iterations, "cells": cells}
        for k in KERNELS
        for D in dimensions
        for w in widths
    ]


def kernel_function(name: str, dimension: int) -> Any:
    """Return the kernel, at most 1 on [-1, 1]^D."""

    def of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if name == "polynomial":
            return ((1 + a @ b.T) / (1 + dimension)) ** DEGREE
        if name == "periodic":
            h = a[:, None] - b[None]
            return np.exp(-2 * np.square(np.sin(math.pi * h / 2)).sum(axis=2) / (4 * LENGTH**2))
        squares = np.square(a[:, None] - b[None]).sum(axis=2)
        if name == "gaussian":
            return np.exp(-squares / (2 * LENGTH**2))
        distance = np.sqrt(squares) / LENGTH
        if name == "laplace":
            return np.exp(-distance)
        return (1 + math.sqrt(3) * distance) * np.exp(-math.sqrt(3) * distance)

    return of


def section_norm(name: str, dimension: int) -> float:
    """Return the variation norm of the kernel's sections."""
    if name == "polynomial":
        return bounds.kernel_norm(name, dimension, degree=DEGREE) / (1 + dimension) ** DEGREE
    scale = 2 * LENGTH if name == "periodic" else LENGTH
    return bounds.kernel_norm(name, dimension, length_scale=scale)


def named(name: str, dimension: int) -> tuple[dict[str, Any], float]:
    """Return the parameters of the kernel of this name in `bounds`, and how many times ours it is."""
    if name == "polynomial":
        return {"degree": DEGREE, "offset": 1.0}, (1.0 + dimension) ** DEGREE
    return {"length_scale": 2 * LENGTH if name == "periodic" else LENGTH}, 1.0


def certified(name: str, dimension: int, phi: MLP, cells: int) -> Row:
    """Return the certified error of <phi, phi> on the cube, and the units that no network can go below."""
    parameters, times = named(name, dimension)
    assert phi.biases is not None
    ends = [math.sqrt(times) * a for a in (phi.weights[-1], phi.biases[-1])]
    scaled = MLP([*phi.weights[:-1], ends[0]], [*phi.biases[:-1], ends[1]], phi.activation)
    box = np.tile([-1.0, 1.0], (dimension, 1))
    found = bounds.certify(scaled, name, box, max_pairs=cells, **parameters)
    relation = relation_on_cells("relation", name, (dimension, dimension), None, None, parameters)
    ranks = rank_floor(relation, (box, box), found.upper, one_map=True)
    row = {
        "certified_error": found.upper / times,
        "certified_found": found.found / times,
        "neurons_at_least": max(ranks, *kink_floor(relation, (box, box), found.upper)),
    }
    if dimension == 1:
        row["neurons_built"] = bounds.neurons(name, found.upper, box, max_pairs=0, **parameters).upper
    return row


def measure(piece: Row) -> list[Row]:
    """Fit one width to one kernel; return errors on fresh points with floor and bound."""
    name, D = piece["kernel"], piece["dimension"]
    rng = np.random.default_rng(D)
    kernel = kernel_function(name, D)
    # Clipped so that training includes the faces and corners of the cube, where errors are largest.
    train, fresh = np.clip(rng.uniform(-1.2, 1.2, (2, piece["points"], D)), -1, 1)
    model = SymmetricRelation(
        (piece["width"],),
        n_features=min(32, piece["width"]),
        activation="relu",
        solver="lbfgs",
        max_iter=piece["iterations"],
        tol=1e-12,
        random_state=0,
    ).fit(train, kernel(train, train))
    found = bounds.report(model, fresh, target=kernel)
    spectrum = np.maximum(np.linalg.eigvalsh(kernel(fresh, fresh))[::-1] / len(fresh), 0)
    k = np.arange(1, len(spectrum) + 1)
    steep = (k >= 3) & (k <= 30)
    bound = bounds.symmetric(kernel, found.found, dimension=D, norm=section_norm(name, D), points=fresh)
    certificate = certified(name, D, model.phi_, piece["cells"]) if D in CLOSE else {}
    return [
        {
            "sup_error": max(found.found, certificate.get("certified_found", 0.0)),
            "sup_on_pairs": found.sup_on_pairs,
            "rms_error": found.l2,
            "rank_floor_rms": found.comparisons[0].bound.value,
            "neurons_by_bound": bound.value,
            "bound_over_neurons": bound.value / piece["width"],
            "spectrum_exponent": slope(k[steep], np.maximum(spectrum[steep], 1e-17)),
            "lambda_1": spectrum[0],
            "lambda_10": spectrum[9],
            "lambda_30": spectrum[29],
            "floors_hold": all(c.holds for c in found.comparisons),
            **certificate,
        }
    ]


def judge(rows: list[Row]) -> Verdict:
    """Compare neurons with those that certified errors need, and errors with floors and fewer neurons."""
    exponents = []
    for (kernel,), some in groups(rows, "kernel").items():
        slopes = [slope([r["width"] for r in s], [r["sup_error"] for r in s]) for s in by_dimension(some)]
        exponents.append(f"{kernel} {min(slopes):.2f} to {max(slopes):.2f}")
    ratios = [r["bound_over_neurons"] for r in rows if 0 < r["bound_over_neurons"] < math.inf]
    # No neuron is needed for an error that the zero network also has.
    useless = [_name(r) for r in rows if r["bound_over_neurons"] == 0]
    certain = [r for r in rows if "certified_error" in r]
    above = [_name(r) for r in certain if r["sup_error"] > r["certified_error"] * (1 + 1e-9)]
    loose = [_name(r) for r in certain if r["certified_error"] > CLOSE[r["dimension"]] * r["sup_error"]]
    short = [_name(r) for r in certain if r["width"] < r["neurons_at_least"]]
    built = [r["width"] / r["neurons_built"] for r in certain if "neurons_built" in r]
    below = [_name(r) for r in rows if not r["floors_hold"]]
    lines = by_dimension(rows)
    worse = {
        error: [f"{s[0]['kernel']} D = {s[0]['dimension']}" for s in lines if not s[-1][error] < s[0][error]]
        for error in ("rms_error", "sup_error")
    }
    return Verdict(
        f"sup error ~ N^p over {len(rows)} fits, p by kernel: {'; '.join(exponents)}. Errors in up to two "
        f"dimensions are certified. In one, the fits have {min(built):.2g} to {max(built):.2g} times the "
        "neurons of the network that is built with a proof of the same error. The counts of Barron's type "
        f"for the errors found are {min(ratios):.3g} to {max(ratios):.3g} times the neurons used (infinite "
        "for Laplace, whose Barron norm is infinite): too large to be contradicted by any fit.",
        [
            Criterion(
                "No model's error is below the floor of its rank.",
                _count(below, rows),
                not below,
                proven=True,
            ),
            Criterion(
                "No error found exceeds its certificate.",
                _count(above, certain),
                not above,
                proven=True,
            ),
            Criterion(
                "No fit has fewer neurons than its certified error needs.",
                _count(short, certain),
                not short,
                proven=True,
            ),
            Criterion(
                "The certified error is at most 1.02 times the largest found in one dimension, and 1.15 "
                "times in two.",
                _count(loose, certain),
                not loose,
            ),
            Criterion(
                "Every fit has a smaller largest error than the zero network.",
                _count(useless, rows),
                not useless,
            ),
            *(
                Criterion(
                    f"The {word} error is smaller with the most neurons than with the fewest, for each "
                    "kernel and dimension.",
                    _count(worse[error], lines),
                    not worse[error],
                )
                for error, word in (("rms_error", "rms"), ("sup_error", "largest"))
            ),
        ],
    )


def _name(row: Row) -> str:
    return f"{row['kernel']} D = {row['dimension']} N = {row['width']}"


def _count(failed: list[str], of: list[Any]) -> str:
    """Return how many of a list passed, and which failed."""
    return f"{len(of) - len(failed)} of {len(of)}" + (f"; not: {listed(failed)}" if failed else "")


def by_dimension(rows: list[Row]) -> list[list[Row]]:
    """Return the rows of each kernel and dimension."""
    return list(groups(rows, "kernel", "dimension").values())


def panels(rows: list[Row]) -> list[Panel]:
    """Return panels of errors against neurons by dimension, of the bound on neurons, and of the spectra."""
    from ..plot import error_against_width, spectrum
    from ..plot.panels import Panel
    from ..plot.style import INK, MARKERS, PALETTE, finish, series

    dimensions = sorted({r["dimension"] for r in rows})

    def measured(ax: Axes, some: list[Row]) -> None:
        for (kernel,), line in groups(some, "kernel").items():
            widths, errors = [r["width"] for r in line], [r["sup_error"] for r in line]
            error_against_width(widths, errors, label=kernel, ylabel="sup error, refined", ax=ax)

    def derived(ax: Axes) -> None:
        ax.set_xscale("log")
        ax.set_yscale("log")
        for (kernel, dimension), some in groups(rows, "kernel", "dimension").items():
            finite = [r for r in some if 0 < r["neurons_by_bound"] < math.inf]
            label = kernel if dimension == dimensions[0] and finite else None
            marker = MARKERS[dimensions.index(dimension)]
            neurons, errors = [r["neurons_by_bound"] for r in finite], [r["sup_error"] for r in finite]
            series(ax, neurons, errors, label, PALETTE[KERNELS.index(kernel)], marker=marker)
        for dimension, marker in zip(dimensions, MARKERS, strict=False):
            series(ax, [], [], f"D = {dimension}", INK, marker=marker, linestyle="none")
        finish(ax, "neurons that suffice", "sup error, refined")

    def spectra(ax: Axes) -> None:
        x = np.random.default_rng(0).uniform(-1, 1, (400, 2))
        for kernel in KERNELS:
            values = np.linalg.eigvalsh(kernel_function(kernel, 2)(x, x))[::-1] / len(x)
            spectrum(values[values > 1e-14], label=kernel, ylabel="eigenvalue", ax=ax)

    return [
        *(
            Panel(f"Measured, D = {d}", partial(measured, some=some))
            for (d,), some in groups(rows, "dimension").items()
        ),
        Panel("Derived bound for these errors", derived),
        Panel("Spectra on [-1, 1]², D = 2", spectra),
    ]
