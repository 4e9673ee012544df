"""A start for fits to given relation values, from the relation's own spectrum.

Mercer: ``r(x, y) = sum_i lambda_i e_i(x) e_i(y)``, so ``phi_i = sqrt(lambda_i) e_i`` is the best map of
its width. The output layer is set to the least-squares fit of these functions by the random hidden
features; the solver goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..mlp import MLP

# Objects that enter the eigenproblem: 2,048 take a fraction of a second.
_MOST = 2048
# Weight of the ridge beside the mean square of the hidden features.
_RIDGE = 1e-6


def mercer_start(
    mlp: MLP,
    X: np.ndarray,
    targets: Callable[[np.ndarray], np.ndarray],
    rng: np.random.RandomState,
) -> MLP:
    """Return `mlp` with random hidden biases and an output layer fitted to the eigenvectors."""
    from scipy.linalg import eigh, solve

    rows = np.arange(len(X))
    if len(X) > _MOST:
        rows = np.sort(rng.choice(len(X), _MOST, replace=False))
    values = np.asarray(targets(rows), np.float64)
    wanted = min(mlp.widths[-1], len(rows))
    low = len(rows) - wanted
    spectrum, vectors = eigh((values + values.T) / 2, subset_by_index=[low, len(rows) - 1])
    mercer = np.zeros((len(rows), mlp.widths[-1]))
    mercer[:, :wanted] = vectors * np.sqrt(np.maximum(spectrum, 0))

    assert mlp.biases is not None
    hidden_weights = list(mlp.weights[:-1])
    hidden_biases = [(0.5 * rng.standard_normal(b.shape)).astype(mlp.dtype) for b in mlp.biases[:-1]]
    if not hidden_weights:
        hidden = X[rows]
    else:
        width = mlp.widths[-2]
        reader = MLP(
            [*hidden_weights, np.eye(width, dtype=mlp.dtype)],
            [*hidden_biases, np.zeros(width, mlp.dtype)],
            mlp.activation,
        )
        hidden = reader(X[rows])
    design = np.column_stack([hidden, np.ones(len(rows))]).astype(np.float64)
    gram = design.T @ design
    gram[np.diag_indices_from(gram)] += _RIDGE * np.trace(gram) / len(gram)
    output = solve(gram, design.T @ mercer, assume_a="pos")
    return MLP(
        [*hidden_weights, output[:-1].astype(mlp.dtype)],
        [*hidden_biases, output[-1].astype(mlp.dtype)],
        mlp.activation,
    )
