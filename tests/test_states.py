"""Merges of the states of ranges of columns."""

import numpy as np
import pytest
import reference
import relkernels as rk
from hypothesis import given
from hypothesis import strategies as st
from relkernels.states import LinkedSum, SoftmaxAccumulate, TopK
from strategies import cuts, dtypes, normal, seeds


@given(cuts, st.integers(2, 60), seeds)
def test_states_join_in_any_order(at, k, seed):
    rng = np.random.default_rng(seed)
    q, keys = rng.integers(-1, 2, (5, 2)).astype(float), rng.integers(-1, 2, (60, 2)).astype(float)
    mask = rng.random((5, 60)) < 0.3
    top = TopK(k)
    states = [
        top.accept(q, keys[first:end], first, None, None, mask[:, first:end])
        for first, end in zip(at, at[1:], strict=False)
    ]
    joined = top.init((5,), q.dtype)
    for i in rng.permutation(len(states)):
        joined = top.merge(joined, states[i])
    for a, b in zip(top.finish(joined), rk.retrieve(q, keys, k, mask=mask), strict=True):
        np.testing.assert_array_equal(a, b)


@given(cuts, dtypes, st.sampled_from([0.0, 0.05, 0.6]), seeds)
def test_softmax_states_join(at, dtype, density, seed):
    rng = np.random.default_rng(seed)
    q, k, v = (normal(rng, shape, dtype) for shape in ((9, 4), (60, 4), (60, 3)))
    q *= dtype(4)
    mask = rng.random((9, 60)) < density
    softmax = SoftmaxAccumulate(1.0)
    states = [
        softmax.accept(q, k[a:b], v[a:b], None, None, mask[:, a:b]) for a, b in zip(at, at[1:], strict=False)
    ]
    joined = states[0]
    for state in states[1:]:
        joined = softmax.merge(joined, state)
    out, lse = softmax.finish(joined)
    expected, expected_lse = reference.attention(q, k, v, scale=1.0, mask=mask)
    assert out.dtype == lse.dtype == dtype
    tolerance = 5e-6 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(out, expected, rtol=0, atol=tolerance * max(np.abs(expected).max(), 1))
    np.testing.assert_array_equal(np.isneginf(lse), np.isneginf(expected_lse))
    there = np.isfinite(expected_lse)
    np.testing.assert_allclose(lse[there], expected_lse[there], rtol=tolerance, atol=tolerance)


def test_nan_stays_in_its_row_of_softmax_states(rng):
    q, k, v = rng.standard_normal((3, 2)), rng.standard_normal((8, 2)), rng.standard_normal((8, 2))
    q[1] = np.nan
    softmax = SoftmaxAccumulate()
    states = [softmax.accept(q, k[a : a + 4], v[a : a + 4], None, None) for a in (0, 4)]
    out, lse = softmax.finish(softmax.merge(*states))
    assert np.isnan(out[1]).all()
    assert np.isnan(lse[1])
    assert np.isfinite(out[[0, 2]]).all()
    assert np.isfinite(lse[[0, 2]]).all()


def test_sums_join(rng):
    x, y, v = rng.standard_normal((5, 2)), rng.standard_normal((30, 2)), rng.standard_normal((30, 3))
    state = LinkedSum("exp", 0.5)
    halves = [state.accept(x, y[a : a + 15], v[a : a + 15], None, None) for a in (0, 15)]
    (got,) = state.finish(state.merge(*halves))
    np.testing.assert_allclose(got, rk.relation_matvec(x, y, v, link="exp", scale=0.5), rtol=1e-13)


def test_the_best_of_fewer_keys_than_k_are_padded(rng):
    q, keys = rng.standard_normal((4, 2)), rng.standard_normal((7, 2))
    keys[2], keys[5, 0] = np.nan, -np.inf
    top = TopK(10)
    mask = np.ones((4, 7), bool)
    mask[1] = False
    mask[2, :4] = False
    # States also contain padding, for a range whose keys a mask forbids.
    states = [top.accept(q, keys[a:b], a, None, None, mask[:, a:b]) for a, b in [(4, 7), (0, 4), (4, 4)]]
    values, indices = top.finish(top.merge(top.merge(states[0], states[2]), states[1]))
    expected = reference.retrieve(q @ keys.T, 10, mask)
    np.testing.assert_array_equal(indices, expected[1])
    np.testing.assert_allclose(values, expected[0], rtol=1e-13)
    none = top.finish(top.init((3,), q.dtype))
    assert (none[0] == -np.inf).all()
    assert (none[1] == -1).all()
    assert none[0].shape == none[1].shape == (3, 10)


def test_a_result_that_would_not_fit_names_its_bytes():
    top = TopK(10**15)
    with pytest.raises(MemoryError, match="retrieve: the output of shape"):
        top.finish(top.init((3,), np.dtype(np.float32)))
