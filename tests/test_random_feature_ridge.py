"""Ridge regression on random features equals scikit-learn's on the same features, for rows in any parts."""

import numpy as np
import pytest
import relkernels as rk
from sklearn.linear_model import Ridge


@pytest.fixture
def data(rng):
    x = rng.standard_normal((700, 4)) + 5
    return x, np.sin(x @ rng.standard_normal((4, 3))) + 100, rng.random(700)


def features(width=50):
    return rk.MultiLayerRandomFeatures((60, width), "erf", bias_std=0.5, random_state=3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("one_target", [True, False])
def test_is_ridge_on_the_features(data, dtype, intercept, weighted, one_target):
    x, y, weights = data
    x, y = x.astype(dtype), y[:, 0] if one_target else y
    weights = weights if weighted else None
    model = rk.RandomFeatureRidge(features(), alpha=0.1, fit_intercept=intercept).fit(x, y, weights)
    made = features().fit(x).transform(x).astype(np.float64)
    ridge = Ridge(0.1, fit_intercept=intercept, solver="cholesky").fit(made, y, weights)
    np.testing.assert_allclose(model.coef_, ridge.coef_, rtol=0, atol=1e-9 * np.abs(ridge.coef_).max())
    np.testing.assert_allclose(model.intercept_, ridge.intercept_, rtol=1e-10)
    np.testing.assert_allclose(model.predict(x), ridge.predict(made), rtol=1e-9)
    assert model.coef_.shape == ridge.coef_.shape
    assert np.ndim(model.intercept_) == (0 if one_target else 1)


def test_rows_may_come_in_any_parts_and_order(data, rng):
    x, y, weights = data
    whole = rk.RandomFeatureRidge(features(), alpha=0.1).fit(x, y, weights)
    parts = rk.RandomFeatureRidge(features(), alpha=0.1)
    for rows in np.array_split(rng.permutation(700), [1, 5, 300, 301]):
        parts.partial_fit(x[rows], y[rows], weights[rows])
    np.testing.assert_allclose(parts.coef_, whole.coef_, rtol=0, atol=1e-9 * np.abs(whole.coef_).max())
    np.testing.assert_allclose(parts.predict(x), whole.predict(x), rtol=1e-10)
    again = parts.fit(x, y, weights)  # starts anew
    np.testing.assert_array_equal(again.coef_, whole.coef_)


def test_many_rows_are_taken_in_turn(data, monkeypatch):
    from relkernels.estimators import ridge

    x, y, _ = data
    whole = rk.RandomFeatureRidge(features()).fit(x, y)
    monkeypatch.setattr(ridge, "_FEATURES", 0)  # 256 rows at a time
    cut = rk.RandomFeatureRidge(features()).fit(x, y)
    np.testing.assert_allclose(cut.coef_, whole.coef_, rtol=0, atol=1e-10 * np.abs(whole.coef_).max())
    np.testing.assert_allclose(cut.predict(x), whole.predict(x), rtol=1e-10)


def test_without_a_penalty_the_shortest_solution(data):
    x, y, _ = data
    x = x - 5
    model = rk.RandomFeatureRidge(features(200), alpha=0.0).fit(x[:40], y[:40])
    np.testing.assert_allclose(model.predict(x[:40]), y[:40], rtol=1e-5)
    made = features(200).fit(x).transform(x[:40])
    shortest = np.linalg.lstsq(made - made.mean(0), y[:40] - y[:40].mean(0))[0]
    np.testing.assert_allclose(np.linalg.norm(model.coef_), np.linalg.norm(shortest), rtol=1e-4)


def test_bad_arguments(data):
    x, y, weights = data
    for model, error, message in [
        (rk.RandomFeatureRidge(Ridge()), TypeError, "features: expected a MultiLayerRandomFeatures"),
        (rk.RandomFeatureRidge(alpha=-1.0), ValueError, "alpha: expected a finite number >= 0"),
        (rk.RandomFeatureRidge(alpha=np.nan), ValueError, "alpha: expected a finite number >= 0"),
        (rk.RandomFeatureRidge(fit_intercept="no"), TypeError, "fit_intercept: expected True or False"),
    ]:
        with pytest.raises(error, match=message):
            model.fit(x, y)
    model = rk.RandomFeatureRidge(features()).fit(x, y)
    with pytest.raises(ValueError, match=r"y: expected targets of shape \(3,\), as before, got \(2,\)"):
        model.partial_fit(x, y[:, :2])
    with pytest.raises(ValueError, match=r"[Ss]ample.weight.*at least one"):
        model.fit(x, y, 0 * weights)
