"""relation_matvec equals its float64 definition for every link."""

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
    normal,
    rows,
    seeds,
    widths,
)

LINKS = ["identity", "exp", "relu", "square"]
BOUND = {np.float32: 5e-6, np.float64: 1e-13}


def magnitude(x, y, v, phi, psi, link, scale):
    """Return the sum of the sizes of the terms, to which rounding errors are relative."""
    return np.linalg.norm(reference.relation_matvec(x, y, np.abs(v), phi, psi, link, scale))


def conditioning(x, y, phi, psi, scale):
    """Return the factor by which exp can amplify an error of the relation, relative to its value."""
    f = reference.feature_magnitude(x, phi)
    g = reference.feature_magnitude(y, phi if psi is None else psi)
    return 1 + scale * f.shape[-1] * np.max(f, initial=0) * np.max(g, initial=0)


@given(
    st.data(),
    dtypes,
    rows,
    columns,
    widths,
    st.sampled_from([None, 1, 2, 7]),
    st.sampled_from(LINKS),
    layouts,
    seeds,
)
def test_equals_its_definition(data, dtype, n, m, d, c, link, layout, seed):
    rng = np.random.default_rng(seed)
    phi = data.draw(maps(dtype, d, 4, rng))
    psi = data.draw(maps(dtype, d, 4, rng).filter(lambda p: p is not None or phi is None))
    lead_x, lead_y = data.draw(leads(2))
    x = lay_out(normal(rng, (*lead_x, n, d), dtype), layout)
    y = lay_out(normal(rng, (*lead_y, m, d), dtype), layout)
    v = normal(rng, (m,) if c is None else (*(1,) * len(lead_y), m, c), dtype)
    out = rk.relation_matvec(x, y, v, phi, psi, link=link, scale=0.1)
    v2 = v[:, None] if c is None else v
    expected = reference.relation_matvec(x, y, v2, phi, psi, link, 0.1)
    size = magnitude(x, y, v2, phi, psi, link, 0.1) * conditioning(x, y, phi, psi, 0.1)
    assert out.dtype == dtype
    reference.assert_close(out, expected[..., 0] if c is None else expected, BOUND[dtype], size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 150])
@pytest.mark.parametrize("link", LINKS)
def test_several_chunks(n, link, dtype, rng):
    x, y, v = (
        normal(rng, (n, 8), dtype),
        normal(rng, (6001, 8), dtype),
        normal(rng, (6001, 3), dtype),
    )
    out = rk.relation_matvec(x, y, v, link=link, scale=0.3)
    expected = reference.relation_matvec(x, y, v, None, None, link, 0.3)
    assert np.linalg.norm(out - expected) <= BOUND[dtype] * magnitude(x, y, v, None, None, link, 0.3)
    single = rk.relation_matvec(x, y, v[:, 1], link=link, scale=0.3)
    size = magnitude(x, y, v[:, 1:2], None, None, link, 0.3)
    assert np.linalg.norm(single - expected[:, 1]) <= BOUND[dtype] * size


def test_batched_vectors(rng):
    x, y, v = (
        normal(rng, (2, 5, 3), np.float64),
        normal(rng, (2, 7, 3), np.float64),
        normal(rng, (2, 7), np.float64),
    )
    out = rk.relation_matvec(x, y, v)
    np.testing.assert_allclose(out, (x @ y.swapaxes(1, 2) @ v[..., None])[..., 0], rtol=1e-13)
