"""How the utility of a `PreferenceRetriever` is trained: its linear part, its start, its length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from ..base import check
from ..maps.activations import Activation, resolve
from ..maps.mlp import MLP
from .base import Trained, TrainedEstimator, map_widths
from .fitting import held_out
from .fitting.choice_samples import ChoiceSamples
from .fitting.folds import folds
from .fitting.linear_utility import (
    coefficients,
    inference,
    maps_of,
    maximum_likelihood,
    on_sphere,
    penalties,
    scale_of,
)
from .fitting.parameters import Parameters
from .fitting.problems import choices
from .fitting.sets import ItemSets
from .fitting.training import Problem

# Widths of the hidden layer with hidden_widths="auto", and queries for each of its units.
_NARROWEST, _WIDEST = 16, 128
_QUERIES_PER_UNIT = 16
# weight_decay="auto" is this divided by the number of choices: the precision of a normal prior on weights.
# Held-out losses of the travellers in the study `quality` (126 choices) are 0.58, 0.37, 0.35 and 0.36 with 0,
# 1.3, 3.8 and 12.6; on its other tables, 3 lowers them by at most 1 %.
_PRECISION = 3.0


class ChoiceTraining(TrainedEstimator[ChoiceSamples]):
    """The training of a utility by choices; a subclass also has a `UtilityMixin`."""

    activation: str | Activation
    n_negatives: int | None
    _has_auto_decay = True

    def _settings(self) -> dict[str, Any]:
        settings = super()._settings()
        if self.n_negatives is not None:
            check.integer("n_negatives", self.n_negatives, 1)
        if settings["normalize"] and not any(settings["hidden_widths"]):
            check.fail("normalize", "False with hidden_widths=(): a linear utility is not bounded", True)
        return settings

    def _samples(
        self, Q: np.ndarray, sets: ItemSets, target: np.ndarray, sample_weight: Any, groups: Any
    ) -> ChoiceSamples:
        weight = self._weights(sample_weight, Q)
        if self.n_negatives is not None and (not sets.shared or target.ndim == 2):
            check.fail(
                "n_negatives",
                "None unless items are chosen from one set that all queries share: all items are used",
                self.n_negatives,
            )
        if groups is not None:
            with check.naming("groups"):
                groups = np.unique(np.asarray(groups), return_inverse=True)[1]
            if groups.shape != (len(Q),):
                check.fail("groups", f"shape ({len(Q)},), a group for each query", groups.shape)
        n_alternatives = len(getattr(self, "alternatives_", ()))
        return ChoiceSamples(Q, sets, target, weight, groups, np.arange(len(Q)), n_alternatives)

    def _learn(self, samples: ChoiceSamples, settings: dict[str, Any]) -> Self:
        if settings["auto_hidden"]:
            width = _auto_width(samples)
            settings = {**settings, "hidden_widths": [[width], [width]]}
        return super()._learn(samples, settings)

    def _problem(self, parameters: Parameters, samples: ChoiceSamples, settings: dict[str, Any]) -> Problem:
        Q, sets, target, weight = samples.Q, samples.sets, samples.target, samples.all_weights
        size = settings["batch_size"] or _auto_batch(len(samples))
        return choices(parameters, Q, sets, target, weight, samples.queries, size, self.n_negatives)

    def _own_fit(
        self, samples: ChoiceSamples, settings: dict[str, Any], rng: np.random.RandomState
    ) -> Trained | None:
        """Fit a linear utility by maximum likelihood, and others as long as held-out choices improve."""
        activation, dtype = resolve(self.activation), samples.Q.dtype
        if self._is_logit(samples, settings):
            solved = maximum_likelihood(samples, settings["weight_decay"], settings["max_iter"])
            n_columns = [table.shape[1] for table in samples.tables]
            n_features = (
                min(1 + n_columns[0], n_columns[1]) if settings["auto_features"] else settings["n_features"]
            )
            maps = maps_of(solved.coefficients, [(n, n_features) for n in n_columns], activation, rng, dtype)
            return Trained(maps, [solved.loss], n_iter=max(1, solved.n_iter), settled=solved.settled)
        if settings["max_iter"] is not None or settings["early_stopping"] or settings["solver"] == "lbfgs":
            return None
        if settings["auto_decay"]:
            settings = {**settings, "weight_decay": _PRECISION / len(samples)}
        penalty = penalties(samples, rng)
        fitted = held_out.fit(
            samples,
            lambda part: self._first_parameters(part, penalty, settings, rng),
            lambda parameters, part: self._problem(parameters, part, settings),
            settings,
            rng,
        )
        found = fitted.held_out
        return Trained(
            fitted.maps,
            fitted.curve,
            fitted.numbers,
            max(1, found.epochs),
            found.curve,
            found.settled,
            found.stopped_by,
        )

    def _start(
        self, samples: ChoiceSamples, settings: dict[str, Any], rng: np.random.RandomState
    ) -> list[MLP]:
        if settings["partial"]:
            return super()._start(samples, settings, rng)
        return self._linear_start(samples, penalties(samples, rng), settings, rng)

    def _linear_start(
        self,
        samples: ChoiceSamples,
        penalty: np.ndarray,
        settings: dict[str, Any],
        rng: np.random.RandomState,
    ) -> list[MLP]:
        """Return maps that begin with the conditional logit of these choices."""
        widths = map_widths(samples, settings)
        linear = coefficients(samples, penalty, rng)
        maps = maps_of(linear, widths, resolve(self.activation), rng, samples.Q.dtype)
        return on_sphere(maps, samples) if settings["normalize"] else maps

    def _first_parameters(
        self,
        samples: ChoiceSamples,
        penalty: np.ndarray,
        settings: dict[str, Any],
        rng: np.random.RandomState,
    ) -> Parameters:
        maps = self._linear_start(samples, penalty, settings, rng)
        return Parameters(maps, self._start_numbers(maps, samples, settings, False))

    def _start_numbers(
        self, maps: Sequence[MLP], samples: ChoiceSamples, settings: dict[str, Any], continued: bool
    ) -> list[float]:
        """Return the logarithm of the scale, at a new start that of the conditional logit."""
        numbers = super()._start_numbers(maps, samples, settings, continued)
        if numbers and not continued and not settings["partial"]:
            numbers = [np.log(scale_of(maps, samples))]
        return numbers

    def _split(
        self, samples: ChoiceSamples, settings: dict[str, Any], rng: np.random.RandomState
    ) -> tuple[ChoiceSamples, ChoiceSamples | None]:
        if samples.groups is None or not settings["early_stopping"]:
            return super()._split(samples, settings, rng)
        n_folds = max(2, round(1 / settings["validation_fraction"]))
        out = folds(len(samples), n_folds, samples.groups, rng) == 0
        if out.all():
            check.fail("groups", "at least two groups with early_stopping", "one")
        return samples.select(np.flatnonzero(~out)), samples.select(np.flatnonzero(out))

    def _known_maps(self, samples: ChoiceSamples, settings: dict[str, Any]) -> list[MLP] | None:
        return None if self._is_logit(samples, settings) else super()._known_maps(samples, settings)

    def _is_logit(self, samples: ChoiceSamples, settings: dict[str, Any]) -> bool:
        """Return whether the utility is linear, with enough features for every coefficient."""
        if settings["partial"] or any(settings["hidden_widths"]):
            return False
        needed = min(1 + samples.Q.shape[1], samples.sets.items.shape[1])
        return settings["auto_features"] or settings["n_features"] >= needed

    def _keep(self, samples: ChoiceSamples, settings: dict[str, Any]) -> None:
        self._keep_margins(samples.Q, samples.sets, settings["partial"])
        for name in ("coefficients_", "standard_errors_"):
            self.__dict__.pop(name, None)
        if self._is_logit(samples, settings):
            self.coefficients_, self.standard_errors_ = inference(samples, self.phi_, self.psi_)


def _auto_width(samples: ChoiceSamples) -> int:
    """Return the default width of the hidden layers: few units for few choices.

    At most half of the units are needed to carry the linear part of the utility.
    """
    by_queries = 2 ** int(math.log2(max(1, len(samples) / _QUERIES_PER_UNIT)))
    rank = min(1 + samples.Q.shape[1], samples.sets.items.shape[1])
    return max(int(np.clip(by_queries, _NARROWEST, _WIDEST)), min(4 * rank, 2 * _WIDEST))


def _auto_batch(n: int) -> int:
    """Return the default number of queries in a mini-batch.

    The batches of an epoch are nearly equal in size: each makes a step of the same length, so that a small
    rest would add noise.
    """
    size = min(512, max(64, n // 4))
    return math.ceil(n / math.ceil(n / size))
