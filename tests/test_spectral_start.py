"""Closed-form maps for given relation values, and the ridge regression that fits their output layers."""

import numpy as np
import pytest
from relkernels import MLP, AsymmetricRelation, SymmetricRelation, feature_map
from relkernels.estimators.fitting import spectral_start
from relkernels.estimators.fitting.least_squares import _PENALTIES, ridge
from relkernels.estimators.fitting.random_layer import auto_width
from relkernels.estimators.fitting.spectral_start import mercer_start, schmidt_start
from scipy.spatial.distance import cdist
from sklearn.datasets import load_breast_cancer
from sklearn.kernel_approximation import Nystroem
from sklearn.metrics import r2_score
from sklearn.metrics.pairwise import chi2_kernel, laplacian_kernel, rbf_kernel
from sklearn.preprocessing import StandardScaler

RNG = np.random.default_rng(0)


def determination(found, truth):
    return r2_score(truth.ravel(), found.ravel())


def mlp(n_columns, n_features=32, dtype="float64", seed=0, hidden=(1024,)):
    return MLP.random((n_columns, *hidden, n_features), "relu", seed, dtype)


@pytest.mark.parametrize("shape", [(8, 20), (16, 8), (10, 10), (11, 10)])
def test_ridge_has_the_least_leave_one_out_error(shape):
    H = RNG.standard_normal(shape) * np.geomspace(1, 1e-2, shape[1])
    T = np.column_stack([np.sin(H[:, 0]), H[:, 1] + RNG.standard_normal(shape[0]), H[:, 1]]) + 5
    coefficients, intercepts, _ = ridge(H, T)
    centred = H - H.mean(axis=0)
    eigenvalues = np.linalg.eigvalsh(centred @ centred.T if shape[0] <= shape[1] else centred.T @ centred)
    scale = eigenvalues[eigenvalues > 1e-12 * eigenvalues[-1]].mean()

    def predict(keep, target, penalty):
        mean, level = H[keep].mean(axis=0), target[keep].mean()
        C = H[keep] - mean
        solved = np.linalg.solve(C.T @ C + penalty * np.eye(shape[1]), C.T @ (target[keep] - level))
        return (H - mean) @ solved + level

    rows = np.arange(len(H))
    for j, target in enumerate(T.T):
        errors = [
            sum((predict(rows != i, target, penalty)[i] - target[i]) ** 2 for i in rows)
            for penalty in _PENALTIES * scale
        ]
        expected = predict(rows >= 0, target, _PENALTIES[np.argmin(errors)] * scale)
        np.testing.assert_allclose(H @ coefficients[:, j] + intercepts[j], expected, rtol=1e-5)


def test_ridge_shrinks_noise_and_keeps_signal():
    H = RNG.standard_normal((200, 100))
    T = np.column_stack([H[:, 0], RNG.standard_normal(200)])
    coefficients, _, _ = ridge(H, T)
    assert coefficients[0, 0] == pytest.approx(1, abs=1e-3)
    assert np.linalg.norm(coefficients[:, 1]) < 0.3


def test_ridge_of_constant_features_is_the_mean():
    coefficients, intercepts, _ = ridge(np.ones((5, 3)), np.arange(10.0).reshape(5, 2))
    assert not coefficients.any()
    np.testing.assert_array_equal(intercepts, [4, 5])


@pytest.fixture(scope="module")
def table():
    X = load_breast_cancer().data
    X = X[np.random.default_rng(0).permutation(len(X))[:400]]
    scaler = StandardScaler().fit(X[:240])
    return scaler.transform(X[:240]), scaler.transform(X[240:])


@pytest.mark.parametrize("kernel", [rbf_kernel, laplacian_kernel])
def test_a_kernel_is_predicted_as_by_nystroem(kernel, table):
    X, held_out = table
    truth, found = kernel(held_out), {}
    for values in (kernel, kernel(X)):
        features = feature_map(held_out, mercer_start(mlp(30), X, values, np.random.RandomState(0)))
        found[callable(values)] = determination(features @ features.T, truth)
    name = kernel.__name__.removesuffix("_kernel")
    landmarks = Nystroem(name, n_components=32, random_state=0).fit(X).transform(held_out)
    assert found[True] > determination(landmarks @ landmarks.T, truth) - 0.02
    assert found[False] > 0.92


def test_a_function_is_better_than_its_matrix_on_few_rows(table):
    X, held_out = table
    found = {}
    for values in (rbf_kernel, rbf_kernel(X[:60])):
        features = feature_map(held_out, mercer_start(mlp(30), X[:60], values, np.random.RandomState(0)))
        found[callable(values)] = determination(features @ features.T, rbf_kernel(held_out))
    assert found[True] > found[False] + 0.02


def test_kernels_see_only_values_within_the_range_of_each_column():
    X = RNG.random((30, 3))
    seen = []

    def kernel(A, B):
        seen.append(A)
        return chi2_kernel(A, B)  # refuses negative values

    mercer_start(mlp(3, 4, hidden=(16,)), X, kernel, np.random.RandomState(0))
    assert len(seen[0]) == spectral_start._FRESH_BELOW
    np.testing.assert_array_equal(seen[0][:30], X)
    assert (seen[0] >= X.min(axis=0)).all()
    assert (seen[0] <= X.max(axis=0)).all()
    constant = mercer_start(mlp(3, 4, hidden=(16,)), np.ones((5, 3)), rbf_kernel, np.random.RandomState(0))
    np.testing.assert_allclose(constant(X) @ constant(X).T, 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_singular_functions_predict_new_rows_and_columns(dtype):
    rng = np.random.default_rng(1)
    X, Y = rng.standard_normal((400, 4)).astype(dtype), rng.standard_normal((300, 3)).astype(dtype)
    R = np.exp(-cdist(X[:, :3], Y, "sqeuclidean") / 10) + X[:, :1]
    noise = np.std(R) * rng.standard_normal(R.shape)
    for extra, least in ((0, 0.98), (noise, 0.9)):
        phi, psi = schmidt_start(
            mlp(4, dtype=dtype),
            mlp(3, dtype=dtype, seed=1),
            X[:300],
            Y[:200],
            (R + extra)[:300, :200].astype(dtype),
            np.random.RandomState(0),
        )
        assert phi.dtype == psi.dtype == dtype
        found = feature_map(X[300:], phi) @ feature_map(Y[200:], psi).T
        assert determination(found, R[300:, 200:]) > least


@pytest.mark.parametrize("hidden", [(), (64,), (48, 32)])
def test_any_number_of_hidden_layers(hidden):
    X = RNG.standard_normal((80, 3))
    phi = mercer_start(mlp(3, 5, hidden=hidden), X, X @ X.T, np.random.RandomState(0))
    assert phi.widths == (3, *hidden, 5)
    assert determination(phi(X) @ phi(X).T, X @ X.T) > (0.999 if len(hidden) < 2 else 0.98)
    assert np.square(phi(X)[:, 3:]).mean() < 1e-10  # the relation has rank 3


def test_indefinite_zero_and_few_values():
    X = RNG.standard_normal((6, 2))
    for values in (-np.eye(6), np.zeros((6, 6))):
        phi = mercer_start(mlp(2, 8, hidden=(16,)), X, values, np.random.RandomState(0))
        assert not phi(X).any()
    phi, psi = schmidt_start(
        mlp(2, 8, hidden=(16,)), mlp(2, 8, hidden=(16,)), X, X[:3], np.zeros((6, 3)), np.random.RandomState(0)
    )
    assert not (phi(X) @ psi(X).T).any()


def test_many_rows_are_sampled_the_same_way_each_time(monkeypatch):
    monkeypatch.setattr(spectral_start, "_DECOMPOSED", 100)
    monkeypatch.setattr(spectral_start, "_FITTED", 150)
    monkeypatch.setattr(spectral_start, "_FRESH_BELOW", 120)
    X, Y = RNG.standard_normal((400, 3)), RNG.standard_normal((300, 3))

    def starts():
        seeded = np.random.RandomState(0)
        return [
            mercer_start(mlp(3, 16), X, rbf_kernel, seeded),
            mercer_start(mlp(3, 16), X, rbf_kernel(X), seeded),
            *schmidt_start(mlp(3, 16), mlp(3, 16, seed=1), X, Y, rbf_kernel(X, Y), seeded),
        ]

    kernel, matrix, phi, psi = starts()
    for first, again in zip((kernel, matrix, phi, psi), starts(), strict=True):
        for a, b in zip(first.weights + first.biases, again.weights + again.biases, strict=True):
            np.testing.assert_array_equal(a, b)
    for found in (kernel(Y) @ kernel(Y).T, matrix(Y) @ matrix(Y).T, phi(Y) @ psi(Y).T):
        assert determination(found, rbf_kernel(Y)) > 0.95


def test_fits_begin_there(table):
    X, held_out = table
    common = {"hidden_widths": (auto_width(4),), "max_iter": 1, "learning_rate": 1e-12, "random_state": 0}
    for y in (rbf_kernel, rbf_kernel(X)):
        assert SymmetricRelation(**common).fit(X, y).score(held_out, rbf_kernel) > 0.92
    relation = AsymmetricRelation(**common).fit(X, X[:, :20], rbf_kernel(X))
    assert relation.score(held_out, held_out[:, :20], rbf_kernel(held_out)) > 0.9
