"""feature_map equals its float64 definition for every shape, layout, dtype and activation."""

import numpy as np
import pytest
import reference
import relkernels as rk
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    ACTIVATIONS,
    DTYPES,
    dtypes,
    lay_out,
    layouts,
    leads,
    maps,
    mlp,
    normal,
    rows,
    seeds,
    widths,
)

BOUND = {np.float32: 1e-6, np.float64: 1e-14}


@given(st.data(), dtypes, rows, widths, widths, layouts, seeds)
def test_equals_its_definition(data, dtype, n, d_in, d_out, layout, seed):
    rng = np.random.default_rng(seed)
    phi = data.draw(maps(dtype, d_in, d_out, rng).filter(bool))
    (lead,) = data.draw(leads(1))
    x = lay_out(normal(rng, (*lead, n, d_in), dtype), layout)
    out = np.full((*lead, n, d_out), np.nan, dtype)
    assert rk.feature_map(x, phi, out=out) is out
    magnitude = reference.feature_magnitude(x, phi)
    reference.assert_close(out, reference.feature_map(x, phi), BOUND[dtype], magnitude)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_every_activation(activation, dtype, rng):
    phi = mlp(rng, [16, 300, 40, 5], dtype, activation)
    x = normal(rng, (333, 16), dtype)
    out = phi(x)
    assert out.dtype == dtype
    assert reference.relative_error(out, reference.feature_map(x, phi)) <= BOUND[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_deep_products_stay_within_the_bound(dtype, rng):
    phi = mlp(rng, [1500, 700, 3], dtype, "relu")
    x = normal(rng, (50, 1500), dtype)
    assert reference.relative_error(phi(x), reference.feature_map(x, phi)) <= BOUND[dtype]


@pytest.mark.parametrize("layout", ["plain", "sliced", "transposed", "reversed"])
def test_out_of_any_strides(layout, rng):
    phi = mlp(rng, [3, 8, 5], np.float32)
    x = normal(rng, (2, 7, 3), np.float32)
    out = lay_out(np.full((2, 7, 5), np.nan, np.float32), layout)
    assert rk.feature_map(x, phi, out=out) is out
    np.testing.assert_array_equal(out, phi(x))


@given(st.data(), dtypes, widths, widths, seeds)
def test_a_single_point_is_a_vector(data, dtype, d_in, d_out, seed):
    rng = np.random.default_rng(seed)
    phi = data.draw(maps(dtype, d_in, d_out, rng).filter(bool))
    x = normal(rng, (2 * d_in,), dtype)[::2]
    wide = np.full(3 * d_out, np.nan, dtype)
    out = wide[::3]
    assert rk.feature_map(x, phi, out=out) is out
    assert np.isnan(wide.reshape(d_out, 3)[:, 1:]).all()
    assert phi(x).shape == (d_out,)
    np.testing.assert_array_equal(phi(x), out)
    np.testing.assert_array_equal(phi(x[None])[0], out)
    reference.assert_close(
        out, reference.feature_map(x, phi), BOUND[dtype], reference.feature_magnitude(x, phi)
    )
