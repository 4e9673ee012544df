"""The tables of the study "quality": those of scikit-learn and statsmodels, and simulated ones."""

from __future__ import annotations

import importlib.util
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from sklearn import datasets
from sklearn.preprocessing import scale

KERNELS: dict[str, dict[str, Any]] = {
    "Gaussian": {"metric": "rbf"},
    "Laplace": {"metric": "laplacian"},
    "cubic": {"metric": "polynomial", "degree": 3, "coef0": 1.0},
}
FORMS = ("function", "matrix")
_KERNEL_ROWS = 400

LABELS = (
    "iris",
    "wine",
    "breast cancer",
    "digits",
    "diabetes, thirds",
    "moons",
    "circles",
    "clusters",
    "rare class",
    "spheres",
)
VALUES = tuple(
    f"{table}: {kernel}, {form}"
    for table in ("breast cancer", "diabetes", "digits")
    for kernel in KERNELS
    for form in FORMS
)
MATCHED = ("breast cancer", "wine", "digits", "linear views", "bent views")
INTERACTIONS = ("genres", "low rank")
CHOICES = ("travellers", "named logit", "nearest", "diminishing returns")


class Choices(NamedTuple):
    """Choices of queries among sets of items; named alternatives are the same items in every set."""

    queries: np.ndarray
    items: np.ndarray
    chosen: np.ndarray
    named: bool


def available(table: str) -> bool:
    """Return whether the package that has a table is installed."""
    return table != "travellers" or importlib.util.find_spec("statsmodels") is not None


def labels(table: str) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and their labels, in the units in which they come."""
    if table == "diabetes, thirds":
        X, y = datasets.load_diabetes(return_X_y=True, scaled=False)
        return X, np.searchsorted(np.quantile(y, [1 / 3, 2 / 3]), y)
    if table == "moons":
        return datasets.make_moons(500, noise=0.25, random_state=0)
    if table == "circles":
        return datasets.make_circles(500, noise=0.15, factor=0.5, random_state=0)
    if table == "spheres":
        return datasets.make_gaussian_quantiles(n_samples=600, n_features=6, n_classes=3, random_state=0)
    if table == "clusters":
        return datasets.make_classification(
            700, 20, n_informative=6, n_classes=4, n_clusters_per_class=2, random_state=0
        )
    if table == "rare class":
        return datasets.make_classification(
            700, 15, n_informative=5, n_classes=3, weights=[0.8, 0.15], random_state=1
        )
    X, y = getattr(datasets, f"load_{table.replace(' ', '_')}")(return_X_y=True)
    return X, y


def rows(table: str) -> np.ndarray:
    """Return at most 667 standardised rows for a kernel: 400 to fit and 267 to test."""
    X, _ = getattr(datasets, f"load_{table.replace(' ', '_')}")(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))[: _KERNEL_ROWS * 5 // 3]
    return scale(X[order])


def matched(table: str) -> tuple[np.ndarray, np.ndarray]:
    """Return two tables whose rows match: the halves of the columns, or two views of hidden factors."""
    if "views" in table:
        rng = np.random.default_rng(0)
        hidden = rng.standard_normal((600, 6))
        views = []
        for _ in range(2):
            view = hidden @ rng.standard_normal((6, 15))
            if table == "bent views":
                view = np.tanh(view / 2) + 0.3 * np.square(hidden @ rng.standard_normal((6, 15)) / 2)
            views.append(view + 0.3 * rng.standard_normal(view.shape))
        return views[0], views[1]
    X, _ = labels(table)
    half = X.shape[1] // 2
    return X[:, :half], X[:, half:]


def interactions(table: str) -> sparse.csr_array:
    """Return which of 600 users chose which of 300 items; some items are far more popular than others."""
    rng = np.random.default_rng(0)
    users, items = 600, 300
    popularity = -0.7 * np.log(1 + rng.permutation(items))
    if table == "genres":
        taste = rng.dirichlet(np.full(8, 0.3), users)
        score = np.log(0.05 + taste[:, rng.integers(8, size=items)]) * 1.5
    else:
        score = rng.standard_normal((users, 6)) @ rng.standard_normal((6, items))
    noisy = score + popularity + rng.gumbel(size=(users, items))
    counts = rng.integers(8, 40, users)
    rank = (-noisy).argsort(axis=1).argsort(axis=1)
    return sparse.csr_array((rank < counts[:, None]).astype(np.float64))


def choices(table: str) -> Choices:
    """Return choices by people, or simulated ones with Gumbel noise."""
    if table == "travellers":
        from statsmodels.datasets import modechoice

        data = modechoice.load_pandas().data
        items = data[["ttme", "invc", "invt", "gc"]].to_numpy(np.float64).reshape(-1, 4, 4)
        queries = data[["hinc", "psize"]].to_numpy(np.float64)[::4]
        return Choices(queries, items, data["choice"].to_numpy().reshape(-1, 4).argmax(axis=1), True)
    rng = np.random.default_rng(0)
    queries, items = rng.standard_normal((500, 2)), rng.standard_normal((500, 5, 2))
    noise = rng.gumbel(size=(500, 5))
    if table == "nearest":
        utility = -3 * np.linalg.norm(items - queries[:, None], axis=2)
    elif table == "diminishing returns":
        utility = 3 * np.log1p(np.exp(2 * items[..., 0])) - items[..., 1] * (1 + np.exp(0.5 * queries[:, :1]))
    else:
        own = np.array([0.0, 1.5, -1.0, 0.5, -0.5])
        slopes = np.array([0.0, 1.0, 0.0, -1.0, 0.5])
        utility = own + queries[:, :1] * slopes + items @ np.array([1.0, -0.5])
    return Choices(queries, items, (utility + noise).argmax(axis=1), table == "named logit")
