"""The methods of the study "quality": our estimators at their defaults, and what people would use instead.

Each method is a function from training data and held-out inputs to scores of the held-out pairs. Ours take
the columns in the units in which they come; the others take standardised columns.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy import sparse
from scipy.linalg import eigh
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.cross_decomposition import CCA, PLSCanonical
from sklearn.decomposition import TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.kernel_approximation import Nystroem
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import RidgeCV
from sklearn.metrics.pairwise import cosine_similarity, pairwise_kernels
from sklearn.neighbors import NeighborhoodComponentsAnalysis
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from ..estimators import AsymmetricRelation, PreferenceRetriever, SymmetricRelation
from .quality_tables import KERNELS, Choices

OURS = "relkernels"
Method = Callable[..., np.ndarray]

# The methods that learn nothing, or nothing about the relation.
RAW = {
    "same class": ("raw inner product", "raw cosine"),
    "kernel": ("mean",),
    "matched rows": ("chance",),
    "users and items": ("popularity",),
    "choices": ("shares",),
}


def methods(task: str) -> dict[str, Method]:
    """Return the methods of a task by name; those of optional packages only where they are installed."""
    known: dict[str, dict[str, Method]] = {
        "same class": {
            "raw inner product": lambda X, y, Z, seed: Z @ Z.T,
            "raw cosine": lambda X, y, Z, seed: cosine_similarity(Z),
            "LDA": partial(_probabilities, LinearDiscriminantAnalysis),
            "NCA": _nca,
            "MLPClassifier": partial(_probabilities, partial(MLPClassifier, max_iter=500), seeded=True),
            "gradient boosting": partial(_probabilities, HistGradientBoostingClassifier, seeded=True),
        },
        "kernel": {"mean": _mean, "Nyström": _nystroem, "kernel ridge": _kernel_ridge},
        "matched rows": {
            "chance": lambda X, Y, A, B, seed: np.random.default_rng(seed).random((len(A), len(B))),
            "CCA": partial(_projections, CCA),
            "PLS": partial(_projections, PLSCanonical),
            "ridge": _ridge,
        },
        "users and items": {
            "popularity": lambda R, seed: np.tile(R.sum(axis=0), (R.shape[0], 1)),
            "truncated SVD": _svd,
            "EASE": _ease,
        },
        "choices": {
            "shares": _shares,
            "conditional logit": partial(_logit, products=False),
            "logit with products": partial(_logit, products=True),
            "small MLP": _mlp_choice,
        },
    }
    optional: dict[str, tuple[tuple[str, str, Method], ...]] = {
        "same class": (("pytorch_metric_learning", "SupCon net", _supcon),),
        "users and items": (("implicit", "implicit ALS", _als), ("lightfm", "LightFM", _lightfm)),
    }
    found = {name: method for package, name, method in optional.get(task, ()) if _installed(package)}
    return known[task] | found


def _installed(package: str) -> bool:
    return all(
        importlib.util.find_spec(name) for name in (package, *(["torch"] if "torch" in package else []))
    )


def scaled(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both tables in units of the standard deviations of the training rows."""
    scaler = StandardScaler().fit(train)
    return scaler.transform(train), scaler.transform(test)


# Ours, at their defaults.


def same_class(X: np.ndarray, y: np.ndarray, Z: np.ndarray, seed: int) -> np.ndarray:
    """Return the relation between held-out rows, learned from labels."""
    return SymmetricRelation(random_state=seed).fit(X, y).relation_matrix(Z)


def kernel_features(X: np.ndarray, kernel: Any, Z: np.ndarray, seed: int) -> np.ndarray:
    """Return the features of held-out rows; `kernel` is a function, or the matrix of the training rows."""
    return np.asarray(SymmetricRelation(random_state=seed).fit(X, kernel).transform(Z))


def matched_rows(X: np.ndarray, Y: np.ndarray, A: np.ndarray, B: np.ndarray, seed: int) -> np.ndarray:
    """Return the relation between held-out rows of two tables, learned from matching rows."""
    return AsymmetricRelation(random_state=seed).fit(X, Y).relation_matrix(A, B)


def users_and_items(R: sparse.csr_array, seed: int) -> np.ndarray:
    """Return the relation of all users and items, learned from the known choices; both are ids."""
    users, items = (sparse.eye_array(n, format="csr") for n in R.shape)
    return AsymmetricRelation(random_state=seed).fit(users, items, R).relation_matrix(users, items)


def preferences(train: Choices, test: Choices, seed: int) -> np.ndarray:
    """Return log-probabilities of the items of held-out sets."""
    names = np.arange(train.items.shape[1]) if train.named else None
    fitted = PreferenceRetriever(random_state=seed)
    fitted.fit(train.queries, train.items, train.chosen, alternatives=names)
    return log_softmax(fitted.utility(test.queries, test.items, alternatives=names), axis=1)


def _named(choices: Choices) -> np.ndarray:
    """Return the items, with a column for each named alternative."""
    if not choices.named:
        return choices.items
    b, n, _ = choices.items.shape
    return np.concatenate([choices.items, np.broadcast_to(np.eye(n), (b, n, n))], axis=2)


# Same class.


def _probabilities(
    make: Any, X: np.ndarray, y: np.ndarray, Z: np.ndarray, seed: int, *, seeded: bool = False
) -> np.ndarray:
    """Return inner products of class probabilities: the probability that two rows have the same class."""
    model = make(random_state=seed) if seeded else make()
    p = model.fit(X, y).predict_proba(Z)
    return p @ p.T


def _distances(Z: np.ndarray) -> np.ndarray:
    squares = np.square(Z).sum(axis=1)
    return 2 * Z @ Z.T - squares[:, None] - squares


def _nca(X: np.ndarray, y: np.ndarray, Z: np.ndarray, seed: int) -> np.ndarray:
    return _distances(NeighborhoodComponentsAnalysis(random_state=seed).fit(X, y).transform(Z))


def _supcon(X: np.ndarray, y: np.ndarray, Z: np.ndarray, seed: int) -> np.ndarray:
    import torch
    from pytorch_metric_learning.losses import SupConLoss

    torch.manual_seed(seed)
    data, labels = torch.tensor(X, dtype=torch.float32), torch.tensor(np.unique(y, return_inverse=True)[1])
    net = torch.nn.Sequential(torch.nn.Linear(X.shape[1], 128), torch.nn.ReLU(), torch.nn.Linear(128, 32))
    optimizer, loss = torch.optim.Adam(net.parameters(), 1e-3, weight_decay=1e-4), SupConLoss()
    size, steps = min(128, len(X)), 0
    while steps < 300:
        for batch in torch.randperm(len(X)).split(size):
            optimizer.zero_grad()
            loss(net(data[batch]), labels[batch]).backward()
            optimizer.step()
            steps += 1
    with torch.no_grad():
        return cosine_similarity(net(torch.tensor(Z, dtype=torch.float32)).numpy())


# Kernels. All return features of the held-out rows, as many as ours.


def kernel_of(name: str, n_columns: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return a kernel on standardised columns."""
    return partial(pairwise_kernels, **_parameters(name, n_columns))


def _parameters(name: str, n_columns: int) -> dict[str, Any]:
    return {**KERNELS[name], "gamma": 1 / n_columns}


def _mean(X: np.ndarray, name: str, Z: np.ndarray, n: int, seed: int) -> np.ndarray:
    among = kernel_of(name, X.shape[1])(X, X)
    return np.full((len(Z), 1), np.sqrt(max(among[np.triu_indices(len(X), 1)].mean(), 0)))


def _nystroem(X: np.ndarray, name: str, Z: np.ndarray, n: int, seed: int) -> np.ndarray:
    parameters = _parameters(name, X.shape[1])
    features = Nystroem(parameters.pop("metric"), n_components=n, random_state=seed, **parameters)
    return np.asarray(features.fit(X).transform(Z))


def _kernel_ridge(X: np.ndarray, name: str, Z: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Regress the leading eigenvectors of the kernel matrix on a Gaussian kernel of the rows."""
    matrix = kernel_of(name, X.shape[1])(X, X)
    values, vectors = eigh(matrix, subset_by_index=[len(X) - n, len(X) - 1])
    ridge = KernelRidge(alpha=1e-3, kernel="rbf", gamma=1 / X.shape[1])
    return np.asarray(ridge.fit(X, vectors * np.sqrt(np.maximum(values, 0))).predict(Z))


# Matched rows.


def _projections(
    make: Any, X: np.ndarray, Y: np.ndarray, A: np.ndarray, B: np.ndarray, seed: int
) -> np.ndarray:
    model = make(n_components=min(10, X.shape[1], Y.shape[1])).fit(X, Y)
    return cosine_similarity(*model.transform(A, B))


def _ridge(X: np.ndarray, Y: np.ndarray, A: np.ndarray, B: np.ndarray, seed: int) -> np.ndarray:
    """Predict each table from the other; score by the residuals in units of their standard deviations."""
    total = np.zeros((len(A), len(B)))
    for (inputs, outputs), (given, wanted), transposed in (((X, Y), (A, B), False), ((Y, X), (B, A), True)):
        model = RidgeCV(np.logspace(-2, 4, 13)).fit(inputs, outputs)
        spread = np.maximum((outputs - model.predict(inputs)).std(axis=0), 1e-3)
        predicted, wanted = model.predict(given) / spread, wanted / spread
        distance = np.square(predicted[:, None] - wanted[None]).sum(axis=2)
        total -= distance.T if transposed else distance
    return total


# Users and items.


def _svd(R: sparse.csr_array, seed: int) -> np.ndarray:
    model = TruncatedSVD(16, random_state=seed)
    return np.asarray(model.fit_transform(sparse.csr_matrix(R)) @ model.components_)


def _ease(R: sparse.csr_array, seed: int) -> np.ndarray:
    """Return the scores of Steck's linear model without a diagonal, with his regularization of 100."""
    dense = R.toarray()
    inverse = np.linalg.inv(dense.T @ dense + 100 * np.eye(R.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return dense @ weights


def _als(R: sparse.csr_array, seed: int) -> np.ndarray:
    from implicit.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(factors=16, random_state=seed, num_threads=1)
    model.fit(sparse.csr_matrix(R, dtype=np.float32), show_progress=False)
    return np.asarray(model.user_factors @ model.item_factors.T)


def _lightfm(R: sparse.csr_array, seed: int) -> np.ndarray:
    from lightfm import LightFM

    model = LightFM(no_components=16, loss="warp", random_state=seed)
    model.fit(sparse.coo_matrix(R, dtype=np.float32), epochs=30)
    item_biases, items = model.get_item_representations()
    user_biases, users = model.get_user_representations()
    return np.asarray(users @ items.T + item_biases + user_biases[:, None])


# Choices.


def _shares(train: Choices, test: Choices, seed: int) -> np.ndarray:
    n = train.items.shape[1]
    counts = 1 + np.bincount(train.chosen, minlength=n) if train.named else np.ones(n)
    return np.tile(np.log(counts / counts.sum()), (len(test.chosen), 1))


def _logit(train: Choices, test: Choices, seed: int, *, products: bool) -> np.ndarray:
    """Fit a conditional logit: attributes, constants of named alternatives, their products with queries."""

    def design(choices: Choices) -> np.ndarray:
        X = _named(choices)[..., :-1] if choices.named else choices.items
        crossed = choices.queries[:, None, :, None] * X[:, :, None]
        return np.concatenate([X, crossed.reshape(*X.shape[:2], -1)], axis=2) if products else X

    X, Z = design(train), design(test)
    spread = X.std(axis=(0, 1)) + 1e-12
    X, Z, own = X / spread, Z / spread, np.arange(len(X))

    def loss(b: np.ndarray) -> tuple[float, np.ndarray]:
        log_p = log_softmax(X @ b, axis=1)
        error = np.exp(log_p)
        error[own, train.chosen] -= 1
        value = -log_p[own, train.chosen].sum() + 1e-6 * b @ b
        return value, np.einsum("bn,bnd->d", error, X) + 2e-6 * b

    b = minimize(loss, np.zeros(X.shape[2]), jac=True, method="L-BFGS-B", options={"maxiter": 1000}).x
    return log_softmax(Z @ b, axis=1)


def _mlp_choice(train: Choices, test: Choices, seed: int) -> np.ndarray:
    """Fit a utility with 16 tanh units of query and item by penalised likelihood."""

    def design(choices: Choices) -> np.ndarray:
        items = _named(choices)
        queries = np.broadcast_to(choices.queries[:, None], (*items.shape[:2], choices.queries.shape[1]))
        return np.concatenate([queries, items], axis=2)

    X, Z = design(train), design(test)
    center, spread = X.mean(axis=(0, 1)), X.std(axis=(0, 1)) + 1e-12
    X, Z, own = (X - center) / spread, (Z - center) / spread, np.arange(len(X))
    d, h = X.shape[2], 16

    def split(b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return b[: d * h].reshape(d, h), b[d * h : -h], b[-h:]

    def loss(b: np.ndarray) -> tuple[float, np.ndarray]:
        W, bias, v = split(b)
        hidden = np.tanh(X @ W + bias)
        log_p = log_softmax(hidden @ v, axis=1)
        error = np.exp(log_p)
        error[own, train.chosen] -= 1
        back = error[..., None] * v * (1 - hidden**2)
        gradient = [np.einsum("bnd,bnh->dh", X, back).ravel(), back.sum(axis=(0, 1))]
        gradient.append(np.einsum("bn,bnh->h", error, hidden))
        return -log_p[own, train.chosen].sum() + 0.5 * b @ b, np.concatenate(gradient) + b

    start = 0.3 * np.random.default_rng(seed).standard_normal(d * h + 2 * h)
    W, bias, v = split(minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x)
    return log_softmax(np.tanh(Z @ W + bias) @ v, axis=1)
