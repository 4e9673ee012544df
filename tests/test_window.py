"""Windows along the diagonal: the pairs that attention and its gradients leave out."""

import numpy as np
import pytest
import reference
import relkernels as rk
from hypothesis import given
from hypothesis import strategies as st
from relkernels.ops.allowed import Allowed
from strategies import normal, seeds

limits = st.one_of(st.none(), st.integers(0, 70), st.just(10**30))
windows = st.one_of(st.none(), st.integers(0, 40), st.tuples(limits, limits))
aligns = st.sampled_from(["upper_left", "lower_right"])
# One past a strip, a block of rows, a tile of columns and a chunk.
rows = st.sampled_from([1, 5, 13, 97, 130])
columns = st.sampled_from([1, 7, 64, 257, 300, 2049])


def case(n, m, seed):
    rng = np.random.default_rng(seed)
    return (
        normal(rng, (2, n, 3), np.float64),
        normal(rng, (m, 3), np.float64),
        normal(rng, (m, 2), np.float64),
    )


@given(rows, columns, windows, aligns, st.booleans(), st.booleans(), seeds)
def test_attention(n, m, window, align, causal, masked, seed):
    q, k, v = case(n, m, seed)
    mask = np.random.default_rng(seed).random((n, m)) < 0.7 if masked else None
    options = {"mask": mask, "window": window, "align": align, "causal": causal}
    out, lse = rk.attention(q, k, v, return_lse=True, **options)
    expected, expected_lse = reference.attention(q, k, v, **options)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(lse, expected_lse, rtol=1e-12, atol=1e-12)
    scores = rk.attention_scores(q, k, **options)
    np.testing.assert_allclose(scores, reference.attention_scores(q, k, **options), rtol=0, atol=1e-12)


@given(st.integers(1, 40), st.integers(1, 40), windows, aligns, st.booleans(), seeds)
def test_gradients_are_those_of_a_mask(n, m, window, align, causal, seed):
    q, k, v = case(n, m, seed)
    grad = normal(np.random.default_rng(seed), (2, n, 2), np.float64)
    mask = reference.allowed((n, m), None, causal, window, align)
    found = rk.attention_vjp(q, k, v, grad, window=window, align=align, causal=causal)
    expected = rk.attention_vjp(q, k, v, grad, mask=mask)
    for a, b in zip(found[:3], expected[:3], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-11)
    np.testing.assert_allclose(found.grad_scale, expected.grad_scale, rtol=1e-9, atol=1e-11)


def test_columns_outside_the_window_are_not_read(rng):
    q, k, v = (normal(rng, (5000, 8), np.float32) for _ in range(3))
    k[:1500], k[3500:] = np.nan, np.nan
    out = rk.attention(q[2400:2600], k, v, window=(5, 0), align="upper_left")
    assert np.isnan(out).all()  # rows 0 to 199 see columns 0 to 199
    full = rk.attention(q, k, v, window=(5, 3))
    assert np.isfinite(full[1505:3496]).all()
    assert np.isnan(full[:1504]).all()
    assert np.isnan(full[3500:]).all()


def test_no_bit_depends_on_threads_or_on_the_batch(rng):
    q, k, v = (normal(rng, (3, 700, 8), np.float32) for _ in range(3))
    before = rk.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            rk.set_num_threads(threads)
            results.append(rk.attention(q, k, v, window=(100, 20)))
        np.testing.assert_array_equal(*results)
    finally:
        rk.set_num_threads(before)
    np.testing.assert_array_equal(rk.attention(q[1], k[1], v[1], window=(100, 20)), results[0][1])


def test_decoding_sees_the_last_keys(rng):
    k, v = normal(rng, (50, 4), np.float64), normal(rng, (50, 3), np.float64)
    q = normal(rng, (50, 4), np.float64)
    whole = rk.attention(q, k, v, causal=True, window=(7, 0))
    np.testing.assert_array_equal(
        rk.attention(q[-2:], k, v, causal=True, window=(7, 0), align="lower_right"), whole[-2:]
    )


@pytest.mark.parametrize(
    ("error", "text", "arguments"),
    [
        (ValueError, "window: expected an integer >= 0, got -1", {"window": -1}),
        (ValueError, r"window\[1\]: expected an integer >= 0, got -2", {"window": (None, -2)}),
        (ValueError, "window: expected two limits, .left, right., got 3 entries", {"window": (1, 2, 3)}),
        (
            TypeError,
            "window: expected an integer, a pair .left, right. or None, got float 1.5",
            {"window": 1.5},
        ),
        (TypeError, "window: expected an integer, got bool True", {"window": True}),
        (ValueError, "align: expected one of 'upper_left', 'lower_right', got 'right'", {"align": "right"}),
    ],
)
def test_refused(error, text, arguments):
    x = np.ones((4, 3))
    for call in (rk.attention, rk.attention_vjp):
        with pytest.raises(error, match=text):
            call(x, x, x, **({"grad": x} if call is rk.attention_vjp else {}), **arguments)
    with pytest.raises(error, match=text):
        rk.attention_scores(x, x, **arguments)


def test_limits_of_a_block_within_a_whole():
    assert Allowed(None, True, (2, 5), "lower_right").band(5, 8) == (1, 3)
    assert Allowed(None, False, (1, 0), offset=4).band(5, 8) == (3, 4)
    assert Allowed().band(5, 8) == (None, None)
