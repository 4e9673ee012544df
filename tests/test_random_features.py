"""MultiLayerRandomFeatures: known answers of Philox, scikit-learn's checks, convergence to nngp_kernel."""

import pickle

import numpy as np
import pytest
import reference
import relkernels as rk
from relkernels import MultiLayerRandomFeatures, _core
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks
from strategies import DTYPES, lay_out, normal


def philox(counters, key):
    out = np.full_like(counters, 77)
    _core.philox(counters, key, out)
    return out


def test_known_answers():
    """From the generator's authors (Random123, kat_vectors: philox4x32 10)."""
    counters = np.array(
        [[0] * 4, [0xFFFFFFFF] * 4, [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]], np.uint32
    )
    answers = [
        (0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        (2**64 - 1, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (0x299F31D0A4093822, [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]),
    ]
    for counter, (key, answer) in zip(counters, answers, strict=True):
        np.testing.assert_array_equal(philox(counter[None], key)[0], answer)


def test_normal_variates_are_those_of_box_and_muller():
    key, layer = 123456789012345, 3
    w = np.full((10, 37), np.nan)
    _core.random_normals(key, layer, 1, w)
    for k in range(10):
        counters = np.array([[k // 4, j, layer, 1] for j in range(37)], np.uint32)
        words = (philox(counters, key).astype(np.float64) + 0.5) / 2**32
        a, b = words[:, k % 4 // 2 * 2], words[:, k % 4 // 2 * 2 + 1]
        wave = np.cos if k % 2 == 0 else np.sin
        want = np.sqrt(-2 * np.log(a)) * wave(2 * np.pi * b)
        np.testing.assert_allclose(w[k], want, rtol=1e-13, atol=1e-14)
    single = np.empty((10, 37), np.float32)
    _core.random_normals(key, layer, 1, single)
    np.testing.assert_array_equal(single, w.astype(np.float32))


def test_weights_are_normal_and_independent():
    features = MultiLayerRandomFeatures((400, 300), random_state=1).fit(np.zeros((1, 200)))
    for layer, shape in ((0, (200, 400)), (1, (400, 300))):
        w, b = features.weights(layer)
        assert w.shape == shape
        assert b.shape == shape[1:]
        assert stats.kstest(w.ravel(), "norm").pvalue > 1e-3
        for lagged in (w[1:] * w[:-1], w[:, 1:] * w[:, :-1], w[4:] * w[:-4]):
            assert abs(lagged.mean()) < 5 / np.sqrt(lagged.size)
    first = features.weights(0)[0][:200, :300]
    second = features.weights(1)[0][:200]
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 5 / np.sqrt(first.size)


@parametrize_with_checks(
    [MultiLayerRandomFeatures((20,), random_state=0), MultiLayerRandomFeatures((9, 7), "step", 1.0, 0.5)]
)
def test_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["relu", "tanh", "step", rk.relu_power(1.5)])
@pytest.mark.parametrize("widths", [(1,), (33, 7), (5, 100, 65)])
@pytest.mark.parametrize("layout", ["plain", "transposed", "sliced"])
def test_features_are_those_of_the_weights(widths, activation, dtype, layout, rng):
    x = lay_out(normal(rng, (97, 13), dtype), layout)
    features = MultiLayerRandomFeatures(widths, activation, 1.3, 0.4, random_state=5).fit(x)
    h, depth = reference.float64(x), 13
    for layer, width in enumerate(widths):
        w, b = features.weights(layer)
        z = 1.3 * h @ w / np.sqrt(depth) + 0.4 * b
        if activation == "step":
            h = (z > 0) * 1.0
        else:
            name, r = (activation, None) if isinstance(activation, str) else ("relu_power", 1.5)
            h = reference.activation(name, z, r)
        depth = width
    got = features.transform(x)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got[:, -1], dtype(0.4))
    want = 1.3 * h / np.sqrt(depth)
    # A float32 pre-activation near 0 may fall on the other side of a step.
    wrong = np.abs(got[:, :-1] - want) > (1e-5 if dtype == np.float32 else 1e-13) * (1 + np.abs(want))
    assert wrong.mean() <= (
        1e-3 if activation == "step" and len(widths) == 1 else 0.02 * (activation == "step")
    )


def test_a_row_depends_on_itself_alone(rng):
    x = normal(rng, (300, 20), np.float32)
    features = MultiLayerRandomFeatures((500, 300), random_state=0).fit(x)
    whole = features.transform(x)
    before = rk.get_num_threads()
    try:
        for threads in (1, 3):
            rk.set_num_threads(threads)
            np.testing.assert_array_equal(features.transform(x), whole)
    finally:
        rk.set_num_threads(before)
    np.testing.assert_array_equal(features.transform(x[100:101]), whole[100:101])
    np.testing.assert_array_equal(features.transform(x[::-1]), whole[::-1])
    x[5, 3] = np.nan
    out = np.empty((300, 300), np.float32)
    _core.random_features(x, features.key_, [500, 300], "relu", 0.0, 2**0.5, 0.0, out)
    assert np.isnan(out[5]).all()
    np.testing.assert_array_equal(np.delete(out, 5, 0), np.delete(whole, 5, 0))


def test_weights_follow_the_seed_and_are_not_kept(rng):
    x = normal(rng, (10, 6), np.float64)
    a = MultiLayerRandomFeatures((3000, 3000), random_state=7).fit(x)
    assert len(pickle.dumps(a)) < 2000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(a)).transform(x), a.transform(x))
    b = MultiLayerRandomFeatures((3000, 3000), random_state=8).fit(x)
    assert abs(np.corrcoef(a.transform(x).ravel(), b.transform(x).ravel())[0, 1]) < 0.1


@pytest.mark.parametrize(
    ("activation", "depth", "bias_std"), [("relu", 1, 0.0), ("erf", 2, 0.3), ("tanh", 3, 0.1)]
)
def test_gram_matrix_tends_to_nngp_kernel(activation, depth, bias_std, rng):
    """Deviations decay as width^(-1/2): by 4 from width 64 to 1024, within the accuracy of 40 draws."""
    x = normal(rng, (6, 5), np.float64)
    k = rk.nngp_kernel(x, depth=depth, activation=activation, weight_std=1.2, bias_std=bias_std)
    spread, mean = {}, {}
    for width in (64, 1024):
        errors = []
        for seed in range(40):
            features = MultiLayerRandomFeatures([width] * depth, activation, 1.2, bias_std, seed).fit(x)
            f = features.transform(x)
            errors.append(f @ f.T - k)
        spread[width] = np.sqrt(np.mean(np.square(errors)))
        mean[width] = np.abs(np.mean(errors, axis=0)).max()
    assert 3 < spread[64] / spread[1024] < 5.3
    assert mean[1024] < 1.5 * spread[1024]  # about the largest of 21 means, each spread / sqrt(40)


def test_one_layer_has_the_deviation_of_the_theory(rng):
    """Entry by entry, weight_std^2 sqrt(Var[a(u) a(v)] / width): relu at two points, by Monte Carlo."""
    x = normal(rng, (2, 4), np.float64)
    u = rng.standard_normal((4, 500_000))
    products = np.prod(np.maximum(x @ u / 2 * 1.1, 0), axis=0)
    want = 1.21 * products.std() / np.sqrt(200)
    got = []
    for seed in range(300):
        f = MultiLayerRandomFeatures((200,), "relu", 1.1, random_state=seed).fit(x).transform(x)
        got.append(f[0] @ f[1])
    assert np.std(got) == pytest.approx(want, rel=0.2)


@pytest.mark.slow
def test_ridge_behind_it_learns_digits():
    X, y = load_digits(return_X_y=True)
    X = X / 16 - 0.3
    model = make_pipeline(MultiLayerRandomFeatures((1500,), random_state=0), RidgeClassifier(1e-3))
    assert model.fit(X[:1200], y[:1200]).score(X[1200:], y[1200:]) > 0.94


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"widths": ()}, ValueError, "widths: expected at least one layer"),
        ({"widths": (3, 0)}, ValueError, r"widths\[1\]: expected an integer >= 1, got 0"),
        ({"widths": 5}, TypeError, "widths: expected a sequence"),
        ({"activation": "cube"}, ValueError, "activation: expected one of"),
        ({"weight_std": -1.0}, ValueError, "weight_std: expected a number > 0 with a finite variance"),
        ({"bias_std": np.inf}, ValueError, "bias_std: expected a number >= 0 with a finite variance"),
    ],
)
def test_bad_input(options, error, words):
    with pytest.raises(error, match=words):
        MultiLayerRandomFeatures(**options).fit(np.ones((3, 2)))
    with pytest.raises(ValueError, match="layer: expected an integer below 1, got 1"):
        MultiLayerRandomFeatures((3,)).fit(np.ones((3, 2))).weights(1)
