"""retrieve_above: the elements of the relation matrix at or above a threshold, to the last bit."""

import numpy as np
import pytest
import reference
import relkernels as rk
from hypothesis import given
from hypothesis import strategies as st
from libraries import Library
from relkernels import _core
from relkernels.arrays.engine import Processor
from scipy import sparse
from strategies import dtypes, lay_out, layouts, leads, maps, normal, rows, seeds, some_columns, widths


def assert_same(got, expected):
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.shape == b.shape
    assert got[0].dtype == got[1].dtype == np.int64


@given(st.data(), dtypes, rows, some_columns, widths, layouts, seeds)
def test_is_the_matrix_above_the_threshold(data, dtype, n, m, d, layout, seed):
    rng = np.random.default_rng(seed)
    phi = data.draw(maps(dtype, d, 5, rng))
    psi = data.draw(maps(dtype, d, 5, rng).filter(lambda p: p is not None or phi is None))
    lead_q, lead_k = data.draw(leads(2))
    q = lay_out(normal(rng, (*lead_q, n, d), dtype), layout)
    keys = lay_out(normal(rng, (*lead_k, m, d), dtype), layout)
    r = rk.relation_matrix(q, keys, phi, psi)
    size = np.abs(r).max(initial=0)
    threshold = data.draw(
        st.sampled_from(
            [
                0.0,
                float(size),
                -np.inf,
                np.inf,
                0.5 * size * normal(rng, (n,), dtype),
                r[..., :, 0] if m else 0.0,
            ]
        )
    )
    mask = data.draw(st.sampled_from([None, rng.random((n, m)) < 0.3, rng.random((1, m)) < 0.5]))
    got = rk.retrieve_above(q, keys, threshold, phi, psi, mask=mask)
    assert_same(got, reference.retrieve_above(r, threshold, mask))
    assert got[2].dtype == dtype
    found = got[0][-1]
    assert_same(rk.retrieve_above(q, keys, threshold, phi, psi, mask=mask, limit=max(found, 1)), got)
    if found > 1:
        with pytest.raises(ValueError, match=rf"limit: expected at least {found}, .*, got {found - 1}$"):
            rk.retrieve_above(q, keys, threshold, phi, psi, mask=mask, limit=found - 1)


class Threads:
    """A number of threads for a block of statements."""

    def __init__(self, n):
        self.n = n

    def __enter__(self):
        self.before = rk.get_num_threads()
        rk.set_num_threads(self.n)

    def __exit__(self, *error):
        rk.set_num_threads(self.before)


@pytest.fixture(scope="module")
def large():
    rng = np.random.default_rng(0)
    q, keys = normal(rng, (100, 16), np.float32), normal(rng, (10_011, 16), np.float32)
    q[3], q[5, 2], q[6] = 0, np.nan, q[6] * 1e30
    keys[::977] = 0
    keys[5_003, 4], keys[7_000, 1], keys[9_000] = np.nan, np.inf, keys[9_000] * 1e30
    with np.errstate(all="ignore"):
        return q, keys, rk.relation_matrix(q, keys)


@pytest.mark.parametrize("threshold", [-1e30, 4.0, 12.0, np.inf])
@pytest.mark.parametrize("prepared", [False, True])
def test_screening_changes_nothing(large, threshold, prepared):
    """Also thresholds of which so many pairs are above that the rest is a plain walk; NaN and infinities."""
    q, keys, r = large
    searched = rk.Keys(keys) if prepared else keys
    expected = reference.retrieve_above(r, threshold)
    for threads in (1, 2):
        with Threads(threads):
            assert_same(rk.retrieve_above(q, searched, threshold), expected)
    few = rk.retrieve_above(q[40:43], searched, threshold)
    assert_same(few, reference.retrieve_above(r[40:43], threshold))


def test_data_without_bounds_goes_on_as_a_plain_walk():
    """Screening gives up after its first columns: the pairs of before and after are in one order."""
    rng = np.random.default_rng(1)
    q, keys = normal(rng, (60, 8), np.float32), normal(rng, (40_000, 8), np.float32)
    r = rk.relation_matrix(q, keys)
    threshold = np.sort(r, axis=1)[:, -12_000]
    for threads in (1, 2):
        with Threads(threads):
            assert_same(rk.retrieve_above(q, keys, threshold), reference.retrieve_above(r, threshold))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_few_queries_share_the_keys_among_threads(dtype):
    rng = np.random.default_rng(2)
    q, keys = normal(rng, (2, 5), dtype), normal(rng, (30_001, 5), dtype)
    r = rk.relation_matrix(q, keys)
    for threads in (1, 2):
        with Threads(threads):
            assert_same(rk.retrieve_above(q, keys, 1.5), reference.retrieve_above(r, 1.5))


def test_values_are_those_of_retrieve():
    rng = np.random.default_rng(3)
    q, keys = normal(rng, (30, 12), np.float32), normal(rng, (5_000, 12), np.float32)
    values, indices = rk.retrieve(q, keys, 10)
    offsets, found, of_found = rk.retrieve_above(q, keys, values[:, -1].copy())
    assert np.diff(offsets).tolist() == [10] * 30
    order = np.argsort(indices, axis=1)
    np.testing.assert_array_equal(found.reshape(30, 10), np.take_along_axis(indices, order, 1))
    np.testing.assert_array_equal(of_found.reshape(30, 10), np.take_along_axis(values, order, 1))


def test_a_number_is_rounded_as_numpy_does():
    keys = np.array([[0.1], [0.2]], np.float32)
    assert rk.retrieve_above(np.ones((1, 1), np.float32), keys, 0.1)[1].tolist() == [0, 1]
    assert rk.retrieve_above(np.ones((1, 1), np.float32), keys, 1e300)[1].tolist() == []


def test_scipy_takes_the_result():
    rng = np.random.default_rng(4)
    x = normal(rng, (50, 3), np.float64)
    offsets, indices, values = rk.retrieve_above(x, x, 1.0)
    r = rk.relation_matrix(x, x)
    matrix = sparse.csr_array((values, indices, offsets), shape=(50, 50))
    assert matrix.has_canonical_format
    np.testing.assert_array_equal(matrix.toarray(), np.where(r >= 1, r, 0))


def test_a_single_query_and_a_batch():
    rng = np.random.default_rng(5)
    q, keys = normal(rng, (2, 3, 4), np.float64), normal(rng, (2, 7, 4), np.float64)
    r = rk.relation_matrix(q, keys)
    threshold = normal(rng, (2, 3), np.float64)
    assert_same(rk.retrieve_above(q, keys, threshold), reference.retrieve_above(r, threshold))
    one = rk.retrieve_above(q[0, 1], keys, 0.3)
    assert_same(one, reference.retrieve_above(rk.relation_matrix(q[0, 1:2], keys), 0.3))
    assert_same(
        rk.retrieve_above(q[0, 1], keys[0], np.array(0.3)), rk.retrieve_above(q[0, 1:2], keys[0], 0.3)
    )
    empty = rk.retrieve_above(q[:, :0], keys, 0.0)
    assert [a.tolist() for a in empty] == [[0], [], []]


def test_keys_that_were_removed_and_added():
    rng = np.random.default_rng(6)
    table, more = normal(rng, (3_000, 6), np.float32), normal(rng, (20, 6), np.float32)
    q = normal(rng, (30, 6), np.float32)
    keys = rk.Keys(table)
    keys.remove(range(0, 1000, 3))
    keys.add(more)
    whole = np.concatenate([table, more])
    r = rk.relation_matrix(q, whole)
    mask = np.isin(np.arange(len(whole)), keys.ids)
    assert_same(rk.retrieve_above(q, keys, 3.0), reference.retrieve_above(r, 3.0, mask[None]))
    keys.remove(range(1000, 2900))  # the rows are copied: ids are no longer row numbers
    mask = np.isin(np.arange(len(whole)), keys.ids)
    assert_same(rk.retrieve_above(q, keys, 3.0), reference.retrieve_above(r, 3.0, mask[None]))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_floats_of_16_bits(dtype):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(7)
    q, keys = (torch.from_numpy(normal(rng, (n, 8), np.float32)).to(getattr(torch, dtype)) for n in (5, 60))
    r = rk.relation_matrix(q.float(), keys.float()).numpy()
    for threshold in (1.0, q[:, 0].contiguous()):
        bars = threshold if isinstance(threshold, float) else threshold.float().numpy()
        offsets, indices, values = rk.retrieve_above(q, keys, threshold)
        expected = reference.retrieve_above(r, bars)
        assert_same((offsets.numpy(), indices.numpy()), expected[:2])
        assert values.dtype == q.dtype
        assert torch.equal(values, torch.from_numpy(expected[2]).to(q.dtype))


def test_arrays_of_another_library():
    rng = np.random.default_rng(8)
    q, keys = normal(rng, (4, 3), np.float64), normal(rng, (9, 3), np.float64)
    strict = Library("array_api_strict")
    got = rk.retrieve_above(strict.of(q), strict.of(keys), strict.of(q[:, 0]))
    assert_same([strict.to_numpy(a) for a in got], rk.retrieve_above(q, keys, q[:, 0]))


def test_more_than_fits_in_memory(monkeypatch):
    x = np.ones((1200, 1), np.float32)
    monkeypatch.setattr(Processor, "available", staticmethod(lambda: 10_000_000))
    with pytest.raises(MemoryError, match=r"retrieve_above: 1440000 pairs .* need 46080000 bytes; 10000000"):
        rk.retrieve_above(x, x, 0.0)


def test_kernel_checks_its_outputs():
    x = np.ones((3, 1))
    found = _core.retrieve_above(x, x, None, None, None, None, np.zeros(3), 100)
    assert found.total == 9
    with pytest.raises(ValueError, match="all pairs"):
        found.write(np.empty(4, np.int64), np.empty(8, np.int64), np.empty(8))
    beyond = _core.retrieve_above(x, x, None, None, None, None, np.zeros(3), 5)
    assert beyond.total == 9
    with pytest.raises(ValueError, match="all pairs"):
        beyond.write(np.empty(4, np.int64), np.empty(9, np.int64), np.empty(9))


X = np.ones((5, 4), np.float32)


@pytest.mark.parametrize(
    ("threshold", "options", "error", "words"),
    [
        (np.nan, {}, ValueError, ["threshold: expected a number, got NaN"]),
        (
            np.array([0, np.nan, 0, 0, 0], np.float32),
            {},
            ValueError,
            ["threshold: expected numbers, got NaN"],
        ),
        (np.zeros(4, np.float32), {}, ValueError, ["threshold:", "(5,)", "(4,)"]),
        (np.zeros((2, 5), np.float32), {}, ValueError, ["threshold:", "(5,)", "(2, 5)"]),
        (np.zeros(5), {}, TypeError, ["threshold:", "float32", "float64", "threshold.astype(np.float32)"]),
        (np.zeros(5, int), {}, TypeError, ["threshold:", "float32", "int64"]),
        ("1", {}, TypeError, ["threshold: expected a real number", "str"]),
        (None, {}, TypeError, ["threshold: expected a real number", "None"]),
        ([0.0] * 5, {}, TypeError, ["threshold:", "list"]),
        (0.0, {"limit": 0}, ValueError, ["limit: expected an integer >= 1, got 0"]),
        (0.0, {"limit": -3}, ValueError, ["limit: expected an integer >= 1, got -3"]),
        (0.0, {"limit": 1.5}, TypeError, ["limit: expected an integer", "float"]),
        (0.0, {"limit": True}, TypeError, ["limit: expected an integer", "bool"]),
        (0.0, {"mask": np.ones((5, 4), bool)}, ValueError, ["mask:", "(5, 4)"]),
        (0.0, {"precision": "tf32"}, ValueError, ["precision:"]),
    ],
)
def test_bad_input(threshold, options, error, words):
    with pytest.raises(error) as info:
        rk.retrieve_above(X, X, threshold, **options)
    for word in words:
        assert word in str(info.value)
