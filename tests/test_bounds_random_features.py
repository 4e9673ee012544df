"""Random features on the sphere: expected errors by degree, and the exact error of features drawn."""

import math

import numpy as np
import pytest
import relkernels as rk
from relkernels import MultiLayerRandomFeatures, bounds, nngp_kernel, spectra
from relkernels.bounds import random_units as units


def on_sphere(rng, count, n):
    x = rng.standard_normal((count, n))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def kernel_on_sphere(activation, n, weight_std=2**0.5, bias_std=0.0):
    def profile(t):
        x, y = np.zeros((len(t), n)), np.eye(n)[:1]
        x[:, 0], x[:, 1] = t, np.sqrt(np.maximum(1 - t * t, 0))
        return nngp_kernel(x, y, activation=activation, weight_std=weight_std, bias_std=bias_std)[:, 0]

    return profile


@pytest.mark.parametrize(
    ("activation", "n", "bias"),
    [("relu", 4, 0), ("step", 3, 0), (rk.relu_power(1.5), 3, 0), ("erf", 4, 0), ("silu", 3, 0.5)],
)
def test_parts_of_units_are_eigenvalues_of_their_kernel(activation, n, bias):
    random = units.random_units(units.named(activation), n, 1.3, bias)
    spectrum = spectra.mercer_sphere(kernel_on_sphere(activation, n, 1.3, bias), n, 20)
    np.testing.assert_allclose(random.kernel[:20], spectrum.values, atol=1e-12 * spectrum.trace)
    assert random.trace == pytest.approx(spectrum.trace, rel=1e-10)


def test_one_feature_by_hand():
    # With one relu, degree k keeps 1 - c_k^2 N_k / (N_k E a^2) of its energy: c_1 = 1/6, E a^2 = 1/6 on S^2.
    bound = bounds.random_features_error("relu", 1, math.inf, 1, dimension=3, parts=[0, 2.0])
    assert bound.value == pytest.approx(2 * math.sqrt(1 - (1 / 36) / (1 / 6)))
    # A constant is reproduced if there are biases; a degree that no unit has is left whole.
    assert (
        bounds.random_features_error("erf", 1, math.inf, 9, dimension=3, bias_std=0.3, parts=[5]).value == 0
    )
    assert bounds.random_features_error("relu", 1, math.inf, 99, dimension=3, parts=[0, 0, 0, 1]).value == 1
    # Parts of degrees beyond those computed count in full.
    assert bounds.random_features_error("erf", 1, math.inf, 9, dimension=3, parts=[0] * 300 + [2]).value == 2
    # identity spans the linear functions: a draw keeps at most (1 - 1/n) of what is left of them.
    linear = bounds.random_features_error("identity", 1, math.inf, 2, dimension=4, parts=[0, 1.0])
    assert linear.value == pytest.approx(math.sqrt(9 / 16))
    assert linear.value >= math.sqrt(2 / 4)  # exact: N of n dimensions


def test_expected_errors_are_monotone():
    for activation in ("relu", "tanh"):
        bound = bounds.random_features_error(activation, 1, 2.0, 10, dimension=4)
        curve = bound.curve("n_features", [0, 1, 5, 50, 99, 100, 101, 150, 1000, 10**6])
        assert (np.diff(curve) < 0).all()
        assert bound.details["floor"] <= bound.value
        assert (np.diff(bound.curve("rkhs_norm", [0, 0.5, 2, 4])) > 0).all()
        # The bound of the mean of N draws is larger.
        for width in (1, 16, 1000):
            eps = bounds.random_features_error(activation, 1, 1.0, width, dimension=4).value
            assert bounds.random_features(activation, 1, 1.0, eps, dimension=4).value > width
            few = bounds.random_features(activation, 1, 1.0, eps * (1 + 1e-9), dimension=4, inputs="uniform")
            assert few.value <= width * 1.01
            reached = bounds.random_features_error(activation, 1, 1.0, int(few.value), dimension=4)
            assert reached.value <= eps * 1.001
    # Beyond the degrees computed: the mean of N draws, weight_std^2 (weight_std^2 / 2n) / eps^2.
    assert bounds.random_features("relu", 1, 1.0, 1e-7, dimension=4, inputs="uniform").value == pytest.approx(
        0.5e14, rel=1e-3
    )


def test_layers_are_never_worse_than_zero():
    for activation in ("relu", "erf"):
        parts = [0.1, 0.3]
        bound = bounds.random_features_error(activation, 3, 5.0, 16, dimension=4, parts=parts)
        assert bound.value == pytest.approx(math.hypot(*parts))
        assert "zero" in bound.note
        wide = bounds.random_features_error(activation, 3, 1e-3, 10**9, dimension=4).value
        assert wide < 1e-3
        need = bounds.random_features(activation, 3, 1e-3, wide, dimension=4).value
        assert need == pytest.approx(1e9, rel=1e-6)


@pytest.mark.parametrize(
    ("activation", "n", "bias"), [("relu", 3, 0), ("step", 4, 0), ("erf", 3, 0), ("tanh", 3, 0.4)]
)
def test_the_mean_error_of_draws_is_within_the_bound(activation, n, bias, rng):
    centers, c = on_sphere(rng, 3, n), rng.standard_normal(3)
    for width in (1, 5, 20):
        drawn = []
        for seed in range(12):
            features = MultiLayerRandomFeatures([width], activation, bias_std=bias, random_state=seed).fit(
                centers
            )
            drawn.append(bounds.drawn_features_error(features, centers, c))
        parts, norm = drawn[0].details["parts"], drawn[0].details["rkhs_norm"]
        squares = np.square([d.value for d in drawn])
        noise = 3 * squares.std() / math.sqrt(len(squares))
        options = {"dimension": n, "bias_std": bias}
        by_parts = bounds.random_features_error(activation, 1, math.inf, width, parts=parts, **options).value
        by_norm = bounds.random_features_error(activation, 1, norm, width, **options).value
        assert squares.mean() - noise <= by_parts**2
        assert by_parts <= by_norm * (1 + 1e-9)
        assert by_parts <= drawn[0].details["rms"]
        if width == 1 and bias == 0 and activation in ("relu", "step"):  # where the recursion is exact
            assert squares.mean() + noise >= by_parts**2


@pytest.mark.parametrize(("activation", "bias"), [("relu", 0.0), ("gelu", 0.3)])
def test_the_drawn_error_is_that_of_least_squares_on_many_points(activation, bias, rng):
    centers, c = on_sphere(rng, 4, 3), rng.standard_normal(4)
    features = MultiLayerRandomFeatures([12], activation, bias_std=bias, random_state=1).fit(centers)
    # A product of Gauss rules on S^2.
    height, weights = np.polynomial.legendre.leggauss(80)
    angle = 2 * np.pi * np.arange(160) / 160
    flat = np.sqrt(1 - height**2)
    x = np.stack(
        [np.outer(flat, np.cos(angle)), np.outer(flat, np.sin(angle)), np.outer(height, np.ones(160))],
        axis=-1,
    ).reshape(-1, 3)
    root = np.sqrt(np.repeat(weights, 160) / 320)
    f = nngp_kernel(x, centers, activation=activation, bias_std=bias) @ c * root
    h = features.transform(x) * root[:, None]
    wanted = np.linalg.norm(f - h @ np.linalg.lstsq(h, f, rcond=None)[0])
    found = bounds.drawn_features_error(features, centers, c)
    assert found.value == pytest.approx(wanted, rel=2e-3)
    assert found.details["rms"] == pytest.approx(np.linalg.norm(f), rel=1e-5)
    gram = nngp_kernel(centers, activation=activation, bias_std=bias)
    assert found.details["rkhs_norm"] == pytest.approx(math.sqrt(c @ gram @ c), rel=1e-4)


def test_bad_arguments(rng):
    good = {"kernel": "relu", "depth": 1, "rkhs_norm": 1.0, "n_features": 5, "dimension": 3}
    for changed, name in (
        ({"kernel": "sigma_1"}, "kernel"),
        ({"kernel": "relu", "bias_std": 0.1}, "kernel"),
        ({"kernel": "gelu", "depth": 2}, "kernel"),
        ({"depth": 0}, "depth"),
        ({"n_features": -1}, "n_features"),
        ({"dimension": 501}, "dimension"),
        ({"parts": [[1.0]]}, "parts"),
        ({"parts": [1.0, -1.0]}, "parts"),
        ({"parts": [np.nan]}, "parts"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: "):
            bounds.random_features_error(**{**good, **changed})
    unknown = bounds.random_features_error(**{**good, "rkhs_norm": math.inf})
    assert unknown.value == math.inf
    assert "not known" in unknown.note
    with pytest.raises(ValueError, match=r"^inputs: expected 'any' for more"):
        bounds.random_features("relu", 2, 1.0, 0.1, dimension=3, inputs="uniform")
    x = on_sphere(rng, 2, 3)
    one = MultiLayerRandomFeatures([4], random_state=0).fit(x)
    with pytest.raises(ValueError, match=r"^centers: expected points on the unit sphere, got one of norm 2"):
        bounds.drawn_features_error(one, 2 * x, [1.0, 1.0])
    with pytest.raises(ValueError, match=r"^coefficients: expected 2 finite numbers"):
        bounds.drawn_features_error(one, x, [1.0])
    with pytest.raises(ValueError, match=r"^features: expected one layer, got 2"):
        bounds.drawn_features_error(MultiLayerRandomFeatures([4, 4]).fit(x), x, [1.0, 1.0])
    with pytest.raises(TypeError, match=r"^features: expected MultiLayerRandomFeatures"):
        bounds.drawn_features_error("relu", x, [1.0, 1.0])
