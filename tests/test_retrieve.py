"""retrieve is exact: the order of the full matrix sorted, ties and NaN included."""

import numpy as np
import pytest
import reference
import relkernels as rk
from hypothesis import given
from hypothesis import strategies as st
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
