"""retrieve is exact: the order of the sorted full matrix, including ties and NaN."""

import tracemalloc

import numpy as np
import pytest
import reference
import relkernels as rk
from hypothesis import given
from hypothesis import strategies as st
from relkernels import _core
from strategies import (
    dtypes,
    lay_out,
    layouts,
    leads,
    maps,
    normal,
    rows,
    seeds,
    some_columns,
    widths,
)


@given(st.data(), dtypes, rows, some_columns, widths, layouts, seeds)
def test_is_the_sorted_matrix(data, dtype, n, m, d, layout, seed):
    rng = np.random.default_rng(seed)
    phi = data.draw(maps(dtype, d, 5, rng))
    psi = data.draw(maps(dtype, d, 5, rng).filter(lambda p: p is not None or phi is None))
    lead_q, lead_k = data.draw(leads(2))
    q = lay_out(normal(rng, (*lead_q, n, d), dtype), layout)
    keys = lay_out(normal(rng, (*lead_k, m, d), dtype), layout)
    mask = data.draw(st.sampled_from([None, rng.random((n, m)) < 0.3, rng.random((1, m)) < 0.5]))
    k = data.draw(st.integers(1, m))
    r = rk.relation_matrix(q, keys, phi, psi)
    values, indices = rk.retrieve(q, keys, k, phi, psi, mask=mask)
    expected_values, expected_indices = reference.retrieve(r, k, mask)
    np.testing.assert_array_equal(values, expected_values)
    np.testing.assert_array_equal(indices, expected_indices)
    assert values.dtype == dtype
    assert indices.dtype == np.int64


@given(rows.filter(bool), st.sampled_from([5, 257, 2049]), st.integers(1, 5), seeds)
def test_ties_go_to_the_lowest_index(n, m, k, seed):
    rng = np.random.default_rng(seed)
    q = rng.integers(-1, 2, (n, 2)).astype(np.float32)
    keys = rng.integers(-1, 2, (m, 2)).astype(np.float32)
    _, indices = rk.retrieve(q, keys, k)
    expected = np.argsort(-(q @ keys.T), axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(indices, expected)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_nan_ranks_last_and_infinities_in_order(k):
    keys = np.array([[np.nan], [1.0], [np.inf], [-np.inf], [np.nan], [2.0], [3.0], [-1.0], [0.0], [5.0]])
    values, indices = rk.retrieve(np.array([[1.0]]), keys, k)
    assert indices[0].tolist() == [2, 9, 6, 5, 1, 8, 7, 3, 0, 4][:k]
    np.testing.assert_array_equal(values[0], keys[indices[0], 0])


@pytest.mark.parametrize("n", [1, 2, 200])
def test_many_keys(n, rng):
    q, keys = normal(rng, (n, 16), np.float32), normal(rng, (20_011, 16), np.float32)
    values, indices = rk.retrieve(q, keys, 50)
    r = rk.relation_matrix(q, keys)
    expected = np.argsort(-r, axis=1, kind="stable")[:, :50]
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(r, expected, axis=1))


def test_mask_leaves_fewer_than_k():
    keys = np.arange(4.0)[:, None]
    mask = np.array([[False, True, False, True]])
    values, indices = rk.retrieve(np.array([[1.0]]), keys, 3, mask=mask)
    assert indices.tolist() == [[3, 1, -1]]
    assert values.tolist() == [[3.0, 1.0, -np.inf]]


@given(st.data(), dtypes, rows, st.sampled_from([0, 1, 2, 7, 33]), seeds)
def test_more_than_there_are_is_padded(data, dtype, n, m, seed):
    """Also with NaN and -inf among the values, distinct from padding, and a mask that allows 0 .. m."""
    rng = np.random.default_rng(seed)
    q, keys = rng.integers(-1, 2, (2, n, 3)).astype(dtype), rng.integers(-1, 2, (m, 3)).astype(dtype)
    keys[rng.random(m) < 0.2] = np.nan
    keys[rng.random(m) < 0.2, 0] = -np.inf
    k = data.draw(st.integers(1, 2 * m + 3))
    allowed = rng.random((2, n, m)) < rng.random((2, n, 1))
    mask = data.draw(st.sampled_from([None, allowed, allowed[:, :, :1]]))
    phi = data.draw(maps(dtype, 3, 4, rng))
    r = rk.relation_matrix(q, keys, phi)
    expected = reference.retrieve(r, k, mask)
    out = np.full((2, n, 2 * k), 7, dtype)[..., ::2], np.full((2, n, k), 7)
    for to in (None, out):
        got = rk.retrieve(q, keys, k, phi, mask=mask, pad=True, out=to)
        assert to is None or got is to
        np.testing.assert_array_equal(got[0], expected[0])
        np.testing.assert_array_equal(got[1], expected[1])
        assert (got[0].dtype, got[1].dtype) == (dtype, np.int64)
    assert (out[0].base[..., 1::2] == 7).all()


def test_kernels_are_given_no_more_than_there_are_keys(rng, monkeypatch):
    """The kernels' state grows with k: 150 GB for 96 rows and k = 10 ** 8."""
    q, keys = normal(rng, (96, 4), np.float32), normal(rng, (50, 4), np.float32)
    given, kernel = [], _core.retrieve
    monkeypatch.setattr(_core, "retrieve", lambda *args: (given.append(args[-1].shape), kernel(*args)))
    values, indices = rk.retrieve(q, keys, 1000, pad=True)
    assert given == [(96, 50)]
    assert (values[:, 50:] == -np.inf).all()
    assert (indices[:, 50:] == -1).all()
    rk.retrieve(q, keys[:0], 3, pad=True)
    assert len(given) == 1
    with pytest.raises(MemoryError, match=r"retrieve: the output of shape \(96, 2147483647\)"):
        rk.retrieve(q, keys, 2**31 - 1, pad=True)
    assert len(given) == 1


@given(st.data(), dtypes, st.sampled_from([1, 5, 40]), seeds)
def test_a_single_query(data, dtype, m, seed):
    rng = np.random.default_rng(seed)
    lead = data.draw(st.sampled_from([(), (3,), (2, 3)]))
    q, keys = (
        normal(rng, (10,), dtype)[:: data.draw(st.sampled_from([2, -2]))],
        normal(rng, (*lead, m, 5), dtype),
    )
    phi = data.draw(maps(dtype, 5, 5, rng))
    mask = data.draw(st.sampled_from([None, rng.random(m) < 0.5, rng.random((3, m)) < 0.5, np.array(True)]))
    k = data.draw(st.integers(1, m + 2))
    as_row = mask if mask is None or not mask.ndim else mask[..., None, :]
    expected = [a[..., 0, :] for a in rk.retrieve(q[None], keys, k, phi, mask=as_row, pad=True)]
    out = tuple(np.full_like(a, 7) for a in expected)
    for to in (None, out):
        got = rk.retrieve(q, keys, k, phi, mask=mask, pad=True, out=to)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.shape[-1] == k
    if lead == () and mask is None:
        assert got[0].shape == (k,)


def test_features_that_are_kept_are_not_copied(rng):
    """The call of a service: queries are mapped, and the items' features are stored."""
    phi, psi = (rk.MLP.random([8, 16], seed=seed) for seed in (1, 2))
    q, items = normal(rng, (8,), np.float32), psi(normal(rng, (200_000, 8), np.float32))
    expected = rk.retrieve(q, items, 5, phi, rk.MLP([np.eye(16, dtype=np.float32)]))
    tracemalloc.start()
    got = rk.retrieve(phi(q[None])[0], items, 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert peak < 100_000 < items.nbytes


X, Y = np.ones((5, 4)), np.ones((6, 4))


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: rk.retrieve(X, Y, 7), ValueError, r"k: .* at most 6, .*\(6, 4\) \(pad=True pads.*, got 7"),
    (lambda: rk.retrieve(X, Y, 0, pad=True), ValueError, "k: expected an integer >= 1"),
    (lambda: rk.retrieve(X, Y, 7, pad=1), TypeError, "pad: expected True or False, got int"),
    (lambda: rk.retrieve(X, Y, 7, pad=True, out=(np.ones((5, 6)), np.ones((5, 6), int))), ValueError,
     r"out\[0\]: expected shape \(5, 7\), got \(5, 6\)"),
    (lambda: rk.retrieve(X[0], Y, 2, out=(np.ones((1, 2)), np.ones((1, 2), int))), ValueError,
     r"out\[0\]: expected shape \(2,\), got \(1, 2\)"),
    (lambda: rk.retrieve(X[0, 0], Y, 2), TypeError, "q: "),
    (lambda: rk.retrieve(np.array(1.0), Y, 2), ValueError,
     r"q: expected at least 1 dimension, got shape \(\)"),
    (lambda: rk.retrieve(X[0, :3], Y, 2), ValueError, r"keys: .* q, 3 \(from q of shape \(3,\)\)"),
    (lambda: rk.retrieve(X, Y[0], 2), ValueError, r"keys: expected at least 2 dimensions, got shape \(4,\)"),
    (lambda: rk.retrieve(X[0], Y, 2, mask=np.ones((5, 6), bool)[:, :5]), ValueError,
     r"mask: expected a shape that broadcasts to \(..., 6\), got \(5, 5\)"),
    (lambda: rk.attention(X[0], Y, Y), ValueError, r"q: expected at least 2 dimensions, got shape \(4,\)"),
])  # fmt: skip
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("k", [2**31, 2**63, 10**30])
def test_a_k_that_no_memory_could_hold_is_refused(k):
    q, keys = np.ones((0, 2)), np.ones((3, 2))
    for call in (rk.retrieve, rk.retrieve_blocks):
        with pytest.raises(ValueError, match=r"^k: expected an integer from 1 to 2147483647, got"):
            call(q, keys, k, pad=True)
