"""Sparse rows give what their dense form gives: feature maps, their gradients, and relations between them."""

import numpy as np
import pytest
import reference
import relkernels as rk
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from strategies import DTYPES, dtypes, maps, mlp, normal, rows, seeds, widths

BOUND = {np.float32: 1e-6, np.float64: 1e-14}
FORMATS = ("csr_matrix", "csr_array", "csc_matrix", "csc_array", "coo_matrix", "coo_array")


def random_rows(rng, n, width, per_row, dtype):
    """A CSR matrix with unsorted columns, duplicates, explicit zeros and rows without entries."""
    counts = rng.integers(0, per_row + 1, n)
    ends = np.concatenate([[0], np.cumsum(counts)])
    columns = rng.integers(0, width, ends[-1])
    values = np.where(rng.random(ends[-1]) < 0.2, 0, rng.standard_normal(ends[-1]))
    return sparse.csr_array((values.astype(dtype), columns, ends), shape=(n, width))


def as_format(x, name):
    container = getattr(sparse, name)
    if not name.startswith("csr"):
        x = x.tocoo()  # keeps duplicates
    return container(x)


@given(
    st.data(), dtypes, rows, widths, widths, st.sampled_from([0, 1, 5, 40]), st.sampled_from(FORMATS), seeds
)
def test_feature_map(data, dtype, n, d_in, d_out, per_row, name, seed):
    rng = np.random.default_rng(seed)
    phi = data.draw(maps(dtype, d_in, d_out, rng).filter(bool))
    x = as_format(random_rows(rng, n, d_in, per_row, dtype), name)
    out = np.full((n, d_out), np.nan, dtype)
    assert rk.feature_map(x, phi, out=out) is out
    magnitude = reference.feature_magnitude(abs(x).toarray(), phi)
    # Duplicates of opposite sign cancel in the dense form, but not in the terms of the sum.
    terms = sparse.csr_array(x.tocsr())
    terms = sparse.csr_array((abs(terms.data), terms.indices, terms.indptr), shape=x.shape).toarray()
    magnitude = np.maximum(magnitude, reference.feature_magnitude(terms, phi))
    reference.assert_close(out, reference.feature_map(x.toarray(), phi), BOUND[dtype], magnitude)


@given(
    st.data(), dtypes, rows, widths, widths, st.sampled_from([0, 1, 5, 40]), st.sampled_from(FORMATS), seeds
)
def test_gradient(data, dtype, n, d_in, d_out, per_row, name, seed):
    rng = np.random.default_rng(seed)
    phi = data.draw(maps(dtype, d_in, d_out, rng).filter(bool))
    x = as_format(random_rows(rng, n, d_in, per_row, dtype), name)
    grad = normal(rng, (n, d_out), dtype)
    grad_x, got = rk.feature_map_vjp(x, phi, grad)
    _, expected = rk.feature_map_vjp(x.toarray().astype(np.float64), as_float64(phi), grad.astype(np.float64))
    assert grad_x is None
    for a, b in zip(got.weights, expected.weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=scale_of(phi, grad, x) * BOUND[dtype] * 10)
    assert (got.biases is None) == (phi.biases is None)
    for a, b in zip(got.biases or [], expected.biases or [], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=scale_of(phi, grad, x) * BOUND[dtype] * 10)


def as_float64(phi):
    biases = None if phi.biases is None else [b.astype(np.float64) for b in phi.biases]
    return rk.MLP([w.astype(np.float64) for w in phi.weights], biases, phi.activation)


def scale_of(phi, grad, x):
    """A bound on the terms of the gradients' sums, to which rounding errors are relative."""
    size = max(1.0, float(np.abs(reference.feature_magnitude(abs(x).toarray(), phi)).max(initial=1)))
    for w in phi.weights:
        size *= max(1.0, float(np.abs(w).sum(axis=0).max()), float(np.abs(w).sum(axis=1).max()))
    return size * max(1.0, float(np.abs(grad).sum()))


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_rows_and_many_of_them(dtype, rng):
    """Rows and columns of more entries than a chain, and more rows than the gradient takes at a time."""
    n, d = 66_000, 40
    columns = rng.integers(0, d, n + 3000)
    ends = np.concatenate([np.arange(n), [n + 3000]])
    x = sparse.csr_array((normal(rng, len(columns), dtype), columns, ends), shape=(n, d))
    phi = mlp(rng, [d, 9, 3], dtype, "tanh")
    dense = x.toarray()
    assert reference.relative_error(phi(x), reference.feature_map(dense, phi)) <= BOUND[dtype]
    grad = normal(rng, (n, 3), dtype)
    _, got = rk.feature_map_vjp(x, phi, grad)
    _, expected = rk.feature_map_vjp(dense.astype(np.float64), as_float64(phi), grad.astype(np.float64))
    for a, b in zip(got.weights + got.biases, expected.weights + expected.biases, strict=True):
        assert reference.relative_error(a, b) <= 10 * BOUND[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_indices_of_64_bits(dtype, rng):
    x = random_rows(rng, 50, 30, 20, dtype)
    wide = sparse.csr_array(x)
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    narrow = sparse.csr_array(x)
    narrow.indices, narrow.indptr = narrow.indices.astype(np.int32), narrow.indptr.astype(np.int32)
    phi = mlp(rng, [30, 40, 7], dtype)
    np.testing.assert_array_equal(phi(wide), phi(narrow))
    grad = normal(rng, (50, 7), dtype)
    for a, b in zip(*(rk.feature_map_vjp(m, phi, grad)[1].weights for m in (wide, narrow)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", [bool, np.int8, np.uint16, np.int64, np.uint64])
@pytest.mark.parametrize("name", FORMATS)
def test_integers_and_booleans_are_converted(kind, name, rng):
    values, columns = rng.integers(0, 2, 60).astype(kind), rng.integers(0, 8, 60)
    rows_ = np.repeat(np.arange(12), 5)
    if name.startswith("coo"):
        x = getattr(sparse, name)((values, (rows_, columns)), shape=(12, 8))
    else:
        x = getattr(sparse, name)(sparse.csr_array((values, (rows_, columns)), shape=(12, 8)))
    expected = np.zeros((12, 8), np.float32)
    if name.startswith("coo"):  # duplicates are summed as numbers, also where they are booleans
        np.add.at(expected, (rows_, columns), values.astype(np.float32))
    else:
        expected = x.toarray().astype(np.float32)
    phi = mlp(rng, [8, 16, 3], np.float32)
    np.testing.assert_allclose(phi(x), phi(expected), rtol=1e-5, atol=1e-5)


def test_an_empty_row_is_the_bias(rng):
    phi = rk.MLP([normal(rng, (5, 3), np.float32)], [normal(rng, (3,), np.float32)])
    np.testing.assert_array_equal(phi(sparse.csr_array((2, 5), dtype=np.float32)), [phi.biases[0]] * 2)


@pytest.mark.parametrize("name", FORMATS)
def test_no_rows(name):
    phi = rk.MLP.random([4, 8, 2], random_state=0)
    x = getattr(sparse, name)((0, 4), dtype=np.float32)
    assert phi(x).shape == (0, 2)
    _, gradient = rk.feature_map_vjp(x, phi, np.empty((0, 2), np.float32))
    for a in gradient.weights + gradient.biases:
        np.testing.assert_array_equal(a, 0)


def test_nan_reaches_only_its_row_and_its_column(rng):
    phi = mlp(rng, [6, 8, 2], np.float32)
    x = random_rows(rng, 9, 6, 4, np.float32)
    clean = phi(x)
    row = int(np.flatnonzero(np.diff(x.indptr))[0])
    entry = x.indptr[row]
    x.data[entry] = np.nan
    got = phi(x)
    assert np.isnan(got[row]).all()
    others = np.arange(9) != row
    np.testing.assert_array_equal(got[others], clean[others])
    phi = rk.MLP([normal(rng, (6, 2), np.float32)])
    _, gradient = rk.feature_map_vjp(x, phi, np.ones((9, 2), np.float32))
    bad = np.isnan(gradient.weights[0]).any(axis=1)
    np.testing.assert_array_equal(np.flatnonzero(bad), [x.indices[entry]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bits_for_any_threads_and_batch(dtype, rng):
    phi = mlp(rng, [500, 70, 30, 9], dtype, "gelu")
    x = random_rows(rng, 700, 500, 30, dtype)
    grad = normal(rng, (700, 9), dtype)
    whole = phi(x)
    for at in (slice(0, 1), slice(3, 100), slice(695, 700)):
        np.testing.assert_array_equal(phi(x[at]), whole[at])
    before = rk.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 7):
            rk.set_num_threads(threads)
            gradient = rk.feature_map_vjp(x, phi, grad)[1]
            results.append([phi(x), *gradient.weights, *gradient.biases])
    finally:
        rk.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_sorted_rows_have_the_bits_of_dense_rows(rng):
    phi = mlp(rng, [200, 64, 5], np.float32)
    x = sparse.random_array((40, 200), density=0.1, dtype=np.float32, format="csr", rng=rng)
    np.testing.assert_array_equal(phi(x), phi(x.toarray()))


def test_only_the_touched_rows(rng):
    """The recipe in the documentation of feature_map_vjp."""
    phi = mlp(rng, [1000, 16, 3], np.float64)
    x = random_rows(rng, 20, 1000, 5, np.float64)
    grad = normal(rng, (20, 3), np.float64)
    ids, at = np.unique(x.indices, return_inverse=True)
    few = sparse.csr_array((x.data, at, x.indptr), shape=(20, len(ids)))
    small = rk.MLP([phi.weights[0][ids], *phi.weights[1:]], phi.biases, phi.activation)
    gradient, touched = rk.feature_map_vjp(x, phi, grad)[1], rk.feature_map_vjp(few, small, grad)[1]
    np.testing.assert_array_equal(gradient.weights[0][ids], touched.weights[0])
    assert np.count_nonzero(gradient.weights[0].any(axis=1)) <= len(ids)
    np.testing.assert_array_equal(gradient.weights[1], touched.weights[1])


def test_precision_bf16(rng):
    phi = mlp(rng, [100, 64, 32], np.float32)
    x = random_rows(rng, 50, 100, 10, np.float32)
    error = reference.relative_error(
        rk.feature_map(x, phi, precision="bf16"), reference.feature_map(x.toarray(), phi)
    )
    assert 1e-6 < error < 1e-2


# ---- relations


@pytest.mark.parametrize("dtype", DTYPES)
def test_relations(dtype, rng):
    phi, psi = mlp(rng, [30, 40, 8], dtype), mlp(rng, [20, 8], dtype)
    x, y = random_rows(rng, 33, 30, 6, dtype), random_rows(rng, 41, 20, 6, dtype)
    z = random_rows(rng, 17, 30, 6, dtype)
    X, Y, Z = phi(x), psi(y), phi(z)
    v = normal(rng, (41, 3), dtype)
    equal = np.testing.assert_array_equal
    equal(rk.relation_matrix(x, phi=phi), rk.relation_matrix(X))
    equal(rk.relation_matrix(x, z, phi), rk.relation_matrix(X, Z))
    equal(
        rk.relation_matrix(x, y, phi, psi, scale=0.5, heads=2), rk.relation_matrix(X, Y, scale=0.5, heads=2)
    )
    equal(rk.relation_matrix(x, None, phi, phi), rk.relation_matrix(X))
    other = mlp(rng, [30, 8], dtype)
    equal(rk.relation_matrix(x, None, phi, other), rk.relation_matrix(X, other(x)))
    # one side dense
    dense = normal(rng, (7, 30), dtype)
    equal(rk.relation_matrix(dense, z, phi), rk.relation_matrix(phi(dense), Z))
    equal(rk.relation_matrix(x, dense, phi), rk.relation_matrix(X, phi(dense)))
    features = normal(rng, (7, 8), dtype)
    equal(rk.relation_matrix(features, y, None, psi), rk.relation_matrix(features, Y))
    equal(rk.retrieve(x, y, 5, phi, psi), rk.retrieve(X, Y, 5))
    equal(rk.retrieve(features[0], y, 5, None, psi), rk.retrieve(features[0], Y, 5))
    equal(rk.relation_matvec(x, y, v, phi, psi, link="exp"), rk.relation_matvec(X, Y, v, link="exp"))
    equal(rk.attention(x, y, v, phi, psi), rk.attention(X, Y, v))
    equal(rk.attention_scores(x, y, phi, psi, causal=True), rk.attention_scores(X, Y, causal=True))


# ---- refusals


def csr(change):
    x = sparse.random_array((5, 4), density=0.5, dtype=np.float32, format="csr", rng=np.random.default_rng(0))
    change(x)
    return x


def set_at(name, index, value):
    def change(x):
        getattr(x, name)[index] = value

    return change


PHI = rk.MLP.random([4, 8, 2], random_state=0)
GOOD = csr(lambda x: None)
DENSE = GOOD.toarray()


def broken(container, axis, index):
    x = getattr(sparse, container)(DENSE)
    indices = getattr(x, axis).copy()
    indices[0] = index
    setattr(x, axis, indices)
    return x


REFUSED = [
    (lambda: PHI(csr(set_at("indices", 0, 4))), ValueError,
     ["x:", "column indices from 0 to 3", "(5, 4)", "got 4"]),
    (lambda: PHI(csr(set_at("indices", 2, -1))), ValueError, ["x:", "column indices", "got -1"]),
    (lambda: PHI(csr(set_at("indptr", 1, 11))), ValueError, ["x:", "indptr", "descends"]),
    (lambda: PHI(csr(set_at("indptr", 0, -1))), ValueError, ["x:", "indptr"]),
    (lambda: PHI(csr(set_at("indptr", -1, 99))), ValueError, ["x:", "at most 10 entries", "to 99"]),
    (lambda: PHI(broken("csc_array", "indices", 5)), ValueError, ["x:", "row indices from 0 to 4", "got 5"]),
    (lambda: PHI(broken("coo_array", "row", 9)), ValueError, ["x:", "row indices", "got 9"]),
    (lambda: PHI(broken("coo_array", "col", -2)), ValueError, ["x:", "column indices", "got -2"]),
    (lambda: rk.feature_map_vjp(csr(set_at("indices", 0, 4)), PHI, DENSE), ValueError, ["x:"]),
    (lambda: rk.retrieve(GOOD, csr(set_at("indices", 0, 4)), 1, PHI), ValueError, ["keys:", "got 4"]),
    (lambda: PHI(GOOD[:, :3]), ValueError, ["x:", "4 features", "mlp", "(5, 3)"]),
    (lambda: PHI(sparse.csr_array((5, 0), dtype=np.float32)), ValueError, ["x:", "4 features", "(5, 0)"]),
    (lambda: rk.relation_matrix(GOOD, GOOD[:, :3], PHI), ValueError, ["y:", "4 features", "phi", "(5, 3)"]),
    (lambda: PHI(sparse.coo_array(np.ones(4, "f4"))), ValueError, ["x:", "2 dimensions", "(4,)"]),
    (lambda: PHI(GOOD.tolil()), TypeError, ["x:", "CSR, CSC or COO", "x.tocsr()"]),
    (lambda: PHI(GOOD.astype(np.float64)), TypeError, ["float64", "x.astype(np.float32)"]),
    (lambda: PHI(GOOD.astype(np.complex64)), TypeError, ["x:", "complex64"]),
    (lambda: rk.feature_map(GOOD, None), TypeError, ["mlp:", "an MLP"]),
    (lambda: rk.feature_map(GOOD, PHI, precision="int8"), ValueError, ["precision:", "int8"]),
    (lambda: rk.feature_map(GOOD, PHI, out=np.empty((5, 3), "f4")), ValueError, ["out:", "(5, 2)", "(5, 3)"]),
    (lambda: rk.feature_map_vjp(GOOD, PHI, np.ones((4, 2), "f4")), ValueError, ["grad:", "(5, 2)", "(4, 2)"]),
    (lambda: rk.feature_map_vjp(GOOD, PHI, np.ones((5, 2))), TypeError, ["grad:", "float64"]),
    (lambda: rk.relation_matrix(GOOD), TypeError, ["x:", "phi is None", "x.toarray()"]),
    (lambda: rk.relation_matrix(DENSE, GOOD, None, None), TypeError, ["y:", "y.toarray()"]),
    (lambda: rk.retrieve(DENSE[:, :2], GOOD, 1), TypeError, ["keys:", "keys.toarray()"]),
    (lambda: rk.retrieve(GOOD, None, 1, PHI), TypeError, ["keys:", "NoneType"]),
    (lambda: rk.relation_matrix(GOOD, DENSE.astype(np.float16), PHI), TypeError, ["x:", "float16"]),
    (lambda: rk.relation_matrix_vjp(GOOD, None, DENSE, PHI), TypeError, ["x:", "x.toarray()"]),
    (lambda: rk.relation_loss(GOOD, None, np.arange(5), PHI), TypeError, ["x:", "x.toarray()"]),
    (lambda: rk.attention_vjp(GOOD, GOOD, DENSE, DENSE, PHI), TypeError, ["q:", "q.toarray()"]),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_refused(case):
    call, error, words = REFUSED[case]
    with pytest.raises(error) as caught:
        call()
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_out_may_not_overlap_the_entries():
    x = sparse.csr_array(np.ones((5, 4), np.float32))
    with pytest.raises(ValueError, match=r"out: expected memory apart from x"):
        rk.feature_map(x, PHI, out=x.data[:10].reshape(5, 2))


def test_other_libraries_refuse_sparse_rows():
    torch = pytest.importorskip("torch")
    da = pytest.importorskip("dask.array")
    import relkernels.dask
    import relkernels.torch

    tensor, chunks = torch.ones(5, 4), da.ones((5, 4), dtype=np.float32)
    for call, name in [
        (lambda: rk.relation_matrix(GOOD, tensor, PHI), "y"),
        (lambda: rk.relation_matrix(tensor, GOOD, PHI), "y"),
        (lambda: rk.feature_map_vjp(GOOD, PHI, tensor), "grad"),
        (lambda: relkernels.torch.feature_map(GOOD, PHI), "x"),
        (lambda: relkernels.torch.relation_matrix(tensor, GOOD, PHI), "y"),
        (lambda: relkernels.dask.feature_map(GOOD, PHI), "x"),
        (lambda: relkernels.dask.relation_matrix(chunks, GOOD, PHI), "y"),
    ]:
        with pytest.raises(TypeError, match=rf"^{name}: expected"):
            call()


def test_arguments_are_not_changed(rng):
    x = random_rows(rng, 20, 4, 6, np.float32)
    arrays = x.data, x.indices, x.indptr
    copies = [a.copy() for a in arrays]
    PHI(x)
    rk.feature_map_vjp(x, PHI, np.ones((20, 2), np.float32))
    for now, before, copy in zip((x.data, x.indices, x.indptr), arrays, copies, strict=True):
        assert now is before
        np.testing.assert_array_equal(now, copy)


def test_memory_is_that_of_the_entries():
    """A dense copy of these rows would take 8 TB."""
    n, d = 2_000_000, 1_000_000
    x = sparse.csr_array((np.ones(n, np.float32), np.arange(n) % d, np.arange(n + 1)), shape=(n, d))
    phi = rk.MLP([np.arange(d, dtype=np.float32)[:, None]])
    np.testing.assert_array_equal(phi(x)[:, 0], np.arange(n) % d)
    gradient = rk.feature_map_vjp(x, phi, np.ones((n, 1), np.float32))[1]
    np.testing.assert_array_equal(gradient.weights[0], 2)
