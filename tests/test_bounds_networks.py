"""Bounds on random features, zonal networks and coordinates: by hand, monotone, never exceeded."""

import math

import numpy as np
import pytest
import relkernels as rk
from relkernels import bounds
from relkernels.bounds.funk_hecke import funk_hecke_of_relu_power, gauss_points, n_harmonics
from scipy.integrate import quad
from scipy.special import eval_gegenbauer, eval_legendre, roots_legendre


def assert_sorted(values):
    assert (values[1:] >= values[:-1]).all(), values


# Random features


def test_random_features_by_hand():
    # weight_std^2 S0^2 B^2 / eps^2 = 4 * 9 / 0.25.
    assert bounds.random_features("sin", 1, 3.0, 0.5, dimension=4, weight_std=2.0).value == 144
    # relu: weight_std^2 n q B^2 / eps^2 with q = weight_std^2 / n: 2 * 2 * 1 / 0.01.
    assert bounds.random_features("relu", 1, 1.0, 0.1, dimension=7).value == 400
    # Two layers of cos: D = (1 + 2) / sqrt(N) <= (eps / B)^2 = 1/4, so N = 144.
    assert bounds.random_features("cos", 2, 1.0, 0.5, dimension=3, weight_std=1.0).value == 144
    assert bounds.random_features("relu", 1, 0.0, 0.1, dimension=2).value == 0
    barron = bounds.random_features("erf", 1, 1.0, 0.1, dimension=2, barron_norm=0.5).details
    assert barron["barron"] == 100
    assert bounds.random_features("relu", 2, 1.0, 0.5, dimension=3, decay=4.0).details["fewer"] == "Barron"
    assert bounds.random_features("relu", 2, 1.0, 0.5, dimension=3).details["threshold"] == 3 + 2 / 3


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_random_features_are_monotone(activation):
    for depth in (1, 2, 3):
        bound = bounds.random_features(activation, depth, 2.0, 0.3, dimension=4, weight_std=1.0, bias_std=0.3)
        assert_sorted(bound.curve("rkhs_norm", [0, 0.1, 1, 5, math.inf]))
        assert_sorted(bound.curve("eps", [10, 1, 0.1, 0.01]))
        assert_sorted(bound.curve("weight_std", [0.1, 0.5, 1, 2]))
        assert_sorted(bound.curve("bias_std", [0, 0.5, 2]))
    assert_sorted(bounds.random_features(activation, 2, 1.0, 0.3, dimension=4).curve("depth", [2, 3, 4, 5]))


def arc_cosine(k, w2):
    """Return one layer of the NNGP recursion for relu."""
    norms = np.sqrt(np.diag(k))
    rho = np.clip(k / np.outer(norms, norms), -1, 1)
    theta = np.arccos(rho)
    return w2 * np.outer(norms, norms) * (np.sin(theta) + (math.pi - theta) * rho) / (2 * math.pi)


@pytest.mark.parametrize("depth", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_random_features_are_within_eps(depth, rng):
    """Least squares on random features; the bound is on the mean over draws."""
    w2 = 1.0
    held = 0
    while held < 200:
        n = int(rng.integers(2, 5))
        x = rng.standard_normal((120, n))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        k = w2 * x @ x.T / n
        for _ in range(depth):
            k = arc_cosine(k, w2)
        c = rng.standard_normal(120)
        f, norm = k @ c, math.sqrt(c @ k @ c)
        eps = norm * rng.uniform(0.15, 0.4)
        width = int(bounds.random_features("relu", depth, norm, eps, dimension=n, weight_std=1.0).value)
        if width > 400:
            continue
        features = rk.MLP.random([n] + [width] * depth + [width], "relu", int(rng.integers(2**31)), "f8")
        eye = [*features.weights[:-1], np.eye(width)]
        h = rk.MLP(eye, [np.zeros(width)] * len(eye), "relu")(x)
        error = f - h @ np.linalg.lstsq(h, f, rcond=None)[0]
        assert np.sqrt(np.mean(error**2)) <= eps
        held += 1


def test_bad_random_features():
    good = {"kernel": "relu", "depth": 1, "rkhs_norm": 1.0, "eps": 0.1, "dimension": 3}
    bad = [
        ({"kernel": "gelu"}, "kernel"),
        ({"kernel": "nonsense"}, "kernel"),
        ({"depth": 0}, "depth"),
        ({"rkhs_norm": -1}, "rkhs_norm"),
        ({"eps": 0}, "eps"),
        ({"dimension": 1}, "dimension"),
        ({"weight_std": 0}, "weight_std"),
        ({"bias_std": -1}, "bias_std"),
        ({"barron_norm": -1}, "barron_norm"),
        ({"decay": 0}, "decay"),
    ]
    for changed, name in bad:
        with pytest.raises(ValueError, match=f"^{name}: "):
            bounds.random_features(**{**good, **changed})
    kernel = rk.NNGPKernel(1, "relu", 1.0, 0.5)
    stated = bounds.random_features("relu", 1, 1.0, 0.1, dimension=3, weight_std=1.0, bias_std=0.5)
    assert bounds.random_features(kernel, 1, 1.0, 0.1, dimension=3).value == stated.value
    with pytest.raises(ValueError, match=r"^depth: expected 1 for step"):
        bounds.random_features(**{**good, "kernel": "step", "depth": 2})
    vacuous = bounds.random_features(**{**good, "rkhs_norm": math.inf})
    assert vacuous.value == math.inf
    assert "says nothing" in vacuous.note
    assert bounds.random_features(**good, barron_norm=math.inf).details["fewer"] == "random features"


# Zonal networks


@pytest.mark.parametrize("q", [1, 2, 3, 5])
@pytest.mark.parametrize("r", [0.5, 1, 1.5, 2, 3])
def test_funk_hecke_of_relu_power_is_the_integral(q, r):
    degrees = np.arange(8)
    got = funk_hecke_of_relu_power(r, q, degrees)
    total = quad(lambda u: np.sin(u) ** (q - 1), 0, np.pi)[0]
    for k in degrees:

        def p(t, k=k):
            if q == 1:
                return np.cos(k * np.arccos(t))
            nu = (q - 1) / 2
            return eval_gegenbauer(k, nu, t) / eval_gegenbauer(k, nu, 1.0)

        want = quad(lambda u: np.cos(u) ** r * p(np.cos(u)) * np.sin(u) ** (q - 1), 0, np.pi / 2)[0] / total
        assert got[k] == pytest.approx(want, rel=1e-6, abs=1e-10)
    np.testing.assert_allclose(n_harmonics(2, degrees), 2 * degrees + 1)
    np.testing.assert_allclose(n_harmonics(3, degrees), (degrees + 1) ** 2)
    # Parseval: sum c_k^2 N_k = E G^2 = c_0 of relu^(2r).
    k = np.arange(20000)
    energy = (funk_hecke_of_relu_power(r, q, k) ** 2 * n_harmonics(q, k)).sum()
    assert energy == pytest.approx(funk_hecke_of_relu_power(2 * r, q, np.array([0]))[0], rel=1e-3)


def test_zonal_by_hand():
    # One unit: M = m = 0. 2^-s + (sum_{k>0} c_k^2 N_k)^(1/2) / |c_0|; relu on S^2: c_0 = 1/4, E relu^2 = 1/6.
    want = 0.5 + 4 * math.sqrt(1 / 6 - 1 / 16)
    bound = bounds.zonal(1.0, 2, 1, norm=2.0)
    assert want > 1
    assert bound.value == 2.0  # the zero network is better
    assert "no better than the zero network" in bound.note
    # Three units on the circle: M = 2, m = 1 or 0. relu_power(3): from the coefficients.
    c = funk_hecke_of_relu_power(3.0, 1, np.arange(4000))
    tail = [math.sqrt(2 * (c[t + 1 :] ** 2).sum()) for t in (2, 1)]
    want = min(2.0**-2 + tail[0] / c[0], 3.0**-2 + max(1 / c[0], 2.0**-2 / c[1]) * tail[1])
    assert bounds.zonal(2.0, 1, 3, rk.relu_power(3)).value == pytest.approx(want, rel=1e-6)


def test_zonal_is_monotone():
    for r in (0.5, 1, 2.5):
        bound = bounds.zonal(1.5, 2, 500, rk.relu_power(r))
        assert_sorted(bound.curve("n_neurons", [1, 10, 50, 100, 400, 3000])[::-1])
        assert_sorted(bound.curve("smoothness", [0.25, 0.5, 1, 2, 3])[::-1])
        assert_sorted(bound.curve("norm", [0, 0.5, 1, 7, math.inf]))
        assert_sorted(bound.curve("dimension", [1, 2, 3, 4, 5]))


def product_gauss(degree):
    t, w = roots_legendre(math.ceil((degree + 1) / 2))
    angle = 2 * np.pi * np.arange(degree + 1) / (degree + 1)
    s = np.sqrt(1 - t**2)
    points = [np.stack([s * np.cos(a), s * np.sin(a), t], axis=1) for a in angle]
    return np.concatenate(points), np.tile(w / 2 / (degree + 1), degree + 1)


def test_the_construction_is_within_the_zonal_bound(rng):
    x = rng.standard_normal((600, 3))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    informative = 0
    while informative < 200:
        r = float(rng.choice([0.5, 1.0, 1.5, 2.0, 2.5]))
        s, top = rng.uniform(0.5, 2.5), int(rng.integers(1, 9))
        degree = int(rng.integers(2, 15))
        k = np.arange(top + 1)
        c = funk_hecke_of_relu_power(r, 2, k)
        z = rng.standard_normal((3, 3))
        z /= np.linalg.norm(z, axis=1, keepdims=True)
        coefficients = rng.standard_normal((3, top + 1)) / (1 + k) ** 3
        coefficients[:, c == 0] = 0
        N = 2 * k + 1

        def parts(p, z=z, k=k, N=N, a=coefficients):  # f_k at p, shape (len(p), top + 1)
            return sum(a[i] * N * eval_legendre(k, (p @ z[i])[:, None]) for i in range(3))

        gram = np.stack([N * eval_legendre(k, t) for t in (z @ z.T).ravel()]).reshape(3, 3, -1)
        squares = np.einsum("ik,jk,ijk->k", coefficients, coefficients, gram)
        norm = math.sqrt(((1.0 + k) ** (2 * s) * squares).sum())
        y, w = product_gauss(degree)
        assert len(y) == gauss_points(degree, 2)
        bound = bounds.zonal(s, 2, len(y), rk.relu_power(r), norm=norm)
        m = bound.details["degree"]
        kept = (k <= m) & (c != 0)
        network = np.maximum(x @ y.T, 0) ** r @ (w * (parts(y)[:, kept] / c[kept]).sum(axis=1))
        error = np.sqrt(np.mean((parts(x).sum(axis=1) - network) ** 2))
        if not bound.note:
            assert error <= bound.value * 1.1  # the mean over only 600 random points
            informative += 1


def test_bad_zonal():
    for changed, name in [
        ({"smoothness": 0}, "smoothness"),
        ({"dimension": 0}, "dimension"),
        ({"n_neurons": 0}, "n_neurons"),
        ({"activation": "gelu"}, "activation"),
        ({"norm": -1}, "norm"),
    ]:
        with pytest.raises(ValueError, match=f"^{name}: "):
            bounds.zonal(**{"smoothness": 1.0, "dimension": 2, "n_neurons": 10, **changed})
    assert bounds.zonal(1.0, 2, 10, norm=math.inf).value == math.inf


# Hilbert cube


def test_hilbert_cube_by_hand():
    # Weights 2, 1, 0.5: truncation after two leaves 0.5, half of it 0.25.
    assert bounds.hilbert_cube([2.0, 1.0, 0.5], 1.0, 0.25).value == 2
    assert bounds.hilbert_cube([2.0, 1.0, 0.5], 1.0, 0.2).value == 3
    # sqrt(sum_{k>N} 1/k^2) / 2 <= 0.1: sum <= 0.04, N = 25 (25.5 - 1/24...).
    tails = np.cumsum((1 / np.arange(1, 10**6) ** 2)[::-1])[::-1]
    assert bounds.hilbert_cube("harmonic", 1.0, 0.1).value == np.argmax(tails <= 0.04)
    assert bounds.hilbert_cube("geometric", 1.0, 10.0).value == 0
    assert bounds.hilbert_cube("harmonic", (1.0, 0.5), 1e-6).value == math.inf


def test_hilbert_cube_is_monotone():
    bound = bounds.hilbert_cube("harmonic", 1.0, 0.1)
    assert_sorted(bound.curve("eps", [1, 0.3, 0.1, 0.03, 0.01]))
    assert_sorted(bound.curve("modulus_of_continuity", [0.1, 1, 10]))
    assert_sorted(np.array([bounds.hilbert_cube("geometric", (1.0, a), 0.01).value for a in (1, 0.5, 0.1)]))
    assert_sorted(np.array([bounds.hilbert_cube(w, 1.0, 0.01).value for w in ([0.1] * 9, [0.2] * 9)]))


def test_cutting_costs_no_more_than_the_bound(rng):
    for _ in range(200):
        size = int(rng.integers(1, 40))
        w = rng.uniform(0, 1, size) / np.arange(1, size + 1)
        lipschitz, exponent = rng.uniform(0.1, 3), rng.choice([1.0, 0.5])
        center = rng.random(size)
        eps = 10 ** rng.uniform(-2, 0)
        n = int(bounds.hilbert_cube(w, (lipschitz, exponent), eps).value)

        def target(h, w=w, L=lipschitz, a=exponent, c=center):
            return L * np.linalg.norm(w * (h - c), axis=1) ** a

        h = rng.random((50, size))
        cut = h.copy()
        cut[:, n:] = 0.5
        assert np.abs(target(h) - target(cut)).max() <= eps * (1 + 1e-12)


def test_bad_hilbert_cube():
    for arguments, name in [
        (("geometric", 1.0, 0), "eps"),
        (("linear", 1.0, 0.1), "encoder"),
        (([-1.0], 1.0, 0.1), "encoder"),
        (("geometric", 0.0, 0.1), "modulus_of_continuity"),
        (("geometric", (1.0, 2.0), 0.1), "modulus_of_continuity"),
        (("geometric", lambda t: -1.0, 0.1), "modulus_of_continuity"),
    ]:
        with pytest.raises(ValueError, match=f"^{name}: "):
            bounds.hilbert_cube(*arguments)


def test_zonal_exponents_stop_at_the_smoothness_of_the_activation():
    exponents = [bounds.zonal(s, 2, 100).details for s in (2.0, 2.5, 6.0)]
    assert exponents[0]["derived_exponent"] == pytest.approx(2 / 2 * 1.5 / 2.5)
    assert exponents[1]["derived_exponent"] == exponents[2]["derived_exponent"] == pytest.approx(0.75)
    assert exponents[1]["cited_exponent"] == exponents[2]["cited_exponent"] == pytest.approx(1.25)
    # The value itself decays like that: r = 0.5, s = 6, beyond the saturation at 2.
    bound = bounds.zonal(6.0, 2, 100, rk.relu_power(0.5))
    low, high = bound.curve("n_neurons", [20_000, 80_000])
    assert bound.details["derived_exponent"] == 0.5
    assert math.log(low / high) / math.log(4) == pytest.approx(0.5, abs=0.03)


def test_a_modulus_must_be_subadditive():
    def jump(t):
        return 1.0 if t >= 0.25 else 0.0

    # Objects at (0, 0) and (0, 1) with g = 0, 1 have this modulus, but the same first coordinate.
    with pytest.raises(ValueError, match=r"^modulus_of_continuity: expected a subadditive function"):
        bounds.hilbert_cube([0.5, 0.25], jump, 0.01)
    with pytest.raises(ValueError, match=r"^modulus_of_continuity: expected a subadditive function"):
        bounds.hilbert_cube("geometric", lambda t: t * t, 0.01)
    with pytest.raises(ValueError, match=r"^modulus_of_continuity: expected a nondecreasing function"):
        bounds.hilbert_cube("geometric", lambda t: max(1 - t, 0.75), 0.01)
    for omega in (math.sqrt, lambda t: min(t, 0.1), lambda t: math.log1p(5 * t), lambda t: 0.3 * t):
        bound = bounds.hilbert_cube("geometric", omega, 0.01)
        assert "subadditive" in bound.assumptions[1].text
        assert bound.assumptions[1].checked == "on a grid"


def test_fewer_neurons_by_their_counts():
    bound = bounds.random_features("relu", 1, 50.0, 0.5, dimension=3, barron_norm=0.1, decay=2.87)
    assert bound.details["barron"] == 1 < bound.value
    assert bound.details["fewer"] == "Barron"
    assert bound.details["fewer_asymptotically"] == "random features"
