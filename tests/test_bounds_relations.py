"""Neurons for symmetric and asymmetric relations: by hand, monotone, and sufficient for random networks."""

import math

import numpy as np
import pytest
from relkernels import bounds, spectra
from relkernels.bounds._split import deltas_for
from scipy.optimize import minimize


def test_one_function_by_hand():
    # 2 M d + d^2 = eps with M = 1, eps = 0.21: d = 0.1. N = ceil((4 * 2 * V / d)^2) + 2.
    bound = bounds.symmetric([1.0], 0.21, dimension=1, norm=[0.51])
    assert bound.value == math.ceil((8 * 0.51 / 0.1) ** 2) + 2
    assert bound.details["deltas"][0] == pytest.approx(0.1, rel=1e-9)
    # Barron's theorem in L2: sqrt(lambda) in place of M, (2 rho C / d)^2 neurons.
    barron = bounds.symmetric([1.0], 0.21, dimension=1, norm=[0.51], one_layer="barron", radius=3.0)
    assert barron.value == math.ceil((2 * 3 * 0.51 / 0.1) ** 2)
    # Klusowski & Barron with D = 1: c v max(1, sqrt(log N)) N^(-3/2) <= d at N = 3, not at 2.
    kb = bounds.symmetric([1.0], 0.21, dimension=1, norm=[0.45], one_layer="klusowski-barron")
    assert 0.45 * math.sqrt(math.log(3)) * 3**-1.5 <= 0.1 < 0.45 * 2**-1.5
    assert kb.value == 3
    own = bounds.symmetric([1.0], 0.21, dimension=1, norm=[0.51], one_layer=lambda v, d: 7)
    assert own.value == 7
    # (A + B) d + d^2 = eps with A = B = 1.
    two = bounds.asymmetric([1.0], 0.21, dimensions=(1, 1), norms=([0.51], [0.26]))
    assert two.value == math.ceil(40.8**2) + math.ceil(20.8**2) + 4


def test_the_split_is_the_cheapest(rng):
    for power in (2.0, 4 / 3):
        slopes, costs = rng.uniform(0.1, 2, 5), rng.uniform(0.1, 2, 5)
        deltas = deltas_for(0.3, slopes, costs, power)
        assert (slopes * deltas + deltas**2).sum() == pytest.approx(0.3, rel=1e-9)

        def used(t, s=slopes):
            return (s * np.exp(t) + np.exp(2 * t)).sum()

        found = minimize(
            lambda t, p=power, c=costs: ((c / np.exp(t)) ** p).sum(),
            np.log(np.full(5, 0.01)),
            constraints={"type": "eq", "fun": lambda t, u=used: u(t) - 0.3},
            bounds=[(-10, 1)] * 5,
            options={"maxiter": 500, "ftol": 1e-12},
        )
        assert ((costs / deltas) ** power).sum() <= found.fun * (1 + 1e-6)


def test_kernel_norms_are_moments_of_the_spectral_measure(rng):
    for D in (1, 3):
        z = rng.standard_normal((400_000, D))
        chi = np.sqrt(3 / rng.chisquare(3, 400_000))[:, None]
        for name, w in (("gaussian", z / 0.7), ("matern32", z * chi / 0.7)):
            l1, l2 = np.abs(w).sum(axis=1), np.linalg.norm(w, axis=1)
            norm = bounds.kernel_norm(name, D, length_scale=0.7, norm="barron")
            assert l2.mean() == pytest.approx(norm, rel=0.02)
            v = bounds.kernel_norm(name, D, length_scale=0.7, norm="klusowski-barron")
            # The square of the t distribution with 3 degrees of freedom has no variance: a coarse check.
            assert np.square(l1).mean() == pytest.approx(v, rel=0.02 if name == "gaussian" else 0.2)
            assert bounds.kernel_norm(name, D, length_scale=0.7) == 2 * v
    # Periodic: v = -k''(0) in one dimension, by finite differences.
    h = 1e-4
    second = -(2 * math.exp(-2 * math.sin(math.pi * h / 2) ** 2 / 0.25) - 2) / h**2
    assert bounds.kernel_norm("periodic", 1, length_scale=0.5, norm="klusowski-barron") == pytest.approx(
        second, rel=1e-5
    )
    # (1 + x y)^2: q'' = 2 y^2, over [-1, 1] with y = 1.
    assert bounds.kernel_norm("polynomial", 1, degree=2) == pytest.approx(4.0)
    assert bounds.kernel_norm("polynomial", 1, degree=1) == 0
    for D, p, c in ((1, 3, 2.0), (2, 3, 1.0), (3, 4, 0.5), (2, 5, 0.0)):
        z = np.linspace(-1, 1, 400_001)
        total = np.abs(np.diff(p * D * (c + D * z) ** (p - 1))).sum()
        assert bounds.kernel_norm("polynomial", D, degree=p, offset=c) == pytest.approx(total, rel=1e-6)


def assert_sorted(values):
    assert (values[1:] >= values[:-1]).all(), values


@pytest.mark.parametrize("one_layer", ["variation", "barron", "klusowski-barron"])
def test_monotone_in_every_argument(one_layer):
    spectrum = 0.5 ** np.arange(12)
    start = {"eps": 0.1, "dimension": 2, "norm": 1.0, "one_layer": one_layer}

    def value(**changed):
        return bounds.symmetric(spectrum, **{**start, **changed}).value

    assert_sorted(bounds.symmetric(spectrum, **start).curve("eps", [1, 0.3, 0.1, 0.03, 0.01]))
    assert_sorted(bounds.symmetric(spectrum, **start).curve("norm", [0, 0.1, 1, 10, np.inf]))
    assert_sorted(np.array([value(eigenfunction_sup=h) for h in (0.5, 1, 1.5, 2)]))
    assert_sorted(np.array([value(rest=t) for t in (0, 0.001, 0.01, 0.05, 0.2)]))
    if one_layer != "klusowski-barron":  # its exponent 1/2 + 1/D depends on the dimension
        assert_sorted(np.array([value(dimension=D) for D in (1, 2, 3, 8)]))
    assert_sorted(np.array([value(radius=t) for t in (0.5, 1, 2)]))
    assert_sorted(np.array([value(constant=t) for t in (0.5, 1, 2)]))

    two = {"dimensions": (2, 1), "norms": (1.0, 2.0), "one_layer": one_layer}
    bound = bounds.asymmetric(spectrum, 0.1, **two)
    assert_sorted(bound.curve("eps", [1, 0.3, 0.1, 0.03, 0.01]))
    assert_sorted(bound.curve("norms", [(0, 0.1), (0.1, 0.1), (0.1, 1), (3, 1), (3, np.inf)]))
    assert_sorted(
        np.array([bounds.asymmetric(spectrum, 0.1, **two, function_sup=h).value for h in (0.5, 1, 2)])
    )
    assert_sorted(np.array([bounds.asymmetric(spectrum, 0.1, **two, rest=t).value for t in (0, 0.01, 0.2)]))


class Ridge:
    """A function sum_k c_k relu(w_k.x - b_k) with ||w||_1 <= 1, |b| <= 1, and networks drawn from it."""

    def __init__(self, rng, D, size):
        w = rng.standard_normal((6, D))
        self.w = w / np.abs(w).sum(axis=1, keepdims=True)
        self.b = rng.uniform(-1, 1, 6)
        c = rng.standard_normal(6)
        self.c = size * c / np.abs(c).sum()

    @property
    def variation(self):
        return np.abs(self.c).sum()

    def __call__(self, x, c=None):
        return np.maximum(x @ self.w.T - self.b, 0) @ (self.c if c is None else c)

    def drawn(self, rng, n, x):
        counts = rng.multinomial(int(n), np.abs(self.c) / self.variation)
        return self(x, self.variation / n * counts * np.sign(self.c))


def test_drawn_networks_are_within_eps_symmetric(rng):
    for _ in range(200):
        D, d = int(rng.integers(1, 4)), int(rng.integers(2, 5))
        x = rng.uniform(-1, 1, (60, D))
        functions = [Ridge(rng, D, s) for s in 2.0 ** -np.arange(d)]
        functions.sort(key=lambda g: -np.abs(g(x)).max())
        G = np.stack([g(x) for g in functions], axis=1)
        sup = np.abs(G).max(axis=0)
        if sup[-1] == 0:
            continue
        eps = 10 ** rng.uniform(-2, 0) * sup[0] ** 2
        bound = bounds.symmetric(sup**2, eps, dimension=D, norm=[g.variation for g in functions])
        kept = bound.details["rank"]
        F = np.zeros((len(x), 0))
        if kept:
            counts = bound.details["neurons"]
            drawn = [g.drawn(rng, n - 2, x) for g, n in zip(functions, counts, strict=False)]
            F = np.stack(drawn, axis=1)
        assert np.abs(G @ G.T - F @ F.T).max() <= eps


def test_drawn_networks_are_within_eps_asymmetric(rng):
    for _ in range(200):
        d = int(rng.integers(1, 4))
        x, y = rng.uniform(-1, 1, (40, 2)), rng.uniform(-1, 1, (50, 3))
        a = [Ridge(rng, 2, s) for s in 2.0 ** -np.arange(d)]
        b = [Ridge(rng, 3, s) for s in 2.0 ** -np.arange(d)]
        pairs = sorted(
            zip(a, b, strict=True), key=lambda p: -max(np.abs(p[0](x)).max(), np.abs(p[1](y)).max())
        )
        A = np.stack([f(x) for f, _ in pairs], axis=1)
        B = np.stack([g(y) for _, g in pairs], axis=1)
        sup = np.maximum(np.abs(A).max(axis=0), np.abs(B).max(axis=0))
        eps = 10 ** rng.uniform(-2, 0) * sup[0] ** 2
        norms = [f.variation for f, _ in pairs], [g.variation for _, g in pairs]
        bound = bounds.asymmetric(sup**2, eps, dimensions=(2, 3), norms=norms)
        kept = bound.details["rank"]
        F, G = np.zeros((40, kept)), np.zeros((50, kept))
        for i in range(kept):
            F[:, i] = pairs[i][0].drawn(rng, bound.details["neurons"][0][i] - 2, x)
            G[:, i] = pairs[i][1].drawn(rng, bound.details["neurons"][1][i] - 2, y)
        assert np.abs(A @ B.T - F @ G.T).max() <= eps


def test_eigenfunctions_inherit_the_norm_of_the_kernel(rng):
    """Mercer's functions of a kernel on points are mixtures of sections, which bounds their norm."""
    x = rng.uniform(-1, 1, (50, 1))

    def kernel(a, b):
        return np.exp(-((a - b.T) ** 2) / 2)

    bound = bounds.symmetric(kernel, 0.2, dimension=1, norm=bounds.kernel_norm("gaussian", 1), points=x)
    values, vectors = np.linalg.eigh(kernel(x, x))
    values, vectors = values[::-1] / 50, vectors[:, ::-1] * np.sqrt(50)
    grid = np.linspace(-1, 1, 4001)
    for i in range(bound.details["rank"]):
        g = kernel(grid[:, None], x) @ vectors[:, i] / 50 / np.sqrt(values[i])
        variation = np.abs(np.diff(np.diff(g) / np.diff(grid))).sum()  # int |g''| in one dimension
        assert variation <= bound.details["norms"][i] * (1 + 1e-6)
    assert "smallest eigenvalue" in str(bound)


def test_a_vacuous_bound_is_infinite_and_says_so():
    norm = bounds.kernel_norm("laplace", 2)
    assert "infinite" in bounds.symmetric([1.0, 0.5], 0.1, dimension=2, norm=norm).note
    assert bounds.symmetric([1.0, 0.5], 0.1, dimension=2, norm=norm).value == math.inf
    assert bounds.asymmetric([1.0], 0.1, dimensions=(1, 1), norms=(norm, 1.0)).value == math.inf
    short = bounds.symmetric([1.0], 0.1, dimension=1, norm=1.0, rest=0.5)
    assert short.value == math.inf
    assert "leave a tail of 0.5" in short.note
    assert bounds.symmetric([0.01], 0.1, dimension=1, norm=1.0).value == 0  # the zero function suffices


def indefinite(a, b):
    return np.abs(a - b.T)


BAD = [
    (([1.0], 0.0), {}, "eps"),
    (([1.0], -1.0), {}, "eps"),
    (([0.5, 1.0], 0.1), {}, "kernel: expected decreasing values, got 0.5 before 1"),
    (([1.0, -0.1], 0.1), {}, "kernel: expected values >= 0, got the smallest is -0.1"),
    (([np.nan], 0.1), {}, "kernel: expected finite"),
    (([], 0.1), {}, "kernel"),
    (([1.0], 0.1), {"norm": -1}, "norm"),
    (([1.0], 0.1), {"norm": [1.0, 2.0]}, "norm: expected 1 values"),
    (([1.0], 0.1), {"dimension": 0}, "dimension"),
    (([1.0], 0.1), {"one_layer": "bach"}, "one_layer"),
    (([1.0], 0.1), {"rest": -1}, "rest"),
    (([1.0], 0.1), {"eigenfunction_sup": 0}, "eigenfunction_sup"),
    ((indefinite, 0.1), {}, "points: expected points"),
    ((indefinite, 0.1), {"points": np.eye(3)[:, :1]}, "kernel: .*smallest eigenvalue is -1.41"),
    ((lambda a, b: a + 0 * b.T, 0.1), {"points": np.eye(3)[:, :1]}, "kernel: .*differ by 1"),
    ((lambda a, b: a, 0.1), {"points": np.eye(3)[:, :1]}, r"kernel.*\(3, 3\).*\(3, 1\)"),
]


@pytest.mark.parametrize(
    ("arguments", "changed", "message"), BAD, ids=[b[2] + str(i) for i, b in enumerate(BAD)]
)
def test_bad_arguments(arguments, changed, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        bounds.symmetric(*arguments, **{"dimension": 1, "norm": 1.0, **changed})


def test_bad_arguments_of_asymmetric():
    with pytest.raises(ValueError, match=r"^points: expected a pair"):
        bounds.asymmetric(indefinite, 0.1, dimensions=(1, 1), norms=(1, 1), points=np.eye(3))
    with pytest.raises(ValueError, match=r"^norms: expected a pair"):
        bounds.asymmetric([1.0], 0.1, dimensions=(1, 1), norms=1.0)
    with pytest.raises(ValueError, match=r"^norms\[1\]: expected 1 values"):
        bounds.asymmetric([1.0], 0.1, dimensions=(1, 1), norms=(1.0, [1.0, 2.0]))


def test_no_symmetric_network_is_below_the_floor(rng):
    for _ in range(200):
        n = int(rng.integers(1, 8))
        r = rng.standard_normal((n, n))
        F = rng.standard_normal((n, n)) * rng.uniform(0, 2)
        if rng.random() < 0.5:  # the best in L2: the positive part of the symmetric part
            values, vectors = np.linalg.eigh((r + r.T) / 2)
            F = vectors * np.sqrt(np.maximum(values, 0))
        error = r - F @ F.T
        assert bounds.symmetric_floor(r).value <= np.abs(error).max() + 1e-12
        l2 = bounds.symmetric_floor(r, "l2").value
        assert l2 <= np.sqrt((error**2).mean()) + 1e-12
    assert l2 >= 0
    with pytest.raises(ValueError, match="values: expected a square"):
        bounds.symmetric_floor(np.ones((2, 3)))


def test_spectra_are_taken_as_they_come(rng):
    x = rng.uniform(-1, 1, (40, 2))

    def kernel(a, b):
        return np.exp(-np.square(a[:, None] - b[None]).sum(axis=2))

    options = {"dimension": 2, "norm": 3.0}
    whole = bounds.symmetric(kernel, 0.1, points=x, **options)
    assert bounds.symmetric(spectra.mercer(kernel, x), 0.1, **options).value == whole.value
    # A part of the spectrum has a larger tail, never a smaller count.
    assert bounds.symmetric(spectra.mercer(kernel, x, k=25), 0.1, **options).value >= whole.value
    short = spectra.mercer(kernel(x, x), k=5)
    with pytest.raises(ValueError, match=r"^kernel: expected a spectrum with its kernel"):
        bounds.symmetric(short, 0.1, **options)

    def skew(a, b):
        return a[:, :1] - b[:, 1:].T

    two = {"dimensions": (2, 2), "norms": (1.0, 1.0)}
    want = bounds.asymmetric(skew, 0.3, points=(x, x), **two).value
    assert bounds.asymmetric(spectra.schmidt(skew, x, x), 0.3, **two).value == pytest.approx(want, rel=1e-6)
    with pytest.raises(ValueError, match=r"^relation: expected a spectrum of all 40"):
        bounds.asymmetric(spectra.schmidt(skew, x, x, k=3), 0.3, **two)


def test_a_spectrum_on_the_sphere_by_hand():
    """1 + 2t on S^2: eigenvalue 1 once, 2/3 three times; two thirds of the mass in the last degree kept."""
    sphere = spectra.mercer_sphere(lambda t: 1 + 2 * t, 3, 3)
    bound = bounds.symmetric(sphere, 1.0, dimension=3, norm=[0.1, 1.0, 1.0, 1.0])
    assert bound.details["rank"] == 4  # fewer of degree 1 leave a tail of up to 2
    assert bounds.symmetric(sphere, 2.5, dimension=3, norm=[0.1, 1.0, 1.0, 1.0]).details["rank"] == 1
    np.testing.assert_allclose(bound.details["sup"], np.sqrt([1, 2, 2, 2]))
    assert bound.details["tail"] == pytest.approx(0, abs=1e-12)


def test_kernel_norms_agree_with_those_of_spectra():
    for D in (1, 2, 5):
        first = spectra.barron_norm_gaussian(0.6, D)
        second = spectra.barron_norm_gaussian(0.6, D, order=2, norm=1)
        assert bounds.kernel_norm("gaussian", D, length_scale=0.6, norm="barron") == pytest.approx(
            float(first)
        )
        v = bounds.kernel_norm("gaussian", D, length_scale=0.6, norm="klusowski-barron")
        assert v == pytest.approx(float(second))


def test_the_floor_in_l2_is_attained(rng):
    r = rng.standard_normal((6, 6))
    values, vectors = np.linalg.eigh((r + r.T) / 2)
    F = vectors * np.sqrt(np.maximum(values, 0))
    floor = bounds.symmetric_floor(r, "l2").value
    assert floor == pytest.approx(np.sqrt(((r - F @ F.T) ** 2).mean()), rel=1e-12)
