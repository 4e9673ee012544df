"""`Keys`: results equal those of plain `retrieve` over the rows that additions and removals leave."""

import copy
import pickle
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import relkernels as rk
from hypothesis import given
from hypothesis import strategies as st
from libraries import Library
from relkernels.arrays.half import narrow, widen
from relkernels.ops import key_store
from scipy import sparse
from strategies import dtypes, lay_out, layouts, maps, normal, rows, seeds, some_columns, widths

HALVES = ("float16", "bfloat16")


def same(got, expected):
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def rounded(a, dtype):
    """The nearest numbers of a 16-bit dtype, in float32."""
    return widen(narrow(a, dtype), dtype)


class Model:
    """The simplest keys: the features of each id in a dictionary."""

    def __init__(self):
        self.features, self.next_id = {}, 0

    def add(self, features):
        ids = range(self.next_id, self.next_id + len(features))
        self.features.update(zip(ids, features, strict=True))
        self.next_id += len(features)
        return [*ids]

    def retrieve(self, q, k, mask=None):
        ids = np.array([*self.features], np.int64)
        table = np.array([*self.features.values()])
        values, at = rk.retrieve(q, table, k, mask=mask, pad=True)
        return values, np.where(at < 0, -1, ids[at])


@given(st.data(), dtypes, rows, some_columns, widths, layouts, seeds)
def test_equal_to_retrieve(data, dtype, n, m, d, layout, seed):
    rng = np.random.default_rng(seed)
    phi = data.draw(maps(dtype, d, 5, rng))
    psi = data.draw(maps(dtype, d, 5, rng).filter(lambda p: (p is None) == (phi is None)))
    lead = data.draw(st.sampled_from([(), (2,), (3, 1)]))
    q = lay_out(normal(rng, (*lead, n, d), dtype), layout)
    table = lay_out(normal(rng, (m, d), dtype), layout)
    k = data.draw(st.integers(1, m + 2))
    mask = data.draw(st.sampled_from([None, rng.random((n, m)) < 0.3, rng.random((1, m)) < 0.5]))
    keys = rk.Keys(table, psi)
    assert keys.shape == (len(keys), keys.dim) == (m, 5 if psi else d)
    assert keys.dtype == dtype.__name__
    expected = rk.retrieve(q, table, k, phi, psi, mask=mask, pad=True)
    same(rk.retrieve(q, keys, k, phi, mask=mask, pad=True), expected)
    out = tuple(np.full_like(a, 7) for a in expected)
    assert rk.retrieve(q, keys, k, phi, mask=mask, pad=True, out=out) is out
    same(out, expected)
    if dtype == np.float32:
        features = psi(table) if psi else table
        expected = rk.retrieve(q if phi is None else phi(q), features, k, precision="bf16", pad=True)
        q = q if phi is None else phi(q)
        same(rk.retrieve(q, keys, k, precision="bf16", pad=True), expected)


changes = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 40)),
        st.tuples(st.just("remove"), st.integers(0, 40)),
        st.tuples(st.just("again"), st.sampled_from(["copy", "pickle", "file"])),
    ),
    max_size=12,
)


@given(changes, st.sampled_from([0, 1, 16, 33]), st.sampled_from([*key_store.ELEMENTS]), seeds)
def test_any_sequence_of_changes(tmp_path_factory, steps, m, dtype, seed):
    """Ties, NaN and infinities included: rows have few different numbers."""
    rng = np.random.default_rng(seed)
    kind = np.float64 if dtype == "float64" else np.float32

    def some(count):
        a = rng.integers(-2, 3, (count, 3)).astype(kind)
        a[rng.random(count) < 0.1] = np.nan
        a[rng.random(count) < 0.1, 0] = np.inf
        return a

    first = some(m)
    keys, model = rk.Keys(first, dtype=dtype), Model()
    model.add(first)
    for what, amount in steps:
        if what == "add":
            new = some(amount)
            assert keys.add(new).tolist() == model.add(new)
        elif what == "remove":
            gone = rng.permutation(np.array([*model.features], np.int64))[:amount]
            keys.remove(gone)
            for i in gone.tolist():
                del model.features[i]
        elif amount == "file":
            path = tmp_path_factory.mktemp("keys") / "k"
            keys.save(path)
            keys = rk.Keys.load(path)
        else:
            keys = copy.copy(keys) if amount == "copy" else pickle.loads(pickle.dumps(keys))
        assert keys.ids.tolist() == [*model.features]
        assert keys.shape == (len(model.features), 3)
        if model.features:
            q, k = some(4), int(rng.integers(1, 12))
            mask = rng.random((4, len(keys))) < 0.5
            same(rk.retrieve(q, keys, k, pad=True), model.retrieve(q, k))
            for given_mask in (mask, mask[:1]):
                got = rk.retrieve(q, keys, k, mask=given_mask, pad=True)
                same(got, model.retrieve(q, k, given_mask))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("k", [1, 20])
def test_16_bits_are_searched_as_rounded_keys_in_float32(dtype, k, rng):
    q, table = normal(rng, (2, 9, 8), np.float32), normal(rng, (500, 8), np.float32)
    near = rounded(table, dtype)
    keys = rk.Keys(table, dtype=dtype)
    same(rk.retrieve(q, keys, k), rk.retrieve(q, near, k))
    mask = rng.random((2, 9, 500)) < 0.1
    same(rk.retrieve(q, keys, k, mask=mask), rk.retrieve(q, near, k, mask=mask))
    same(rk.retrieve(q[0, 0], keys, k), rk.retrieve(q[0, 0], near, k))
    gone = rng.permutation(500)[:100]
    keys.remove(gone)
    rest = np.setdiff1d(np.arange(500), gone)
    values, at = rk.retrieve(q, near[rest], k)
    same(rk.retrieve(q, keys, k), (values, rest[at]))
    assert rk.Keys(table, dtype=dtype).nbytes == 500 * (2 * 8 + 8)


def test_16_bits_are_not_widened_in_memory(rng):
    table = normal(rng, (400_000, 16), np.float32)
    keys, q = rk.Keys(table, dtype="float16"), table[:1]
    tracemalloc.start()
    rk.retrieve(q, keys, 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("dtype", [*key_store.ELEMENTS])
def test_keys_given_in_any_dtype(dtype, rng):
    x = normal(rng, (50, 6), np.float32)
    psi = rk.MLP.random([6, 8], random_state=0)
    for given_dtype in (np.float16, np.float32, np.float64):
        table = x.astype(given_dtype)
        features = table.astype(np.float32) if dtype in HALVES else table.astype(dtype)
        near = rounded(features, dtype) if dtype in HALVES else features
        same(
            rk.retrieve(near[:3], rk.Keys(table, dtype=np.dtype(dtype) if dtype != "bfloat16" else dtype), 4),
            rk.retrieve(near[:3], near, 4),
        )
    assert rk.Keys(x.astype(np.float16)).dtype == "float16"
    assert rk.Keys(x.astype(np.float16), psi).dtype == "float16"
    assert rk.Keys(x, psi, dtype=dtype).dtype == dtype
    keys = rk.Keys(x.astype(np.float16), psi, dtype="float32")
    same(rk.retrieve(psi(x), keys, 3), rk.retrieve(psi(x), psi(x.astype(np.float16).astype(np.float32)), 3))


def test_queries_of_16_bits_give_results_of_16_bits(rng):
    q, x = (normal(rng, (n, 8), np.float32).astype(np.float16) for n in (5, 300))
    same(rk.retrieve(q, rk.Keys(x), 4), rk.retrieve(q, x, 4))


@pytest.mark.parametrize("name", ["torch", "jax", "array_api_strict"])
def test_arrays_of_other_libraries(name, rng):
    library = Library(name)
    q, x = normal(rng, (5, 8), np.float32), normal(rng, (300, 8), np.float32)
    psi = rk.MLP.random([8, 8], random_state=0)
    got = rk.retrieve(library.of(q), rk.Keys(library.of(x), psi), 4)
    assert all(library.is_one(a) for a in got)
    expected = rk.retrieve(q, psi(x), 4)
    # JAX has no int64 unless it is told to.
    same([library.to_numpy(a).astype(b.dtype) for a, b in zip(got, expected, strict=True)], expected)
    if name == "array_api_strict":
        return
    half_q, half_x = library.of(q, "bfloat16"), library.of(x, "bfloat16")
    got, expected = rk.retrieve(half_q, rk.Keys(half_x), 4), rk.retrieve(half_q, half_x, 4)
    same([library.to_numpy(a) for a in got], [library.to_numpy(a) for a in expected])
    keys = rk.Keys(library.of(x, "bfloat16"), psi)
    features = library.to_numpy(rk.feature_map(half_x, psi))
    same(rk.retrieve(q, keys, 4), rk.retrieve(q, np.asarray(features, np.float32), 4))


def test_sparse_rows_and_queries(rng):
    x = sparse.random_array((200, 30), density=0.1, rng=rng, dtype=np.float32)
    phi, psi = (rk.MLP.random([30, 8], random_state=i) for i in (0, 1))
    q = x.tocsr()[:7]
    for form in ("csr", "csc", "coo"):
        keys = rk.Keys(x.asformat(form)[:] if form == "csr" else x.asformat(form), psi)
        same(rk.retrieve(q, keys, 5, phi), rk.retrieve(q, x.tocsr(), 5, phi, psi))
    keys.add(x.tocsr()[:3])
    assert len(keys) == 203


def test_rows_are_copied_unless_they_are_read_only(rng):
    x = normal(rng, (100, 4), np.float32)
    keys = rk.Keys(x)
    before = rk.retrieve(x[:3], keys, 2)
    queries = x[:3].copy()
    x[...] = 0
    same(rk.retrieve(queries, keys, 2), before)
    x.flags.writeable = False
    kept = rk.Keys(x)
    assert np.shares_memory(kept._stored.features, x)
    kept.add(queries)
    kept.remove([0])
    assert not x.any()
    assert not np.shares_memory(rk.Keys(x, dtype="float64")._stored.features, x)


def test_memory_is_released_when_half_is_removed(rng):
    keys = rk.Keys(normal(rng, (1000, 8), np.float32))
    whole = keys.nbytes
    keys.remove(range(499))
    assert keys.nbytes >= whole
    keys.remove(499)
    assert keys.nbytes <= 0.6 * whole
    keys.remove(keys.ids)
    assert keys.shape == (0, 8)
    assert keys.add(np.ones((2, 8), np.float32)).tolist() == [1000, 1001]


def test_room_doubles(rng):
    keys = rk.Keys(normal(rng, (10, 8), np.float32))
    arrays = set()
    for _ in range(1000):
        keys.add(normal(rng, (1, 8), np.float32))
        arrays.add(keys._stored.features.ctypes.data)
    assert len(arrays) < 10
    assert len(keys._stored.features) <= 2 * len(keys)


def test_codes_of_additions_and_after_removals(rng):
    """Enough keys for the kernel to use their codes, in panels of 16 of which additions fill parts."""
    table = normal(rng, (4000, 30), np.float32)
    table[5] = np.inf
    table[2049, 3] = np.nan
    q = np.concatenate([normal(rng, (30, 30), np.float32), table[2040:2050]])
    keys, rows, left = rk.Keys(table[:2045]), 2045, np.arange(2045)
    for step in (1, 2, 7, 6, 40, 300, 900):
        keys.add(table[rows : rows + step])
        left = np.concatenate([left, np.arange(rows, rows + step)])
        rows += step
        gone = rng.permutation(left)[: step // 2]
        keys.remove(gone)
        left = np.setdiff1d(left, gone)
        for again in (keys, copy.copy(keys), pickle.loads(pickle.dumps(keys))):
            for some in (q, q[0]):
                values, at = rk.retrieve(some, table[left], 10)
                same(rk.retrieve(some, again, 10), (values, left[at]))
        mask = rng.random(len(left)) < 0.3
        values, at = rk.retrieve(q, table[left], 10, mask=mask)
        same(rk.retrieve(q, keys, 10, mask=mask), (values, left[at]))
    fresh = key_store.Stored.of("float32", table[left])
    assert fresh.codes is not None
    for a, b in zip(keys._stored.compact().arrays[:3], fresh.arrays, strict=False):
        np.testing.assert_array_equal(a, b)
    keys.remove(left[:-50])
    assert keys.nbytes < 50 * (5 * 32 + 24) + 2000
    same(
        rk.retrieve(q, keys, 50), (lambda v, at: (v, left[-50:][at]))(*rk.retrieve(q, table[left[-50:]], 50))
    )


def test_an_older_search_ignores_codes_that_were_added_since(rng):
    """Its last panel has lanes that a later addition fills with better keys."""
    x = np.abs(normal(rng, (2053, 16), np.float32))
    keys = rk.Keys(x[:2000])
    keys.add(x[2000:])
    old = copy.copy(keys)
    keys.add(100 * x[:11])
    assert np.shares_memory(old._stored.codes, keys._stored.codes)
    for q in (x[:1], x[:40]):
        same(rk.retrieve(q, old, 5), rk.retrieve(q, x, 5))
        assert (rk.retrieve(q, keys, 5)[1] >= 2053).all()


def test_features_too_wide_for_codes(rng):
    x = normal(rng, (3, 65_537), np.float32)
    keys = rk.Keys(x)
    keys.add(x)
    assert keys._stored.codes is None
    same(rk.retrieve(x, keys, 6), rk.retrieve(x, np.concatenate([x, x]), 6))


def test_a_copy_is_changed_alone(rng):
    x = normal(rng, (20, 4), np.float32)
    keys = rk.Keys(x)
    keys.add(x)  # with room for more
    twin = copy.copy(keys)
    assert np.shares_memory(twin._stored.features, keys._stored.features)
    keys.add(2 * x)
    twin.add(3 * x)
    twin.remove([0])
    same(rk.retrieve(x, keys, 60), rk.retrieve(x, np.concatenate([x, x, 2 * x]), 60))
    values, at = rk.retrieve(x, np.concatenate([x, x, 3 * x])[1:], 59)
    same(rk.retrieve(x, twin, 59), (values, at + 1))


def test_changes_during_searches(rng):
    """Each search sees the keys of one moment: 60 or 61 copies of 40 rows."""
    x = normal(rng, (40, 8), np.float32)
    keys, q = rk.Keys(np.concatenate([x] * 60)), x[:4]  # so many that their codes are used
    best = rk.retrieve(q, x, 1)[0]
    failures, done = [], threading.Event()

    def search():
        while not done.is_set():
            values, ids = rk.retrieve(q, keys, 50)
            # Copies of each row are added and removed with the whole batch: each query finds the first 50 or
            # more of its best row, one after the other.
            if (np.diff(ids, axis=1) != 40).any() or (values != best).any():
                failures.append(ids)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(200):
            ids = keys.add(x)
            keys.remove(keys.ids[:40])
            assert ids[0] % 40 == 0
    finally:
        done.set()
        for thread in threads:
            thread.join(60)
    assert not failures, failures[0]


def test_additions_from_many_threads(rng):
    x = normal(rng, (5, 4), np.float32)
    keys = rk.Keys(x[:0])
    with ThreadPoolExecutor(8) as pool:
        ids = np.concatenate([*pool.map(keys.add, [x] * 200)])
    assert sorted(ids.tolist()) == [*range(1000)] == keys.ids.tolist()
    with ThreadPoolExecutor(8) as pool:
        [*pool.map(keys.remove, ids.reshape(100, 10))]
    assert len(keys) == 0


F4 = np.float32
X = np.ones((6, 4), F4)
PHI = rk.MLP.random([4, 8, 2], random_state=0)
KEYS, KEYS64, HALF = rk.Keys(X), rk.Keys(X.astype(float)), rk.Keys(X, dtype="float16")
MAPPED = rk.Keys(X, PHI)


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda: rk.Keys([[1.0] * 4]), TypeError, ["keys:", "list", "np.asarray(keys"]),
    (lambda: rk.Keys(None), TypeError, ["keys:", "None"]),
    (lambda: rk.Keys(KEYS), TypeError, ["keys:", "Keys of shape (6, 4)"]),
    (lambda: rk.Keys(X.astype(int)), TypeError, ["keys:", "int64"]),
    (lambda: rk.Keys(X.astype(">f4")), TypeError, ["keys:", "byte order"]),
    (lambda: rk.Keys(np.ma.masked_array(X)), TypeError, ["keys:", "masked"]),
    (lambda: rk.Keys(X[0]), ValueError, ["keys:", "(4,)"]),
    (lambda: rk.Keys(X[None]), ValueError, ["keys:", "(rows, features)", "(1, 6, 4)"]),
    (lambda: rk.Keys(X[:, :0]), ValueError, ["keys:", "(6, 0)"]),
    (lambda: rk.Keys(X[:, :3], PHI), ValueError, ["keys:", "4 features", "psi", "(6, 3)"]),
    (lambda: rk.Keys(X.astype(float), PHI), TypeError, ["psi:", "float32", "float64"]),
    (lambda: rk.Keys(X, np.exp), TypeError, ["psi:", "MLP"]),
    (lambda: rk.Keys(sparse.csr_array(X)), TypeError, ["keys:", "psi is None", "keys.toarray()"]),
    (lambda: rk.Keys(X, dtype="int8"), ValueError, ["dtype:", "'bfloat16'", "'int8'"]),
    (lambda: rk.Keys(X, dtype=np.dtype(">f4")), TypeError, ["dtype:"]),
    (lambda: rk.Keys(X, dtype=4), TypeError, ["dtype:", "int 4"]),
    (lambda: KEYS.add(X[0]), ValueError, ["rows:", "(4,)"]),
    (lambda: KEYS.add(X[:, :3]), ValueError, ["rows:", "4 features", "(6, 3)"]),
    (lambda: KEYS.add(X.astype(float)), TypeError, ["rows:", "expected float32", "got float64"]),
    (lambda: HALF.add(X.astype(float)), TypeError, ["rows:", "expected float16", "rows.astype(np.float32)"]),
    (lambda: MAPPED.add(X[:, :3]), ValueError, ["rows:", "4 features", "psi"]),
    (lambda: MAPPED.add("x"), TypeError, ["rows:", "str"]),
    (lambda: KEYS.remove(6), ValueError, ["ids:", "got 6, which no key has"]),
    (lambda: KEYS.remove([-1, 2, 7]), ValueError, ["ids:", "got -1, 7,"]),
    (lambda: KEYS.remove([10**30]), ValueError, ["ids:", "no key has"]),
    (lambda: KEYS.remove(np.arange(100)), ValueError, ["ids:", "got 6, 7, 8, 9, 10 and 89 more, which"]),
    (lambda: KEYS.remove(np.uint64(2**64 - 1)), ValueError, ["ids:"]),
    (lambda: KEYS.remove([1.0]), TypeError, ["ids:", "list of length 1"]),
    (lambda: KEYS.remove([[1], [2, 3]]), ValueError, ["ids:"]),
    (lambda: KEYS.remove(np.ones((1, 1), int)), TypeError, ["ids:", "(1, 1)"]),
    (lambda: KEYS.remove("12"), TypeError, ["ids:", "'12'"]),
    (lambda: KEYS.remove(True), TypeError, ["ids:", "bool"]),
    (lambda: KEYS.remove(None), TypeError, ["ids:", "None"]),
    (lambda: rk.retrieve(X, KEYS, 1, psi=PHI), TypeError, ["psi:", "None", "Keys", "MLP"]),
    (lambda: rk.retrieve(X, KEYS, 1, PHI), ValueError, ["keys:", "2 (from q of shape (6, 4))", "(6, 4)"]),
    (lambda: rk.retrieve(X[:, :3], KEYS, 1), ValueError, ["keys:", "3 (from q of shape (6, 3))"]),
    (lambda: rk.retrieve(X.astype(float), KEYS, 1), TypeError, ["q:", "float32", "q.astype(np.float32)"]),
    (lambda: rk.retrieve(X, KEYS64, 1), TypeError, ["q:", "float64", "q.astype(np.float64)"]),
    (lambda: rk.retrieve(X, HALF, 1, X), TypeError, ["phi:"]),
    (lambda: rk.retrieve(X, KEYS, 7), ValueError, ["k:", "at most 6", "(6, 4)", "7"]),
    (lambda: rk.retrieve(X, KEYS, 1, mask=np.ones((6, 5), bool)), ValueError, ["mask:", "(..., 6, 6)"]),
    (lambda: rk.retrieve([X], KEYS, 1), TypeError, ["q:", "list"]),
    (lambda: rk.retrieve(sparse.csr_array(X), KEYS, 1), TypeError, ["q:", "q.toarray()"]),
    (lambda: rk.retrieve(X, KEYS64, 1, precision="bf16"), TypeError, ["q:"]),
    (lambda: rk.retrieve(X, KEYS, 1, precision="fp8"), ValueError, ["precision:"]),
    (lambda: rk.relation_matrix(X, KEYS), TypeError, ["y:", "Keys"]),
    (lambda: rk.attention(X, KEYS, X), TypeError, ["k:", "Keys"]),
])  # fmt: skip
def test_bad_arguments(call, error, words):
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert message.startswith(words[0]), message
    assert all(word in message for word in words), message
    assert len(message) < 500
    assert [k.ids.tolist() for k in (KEYS, KEYS64, HALF, MAPPED)] == [[*range(6)]] * 4
