"""Random features that were drawn: the exact error of their best readout, for inputs uniform on the sphere.

f = sum_j c_j K(., x_j), K the NNGP kernel of one layer with eigenvalues mu_k. The units u_i = a(w_i.x + b_i)
have coefficients c_k(i) and directions v_i; P_k are the Gegenbauer polynomials, N_k numbers of harmonics. By
the addition theorem, in L2 of the uniform distribution,

    ||f||^2 = sum_k mu_k^2 N_k sum_jl c_j c_l P_k(x_j.x_l),
    <f, u_i> = sum_k mu_k c_k(i) N_k sum_j c_j P_k(x_j.v_i),
    <u_i, u_l> = sum_k c_k(i) c_k(l) N_k P_k(v_i.v_l),

the last in closed form if a is homogeneous of order r: the mean over normal x, divided by E |x|^(2r). The
readout alpha solves least squares; its error ||f||^2 - 2 alpha.b + alpha.G alpha is exact for any alpha.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..base import check
from ..ops.nngp import nngp_kernel
from ..spectra import multiplicity
from ..spectra.gegenbauer import polynomials
from . import random_units as units
from .bound import Assumption, Bound, Constant

# Degrees of the series, and eigenvalues of the Gram matrix below which directions are left out.
_DEGREES, _RANK = 300, 1e-14


def drawn_features_error(features: Any, centers: np.ndarray, coefficients: np.ndarray) -> Bound:
    """Return the exact error with which drawn random features approximate a function on the sphere.

    Parameters
    ----------
    features : MultiLayerRandomFeatures
        Fitted, with one layer. The activation as in `random_features_error` for one layer.
    centers : array-like of shape (m, n)
        Points x_j on the unit sphere.
    coefficients : array-like of shape (m,)
        c_j of the function sum_j c_j K(., x_j), with K the NNGP kernel of the features.

    Returns
    -------
    Bound
        `value` is the L2 error of the best readout, for inputs uniform on the unit sphere: no readout does
        better, and one fitted to a sample does worse. It is exact up to rounding, about 1e-8 of the
        function. `details` has ``rms`` and ``rkhs_norm`` of the function, and ``parts``, the root mean
        squares of its parts by degree, for `random_features_error`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Examples
    --------
    >>> import numpy as np
    >>> from relkernels import MultiLayerRandomFeatures, bounds
    >>> x = np.eye(3)
    >>> for width in (10, 100):
    ...     features = MultiLayerRandomFeatures([width], random_state=0).fit(x)
    ...     print(round(bounds.drawn_features_error(features, x, [1.0, 2.0, -1.0]).value, 4))
    0.091
    0.0031
    """
    draw = getattr(features, "weights", None)
    if not callable(draw) or not hasattr(features, "weight_std"):
        raise TypeError(
            f"features: expected MultiLayerRandomFeatures with one layer, got {type(features).__name__}"
        )
    if len(features.widths) != 1:
        check.fail("features", "one layer", f"{len(features.widths)} layers")
    W, b = draw(0)
    n = len(W)
    x, c = check.numbers("centers", centers), check.numbers("coefficients", coefficients)
    if x.ndim != 2 or x.shape[1] != n or not len(x):
        check.fail("centers", f"points with {n} coordinates, as the features", f"shape {x.shape}")
    away = np.abs(np.linalg.norm(x, axis=1) - 1)
    if not away.max() <= 1e-6:
        check.fail(
            "centers", "points on the unit sphere", f"one of norm {np.linalg.norm(x[away.argmax()]):.6g}"
        )
    if c.shape != (len(x),) or not np.isfinite(c).all():
        check.fail("coefficients", f"{len(x)} finite numbers, one for each center", f"shape {c.shape}")
    weight, bias = float(features.weight_std), float(features.bias_std)
    with check.naming("features"):
        activation = units.smooth_or_homogeneous(features.activation, bias)
        units.checked_dimension(n)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    w = W.T * (weight / math.sqrt(n))
    lengths = np.linalg.norm(w, axis=1)
    v = w / lengths[:, None]
    many = np.array([float(multiplicity(n, k)) for k in range(_DEGREES)])
    each = units.drawn_coefficients(activation, n, lengths, bias * b, _DEGREES)
    mu = units.random_units(activation, n, weight, bias, _DEGREES).kernel

    energies, against, G = np.zeros(_DEGREES), np.zeros(len(w)), np.zeros((len(w), len(w)))
    closed = units.order(activation) is not None and bias == 0
    among, across = np.clip(x @ x.T, -1, 1), np.clip(x @ v.T, -1, 1)
    walks = (polynomials(t, n, _DEGREES) for t in (among, across))
    for k, (P, Q) in enumerate(zip(*walks, strict=True)):
        energies[k] = mu[k] ** 2 * many[k] * max(float(c @ P @ c), 0.0)
        against += mu[k] * many[k] * each[:, k] * (c @ Q)
    if closed:
        G = _homogeneous(activation, w)
    else:
        directions = np.clip(v @ v.T, -1, 1)
        for k, P in enumerate(polynomials(directions, n, _DEGREES)):
            if many[k] * float(np.square(each[:, k]).max()) > 1e-18 * float(np.square(each).max()):
                G += many[k] * np.outer(each[:, k], each[:, k]) * P
    if bias > 0:  # the constant is a feature
        G = np.block([[G, bias * each[:, :1]], [bias * each[:, :1].T, np.full((1, 1), bias**2)]])
        against = np.append(against, bias * mu[0] * c.sum())
    values, vectors = np.linalg.eigh(G)
    kept = values > _RANK * max(float(values[-1]), 0.0)
    basis = vectors[:, kept]
    alpha = basis @ ((basis.T @ against) / values[kept])
    alpha += basis @ ((basis.T @ (against - G @ alpha)) / values[kept])
    square = float(energies.sum())
    error = max(square - 2 * float(alpha @ against) + float(alpha @ G @ alpha), 0.0)
    norm = math.sqrt(float((energies[mu > 0] / mu[mu > 0]).sum()))
    return Bound(
        "drawn_features_error",
        f"L2 error of the best readout of the {len(w)} features drawn",
        math.sqrt(error),
        "(||f||^2 - b' G^-1 b)^(1/2), b_i = <f, u_i>, G_ij = <u_i, u_j>",
        r"\bigl(\|f\|^2 - b^\top G^{-1} b\bigr)^{1/2}",
        source="derived: Funk-Hecke formula and addition theorem",
        constants=(
            Constant("N", len(w), "features"),
            Constant("||f||", math.sqrt(square), "root mean square of the function"),
            Constant("rank", int(kept.sum()), "of G, above rounding"),
        ),
        assumptions=(Assumption("inputs uniform on the unit sphere"),),
        details={"rms": math.sqrt(square), "rkhs_norm": norm, "parts": np.sqrt(energies)},
        arguments={"features": features, "centers": centers, "coefficients": coefficients},
        function=drawn_features_error,
    )


def _homogeneous(activation: Any, w: np.ndarray) -> np.ndarray:
    """Return <a(w_i.x), a(w_l.x)> in L2 of the sphere, for a homogeneous activation."""
    n, r = w.shape[1], units.order(activation)
    assert r is not None
    name = "step" if activation.name == "step" else activation
    # weight_std^2 = n makes the covariance of w_i.x and w_l.x for normal x their inner product.
    normal = nngp_kernel(w, depth=1, activation=name, weight_std=math.sqrt(n)) / n
    found: np.ndarray = normal / math.exp(r * math.log(2) + math.lgamma(n / 2 + r) - math.lgamma(n / 2))
    return found
