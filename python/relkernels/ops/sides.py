"""The two sides of a relation, checked: points, maps, widths, batches; and the arguments of attention."""

from __future__ import annotations

import copy
import math
from typing import Any, Self

import numpy as np

from ..arrays.engine import PROCESSOR, engine_of
from ..base import check
from ..maps.mlp import MLP, check_mlp, feature_map, features, mapped_width
from .scoring import Scoring

# Arrays beside their names, for messages.
Named = tuple[tuple[str, np.ndarray | None], ...]


def spread(a: np.ndarray, lead: tuple[int, ...], core: int, writeable: bool = False) -> np.ndarray:
    """Return `a` with the leading dimensions `lead`: a view with strides of 0."""
    shape = lead + a.shape[a.ndim - core :]
    if a.shape == shape:
        return a
    view = np.broadcast_to(a, shape)
    return np.lib.stride_tricks.as_strided(a, shape, view.strides, subok=True) if writeable else view


class Sides:
    """Both sides of a relation, checked.

    The rule that all functions of two maps share: `y` None stands for `x`, `psi` None for `phi`, `phi` None
    for the identity. All arrays and maps have one dtype, and both sides have features of one width.

    Parameters
    ----------
    x : ndarray of shape (..., n, d_x)
    y : ndarray of shape (..., m, d_y) or None
    phi, psi : MLP or None
    names : (str, str), default ("x", "y")
        What messages call the arrays.
    least_ndim : int, default 2
        Least number of dimensions of `x`: 1 also takes a single point, of shape (d_x,).

    Attributes
    ----------
    x, y : ndarray
    x_name, y_name : str
        As messages call them; both the first of `names` if `y` is None.
    phi, psi : MLP or None
    same_points : bool
        Whether `y` was None.
    one_map : bool
        Whether one map serves both sides.
    width : int
        Of the features of both sides.
    dtype : numpy.dtype
    engine : Engine
    """

    __slots__ = (
        "dtype", "engine", "one_map", "phi", "psi", "same_points", "width", "x", "x_name", "y", "y_name"
    )  # fmt: skip

    def __init__(
        self,
        x: Any,
        y: Any,
        phi: MLP | None,
        psi: MLP | None,
        names: tuple[str, str] = ("x", "y"),
        least_ndim: int = 2,
    ) -> None:
        x_name, y_name = names
        self.x = x = check.features(x_name, x, least_ndim)
        self.same_points = y is None
        if y is None:
            y, y_name = x, x_name
        else:
            y = check.features(y_name, y)
        self.y = y
        dtype = x.dtype
        if phi is None and psi is None:
            self.one_map = True
            if y.dtype is not dtype:
                check.same_dtype((x_name, x), (y_name, y))
            self.width, width_y = x.shape[-1], y.shape[-1]
        else:
            phi, psi = check_mlp("phi", phi), check_mlp("psi", psi)
            check.same_dtype((x_name, x), (y_name, y), ("phi", phi), ("psi", psi))
            self.one_map = psi is None or psi is phi
            psi_name = "phi" if psi is None else "psi"
            psi = phi if psi is None else psi
            self.width = mapped_width(x_name, x, "phi", phi)
            width_y = mapped_width(y_name, y, psi_name, psi)
        if self.width != width_y:
            check.same_width(x_name, x, self.width, y_name, y, width_y)
        self.x_name, self.y_name, self.phi, self.psi = x_name, y_name, phi, psi
        self.dtype, self.engine = dtype, engine_of(x)

    @property
    def named(self) -> tuple[tuple[str, np.ndarray], ...]:
        """Return the arrays beside their names."""
        return (self.x_name, self.x), (self.y_name, self.y)

    def leading(self, *others: tuple[str, np.ndarray, int]) -> tuple[int, ...]:
        """Return the leading dimensions of the result; `others` are (name, array, core dimensions)."""
        if self.same_points and not others:
            return self.x.shape[:-2]
        return check.batch_shape((self.x_name, self.x, 2), (self.y_name, self.y, 2), *others)

    def features(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the features of both sides: one array twice if they are the same points through one map."""
        f = features(self.x, self.phi)
        return f, f if self.same_points and self.one_map else features(self.y, self.psi)

    def maps(self, precision: Any) -> tuple[Any, Any]:
        """Return the packed weights of both maps, for a precision that the engine returned."""
        return self.engine.packed(self.phi, precision), self.engine.packed(self.psi, precision)


class Attended(Sides):
    """The checked arguments that attention and its relatives share.

    Parameters
    ----------
    q, k, phi, psi
        As `x`, `y`, `phi` and `psi` of `Sides`; `q` of shape (d_q,) is a single query if `least_ndim` is 1.
    v : ndarray of shape (..., m, d_v), optional
        Required if `has_values`.
    scale, precision
        As in `attention`.
    scoring : Scoring
    keys_name : str
        What messages call `k`.

    Attributes
    ----------
    q, k, v, mask, bias : ndarray
        With the leading dimensions `lead`; `q` has rows also for a single query.
    n, m : int
        Numbers of queries and keys.
    single : bool
        Whether `q` was a single query.
    scale : float
    band : (int or None, int or None)
        Least and greatest j - i of the pairs that may attend; None: no limit.
    softcap : float or None
    ragged : tuple
        For a ragged batch, one element: what `Allowed.ragged` returns, the last argument of kernels; else
        empty.
    precision
        As the engine names it.
    inputs : (name, array) pairs
        All arrays as they were given.
    """

    __slots__ = (
        "band", "bias", "inputs", "k", "lead", "m", "mask", "n", "precision", "q", "ragged", "scale",
        "single", "softcap", "v", "values",
    )  # fmt: skip

    def __init__(
        self,
        q: Any,
        k: Any,
        v: Any,
        phi: MLP | None,
        psi: MLP | None,
        scale: float | None,
        scoring: Scoring,
        precision: str | None,
        keys_name: str = "k",
        least_ndim: int = 2,
        has_values: bool = False,
    ) -> None:
        if k is None:  # not shorthand for the queries here
            check.features(keys_name, k)
        super().__init__(q, k, phi, psi, ("q", keys_name), least_ndim)
        keys = self.y
        named: list[tuple[str, np.ndarray]] = [("q", self.x), (keys_name, keys)]
        if v is not None or has_values:
            v = check.floats("v", v)
            if v.shape[-2] != keys.shape[-2]:
                check.fail(
                    "v", f"{keys.shape[-2]} rows, one for each row of {keys_name} {keys.shape}", v.shape
                )
            if v.dtype is not self.dtype:
                check.same_dtype(("q", self.x), ("v", v))
            named.append(("v", v))
        self.values = v
        self.precision = self.engine.precision(precision, self.dtype)
        self.scale = check.scale(scale, self.dtype, 1 / math.sqrt(self.width))
        self.single = self.x.ndim == 1
        queries = self.x[None] if self.single else self.x
        self.n, self.m = queries.shape[-2], keys.shape[-2]
        allowed = scoring.allowed
        ragged = allowed.ragged(queries, keys, keys_name)
        mask = check.mask(allowed.mask, None if self.single else self.n, self.m)
        self.band = allowed.band(self.n, self.m) if ragged is None else allowed.band(0, 0)
        self.softcap = check.softcap(scoring.softcap, self.dtype)
        bias = check.bias(scoring.bias, self.n, self.m)
        check.same_dtype(("q", self.x), ("bias", bias))
        self.ragged: tuple[Any, ...] = ()
        if ragged is not None:
            if self.single:
                check.fail("q", "at least 2 dimensions with q_offsets", self.x.shape)
            if bias is not None:
                check.fail("bias", "None with q_offsets", bias.shape)
            self.ragged = (ragged,)
        self.inputs: Named = (*named, ("mask", mask), ("bias", bias))
        batched = [(name, a, min(a.ndim, 2)) for name, a in named]
        if mask is not None:
            batched.append(("mask", mask, 2))
        if bias is not None:
            batched.append(("bias", bias, 2))
        self.lead = check.batch_shape(*batched)
        self.q, self.k = spread(queries, self.lead, 2), spread(keys, self.lead, 2)
        self.v = None if v is None else spread(v, self.lead, 2)
        pairs = (*self.lead, self.n, self.m)
        self.mask, self.bias = (None if a is None else np.broadcast_to(a, pairs) for a in (mask, bias))

    @property
    def scoring(self) -> tuple[Any, ...]:
        """Return how scores are made, as the kernels take it."""
        return self.mask, self.band, self.bias, self.softcap

    def mapped_once(self, precision: str | None) -> Self:
        """Return the same attention with the packed rows of a ragged batch mapped, in one call for each side.

        Kernels would map the rows segment by segment, which is slow for short ones.
        """
        if not self.ragged or self.phi is None or self.psi is None or self.engine is not PROCESSOR:
            return self
        f = feature_map(self.x, self.phi, precision=precision)
        return self.of_features(f, feature_map(self.y, self.psi, precision=precision))

    def of_features(self, f: np.ndarray, g: np.ndarray) -> Self:
        """Return the same attention with the features of both sides in place of points and maps."""
        a = copy.copy(self)
        a.q, a.k = spread(f, self.lead, 2), spread(g, self.lead, 2)
        a.phi = a.psi = None
        return a
