"""Solvers: Adam in mini-batches of objects, and L-BFGS over all of them.

Both see the parameters of an MLP as one flat vector and minimize a loss over pairs of objects, given by
a function of the indices of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..gradients import MLPGradient
from ..mlp import MLP

# Loss over all pairs of the objects with these indices, and its gradient.
BatchObjective = Callable[[MLP, np.ndarray], tuple[float, MLPGradient]]

# Epochs without an improvement by tol after which a fit ends.
PATIENCE = 10


class FlatParameters:
    """The parameters of an MLP as one vector, and back."""

    def __init__(self, mlp: MLP) -> None:
        assert mlp.biases is not None
        self.activation = mlp.activation
        self.dtype = mlp.dtype
        arrays = [a for layer in zip(mlp.weights, mlp.biases, strict=True) for a in layer]
        self.shapes = [a.shape for a in arrays]
        self.start = np.concatenate([a.ravel() for a in arrays])

    def mlp(self, flat: np.ndarray) -> MLP:
        """Return the MLP with these parameters."""
        parts, at = [], 0
        for shape in self.shapes:
            size = int(np.prod(shape))
            parts.append(flat[at : at + size].reshape(shape).astype(self.dtype, copy=False))
            at += size
        return MLP(parts[0::2], parts[1::2], self.activation)

    @staticmethod
    def gradient(gradient: MLPGradient) -> np.ndarray:
        """Return a gradient as a vector in the order of the parameters."""
        assert gradient.biases is not None
        layers = zip(gradient.weights, gradient.biases, strict=True)
        return np.concatenate([a.ravel() for layer in layers for a in layer])


class Progress:
    """Loss of each epoch so far, and the rule that ends a fit."""

    def __init__(self, tol: float) -> None:
        self.tol = tol
        self.best = np.inf
        self.stale = 0

    def improved(self, loss: float) -> bool:
        """Note a loss; True where it beats the best so far by tol."""
        better = loss < self.best - self.tol
        self.stale = 0 if better else self.stale + 1
        self.best = min(self.best, loss)
        return better

    @property
    def exhausted(self) -> bool:
        """Tell whether too many losses in a row brought nothing."""
        return self.stale >= PATIENCE


@contextmanager
def progress_bar(verbose: bool, total: int) -> Iterator[Callable[[float], None]]:
    """Yield a function to call with the loss after each iteration."""
    if not verbose:
        yield lambda loss: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("fitting"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]}"),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("fitting", total=total, loss="-")

        def advance(loss: float) -> None:
            bar.update(task, advance=1, loss=f"{loss:.6g}")

        yield advance


def check_finite(loss: float, step: int) -> None:
    """Stop a fit that diverges."""
    if not np.isfinite(loss):
        raise FloatingPointError(
            f"the loss became {loss} in step {step}: scale the features of X (to unit variance, say), or "
            "lower learning_rate"
        )


def fit_adam(
    objective: BatchObjective,
    parameters: FlatParameters,
    n: int,
    *,
    max_iter: int,
    batch_size: int,
    learning_rate: float,
    tol: float,
    rng: np.random.RandomState,
    validation_loss: Callable[[MLP], float] | None,
    verbose: bool,
) -> tuple[np.ndarray, list[float], list[float]]:
    """Minimize by Adam (Kingma & Ba 2015) over mini-batches of objects.

    Returns the parameters (with a validation loss: the best ones by it), the loss of each epoch and the
    validation loss of each epoch.
    """
    decay_mean, decay_square, epsilon = 0.9, 0.999, 1e-8
    flat = parameters.start.copy()
    mean, square = np.zeros_like(flat), np.zeros_like(flat)
    best = flat
    progress = Progress(tol)
    curve: list[float] = []
    validation_curve: list[float] = []
    step = 0
    with progress_bar(verbose, max_iter) as advance:
        for _ in range(max_iter):
            order = rng.permutation(n)
            total = 0.0
            for begin in range(0, n, batch_size):
                batch = order[begin : begin + batch_size]
                step += 1
                loss, gradient = objective(parameters.mlp(flat), batch)
                check_finite(loss, step)
                g = parameters.gradient(gradient)
                mean += (1 - decay_mean) * (g - mean)
                square += (1 - decay_square) * (g * g - square)
                rate = learning_rate * np.sqrt(1 - decay_square**step) / (1 - decay_mean**step)
                flat -= (rate * mean / (np.sqrt(square) + epsilon)).astype(flat.dtype)
                total += loss * len(batch)
            curve.append(total / n)
            judged = curve[-1]
            if validation_loss is not None:
                judged = validation_loss(parameters.mlp(flat))
                validation_curve.append(judged)
            if judged < progress.best and validation_loss is not None:
                best = flat.copy()
            progress.improved(judged)
            advance(judged)
            if progress.exhausted:
                break
    return flat if validation_loss is None else best, curve, validation_curve


def fit_lbfgs(
    objective: Callable[[MLP], tuple[float, MLPGradient]],
    parameters: FlatParameters,
    *,
    max_iter: int,
    tol: float,
    verbose: bool,
) -> tuple[np.ndarray, list[float], int]:
    """Minimize by L-BFGS (SciPy) over all pairs at once.

    Returns the parameters, the loss after each iteration and the number of iterations.
    """
    from scipy.optimize import minimize

    evaluations = 0
    last = np.inf
    curve: list[float] = []

    def evaluate(flat: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal evaluations, last
        evaluations += 1
        last, gradient = objective(parameters.mlp(flat))
        check_finite(last, evaluations)
        return last, parameters.gradient(gradient).astype(np.float64)

    with progress_bar(verbose, max_iter) as advance:

        def after_iteration(intermediate_result: Any) -> None:
            curve.append(float(intermediate_result.fun))
            advance(curve[-1])

        result = minimize(
            evaluate,
            parameters.start.astype(np.float64),
            jac=True,
            method="L-BFGS-B",
            callback=after_iteration,
            options={
                "maxiter": max_iter,
                "maxfun": 4 * max_iter,
                "ftol": tol,
                "gtol": 1e-10,
                "maxcor": 20,
            },
        )
    return result.x, curve or [float(result.fun)], int(result.nit)
