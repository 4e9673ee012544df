"""The steps of a fit that the trained estimators share, and the checks of their parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from ..base import check
from ..base.random_state import legacy_generator
from ..gradients import LOSSES
from ..maps.activations import resolve
from ..maps.mlp import MLP
from .files import SavedEstimator
from .fitting.parameters import Parameters
from .fitting.problems import Weight
from .fitting.training import SOLVERS, Adam, Problem, minimize
from .tables import check_sample_weight, validate_data

# Objects in the default mini-batch, which uses all of their 262,144 pairs.
AUTO_BATCH = 512
# Pairs in the default mini-batch of pairs.
AUTO_PAIRS = 2048
# Negatives drawn for each related pair where "auto" draws any.
AUTO_NEGATIVES = 5

# Attributes that hold the trained maps; a symmetric relation has only the first.
_MAPS = ("phi_", "psi_")


class Samples(Protocol):
    """The checked arguments of a fit: tables, targets and weights, one sample per row of the first table."""

    @property
    def weight(self) -> Weight:
        """The weight of each sample, or None."""

    @property
    def tables(self) -> tuple[np.ndarray, ...]:
        """The inputs of each map."""

    def __len__(self) -> int: ...

    def select(self, rows: np.ndarray) -> Self:
        """Return these samples."""


S = TypeVar("S", bound=Samples)


def _between(name: str, value: Any, low: float, high: float, closed: bool) -> float:
    number = check.real(name, value)
    if not ((low <= number if closed else low < number) and number < high):
        bound = f"a number between {low:g} and {high:g}" if high < np.inf else "a finite number"
        check.fail(name, bound if high < np.inf else f"{bound} {'>=' if closed else '>'} 0", repr(number))
    return number


def in_steps(estimator: Any) -> bool:
    """Tell whether `partial_fit` exists: L-BFGS has no steps to continue, as in scikit-learn's MLPs."""
    if estimator.solver == "lbfgs":
        raise AttributeError("partial_fit: expected solver 'adam' or 'adamw', got 'lbfgs'")
    return True


class TrainedEstimator(SavedEstimator, BaseEstimator, Generic[S]):
    """An estimator whose maps a solver trains.

    A subclass has the constructor's parameters that `_settings` reads. Its `fit` and `partial_fit` check
    their arguments, collect them in `Samples` and call `_learn`, whose steps are methods: a subclass
    defines `_problem` and `_keep`, and extends `_start` and `_start_numbers` if it starts from more than
    random maps. The maps are `phi_` and, if there are two, `psi_`.
    """

    _losses: tuple[str, ...] = LOSSES

    def _settings(self) -> dict[str, Any]:
        """Check the parameters, and return them as `_learn` reads them.

        `partial` is True in `partial_fit`; `reset` is True if tables may differ from those of the last fit.
        """
        solver = check.choice("solver", self.solver, SOLVERS)
        auto = isinstance(self.batch_size, str) and self.batch_size == "auto"
        fraction = _between("validation_fraction", self.validation_fraction, 0, 1, closed=False)
        settings = {
            "n_features": check.integer("n_features", self.n_features, 1, check.WIDEST),
            "solver": solver,
            "max_iter": check.integer("max_iter", self.max_iter, 1),
            "batch_size": None if auto else check.integer("batch_size", self.batch_size, 2),
            "learning_rate": _between("learning_rate", self.learning_rate, 0, np.inf, closed=False),
            "weight_decay": _between("weight_decay", self.weight_decay, 0, np.inf, closed=True),
            "tol": _between("tol", self.tol, 0, np.inf, closed=True),
            "early_stopping": check.flag("early_stopping", self.early_stopping),
            "validation_fraction": fraction,
            "warm_start": check.flag("warm_start", self.warm_start),
            "verbose": check.switch("verbose", self.verbose),
            "partial": False,
            "reset": True,
        }
        if hasattr(self, "loss"):
            settings["loss"] = check.choice("loss", self.loss, self._losses)
        if settings["early_stopping"] and solver == "lbfgs":
            check.fail("early_stopping", "False with solver='lbfgs', which sees all pairs", True)
        if solver == "adamw" and settings["weight_decay"] == 0:
            check.fail("weight_decay", "a number > 0 with solver='adamw', which is adam without it", 0.0)
        hidden = [check.widths("hidden_widths", self.hidden_widths)]
        if hasattr(self, "hidden_widths_psi"):
            psi = self.hidden_widths if self.hidden_widths_psi is None else self.hidden_widths_psi
            hidden.append(check.widths("hidden_widths_psi", psi))
        settings["hidden_widths"] = hidden
        return settings

    def _one_epoch(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of a `partial_fit`."""
        if settings["early_stopping"]:
            check.fail("early_stopping", "False for partial_fit, which sees one batch", True)
        changed = {"max_iter": 1, "verbose": False, "partial": True, "reset": not hasattr(self, "phi_")}
        return {**settings, **changed}

    def _n_negatives(self, auto: int, loss: str) -> int:
        """Return the number of negatives for each pair."""
        if isinstance(self.n_negatives, str) and self.n_negatives == "auto":
            return AUTO_NEGATIVES if loss == "softmax" else auto
        number = check.integer("n_negatives", self.n_negatives, 0)
        if loss == "softmax" and number == 0:
            check.fail("n_negatives", "at least 1 with loss='softmax', which compares alternatives", 0)
        return number

    def _rows(self, X: Any, name: str = "X", *, reset: bool = False, **options: Any) -> np.ndarray:
        """Return the rows of the first table as phi takes them.

        With `reset` they may differ from those of the last fit in dtype and columns. Sparse tables are
        returned in CSR format by estimators that accept them.
        """
        if not reset:
            check_is_fitted(self)
        dtype = [np.float64, np.float32] if reset else self.phi_.dtype
        if self.__sklearn_tags__().input_tags.sparse:
            options["accept_sparse"] = "csr"
        return validate_data(self, X, name=name, dtype=dtype, reset=reset, **options)

    def _weights(self, sample_weight: Any, X: np.ndarray) -> Weight:
        """Return the weights of the rows of X, or None."""
        if sample_weight is None:
            return None
        weight = check_sample_weight(sample_weight, X, X.dtype)
        if not weight.sum() > 0:
            check.fail("sample_weight", "at least one weight > 0", f"all zero, shape {weight.shape}")
        return weight

    def _learn(self, samples: S, settings: dict[str, Any]) -> Self:
        """Train the maps on these samples and keep them: the steps of every fit."""
        given, weight = samples, samples.weight
        if weight is not None and not weight.all():
            samples = samples.select(np.flatnonzero(weight))
        rng = self._generator(settings["partial"])
        known = self._known_maps(samples, settings)
        maps = self._start(samples, settings, rng) if known is None else known
        parameters = Parameters(maps, self._start_numbers(samples, settings, known is not None))
        training, held_out = self._split(samples, settings, rng)
        problem = self._problem(parameters, training, settings)
        if held_out is not None:
            judge = self._problem(parameters, held_out, settings)
            validation = judge.whole(rng)
            problem.validate = lambda flat: judge.evaluate(flat, validation).loss

        def keep(flat: np.ndarray) -> None:
            trained, numbers = parameters.split(flat)
            for name, mlp in zip(_MAPS, trained, strict=False):
                setattr(self, name, mlp)
            self._n_features_out = settings["n_features"]
            self._keep(given, numbers, settings)

        self._train(problem, settings, rng, keep)
        return self

    def _known_maps(self, samples: S, settings: dict[str, Any]) -> list[MLP] | None:
        """Return the maps that a fit continues, or None; refuse those of other parameters or tables."""
        if not (settings["partial"] or settings["warm_start"]) or not hasattr(self, "phi_"):
            return None
        known: list[MLP] = [getattr(self, name) for name in _MAPS if hasattr(self, name)]
        activation, dtype = resolve(self.activation), samples.tables[0].dtype
        for name, mlp, widths in zip(_MAPS, known, _map_widths(samples, settings), strict=False):
            if (mlp.widths, mlp.activation, mlp.dtype) != (widths, activation, dtype):
                check.fail(
                    "partial_fit" if settings["partial"] else "warm_start",
                    f"parameters and tables that {name} fits, {mlp!r}",
                    f"widths {widths}, {activation}, {dtype}; fit a clone to begin anew",
                )
        return known

    def _start(self, samples: S, settings: dict[str, Any], rng: np.random.RandomState) -> list[MLP]:
        """Return the maps that a new fit starts from."""
        dtype = samples.tables[0].dtype
        return [MLP.random(widths, self.activation, rng, dtype) for widths in _map_widths(samples, settings)]

    def _start_numbers(self, samples: S, settings: dict[str, Any], continued: bool) -> list[float]:
        """Return the first values of the numbers that are trained beside the maps."""
        return []

    def _split(self, samples: S, settings: dict[str, Any], rng: np.random.RandomState) -> tuple[S, S | None]:
        """Return the samples to train on and those to validate on, if any."""
        if not settings["early_stopping"]:
            return samples, None
        n = len(samples)
        held = max(2, round(settings["validation_fraction"] * n))
        if n - held < 2:
            check.fail("validation_fraction", "a split with 2 samples on each side", f"{n} samples")
        order = rng.permutation(n)
        return samples.select(np.sort(order[held:])), samples.select(np.sort(order[:held]))

    def _problem(self, parameters: Parameters, samples: S, settings: dict[str, Any]) -> Problem:
        """Return the loss over these samples and its batches."""
        raise NotImplementedError

    def _keep(self, samples: S, numbers: np.ndarray, settings: dict[str, Any]) -> None:
        """Keep what depends on the trained maps; `samples` include those of weight zero."""
        raise NotImplementedError

    def _train(
        self,
        problem: Problem,
        settings: dict[str, Any],
        rng: np.random.RandomState,
        keep: Callable[[np.ndarray], None],
    ) -> None:
        """Minimize, keep the parameters and the curves, then raise the error that stopped the fit."""
        adam = self._continued_adam(problem.parameters) if settings["partial"] else None
        if adam is None:  # a new fit: drop the state of earlier calls of partial_fit
            self.__dict__.pop("_adam", None)
            self.__dict__.pop("_rng", None)
        names = ("solver", "max_iter", "learning_rate", "weight_decay", "tol", "verbose")
        fit = minimize(problem, **{name: settings[name] for name in names}, rng=rng, adam=adam)
        keep(fit.flat)
        self._keep_curves(fit.curve, fit.n_iter, fit.validation_curve)
        if fit.stopped_by is not None:
            raise fit.stopped_by

    def _keep_curves(self, curve: list[float], n_iter: int, validation_curve: Sequence[float] = ()) -> None:
        """Keep the losses and the number of iterations of a fit."""
        self.loss_curve_ = curve
        self.n_iter_ = n_iter
        self.loss_ = curve[-1] if curve else float("nan")
        self.__dict__.pop("validation_loss_curve_", None)
        if validation_curve:
            self.validation_loss_curve_ = validation_curve
            self.loss_ = min(validation_curve)

    def _generator(self, partial: bool) -> np.random.RandomState:
        """Return the generator of a fit; `partial_fit` continues the same one from call to call."""
        if not partial:
            return legacy_generator(self.random_state)
        if not hasattr(self, "_rng"):
            self._rng = legacy_generator(self.random_state)
        return self._rng

    def _continued_adam(self, parameters: Parameters) -> Adam:
        """Return the moments of the last `partial_fit`, or new ones."""
        adam = getattr(self, "_adam", None)
        if adam is None or len(adam.mean) != len(parameters.start) or adam.mean.dtype != parameters.dtype:
            adam = Adam(len(parameters.start), parameters.dtype)
        self._adam = adam
        return adam

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "phi_")


def _map_widths(samples: Samples, settings: dict[str, Any]) -> list[tuple[int, ...]]:
    """Return the widths of each map."""
    ends = zip(samples.tables, settings["hidden_widths"], strict=True)
    return [(table.shape[1], *hidden, settings["n_features"]) for table, hidden in ends]
