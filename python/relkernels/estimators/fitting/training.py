"""Solvers: Adam and AdamW on mini-batches, and L-BFGS on all data at once.

They minimize a `Problem`: a vector of parameters, a loss with its gradient, and the batches of an epoch.
A fit that is interrupted or diverges still returns parameters: see `Fit`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from .parameters import Parameters
from .progress import progress_bar

SOLVERS = ("adam", "adamw", "lbfgs")

# Epochs without an improvement by tol after which a fit ends.
PATIENCE = 10


class Evaluated(NamedTuple):
    """A loss, its gradient with respect to the vector of parameters, and the number of pairs evaluated."""

    loss: float
    gradient: np.ndarray
    pairs: int


@dataclass
class Problem:
    """A loss to minimize.

    Attributes
    ----------
    parameters : Parameters
    evaluate : function of a vector of parameters and a batch
    epoch : function of a random generator
        The batches of one pass over the data, each with its weight in the loss of the epoch.
    whole : function of a random generator
        One batch of all data.
    validate : function of a vector of parameters, optional
        The loss on held-out data.
    """

    parameters: Parameters
    evaluate: Callable[[np.ndarray, Any], Evaluated]
    epoch: Callable[[np.random.RandomState], Iterable[tuple[Any, float]]]
    whole: Callable[[np.random.RandomState], Any]
    validate: Callable[[np.ndarray], float] | None = None


@dataclass
class Fit:
    """The result of a fit.

    Attributes
    ----------
    flat : ndarray
        The last parameters; the best ones if the fit had validation or was interrupted; the last ones with a
        finite loss if it diverged.
    stopped_by : KeyboardInterrupt, FloatingPointError or None
        Raised by the caller once the parameters are kept.
    """

    flat: np.ndarray
    curve: list[float] = field(default_factory=list)
    validation_curve: list[float] = field(default_factory=list)
    n_iter: int = 0
    stopped_by: BaseException | None = None


class Adam:
    """Moments of Adam (Kingma & Ba 2015), and of AdamW (Loshchilov & Hutter 2019).

    They belong to one sequence of steps, which `partial_fit` continues from call to call.
    """

    mean_decay, square_decay, epsilon = 0.9, 0.999, 1e-8

    def __init__(self, size: int, dtype: np.dtype) -> None:
        self.mean = np.zeros(size, dtype)
        self.square = np.zeros(size, dtype)
        self.steps = 0

    def step(
        self, flat: np.ndarray, gradient: np.ndarray, learning_rate: float, shrink: np.ndarray | None
    ) -> np.ndarray:
        """Return the next parameters; `shrink` is the decoupled decay of each parameter."""
        self.steps += 1
        self.mean += (1 - self.mean_decay) * (gradient - self.mean)
        self.square += (1 - self.square_decay) * (gradient * gradient - self.square)
        correction = np.sqrt(1 - self.square_decay**self.steps) / (1 - self.mean_decay**self.steps)
        move = learning_rate * correction * self.mean / (np.sqrt(self.square) + self.epsilon)
        if shrink is not None:
            move += learning_rate * shrink * flat
        return flat - move.astype(flat.dtype, copy=False)


class Plateau:
    """The rule that ends a fit: too many consecutive losses that do not improve the best one by tol."""

    def __init__(self, tol: float) -> None:
        self.tol = tol
        self.best = np.inf
        self.stale = 0

    def reached(self, loss: float) -> bool:
        """Record the loss of one more epoch; return whether the fit ends."""
        self.stale = 0 if loss < self.best - self.tol else self.stale + 1
        self.best = min(self.best, loss)
        return self.stale >= PATIENCE


def _diverged(loss: float, step: int, solver: str) -> FloatingPointError:
    remedy = "scale the features (to unit variance, say)"
    if solver != "lbfgs":
        remedy += ", or lower learning_rate"
    what = f"the loss became {loss}" if not np.isfinite(loss) else "the gradient stopped being finite"
    return FloatingPointError(f"{what} in step {step}: {remedy}; the parameters before it are kept")


def _penalized(problem: Problem, weight_decay: float) -> Callable[[np.ndarray, Any], Evaluated]:
    """Add weight_decay / 2 * |weights|^2 to the loss."""
    if not weight_decay:
        return problem.evaluate
    decay = weight_decay * problem.parameters.is_weight.astype(problem.parameters.dtype)

    def evaluate(flat: np.ndarray, batch: Any) -> Evaluated:
        found = problem.evaluate(flat, batch)
        pull = decay * flat.astype(decay.dtype, copy=False)
        loss = found.loss + 0.5 * float(np.dot(pull, flat))
        return Evaluated(loss, found.gradient + pull, found.pairs)

    return evaluate


def minimize(
    problem: Problem,
    *,
    solver: str,
    max_iter: int,
    learning_rate: float,
    weight_decay: float,
    tol: float,
    rng: np.random.RandomState,
    verbose: bool,
    adam: Adam | None = None,
) -> Fit:
    """Minimize the loss of a problem; `adam` continues an earlier sequence of steps."""
    if solver == "lbfgs":
        return _lbfgs(problem, max_iter, weight_decay, tol, rng, verbose)
    return _adam(problem, solver, max_iter, learning_rate, weight_decay, tol, rng, verbose, adam)


def _adam(
    problem: Problem,
    solver: str,
    max_iter: int,
    learning_rate: float,
    weight_decay: float,
    tol: float,
    rng: np.random.RandomState,
    verbose: bool,
    adam: Adam | None,
) -> Fit:
    parameters = problem.parameters
    flat = parameters.start.copy()
    finite = flat  # the last parameters at which the loss was finite
    best, best_loss = None, np.inf
    adam = Adam(len(flat), flat.dtype) if adam is None else adam
    decoupled = solver == "adamw" and weight_decay > 0
    shrink = weight_decay * parameters.is_weight.astype(flat.dtype) if decoupled else None
    evaluate = _penalized(problem, 0.0 if decoupled else weight_decay)
    plateau = Plateau(tol)
    fit = Fit(flat)
    try:
        with progress_bar(verbose, max_iter) as advance:
            for _ in range(max_iter):
                total, mass, pairs = 0.0, 0.0, 0
                for batch, share in problem.epoch(rng):
                    found = evaluate(flat, batch)
                    if not (np.isfinite(found.loss) and np.isfinite(found.gradient).all()):
                        raise _diverged(found.loss, adam.steps + 1, solver)
                    finite = flat
                    flat = adam.step(flat, found.gradient, learning_rate, shrink)
                    total, mass, pairs = total + found.loss * share, mass + share, pairs + found.pairs
                if mass == 0:
                    raise ValueError("y: expected at least one pair to learn from, got none in an epoch")
                judged = total / mass
                if problem.validate is not None:
                    judged = problem.validate(flat)
                    if not np.isfinite(judged):
                        raise _diverged(judged, adam.steps, solver)
                    fit.validation_curve.append(judged)
                fit.curve.append(total / mass)
                fit.n_iter += 1
                if judged < best_loss:
                    best, best_loss = flat, judged
                advance(judged, pairs)
                if plateau.reached(judged):
                    break
        fit.flat = flat if problem.validate is None or best is None else best
    except KeyboardInterrupt as interrupt:
        fit.flat, fit.stopped_by = finite if best is None else best, interrupt
    except FloatingPointError as error:
        fit.flat, fit.stopped_by = finite, error
    return fit


def _lbfgs(
    problem: Problem,
    max_iter: int,
    weight_decay: float,
    tol: float,
    rng: np.random.RandomState,
    verbose: bool,
) -> Fit:
    from scipy.optimize import minimize as scipy_minimize

    fit = Fit(problem.parameters.start.copy())
    evaluate_batch = _penalized(problem, weight_decay)
    best_loss, evaluations, pairs = np.inf, 0, 0

    def evaluate(flat: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best_loss, evaluations, pairs
        evaluations += 1
        found = evaluate_batch(flat, batch)
        if not (np.isfinite(found.loss) and np.isfinite(found.gradient).all()):
            raise _diverged(found.loss, evaluations, "lbfgs")
        if found.loss < best_loss:
            fit.flat, best_loss = flat.copy(), found.loss
        pairs += found.pairs
        return found.loss, found.gradient.astype(np.float64)

    try:
        with progress_bar(verbose, max_iter) as advance:
            batch = problem.whole(rng)

            def after_iteration(intermediate_result: Any) -> None:
                nonlocal pairs
                fit.curve.append(float(intermediate_result.fun))
                fit.n_iter += 1
                advance(fit.curve[-1], pairs)
                pairs = 0

            result = scipy_minimize(
                evaluate,
                problem.parameters.start.astype(np.float64),
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
        fit.flat = result.x
        fit.curve = fit.curve or [float(result.fun)]
        fit.n_iter = int(result.nit)
    except (KeyboardInterrupt, FloatingPointError) as stop:
        fit.stopped_by = stop
    return fit
