"""Functionals of objects that are not vectors: raw coordinates that `HilbertCubeEncoder` maps to [0, 1].

A family maps a list of objects to an array (n_objects, n_coordinates) of finite numbers; `fit` may learn from
the training objects. Each family is a separating sequence: if all functionals agree on two objects, these are
the same function (almost everywhere), the same measure, or sequences that the kernel cannot distinguish.
Families with `unit` have values in [-1, 1]; those with `one_unit` have the same unit of measure in all
coordinates.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..base import check

# Coordinates that have one unit share a scale: the largest spread of this many, however many are used.
SCALED_BY = 16
# Nodes of the quadrature over the interval on which a sampled function, interpolated linearly, is integrated.
_NODES = 512


def _samples(i: int, item: Any, columns: int | None) -> np.ndarray:
    a = check.numbers(f"object {i}", item)
    if a.ndim == 1 and columns is None:
        a = a[:, None]
    wanted = "(m, 2): points and values" if columns == 2 else "(m,) or (m, d), m >= 1"
    if a.ndim != 2 or len(a) == 0 or (columns is not None and a.shape[1] != columns):
        check.fail(f"object {i}", f"an array of shape {wanted}", a.shape)
    if not np.isfinite(a).all():
        check.fail(f"object {i}", "finite values", "NaN or infinity")
    return a


class _Functions:
    """Moments of functions sampled on separate grids: int f(t) e_k(t) dt over the common interval.

    An object is an array (m, 2) of points and values, or a pair (t, f(t)). The function is interpolated
    linearly between points and continued as a constant outside its grid.
    """

    unit, one_unit = False, True

    def __init__(self, count: int, interval: tuple[float, float] | None) -> None:
        self.count, self.interval = count, interval

    def basis(self, u: np.ndarray, count: int) -> np.ndarray:
        """Return e_k at u in [0, 1], shape (count, len(u))."""
        raise NotImplementedError

    def _grids(self, objects: Sequence[Any]) -> list[np.ndarray]:
        grids = []
        for i, item in enumerate(objects):
            pair = isinstance(item, tuple) and len(item) == 2
            if pair and np.shape(item[0]) != np.shape(item[1]):
                got = f"shapes {np.shape(item[0])} and {np.shape(item[1])}"
                check.fail(f"object {i}", "as many points as values", got)
            a = _samples(i, np.column_stack(item) if pair else item, 2)
            if len(a) < self.count:
                check.fail(f"object {i}", f"a grid of at least {self.count} points, as n_coordinates", len(a))
            a = a[np.argsort(a[:, 0], kind="stable")]
            if (np.diff(a[:, 0]) == 0).any():
                check.fail(f"object {i}", "points that differ", "a point given twice")
            grids.append(a)
        return grids

    def fit(self, objects: Sequence[Any], rng: np.random.RandomState) -> None:
        """Learn the interval."""
        grids = self._grids(objects)
        if self.interval is None:
            ends = min(g[0, 0] for g in grids), max(g[-1, 0] for g in grids)
            self.interval_ = (float(ends[0]), float(ends[1]))
        else:
            self.interval_ = self.interval
        nodes, weights = np.polynomial.legendre.leggauss(_NODES)
        self.nodes_ = (nodes + 1) / 2
        self.weighted_ = (self.basis(self.nodes_, max(self.count, SCALED_BY)) * weights / 2).T

    def __call__(self, objects: Sequence[Any]) -> np.ndarray:
        """Return the raw coordinates."""
        return self.first(objects, self.count)

    def first(self, objects: Sequence[Any], count: int) -> np.ndarray:
        """Return the first raw coordinates, at most the larger of the number in use and `SCALED_BY`."""
        low, high = self.interval_
        t = low + (high - low) * self.nodes_
        values = np.stack([np.interp(t, g[:, 0], g[:, 1]) for g in self._grids(objects)])
        return values @ self.weighted_[:, :count]


class Fourier(_Functions):
    """1, sqrt(2) cos(2 pi k u), sqrt(2) sin(2 pi k u)."""

    def basis(self, u: np.ndarray, count: int) -> np.ndarray:
        """Return the waves."""
        k = (np.arange(count) + 1) // 2
        angle = 2 * np.pi * k[:, None] * u
        odd = (np.arange(count) % 2 == 1)[:, None]
        waves = np.sqrt(2) * np.where(odd, np.cos(angle), np.sin(angle))
        waves[0] = 1
        return waves


class Legendre(_Functions):
    """Legendre polynomials, orthonormal on [0, 1]."""

    def basis(self, u: np.ndarray, count: int) -> np.ndarray:
        """Return the polynomials."""
        k = np.arange(count)
        return (np.polynomial.legendre.legvander(2 * u - 1, count - 1) * np.sqrt(2 * k + 1)).T


class Characteristic:
    """Real and imaginary parts of E exp(i w_k.x) over the samples of a probability measure.

    Frequencies are a dense sequence in R^d, in units of one over the spread of the training samples: the
    normal quantiles of a scrambled Sobol sequence. Values are in [-1, 1].
    """

    unit, one_unit = True, True

    def __init__(self, count: int) -> None:
        self.count = count

    def fit(self, objects: Sequence[Any], rng: np.random.RandomState) -> None:
        """Draw the frequencies on the scale of the samples."""
        from scipy.special import ndtri
        from scipy.stats import qmc

        samples = [_samples(i, item, None) for i, item in enumerate(objects)]
        self.dimension_ = samples[0].shape[1]
        everything = np.concatenate(self._checked(samples))
        spread = everything.std(axis=0)
        pairs = (self.count + 1) // 2
        bits = max(2, int(np.ceil(np.log2(pairs))))
        sobol = qmc.Sobol(self.dimension_, seed=int(rng.randint(2**31))).random_base2(bits)
        normal = ndtri(np.clip(sobol, 1e-9, 1 - 1e-9))
        # From low to high frequencies, as the first coordinates are the most informative; in blocks of 4,
        # 4, 8, 16, ..., so that the sequence does not depend on how many coordinates are used.
        size, starts = np.linalg.norm(normal, axis=1), [0, *(2**b for b in range(2, bits + 1))]
        blocks = [low + np.argsort(size[low:high], kind="stable") for low, high in itertools.pairwise(starts)]
        normal = normal[np.concatenate(blocks)[:pairs]]
        self.center_ = everything.mean(axis=0)
        self.frequencies_ = 1.5 * normal / np.where(spread > 0, spread, 1)

    def _checked(self, samples: list[np.ndarray]) -> list[np.ndarray]:
        for i, a in enumerate(samples):
            if a.shape[1] != self.dimension_:
                check.fail(f"object {i}", f"samples of {self.dimension_} numbers", f"shape {a.shape}")
        return samples

    def __call__(self, objects: Sequence[Any]) -> np.ndarray:
        """Return the raw coordinates."""
        samples = self._checked([_samples(i, item, None) for i, item in enumerate(objects)])
        out = np.empty((len(samples), 2 * len(self.frequencies_)))
        for row, a in zip(out, samples, strict=True):
            angle = (a - self.center_) @ self.frequencies_.T
            row[0::2], row[1::2] = np.cos(angle).mean(axis=0), np.sin(angle).mean(axis=0)
        return out[:, : self.count]


class Quantiles:
    """Quantiles of real samples at the levels 1/2, 1/4, 3/4, 1/8, ..., dense in [0, 1]."""

    unit, one_unit = False, True

    def __init__(self, count: int) -> None:
        self.count, self.levels = count, self._first(count)

    @staticmethod
    def _first(count: int) -> np.ndarray:
        k = np.arange(1, count + 1)
        power = 2.0 ** np.floor(np.log2(k))
        return (2 * (k - power) + 1) / (2 * power)

    def fit(self, objects: Sequence[Any], rng: np.random.RandomState) -> None:
        """Learn nothing."""

    def __call__(self, objects: Sequence[Any]) -> np.ndarray:
        """Return the raw coordinates."""
        return self.first(objects, self.count)

    def first(self, objects: Sequence[Any], count: int) -> np.ndarray:
        """Return the first raw coordinates."""
        levels, rows = self._first(count), []
        for i, item in enumerate(objects):
            a = _samples(i, item, None)
            if a.shape[1] != 1:
                check.fail(f"object {i}", "samples of one number each", f"shape {a.shape}")
            if len(a) < self.count:
                check.fail(f"object {i}", f"at least {self.count} samples, as n_coordinates", len(a))
            rows.append(np.quantile(a[:, 0], levels))
        return np.stack(rows)


class Landmarks:
    """Values k(x, z_j) of a given kernel at objects z_j drawn from the training objects.

    For sequences, strings, graphs or anything else that the kernel accepts. Values are normalised,
    k(x, z) / sqrt(k(x, x) k(z, z)).
    """

    unit, one_unit = True, True

    def __init__(self, count: int, kernel: Callable[[Any, Any], float]) -> None:
        self.count, self.kernel = count, kernel

    def fit(self, objects: Sequence[Any], rng: np.random.RandomState) -> None:
        """Choose the landmarks."""
        if len(objects) < self.count:
            check.fail("X", f"at least n_coordinates = {self.count} objects for landmarks", len(objects))
        self.landmarks_ = [objects[i] for i in rng.permutation(len(objects))[: self.count]]
        self.norms_ = self._norms(self.landmarks_)

    def _norms(self, objects: Sequence[Any]) -> np.ndarray:
        squares = np.array([float(self.kernel(x, x)) for x in objects])
        if not (np.isfinite(squares).all() and (squares >= 0).all()):
            check.fail("functionals", "a kernel with finite k(x, x) >= 0", squares.min())
        return np.where(squares > 0, np.sqrt(squares), 1.0)

    def __call__(self, objects: Sequence[Any]) -> np.ndarray:
        """Return the raw coordinates."""
        values = np.array([[float(self.kernel(x, z)) for z in self.landmarks_] for x in objects])
        return np.clip(values / np.outer(self._norms(objects), self.norms_), -1, 1)


class Callables:
    """Functions given by the caller, each from an object to a number."""

    unit, one_unit = False, False

    def __init__(self, functions: Sequence[Callable[[Any], float]]) -> None:
        self.functions = functions

    def fit(self, objects: Sequence[Any], rng: np.random.RandomState) -> None:
        """Learn nothing."""

    def __call__(self, objects: Sequence[Any]) -> np.ndarray:
        """Return the raw coordinates."""
        values = np.array([[float(h(x)) for h in self.functions] for x in objects])
        if not np.isfinite(values).all():
            row, column = np.argwhere(~np.isfinite(values))[0]
            check.fail(f"functionals[{column}]", f"a finite number for object {row}", values[row, column])
        return values
