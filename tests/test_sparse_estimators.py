"""Estimators of relations take sparse tables, and learn from them what they learn from dense ones."""

import numpy as np
import pytest
from relkernels import AsymmetricRelation, SymmetricRelation
from scipy import sparse
from sklearn.metrics.pairwise import linear_kernel

SYMMETRIC = {"hidden_widths": (16,), "n_features": 4, "max_iter": 8, "batch_size": 32, "random_state": 0}
SYMMETRIC["standardize"] = False  # as sparse columns never are


@pytest.fixture
def tables(rng):
    X = sparse.random_array((90, 30), density=0.2, format="csr", rng=rng)
    Y = sparse.random_array((70, 20), density=0.2, format="csr", rng=rng)
    return X, Y


def assert_alike(of_sparse, of_dense, call):
    np.testing.assert_allclose(call(of_sparse), call(of_dense), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("container", ["csr_array", "csr_matrix", "csc_array", "coo_matrix", "lil_array"])
@pytest.mark.parametrize(
    "settings", [{}, {"solver": "lbfgs"}, {"batch_of": "pairs"}, {"early_stopping": True}]
)
def test_symmetric_relation_of_labels(container, settings, tables, rng):
    X, labels = tables[0], rng.integers(0, 3, 90)
    sparse_x = getattr(sparse, container)(X)
    a = SymmetricRelation(**SYMMETRIC | settings).fit(sparse_x, labels)
    b = SymmetricRelation(**SYMMETRIC | settings).fit(X.toarray(), labels)
    assert_alike(a, b, lambda r: r.loss_curve_)
    assert_alike(a, b, lambda r: r.relation_matrix(X))
    np.testing.assert_allclose(
        a.relation_matrix(sparse_x, X[:7]), a.relation_matrix(X.toarray(), X[:7].toarray())
    )
    np.testing.assert_allclose(a.transform(sparse_x), a.transform(X.toarray()))
    np.testing.assert_allclose(a.features_fit_, a.transform(X))
    for searched in (None, X[10:50]):
        np.testing.assert_allclose(a.retrieve(X[:5], 3, searched)[0], b.retrieve(X[:5], 3, searched)[0])
    assert a.score(sparse_x, labels) == pytest.approx(b.score(X.toarray(), labels))


@pytest.mark.parametrize("hidden", [(), (16,)])
@pytest.mark.parametrize("kind", ["values", "observed"])
def test_symmetric_relation_of_values(kind, hidden, tables):
    X = tables[0]
    values = (X @ X.T).toarray()
    y = {"values": values, "observed": sparse.csr_array(values)}[kind]
    settings = SYMMETRIC | {"hidden_widths": hidden}
    a, b = SymmetricRelation(**settings).fit(X, y), SymmetricRelation(**settings).fit(X.toarray(), y)
    assert_alike(a, b, lambda r: r.loss_curve_)
    assert a.score(X, y) == pytest.approx(b.score(X.toarray(), y))


def test_a_kernel_of_sparse_rows(tables):
    relation = SymmetricRelation(n_features=30, random_state=0).fit(tables[0], linear_kernel)
    assert relation.score(tables[0], linear_kernel) > 0.95


@pytest.mark.parametrize("kind", ["matched", "values", "observed"])
def test_asymmetric_relation(kind, tables, rng):
    X, Y = tables
    if kind == "matched":
        X, R = X[:70], None
    else:
        R = rng.standard_normal((90, 70))
        R = R if kind == "values" else sparse.csr_array(np.where(R > 1, R, 0))
    settings = {name: value for name, value in SYMMETRIC.items() if name != "batch_of"}
    a = AsymmetricRelation(**settings).fit(X, Y, R)
    for left, right in ((X.toarray(), Y.toarray()), (X, Y.toarray()), (X.toarray(), Y)):
        b = AsymmetricRelation(**settings).fit(left, right, R)
        assert_alike(a, b, lambda r: r.loss_curve_)
        assert a.score(X, Y, R) == pytest.approx(b.score(left, right, R))
        assert_alike(a, b, lambda r: r.relation_matrix(X, Y))
        assert_alike(a, b, lambda r: r.transform(X, Y)[1])
        assert_alike(a, b, lambda r: r.retrieve(X, 4)[0])
    a.partial_fit(X, Y, R)


def test_equal_rows_of_a_sparse_table_count_as_found():
    X = sparse.csr_array(np.eye(6))
    Y = sparse.csr_array(np.eye(6)[[0, 0, 1, 1, 2, 2]])
    relation = AsymmetricRelation(**SYMMETRIC).fit(X, Y)
    assert relation.score(X, Y) == relation.score(X.toarray(), Y.toarray())


def test_ids_with_explicit_zeros_duplicates_and_rows_never_seen(rng):
    """Ids of 32 bits, one stored twice, one with the value 0, and an object without an id."""
    columns = np.concatenate([np.arange(40) % 10, [3, 4]])
    values = np.concatenate([np.ones(41), [0.0]])
    X = sparse.coo_array((values, (np.concatenate([np.arange(40), [0, 1]]), columns)), shape=(41, 12)).tocsr()
    labels = np.arange(41) % 2
    a = SymmetricRelation(**SYMMETRIC).fit(X, labels)
    assert_alike(a, SymmetricRelation(**SYMMETRIC).fit(X.toarray(), labels), lambda r: r.relation_matrix(X))
    unseen = sparse.csr_array((1, 12))
    np.testing.assert_allclose(a.transform(unseen), a.transform(unseen.toarray()))


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int64, np.float32])
def test_dtypes(dtype, tables, rng):
    X = (tables[0] > 0.5).astype(dtype)
    relation = SymmetricRelation(**SYMMETRIC).fit(X, rng.integers(0, 2, 90))
    assert relation.phi_.dtype == (np.float32 if dtype == np.float32 else np.float64)
    assert relation.transform(X).dtype == relation.phi_.dtype


def test_refused(tables):
    X, labels = tables[0], np.arange(90) % 2
    nan = X.copy()
    nan.data[3] = np.nan
    with pytest.raises(ValueError, match="X contains NaN"):
        SymmetricRelation().fit(nan, labels)
    with pytest.raises(ValueError, match="y contains NaN"):
        AsymmetricRelation().fit(X, nan)
    relation = SymmetricRelation(**SYMMETRIC).fit(X, labels)
    with pytest.raises(ValueError, match="X has 29 features"):
        relation.transform(X[:, :29])
    for container in ("csr_array", "csc_array"):
        outside = getattr(sparse, container)(X)
        outside.indices = outside.indices.copy()
        outside.indices[0] = 1000
        with pytest.raises(ValueError, match=r"X: expected (row|column) indices from 0 to (89|29)"):
            SymmetricRelation().fit(outside, labels)
        with pytest.raises(ValueError, match=r"Q: expected"):
            relation.retrieve(outside, 2)
