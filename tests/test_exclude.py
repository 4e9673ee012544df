"""The argument `exclude` of searches: the result of a mask without the pairs that it lists."""

import tracemalloc

import numpy as np
import pytest
import reference
import relkernels as rk
from hypothesis import given
from hypothesis import strategies as st
from libraries import Library
from scipy import sparse
from strategies import dtypes, lay_out, layouts, maps, normal, rows, seeds, some_columns


def assert_same(got, expected):
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)


def as_matrix(lists, m):
    """Return the sparse matrix of lists (n, e), -1 for none."""
    return sparse.csr_array(~reference.not_excluded((len(lists), m), lists))


@given(st.data(), dtypes, rows, some_columns, layouts, seeds)
def test_equals_a_mask(data, dtype, n, m, layout, seed):
    rng = np.random.default_rng(seed)
    lead = data.draw(st.sampled_from([(), (2,), (3, 1)]))
    phi = data.draw(maps(dtype, 5, 4, rng))
    q, keys = lay_out(normal(rng, (*lead, n, 5), dtype), layout), normal(rng, (m, 5), dtype)
    e = data.draw(st.sampled_from([0, 1, 3, m + 2]))
    shape = data.draw(st.sampled_from([(n,), (n, e), (1, e), (*lead, n, e), (*lead[1:], n, e)]))
    integers = data.draw(st.sampled_from([np.int64, np.int32, np.int16]))
    lists = rng.integers(-1, m, shape).astype(integers)
    lists = lists if lists.ndim == 1 or layout in ("sliced", "offset") else lay_out(lists, layout)
    given_mask = data.draw(st.sampled_from([None, rng.random((n, m)) < 0.6]))
    mask = reference.not_excluded((*lead, n, m), lists)
    mask = mask if given_mask is None else mask & given_mask
    k = data.draw(st.integers(1, m + 1))
    expected = rk.retrieve(q, keys, k, phi, mask=mask, pad=True)
    above = rk.retrieve_above(q, keys, 0.2, phi, mask=mask)
    forms = [lists]
    if lists.ndim == 2 and len(lists) == n:
        matrix = as_matrix(lists, m)
        forms += [matrix, matrix.tocoo(), sparse.csc_matrix(matrix)]
    for exclude in forms:
        assert_same(rk.retrieve(q, keys, k, phi, mask=given_mask, exclude=exclude, pad=True), expected)
        assert_same(rk.retrieve_above(q, keys, 0.2, phi, mask=given_mask, exclude=exclude), above)
    if phi is None:
        prepared = rk.Keys(keys)
        assert_same(rk.retrieve(q, prepared, k, mask=given_mask, exclude=lists, pad=True), expected)
        assert_same(rk.retrieve_above(q, prepared, 0.2, mask=given_mask, exclude=lists), above)


@pytest.mark.parametrize("k", [1, 10, 300])
def test_screening_with_the_best_excluded(k):
    """The k best of each row, and NaN, are excluded: every bar is raised by the others."""
    rng = np.random.default_rng(0)
    q, keys = normal(rng, (60, 16), np.float32), normal(rng, (12_000, 16), np.float32)
    keys[5::1000, 3] = np.nan
    seen = np.column_stack([rk.retrieve(q, keys, 200)[1], np.full(60, 1005), np.full(60, -1)])
    mask = reference.not_excluded((60, 12_000), seen)
    expected = rk.retrieve(q, keys, k, mask=mask)
    bars = expected[0][:, -1].copy()
    above = rk.retrieve_above(q, keys, bars, mask=mask)
    assert np.diff(above[0]).tolist() == [k] * 60
    before = rk.get_num_threads()
    try:
        for threads in (1, 2):
            rk.set_num_threads(threads)
            for searched in (keys, rk.Keys(keys)):
                assert_same(rk.retrieve(q, searched, k, exclude=seen), expected)
                assert_same(rk.retrieve_above(q, searched, bars, exclude=seen), above)
        few = rk.retrieve(q[3:5], keys, k, exclude=seen[3:5])
        assert_same(few, [a[3:5] for a in expected])
    finally:
        rk.set_num_threads(before)


def test_not_itself():
    rng = np.random.default_rng(1)
    x = normal(rng, (40, 6), np.float64)
    r = rk.relation_matrix(x, x)
    np.fill_diagonal(r, -np.inf)
    assert rk.retrieve(x, x, 1, exclude=np.arange(40))[1][:, 0].tolist() == r.argmax(axis=1).tolist()


def test_fewer_than_k_are_left():
    values, indices = rk.retrieve(
        np.ones((1, 1)), np.array([[1.0], [np.nan], [3.0]]), 3, exclude=np.array([2])
    )
    assert indices.tolist() == [[0, 1, -1]]
    np.testing.assert_array_equal(values, [[1.0, np.nan, -np.inf]])


def test_a_single_query():
    q, keys = np.array([1.0]), np.arange(6.0)[:, None]
    assert rk.retrieve(q, keys, 2, exclude=np.array([5, 3, -1]))[1].tolist() == [4, 2]
    assert rk.retrieve(q, keys, 2, exclude=np.array(5))[1].tolist() == [4, 3]
    assert rk.retrieve(q, keys, 2, exclude=sparse.csr_array([[0, 0, 0, 0, 1, 1]]))[1].tolist() == [3, 2]
    assert rk.retrieve_above(q, keys, 3.0, exclude=np.array([4]))[1].tolist() == [3, 5]
    batch = np.stack([keys, -keys])
    lists = np.array([[5], [0]])
    assert rk.retrieve(q, batch, 1, exclude=lists)[1].tolist() == [[4], [1]]


def test_sparse_matrices_as_they_are_stored():
    """Unsorted indices, duplicates, stored zeros, no more columns than entries need; nothing is changed."""
    q, keys = np.ones((2, 1)), np.arange(5.0)[:, None]
    arrays = np.zeros(5), np.array([4, 1, 4, 2, 4]), np.array([0, 3, 5])
    matrix = sparse.csr_matrix(arrays, shape=(2, 5))
    assert rk.retrieve(q, keys, 2, exclude=matrix)[1].tolist() == [[3, 2], [3, 1]]
    assert matrix.indices.tolist() == [4, 1, 4, 2, 4]


def test_lists_may_be_of_another_library():
    x = normal(np.random.default_rng(2), (5, 3), np.float32)
    expected = rk.retrieve(x, x, 2, exclude=np.arange(5))
    assert_same(rk.retrieve(x, x, 2, exclude=Library("array_api_strict").of(np.arange(5))), expected)
    torch = pytest.importorskip("torch")
    for lists in (torch.arange(5), np.arange(5), sparse.csr_array(np.eye(5))):
        got = rk.retrieve(torch.from_numpy(x), torch.from_numpy(x), 2, exclude=lists)
        assert_same([a.numpy() for a in got], expected)


def test_ids_of_keys():
    rng = np.random.default_rng(3)
    table, q = normal(rng, (3_000, 4), np.float32), normal(rng, (30, 4), np.float32)
    keys = rk.Keys(table)
    for removed in (range(0, 900, 3), range(900, 2600)):  # marked; then the rows are copied
        keys.remove(removed)
        lists = rng.integers(-1, 3000, (30, 200))  # also ids that were removed
        mask = reference.not_excluded((30, 3000), lists) & np.isin(np.arange(3000), keys.ids)
        expected = rk.retrieve(q, table, 9, mask=mask)
        assert_same(rk.retrieve(q, keys, 9, exclude=lists), expected)
        assert_same(rk.retrieve(q, keys, 9, exclude=as_matrix(lists, 3000)), expected)
        only = rng.random(keys.shape[0]) < 0.5
        mask[:, keys.ids[~only]] = False
        assert_same(
            rk.retrieve(q, keys, 9, exclude=lists, mask=only[None]), rk.retrieve(q, table, 9, mask=mask)
        )
    keys.add(table[:5])
    narrow = as_matrix(lists, 3000)  # without columns for the new ids
    assert_same(rk.retrieve(q, keys, 9, exclude=narrow), rk.retrieve(q, keys, 9, exclude=lists))
    with pytest.raises(ValueError, match=r"exclude: expected ids of keys from 0 to 3004, or -1 .*, got 3005"):
        rk.retrieve(q, keys, 1, exclude=np.full(30, 3005))


def test_memory_is_that_of_the_lists():
    """A mask of these pairs would take 25 MB."""
    x = np.ones((5_000, 1), np.float32)
    itself = np.arange(5_000)
    tracemalloc.start()
    rk.retrieve(x, x, 1, exclude=itself)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


X = np.ones((5, 4), np.float32)


@pytest.mark.parametrize(
    ("exclude", "error", "words"),
    [
        (np.array([0, 1, 2, 3, 6]), ValueError, ["indices from 0 to 5, or -1 for none", "got 6"]),
        (np.array([0, 1, 2, 3, -2]), ValueError, ["indices from 0 to 5, or -1 for none", "got -2"]),
        (np.full((5, 2), 2**63, np.uint64), ValueError, ["indices from 0 to 5", "9223372036854775808"]),
        (np.zeros(5), TypeError, ["integer indices", "float64"]),
        (np.ones((5, 6), bool), TypeError, ["integer indices", "bool", "mask"]),
        (np.ma.masked_array(np.zeros(5, int)), TypeError, ["integer indices"]),
        (np.zeros(4, int), ValueError, ["shape (5,) or (..., 5, e)", "(4,)"]),
        (np.zeros((4, 2), int), ValueError, ["shape (5,) or (..., 5, e)", "(4, 2)"]),
        (np.array(3), ValueError, ["shape (5,) or (..., 5, e)", "()"]),
        (np.zeros((2, 5, 1), int), ValueError, ["leading dimensions", "(2,)"]),
        ([0, 1, 2, 3, 4], TypeError, ["integer indices", "list"]),
        ("itself", TypeError, ["integer indices", "str"]),
        (sparse.csr_array((5, 7)), ValueError, ["(5, 6)", "(5, 7)"]),
        (sparse.csr_array((4, 6)), ValueError, ["(5, 6)", "(4, 6)"]),
        (sparse.lil_array((5, 6)), TypeError, ["CSR", "exclude.tocsr()"]),
    ],
)
@pytest.mark.parametrize("call", ["retrieve", "retrieve_above"])
def test_bad_input(call, exclude, error, words):
    with pytest.raises(error) as info:
        getattr(rk, call)(X, np.ones((6, 4), np.float32), 1, exclude=exclude)
    assert str(info.value).startswith("exclude: expected")
    for word in words:
        assert word in str(info.value)


def test_damaged_sparse_matrices_are_refused():
    bad = sparse.csr_matrix((5, 6))
    bad.data, bad.indices, bad.indptr = np.ones(1), np.array([9]), np.array([0, 1, 1, 1, 1, 1])
    with pytest.raises(ValueError, match="exclude: expected column indices from 0 to 5"):
        rk.retrieve(X, np.ones((6, 4), np.float32), 1, exclude=bad)


def test_an_output_on_the_excluded_indices_is_refused():
    keys = np.eye(4, dtype=np.float32)
    exclude = np.arange(4)[:, None]
    before, values = exclude.copy(), np.full((4, 1), 7, np.float32)
    with pytest.raises(ValueError, match=r"out\[1\]: expected memory apart from exclude"):
        rk.retrieve(keys, keys, 1, exclude=exclude, out=(values, exclude))
    np.testing.assert_array_equal(exclude, before)
    assert (values == 7).all()
