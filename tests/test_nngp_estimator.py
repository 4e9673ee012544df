"""NNGPKernel in scikit-learn's Gaussian processes: values, diagonal, gradients, hyperparameters."""

import numpy as np
import pytest
import relkernels as rk
from relkernels import NNGPKernel
from sklearn.base import clone
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.gaussian_process.kernels import WhiteKernel

KERNELS = [
    NNGPKernel(),
    NNGPKernel(3, "erf", 1.5, 0.4),
    NNGPKernel(2, "softplus", 1.1, 0.3),
    NNGPKernel(2, rk.relu_power(1.5), 0.9, 0.0),
    NNGPKernel(2, "gelu", 1.2, 0.2, weight_std_bounds="fixed"),
    NNGPKernel(0, "relu", 1.2, 0.2),
]


@pytest.mark.parametrize("kernel", KERNELS)
def test_values_and_diagonal(kernel, rng):
    x, y = rng.standard_normal((20, 3)), rng.standard_normal((8, 3))
    options = {
        "depth": kernel.depth, "activation": kernel.activation, "weight_std": kernel.weight_std,
        "bias_std": kernel.bias_std,
    }  # fmt: skip
    np.testing.assert_array_equal(kernel(x), rk.nngp_kernel(x, **options))
    np.testing.assert_array_equal(kernel(x, y), rk.nngp_kernel(x, y, **options))
    np.testing.assert_allclose(kernel.diag(x), np.diag(kernel(x)), rtol=1e-13)
    assert not kernel.is_stationary()


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients_against_differences(kernel, rng):
    x = rng.standard_normal((12, 3))
    x[1], x[3] = x[0], -x[2]
    k, gradient = kernel(x, eval_gradient=True)
    np.testing.assert_array_equal(k, kernel(x))
    assert gradient.shape == (12, 12, len(kernel.theta))
    for i in range(len(kernel.theta)):
        step = np.zeros(len(kernel.theta))
        step[i] = 1e-5
        up, down = (kernel.clone_with_theta(kernel.theta + s * step)(x) for s in (1, -1))
        # The difference quotient itself has an error of 1e-10.
        np.testing.assert_allclose(gradient[:, :, i], (up - down) / 2e-5, rtol=1e-8, atol=1e-9)


def test_gradients_of_relu_in_closed_form(rng):
    """K(1) = b^2 + w^2 E(K(0)) with b = 0 is w^4 times its value at w = 1."""
    x = rng.standard_normal((10, 4))
    k, gradient = NNGPKernel(1, "relu", 1.7, 0.0)(x, eval_gradient=True)
    np.testing.assert_allclose(gradient[:, :, 0], 4 * k, rtol=1e-10, atol=1e-10)
    k, gradient = NNGPKernel(0, "relu", 1.7, 0.6)(x, eval_gradient=True)
    np.testing.assert_allclose(gradient[:, :, 0], 0.72, rtol=1e-10, atol=1e-10)  # bias_std comes first
    np.testing.assert_allclose(gradient[:, :, 1], 2 * (k - 0.36), rtol=1e-10, atol=1e-10)


def test_hyperparameters():
    kernel = NNGPKernel(2, "erf", 1.5, 0.4, (0.1, 10.0), (0.01, 1.0))
    assert [p.name for p in kernel.hyperparameters] == ["bias_std", "weight_std"]
    np.testing.assert_allclose(kernel.theta, np.log([0.4, 1.5]))
    np.testing.assert_allclose(kernel.bounds, np.log([[0.01, 1.0], [0.1, 10.0]]))
    moved = kernel.clone_with_theta(np.log([0.5, 2.0]))
    assert (moved.bias_std, moved.weight_std) == pytest.approx((0.5, 2.0))
    assert clone(kernel) == kernel
    assert clone(kernel) is not kernel
    assert [p.name for p in NNGPKernel(bias_std=0.0).hyperparameters if not p.fixed] == ["weight_std"]
    assert repr(kernel) == "NNGPKernel(depth=2, activation='erf', weight_std=1.5, bias_std=0.4)"
    assert (kernel + WhiteKernel()).theta.shape == (3,)


@pytest.mark.slow
def test_a_gaussian_process_finds_its_hyperparameters(rng):
    x = rng.standard_normal((60, 2))
    true = NNGPKernel(2, "erf", 2.0, 0.5)
    y = rng.multivariate_normal(np.zeros(60), true(x) + 1e-4 * np.eye(60))
    process = GaussianProcessRegressor(NNGPKernel(2, "erf", 1.0, 0.1), alpha=1e-4).fit(x, y)
    assert process.log_marginal_likelihood_value_ >= process.log_marginal_likelihood(true.theta) - 1e-6
    start = process.log_marginal_likelihood(NNGPKernel(2, "erf", 1.0, 0.1).theta)
    assert process.log_marginal_likelihood_value_ > start
    np.testing.assert_allclose(process.predict(x), y, atol=0.05)
    _, gradient = process.log_marginal_likelihood(process.kernel_.theta, eval_gradient=True)
    assert np.abs(gradient).max() < 0.1


def test_a_classifier_takes_it(rng):
    x = rng.standard_normal((80, 2))
    labels = (x[:, 0] * x[:, 1] > 0).astype(int)
    fitted = GaussianProcessClassifier(NNGPKernel(2, "relu", 2.0, 0.3), optimizer=None).fit(x, labels)
    assert fitted.score(x, labels) > 0.9


def test_bad_input():
    with pytest.raises(ValueError, match="eval_gradient: expected False where Y is given"):
        NNGPKernel()(np.ones((2, 2)), np.ones((2, 2)), eval_gradient=True)
    with pytest.raises(ValueError, match="depth: expected an integer >= 0, got -1"):
        NNGPKernel(-1)(np.ones((2, 2)))
