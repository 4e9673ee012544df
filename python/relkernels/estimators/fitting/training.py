"""Solvers: Adam and AdamW on mini-batches, and L-BFGS on all data at once.

They minimize a `Problem`: a vector of parameters, a loss with its gradient, and the batches of an epoch.
A fit that is interrupted or diverges still returns parameters: see `Fit`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from ...maps.mlp import MLP
from .parameters import Parameters
from .progress import progress_bar

SOLVERS = ("adam", "adamw", "lbfgs")

# Epochs without an improvement by tol after which a fit ends; at least this number of steps is waited for.
PATIENCE = 10
_PATIENT_STEPS = 100
# Steps of Adam with max_iter="auto", in whole epochs and at least this number of those.
AUTO_STEPS = 1000
AUTO_EPOCHS = 10
# Batches on which the result of a fit is compared with its start.
_JUDGED_BATCHES = 8
# Factors of the maps' outputs tried at the end.
_OUTPUT_FACTORS = (1.0, 0.7, 0.5, 0.3, 0.1)
# Iterations of L-BFGS with max_iter="auto".
AUTO_ITERATIONS = 200
# A fit that ends at max_iter has settled if the last tenth of its epochs brought less than this share of the
# improvement so far.
_SETTLED = 0.02


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
    n_batches : int
        Batches of an epoch, at most.
    whole : function of a random generator
        One batch of all data.
    validate : function of a vector of parameters, optional
        The loss on held-out data.
    """

    parameters: Parameters
    evaluate: Callable[[np.ndarray, Any], Evaluated]
    epoch: Callable[[np.random.RandomState], Iterable[tuple[Any, float]]]
    n_batches: int
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
    settled : bool
        False if `max_iter` ended the fit while its loss was still falling.
    worse_than : str or None
        What has a smaller loss than the trained parameters: "its start", which is kept, or "a constant".
    stopped_by : KeyboardInterrupt, FloatingPointError or None
        Raised by the caller once the parameters are kept.
    """

    flat: np.ndarray
    curve: list[float] = field(default_factory=list)
    validation_curve: list[float] = field(default_factory=list)
    n_iter: int = 0
    settled: bool = True
    worse_than: str | None = None
    stopped_by: BaseException | None = None


class ClosedForm(NamedTuple):
    """Maps that are fitted without a solver, their loss, and the logarithm of one over their temperature."""

    maps: list[MLP]
    loss: float
    log_scale: float = 0.0


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

    def __init__(self, tol: float, patience: int = PATIENCE) -> None:
        self.tol = tol
        self.patience = patience
        self.best = np.inf
        self.stale = 0

    def reached(self, loss: float) -> bool:
        """Record the loss of one more epoch; return whether the fit ends."""
        self.stale = 0 if loss < self.best - self.tol else self.stale + 1
        self.best = min(self.best, loss)
        return self.stale >= self.patience


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
    max_iter: int | None,
    learning_rate: float,
    weight_decay: float,
    tol: float,
    rng: np.random.RandomState,
    verbose: bool,
    adam: Adam | None = None,
) -> Fit:
    """Minimize the loss of a problem, for `max_iter` epochs or iterations; None is a number that suits it.

    `adam` continues an earlier sequence of steps at a constant step size. Otherwise the step size falls to
    zero along a half cosine (Loshchilov & Hutter 2017), and the parameters returned are no worse than the
    first ones, on held-out data or else on some batches.
    """
    if solver == "lbfgs":
        return _lbfgs(problem, max_iter or AUTO_ITERATIONS, weight_decay, tol, rng, verbose)
    epochs = max_iter or max(AUTO_EPOCHS, math.ceil(AUTO_STEPS / problem.n_batches))
    return _adam(problem, solver, epochs, learning_rate, weight_decay, tol, rng, verbose, adam)


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
    flat = problem.parameters.start.copy()
    best, best_loss, finite = None, np.inf, flat
    continued = adam is not None
    adam = adam or Adam(len(flat), flat.dtype)
    parameters = problem.parameters
    decoupled = solver == "adamw" and weight_decay > 0
    shrink = weight_decay * parameters.is_weight.astype(flat.dtype) if decoupled else None
    evaluate = _penalized(problem, 0.0 if decoupled else weight_decay)
    n_batches = problem.n_batches
    plateau = Plateau(tol, max(PATIENCE, _PATIENT_STEPS // n_batches))
    fit = Fit(flat)
    try:
        with progress_bar(verbose, max_iter) as advance:
            for n_epoch in range(max_iter):
                total, mass, pairs = 0.0, 0.0, 0
                for step, (batch, share) in enumerate(problem.epoch(rng), n_epoch * n_batches):
                    found = evaluate(flat, batch)
                    if not (np.isfinite(found.loss) and np.isfinite(found.gradient).all()):
                        raise _diverged(found.loss, adam.steps + 1, solver)
                    finite = flat
                    rate = learning_rate
                    if not continued:
                        rate *= 0.5 * (1 + math.cos(math.pi * step / (max_iter * n_batches)))
                    flat = adam.step(flat, found.gradient, rate, shrink)
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
            else:
                fit.settled = _settled(fit.validation_curve or fit.curve)
        last = flat if problem.validate is None or best is None else best
        fit.flat, fit.worse_than = (last, None) if continued else _best_of(problem, last)
    except KeyboardInterrupt as interrupt:
        fit.flat, fit.stopped_by = finite if best is None else best, interrupt
    except FloatingPointError as error:
        fit.flat, fit.stopped_by = finite, error
    return fit


def _settled(curve: list[float]) -> bool:
    """Return whether the last tenth of the epochs brought little of the improvement."""
    tenth = max(1, len(curve) // 10)
    if len(curve) <= tenth:
        return True
    return curve[-1 - tenth] - curve[-1] <= _SETTLED * max(curve[0] - curve[-1], abs(curve[-1]))


def _best_of(problem: Problem, last: np.ndarray) -> tuple[np.ndarray, str | None]:
    """Return the last parameters of a fit, unless its start is better, and what is better than they are.

    A short fit may end with a relation that is right but too large, and worse than a constant: so smaller
    outputs are tried. The constant itself is not kept, since no step leaves it: at outputs of zero, all
    gradients of the loss are zero. Losses are judged on held-out data, or else on some batches of one epoch.
    """
    judge = problem.validate
    if judge is None:
        sample = list(islice(problem.epoch(np.random.RandomState(0)), _JUDGED_BATCHES))

        def judge(flat: np.ndarray) -> float:
            return sum(problem.evaluate(flat, batch).loss * share for batch, share in sample)

    parameters = problem.parameters
    loss, best = np.inf, last
    for factor in (1.0,) if parameters.normalize else _OUTPUT_FACTORS:
        smaller = parameters.with_output(last, factor)
        if (found := judge(smaller)) < loss:
            loss, best = found, smaller
    if judge(parameters.start) < loss:
        return parameters.start, "its start"
    return best, "a constant" if judge(parameters.with_output(last, 0.0)) < loss else None


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
        fit.settled = bool(result.success)
    except (KeyboardInterrupt, FloatingPointError) as stop:
        fit.stopped_by = stop
    return fit
