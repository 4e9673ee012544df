"""Comparison of results with their definitions, within the bounds of the numerical promises."""

from __future__ import annotations

from typing import Any

import numpy as np
import reference
from relkernels import MLPGradient

# Bounds for float32, for float64, and for products in bfloat16.
RELATION = {np.float32: 1e-6, np.float64: 1e-14, "bf16": 1e-2}
ATTENTION = {np.float32: 5e-6, np.float64: 1e-13, "bf16": 1e-2}
GRADIENT = {np.float32: 5e-6, np.float64: 1e-13}


class WrongResultError(Exception):
    """A result differs from its definition."""


def flat(result: Any) -> list[np.ndarray]:
    """Return all arrays of a result, including gradients of maps; numbers as arrays."""
    if result is None:
        return []
    if isinstance(result, (tuple, list)):
        return [a for part in result for a in flat(part)]
    return [np.asarray(result)]


def same_bits(a: Any, b: Any, what: str) -> None:
    """Check that two results are bit-identical (NaN equals NaN)."""
    left, right = flat(a), flat(b)
    if len(left) != len(right):
        raise WrongResultError(f"{what}: {len(left)} arrays, {len(right)} expected")
    for i, (p, q) in enumerate(zip(left, right, strict=True)):
        if p.dtype != q.dtype or p.shape != q.shape:
            raise WrongResultError(f"{what}: array {i} is {p.dtype} {p.shape}, not {q.dtype} {q.shape}")
        if not np.array_equal(p, q, equal_nan=p.dtype.kind == "f"):
            raise WrongResultError(
                f"{what}: array {i} differs in {np.count_nonzero(p != q)} of {p.size} values"
            )


def close(out: np.ndarray, expected: np.ndarray, bound: float, size: Any, what: str) -> None:
    """||out - expected|| <= bound * max(||expected||, ||size||)."""
    try:
        reference.assert_close(out, expected, bound, np.asarray(size))
    except AssertionError as error:
        text = " ".join(str(error).split())
        raise WrongResultError(f"{what}: not within {bound:g} of its definition: {text[:400]}") from None


def gradients_close(got: Any, expected: Any, sizes: Any, bound: float, what: str) -> None:
    """Check that every part of a tuple of gradients has its definition's structure and is close to it."""
    for i, (a, b, size) in enumerate(zip(got, expected, sizes, strict=True)):
        name = f"{what}[{i}]"
        if (a is None) != (b is None):
            raise WrongResultError(f"{name}: {'None' if a is None else 'not None'}")
        if isinstance(a, MLPGradient):
            if (a.biases is None) != (b.biases is None):
                raise WrongResultError(f"{name}.biases: {'None' if a.biases is None else 'not None'}")
            for p, q, s in zip(flat(a), flat(tuple(b)), flat(tuple(size)), strict=True):
                close(p, q, bound, s, name)
        elif a is not None:
            close(a, b, bound, size, name)


def feature_size(x: np.ndarray, mlp: Any) -> np.ndarray:
    """Return `reference.feature_magnitude` and the features, larger where hidden layers take powers."""
    return reference.feature_magnitude(x, mlp) + np.abs(reference.feature_map(x, mlp))


def exponent(f_size: np.ndarray, g_size: np.ndarray, scale: float | None, width: int) -> float:
    """Return the factor by which exp can amplify an error of the relation, relative to its value."""
    factor = 1.0 if scale is None else abs(scale)
    return float(1 + factor * width * np.max(f_size, initial=0) * np.max(g_size, initial=0))
