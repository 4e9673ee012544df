"""Bands of diagonals in attention and its gradients, at the level of the extension.

A band allows the pairs with least <= j - i <= greatest. The causal rule is one; sliding windows are others.
"""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from relkernels import _core
from strategies import seeds

# One past the edges of strips (12 or 24 rows), panels (up to 32 columns), tiles (256) and chunks (2048).
ROWS = [0, 1, 3, 4, 12, 13, 25, 97, 200]
COLUMNS = [1, 2, 33, 255, 257, 513, 2049]
LIMITS = st.none() | st.integers(-300, 300) | st.sampled_from([-(2**70), 2**63 - 1, -(2**63), 2**70])


def dense(band, n, m):
    """The band as a boolean matrix."""
    difference = np.arange(m)[None, :] - np.arange(n)[:, None]
    least, greatest = band
    allowed = np.ones((n, m), bool)
    if least is not None:
        allowed &= difference >= max(least, -(2**62))
    if greatest is not None:
        allowed &= difference <= min(greatest, 2**62)
    if (least or 0) > 2**62 or (greatest or 0) < -(2**62):
        allowed[:] = False
    return allowed


def scores_reference(f, g, scale, allowed):
    """Softmax and log-sum-exp in float64; rows without an allowed pair give 0 and -inf."""
    r = np.where(allowed, scale * (f.astype(np.float64) @ g.astype(np.float64).T), -np.inf)
    top = r.max(axis=1, initial=-np.inf, keepdims=True)
    e = np.exp(r - np.where(np.isfinite(top), top, 0))
    total = e.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        lse = np.where(total > 0, np.where(np.isfinite(top), top, 0) + np.log(total), -np.inf)[:, 0]
    return e / np.where(total > 0, total, 1), lse


def vjp_reference(f, g, v, grad, scale, allowed):
    f, g, v, grad = (a.astype(np.float64) for a in (f, g, v, grad))
    p, _ = scores_reference(f, g, scale, allowed)
    dp = grad @ v.T
    dr = p * (dp - (p * dp).sum(axis=1, keepdims=True))
    return scale * dr @ g, scale * dr.T @ f, p.T @ grad, (f * (dr @ g)).sum(axis=1)


def attention(q, k, v, band, mask=None, scale=0.5, precision=None):
    out, lse = np.full((len(q), v.shape[1]), np.nan, q.dtype), np.full(len(q), np.nan, q.dtype)
    _core.attention(q, k, v, None, None, precision, scale, mask, band, None, None, out, lse)
    return out, lse


def scores(q, k, band, mask=None, scale=0.5):
    out = np.full((len(q), len(k)), np.nan, q.dtype)
    _core.attention_scores(q, k, None, None, None, scale, mask, band, None, None, out)
    return out


def vjp(q, k, v, grad, band, mask=None, scale=0.5):
    out, lse = attention(q, k, v, band, mask, scale)
    grads = [np.full_like(a, np.nan) for a in (q, k, v)] + [np.full(len(q), np.nan)]
    grads.insert(3, None)  # of the bias
    _core.attention_vjp(q, k, v, mask, band, None, None, scale, out, lse, grad, None, *grads)
    del grads[3]
    return grads


def close(got, expected, dtype):
    tolerance = 2e-5 if dtype == np.float32 else 1e-11
    size = max(1.0, float(np.abs(expected[np.isfinite(expected)]).max(initial=0)))
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * size)


def arrays(rng, n, m, dtype, d=7, c=5):
    return [rng.standard_normal(shape).astype(dtype) for shape in ((n, d), (m, d), (m, c), (n, c))]


cases = (
    st.sampled_from(ROWS), st.sampled_from(COLUMNS), st.tuples(LIMITS, LIMITS),
    st.sampled_from([np.float32, np.float64]), st.booleans(), seeds,
)  # fmt: skip


@given(*cases)
@example(97, 513, (-40, 3), np.float32, False, 0)
@example(200, 2049, (5, None), np.float64, True, 1)
@example(200, 33, (None, -10), np.float32, False, 2)  # the first ten rows have nothing to attend to
@example(97, 257, (5, 3), np.float32, False, 3)  # no pair at all
def test_a_band_is_the_dense_mask(n, m, band, dtype, with_mask, seed):
    """Results are those of the reference, and to the last bit those of the same band as a boolean matrix."""
    rng = np.random.default_rng(seed)
    q, k, v, grad = arrays(rng, n, m, dtype)
    mask = rng.random((n, m)) < 0.6 if with_mask else None
    matrix = dense(band, n, m) & (True if mask is None else mask)
    everywhere = (None, None)

    expected, lse = scores_reference(q, k, 0.5, matrix)
    got = scores(q, k, band, mask)
    close(got, expected, dtype)
    np.testing.assert_array_equal(got, scores(q, k, everywhere, matrix))

    got = attention(q, k, v, band, mask)
    close(got[0], expected @ v.astype(np.float64), dtype)
    close(got[1], lse, dtype)
    for a, b in zip(got, attention(q, k, v, everywhere, matrix), strict=True):
        np.testing.assert_array_equal(a, b)
    nothing = ~matrix.any(axis=1)
    assert (got[0][nothing] == 0).all()
    assert (got[1][nothing] == -np.inf).all()

    got = vjp(q, k, v, grad, band, mask)
    for a, b in zip(got, vjp_reference(q, k, v, grad, 0.5, matrix), strict=True):
        close(a, b, dtype)
    for a, b in zip(got, vjp(q, k, v, grad, everywhere, matrix), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("band", [(-20, 0), (3, 40), (-600, -500)])
def test_bfloat16(band, rng):
    q, k, v, _ = arrays(rng, 150, 777, np.float32, d=32, c=33)
    got = attention(q, k, v, band, precision="bf16")
    same = attention(q, k, v, (None, None), dense(band, 150, 777), precision="bf16")
    for a, b in zip(got, same, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_row_reads_nothing_outside_of_its_band(rng):
    """NaN in keys and values reaches the rows that may see them, and no others."""
    n, band = 300, (-7, 2)
    q, k, v, grad = arrays(rng, n, n, np.float64)
    clean = attention(q, k, v, band)
    k[100], v[200] = np.nan, np.nan
    out, lse = attention(q, k, v, band)
    touched = dense(band, n, n)[:, [100, 200]]
    rows = touched.any(axis=1)
    np.testing.assert_array_equal(np.isnan(out).any(axis=1), rows)
    np.testing.assert_array_equal(np.isnan(lse), touched[:, 0])
    np.testing.assert_array_equal(out[~rows], clean[0][~rows])
    weights = scores(q, k, band)
    np.testing.assert_array_equal(np.isnan(weights).any(axis=1), touched[:, 0])
    of_q = vjp(q, k, v, grad, band)[0]
    np.testing.assert_array_equal(np.isnan(of_q).any(axis=1), rows)


def test_batches_and_threads_change_no_bit(rng):
    """Several chunks of columns, and a batch of more items than threads."""
    q = rng.standard_normal((9, 130, 6)).astype(np.float32)
    k, v = (rng.standard_normal((9, 4500, 6)).astype(np.float32) for _ in range(2))
    band, threads = (2000, 2100), _core.get_num_threads()
    out, lse = np.empty((9, 130, 6), np.float32), np.empty((9, 130), np.float32)
    try:
        for count in (1, 2, 3):
            _core.set_num_threads(count)
            _core.attention(q, k, v, None, None, None, 0.5, None, band, None, None, out, lse)
            for item in (0, 8):
                single = attention(q[item], k[item], v[item], band)
                np.testing.assert_array_equal(out[item], single[0])
                np.testing.assert_array_equal(lse[item], single[1])
            few = attention(q[3, 50:53], k[3], v[3], (band[0] + 50, band[1] + 50))
            np.testing.assert_array_equal(few[0], out[3, 50:53])
    finally:
        _core.set_num_threads(threads)
