"""Training of a utility for as many epochs as held-out choices select, with a scale that calibrates it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ...maps.mlp import MLP
from ...ops import feature_map
from .choice_samples import ChoiceSamples
from .conditional_logit import ConditionalLogit
from .folds import folds, splits
from .parameters import Parameters
from .problems import Problem
from .sets import ItemSets
from .training import Fit, minimize

# Folds are used one after the other until this number of choices is held out or, with groups, of groups: the
# choices of one person are alike, and many choices of few persons say little about other persons.
_FOLDS = 5
_ENOUGH = 500
# Lengths of a training that are tried, in steps of Adam, from the shortest, while held-out choices improve.
_LENGTHS = (60, 200, 600, 2000)
# Utilities of held-out items in memory, at most, for each fold.
_UTILITIES = 10_000_000
# If all held-out choices are predicted, the best scale is infinite.
_LARGEST_SCALE = 2.0
# A fit of the greatest length has settled if that lowered the held-out loss by less than this share.
_SETTLED = 0.02


@dataclass
class Fitted:
    """Maps that are fitted, and the course of the fit.

    Attributes
    ----------
    maps : list of MLP
    curve : list of float
        Loss of each epoch of the last training.
    held_out : HeldOut
    """

    maps: list[MLP]
    curve: list[float]
    held_out: HeldOut


@dataclass
class HeldOut:
    """What held-out choices select.

    Attributes
    ----------
    epochs : int
        Length of the training with the least held-out loss; 0 for the start.
    scale : float
        The multiple of the utilities with the least held-out loss.
    curve : list of float
        Held-out loss of the start and of each length tried.
    settled : bool
        False if a longer training would have been better still.
    stopped_by : KeyboardInterrupt, FloatingPointError or None
    """

    epochs: int = 0
    scale: float = 1.0
    curve: list[float] = field(default_factory=list)
    settled: bool = True
    stopped_by: BaseException | None = None


class _Run(NamedTuple):
    """The training of one fold's maps, and the choices held out from it."""

    problem: Problem
    held: ChoiceSamples

    def utilities(self, flat: np.ndarray) -> np.ndarray:
        """Return the utilities of the held-out items, set by set."""
        phi, psi = self.problem.parameters.split(flat)[0]
        rows, sets = self.held.queries, self.held.sets
        f = feature_map(self.held.Q[rows], phi)
        if sets.shared:
            return (f @ feature_map(sets.items, psi).T).ravel()
        g = feature_map(sets.items[sets.places(rows)], psi)
        return np.einsum("ij,ij->i", np.repeat(f, sets.sizes[rows], axis=0), g)


class _Judge:
    """The loss of the utilities that several runs give to the choices held out from them."""

    def __init__(self, runs: Sequence[_Run]) -> None:
        self._runs = runs
        held = [run.held for run in runs]
        self._sizes = np.concatenate([one.sets.sizes[one.queries] for one in held])
        self._target = np.concatenate([one.probabilities().ravel() for one in held])
        weights = [one.weight for one in held if one.weight is not None]
        self._weight = np.concatenate(weights) if weights else None
        self._one = np.ones((1, 1))

    def scaled(self, flats: Sequence[np.ndarray]) -> ConditionalLogit:
        """Return the loss as a function of one coefficient, by which utilities are multiplied."""
        u = np.concatenate([run.utilities(flat) for run, flat in zip(self._runs, flats, strict=True)])
        sets = ItemSets(u[:, None], self._sizes, shared=False)
        return ConditionalLogit(np.empty((len(self._sizes), 0)), sets, self._target, self._weight)

    def loss(self, scaled: ConditionalLogit) -> float:
        return float(scaled.share @ scaled.losses(self._one))

    def scale(self, scaled: ConditionalLogit) -> float:
        found = scaled.fit(self._one > 0, np.zeros((1, 1)), self._one).coefficients[0, 0]
        return float(np.clip(found, 0.0, _LARGEST_SCALE))


def fit(
    samples: ChoiceSamples,
    start: Callable[[ChoiceSamples], list[MLP]],
    problem_of: Callable[[Parameters, ChoiceSamples], Problem],
    settings: dict[str, Any],
    rng: np.random.RandomState,
) -> Fitted:
    """Train maps from their start for the epochs that held-out choices select, and scale them.

    After an interrupt of the search the start is returned.
    """
    found = _select(samples, start, problem_of, settings, rng)
    problem = problem_of(Parameters(start(samples)), samples)
    flat = problem.parameters.start
    curve: list[float] = []
    if found.epochs and not isinstance(found.stopped_by, KeyboardInterrupt):
        trained = _trained(problem, found.epochs, settings, rng)
        flat, curve, found.stopped_by = trained.flat, trained.curve, trained.stopped_by
    if not curve:
        curve = [problem.evaluate(flat, problem.whole(rng)).loss]
    phi, psi = problem.parameters.split(flat)[0]
    return Fitted([_scaled(phi, found.scale), psi], curve, found)


def _scaled(mlp: MLP, scale: float) -> MLP:
    """Return the map with its features multiplied by a number."""
    assert mlp.biases is not None
    factor = mlp.dtype.type(scale)
    weights = [*mlp.weights[:-1], mlp.weights[-1] * factor]
    return MLP(weights, [*mlp.biases[:-1], mlp.biases[-1] * factor], mlp.activation)


def _select(
    samples: ChoiceSamples,
    start: Callable[[ChoiceSamples], list[MLP]],
    problem_of: Callable[[Parameters, ChoiceSamples], Problem],
    settings: dict[str, Any],
    rng: np.random.RandomState,
) -> HeldOut:
    """Train the maps of several folds for several lengths, and judge them by the choices held out."""
    found = HeldOut()
    runs = _runs(samples, start, problem_of, rng)
    if not runs:
        return found
    judge = _Judge(runs)
    best = judge.scaled([run.problem.parameters.start for run in runs])
    found.curve.append(judge.loss(best))
    batches = max(run.problem.n_batches for run in runs)
    for length in _LENGTHS:
        epochs = math.ceil(length / batches)
        fits = [_trained(run.problem, epochs, {**settings, "verbose": False}, rng) for run in runs]
        found.stopped_by = next((fit.stopped_by for fit in fits if fit.stopped_by is not None), None)
        if found.stopped_by is not None:
            break
        trained = judge.scaled([fit.flat for fit in fits])
        least = min(found.curve)
        found.curve.append(judge.loss(trained))
        if not found.curve[-1] < least:
            break
        best, found.epochs = trained, epochs
    else:
        found.settled = found.curve[-2] - found.curve[-1] < _SETTLED * found.curve[-1]
    found.scale = judge.scale(best)
    return found


def _runs(
    samples: ChoiceSamples,
    start: Callable[[ChoiceSamples], list[MLP]],
    problem_of: Callable[[Parameters, ChoiceSamples], Problem],
    rng: np.random.RandomState,
) -> list[_Run]:
    runs: list[_Run] = []
    judged = 0
    for training, held in splits(folds(len(samples), _FOLDS, samples.groups, rng)):
        if judged >= _ENOUGH:
            break
        judged += len(held) if samples.groups is None else len(np.unique(samples.groups[held]))
        rest = samples.select(training)
        held = held[: max(1, _UTILITIES // int(samples.sets.sizes.max()))]
        runs.append(_Run(problem_of(Parameters(start(rest)), rest), samples.select(held)))
    return runs


def _trained(problem: Problem, epochs: int, settings: dict[str, Any], rng: np.random.RandomState) -> Fit:
    """Train for exactly this number of epochs, with a step size that falls to zero."""
    return minimize(
        problem,
        solver="adamw" if settings["solver"] == "adamw" else "adam",
        max_iter=epochs,
        learning_rate=settings["learning_rate"],
        weight_decay=settings["weight_decay"],
        tol=-math.inf,
        rng=rng,
        verbose=settings["verbose"],
    )
