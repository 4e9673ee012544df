"""precision="bf16" and 16-bit arrays: factors rounded to bfloat16, sums in float32."""

import ml_dtypes
import numpy as np
import pytest
import reference
import relkernels as rk
from hypothesis import given
from hypothesis import strategies as st
from strategies import ACTIVATIONS, columns, lay_out, layouts, mlp, normal, rows, seeds, some_columns, widths

BF16 = np.dtype(ml_dtypes.bfloat16)


def rounded(a):
    """Round to the nearest bfloat16, in float64."""
    return a.astype(BF16).astype(np.float64)


def close(out, expected, magnitude, depth):
    """Check equality up to rounding of float32 sums of `depth` products of the given size."""
    assert np.all(np.abs(out - expected) <= 1e-6 * (depth + 4) * magnitude + 1e-30)


@given(rows, columns, st.integers(1, 6), widths, layouts, layouts, seeds)
def test_relation_matrix_is_the_product_of_rounded_features(n, m, heads, each, layout_x, layout_y, seed):
    rng = np.random.default_rng(seed)
    width = heads * each
    x = lay_out(normal(rng, (n, width), np.float32), layout_x)
    y = lay_out(normal(rng, (m, width), np.float32), layout_y)
    out = np.full((heads, n, m) if heads > 1 else (n, m), np.nan, np.float32)
    rk.relation_matrix(x, y, heads=heads, precision="bf16", out=out)
    f, g = rounded(x), rounded(y)
    close(
        out,
        reference.relation_matrix(f, g, heads=heads),
        reference.relation_matrix(np.abs(f), np.abs(g), heads=heads),
        each,
    )


@given(rows, widths, seeds)
def test_symmetric_relation(n, width, seed):
    rng = np.random.default_rng(seed)
    x = normal(rng, (n, width), np.float32)
    out = rk.relation_matrix(x, precision="bf16")
    np.testing.assert_array_equal(out, out.T)
    f = rounded(x)
    close(out, f @ f.T, np.abs(f) @ np.abs(f.T), width)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_feature_map_within_the_promise(activation, rng):
    phi = mlp(rng, [17, 300, 40, 33], np.float32, activation)
    x = normal(rng, (333, 17), np.float32)
    out = rk.feature_map(x, phi, precision="bf16")
    assert out.dtype == np.float32
    assert reference.relative_error(out, reference.feature_map(x, phi)) <= 1e-2


@given(rows.filter(bool), some_columns, widths, widths, st.booleans(), seeds)
def test_attention_within_the_promise(n, m, width, width_v, masked, seed):
    rng = np.random.default_rng(seed)
    q, k, v = (normal(rng, s, np.float32) for s in [(n, width), (m, width), (m, width_v)])
    mask = rng.random((n, m)) < 0.7 if masked else None
    out, lse = rk.attention(q, k, v, mask=mask, return_lse=True, precision="bf16")
    expected, lse_expected = reference.attention(rounded(q), rounded(k), rounded(v), mask=mask)
    # Weights are rounded to 8 bits: an error of 2^-9 of the values they weigh.
    assert np.all(np.abs(out - expected) <= 2**-8 * np.abs(v).max() + 1e-6)
    np.testing.assert_allclose(lse, lse_expected, rtol=1e-4, atol=1e-4)


def test_scores_retrieval_and_products(rng):
    x, y, v = (normal(rng, s, np.float32) for s in [(50, 24), (700, 24), (700, 3)])
    r = rk.relation_matrix(x, y, precision="bf16")
    values, indices = rk.retrieve(x, y, 7, precision="bf16")
    np.testing.assert_array_equal(values, np.take_along_axis(r, indices, 1))
    np.testing.assert_array_equal(indices, np.argsort(-r, axis=1, kind="stable")[:, :7])
    scores = rk.attention_scores(x, y, precision="bf16")
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-5)
    product = rk.relation_matvec(x, y, v[:, 0], link="relu", precision="bf16")
    np.testing.assert_allclose(product, np.maximum(r, 0) @ v[:, 0], rtol=1e-3, atol=1e-2)
    several = rk.relation_matvec(x, y, v, link="relu", precision="bf16")
    np.testing.assert_allclose(several, np.maximum(r, 0) @ v, rtol=2e-2, atol=1)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_same_bits_whatever_threads_and_batch(threads, rng):
    phi = mlp(rng, [9, 70, 31], np.float32, "gelu")
    q, k, v = (normal(rng, s, np.float32) for s in [(300, 9), (5000, 9), (5000, 8)])
    before = rk.get_num_threads()
    whole = rk.attention(q, k, v, phi, precision="bf16"), rk.relation_matrix(q, k, phi, precision="bf16")
    try:
        rk.set_num_threads(threads)
        for rows in (slice(0, 1), slice(5, 6), slice(90, 130), slice(None)):
            part = rk.attention(q[rows], k, v, phi, precision="bf16")
            np.testing.assert_array_equal(part, whole[0][rows])
            np.testing.assert_array_equal(
                rk.relation_matrix(q[rows], k, phi, precision="bf16"), whole[1][rows]
            )
    finally:
        rk.set_num_threads(before)


def test_nan_and_infinity_stay_where_they_belong(rng):
    q, k, v = (normal(rng, (40, 16), np.float32) for _ in range(3))
    q[3, 2], v[7, 1] = np.nan, np.inf
    mask = np.ones((40, 40), bool)
    mask[:20, 7] = False
    out = rk.attention(q, k, v, mask=mask, precision="bf16")
    assert np.isnan(out[3]).all()
    clean = np.delete(np.arange(20), 3)
    assert np.isfinite(out[clean]).all()
    assert not np.isfinite(out[20:, 1]).any()
    assert np.isfinite(np.delete(out[20:], 1, axis=1)).all()
    r = rk.relation_matrix(q, k, precision="bf16")
    assert np.isnan(r[3]).all()
    assert np.isfinite(np.delete(r, 3, axis=0)).all()


def test_rounding_is_to_nearest_even_over_special_values():
    bits = np.arange(0, 2**32, 65521, dtype=np.uint64).astype(np.uint32)
    x = bits.view(np.float32)
    x = x[np.isnan(x) | np.isinf(x) | (np.abs(x) > 1e-37)]  # below, the instruction may flush to zero
    out = rk.relation_matrix(x[:, None], np.ones((1, 1), np.float32), precision="bf16")[:, 0]
    with np.errstate(invalid="ignore"):  # signalling NaN become quiet
        expected = x.astype(BF16).astype(np.float32)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("dtype", [BF16, np.dtype(np.float16)], ids=["bfloat16", "float16"])
def test_arrays_of_16_bits(dtype, rng):
    phi = mlp(rng, [8, 32, 6], np.float32, "tanh")
    x, y, v = (normal(rng, s, np.float32).astype(dtype) for s in [(20, 8), (30, 8), (30, 4)])
    wide = [a.astype(np.float32) for a in (x, y, v)]
    precision = "bf16" if dtype == BF16 else None
    for half, full in [
        (rk.feature_map(x, phi), rk.feature_map(wide[0], phi, precision=precision)),
        (rk.relation_matrix(x, y=y), rk.relation_matrix(wide[0], wide[1], precision=precision)),
        (rk.attention(x, y, v), rk.attention(*wide, precision=precision)),
        (rk.attention_scores(x, y, phi), rk.attention_scores(*wide[:2], phi, precision=precision)),
        (rk.relation_matvec(x, y, v), rk.relation_matvec(*wide, precision=precision)),
        (rk.retrieve(x, y, 3)[0], rk.retrieve(*wide[:2], 3, precision=precision)[0]),
    ]:
        assert half.dtype == dtype
        np.testing.assert_array_equal(half, full.astype(dtype))
    assert rk.retrieve(x, y, 3)[1].dtype == np.int64
    out = np.empty((20, 6), dtype)
    assert rk.feature_map(x, phi, out=out) is out
    with pytest.raises(TypeError, match=r"y: expected (bfloat16|float16), the dtype of x, got float32"):
        rk.relation_matrix(x, wide[1])
    with pytest.raises(TypeError, match=r"out: expected (bfloat16|float16), the dtype of x, got float32"):
        rk.feature_map(x, phi, out=np.empty((20, 6), np.float32))
    with pytest.raises(ValueError, match=r"out: expected shape \(20, 6\), got \(20, 7\)"):
        rk.feature_map(x, phi, out=np.empty((20, 7), dtype))


def test_bad_precision(rng):
    x = normal(rng, (3, 4), np.float32)
    for bad in ("fp8", 16, True):
        with pytest.raises(ValueError, match=r"precision: expected None or 'bf16', got"):
            rk.relation_matrix(x, precision=bad)
    with pytest.raises(ValueError, match=r"precision: expected None for float64 arrays"):
        rk.attention(*[x.astype(np.float64)] * 3, precision="bf16")
