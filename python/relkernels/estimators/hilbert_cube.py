"""`HilbertCubeEncoder`: functions, measures, sequences and strings as points of the Hilbert cube."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from ..base import check
from ..base.describe import described
from ..base.random_state import RandomStateLike, legacy_generator
from ..bounds.weights import tail_of_weights
from .functionals import SCALED_BY, Callables, Characteristic, Fourier, Landmarks, Legendre, Quantiles

FAMILIES = ("fourier", "legendre", "characteristic", "quantiles", "kernel")


class HilbertCubeEncoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Map objects that are not vectors to coordinates in [0, 1] by a separating sequence of functionals.

    Continuous functionals h_1, h_2, ... that separate the points of a space embed it in the Hilbert cube, and
    networks on the first coordinates are universal for continuous functions on its compact sets (Galimberti,
    arXiv 2406.09310). After this transformer, any model of this package learns relations between such
    objects. Unbounded values are mapped to (0, 1) by ``1/2 + arctan((value - center) / scale) / pi``, with
    the median and the spread of the training objects (of moments and quantiles, the largest spread of the
    first 16, so that small variations are not magnified). The map is injective: no information is lost. The
    coordinates are one fixed sequence: the first of them do not depend on `n_coordinates`. Of moments and
    quantiles they have one scale: use ``standardize=False`` in estimators that learn from many of them.

    Parameters
    ----------
    functionals : str or sequence of callables, default "fourier"
        - "fourier", "legendre": moments of functions sampled on grids, which may differ; an object is an
          array (m, 2) of points and values or a pair (points, values).
        - "characteristic": E exp(i w.x) of a probability measure given by samples (m,) or (m, d).
        - "quantiles": quantiles of samples (m,) of a real random variable.
        - "kernel": k(x, z_j) at objects z_j of the training set, for sequences, strings and anything else
          that `kernel` accepts.
        - a sequence of functions that map an object to a number.
    n_coordinates : int, optional
        None is 16, or the number of functions if they are given.
    weights : {"geometric", "harmonic"} or array-like, default "geometric"
        The weights w_k of the distance (sum_k w_k^2 (h_k - h'_k)^2)^(1/2) with respect to which
        `relkernels.bounds.hilbert_cube` defines the modulus of continuity: 2^-k, 1/k or given numbers.
    kernel : callable, optional
        ``kernel(x, z)`` of two objects, positive semi-definite; for ``functionals="kernel"``.
    interval : pair of float, optional
        Interval over which functions are integrated; by default it spans all training grids.
    random_state : int, Generator, RandomState or None, default None
        Seeds the frequencies of "characteristic" and the choice of objects of "kernel".

    Attributes
    ----------
    center_, scale_ : ndarray of shape (n_coordinates,)
        Parameters of the map to (0, 1).

    Examples
    --------
    >>> import numpy as np
    >>> from relkernels import HilbertCubeEncoder
    >>> rng = np.random.default_rng(0)
    >>> grids = [np.sort(rng.uniform(0, 1, m)) for m in (30, 50, 40)]
    >>> curves = [(t, np.sin(2 * np.pi * (t + shift))) for t, shift in zip(grids, (0, 0.1, 0.5))]
    >>> HilbertCubeEncoder("fourier", n_coordinates=5).fit_transform(curves).shape
    (3, 5)
    """

    def __init__(
        self,
        functionals: str | Sequence[Callable[[Any], float]] = "fourier",
        n_coordinates: int | None = None,
        weights: Any = "geometric",
        kernel: Callable[[Any, Any], float] | None = None,
        interval: tuple[float, float] | None = None,
        random_state: RandomStateLike = None,
    ) -> None:
        self.functionals = functionals
        self.n_coordinates = n_coordinates
        self.weights = weights
        self.kernel = kernel
        self.interval = interval
        self.random_state = random_state

    def _family(self) -> Any:
        given = self.functionals
        if not isinstance(given, str):
            if not isinstance(given, (list, tuple)) or not given or not all(callable(h) for h in given):
                check.fail("functionals", f"one of {', '.join(FAMILIES)} or functions", described(given))
            if self.n_coordinates is not None and self.n_coordinates != len(given):
                check.fail("n_coordinates", f"None or {len(given)}, one per function", self.n_coordinates)
            return Callables(list(given))
        name = check.choice("functionals", given, FAMILIES)
        if self.kernel is not None and name != "kernel":
            check.fail("kernel", f"None with functionals={name!r}, which take none", repr(self.kernel))
        if self.interval is not None and name not in ("fourier", "legendre"):
            check.fail("interval", f"None with functionals={name!r}, which take none", repr(self.interval))
        count = (
            16
            if self.n_coordinates is None
            else check.integer("n_coordinates", self.n_coordinates, 1, 1_000_000)
        )
        if name in ("fourier", "legendre"):
            interval = self.interval
            if interval is not None:
                pair = check.numbers("interval", interval)
                if pair.shape != (2,) or not -np.inf < pair[0] < pair[1] < np.inf:
                    got = tuple(pair.tolist()) if pair.shape == (2,) else f"shape {pair.shape}"
                    check.fail("interval", "(a, b), a < b", str(got))
                low, high = pair.tolist()
                interval = (low, high)
            return (Fourier if name == "fourier" else Legendre)(count, interval)
        if name == "kernel":
            if not callable(self.kernel):
                check.fail(
                    "kernel", "a function of two objects for functionals='kernel'", described(self.kernel)
                )
            return Landmarks(count, self.kernel)
        return Characteristic(count) if name == "characteristic" else Quantiles(count)

    @staticmethod
    def _objects(X: Any) -> Sequence[Any]:
        if len(check.sequence("X", X, "a sequence of objects")) == 0:
            check.fail("X", "at least one object", "none")
        return X

    def fit(self, X: Sequence[Any], y: Any = None) -> HilbertCubeEncoder:
        """Learn the functionals and the ranges of their values.

        Parameters
        ----------
        X : sequence of objects
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If the functionals do not accept an object; for a grid with fewer points than `n_coordinates`, the
            message gives both numbers.
        """
        tail_of_weights(self.weights)
        family, objects = self._family(), self._objects(X)
        family.fit(objects, legacy_generator(self.random_state))
        values = family(objects)
        self.center_, self.scale_ = np.zeros(values.shape[1]), np.ones(values.shape[1])
        if not family.unit:
            self.center_, spread = _center_and_spread(values)
            if family.one_unit:
                # So that small variations, such as the errors of the grids, are not magnified.
                spread = np.full_like(spread, _center_and_spread(family.first(objects, SCALED_BY))[1].max())
            self.scale_ = np.where(spread > 0, spread, 1.0)
        self.family_ = family
        self._n_features_out = values.shape[1]
        return self

    def transform(self, X: Sequence[Any]) -> np.ndarray:
        """Return the coordinates.

        Parameters
        ----------
        X : sequence of objects

        Returns
        -------
        ndarray of shape (n_objects, n_coordinates)
            Float64, in [0, 1].
        """
        check_is_fitted(self)
        values = self.family_(self._objects(X))
        if self.family_.unit:
            return (1 + values) / 2
        return 0.5 + np.arctan((values - self.center_) / self.scale_) / np.pi

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.no_validation = True
        return tags


def _center_and_spread(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the median of each coordinate and the median distance from it, or the mean if that is 0."""
    center = np.median(values, axis=0)
    distance = np.abs(values - center)
    spread = np.median(distance, axis=0)
    return center, np.where(spread > 0, spread, distance.mean(axis=0))
