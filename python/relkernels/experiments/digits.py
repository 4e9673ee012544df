"""The main job: relations among handwritten digits (scikit-learn's 1,797 images of 8 x 8 pixels).

1. Learn "shows the same digit" from the labels of a training split; judge it on held-out images.
2. Fit phi to a Gaussian kernel between the same images; measure the error on held-out pairs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..estimators import SymmetricRelation
from ..ops import retrieve

N_HELD_OUT = 360
WIDTHS = (32, 128, 512)


class Split(NamedTuple):
    """Images with pixels in [0, 1], and their digits."""

    train: np.ndarray
    held_out: np.ndarray
    train_digits: np.ndarray
    held_out_digits: np.ndarray


def load() -> Split:
    """Return the digits, 360 of them held out, stratified by digit."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    return Split(*train_test_split(X, y, test_size=N_HELD_OUT, stratify=y, random_state=0))


def precision_at(k: int, queries: np.ndarray, keys: np.ndarray, split: Split) -> float:
    """Mean share of training images of the query's digit among the k retrieved."""
    _, found = retrieve(queries, keys, k)
    return float((split.train_digits[found] == split.held_out_digits[:, None]).mean())


def same_digit(split: Split) -> tuple[dict[str, float], SymmetricRelation]:
    """Learn the same-digit relation; return its figures on held-out images and the estimator.

    The area under the ROC curve is over all pairs of held-out images; queries of the retrieval are the
    held-out images, keys the training images, for the learned relation and for raw pixels alike.
    """
    begin = time.perf_counter()
    relation = SymmetricRelation(
        hidden_widths=(256, 256),
        n_features=16,
        activation="gelu",
        max_iter=100,
        batch_size=256,
        random_state=0,
    ).fit(split.train, split.train_digits)
    seconds = time.perf_counter() - begin
    features = relation.transform(split.held_out)
    return {
        "auc": relation.score(split.held_out, split.held_out_digits),
        "precision_at_10": precision_at(10, features, relation.features_fit_, split),
        "baseline_precision_at_10": precision_at(10, split.held_out, split.train, split),
        "seconds": seconds,
    }, relation


def gaussian_kernel(split: Split) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return exp(-|a - b|^2 / (2 s^2)), s the median distance between training images."""
    from sklearn.metrics.pairwise import euclidean_distances, rbf_kernel

    distances = euclidean_distances(split.train, squared=True)
    median = float(np.median(distances[np.triu_indices(len(distances), 1)]))
    return lambda a, b: rbf_kernel(a, b, gamma=1 / (2 * median))


def kernel_error(
    split: Split, width: int, kernel: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> dict[str, float]:
    """Fit phi with one hidden layer of this width to the kernel; errors over held-out pairs."""
    begin = time.perf_counter()
    relation = SymmetricRelation(
        hidden_widths=(width,),
        n_features=64,
        activation="gelu",
        solver="lbfgs",
        max_iter=100,
        tol=1e-12,
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


def run(report: Callable[[str], None]) -> tuple[dict[str, Any], Split, SymmetricRelation]:
    """Run both parts, telling `report` what is under way; return figures, data and relation."""
    split = load()
    report(f"learning the same-digit relation from {len(split.train)} images")
    symmetric, relation = same_digit(split)
    kernel = gaussian_kernel(split)
    errors = []
    for width in WIDTHS:
        report(f"fitting a network of width {width} to the Gaussian kernel")
        errors.append(kernel_error(split, width, kernel))
    return {"symmetric": symmetric, "kernel": errors}, split, relation


def plot(directory: str, figures: dict[str, Any], split: Split, relation: SymmetricRelation) -> list[str]:
    """Save the relation of the held-out images ordered by digit, and the error against width."""
    import os

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    os.makedirs(directory, exist_ok=True)
    order = np.argsort(split.held_out_digits, kind="stable")
    digits = split.held_out_digits[order]
    edges = np.flatnonzero(np.diff(digits)) + 0.5
    values = relation.relation_matrix(split.held_out[order])
    centers = [float(np.flatnonzero(digits == d).mean()) for d in range(10)]

    fig, ax = plt.subplots(figsize=(6.5, 5.5), layout="constrained")
    image = ax.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    for edge in edges:
        ax.axhline(edge, color="black", linewidth=0.4)
        ax.axvline(edge, color="black", linewidth=0.4)
    ax.set_xticks(centers, list("0123456789"))
    ax.set_yticks(centers, list("0123456789"))
    ax.set_xlabel("digit")
    ax.set_ylabel("digit")
    ax.set_title(f"Learned same-digit relation, {len(digits)} held-out images")
    fig.colorbar(image, label="⟨φ(x), φ(y)⟩")
    paths = [os.path.join(directory, "relation_matrix.png")]
    fig.savefig(paths[0], dpi=150)
    plt.close(fig)

    fig, ax = plt.subplots(figsize=(5.5, 4), layout="constrained")
    widths = [row["width"] for row in figures["kernel"]]
    ax.loglog(widths, [row["sup_error"] for row in figures["kernel"]], "o-", label="largest")
    ax.loglog(widths, [row["rel_error"] for row in figures["kernel"]], "s-", label="relative (Frobenius)")
    ax.set_xticks(widths, [str(w) for w in widths])
    ax.minorticks_off()
    ax.set_xlabel("hidden width")
    ax.set_ylabel("error on held-out pairs")
    ax.set_title("Gaussian kernel by ⟨φ(x), φ(y)⟩")
    ax.grid(alpha=0.3)
    ax.legend()
    paths.append(os.path.join(directory, "error_against_width.png"))
    fig.savefig(paths[1], dpi=150)
    plt.close(fig)
    return paths
