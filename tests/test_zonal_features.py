"""ZonalFeatures: scikit-learn's checks, the named kernels, and well-distributed centres."""

import numpy as np
import pytest
import reference
import relkernels as rk
from relkernels import ZonalFeatures
from relkernels.estimators.sphere import quasi_uniform
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks


@parametrize_with_checks(
    [
        ZonalFeatures(8, random_state=0),
        ZonalFeatures(8, rk.relu_power(0.5), "data", projection="lift", random_state=0),
        ZonalFeatures(8, kernel="rotated", center_dimension=2, random_state=0),
        ZonalFeatures(8, "tanh", kernel="translation", rank=2, random_state=0),
    ]
)
def test_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize("activation", ["relu", rk.relu_power(1.5), "gelu", "erf"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_zonal_is_its_definition(activation, dtype, rng):
    X = rng.standard_normal((30, 4)).astype(dtype)
    X[3] = 0
    features = ZonalFeatures(17, activation, random_state=1).fit(X)
    out = features.transform(X)
    assert out.dtype == dtype
    norms = np.linalg.norm(reference.float64(X), axis=1, keepdims=True)
    rows = X / np.where(norms == 0, 1, norms)
    a = features.activation if isinstance(features.activation, rk.Activation) else rk.Activation(activation)
    want = reference.activation(a.name, rows @ reference.float64(features.centers_).T, a.parameter)
    np.testing.assert_allclose(out, want, atol=1e-5 if dtype == "f4" else 1e-13)
    np.testing.assert_allclose(np.linalg.norm(features.centers_, axis=1), 1, rtol=1e-6)
    assert not features.offsets_.any()


def test_rotated_and_translation_are_their_definitions(rng):
    X = rng.standard_normal((30, 5))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    y = rng.standard_normal((9, 3))
    U = np.linalg.qr(rng.standard_normal((5, 3)))[0]
    rotated = ZonalFeatures(centers=y, kernel="rotated", rotation=U).fit(X)
    np.testing.assert_allclose(rotated.transform(X), np.maximum(X @ U @ y.T, 0), atol=1e-13)
    drawn = ZonalFeatures(9, kernel="rotated", center_dimension=8, random_state=0).fit(X)
    assert drawn.centers_.shape == (9, 5)  # centres on S^7 seen by inputs on S^4: not of norm 1
    assert (np.linalg.norm(drawn.centers_, axis=1) <= 1 + 1e-12).all()
    translation = ZonalFeatures(6, "tanh", kernel="translation", rank=3, random_state=0).fit(X)
    z = np.tanh(X @ translation.centers_.T + translation.offsets_).reshape(30, 6, 3)
    np.testing.assert_allclose(translation.transform(X), z.prod(axis=2), atol=1e-13)
    assert translation.offsets_.std() > 0
    assert translation.get_feature_names_out().shape == (6,)


@pytest.mark.parametrize("dimension", [1, 2, 3, 4, 6])
def test_centers_are_spread(dimension):
    """Means of polynomials over the centres approximate those over the sphere, better than random centres."""
    n = 512
    y = quasi_uniform(n, dimension, np.random.RandomState(0))
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), 1, rtol=1e-12)
    assert np.abs(y.mean(axis=0)).max() < 0.5 / np.sqrt(n)
    assert np.abs(y.T @ y / n - np.eye(dimension) / dimension).max() < 0.5 / np.sqrt(n)


def test_rate_on_the_circle_beats_chance(rng):
    """|x| on S^1 by relu units: the error decreases with their number."""
    angle = rng.uniform(0, 2 * np.pi, 2000)
    X = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    y = np.abs(X[:, 0]) ** 1.5
    errors = []
    for n in (8, 32, 128):
        network = make_pipeline(ZonalFeatures(n, rk.relu_power(1.5), random_state=0), Ridge(1e-10))
        errors.append(np.sqrt(np.mean((network.fit(X[::2], y[::2]).predict(X[1::2]) - y[1::2]) ** 2)))
    assert errors[1] < errors[0] / 4
    assert errors[2] < errors[1] / 4


def test_the_number_of_centers_is_that_of_the_given_ones(rng):
    X = rng.standard_normal((10, 4))
    assert ZonalFeatures().fit(X).centers_.shape == (128, 4)
    for n in (None, 3):
        assert ZonalFeatures(n, centers=np.ones((3, 4))).fit_transform(X).shape == (10, 3)


BAD = [
    ({"n_neurons": 0}, ValueError, "n_neurons"),
    ({"activation": "swish"}, ValueError, "activation"),
    ({"centers": "random"}, ValueError, "centers"),
    ({"centers": np.ones((3, 2))}, ValueError, "centers"),
    ({"n_neurons": 8, "centers": np.ones((3, 4))}, ValueError, "n_neurons"),
    ({"kernel": "radial"}, ValueError, "kernel"),
    ({"rank": 2}, ValueError, "rank"),
    ({"rank": 2, "kernel": "translation", "centers": np.ones((3, 4))}, ValueError, "centers"),
    ({"rotation": np.eye(4)}, ValueError, "rotation"),
    ({"center_dimension": 2}, ValueError, "center_dimension"),
    ({"kernel": "rotated", "rotation": np.eye(3)}, ValueError, "rotation"),
    ({"kernel": "rotated", "center_dimension": 2, "centers": "data"}, ValueError, "centers"),
    ({"projection": "polar"}, ValueError, "projection"),
]


@pytest.mark.parametrize(("parameters", "error", "name"), BAD)
def test_bad_parameters(parameters, error, name, rng):
    with pytest.raises(error, match=f"^{name}: "):
        ZonalFeatures(**parameters).fit(rng.standard_normal((10, 4)))
