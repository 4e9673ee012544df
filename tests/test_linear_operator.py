"""as_linear_operator: products equal those of the matrix, its adjoint, and SciPy's solvers with it."""

import numpy as np
import pytest
import relkernels as rk
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator, cg, eigsh, lsqr, svds
from strategies import columns, lay_out, layouts, mlp, normal, rows, seeds

LINKS = {"identity": lambda r: r, "exp": np.exp, "relu": lambda r: np.maximum(r, 0), "square": np.square}


def tables(rng, n, m, which, dtype=np.float64):
    """Return inputs and maps: none, one, two, or a map and the identity, on either side."""
    phi = mlp(rng, [4, 9, 3], dtype) if which in ("one", "two", "first") else None
    psi = mlp(rng, [5, 7, 3], dtype, "tanh") if which in ("two", "second") else None
    d_x = 4 if phi else 3
    d_y = 5 if psi else {"one": 4, "none": 3, "first": 3}[which]
    if which == "first":  # y through the identity as a map of one layer, because psi None means phi
        psi = rk.MLP([np.eye(3, dtype=dtype)])
    return normal(rng, (n, d_x), dtype), normal(rng, (m, d_y), dtype), phi, psi


def dense(x, y, phi, psi, link, scale):
    f = x if phi is None else phi(x)
    g = y if psi is None and phi is None else (phi if psi is None else psi)(y)
    return LINKS[link](scale * f @ g.T)


sides = st.sampled_from(["none", "one", "two", "first", "second"])


@given(rows, columns, sides, st.sampled_from(list(LINKS)), layouts, seeds)
def test_products_are_those_of_the_matrix(n, m, which, link, layout, seed):
    rng = np.random.default_rng(seed)
    x, y, phi, psi = tables(rng, n, m, which)
    x = lay_out(x, layout)
    operator = rk.as_linear_operator(x, y, phi, psi, link=link, scale=0.3)
    matrix = dense(x, y, phi, psi, link, 0.3)
    assert isinstance(operator, LinearOperator)
    assert (operator.shape, operator.dtype) == ((n, m), np.float64)
    v, u = rng.standard_normal((m, 2)), rng.standard_normal((n, 2))
    size = 1 + np.abs(matrix).sum()
    for product, expected in [
        (operator.matvec(v[:, 0]), matrix @ v[:, 0]),
        (operator.matvec(v[:, :1]), matrix @ v[:, :1]),
        (operator.matmat(v), matrix @ v),
        (operator.rmatvec(u[:, 0]), matrix.T @ u[:, 0]),
        (operator.rmatmat(u), matrix.T @ u),
        (operator.H @ u, matrix.T @ u),
        (operator.T @ u[:, 1], matrix.T @ u[:, 1]),
    ]:
        assert product.shape == expected.shape
        np.testing.assert_allclose(product, expected, rtol=0, atol=1e-13 * size)


def test_the_adjoint_with_an_identity_beside_a_map(rng):
    """<A v, u> = <v, A* u> with psi only, so that one side is a map and the other is not."""
    psi = mlp(rng, [5, 7, 3], np.float64, "tanh")
    operator = rk.as_linear_operator(
        normal(rng, (20, 3), np.float64), normal(rng, (30, 5), np.float64), None, psi
    )
    v, u = rng.standard_normal(30), rng.standard_normal(20)
    assert (operator @ v) @ u == pytest.approx(v @ (operator.H @ u), rel=1e-12)


def test_vectors_of_other_dtypes(rng):
    x = normal(rng, (40, 3), np.float32)
    operator, matrix = rk.as_linear_operator(x), x.astype(np.float64) @ x.T
    assert operator.dtype == np.float32
    z = rng.standard_normal(40) + 1j * rng.standard_normal(40)
    np.testing.assert_allclose(operator @ z, matrix @ z, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(operator.H @ z, matrix @ z, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(operator @ np.arange(40), matrix @ np.arange(40), rtol=1e-4, atol=1e-3)


@pytest.fixture(scope="module")
def relation():
    rng = np.random.default_rng(3)
    x, y, phi, psi = tables(rng, 300, 200, "two")
    return x, y, phi, psi, dense(x, y, phi, psi, "identity", 1.0)


def test_eigenvalues(relation):
    x, _, phi, *_ = relation
    values, vectors = eigsh(rk.as_linear_operator(x, phi=phi, link="exp", scale=0.1), k=4)
    matrix = np.exp(0.1 * phi(x) @ phi(x).T)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(matrix)[-4:], rtol=1e-10)
    np.testing.assert_allclose(matrix @ vectors, vectors * values, atol=1e-8 * values.max())


def test_singular_values(relation):
    x, y, phi, psi, matrix = relation
    left, values, right = svds(rk.as_linear_operator(x, y, phi, psi), k=3)
    np.testing.assert_allclose(np.sort(values), np.sort(np.linalg.svd(matrix)[1][:3]), rtol=1e-10)
    np.testing.assert_allclose(left * values @ right, matrix, atol=1e-9 * values.max())  # of rank 3


def test_linear_systems(relation):
    x, y, phi, psi, matrix = relation
    b = np.sin(np.arange(300.0))
    ridge = rk.as_linear_operator(x, phi=phi, link="exp", scale=0.05) + LinearOperator(
        (300, 300), matvec=lambda v: 0.5 * v, dtype=float
    )
    solution, failed = cg(ridge, b, rtol=1e-12, maxiter=2000)
    kernel = np.exp(0.05 * phi(x) @ phi(x).T)
    assert not failed
    np.testing.assert_allclose(solution, np.linalg.solve(kernel + 0.5 * np.eye(300), b), rtol=1e-6, atol=1e-8)
    least = lsqr(rk.as_linear_operator(x, y, phi, psi), b, damp=0.1, atol=1e-12, btol=1e-12, iter_lim=500)[0]
    expected = np.linalg.solve(matrix.T @ matrix + 0.01 * np.eye(200), matrix.T @ b)
    np.testing.assert_allclose(least, expected, rtol=1e-5, atol=1e-7)


def test_the_matrix_is_never_formed():
    import tracemalloc

    x = np.random.default_rng(0).standard_normal((6000, 4)).astype(np.float32)
    tracemalloc.start()
    operator = rk.as_linear_operator(x, phi=rk.MLP.random([4, 32, 8], random_state=0), link="relu")
    operator @ np.ones(6000, np.float32)
    operator.H @ np.ones((6000, 3), np.float32)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6  # the matrix has 144 MB


def test_arrays_of_other_libraries_are_read_as_they_lie(rng):
    strict = pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    x = normal(rng, (20, 3), np.float64)
    np.testing.assert_array_equal(
        rk.as_linear_operator(strict.asarray(x)) @ np.ones(20), rk.as_linear_operator(x) @ np.ones(20)
    )


X, PHI = np.ones((5, 4), np.float32), rk.MLP.random([4, 8, 2], random_state=0)


@pytest.mark.parametrize(("arguments", "options", "error", "message"), [
    (([[1.0]],), {}, TypeError, "x: expected an array of float32 or float64, got list"),
    ((X[None],), {}, ValueError, r"x: expected 2 dimensions, got shape \(1, 5, 4\)"),
    ((X, X[:, :3]), {}, ValueError, r"y: expected features as wide as those of x, 4 .* \(5, 3\)"),
    ((X, X.astype(float)), {}, TypeError, "y: expected float32, the dtype of x, got float64"),
    ((X, None, "phi"), {}, TypeError, "phi: expected an MLP or None"),
    ((X, X, PHI, rk.MLP.random([4, 3])), {}, ValueError, "y: expected features as wide"),
    ((X,), {"link": "cube"}, ValueError, "link: expected one of"),
    ((X,), {"scale": np.inf}, ValueError, "scale: expected a finite number, got inf"),
])  # fmt: skip
def test_bad_input_is_reported_when_the_operator_is_made(arguments, options, error, message):
    with pytest.raises(error, match=message):
        rk.as_linear_operator(*arguments, **options)
