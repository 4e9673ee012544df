"""Fits of two maps, of utilities and of functions for the studies: L-BFGS, starting from the spectrum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..estimators.fitting.parameters import Parameters
from ..estimators.fitting.training import Evaluated, Problem, minimize
from ..gradients import MLPGradient, relation_loss
from ..maps.mlp import MLP

_RIDGE = 1e-8


def fit(
    maps: Sequence[MLP],
    objective: Callable[[list[MLP]], tuple[float, list[MLPGradient]]],
    max_iter: int,
) -> list[MLP]:
    """Minimise a loss of one or two MLPs by L-BFGS."""
    parameters = Parameters(maps)

    def evaluate(flat: np.ndarray, batch: None) -> Evaluated:
        value, gradients = objective(parameters.split(flat)[0])
        return Evaluated(value, parameters.join(gradients), 0)

    problem = Problem(
        parameters, evaluate, epoch=lambda rng: [(None, 1.0)], n_batches=1, whole=lambda rng: None
    )
    found = minimize(
        problem,
        solver="lbfgs",
        max_iter=max_iter,
        learning_rate=1.0,
        weight_decay=0.0,
        tol=1e-12,
        rng=np.random.RandomState(0),
        verbose=False,
    )
    if found.stopped_by is not None:
        raise found.stopped_by
    return parameters.split(found.flat)[0]


def hidden_start(widths: list[int], activation: Any, seed: int) -> MLP:
    """Return a random MLP in float64 with random hidden biases."""
    start = MLP.random(widths, activation, seed, "float64")
    rng = np.random.default_rng([seed, 1])  # a different stream from that of the weights
    assert start.biases is not None
    biases = [0.5 * rng.standard_normal(b.shape) for b in start.biases[:-1]]
    return MLP(start.weights, [*biases, start.biases[-1]], start.activation)


def with_output(mlp: MLP, X: np.ndarray, wanted: np.ndarray) -> MLP:
    """Return the MLP with the least-squares output layer for `wanted` on X."""
    assert mlp.biases is not None
    width = mlp.widths[-2]
    hidden = MLP([*mlp.weights[:-1], np.eye(width)], [*mlp.biases[:-1], np.zeros(width)], mlp.activation)(X)
    design = np.column_stack([hidden, np.ones(len(X))])
    gram = design.T @ design
    gram[np.diag_indices_from(gram)] += _RIDGE * np.trace(gram) / len(gram)
    output = np.linalg.solve(gram, design.T @ wanted)
    return MLP(
        [*mlp.weights[:-1], np.ascontiguousarray(output[:-1])], [*mlp.biases[:-1], output[-1]], mlp.activation
    )


def two_maps(
    X: np.ndarray,
    Y: np.ndarray,
    values: np.ndarray,
    width: int,
    n_features: int,
    activation: Any = "tanh",
    seed: int = 0,
    max_iter: int = 200,
) -> tuple[MLP, MLP]:
    """Fit <phi, psi> to relation values by least squares, starting from their singular functions."""
    u, s, vt = np.linalg.svd(values, full_matrices=False)
    d = min(n_features, len(s))
    scale = (len(X) / len(Y)) ** 0.25
    a, b = np.zeros((len(X), n_features)), np.zeros((len(Y), n_features))
    a[:, :d], b[:, :d] = u[:, :d] * np.sqrt(s[:d]) * scale, vt[:d].T * np.sqrt(s[:d]) / scale
    phi = with_output(hidden_start([X.shape[1], width, n_features], activation, seed), X, a)
    psi = with_output(hidden_start([Y.shape[1], width, n_features], activation, seed + 1), Y, b)

    def objective(maps: list[MLP]) -> tuple[float, list[MLPGradient]]:
        value, grad_phi, grad_psi = relation_loss(X, Y, values, *maps)
        assert grad_phi is not None
        assert grad_psi is not None
        return value, [grad_phi, grad_psi]

    phi, psi = fit([phi, psi], objective, max_iter)
    return phi, psi


def one_map(start: MLP, objective: Callable[[MLP], tuple[float, MLPGradient]], max_iter: int) -> MLP:
    """Minimise a loss of one MLP by L-BFGS."""

    def of_list(maps: list[MLP]) -> tuple[float, list[MLPGradient]]:
        value, gradient = objective(maps[0])
        return value, [gradient]

    return fit([start], of_list, max_iter)[0]


def function(
    X: np.ndarray, y: np.ndarray, width: int, activation: Any = "relu", seed: int = 0, max_iter: int = 300
) -> MLP:
    """Fit one hidden layer to values of a function, as a relation with the single object 1."""
    start = with_output(hidden_start([X.shape[1], width, 1], activation, seed), X, y[:, None])
    one = np.ones((1, 1))

    def objective(mlp: MLP) -> tuple[float, MLPGradient]:
        # psi is the identity, written as a map with one weight.
        value, gradient, _ = relation_loss(X, one, np.ascontiguousarray(y[:, None]), mlp, MLP([one]))
        assert gradient is not None
        return value, gradient

    return one_map(start, objective, max_iter)
