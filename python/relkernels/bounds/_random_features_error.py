"""Random features on the sphere: the error in the mean over draws, by the degrees of the function.

One layer: E ||f - P f||^2 = sum_k p_k ||f_k||^2 <= sum_k q_k ||f_k||^2 with the recursion of
`random_units`. If only the RKHS norm B is known, ||f_k||^2 / mu_k adds up to at most B^2 with mu_k the
eigenvalues of the NNGP kernel, and the sum is at most B^2 max_k mu_k q_k.

More layers: B sqrt(D_L(N)) of `random_features`, and at most ||f||, the error of the zero readout.

No N functions at all, random or not, approximate every function of norm B with an error of less than
B sqrt(mu_(N+1)), mu_1 >= mu_2 >= ... the eigenvalues repeated by their multiplicities (n-widths of the ball).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..base import check
from ..maps.activations import Activation
from . import random_units as units
from ._random_features import layers_error
from .bound import Assumption, Bound, Constant, non_negative, positive


def random_features_error(
    kernel: Any,
    depth: int,
    rkhs_norm: float,
    n_features: int,
    *,
    dimension: int,
    weight_std: float = math.sqrt(2),
    bias_std: float = 0.0,
    parts: np.ndarray | None = None,
) -> Bound:
    """Return the error that random features need not exceed, for inputs uniform on the unit sphere.

    Parameters
    ----------
    kernel : str, Activation or object
        For one layer, any activation of `MLP` that is smooth, or step, relu, leaky_relu and relu_power(r)
        without biases; for more, those of `random_features`. Or an object with attributes ``activation``,
        ``weight_std`` and ``bias_std`` such as `NNGPKernel`.
    depth : int
        Hidden layers, >= 1.
    rkhs_norm : float
        Norm of the function in the RKHS of the NNGP kernel; infinite if unknown, with `parts`.
    n_features : int
        Width N of every layer, >= 0.
    dimension : int
        Dimension n of the inputs, on the sphere S^(n-1), 2 to 500.
    weight_std, bias_std : float
        As in `nngp_kernel`; taken from `kernel` if it has these attributes.
    parts : array-like of shape (degrees,), optional
        Root mean squares of the function's parts of degree 0, 1, ...: all of them. The function need not
        have a finite RKHS norm.

    Returns
    -------
    Bound
        `value` is a root mean square over the inputs and over draws, with the best readout for the
        distribution of the inputs: some draw has an error of at most that. ``details["floor"]`` is the
        largest error, over functions of this norm, of the best N functions (NaN for more layers).

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    See Also
    --------
    random_features : The number of features for an accuracy.
    drawn_features_error : The exact error of features that were drawn.

    Examples
    --------
    >>> from relkernels import bounds
    >>> bound = bounds.random_features_error("relu", 1, 1.0, 100, dimension=4)
    >>> round(bound.value, 4), round(bound.details["floor"], 4)
    (0.0105, 0.0018)
    >>> bound.curve("n_features", [0, 10, 100, 1000]).round(4)
    array([0.4244, 0.1306, 0.0105, 0.0007])
    """
    activation = getattr(kernel, "activation", kernel) if not isinstance(kernel, Activation) else kernel
    layers = check.integer("depth", depth, 1, 1_000_000)
    norm = non_negative("rkhs_norm", rkhs_norm, finite=False)
    count = check.integer("n_features", n_features, 0, 10**12)
    n = units.checked_dimension(dimension)
    w_std = positive("weight_std", getattr(kernel, "weight_std", weight_std))
    b_std = non_negative("bias_std", getattr(kernel, "bias_std", bias_std))
    energies = None if parts is None else _parts(parts)
    whole = math.inf if energies is None else math.sqrt(float(energies.sum()))
    details: dict[str, Any] = {"floor": math.nan}
    if layers == 1:
        random = units.random_units(units.smooth_or_homogeneous(activation, b_std), n, w_std, b_std)
        by_norm = by_parts = math.inf
        *_, (_, q, _) = random.left(count)
        largest = max(float((q * random.kernel).max()), random.beyond())
        by_norm = norm * math.sqrt(largest) if norm else 0.0
        if energies is not None:
            each = np.ones(len(energies))
            each[: len(q)] = q[: len(energies)]
            by_parts = math.sqrt(float(each @ energies))
        value = min(by_norm, by_parts)
        details |= {"left": q, "floor": norm * math.sqrt(_eigenvalue(random, count)) if norm else 0.0}
        formula = "(sum_k q_k ||f_k||^2)^(1/2)" if by_parts <= by_norm else "B max_k (mu_k q_k)^(1/2)"
        formula += ", q_k <- q_k - E[c_k^2 / sum_j c_j^2 N_j q_j] q_k^2, N times from 1"
        latex = (
            r"\Bigl(\sum_k q_k \|f_k\|^2\Bigr)^{1/2}" if by_parts <= by_norm else r"B \max_k \sqrt{\mu_k q_k}"
        )
        latex += r",\quad q_k \leftarrow q_k - \mathbb{E}\Bigl[\frac{c_k^2}{\sum_j c_j^2 N_j q_j}\Bigr] q_k^2"
        source = "derived: expected projection onto rotation-invariant draws, degree by degree"
    else:
        growth, top = layers_error(activation, layers, max(count, 1), n, w_std, b_std)
        by_layers = norm * math.sqrt(growth) if count and norm else (math.inf if norm else 0.0)
        zero = min(whole, norm * math.sqrt(top) if norm else 0.0)
        value = min(by_layers, zero)
        formula, latex = "min(B sqrt(D_L(N)), ||f||)", r"\min\bigl(B \sqrt{D_L(N)},\ \|f\|\bigr)"
        source = "derived: regularised inverse of the kernel's operator"
    note = ""
    if value == math.inf:
        note = "the function is not known to be in the kernel's space, and its parts are not given"
    elif layers > 1 and value == zero:
        note = "no better than the zero readout at this width"
    constants = [
        Constant("N", count, "width of every layer"),
        Constant("B", norm, "norm of the function in the kernel's space"),
        Constant("weight_std", w_std, "of the network"),
        Constant("bias_std", b_std, "of the network"),
    ]
    if energies is not None:
        constants.append(Constant("||f||", whole, "root mean square of the function, from its parts"))
    return Bound(
        "random_features_error",
        f"L2 error that {count} random features need not exceed",
        value,
        formula,
        latex,
        source=source,
        constants=tuple(constants),
        assumptions=(
            Assumption("the function has the RKHS norm or the parts given"),
            Assumption("inputs uniform on the unit sphere"),
            Assumption("error in L2 of the inputs' distribution, in the mean over draws, best last layer"),
        ),
        cited="Takhanov, arXiv 2404.17461: error of order B / sqrt(N)",
        note=note,
        details=details,
        arguments={
            "kernel": kernel,
            "depth": depth,
            "rkhs_norm": rkhs_norm,
            "n_features": n_features,
            "dimension": dimension,
            "weight_std": weight_std,
            "bias_std": bias_std,
            "parts": parts,
        },
        function=random_features_error,
    )


def _parts(given: Any) -> np.ndarray:
    """Return the mean squares of the parts."""
    parts = check.numbers("parts", given)
    if parts.ndim != 1 or not len(parts):
        check.fail("parts", "one number for each degree", f"shape {parts.shape}")
    if not (np.isfinite(parts) & (parts >= 0)).all():
        check.fail("parts", "finite numbers >= 0", float(parts[~(np.isfinite(parts) & (parts >= 0))][0]))
    return parts**2


def _eigenvalue(random: units.RandomUnits, count: int) -> float:
    """Return the eigenvalue number `count` + 1 of those computed, or 0 if there are no more."""
    ordered = np.argsort(-random.kernel, kind="stable")
    ends = np.cumsum(random.many[ordered])
    at = int(np.searchsorted(ends, count, side="right"))
    return float(random.kernel[ordered[at]]) if at < len(ordered) else 0.0
