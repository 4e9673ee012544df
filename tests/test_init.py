"""`init`: fits that start from maps that are given, or constructed."""

import pickle

import numpy as np
import pytest
import relkernels as rk
from relkernels import bounds
from relkernels.estimators.fitting import starts
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

pytestmark = pytest.mark.filterwarnings(f"ignore::{ConvergenceWarning.__module__}.ConvergenceWarning")
GRID = np.linspace(-1, 1, 1001)[:, None]


def gaussian(a, b):
    return np.exp(-2 * np.square(a - b.T))


def tanh(a, b):
    return np.tanh(4 * (b.T - a))


def points(n, dtype=np.float64, seed=0):
    return np.clip(np.random.default_rng(seed).uniform(-1.2, 1.2, (n, 1)), -1, 1).astype(dtype)


def largest_error(model, truth):
    return np.abs(model.relation_matrix(GRID, GRID) - truth(GRID, GRID)).max()


@pytest.mark.parametrize("values", ["kernel", "matrix"])
def test_a_constructed_start_ends_closer_than_the_others(values):
    """32 units: training from elsewhere ends at 0.04 or more."""
    X = points(400)
    y = gaussian if values == "kernel" else gaussian(X, X)
    settings = {"n_features": 16, "solver": "lbfgs", "max_iter": 40, "tol": 1e-12, "random_state": 0}
    built, other = (
        rk.SymmetricRelation((32,), init=init, **settings).fit(X, y) for init in ("constructed", "auto")
    )
    assert largest_error(built, gaussian) <= 0.0048
    assert largest_error(built, gaussian) <= largest_error(other, gaussian)
    assert built.loss_ <= other.loss_
    assert built.phi_.widths == other.phi_.widths == (1, 32, 16)


def test_a_constructed_start_of_two_maps():
    X, Y = points(300), points(200, seed=1)
    settings = {"n_features": 24, "solver": "lbfgs", "max_iter": 40, "tol": 1e-12, "random_state": 0}
    built, other = (
        rk.AsymmetricRelation((24,), init=init, **settings).fit(X, Y, tanh(X, Y))
        for init in ("constructed", "auto")
    )
    assert largest_error(built, tanh) <= min(largest_error(other, tanh), 0.03)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_constructed_map_interpolates(dtype):
    x = points(50, dtype)
    start = rk.MLP.random([1, 10, 14], dtype=dtype)
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    phi = starts.constructed_map(start, x, 3 * x + 1, lambda a, b: gaussian((a - 1) / 3, (b - 1) / 3))
    knots = np.linspace(x.min(), x.max(), 11, dtype=dtype)[:, None]
    assert (phi.widths, phi.dtype) == (start.widths, dtype)
    np.testing.assert_allclose(phi(knots) @ phi(knots).T, gaussian(knots, knots), atol=tolerance)
    rows = starts._knots(x, 10)
    assert len(np.unique(x[rows])) == 11
    assert x[rows[0]] == x.min()
    assert x[rows[-1]] == x.max()
    phi = starts.constructed_map(start, x, x, gaussian(x, x))
    np.testing.assert_allclose(phi(x[rows]) @ phi(x[rows]).T, gaussian(x[rows], x[rows]), atol=tolerance)
    every = starts._knots(np.array([[0.0], [0.01], [0.02], [5.0], [9.0], [9.0]]), 4)
    np.testing.assert_array_equal(every, np.arange(5))


def test_a_given_map_is_the_start():
    count = bounds.neurons("gaussian", 0.1, [(-1, 1)] * 2, max_pairs=0)
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (100, 2)).astype(np.float32)

    def kernel(a, b):
        return np.exp(np.square(a[:, None] - b[None]).sum(axis=2) / -2)

    model = rk.SymmetricRelation(init=count.phi, solver="lbfgs", max_iter=1).fit(X, kernel)
    before = np.square(count.phi(X.astype(float)) @ count.phi(X.astype(float)).T - kernel(X, X)).mean()
    assert model.phi_.widths == count.phi.widths
    assert model.phi_.dtype == np.float32
    assert model.loss_ <= before * 1.001
    copy = pickle.loads(pickle.dumps(clone(model)))
    np.testing.assert_array_equal(copy.init.weights[0], count.phi.weights[0])
    # A fit that is continued does not start again.
    model.set_params(warm_start=True).fit(X, kernel)
    assert model.loss_curve_[0] < before

    pair = rk.MLP.random([2, 3, 4], dtype="float64", bias=False), rk.MLP.random([1, 5, 4], dtype="float64")
    both = rk.AsymmetricRelation((3,), (5,), init=pair, max_iter=1).fit(X, X[:50, :1], np.ones((100, 50)))
    assert (both.phi_.widths, both.psi_.widths) == ((2, 3, 4), (1, 5, 4))


def test_a_model_with_a_given_map_is_saved(tmp_path):
    phi = rk.MLP.random([1, 3, 4], random_state=0, dtype="float64")
    model = rk.SymmetricRelation(init=phi, max_iter=1).fit(points(20), gaussian)
    model.save(tmp_path / "model")
    loaded = rk.SymmetricRelation.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.init.weights[1], phi.weights[1])


X, LABELS = points(40), np.arange(40) % 2
MAP = rk.MLP.random([1, 8, 4], dtype="float64")


@pytest.mark.parametrize(
    ("model", "arguments", "error", "message"),
    [
        (rk.SymmetricRelation(init="built"), (X, gaussian), ValueError, "init: expected .*'constructed'"),
        (rk.SymmetricRelation(init=3), (X, gaussian), TypeError, "init: expected .* an MLP"),
        (rk.AsymmetricRelation(init=MAP), (X, X, gaussian(X, X)), ValueError, "init: expected a pair"),
        (rk.SymmetricRelation(init=(MAP, MAP)), (X, gaussian), ValueError, "init: expected an MLP"),
        (
            rk.AsymmetricRelation(init=(MAP, rk.MLP.random([1, 8, 5]))),
            (X, X, gaussian(X, X)),
            ValueError,
            "init: expected maps with equally many",
        ),
        (rk.SymmetricRelation((9,), init=MAP), (X, gaussian), ValueError, "init: expected .* phi_ fits"),
        (rk.SymmetricRelation(init=MAP, activation="tanh"), (X, gaussian), ValueError, "init: .*tanh"),
        (rk.SymmetricRelation(init="constructed"), (X, LABELS), ValueError, "init: .* without a kernel"),
        (rk.AsymmetricRelation(init="constructed"), (X, X), ValueError, "init: .* without a kernel"),
        (
            rk.SymmetricRelation(init="constructed"),
            (np.tile(X, 2), gaussian),
            ValueError,
            r"init: .* one dense column .* \(40, 2\)",
        ),
        (
            rk.SymmetricRelation((8, 8), init="constructed"),
            (X, gaussian),
            ValueError,
            "hidden_widths: .* one",
        ),
        (
            rk.SymmetricRelation(init="constructed"),
            (X, gaussian(X, X)),
            ValueError,
            "hidden_widths: .* at most",
        ),
        (
            rk.SymmetricRelation((8,), init="constructed", activation="tanh"),
            (X, gaussian),
            ValueError,
            "activation: .* 'relu'",
        ),
        (
            rk.SymmetricRelation((8,), init="constructed", loss="logistic"),
            (X, gaussian),
            ValueError,
            "loss: .* 'squared'",
        ),
        (
            rk.SymmetricRelation((8,), init="constructed", normalize=True),
            (X, gaussian),
            ValueError,
            "normalize: .* False",
        ),
        (
            rk.SymmetricRelation((8,), init="constructed"),
            (np.ones((5, 1)), gaussian),
            ValueError,
            "X: .* two different values",
        ),
    ],
)
def test_bad_arguments(model, arguments, error, message):
    with pytest.raises(error, match=message):
        model.fit(*arguments)
