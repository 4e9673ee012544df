"""Operations on Dask arrays equal those in memory for all chunks."""

import doctest
import importlib
import inspect
import pickle
import weakref

import ml_dtypes
import numpy as np
import pytest
import relkernels as rk
from hypothesis import given, settings
from hypothesis import strategies as st
from relkernels import ops
from scipy import sparse
from sklearn.base import clone
from sklearn.linear_model import SGDClassifier
from sklearn.naive_bayes import GaussianNB
from strategies import dtypes, maps, normal, seeds, widths

dask = pytest.importorskip("dask", reason="Dask is not installed")
da = pytest.importorskip("dask.array", reason="Dask is not installed")
rd = importlib.import_module("relkernels.dask")

few = settings(max_examples=25)
rows = st.sampled_from([0, 1, 2, 7, 12, 33, 97])
some_rows = rows.filter(bool)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


@st.composite
def cut(draw, a):
    """Return a Dask array with several chunks on every axis, including empty ones."""
    chunks = []
    for size in a.shape:
        at = sorted(draw(st.lists(st.integers(0, size), max_size=2)))
        chunks.append(tuple(int(n) for n in np.diff([0, *at, size])))
    return da.from_array(a, chunks=tuple(chunks))


def same(lazy, expected):
    """Check that results are bit-identical, with the announced shape, dtype and chunks."""
    assert isinstance(lazy, da.Array)
    assert (lazy.shape, lazy.dtype) == (expected.shape, expected.dtype)
    assert isinstance(lazy._meta, np.ndarray)
    np.testing.assert_array_equal(lazy.compute(), expected)
    for place in np.ndindex(*lazy.numblocks):
        block = lazy.blocks[place]
        assert block.compute().shape == block.shape


@few
@given(st.data(), dtypes, rows, widths, seeds)
def test_feature_map(data, dtype, n, d, seed):
    rng = np.random.default_rng(seed)
    phi = data.draw(maps(dtype, d, 5, rng).filter(bool))
    x = normal(rng, (2, n, d), dtype)
    same(rd.feature_map(data.draw(cut(x)), phi), rk.feature_map(x, phi))


@settings(max_examples=10)
@given(st.data(), dtypes, rows, seeds)
def test_features_of_unit_length(data, dtype, n, seed):
    rng = np.random.default_rng(seed)
    x = normal(rng, (2, n, 5), dtype)
    x[rng.random(x.shape[:-1]) < 0.2] = 0
    same(rd.normalize(data.draw(cut(x))), rk.normalize(x))
    same(rd.normalize(data.draw(cut(x[0]))), rk.normalize(x[0]))
    phi = rk.MLP.random([5, 7, 4], random_state=seed, dtype=dtype, normalize=True)
    y = normal(rng, (9, 5), dtype)
    lazy = data.draw(cut(x)), data.draw(cut(y))
    same(rd.feature_map(lazy[0], phi), rk.feature_map(x, phi))
    same(rd.relation_matrix(*lazy, phi), rk.relation_matrix(x, y, phi))
    for ours, expected in zip(rd.retrieve(*lazy, 3, phi), rk.retrieve(x, y, 3, phi), strict=True):
        np.testing.assert_array_equal(ours.compute(), expected)


def test_normalize_of_a_single_row_of_halves_and_of_bad_arguments():
    row = np.array([3.0, 4.0])
    same(rd.normalize(da.from_array(row, chunks=1)), rk.normalize(row))
    for dtype in (np.float16, ml_dtypes.bfloat16):
        x = np.array([[3, 4], [1, 2]], dtype)
        same(rd.normalize(da.from_array(x, chunks=1)), rk.normalize(x))
    with pytest.raises(TypeError, match="x: expected"):
        rd.normalize(da.ones((3, 2), dtype=int))
    with pytest.raises(TypeError, match="x: expected a Dask array"):
        rd.normalize([[1.0]])
    with pytest.raises(TypeError, match=r"x: .*dask"):
        rk.normalize(da.ones((3, 2)))


@few
@given(st.data(), dtypes, rows, rows, widths, seeds)
def test_relation_matrix(data, dtype, n, m, d, seed):
    rng = np.random.default_rng(seed)
    phi = data.draw(maps(dtype, d, 6, rng))
    psi = data.draw(maps(dtype, d, 6, rng).filter(lambda p: p is not None or phi is None))
    x, y = normal(rng, (3, 1, n, d), dtype), normal(rng, (2, m, d), dtype)
    heads = data.draw(st.sampled_from([1, 2, 3])) if phi is not None else 1
    options = {"scale": -0.5, "heads": heads}
    same(
        rd.relation_matrix(data.draw(cut(x)), data.draw(cut(y)), phi, psi, **options),
        rk.relation_matrix(x, y, phi, psi, **options),
    )
    symmetric = rd.relation_matrix(data.draw(cut(x)), phi=phi, **options)
    same(symmetric, rk.relation_matrix(x, phi=phi, **options))
    r = symmetric.compute()
    np.testing.assert_array_equal(r, np.swapaxes(r, -1, -2))
    same(rd.relation_matrix(data.draw(cut(x)), None, phi, psi), rk.relation_matrix(x, None, phi, psi))


@few
@given(st.data(), dtypes, rows, rows, st.sampled_from(["relu", "tanh", "erf"]), seeds)
def test_nngp_kernel(data, dtype, n, m, activation, seed):
    rng = np.random.default_rng(seed)
    x, y = normal(rng, (2, n, 5), dtype), normal(rng, (m, 5), dtype)
    options = {"depth": 2, "activation": activation, "bias_std": 0.3}
    same(rd.nngp_kernel(data.draw(cut(x)), **options), rk.nngp_kernel(x, **options))
    both = rd.nngp_kernel(data.draw(cut(x)), data.draw(cut(y)), **options, kind="ntk")
    same(both, rk.nngp_kernel(x, y, **options, kind="ntk"))


@few
@given(st.data(), dtypes, rows, some_rows, st.booleans(), seeds)
def test_retrieve(data, dtype, n, m, tied, seed):
    rng = np.random.default_rng(seed)
    q, keys = normal(rng, (2, 1, n, 3), dtype), normal(rng, (3, m, 3), dtype)
    if tied:
        q, keys = q.round(), keys.round()
    keys[rng.random(keys.shape) < 0.05] = np.nan
    keys[rng.random(keys.shape) < 0.05] = -np.inf
    phi = data.draw(maps(dtype, 3, 4, rng))
    mask = data.draw(st.sampled_from([None, rng.random((n, m)) < 0.3, rng.random((3, 1, m)) < 0.5]))
    k = data.draw(st.integers(1, 2 * m + 1))
    exclude = data.draw(st.sampled_from(excludes(rng, n, m)))
    lazy = rd.retrieve(
        data.draw(cut(q)),
        data.draw(cut(keys)),
        k,
        phi,
        mask=None if mask is None else data.draw(cut(mask)),
        exclude=exclude if isinstance(exclude, sparse.csr_array | None) else data.draw(cut(exclude)),
        pad=k > m,
    )
    expected = rk.retrieve(q, keys, k, phi, mask=mask, exclude=exclude, pad=k > m)
    for a, b in zip(lazy, expected, strict=True):
        same(a, b)


@settings(max_examples=10)
@given(st.data(), dtypes, rows, some_rows, st.booleans(), seeds)
def test_retrieve_above(data, dtype, n, m, prepared, seed):
    rng = np.random.default_rng(seed)
    q, keys = normal(rng, (n, 3), dtype), normal(rng, (m, 3), dtype)
    mask = data.draw(st.sampled_from([None, rng.random((n, m)) < 0.5, rng.random(m) < 0.5]))
    exclude = data.draw(st.sampled_from(excludes(rng, n, m)))
    threshold = data.draw(st.sampled_from([0.3, normal(rng, (n,), dtype)]))
    lazy_keys = data.draw(cut(keys))
    lazy = rd.retrieve_above(
        data.draw(cut(q)),
        rd.keys(lazy_keys) if prepared else lazy_keys,
        data.draw(cut(threshold)) if isinstance(threshold, np.ndarray) else threshold,
        mask=None if mask is None else data.draw(cut(mask)),
        exclude=exclude if isinstance(exclude, sparse.csr_array | None) else data.draw(cut(exclude)),
    )
    assert lazy.shape == (n, m)
    assert lazy.dtype == dtype
    got = lazy.compute()
    expected = rk.retrieve_above(q, keys, threshold, mask=mask, exclude=exclude)
    for a, b in zip((got.indptr, got.indices, got.data), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def excludes(rng, n, m):
    """The forms of excluded indices."""
    matrix = sparse.csr_array(rng.random((n, m)) < 0.2)
    return [None, rng.integers(-1, m, n), rng.integers(-1, m, (n, 4)), rng.integers(-1, m, (1, 2)), matrix]


def test_bad_arguments_of_searches():
    x = da.ones((6, 3), chunks=2)
    for call, message in (
        (lambda: rd.retrieve(x, x, 1, exclude=np.full(6, 6)), "^exclude: expected indices from 0 to 5"),
        (lambda: rd.retrieve(x, x, 1, exclude=da.ones(6)), "^exclude: expected an array of integer"),
        (lambda: rd.retrieve(x, x, 1, exclude=da.zeros(5, dtype=int)), r"^exclude: expected shape \(6,\)"),
        (
            lambda: rd.retrieve(x, x, 1, exclude=sparse.csr_array((6, 5))),
            r"^exclude: expected shape \(6, 6\)",
        ),
        (lambda: rd.retrieve(x, x, 1, exclude=da.full(6, 9)), "^exclude: expected indices"),
        (lambda: rd.retrieve_above(x, x, np.nan), "^threshold: expected a number, got NaN"),
        (lambda: rd.retrieve_above(x, x, da.ones(5)), "^threshold: .*broadcasts"),
        (lambda: rd.retrieve_above(x, x, da.ones(6, dtype="f4")), "^threshold: expected float64"),
        (lambda: rd.retrieve_above(x[0], x, 1.0), "^q: expected 2 dimensions"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            dask.compute(call())


@few
@given(st.data(), dtypes, rows, seeds)
def test_retrieve_of_a_single_query(data, dtype, m, seed):
    rng = np.random.default_rng(seed)
    q, keys = normal(rng, (3,), dtype), normal(rng, (2, m, 3), dtype)
    mask = data.draw(st.sampled_from([None, rng.random(m) < 0.5, rng.random((2, m)) < 0.5]))
    k = data.draw(st.integers(1, m + 2))
    lazy_mask = None if mask is None else data.draw(cut(mask))
    lazy = rd.retrieve(q, data.draw(cut(keys)), k, mask=lazy_mask, pad=True)
    for a, b in zip(lazy, rk.retrieve(q, keys, k, mask=mask, pad=True), strict=True):
        same(a, b)


def test_retrieve_over_more_blocks_than_a_task_joins(rng):
    q, keys = normal(rng, (30, 8), np.float32).round(), normal(rng, (3000, 8), np.float32).round()
    lazy = rd.retrieve(da.from_array(q, chunks=(11, 8)), da.from_array(keys, chunks=(17, 8)), 40)
    for a, b in zip(dask.compute(*lazy), rk.retrieve(q, keys, 40), strict=True):
        np.testing.assert_array_equal(a, b)
    assert lazy[0].chunks == ((11, 11, 8), (40,))


@few
@given(st.data(), dtypes, rows, rows, st.booleans(), seeds)
def test_retrieve_of_blocks_of_keys(data, dtype, n, m, persisted, seed):
    rng = np.random.default_rng(seed)
    q, table = normal(rng, (2, n, 3), dtype).round(), normal(rng, (m, 3), dtype).round()
    phi = data.draw(maps(dtype, 3, 4, rng))
    psi = data.draw(maps(dtype, 3, 4, rng).filter(lambda p: (p is None) == (phi is None)))
    mask = data.draw(st.sampled_from([None, rng.random((n, m)) < 0.3]))
    k = data.draw(st.integers(1, m + 2))
    keys = rd.keys(data.draw(cut(table)), psi)
    keys = keys.persist() if persisted else keys
    lazy_mask = None if mask is None else data.draw(cut(mask))
    lazy = rd.retrieve(data.draw(cut(q)), keys, k, phi, mask=lazy_mask, pad=True)
    for a, b in zip(lazy, rk.retrieve(q, table, k, phi, psi, mask=mask, pad=True), strict=True):
        same(a, b)


def test_blocks_of_keys_in_16_bits_and_bad_arguments(rng):
    q, table = normal(rng, (3, 8), np.float32), normal(rng, (100, 8), np.float32)
    keys = rd.keys(da.from_array(table, chunks=(30, 5)), dtype="float16")
    assert (keys.shape, keys.chunks[0], keys.dtype) == ((100, 8), (30, 30, 30, 10), np.float32)
    for a, b in zip(rd.retrieve(q, keys, 5), rk.retrieve(q, rk.Keys(table, dtype="float16"), 5), strict=True):
        same(a, b)
    psi = rk.MLP.random([8, 4], random_state=0)
    for call, message in (
        (lambda: rd.keys(table[0]), r"^keys: expected shape \(rows, features\), got \(8,\)"),
        (lambda: rd.keys(table, dtype="int8"), "^dtype: "),
        (lambda: rd.keys(table, 3), "^psi: "),
        (lambda: rd.keys(table.astype(float), psi), "^psi: "),
        (lambda: rd.retrieve(q, keys, 1, psi, psi), "^psi: expected None with blocks of Keys"),
        (lambda: rd.retrieve(q, keys, 1, psi), "^keys: expected features as wide as those of q, 4"),
        (lambda: rd.retrieve(q[:, :7], keys, 1, psi), "^q: expected rows of 8 features"),
        (lambda: rd.retrieve(q, keys, 101), "^k: expected at most 100"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            call()


@few
@given(st.data(), dtypes, rows, rows, st.booleans(), seeds)
def test_attention(data, dtype, n, m, causal, seed):
    rng = np.random.default_rng(seed)
    phi = data.draw(maps(dtype, 3, 4, rng))
    q, k, v = (normal(rng, shape, dtype) for shape in ((2, 1, n, 3), (3, m, 3), (m, 2)))
    mask = data.draw(st.sampled_from([None, rng.random((n, m)) < 0.3, rng.random((3, 1, m)) < 0.5]))
    scale = data.draw(st.sampled_from([None, -0.8, 0.0]))
    options = {"causal": causal, "return_lse": True, "scale": scale}
    options["window"] = data.draw(st.sampled_from([None, 3, (0, None), (None, 2), (7, 4)]))
    options["align"] = data.draw(st.sampled_from(["upper_left", "lower_right"]))
    options["softcap"] = data.draw(st.sampled_from([None, 2.0]))
    bias = data.draw(st.sampled_from([None, (n, m), (3, 1, m), (m,)]))
    if bias is not None:
        bias = normal(rng, bias, dtype)
        bias[rng.random(bias.shape) < 0.2] = -np.inf
    lazy = rd.attention(
        *(data.draw(cut(a)) for a in (q, k, v)),
        phi,
        mask=None if mask is None else data.draw(cut(mask)),
        bias=None if bias is None else data.draw(cut(bias)),
        **options,
    )
    out, lse = dask.compute(*lazy)
    expected, expected_lse = rk.attention(q, k, v, phi, mask=mask, bias=bias, **options)
    assert [a.shape for a in lazy] == [out.shape, lse.shape] == [expected.shape, expected_lse.shape]
    assert out.dtype == lse.dtype == lazy[0].dtype == dtype
    tolerance = 5e-6 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(out, expected, rtol=0, atol=tolerance * np.abs(v).max(initial=1))
    np.testing.assert_allclose(lse, expected_lse, rtol=tolerance, atol=tolerance)


def test_a_bias_or_mask_of_one_axis_may_have_empty_blocks(rng):
    q, k, v = rng.standard_normal((3, 5, 4))
    bias, mask = rng.standard_normal(5), np.array([True, False, True, True, False])
    lazy = rd.attention(q, k, v, bias=da.from_array(bias, chunks=((0, 5),)))
    np.testing.assert_allclose(lazy, rk.attention(q, k, v, bias=bias), rtol=1e-13)
    mask_blocks = da.from_array(mask, chunks=((0, 5),))
    found = rd.retrieve_above(da.from_array(q, chunks=(2, 4)), k, 0.0, mask=mask_blocks).compute()
    for a, b in zip((found.indptr, found.indices), rk.retrieve_above(q, k, 0.0, mask=mask), strict=False):
        np.testing.assert_array_equal(a, b)


def test_attention_over_keys_of_one_block_is_that_in_memory(rng):
    q, k, v = rng.standard_normal((3, 50, 4))
    lazy = rd.attention(da.from_array(q, chunks=(20, 4)), k, v, causal=True, return_lse=True)
    for a, b in zip(lazy, rk.attention(q, k, v, causal=True, return_lse=True), strict=True):
        same(a, b)


def test_a_bias_that_does_not_fit_is_refused(rng):
    x = rng.standard_normal((6, 4))
    with pytest.raises(ValueError, match="bias: expected a shape that broadcasts"):
        rd.attention(x, x, x, bias=np.ones((5, 6)))
    with pytest.raises(TypeError, match="bias: expected float64, the dtype of q, got float32"):
        rd.attention(x, x, x, bias=np.ones((6, 6), np.float32))
    with pytest.raises(ValueError, match="softcap: expected a finite number > 0"):
        rd.attention(x, x, x, softcap=0)


def test_arrays_of_no_elements_have_the_chunks_of_the_others(rng):
    q, k = (da.from_array(rng.standard_normal((n, 3)), chunks=(2, 3)) for n in (0, 0))
    mask = da.empty((0, 0), dtype=bool, chunks=((0, 0), (0,)))
    assert rd.attention(q, k, k, mask=mask).compute().shape == (0, 3)


def test_attention_leaves_out_the_blocks_that_no_row_reaches(rng):
    x = da.from_array(rng.standard_normal((40, 4)), chunks=(10, 4))
    calls = []
    seen = x.map_blocks(lambda a: (calls.append(1), a)[1], meta=x._meta)
    rd.attention(x, x, seen, causal=True).blocks[0].compute()
    assert len(calls) == 1
    calls.clear()
    rd.attention(x, x, seen, window=(1, 0)).compute()
    # Of 16 pairs of blocks the 7 near the diagonal, and the first block of columns for the last two of rows.
    assert len(calls) == 9


@few
@given(st.data(), dtypes, rows, rows, st.sampled_from(ops.LINKS), st.booleans(), seeds)
def test_relation_matvec(data, dtype, n, m, link, single, seed):
    rng = np.random.default_rng(seed)
    x, y, v = (normal(rng, shape, dtype) for shape in ((2, n, 3), (m, 3), (m,) if single else (2, m, 4)))
    lazy = rd.relation_matvec(*(data.draw(cut(a)) for a in (x, y, v)), link=link, scale=0.3)
    expected = rk.relation_matvec(x, y, v, link=link, scale=0.3)
    assert (lazy.shape, lazy.dtype) == (expected.shape, expected.dtype)
    size = rk.relation_matvec(np.abs(x), np.abs(y), np.abs(v), link=link, scale=0.3)
    error = np.abs(lazy.compute() - expected)
    assert (error <= 8 * np.finfo(dtype).eps * size + np.finfo(dtype).tiny).all()


def test_16_bit_floats_and_precision(rng):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    phi = rk.MLP.random([8, 32, 8], random_state=0)
    for dtype, options in [
        (np.float16, {}),
        (np.float16, {"precision": "bf16"}),
        (ml_dtypes.bfloat16, {}),
        (np.float32, {"precision": "bf16"}),
    ]:
        x, y, v = (rng.standard_normal((n, 8)).astype(dtype) for n in (40, 90, 90))
        lazy_x, lazy_y = da.from_array(x, chunks=(16, 4)), da.from_array(y, chunks=(40, 8))
        same(rd.feature_map(lazy_x, phi, **options), rk.feature_map(x, phi, **options))
        same(rd.relation_matrix(lazy_x, lazy_y, phi, **options), rk.relation_matrix(x, y, phi, **options))
        lazy = rd.retrieve(lazy_x, lazy_y, 5, phi, **options)
        for a, b in zip(lazy, rk.retrieve(x, y, 5, phi, **options), strict=True):
            same(a, b)
        out = rd.attention(lazy_x, lazy_y, v, phi, **options)
        assert out.dtype == x.dtype
        expected = rk.attention(x, y, v, phi, **options).astype(float)
        np.testing.assert_allclose(out.compute().astype(float), expected, atol=1e-2)
        assert rd.relation_matvec(lazy_x, lazy_y, v, **options).dtype == x.dtype


# ---- graphs -----------------------------------------------------------------------------------------------


def test_equal_calls_have_equal_graphs(rng):
    x, y = da.ones((40, 4), chunks=(10, 4)), da.ones((30, 4), chunks=(10, 4))

    def names(seed=0, k=3):
        phi = rk.MLP.random([4, 8, 4], seed=seed, dtype="float64")
        arrays = (
            rd.feature_map(x, phi),
            rd.relation_matrix(x, y, phi),
            rd.nngp_kernel(x, depth=1),
            *rd.retrieve(x, y, k, phi),
            rd.attention(x, y, y, phi),
            rd.attention(x, y, y, phi, causal=True),
            rd.relation_matvec(x, y, y, phi),
        )
        return [a.name for a in arrays]

    assert names() == names()
    assert len(set(names() + names(seed=1))) == 2 * len(names()) - 1  # nngp_kernel has no map
    assert names(k=3)[3] != names(k=4)[3]


def test_a_map_is_one_value_of_the_graph_and_files_are_read_where_they_are_used(tmp_path, rng):
    np.save(tmp_path / "keys.npy", normal(rng, (2000, 16), np.float32))
    keys = rd.from_npy(tmp_path / "keys.npy", rows=100)
    phi, psi = (rk.MLP.random([16, 256, 8], seed=seed) for seed in (1, 2))
    q = da.ones((40, 16), chunks=(10, 16), dtype=np.float32)
    (lazy,) = dask.optimize(rd.retrieve(q, keys, 3, phi, psi)[0])
    sizes = sorted(len(pickle.dumps(task)) for task in dict(lazy.dask).values())
    assert sizes[-2] > 16 * 256 * 4  # the two maps
    assert sizes[-3] < 4000  # and nothing that contains one, or keys
    names = {key[0] for key in dict(lazy.dask) if isinstance(key, tuple)}
    assert keys.name not in names  # no separate task creates a block of keys


def test_no_more_than_a_few_blocks_of_columns_wait_for_other_rows(rng):
    alive, most = set(), [0]

    def make(block):
        fresh = block.copy()
        alive.add(id(fresh))
        weakref.finalize(fresh, alive.discard, id(fresh))
        most[0] = max(most[0], len(alive))
        return fresh

    q = da.from_array(rng.standard_normal((40, 4)), chunks=(10, 4))
    keys = da.from_array(rng.standard_normal((600, 4)), chunks=(10, 4))
    shared = keys.map_blocks(make, meta=keys._meta)
    dask.compute(*rd.retrieve(q, shared, 3))
    assert 1 <= most[0] <= 12  # of 60


def test_from_npy(tmp_path, rng):
    keys = normal(rng, (1003, 5), np.float32)
    path = tmp_path / "keys.npy"
    np.save(path, keys)
    lazy = rd.from_npy(path, rows=100)
    same(lazy, keys)
    assert lazy.name == rd.from_npy(path, rows=100).name
    np.save(path, keys[:1002])
    assert lazy.name != rd.from_npy(path, rows=100).name
    with pytest.raises(ValueError, match="truncated"):
        lazy.compute()  # tasks check the file before they map it
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"keys\.npy: truncated"):
        rd.from_npy(path)
    with pytest.raises(FileNotFoundError):
        rd.from_npy(tmp_path / "nowhere.npy")


def test_from_npy_of_bfloat16(tmp_path, rng):
    keys = normal(rng, (103, 5), np.float32).astype(ml_dtypes.bfloat16)
    np.save(tmp_path / "keys.npy", keys)
    lazy = rd.from_npy(tmp_path / "keys.npy", rows=20, dtype="bfloat16")
    for a, b in zip(rd.retrieve(keys[:4], lazy, 7), rk.retrieve(keys[:4], keys, 7), strict=True):
        np.testing.assert_array_equal(a.compute(), b)


# ---- bad input --------------------------------------------------------------------------------------------


def calls():
    x = da.ones((6, 4), chunks=(3, 4))
    return {
        "feature_map": (lambda a: rd.feature_map(a, rk.MLP.random([4, 2], dtype="float64")), "x"),
        "relation_matrix": (lambda a: rd.relation_matrix(x, a), "y"),
        "nngp_kernel": (lambda a: rd.nngp_kernel(x, a, depth=1), "y"),
        "retrieve": (lambda a: rd.retrieve(x, a, 1), "keys"),
        "attention": (lambda a: rd.attention(x, a, x), "k"),
        "relation_matvec": (lambda a: rd.relation_matvec(x, a, x), "y"),
        "fit": (lambda a: rd.fit(rk.RandomFeatureRidge(), a, x), "X"),
    }


@pytest.mark.parametrize("name", ["feature_map", "relation_matrix", "nngp_kernel", "retrieve", "attention"])
def test_bad_points(name):
    call, argument = calls()[name]
    for a, error, message in [
        (da.ones((6, 4), chunks=(3, 4), dtype=int), TypeError, "expected float32 or float64, got an array"),
        (da.ones((6, 5), chunks=(3, 5)), ValueError, r"\(6, 5\)"),
        (da.ones(6, chunks=3), ValueError, r"expected at least 2 dimensions, got shape \(6,\)"),
        (da.ones((6, 0), chunks=(3, 0)), ValueError, r"got shape \(6, 0\)"),
        (da.ones((6, 4), chunks=(3, 4), dtype=np.float32), TypeError, "float32"),
    ]:
        if name == "feature_map" and a.dtype == np.float32:
            continue  # only the map differs there
        with pytest.raises(error, match=f"^{argument}: .*{message}"):
            call(a)


@pytest.mark.parametrize("name", list(calls()))
def test_unknown_chunks_and_other_objects(name):
    call, argument = calls()[name]
    x = da.ones((6, 4), chunks=(3, 4))
    with pytest.raises(ValueError, match=rf"^{argument}: .*call {argument}\.compute_chunk_sizes\(\) first"):
        call(x[x[:, 0] > 0])
    with pytest.raises(TypeError, match=f"^{argument}: expected a Dask array .*got list"):
        call([[1.0]])


def test_bad_arguments():
    x = da.ones((6, 4), chunks=(3, 4))
    for call, error, message in [
        (lambda: rd.feature_map(x, None), TypeError, "mlp: expected an MLP"),
        (lambda: rd.feature_map(x, rk.MLP.random([4, 2])), TypeError, "mlp: expected float64"),
        (lambda: rd.relation_matrix(x, heads=3), ValueError, "heads: expected a divisor"),
        (lambda: rd.relation_matrix(x, scale=np.nan), ValueError, "scale: expected"),
        (lambda: rd.relation_matrix(x, precision="bf16"), ValueError, "precision: expected None for float64"),
        (lambda: rd.relation_matrix(da.ones((2, 6, 4)), da.ones((3, 6, 4))), ValueError, "broadcast"),
        (lambda: rd.nngp_kernel(x, depth=-1), ValueError, "depth: expected an integer >= 0"),
        (lambda: rd.nngp_kernel(x, depth=1, activation="swish"), ValueError, "activation: expected one of"),
        (lambda: rd.retrieve(x, x, 7), ValueError, r"k: expected at most 6, .*\(pad=True pads"),
        (lambda: rd.retrieve(x, x, 7, pad=0), TypeError, "pad: expected True or False"),
        (lambda: rd.retrieve(x[0], x, 2, mask=x > 0), ValueError, r"mask: .*\(..., 6\), got \(6, 4\)"),
        (lambda: rd.retrieve(x, x, 1, mask=x), TypeError, "mask: expected a boolean array"),
        (lambda: rd.retrieve(x, x, 1, mask=x[:, :3] > 0), ValueError, "mask: expected a shape"),
        (lambda: rd.attention(x, x, x[:5]), ValueError, "v: expected 6 rows"),
        (lambda: rd.attention(x, x, x, causal=1), TypeError, "causal: expected True or False"),
        (lambda: rd.attention(x, x, x, return_lse=None), TypeError, "return_lse: expected True or False"),
        (lambda: rd.relation_matvec(x, x, x[:5, 0]), ValueError, r"v: expected shape \(..., 6\)"),
        (lambda: rd.relation_matvec(x, x, x, link="cosh"), ValueError, "link: expected one of"),
    ]:
        with pytest.raises(error, match=message):
            call()


def test_names_and_arguments_are_those_in_memory():
    for name in ("feature_map", "relation_matrix", "relation_matvec", "attention", "retrieve", "nngp_kernel"):
        here, there = (inspect.signature(getattr(package, name)).parameters for package in (rd, rk))
        assert [(p.name, p.kind, p.default) for p in here.values()] == [
            (p.name, p.kind, p.default)
            for p in there.values()
            if p.name not in ("out", "q_offsets", "k_offsets")
        ]


# ---- estimators -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [True, False])
def test_ridge_regression_is_that_in_memory(rng, weighted):
    x = rng.standard_normal((900, 4))
    y, weights = np.sin(x[:, :2]) + 10, rng.random(900) if weighted else None
    features = rk.MultiLayerRandomFeatures((40, 50), "erf", random_state=np.random.RandomState(0))
    model = rk.RandomFeatureRidge(features, alpha=0.1)
    X, Y = da.from_array(x, chunks=((1, 0, 399, 500), (2, 2))), da.from_array(y, chunks=(80, 1))
    lazy_weights = None if weights is None else da.from_array(weights, chunks=300)
    assert rd.fit(model, X, Y, sample_weight=lazy_weights) is model
    made = model.features_
    expected = rk.RandomFeatureRidge(alpha=0.1)
    expected.begin(x, y.shape[1:]).features_ = made
    expected.partial_fit(x, y, weights)
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=1e-9 * np.abs(model.coef_).max())
    np.testing.assert_allclose(model.predict(x), expected.predict(x), rtol=1e-10)
    assert model.n_features_in_ == 4


def test_estimators_go_over_the_blocks(rng):
    x, y = rng.standard_normal((60, 4)), rng.standard_normal((60, 3))
    labels, weights = rng.integers(0, 3, 60), rng.random(60)
    X, Y = da.from_array(x, chunks=(20, 2)), da.from_array(y, chunks=(30, 3))
    parts = [slice(at, at + 20) for at in (0, 20, 40)]
    sets, chosen = rng.standard_normal((60, 5, 2)), rng.integers(0, 5, 60)
    lazy_sets = da.from_array(sets, chunks=(60, 2, 2))
    for make, lazy, whole in [
        (rk.SymmetricRelation, (da.from_array(labels, chunks=7),), (labels,)),
        (rk.AsymmetricRelation, (Y,), (y,)),
        (rk.PreferenceRetriever, (lazy_sets, da.from_array(chosen, chunks=60)), (sets, chosen)),
    ]:
        fitted = rd.fit(
            make(random_state=0), X, *lazy, sample_weight=da.from_array(weights, chunks=60), epochs=2
        )
        expected = make(random_state=0)
        for part in parts * 2:
            expected.partial_fit(x[part], *(a[part] for a in whole), sample_weight=weights[part])
        for name in ("phi_", "psi_"):
            for a, b in zip(
                getattr(getattr(fitted, name, None), "weights", ()),
                getattr(getattr(expected, name, None), "weights", ()),
                strict=True,
            ):
                np.testing.assert_array_equal(a, b)


def test_what_is_no_dask_array_is_handed_on_whole(rng):
    x = rng.standard_normal((40, 3))
    y = rng.standard_normal((10, 3))
    r = da.from_array(x @ y.T, chunks=(20, 10))
    model = rk.AsymmetricRelation(random_state=0)
    fitted = rd.fit(model, da.from_array(x, chunks=(20, 3)), y, r, epochs=1)
    assert fitted.relation_matrix(x, y).shape == (40, 10)
    expected = rk.retrieve(x, y, 3, fitted.phi_, fitted.psi_)[1]
    np.testing.assert_array_equal(fitted.retrieve(x, 3, y)[1], expected)
    with pytest.raises(ValueError, match="Y: expected a table to search"):
        fitted.retrieve(x, 3)


def test_max_iter_is_the_number_of_passes(rng):
    x = rng.standard_normal((50, 4))
    labels = (x[:, 0] > 0).astype(int)
    X, Y = da.from_array(x, chunks=(20, 4)), da.from_array(labels, chunks=20)
    parts = [slice(0, 20), slice(20, 40), slice(40, 50)]
    fitted = rd.fit(rk.SymmetricRelation((8,), max_iter=3, random_state=0).fit(x, labels), X, Y)
    assert not hasattr(fitted, "features_fit_")
    fitted = rd.fit(rk.SymmetricRelation((8,), max_iter=3, random_state=0), X, Y)
    expected, curve = rk.SymmetricRelation((8,), random_state=0), []
    for _ in range(3):
        losses = [expected.partial_fit(x[part], labels[part]).loss_ for part in parts]
        curve.append(np.average(losses, weights=[20, 20, 10]))
    np.testing.assert_array_equal(fitted.phi_.weights[0], expected.phi_.weights[0])
    np.testing.assert_allclose(fitted.loss_curve_, curve, rtol=1e-12)
    assert fitted.n_iter_ == 3
    assert fitted.loss_ == fitted.loss_curve_[-1]
    still = rk.SymmetricRelation((8,), max_iter=100, learning_rate=1e-9, tol=1.0, random_state=0)
    stopped = rd.fit(still, X, Y)
    assert stopped.n_iter_ == 11  # the first pass, and ten that do not improve it by tol
    assert rd.fit(clone(still).set_params(max_iter="auto"), X, Y).n_iter_ == 10
    exact = rk.SymmetricRelation((8,), learning_rate=1e-9, tol=1.0, random_state=0)
    assert rd.fit(exact, X, Y, epochs=12).n_iter_ == 12


def test_passes_of_an_estimator_of_scikit_learn(rng):
    x = rng.standard_normal((60, 4))
    labels = (x[:, 0] > 0).astype(int)
    X, Y = da.from_array(x, chunks=(20, 4)), da.from_array(labels, chunks=20)
    fitted = rd.fit(SGDClassifier(max_iter=4, random_state=0), X, Y, np.array([0, 1]))
    assert fitted.t_ == 1 + 4 * 60
    assert rd.fit(GaussianNB(), X, Y, np.array([0, 1])).class_count_.sum() == 60


def test_bad_fits(rng):
    x = da.ones((6, 4), chunks=(3, 4))
    for call, error, message in [
        (lambda: rd.fit(rk.SymmetricRelation(solver="lbfgs"), x, x[:, 0]), TypeError, "partial_fit"),
        (lambda: rd.fit(rk.SymmetricRelation(), x, x[:5, 0]), ValueError, r"arguments\[0\]: expected 6 rows"),
        (lambda: rd.fit(rk.RandomFeatureRidge(), x, x[:5, 0]), ValueError, "y: expected 6 rows"),
        (lambda: rd.fit(rk.RandomFeatureRidge(), x), TypeError, "y: expected a Dask array"),
        (lambda: rd.fit(rk.RandomFeatureRidge(), x[:0], x[:0]), ValueError, "X: expected shape"),
        (lambda: rd.fit(rk.SymmetricRelation(), x, x[:, 0], epochs=0), ValueError, "epochs: expected"),
        (
            lambda: rd.fit(rk.RandomFeatureRidge(), x, x, sample_weight=x[:2, 0]),
            ValueError,
            "sample_weight: expected 6 rows",
        ),
    ]:
        with pytest.raises(error, match=message):
            call()
    model = rk.SymmetricRelation(random_state=0)
    broken = da.ones((6, 4), chunks=(3, 4)).map_blocks(lambda a: 1 / 0, meta=np.empty((0, 0)))
    with pytest.raises(ZeroDivisionError):
        rd.fit(model, broken, np.arange(6) % 2)
    assert not hasattr(model, "phi_")


@pytest.mark.parametrize("name", ["arrays", "relations", "reductions", "estimators"])
def test_examples_of_the_docstrings(name):
    module = importlib.import_module(f"relkernels.dask.{name}")
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0
