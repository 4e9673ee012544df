"""What the trained estimators share: checks of their parameters, and fits that keep what was reached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from ..base import check
from ..base.random_state import legacy_generator
from ..gradients import LOSSES
from ..maps.activations import resolve
from ..maps.mlp import MLP
from .files import SavedEstimator
from .fitting.training import SOLVERS, Adam, Problem, minimize
from .tables import check_sample_weight

# Objects in the default mini-batch: all of their 262,144 pairs enter.
AUTO_BATCH = 512
# Pairs in the default mini-batch of pairs.
AUTO_PAIRS = 2048
# Negatives drawn for each related pair where "auto" asks for some.
AUTO_NEGATIVES = 5

# Weights of objects, or None: all count once.
Weight = np.ndarray | None


def part(values: Any, rows: np.ndarray) -> Any:
    """Return these rows; None stays None."""
    return None if values is None else values[rows]


def checked_widths(name: str, value: Any) -> list[int]:
    """Return the widths of hidden layers."""
    return check.widths(name, value)


def _between(name: str, value: Any, low: float, high: float, closed: bool) -> float:
    number = check.real(name, value)
    if not ((low <= number if closed else low < number) and number < high):
        bound = f"a number between {low:g} and {high:g}" if high < np.inf else "a finite number"
        check.fail(name, bound if high < np.inf else f"{bound} {'>=' if closed else '>'} 0", repr(number))
    return number


def in_steps(estimator: Any) -> bool:
    """Tell whether `partial_fit` is there: L-BFGS has no steps to go on with, as in scikit-learn's MLPs."""
    if estimator.solver == "lbfgs":
        raise AttributeError("partial_fit: expected solver 'adam' or 'adamw', got 'lbfgs'")
    return True


class TrainedEstimator(SavedEstimator, BaseEstimator):
    """An estimator whose maps a solver trains.

    Subclasses have the constructor's parameters that `_settings` reads, and keep their maps as `phi_`
    and `psi_`.
    """

    _losses: tuple[str, ...] = LOSSES

    def _settings(self) -> dict[str, Any]:
        """Check the parameters that all estimators share."""
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
        }
        if hasattr(self, "loss"):
            settings["loss"] = check.choice("loss", self.loss, self._losses)
        if settings["early_stopping"] and solver == "lbfgs":
            check.fail("early_stopping", "False with solver='lbfgs', which sees all pairs", True)
        if solver == "adamw" and settings["weight_decay"] == 0:
            check.fail("weight_decay", "a number > 0 with solver='adamw', which is adam without it", 0.0)
        return settings

    def _n_negatives(self, auto: int, loss: str) -> int:
        """Return the number of negatives for each pair."""
        if isinstance(self.n_negatives, str) and self.n_negatives == "auto":
            return AUTO_NEGATIVES if loss == "softmax" else auto
        number = check.integer("n_negatives", self.n_negatives, 0)
        if loss == "softmax" and number == 0:
            check.fail("n_negatives", "at least 1 with loss='softmax', which compares", 0)
        return number

    def _check_known(
        self, known: Sequence[MLP], widths: Sequence[Sequence[int]], dtype: np.dtype, partial: bool
    ) -> None:
        """Refuse to go on from maps that are not as the parameters and tables say."""
        activation = resolve(self.activation)
        for name, mlp, wanted in zip(("phi_", "psi_"), known, widths, strict=False):
            if (mlp.widths, mlp.activation, mlp.dtype) != (tuple(wanted), activation, dtype):
                check.fail(
                    "partial_fit" if partial else "warm_start",
                    f"parameters and tables that {name} fits, {mlp!r}",
                    f"widths {tuple(wanted)}, {activation}, {dtype}; fit a clone to begin anew",
                )

    def _split(self, n: int, fraction: float, rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of the training part and of the validation part."""
        held = max(2, round(fraction * n))
        if n - held < 2:
            check.fail("validation_fraction", "a split with 2 samples on each side", f"{n} samples")
        order = rng.permutation(n)
        return np.sort(order[held:]), np.sort(order[:held])

    def _train(
        self,
        problem: Problem,
        settings: dict[str, Any],
        rng: np.random.RandomState,
        keep: Callable[[np.ndarray], None],
        adam: Adam | None = None,
    ) -> None:
        """Minimize, keep the parameters and the curves, then raise what stopped the fit."""
        if adam is None:  # a fit of its own: what earlier calls of partial_fit left is over
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
        """Return the generator of a fit; those of `partial_fit` draw on from call to call."""
        if not partial:
            return legacy_generator(self.random_state)
        if not hasattr(self, "_rng"):
            self._rng = legacy_generator(self.random_state)
        return self._rng

    def _continued_adam(self, parameters: Any) -> Adam:
        """Return the moments of the last `partial_fit`, or new ones."""
        adam = getattr(self, "_adam", None)
        if adam is None or len(adam.mean) != len(parameters.start) or adam.mean.dtype != parameters.dtype:
            adam = Adam(len(parameters.start), parameters.dtype)
        self._adam = adam
        return adam

    def _one_epoch(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of a `partial_fit`."""
        if settings["early_stopping"]:
            check.fail("early_stopping", "False for partial_fit, which sees one batch", True)
        return {**settings, "max_iter": 1, "verbose": False}

    def _weights(self, sample_weight: Any, X: np.ndarray) -> np.ndarray | None:
        """Return the weights of the rows of X, or None."""
        if sample_weight is None:
            return None
        weight = check_sample_weight(sample_weight, X, X.dtype)
        if not weight.sum() > 0:
            check.fail("sample_weight", "at least one weight > 0", f"all zero, shape {weight.shape}")
        return weight

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "phi_")
