"""Rows and features of unit length on a device, as tests/test_normalize.py has them for the CPU."""

import numpy as np
import pytest
import reference
import relkernels as rk
from cuda_cases import (
    BF16,
    BOUND,
    F4,
    F8,
    F16,
    GRADIENT_BOUND,
    LAYOUTS,
    SMOOTH,
    Draw,
    arithmetic,
    assert_gradients,
    cases,
    exact,
)
from strategies import lay_out, mlp, normal

ULP = {F4: 4e-7, F8: 1e-15, BF16: 8e-3, F16: 1e-3}


def unit(phi, dtype=None):
    """Return the same map, normalized, perhaps with parameters of another dtype."""
    weights = [w.astype(dtype or w.dtype) for w in phi.weights]
    biases = None if phi.biases is None else [b.astype(dtype or b.dtype) for b in phi.biases]
    return rk.MLP(weights, biases, phi.activation, normalize=True)


@pytest.mark.parametrize("dtype", [F4, F8, BF16, F16], ids=["float32", "float64", "bfloat16", "float16"])
def test_rows_of_unit_length(device, dtype):
    def check(data, rng):
        draw = Draw(device, data, rng, dtype)
        (lead,) = draw.leads(1)
        x = draw.array(*lead, draw.size(), draw.width())
        out = lay_out(np.full(x.shape, np.nan, dtype), draw.one_of(LAYOUTS[:3]))
        got = device.normalize(x, out=out)
        assert got.dtype == dtype
        expected = reference.normalize(x)
        np.testing.assert_allclose(
            reference.float64(got), expected, rtol=ULP[dtype] * (8 if dtype in (F4, F8) else 1), atol=1e-7
        )

    cases(device, check)


@exact
def test_extreme_scales_zeros_and_nan(device, dtype, rng):
    info = np.finfo(dtype)
    x = np.array([[3.0, 4.0, 0.0, 0.0]] * 6, dtype)
    x[1] *= info.smallest_subnormal
    x[2] *= info.max / 8
    x[3] *= info.tiny
    x[4] = [info.max, info.smallest_subnormal, 0, 0]
    x[5] = [0, -info.smallest_subnormal, 0, -0.0]
    want = [[0.6, 0.8, 0, 0]] * 4 + [[1, 0, 0, 0], [0, -1, 0, -0.0]]
    np.testing.assert_allclose(device.normalize(x), want, rtol=2 * info.eps)
    np.testing.assert_allclose(device.normalize(x[0]), want[0], rtol=2 * info.eps)
    x = normal(rng, (40, 7), dtype)
    clean = device.normalize(x)
    x[3], x[5, 2], x[9, 1] = 0, np.nan, np.inf
    got = device.normalize(x)
    np.testing.assert_array_equal(got[3], 0)
    assert np.isnan(got[5]).all()
    np.testing.assert_array_equal(got[9], np.where(np.arange(7) == 1, np.nan, 0))
    others = np.delete(np.arange(40), [3, 5, 9])
    np.testing.assert_array_equal(got[others], clean[others])
    slope = device.normalize_vjp(x, normal(rng, x.shape, dtype))
    np.testing.assert_array_equal(slope[3], 0)
    assert np.isnan(slope[[5, 9]]).all()
    assert np.isfinite(slope[others]).all()


@exact
def test_gradient_of_rows(device, dtype):
    def check(data, rng):
        draw = Draw(device, data, rng, dtype)
        (lead,) = draw.leads(1)
        n, d = draw.size(), draw.width()
        x, grad = draw.array(*lead, n, d), draw.array(*lead, n, d)
        expected = rk.normalize_vjp(x.astype(F8), grad.astype(F8))
        got = device.normalize_vjp(x, grad)
        of_x, of_grad = (np.linalg.norm(reference.float64(a), axis=-1, keepdims=True) for a in (x, grad))
        scale = of_grad / np.where(of_x == 0, 1, of_x)
        assert got.dtype == dtype
        assert (np.abs(got - expected) <= 20 * ULP[dtype] * scale).all()

    cases(device, check)


@arithmetic
def test_features_of_unit_length(device, dtype, precision, rng):
    wide = F8 if dtype == F8 else F4
    for widths in ([5, 33, 70], [5, 3], [5, 1500, 9]):
        phi = unit(mlp(rng, widths, wide, "gelu"))
        x = normal(rng, (2, 67, 5), dtype)
        got = device.feature_map(x, phi, precision=precision)
        assert got.dtype == dtype
        assert reference.relative_error(got, reference.feature_map(x, phi)) <= 4 * BOUND[dtype, precision]
    # In a relation, features reach the products in the dtype of the factors.
    y = normal(rng, (33, 5), dtype)
    r = device.relation_matrix(x, y, phi, precision=precision)
    expected = reference.relation_matrix(x, y, phi)
    assert np.abs(reference.float64(r) - expected).max() <= 10 * BOUND[dtype, precision]


def test_large_features_do_not_overflow_float16(device, rng):
    phi = rk.MLP([normal(rng, (4, 6), F4) * F4(1e4)], normalize=True)
    x = normal(rng, (9, 4), F16) * 16
    assert np.abs(reference.feature_map(x, rk.MLP(phi.weights))).max() > np.finfo(F16).max
    assert reference.relative_error(device.feature_map(x, phi), reference.feature_map(x, phi)) <= 2e-3


@exact
def test_gradients_of_a_map(device, dtype):
    def check(data, rng):
        draw = Draw(device, data, rng, dtype)
        d, width, n = draw.width(), draw.width(), draw.size()
        (lead,) = draw.leads(1)
        phi = mlp(rng, [d, width, 4], dtype, draw.one_of(SMOOTH), bias=draw.one_of([True, False]))
        x, grad = draw.array(*lead, n, d), draw.array(*lead, n, 4)
        z = reference.feature_map(x, phi)
        if np.linalg.norm(z, axis=-1).min(initial=1) < 0.05:
            return  # errors of features are divided by their length
        expected = rk.feature_map_vjp(x.astype(F8), unit(phi, F8), grad.astype(F8))
        got = device.feature_map_vjp(x, unit(phi), grad)
        assert_gradients(got, expected, dtype, 300 * GRADIENT_BOUND[dtype])

    cases(device, check)
