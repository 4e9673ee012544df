"""attention_scores and attention equal their float64 definitions, masks and causal rule included."""

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

BOUND = {np.float32: 5e-6, np.float64: 1e-13}


@st.composite
def masks(draw, lead, n, m, rng):
    shape = (
        *draw(st.sampled_from([lead, ()])),
        draw(st.sampled_from([n, 1])),
        draw(st.sampled_from([m, 1])),
    )
    mask = rng.random(shape) < draw(st.sampled_from([0.05, 0.5, 0.95]))
    return mask.swapaxes(-1, -2).copy().swapaxes(-1, -2) if draw(st.booleans()) else mask


@given(
    st.data(),
    dtypes,
    rows,
    columns,
    widths,
    widths,
    st.sampled_from([1, 3, 16, 33]),
    layouts,
    seeds,
)
def test_equals_its_definition(data, dtype, n, m, d_q, d_k, d_v, layout, seed):
    rng = np.random.default_rng(seed)
    width = data.draw(widths)
    phi = data.draw(maps(dtype, d_q, width, rng))
    psi = data.draw(maps(dtype, d_k, width, rng).filter(lambda p: p is not None or phi is None))
    lead_q, lead_k, lead_v = data.draw(leads(3))
    q = lay_out(normal(rng, (*lead_q, n, d_q), dtype), layout)
    k = lay_out(normal(rng, (*lead_k, m, d_k), dtype), layout)
    v = lay_out(normal(rng, (*lead_v, m, d_v), dtype), layout)
    lead = np.broadcast_shapes(lead_q, lead_k, lead_v)
    options = {
        "mask": data.draw(st.none() | masks(lead, n, m, rng)),
        "causal": data.draw(st.booleans()),
        "scale": data.draw(st.sampled_from([None, 0.1])),
    }
    expected, expected_lse = reference.attention(q, k, v, phi, psi, **options)
    out, lse = rk.attention(q, k, v, phi, psi, return_lse=True, **options)
    # Errors of the scores are errors of exponents, relative to the scores' terms.
    f, g = (
        reference.feature_magnitude(q, phi),
        reference.feature_magnitude(k, phi if psi is None else psi),
    )
    largest = 1 + np.max(f, initial=0) * np.max(g, initial=0) * (options["scale"] or 1) * width
    bound = BOUND[dtype] * largest
    reference.assert_close(out, expected, bound, v)
    reference.assert_close(lse, expected_lse, bound, np.sqrt(max(lse.size, 1)))
    scores = rk.attention_scores(q, k, phi, psi, **options)
    expected = reference.attention_scores(q, k, phi, psi, **options)
    reference.assert_close(scores, expected, bound, 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [False, True])
def test_several_chunks_of_keys(dtype, causal, rng):
    q, k = normal(rng, (130, 32), dtype), normal(rng, (4500, 32), dtype)
    v = normal(rng, (4500, 20), dtype)
    out, lse = rk.attention(q, k, v, causal=causal, return_lse=True)
    expected, expected_lse = reference.attention(q, k, v, causal=causal)
    assert reference.relative_error(out, expected) <= BOUND[dtype]
    assert reference.relative_error(lse, expected_lse) <= BOUND[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_scores_do_not_overflow(dtype, rng):
    q, k, v = (
        normal(rng, (40, 8), dtype) * 50,
        normal(rng, (60, 8), dtype) * 50,
        normal(rng, (60, 4), dtype),
    )
    out = rk.attention(q, k, v)
    assert np.isfinite(out).all()
    # Scores of thousands: the bound on the weights grows with the size of the exponents.
    assert reference.relative_error(out, reference.attention(q, k, v)[0]) <= 1000 * BOUND[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_with_nothing_to_attend_to_gives_zeros(dtype, rng):
    q, k, v = normal(rng, (5, 3), dtype), normal(rng, (300, 3), dtype), normal(rng, (300, 2), dtype)
    mask = np.ones((5, 300), bool)
    mask[2] = False
    out, lse = rk.attention(q, k, v, mask=mask, return_lse=True)
    assert (out[2] == 0).all()
    assert lse[2] == -np.inf
    assert (rk.attention_scores(q, k, mask=mask)[2] == 0).all()
    out, lse = rk.attention(q, k[:0], v[:0], return_lse=True)
    assert (out == 0).all()
    assert (lse == -np.inf).all()
