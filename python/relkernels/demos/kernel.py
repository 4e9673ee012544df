"""Part of the demo: fit phi to a Gaussian kernel between images, and measure the held-out error by width."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..estimators import SymmetricRelation
from .digits import Split, load
from .part import Part

WIDTHS = (32, 128, 512)


def gaussian_kernel(split: Split) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return exp(-|a - b|^2 / (2 s^2)), s the median distance between training images."""
    from sklearn.metrics.pairwise import euclidean_distances, rbf_kernel

    distances = euclidean_distances(split.train, squared=True)
    median = float(np.median(distances[np.triu_indices(len(distances), 1)]))
    return lambda a, b: rbf_kernel(a, b, gamma=1 / (2 * median))


def kernel_error(
    split: Split, width: int, kernel: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> dict[str, float]:
    """Fit phi with one hidden layer of this width to the kernel; return errors on held-out pairs."""
    begin = time.perf_counter()
    relation = SymmetricRelation(
        hidden_widths=(width,),
        n_features=64,
        activation="gelu",
        solver="lbfgs",
        max_iter=100,
        tol=1e-12,
        standardize=False,  # pixels share a unit, and those that are nearly always 0 stay small
        random_state=0,
    ).fit(split.train, kernel(split.train, split.train))
    seconds = time.perf_counter() - begin
    truth = kernel(split.held_out, split.held_out)
    error = relation.relation_matrix(split.held_out) - truth
    return {
        "width": width,
        "sup_error": float(np.abs(error).max()),
        "rel_error": float(np.linalg.norm(error) / np.linalg.norm(truth)),
        "seconds": seconds,
    }


def run(report: Callable[[str], None]) -> Part:
    """Fit networks of increasing width."""
    split = load()
    kernel = gaussian_kernel(split)
    errors = []
    for width in WIDTHS:
        report(f"fitting a network of width {width} to the Gaussian kernel")
        errors.append(kernel_error(split, width, kernel))
    return Part(errors, {"error_against_width.png": lambda: _draw(errors)})


def _draw(errors: list[dict[str, float]]) -> Any:
    """Draw the error against width."""
    from ..plot import error_against_width

    widths, ax = [row["width"] for row in errors], None
    for key, label in (("sup_error", "largest"), ("rel_error", "relative (Frobenius)")):
        ax = error_against_width(
            widths,
            [row[key] for row in errors],
            label=label,
            xlabel="hidden width",
            ylabel="error on held-out pairs",
            title="Gaussian kernel by ⟨φ(x), φ(y)⟩",
            ax=ax,
        )
    assert ax is not None
    return ax.figure
