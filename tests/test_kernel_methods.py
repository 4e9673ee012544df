"""Kernels inside scikit-learn: NNGPKernel and RelationKernel as objects, matrices as kernel="precomputed"."""

import numpy as np
import pytest
import relkernels as rk
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import KernelPCA
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import WhiteKernel
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC
from strategies import mlp, normal


@pytest.fixture(scope="module")
def digits():
    X, digit = load_digits(return_X_y=True)
    return X[:400] / 16, digit[:400], X[400:700] / 16, digit[400:700]


@pytest.fixture(scope="module")
def phi():
    return mlp(np.random.default_rng(0), [64, 256, 128], np.float64, "relu")


def test_a_gaussian_process_with_the_nngp_kernel(rng):
    X = rng.standard_normal((60, 2))
    y = np.sin(X[:, 0]) + 0.5 * X[:, 1] + 0.01 * rng.standard_normal(60)
    kernel = rk.NNGPKernel(2, "erf", weight_std=1.5, bias_std=0.5)
    fixed = GaussianProcessRegressor(kernel, alpha=1e-4, optimizer=None).fit(X[:40], y[:40])
    # The posterior by its formulas.
    options = {"depth": 2, "activation": "erf", "weight_std": 1.5, "bias_std": 0.5}
    K = rk.nngp_kernel(X[:40], **options) + 1e-4 * np.eye(40)
    k = rk.nngp_kernel(X[40:], X[:40], **options)
    mean, deviation = fixed.predict(X[40:], return_std=True)
    np.testing.assert_allclose(mean, k @ np.linalg.solve(K, y[:40]), rtol=1e-6, atol=1e-8)
    variance = np.diag(rk.nngp_kernel(X[40:], **options)) - np.einsum("ij,ji->i", k, np.linalg.solve(K, k.T))
    np.testing.assert_allclose(deviation**2, variance, rtol=1e-4, atol=1e-8)
    process = GaussianProcessRegressor(kernel + WhiteKernel(1e-3), random_state=0).fit(X[:40], y[:40])
    before = process.log_marginal_likelihood((kernel + WhiteKernel(1e-3)).theta)
    assert process.log_marginal_likelihood_value_ > before
    assert np.abs(process.predict(X[40:]) - y[40:]).max() < 0.3


@pytest.mark.parametrize("kernel", [
    lambda A, B: rk.nngp_kernel(A, B, depth=2),
    lambda A, B: rk.relation_matrix(A, B, rk.MLP.random([64, 256, 128], dtype="float64", random_state=0)),
], ids=["nngp", "relation"])  # fmt: skip
def test_precomputed_matrices_in_ridge_and_svc(kernel, digits):
    X, digit, X_new, digit_new = digits
    square = kernel(X, None)
    across = kernel(X_new, X)
    ridge = KernelRidge(alpha=0.5, kernel="precomputed").fit(square, digit)
    dual = np.linalg.solve(square + 0.5 * np.eye(len(X)), digit)
    np.testing.assert_allclose(ridge.predict(across), across @ dual, rtol=1e-6, atol=1e-6)
    assert SVC(C=100, kernel="precomputed").fit(square, digit).score(across, digit_new) > 0.85


@pytest.mark.parametrize("kernel", [
    lambda phi: rk.RelationKernel(phi, scale=0.5),
    pytest.param(lambda phi: rk.NNGPKernel(2), marks=pytest.mark.slow),
], ids=["relation", "nngp"])  # fmt: skip
def test_kernel_objects_do_what_precomputed_ones_do(kernel, digits, phi):
    X, digit, X_new, digit_new = digits
    kernel = kernel(phi)
    by_object = SVC(C=100, kernel=kernel).fit(X, digit)
    by_matrix = SVC(C=100, kernel="precomputed").fit(kernel(X), digit)
    np.testing.assert_array_equal(by_object.predict(X_new), by_matrix.predict(kernel(X_new, X)))
    assert by_object.score(X_new, digit_new) > 0.85
    by_object, by_matrix = (KernelRidge(kernel=k, alpha=0.1) for k in (kernel, "precomputed"))
    np.testing.assert_allclose(
        by_object.fit(X, digit).predict(X_new),
        by_matrix.fit(kernel(X), digit).predict(kernel(X_new, X)),
        rtol=1e-6,
    )
    assert KernelPCA(3, kernel=kernel).fit_transform(X).shape == (400, 3)


def test_whole_tables_are_passed_never_single_rows(digits, phi, monkeypatch):
    X, digit, X_new, _ = digits
    shapes = []
    original = rk.RelationKernel.__call__

    def watched(self, A, B=None, **options):
        shapes.append(A.shape)
        return original(self, A, B, **options)

    monkeypatch.setattr(rk.RelationKernel, "__call__", watched)
    kernel = rk.RelationKernel(phi)
    KernelRidge(kernel=kernel).fit(X, digit).predict(X_new)
    SVC(kernel=kernel).fit(X, digit).predict(X_new)
    assert set(shapes) == {(400, 64), (300, 64)}


def test_kernel_ridge_of_the_relation_is_ridge_on_the_features(digits, phi):
    X, digit, X_new, _ = digits
    y = digit - 4.5
    kernel = KernelRidge(kernel=rk.RelationKernel(phi), alpha=2.0).fit(X, y)
    linear = Ridge(2.0, fit_intercept=False).fit(phi(X), y)
    np.testing.assert_allclose(kernel.predict(X_new), linear.predict(phi(X_new)), rtol=1e-6, atol=1e-6)


def test_the_kernel_of_a_relation(rng):
    phi = mlp(rng, [5, 40, 9], np.float32, "gelu")
    X, Y = normal(rng, (30, 5), np.float64), normal(rng, (20, 5), np.float64)
    kernel = rk.RelationKernel(phi, scale=0.7)
    f, g = phi(X.astype(np.float32)).astype(np.float64), phi(Y.astype(np.float32)).astype(np.float64)
    K, gradient = kernel(X, eval_gradient=True)
    assert K.dtype == np.float64
    np.testing.assert_allclose(K, 0.7 * f @ f.T, rtol=1e-13, atol=1e-14)
    np.testing.assert_array_equal(K, K.T)
    assert np.linalg.eigvalsh(K).min() > -1e-13 * K.max()
    np.testing.assert_allclose(kernel(X, Y), 0.7 * f @ g.T, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(kernel.diag(X), np.diag(K), rtol=1e-13)
    step = 1e-6
    moved = [kernel.clone_with_theta(kernel.theta + s)(X) for s in (step, -step)]
    np.testing.assert_allclose(gradient[:, :, 0], (moved[0] - moved[1]) / (2 * step), rtol=1e-8, atol=1e-8)
    assert rk.RelationKernel(phi, 0.7, "fixed")(X, eval_gradient=True)[1].shape == (30, 30, 0)
    np.testing.assert_allclose(rk.RelationKernel()(X), X @ X.T, rtol=1e-13, atol=1e-14)
    again = clone(kernel)
    np.testing.assert_array_equal(again(X), K)
    assert repr(kernel).startswith("RelationKernel(MLP(widths=(5, 40, 9), gelu")


def test_a_process_and_a_search_find_its_scale(rng):
    phi = mlp(rng, [3, 30, 6], np.float64, "tanh")
    X = rng.standard_normal((80, 3))
    y = phi(X) @ rng.standard_normal(6) * 3 + 0.1 * rng.standard_normal(80)
    kernel = rk.RelationKernel(phi) + WhiteKernel(1.0)
    process = GaussianProcessRegressor(kernel, random_state=0).fit(X[:60], y[:60])
    assert process.kernel_.k1.scale > 1.5
    assert process.kernel_.k2.noise_level < 0.05
    search = GridSearchCV(
        KernelRidge(kernel=rk.RelationKernel(phi), alpha=1.0), {"kernel__scale": [1e-4, 10.0]}
    )
    assert search.fit(X, y).best_params_ == {"kernel__scale": 10.0}


def test_kernels_print_whatever_they_hold(phi):
    """Constructors check nothing, so objects that a call would reject must still print."""
    printed = "MLP(widths=(64, 256, 128), relu, float64)"
    assert repr(rk.RelationKernel(phi, 0.12345)) == f"RelationKernel({printed}, scale=0.123)"
    assert repr(rk.RelationKernel(phi, phi)) == f"RelationKernel({printed}, scale={printed})"
    assert repr(rk.RelationKernel(scale="auto")) == "RelationKernel(None, scale='auto')"
    assert repr(rk.NNGPKernel(weight_std=None)).endswith("weight_std=None, bias_std=0.1)")
    process = GaussianProcessRegressor(rk.RelationKernel(phi, scale=np.float64(2)) + WhiteKernel(1e-3))
    for shown in (repr(process), repr(clone(process)), repr(SVC(kernel=rk.RelationKernel(phi, 2.0)))):
        assert f"RelationKernel({printed}, scale=2)" in " ".join(shown.split())
        assert len(shown) < 200
    assert repr(clone(rk.RelationKernel(phi, phi))) == repr(rk.RelationKernel(phi, phi))


X = np.ones((5, 4))


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: rk.RelationKernel(3)(X), TypeError, "phi: expected an MLP or None"),
    (lambda: rk.RelationKernel(rk.MLP.random([3, 2]))(X), ValueError, r"X: expected rows of 3 .*\(5, 4\)"),
    (lambda: rk.RelationKernel(rk.MLP.random([4, 2]))(X, X[:, :3]), ValueError, "Y: expected rows of 4 "),
    (
        lambda: rk.RelationKernel(rk.MLP.random([4, 2]), rk.MLP.random([4, 2]))(X),
        TypeError,
        r"scale: expected a number > 0, got MLP\(.*: a kernel has one map, phi",
    ),
    (lambda: rk.RelationKernel(scale=0)(X), ValueError, "scale: expected a finite number > 0, .* got 0"),
    (lambda: rk.RelationKernel(scale=-1.5)(X), ValueError, "> 0, for the kernel to be positive .* got -1.5"),
    (lambda: rk.RelationKernel(scale=float("nan"))(X), ValueError, "scale: expected"),
    (lambda: rk.RelationKernel()(X, X, eval_gradient=True), ValueError, "eval_gradient: expected False"),
])  # fmt: skip
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()
