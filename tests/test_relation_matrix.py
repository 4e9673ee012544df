"""relation_matrix equals its float64 definition; the symmetric one equals its transpose bit by bit."""

import numpy as np
import pytest
import reference
import relkernels as rk
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    DTYPES,
    columns,
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


@given(
    st.data(),
    dtypes,
    rows,
    columns,
    widths,
    widths,
    layouts,
    layouts,
    st.sampled_from([1, 2, 3]),
    seeds,
)
def test_asymmetric(data, dtype, n, m, d_x, d_y, layout_x, layout_y, heads, seed):
    rng = np.random.default_rng(seed)
    width = heads * data.draw(st.sampled_from([1, 4, 11]))
    phi = data.draw(maps(dtype, d_x, width, rng))
    psi = data.draw(maps(dtype, d_y, width, rng).filter(lambda p: p is not None or phi is None))
    lead_x, lead_y = data.draw(leads(2))
    x = lay_out(normal(rng, (*lead_x, n, d_x), dtype), layout_x)
    y = lay_out(normal(rng, (*lead_y, m, d_y), dtype), layout_y)
    expected = reference.relation_matrix(x, y, phi, psi, 0.5, heads)
    out = np.full(expected.shape, np.nan, dtype)
    rk.relation_matrix(x, y, phi, psi, scale=0.5, heads=heads, out=out)
    size = np.linalg.norm(reference.feature_magnitude(x, phi)) * np.linalg.norm(
        reference.feature_magnitude(y, phi if psi is None else psi)
    )
    reference.assert_close(out, expected, BOUND[dtype], size)


@given(st.data(), dtypes, rows, widths, layouts, st.sampled_from([1, 2]), seeds)
def test_symmetric(data, dtype, n, d_in, layout, heads, seed):
    rng = np.random.default_rng(seed)
    phi = data.draw(maps(dtype, d_in, d_in if heads == 1 else 6, rng).filter(lambda p: heads == 1 or p))
    (lead,) = data.draw(leads(1))
    x = lay_out(normal(rng, (*lead, n, d_in), dtype), layout)
    r = rk.relation_matrix(x, phi=phi, scale=2.0, heads=heads)
    np.testing.assert_array_equal(r, np.swapaxes(r, -1, -2))
    # Computing one half and mirroring it gives the same bits.
    np.testing.assert_array_equal(r, rk.relation_matrix(x, x, phi, phi, scale=2.0, heads=heads))
    f = reference.feature_map(x, phi)
    expected = reference.relation_matrix(f, heads=heads, scale=2.0)
    size = np.linalg.norm(reference.feature_magnitude(x, phi)) ** 2
    reference.assert_close(r, expected, BOUND[dtype], size)


@pytest.mark.parametrize("dtype", DTYPES)
def test_large(dtype, rng):
    phi = mlp(rng, [20, 64, 300], dtype, "gelu")
    x, y = normal(rng, (700, 20), dtype), normal(rng, (2300, 20), dtype)
    r = rk.relation_matrix(x, y, phi)
    assert reference.relative_error(r, reference.relation_matrix(x, y, phi)) <= BOUND[dtype]
    r = rk.relation_matrix(x, phi=phi)
    np.testing.assert_array_equal(r, r.T)
    assert reference.relative_error(r, reference.relation_matrix(x, None, phi)) <= BOUND[dtype]


def test_one_set_through_two_maps_is_not_symmetric(rng):
    phi, psi = mlp(rng, [4, 9, 3], np.float64), mlp(rng, [4, 5, 3], np.float64)
    x = normal(rng, (11, 4), np.float64)
    r = rk.relation_matrix(x, None, phi, psi)
    assert reference.relative_error(r, reference.relation_matrix(x, x, phi, psi)) <= 1e-14
    assert not np.array_equal(r, r.T)
