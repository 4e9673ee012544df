"""`certify`: no search finds an error above the bound, and the bound is close to the largest error."""

import pickle

import numpy as np
import pytest
import relkernels as rk
from relkernels import SymmetricRelation, bounds
from relkernels.bounds.certificates import chords
from relkernels.maps.activations import resolve
from scipy.optimize import minimize
from strategies import ACTIVATIONS, mlp

KERNELS = {
    "gaussian": {"length_scale": 0.7},
    "matern32": {"length_scale": 0.8},
    "laplace": {"length_scale": 1.5},
    "periodic": {"length_scale": 0.9, "period": 1.7},
    "polynomial": {"degree": 3, "offset": 0.5},
}


def kernel(name, a, b, length_scale=1.0, degree=2, offset=1.0, period=2.0):
    """The kernels, as `kernel_norm` defines them."""
    if name == "polynomial":
        return (offset + a @ b.T) ** degree
    h = a[:, None] - b[None]
    rho = np.sqrt(np.square(h).sum(axis=2)) / length_scale
    if name == "gaussian":
        return np.exp(-(rho**2) / 2)
    if name == "matern32":
        return (1 + np.sqrt(3) * rho) * np.exp(-np.sqrt(3) * rho)
    if name == "laplace":
        return np.exp(-rho)
    return np.exp(-2 * np.square(np.sin(np.pi * h / period)).sum(axis=2) / length_scale**2)


def largest_error(error, low, high, rng, n=3000, starts=2):
    """The largest of errors at random points and corners, and after local searches from the worst."""
    z = np.clip(rng.uniform(1.2 * low - 0.2 * high, 1.2 * high - 0.2 * low, (n, len(low))), low, high)
    values = error(z)
    best = float(values.max())
    for i in np.argsort(-values)[:starts]:
        found = minimize(
            lambda t: -float(error(np.clip(t, low, high)[None])[0]),
            z[i],
            method="Nelder-Mead",
            options={"maxfev": 200, "xatol": 1e-9, "fatol": 1e-12},
        )
        best = max(best, -float(found.fun))
    return best


@pytest.mark.parametrize(
    "activation", [*ACTIVATIONS, rk.relu_power(0.5), rk.relu_power(3), rk.leaky_relu(2.0)]
)
def test_an_activation_is_near_its_chord(activation, rng):
    act = resolve(activation)
    identity = rk.MLP([np.ones((1, 1)), np.ones((1, 1))], activation=act)
    for scale in (1e-6, 1e-2, 1.0, 20.0):
        z, t = 3 * rng.standard_normal(300), scale * np.abs(rng.standard_normal(300))
        z[:20], t[20:40] = 0.0, 0.0
        s = np.linspace(-1, 1, 301)[:, None] * t
        values = identity((z + s).reshape(-1, 1)).reshape(s.shape)
        for parabola in (True, False):
            alpha, beta, gamma, kappa = chords.enclose(act, z, t, parabola)
            np.testing.assert_array_less(np.abs(values - alpha - beta * s - gamma * s * s / 2) - kappa, 1e-13)
            assert np.isfinite(kappa).all()
        if act.name == "relu":  # attained
            off = np.abs(values - alpha - beta * s).max(axis=0)
            np.testing.assert_allclose(off, kappa, rtol=0.05, atol=1e-13)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(k, marks=pytest.mark.slow) for k in range(3, 30))]
)
def test_no_search_finds_an_error_above_the_bound(name, seed):
    rng = np.random.default_rng(seed)
    D, d = int(rng.integers(1, 4)), int(rng.integers(1, 5))
    hidden = [int(w) for w in rng.integers(1, 12, rng.integers(0, 3))]
    activation = ACTIVATIONS[int(rng.integers(len(ACTIVATIONS)))]
    phi = mlp(rng, [D, *hidden, d], np.float64, activation)
    psi = None if seed % 2 else mlp(rng, [D, 7, d], np.float64, ACTIVATIONS[seed % len(ACTIVATIONS)])
    low = rng.uniform(-1, 0, D)
    box = np.stack([low, low + rng.uniform(0, 2, D)], axis=1)
    found = bounds.certify(phi, name, box, psi=psi, max_pairs=20_000, **KERNELS[name])

    def error(z):
        x, y = z[:, :D], z[:, D:]
        values = np.array(
            [kernel(name, a[None], b[None], **KERNELS[name])[0, 0] for a, b in zip(x, y, strict=True)]
        )
        return np.abs(values - np.einsum("ni,ni->n", phi(x), (psi or phi)(y)))

    worst = largest_error(error, np.tile(box[:, 0], 2), np.tile(box[:, 1], 2), rng, n=1000)
    assert worst <= found.upper
    at = float(error(np.concatenate(found.at)[None])[0])
    assert at == pytest.approx(found.found, abs=1e-9 * (1 + found.found))
    assert found.found <= found.upper


def gaussian(a, b):
    return kernel("gaussian", a, b, length_scale=0.7)


@pytest.mark.parametrize("promise", [{"lipschitz": 0.87}, {"curvature": 2 / 0.49}])
def test_a_function_with_a_promise(promise, rng):
    phi, psi = (mlp(rng, [d, 6, 3], np.float64) for d in (2, 1))
    box = ([(-1, 1), (0, 1)], [(-0.5, 0.5)])

    def relation(a, b):
        return gaussian(a, np.concatenate([b, b], axis=1))

    # The slope along y is larger by sqrt 2, second derivatives by at most 3 / 2.
    promise = {name: 1.5 * value for name, value in promise.items()}
    coarse, fine = (
        bounds.certify(phi, relation, box, psi=psi, max_pairs=n, **promise) for n in (20_000, 200_000)
    )

    def error(z):
        x, y = z[:, :2], z[:, 2:]
        values = np.array([relation(a[None], b[None])[0, 0] for a, b in zip(x, y, strict=True)])
        return np.abs(values - np.einsum("ni,ni->n", phi(x), psi(y)))

    worst = largest_error(error, np.array([-1, 0, -0.5]), np.array([1, 1, 0.5]), rng, n=1000)
    assert worst <= fine.upper <= coarse.upper
    assert worst <= fine.found + 1e-9
    assert fine.ratio < 1.3
    assert fine.at[0].shape == (2,)
    assert fine.at[1].shape == (1,)


def test_the_error_by_hand():
    # relu(x) - relu(-x) = x; (x y + 1/2)^2 - x y = (x y)^2 + 1/4 <= 5/4.
    phi = rk.MLP([np.array([[1.0, -1.0]]), np.array([[1.0], [-1.0]])])
    found = bounds.certify(phi, "polynomial", [(-1, 1)], degree=2, offset=0.5)
    assert found.found == pytest.approx(1.25, abs=1e-12)
    assert 1.25 <= found.upper <= 1.25 * 1.01
    assert found.certified
    assert np.abs(found.at[0]) == pytest.approx(1)
    # An exact network: the bound tends to 0 with the size of the cells.
    exact = [
        bounds.certify(phi, "polynomial", [(-1, 1)], degree=1, offset=0.0, max_pairs=n)
        for n in (10**4, 10**5)
    ]
    assert all(e.found <= 1e-15 for e in exact)
    assert exact[1].upper < exact[0].upper < 1e-2
    # A point, and a map without hidden units.
    point = bounds.certify(rk.MLP([np.array([[2.0]])]), "gaussian", [(0.5, 0.5)])
    assert point.upper == pytest.approx(0, abs=1e-12)  # 1 - (2 / 2)^2


def test_eps_decides(rng):
    phi = mlp(rng, [1, 8, 2], np.float64)
    whole = bounds.certify(phi, "gaussian", [(-1, 1)])
    above = bounds.certify(phi, "gaussian", [(-1, 1)], eps=1.1 * whole.found)
    assert above.certified
    assert whole.found <= above.upper <= 1.1 * whole.found
    assert above.n_pairs <= whole.n_pairs
    below = bounds.certify(phi, "gaussian", [(-1, 1)], eps=0.9 * whole.found)
    assert not below.certified
    assert below.found > 0.9 * whole.found
    assert "not certified" in str(below)
    # In many dimensions the bound is loose, and says so.
    wide = bounds.certify(
        mlp(rng, [12, 8, 2], np.float64), "gaussian", [(-1, 1)] * 12, eps=0.1, max_seconds=0
    )
    assert not wide.certified
    assert wide.found <= wide.upper < np.inf


def test_the_same_with_one_and_two_threads(rng):
    phi = mlp(rng, [2, 16, 3], np.float64)
    before, found = rk.get_num_threads(), []
    try:
        for n in (1, 2):
            rk.set_num_threads(n)
            found.append(bounds.certify(phi, "gaussian", [(-1, 1)] * 2, max_pairs=50_000))
    finally:
        rk.set_num_threads(before)
    assert found[0].upper == found[1].upper
    assert pickle.loads(pickle.dumps(found[0])).upper == found[0].upper


def test_float32_maps(rng):
    phi = mlp(rng, [1, 16, 4], np.float32)
    found = bounds.certify(phi, "gaussian", [(-1, 1)])
    x = np.linspace(-1, 1, 501, dtype=np.float32)[:, None]
    computed = rk.relation_matrix(x, None, phi).astype(np.float64)
    error = np.abs(computed - kernel("gaussian", x.astype(float), x.astype(float))).max()
    assert error <= found.upper + found.rounding
    assert 0 < found.rounding < 1e-3


def test_an_estimator(rng):
    X = rng.uniform(-3, 5, (60, 1))
    model = SymmetricRelation((8,), n_features=3, solver="lbfgs", max_iter=30, random_state=0)
    model.fit(X, kernel("gaussian", X, X))
    found = bounds.certify(model, "gaussian", [(-3, 5)])
    x = np.linspace(-3, 5, 400)[:, None]
    grid = np.abs(model.relation_matrix(x) - kernel("gaussian", x, x)).max()
    assert grid <= found.upper <= 1.01 * found.found
    assert grid <= found.found + 1e-9


def test_verbose_shows_progress(rng, capsys):
    bounds.certify(mlp(rng, [1, 4, 2], np.float64), "gaussian", [(-1, 1)], verbose=True)
    assert "error at most" in capsys.readouterr().err


def test_a_broken_promise_is_an_error(rng):
    phi = rk.MLP([np.zeros((1, 1))])

    def steep(a, b):
        return np.tanh(50 * (b.T - a))

    with pytest.raises(
        ValueError, match=r"^lipschitz: expected a bound of the slope along x \(1\), got .* at y"
    ):
        bounds.certify(phi, steep, [(-1, 1)], lipschitz=1.0)
    with pytest.raises(ValueError, match=r"^curvature: expected a bound of the second .* at x = \("):
        bounds.certify(phi, lambda a, b: np.abs(a - b.T), [(-1, 1)], curvature=3.0)
    with pytest.raises(ValueError, match=r"^relation: expected finite values, got nan at"):
        bounds.certify(phi, lambda a, b: np.where(a > 0.3, np.nan, a - b.T), [(-1, 1)], lipschitz=1.0)


def test_bad_arguments(rng):
    phi = mlp(rng, [2, 3, 2], np.float64)
    square = [(-1, 1)] * 2
    for box, message in (
        ([(1, -1), (0, 1)], r"^box: expected finite bounds with low <= high, got \(1, -1\) at 0"),
        ([(-1, 1), (0, np.inf)], r"^box: expected finite bounds"),
        ([(-1, np.nan)] * 2, r"^box: expected finite bounds"),
        ([(-1, 1)], r"^box: expected one pair of bounds per input of phi \(2\), got 1"),
        ([], r"^box: "),
        ([(-1, 0, 1)], r"^box: expected pairs of bounds"),
        (3.0, r"^box: "),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            bounds.certify(phi, "gaussian", box)
    broken = rk.MLP([np.array([[np.nan, 1.0]]).T, np.ones((1, 1))])
    with pytest.raises(ValueError, match=r"^phi.weights\[0\]: expected finite numbers, got nan"):
        bounds.certify(broken, "gaussian", square)
    with pytest.raises(TypeError, match=r"^phi: expected an MLP or an estimator.*got str"):
        bounds.certify("phi", "gaussian", square)
    with pytest.raises(TypeError, match=r"^phi: expected an MLP or an estimator with fitted maps"):
        bounds.certify(SymmetricRelation(), "gaussian", square)
    with pytest.raises(ValueError, match=r"^psi: expected 2 features, as phi, got 5"):
        bounds.certify(phi, "gaussian", square, psi=mlp(rng, [2, 5], np.float64))
    with pytest.raises(ValueError, match=r"^relation: expected one of 'gaussian'"):
        bounds.certify(phi, "cosine", square)
    with pytest.raises(ValueError, match=r"^lipschitz: expected a bound of the slope, or curvature.*neither"):
        bounds.certify(phi, gaussian, square)
    with pytest.raises(ValueError, match=r"^curvature: expected a finite number >= 0"):
        bounds.certify(phi, gaussian, square, curvature=-1.0)
    with pytest.raises(ValueError, match=r"^curvature: expected None"):
        bounds.certify(phi, "gaussian", square, curvature=1.0)
    with pytest.raises(TypeError, match=r"^degree: expected a parameter of gaussian \(length_scale\)"):
        bounds.certify(phi, "gaussian", square, degree=2)
    with pytest.raises(ValueError, match=r"^eps: expected a finite number >= 0"):
        bounds.certify(phi, "gaussian", square, eps=-1.0)
    with pytest.raises(ValueError, match=r"^box: expected as many coordinates of x as of y"):
        bounds.certify(phi, "gaussian", (square, [(0, 1)]), psi=mlp(rng, [1, 2], np.float64))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("D", "width", "ratio", "most"),
    [(1, 32, 1.02, 2 * 10**5), (2, 64, 1.15, 3 * 10**6), (3, 64, 2.0, 3 * 10**7)],
)
def test_how_close_the_bound_of_a_fitted_network_is(D, width, ratio, most):
    rng = np.random.default_rng(D)
    X = np.clip(rng.uniform(-1.2, 1.2, (600, D)), -1, 1)
    model = SymmetricRelation(
        (width,), n_features=32, activation="relu", solver="lbfgs", max_iter=200, tol=1e-12, random_state=0
    )
    model.fit(X, kernel("gaussian", X, X))
    found = bounds.certify(model, "gaussian", [(-1, 1)] * D, max_pairs=most)
    assert found.ratio <= ratio
    fresh = np.clip(rng.uniform(-1.2, 1.2, (2000, D)), -1, 1)
    assert np.abs(model.relation_matrix(fresh) - kernel("gaussian", fresh, fresh)).max() <= found.upper


def test_second_order_certifies_small_errors():
    # exp(-h^2 / 2) = E cos(w h), by Gauss-Hermite quadrature of 8 nodes: <phi, phi> is off by 5e-5.
    nodes, weights = np.polynomial.hermite.hermgauss(8)
    w, p = np.sqrt(2) * nodes[4:], 2 * weights[4:] / np.sqrt(np.pi)
    waves, shift = np.concatenate([w, w])[None], np.repeat([0.0, -np.pi / 2], 4)
    phi = rk.MLP([waves, np.diag(np.sqrt(np.concatenate([p, p])))], [shift, np.zeros(8)], "cos")
    square = [(-1, 1)]
    second = bounds.certify(phi, "gaussian", square, max_pairs=50_000)
    assert second.certified
    assert second.found == pytest.approx(4.87e-5, rel=1e-3)
    first = bounds.certify(
        phi, lambda a, b: kernel("gaussian", a, b), square, curvature=2.0, max_pairs=50_000
    )
    assert first.found == pytest.approx(second.found, rel=1e-3)
    assert first.upper > 2 * second.upper
