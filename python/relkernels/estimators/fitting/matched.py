"""Maps of two tables of matched rows, in closed form: how much likelier one row makes the other.

Let y be f(x) plus normal noise of covariance S, and y itself normal of covariance T. The pointwise mutual
information of x and y, which InfoNCE estimates (van den Oord et al. 2018), is then

    log p(y | x) - log p(y) = <f(x), S^-1 y> - <f(x), S^-1 f(x)> / 2 - <y, (S^-1 - T^-1) y> / 2 + constant,

an inner product of features of x and features of y. f is a ridge regression on a wide random hidden layer,
and S the covariance of its errors at left-out rows. The same holds with x and y exchanged, and the relation
is the mean of both.

With V such that V^T S V = 1 and V^T T V is diagonal, all terms are products or squares of coordinates V^T y
and V^T f(x). A second hidden layer computes the squares, and passes the coordinates on.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh

from ...maps.activations import Activation
from ...maps.mlp import MLP
from .least_squares import ridge
from .random_layer import random_layer

# Most rows that are fitted, and most principal components of a table that are predicted.
_FITTED = 8192
_COMPONENTS = 128
# Factor of the columns themselves among the hidden features: the larger, the less the ridge shrinks them.
_LINEAR = 3.0
# Part of the covariance of a table that is added to that of its errors: the squares need not be more exact.
_FLOOR = 0.01
# Units of the second hidden layer, in all and for each coordinate.
_UNITS, _FEWEST, _MOST = 2048, 6, 32
# The second layer is exact up to this multiple of the largest coordinate.
_REACH = 1.2
# Radius of the sphere of features of unit length, in units of the length of the coordinates.
_RADIUS = 1.0
# Most features by default. Terms of little size tell rows apart too, so that none is left out below that.
_MOST_FEATURES = 128


class _Coordinates(NamedTuple):
    """Coordinates of a table as linear functions of its hidden features, and their values at its rows."""

    weights: np.ndarray  # (width, n_coordinates)
    levels: np.ndarray  # (n_coordinates,)
    squares: np.ndarray  # (n_coordinates,), the coefficients of their squares
    values: np.ndarray  # (n, n_coordinates)


def matched_maps(
    X: np.ndarray,
    Y: np.ndarray,
    weight: np.ndarray | None,
    n_features: int | None,
    activation: str | Activation,
    rng: np.random.RandomState,
) -> tuple[MLP, MLP]:
    """Return the maps of two tables whose columns have mean 0 and deviation 1.

    Parameters
    ----------
    X : ndarray of shape (n, n_columns_x)
    Y : ndarray of shape (n, n_columns_y)
    weight : ndarray of shape (n,), optional
    n_features : int, optional
        None means all terms of the relation, at most 128.
    """
    of_x, of_y, f, g, count = _both_sides(X, Y, weight, activation, rng)
    squares = 2 if n_features is None or n_features > 2 else 0
    kept_f, kept_g = _leading(f.values, g.values, count, (n_features or _MOST_FEATURES) - squares)
    return (
        of_x.mlp(f, kept_f, n_features, first=False),
        of_y.mlp(g, kept_g, n_features, first=True),
    )


def matched_on_sphere(
    X: np.ndarray,
    Y: np.ndarray,
    weight: np.ndarray | None,
    n_features: int | None,
    activation: str | Activation,
    rng: np.random.RandomState,
) -> tuple[MLP, MLP, float]:
    """Return maps to features of unit length, and the logarithm of one over their temperature.

    Arguments are those of `matched_maps`. A constant beside the coordinates f and g of both sides puts them
    on a sphere of about its radius r, where cosines rank pairs nearly as distances do: ``1 - |f - g|^2 / 2
    r^2`` if r is large. In units of the errors, such a distance is minus twice the log-likelihood.
    """
    of_x, of_y, f, g, count = _both_sides(X, Y, weight, activation, rng)
    wanted = n_features or _MOST_FEATURES
    kept = _balanced(f.values, g.values, count, wanted - 1 if wanted > 1 else wanted)
    sides = [values @ axes for values, axes in zip((f.values, g.values), kept, strict=True)]
    radius = _RADIUS * np.sqrt(np.mean([count @ np.square(side).sum(axis=1) for side in sides]) / count.sum())
    radius = max(float(radius), 1e-6)
    constant = radius if wanted > 1 else 0.0
    phi, psi = (
        side.on_sphere(coordinates, axes, n_features, constant)
        for side, coordinates, axes in zip((of_x, of_y), (f, g), kept, strict=True)
    )
    return phi, psi, 2 * np.log(radius)


def _both_sides(
    X: np.ndarray,
    Y: np.ndarray,
    weight: np.ndarray | None,
    activation: str | Activation,
    rng: np.random.RandomState,
) -> tuple[_Design, _Design, _Coordinates, _Coordinates, np.ndarray]:
    """Return the hidden features and the coordinates of both tables, and the counts of their rows."""
    rows = np.arange(len(X))
    if len(X) > _FITTED:
        rows = np.sort(rng.choice(len(X), _FITTED, replace=False))
    count = np.ones(len(rows)) if weight is None else weight[rows].astype(np.float64)
    of_x, of_y = (_Design(table[rows], activation, rng) for table in (X, Y))
    axes_x, axes_y = (_components(design.table, count) for design in (of_x, of_y))
    y_predicted, y_own = _coordinates(of_x, of_y, axes_y, count)
    x_predicted, x_own = _coordinates(of_y, of_x, axes_x, count)
    f, g = _joined(y_predicted, x_own), _joined(y_own, x_predicted)
    return of_x, of_y, f, g, count


class _Design:
    """The hidden features of a table: those of a random layer, and the columns where units can give them.

    Two units of opposite weights give a column exactly: relu(z) - relu(-z) = z.

    Attributes
    ----------
    table : ndarray of float64 of shape (n, n_columns)
    features : ndarray of float64 of shape (n, width)
    """

    def __init__(self, X: np.ndarray, activation: str | Activation, rng: np.random.RandomState) -> None:
        self.table = X.astype(np.float64)
        self.activation = activation
        self._layer = random_layer(X, activation, rng)
        self._slope = _odd_slope(self._layer.activation)
        self.features = self._layer(X).astype(np.float64)
        if self._slope:
            self.features = np.column_stack([self.features, _LINEAR * self.table])

    def of_columns(self, axes: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the weights and levels of ``table @ axes``."""
        if not self._slope:
            fit = ridge(self.features, self.table @ axes, count)
            return fit.coefficients, fit.intercepts
        weights = np.zeros((self.features.shape[1], axes.shape[1]))
        weights[-len(axes) :] = axes / _LINEAR
        return weights, np.zeros(axes.shape[1])

    def mlp(self, coordinates: _Coordinates, kept: np.ndarray, n_features: int | None, *, first: bool) -> MLP:
        """Return the map of this table: ``coordinates @ kept``, and the sum of squares beside a constant.

        Both sides are divided by the square root of two, since the relation is the mean of two.
        """
        weight, bias, read, levels = self._units(coordinates)
        reach = _REACH * np.maximum(np.abs(coordinates.values).max(axis=0), 1e-6)
        n_units = int(np.clip(_UNITS // len(reach), _FEWEST, _MOST))
        knots, of_line, of_square = _line_and_square(self._layer.activation, n_units)
        inner = np.repeat(read / reach, n_units, axis=1)
        shift = np.repeat(levels / reach, n_units) - np.tile(knots, len(reach))
        outer = np.kron(np.diag(reach), of_line[:-1, None]) @ kept * np.sqrt(0.5)
        level = of_line[-1] * reach @ kept * np.sqrt(0.5)
        if n_features is None or n_features > 2:
            size = coordinates.squares * np.square(reach) / 2
            alone, none = np.kron(size, of_square[:-1]), np.zeros(len(shift))
            outer = np.column_stack([outer, *([alone, none] if first else [none, alone])])
            ends = [of_square[-1] * size.sum(), 1.0]
            level = np.concatenate([level, ends if first else ends[::-1]])
        missing = max((n_features or 0) - len(level), 0)  # the relation has fewer terms than were wanted
        outer, level = np.pad(outer, ((0, 0), (0, missing))), np.pad(level, (0, missing))
        dtype = self._layer.dtype
        weights, biases = (weight, inner, outer), (bias, shift, level)
        return MLP([w.astype(dtype) for w in weights], [b.astype(dtype) for b in biases], self.activation)

    def _units(self, coordinates: _Coordinates) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return a hidden layer, and the weights and levels that give the coordinates from its units."""
        assert self._layer.biases is not None
        weight, bias, read = self._layer.weights[0], self._layer.biases[0], coordinates.weights
        if self._slope:
            n_columns = self.table.shape[1]
            eye = np.eye(n_columns)
            weight = np.column_stack([weight, eye, -eye])
            bias = np.concatenate([bias, np.zeros(2 * n_columns)])
            linear = read[-n_columns:] * (_LINEAR / self._slope)
            read = np.concatenate([read[:-n_columns], linear, -linear])
        return weight, bias, read, coordinates.levels

    def on_sphere(
        self, coordinates: _Coordinates, kept: np.ndarray, n_features: int | None, constant: float
    ) -> MLP:
        """Return the map of this table to ``coordinates @ kept`` and a constant, divided by their length."""
        weight, bias, read, levels = self._units(coordinates)
        outer, level = read @ kept, levels @ kept
        if constant:
            outer, level = np.pad(outer, ((0, 0), (0, 1))), np.append(level, constant)
        missing = max((n_features or 0) - len(level), 0)
        outer, level = np.pad(outer, ((0, 0), (0, missing))), np.pad(level, (0, missing))
        weights, biases = (
            [a.astype(self._layer.dtype) for a in pair] for pair in ((weight, outer), (bias, level))
        )
        return MLP(weights, biases, self.activation, normalize=True)


def _odd_slope(activation: Activation) -> float:
    """Return c with act(z) - act(-z) = c z for all z, or 0 if there is none."""
    z = np.array([[0.25], [1.0], [3.0]])
    one, zero = np.ones((1, 1)), np.zeros(1)
    unit = MLP([one, one], [zero, zero], activation)
    slope = (unit(z) - unit(-z))[:, 0] / z[:, 0]
    return float(slope[0]) if slope[0] and np.allclose(slope, slope[0], rtol=1e-9) else 0.0


def _line_and_square(activation: Activation, n_units: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return knots t, and the coefficients of units act(z - t) and of 1 that give z and z^2 on [-1, 1]."""
    knots = np.linspace(-1, 1, n_units + 1)[:-1]
    z = np.linspace(-1, 1, 16 * n_units + 1)
    one = np.ones((1, 1))
    units = MLP([np.repeat(one, n_units, axis=1), np.eye(n_units)], [-knots, np.zeros(n_units)], activation)
    design = np.column_stack([units(z[:, None]), np.ones(len(z))])
    found, *_ = np.linalg.lstsq(design, np.column_stack([z, z * z]), rcond=1e-10)
    return knots, found[:, 0], found[:, 1]


def _components(table: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return the axes of a table, or of its leading principal components if it has very many columns."""
    n_columns = table.shape[1]
    if n_columns <= _COMPONENTS:
        return np.eye(n_columns)
    scatter = table.T @ (count[:, None] * table)
    return eigh(scatter, subset_by_index=[n_columns - _COMPONENTS, n_columns - 1])[1]


def _coordinates(
    of_x: _Design, of_y: _Design, axes: np.ndarray, count: np.ndarray
) -> tuple[_Coordinates, _Coordinates]:
    """Return the coordinates of y as predicted by x and as they are, in units of the errors."""
    target = of_y.table @ axes
    fit = ridge(of_x.features, target, count)
    spread = _covariance(target, count)
    errors = _covariance(fit.errors, count) + _FLOOR * spread
    ratios, vectors = eigh(spread, errors)
    weights, levels = fit.coefficients @ vectors, fit.intercepts @ vectors
    predicted = _Coordinates(weights, levels, np.full(len(ratios), -0.5), of_x.features @ weights + levels)
    own = of_y.of_columns(axes @ vectors, count)
    return predicted, _Coordinates(*own, 0.5 / ratios - 0.5, target @ vectors)


def _covariance(rows: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return the covariance of rows with mean zero, shrunk towards a multiple of the identity.

    It is shrunk as far as it would have to be if the rows were normal (Chen et al. 2010, OAS).
    """
    n, p = count.sum(), rows.shape[1]
    covariance = rows.T @ (count[:, None] * rows) / n
    level = np.trace(covariance) / p
    squares = np.square(covariance).sum()
    excess = (n + 1 - 2 / p) * (squares - p * level**2)
    shrinkage = min(1.0, ((1 - 2 / p) * squares + (p * level) ** 2) / excess) if excess > 0 else 1.0
    least = np.finfo(float).eps * max(level, 1.0)  # of a table that is constant
    shrunk: np.ndarray = (1 - shrinkage) * covariance + (shrinkage * level + least) * np.eye(p)
    return shrunk


def _joined(one: _Coordinates, other: _Coordinates) -> _Coordinates:
    return _Coordinates(*(np.concatenate(parts, axis=-1) for parts in zip(one, other, strict=True)))


def _leading(f: np.ndarray, g: np.ndarray, count: np.ndarray, kept: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrices that take features f and g to fewer ones with about the same inner products."""
    if f.shape[1] <= kept:
        return np.eye(f.shape[1]), np.eye(f.shape[1])
    return _balanced(f, g, count, kept)


def _balanced(f: np.ndarray, g: np.ndarray, count: np.ndarray, kept: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrices that take f and g to uncorrelated features of equal size on both sides.

    They are the leading ones of the sum of inner products. What one side does not predict of the other is
    small then.
    """
    roots, inverses = [], []
    for features in (f, g):
        values, vectors = np.linalg.eigh(features.T @ (count[:, None] * features))
        there = values > 1e-12 * values[-1]
        values, vectors = values[there], vectors[:, there]
        roots.append((vectors * np.sqrt(values)).T)
        inverses.append(vectors / np.sqrt(values))
    left, spectrum, right = np.linalg.svd(roots[0] @ roots[1].T, full_matrices=False)
    root = np.sqrt(spectrum[:kept])
    return inverses[0] @ (left[:, :kept] * root), inverses[1] @ (right[:kept].T * root)
