"""The steps of a fit that the trained estimators share, and the checks of their parameters."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from ..base import check
from ..base.random_state import legacy_generator
from ..gradients import LOSSES
from ..maps.mlp import MLP
from .files import SavedEstimator
from .fitting.parameters import Parameters
from .fitting.problems import Weight
from .fitting.scaling import Scaling
from .fitting.starts import check_maps, checked_init, trainable
from .fitting.training import SOLVERS, Adam, ClosedForm, Fit, Problem, minimize
from .fitting.unit_length import START, needs_temperature
from .tables import check_sample_weight, validate_data

# Hidden layers with hidden_widths="auto", where the fit has no closed form.
AUTO_HIDDEN = (256,)
# Features with n_features="auto", where neither classes nor a spectrum say how many.
AUTO_FEATURES = 32
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

    def scalings(self) -> list[Scaling]:
        """Return the scaling of the columns of each table."""

    def scaled(self, scalings: Sequence[Scaling]) -> Self:
        """Return these samples with scaled tables."""


S = TypeVar("S", bound=Samples)


class Trained(NamedTuple):
    """Maps that are not fitted by one run of a solver, and the course of their fit; see `Fit`."""

    maps: list[MLP]
    curve: list[float]
    numbers: Sequence[float] = (0.0,)
    n_iter: int = 1
    validation_curve: Sequence[float] = ()
    settled: bool = True
    stopped_by: BaseException | None = None
    worse_than: str | None = None


def _between(name: str, value: Any, low: float, high: float, closed: bool) -> float:
    number = check.real(name, value)
    if not ((low <= number if closed else low < number) and number < high):
        bound = f"a number between {low:g} and {high:g}" if high < np.inf else "a finite number"
        check.fail(name, bound if high < np.inf else f"{bound} {'>=' if closed else '>'} 0", repr(number))
    return number


def auto_batch(n: int) -> int:
    """Return the default number of objects in a mini-batch, which uses all of their pairs.

    Small tables are cut into several batches, since it is steps that train; 512 objects have 262,144 pairs.
    """
    return min(512, max(64, n // 8))


def in_steps(estimator: Any) -> bool:
    """Tell whether `partial_fit` exists: L-BFGS and ALS have no steps to continue."""
    if estimator.solver in ("als", "lbfgs"):
        raise AttributeError(f"partial_fit: expected solver 'adam' or 'adamw', got {estimator.solver!r}")
    return True


class TrainedEstimator(SavedEstimator, BaseEstimator, Generic[S]):
    """An estimator whose maps a solver trains.

    A subclass has the constructor's parameters that `_settings` reads. Its `fit` and `partial_fit` check
    their arguments, collect them in `Samples` and call `_learn`, whose steps are methods: a subclass
    defines `_problem` and `_keep`, and extends `_start` and `_start_numbers` if it starts from more than
    random maps. The maps are `phi_` and, if there are two, `psi_`.
    """

    _losses: tuple[str, ...] = LOSSES
    _solvers: tuple[str, ...] = ("auto", *SOLVERS)
    _has_auto_decay = False
    # Of estimators pickled before there were these parameters.
    normalize: bool = False
    init: Any = "auto"

    def _settings(self) -> dict[str, Any]:
        """Check the parameters, and return them as `_learn` reads them.

        `partial` is True in `partial_fit`; `reset` is True if tables may differ from those of the last fit.
        """
        solver = check.choice("solver", self.solver, self._solvers)
        fraction = _between("validation_fraction", self.validation_fraction, 0, 1, closed=False)
        settings = {
            "n_features": AUTO_FEATURES
            if _is_auto(self.n_features)
            else check.integer("n_features", self.n_features, 1, check.WIDEST),
            "auto_features": _is_auto(self.n_features),
            "solver": solver,
            "max_iter": None if _is_auto(self.max_iter) else check.integer("max_iter", self.max_iter, 1),
            "batch_size": None
            if _is_auto(self.batch_size)
            else check.integer("batch_size", self.batch_size, 2),
            "standardize": check.flag("standardize", self.standardize),
            "normalize": check.flag("normalize", self.normalize),
            "learning_rate": _between("learning_rate", self.learning_rate, 0, np.inf, closed=False),
            "auto_decay": self._has_auto_decay and _is_auto(self.weight_decay),
            "tol": _between("tol", self.tol, 0, np.inf, closed=True),
            "early_stopping": check.flag("early_stopping", self.early_stopping),
            "validation_fraction": fraction,
            "warm_start": check.flag("warm_start", self.warm_start),
            "init": checked_init(self.init, 2 if hasattr(self, "hidden_widths_psi") else 1),
            "verbose": check.switch("verbose", self.verbose),
            "partial": False,
            "reset": True,
        }
        settings["weight_decay"] = (
            0.0
            if settings["auto_decay"]
            else _between("weight_decay", self.weight_decay, 0, np.inf, closed=True)
        )
        if hasattr(self, "loss"):
            settings["loss"] = check.choice("loss", self.loss, self._losses)
        if settings["early_stopping"] and solver == "lbfgs":
            check.fail("early_stopping", "False with solver='lbfgs', which sees all pairs", True)
        if solver == "adamw" and settings["weight_decay"] == 0:
            check.fail(
                "weight_decay",
                "a number > 0 with solver='adamw', which is adam without it",
                repr(self.weight_decay),
            )
        hidden = [_hidden("hidden_widths", self.hidden_widths)]
        if hasattr(self, "hidden_widths_psi"):
            psi = self.hidden_widths if self.hidden_widths_psi is None else self.hidden_widths_psi
            hidden.append(_hidden("hidden_widths_psi", psi))
        settings["hidden_widths"] = [AUTO_HIDDEN if h is None else h for h in hidden]
        settings["auto_hidden"] = all(h is None for h in hidden)
        settings["closed_form"] = (
            settings["auto_hidden"]
            and settings.get("loss", "auto") == "auto"
            and solver == "auto"
            and settings["max_iter"] is None
            and not settings["early_stopping"]
            and settings["init"] == "auto"
        )
        return settings

    def _one_epoch(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of a `partial_fit`."""
        if settings["early_stopping"]:
            check.fail("early_stopping", "False for partial_fit, which sees one batch", True)
        changed = {
            "max_iter": 1,
            "verbose": False,
            "partial": True,
            "closed_form": False,
            "reset": not hasattr(self, "phi_"),
        }
        return {**settings, **changed}

    def _n_negatives(self, auto: int, loss: str) -> int:
        """Return the number of negatives for each pair."""
        if _is_auto(self.n_negatives):
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
        if not settings["partial"]:  # drop the state of earlier calls of partial_fit
            self.__dict__.pop("_adam", None)
            self.__dict__.pop("_rng", None)
        rng = self._generator(settings["partial"])
        known = self._known_maps(samples, settings)
        first = self._given_maps(samples, settings) if known is None else known
        scalings = self._scalings(samples, settings, known)
        samples = samples.scaled(scalings)

        def keep(maps: Sequence[MLP], numbers: np.ndarray) -> None:
            for name, mlp, scaling in zip(_MAPS, maps, scalings, strict=False):
                setattr(self, name, scaling.folded(mlp))
            self.column_means_ = [scaling.mean for scaling in scalings]
            self.column_scales_ = [scaling.scale for scaling in scalings]
            self._n_features_out = maps[0].widths[-1]
            self.__dict__.pop("temperature_", None)
            if self._has_temperature(given, settings):
                self.temperature_ = float(np.exp(-np.float64(numbers[0])))
            self._keep(given, settings)

        if known is None and (trained := self._own_fit(samples, settings, rng)) is not None:
            keep(trained.maps, np.asarray(trained.numbers))
            self._keep_curves(trained.curve, trained.n_iter, trained.validation_curve)
            self._finish(trained)
            return self
        training, held_out = self._split(samples, settings, rng)
        if first is None:
            maps = self._start(training, settings, rng)
        else:
            maps = [scaling.unfolded(mlp) for scaling, mlp in zip(scalings, first, strict=True)]
        parameters = Parameters(maps, self._start_numbers(maps, samples, settings, known is not None))
        problem = self._problem(parameters, training, settings)
        if held_out is not None:
            judge = self._problem(parameters, held_out, settings)
            validation = judge.whole(rng)
            problem.validate = lambda flat: judge.evaluate(flat, validation).loss
        self._train(problem, settings, rng, lambda flat: keep(*parameters.split(flat)))
        return self

    def _own_fit(self, samples: S, settings: dict[str, Any], rng: np.random.RandomState) -> Trained | None:
        """Return maps that are not fitted by one run of a solver; None if these settings need one."""
        closed = self._closed_form(samples, settings, rng) if settings["closed_form"] else None
        return None if closed is None else Trained(closed.maps, [closed.loss], [closed.log_scale])

    def _closed_form(
        self, samples: S, settings: dict[str, Any], rng: np.random.RandomState
    ) -> ClosedForm | None:
        """Return maps that are fitted without a solver; None if these settings need one."""
        return None

    def _scalings(self, samples: S, settings: dict[str, Any], known: Any) -> list[Scaling]:
        """Return the scaling of the columns of each table: that of the maps that are continued, if any."""
        if known is not None and hasattr(self, "column_means_"):
            return [Scaling(*both) for both in zip(self.column_means_, self.column_scales_, strict=True)]
        if known is not None or not settings["standardize"]:
            return [Scaling.none(table.shape[1]) for table in samples.tables]
        return samples.scalings()

    def _known_maps(self, samples: S, settings: dict[str, Any]) -> list[MLP] | None:
        """Return the maps that a fit continues, or None; refuse those of other parameters or tables."""
        if not (settings["partial"] or settings["warm_start"]) or not hasattr(self, "phi_"):
            return None
        known: list[MLP] = [getattr(self, name) for name in _MAPS if hasattr(self, name)]
        self._check_maps("partial_fit" if settings["partial"] else "warm_start", known, samples, settings)
        return known

    def _given_maps(self, samples: S, settings: dict[str, Any]) -> list[MLP] | None:
        """Return the maps of `init`, or None; refuse those of other parameters or tables."""
        if isinstance(settings["init"], str):
            return None
        given = [trainable(mlp, samples.tables[0].dtype) for mlp in settings["init"]]
        self._check_maps("init", given, samples, settings)
        return given

    def _check_maps(self, argument: str, maps: Sequence[MLP], samples: S, settings: dict[str, Any]) -> None:
        wanted = map_widths(samples, settings), self.activation, samples.tables[0].dtype
        check_maps(argument, dict(zip(_MAPS, maps, strict=False)), *wanted, settings)

    def _start(self, samples: S, settings: dict[str, Any], rng: np.random.RandomState) -> list[MLP]:
        """Return the maps that a new fit starts from: random ones with features of about unit length."""
        dtype = samples.tables[0].dtype
        maps = [MLP.random(widths, self.activation, rng, dtype) for widths in map_widths(samples, settings)]
        shrink = dtype.type(settings["n_features"] ** -0.5)
        return [
            MLP(
                [*m.weights[:-1], m.weights[-1] * shrink],
                m.biases,
                m.activation,
                normalize=settings["normalize"],
            )
            for m in maps
        ]

    def _has_temperature(self, samples: S, settings: dict[str, Any]) -> bool:
        """Return whether the loss is of relation values divided by a learned temperature."""
        return settings["normalize"] and needs_temperature(settings.get("loss", "softmax"))

    def _start_numbers(
        self, maps: Sequence[MLP], samples: S, settings: dict[str, Any], continued: bool
    ) -> list[float]:
        """Return the first values of the numbers that are trained beside the maps.

        That is the logarithm of one over the temperature, if there is one.
        """
        if not self._has_temperature(samples, settings):
            return []
        temperature = getattr(self, "temperature_", None) if continued else None
        return [-np.log(temperature or settings.get("temperature", START))]

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

    def _keep(self, samples: S, settings: dict[str, Any]) -> None:
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
        names = ("solver", "max_iter", "learning_rate", "weight_decay", "tol", "verbose")
        chosen = {name: settings[name] for name in names}
        chosen["solver"] = "adam" if chosen["solver"] == "auto" else chosen["solver"]
        fit = minimize(problem, **chosen, rng=rng, adam=adam)
        keep(fit.flat)
        self._keep_curves(fit.curve, fit.n_iter, fit.validation_curve)
        self._finish(fit)

    def _finish(self, fit: Fit | Trained) -> None:
        """Raise what stopped a fit, or say that it has not settled, or came to nothing."""
        if fit.stopped_by is not None:
            raise fit.stopped_by
        name = type(self).__name__
        if fit.worse_than is not None:
            text = (
                f"{name}: training ended with a larger loss than that of {fit.worse_than}: lower "
                "learning_rate or raise max_iter, unless the columns say nothing about the targets"
            )
        elif not fit.settled:
            text = f"{name}: the loss was still falling when the fit ended: raise max_iter, {fit.n_iter} now"
        else:
            return
        warnings.warn(text, ConvergenceWarning, stacklevel=2)

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


def _is_auto(value: Any) -> bool:
    return isinstance(value, str) and value == "auto"


def _hidden(name: str, value: Any) -> tuple[int, ...] | None:
    """Return widths of hidden layers, or None for "auto"."""
    return None if _is_auto(value) else tuple(check.widths(name, value))


def map_widths(samples: Samples, settings: dict[str, Any]) -> list[tuple[int, ...]]:
    """Return the widths of each map."""
    ends = zip(samples.tables, settings["hidden_widths"], strict=True)
    return [(table.shape[1], *hidden, settings["n_features"]) for table, hidden in ends]
