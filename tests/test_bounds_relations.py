"""Neurons for symmetric and asymmetric relations: by hand, monotone, and sufficient for random networks."""

import math

import numpy as np
import pytest
from relkernels import bounds, spectra
from relkernels.bounds._split import deltas_for
from scipy.optimize import minimize


def test_one_function_by_hand():
    # 2 M d + d^2 = eps with M = 1, eps = 0.21: d = 0.1. N = ceil((4 * 2 * V / d)^2) + 2.
    bound = bounds.symmetric([1.0], 0.21, dimension=1, norm=[0.51], eigenfunction_sup=1)
    assert bound.value == math.ceil((8 * 0.51 / 0.1) ** 2) + 2
    assert bound.details["deltas"][0] == pytest.approx(0.1, rel=1e-9)
    # Barron's theorem in L2: sqrt(lambda) in place of M, (2 rho C / d)^2 neurons.
    barron = bounds.symmetric([1.0], 0.21, dimension=1, norm=[0.51], one_layer="barron", radius=3.0)
    assert barron.value == math.ceil((2 * 3 * 0.51 / 0.1) ** 2)
    # Klusowski & Barron with D = 1: c v max(1, sqrt(log N)) N^(-3/2) <= d at N = 3, not at 2.
    one = {"dimension": 1, "eigenfunction_sup": 1}
    kb = bounds.symmetric([1.0], 0.21, norm=[0.45], one_layer="klusowski-barron", **one)
    assert 0.45 * math.sqrt(math.log(3)) * 3**-1.5 <= 0.1 < 0.45 * 2**-1.5
    assert kb.value == 3
    own = bounds.symmetric([1.0], 0.21, norm=[0.51], one_layer=lambda v, d: 7, **one)
    assert own.value == 7
    # (A + B) d + d^2 = eps with A = B = 1.
    norms = [0.51], [0.26]
    two = bounds.asymmetric([1.0], 0.21, dimensions=(1, 1), norms=norms, function_sup=1)
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
    start = {"eps": 0.1, "dimension": 2, "norm": 1.0, "one_layer": one_layer, "eigenfunction_sup": 1.0}

    def value(**changed):
        return bounds.symmetric(spectrum, **{**start, **changed}).value

    assert_sorted(bounds.symmetric(spectrum, **start).curve("eps", [1, 0.3, 0.1, 0.03, 0.01]))
    assert_sorted(bounds.symmetric(spectrum, **start).curve("norm", [0, 0.1, 1, 10, np.inf]))
    assert_sorted(np.array([value(eigenfunction_sup=h) for h in (1, 1.5, 2)]))
    assert_sorted(np.array([value(rest=t) for t in (0, 0.001, 0.01, 0.05, 0.2)]))
    if one_layer != "klusowski-barron":  # its exponent 1/2 + 1/D depends on the dimension
        assert_sorted(np.array([value(dimension=D) for D in (1, 2, 3, 8)]))
    assert_sorted(np.array([value(radius=t) for t in (0.5, 1, 2)]))
    assert_sorted(np.array([value(constant=t) for t in (0.5, 1, 2)]))

    two = {"dimensions": (2, 1), "norms": (1.0, 2.0), "one_layer": one_layer, "function_sup": 1.0}
    bound = bounds.asymmetric(spectrum, 0.1, **two)
    assert_sorted(bound.curve("eps", [1, 0.3, 0.1, 0.03, 0.01]))
    assert_sorted(bound.curve("norms", [(0, 0.1), (0.1, 0.1), (0.1, 1), (3, 1), (3, np.inf)]))
    for argument, values in (("function_sup", (1, 1.5, 2)), ("rest", (0, 0.01, 0.2))):
        changed = [bounds.asymmetric(spectrum, 0.1, **{**two, argument: v}).value for v in values]
        assert_sorted(np.array(changed))


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
        norms = [g.variation for g in functions]
        bound = bounds.symmetric(sup**2, eps, dimension=D, norm=norms, eigenfunction_sup=1)
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
        bound = bounds.asymmetric(sup**2, eps, dimensions=(2, 3), norms=norms, function_sup=1)
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
    vacuous = bounds.symmetric([1.0, 0.5], 0.1, dimension=2, norm=norm, eigenfunction_sup=1)
    assert "infinite" in vacuous.note
    assert vacuous.value == math.inf
    two = {"dimensions": (1, 1), "function_sup": 1}
    assert bounds.asymmetric([1.0], 0.1, norms=(norm, 1.0), **two).value == math.inf
    one = {"dimension": 1, "norm": 1.0, "eigenfunction_sup": 1}
    short = bounds.symmetric([1.0], 0.1, rest=0.5, **one)
    assert short.value == math.inf
    assert "leave a tail of 0.5" in short.note
    assert bounds.symmetric([0.01], 0.1, **one).value == 0  # the zero function suffices


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
    (([1.0], 0.1), {"eigenfunction_sup": 0.9}, "eigenfunction_sup: expected at least 1"),
    (([1.0], 0.1), {"eigenfunction_sup": None}, "eigenfunction_sup: expected a bound"),
    (([1.0], 0.1), {"section_gap": 0.1}, "section_gap: expected None unless points"),
    ((indefinite, 0.1), {"points": [[50.0], [0.0]]}, "points: expected points in .*, got a coordinate of 50"),
    ((indefinite, 0.1), {"points": np.zeros((3, 5))}, r"points: expected shape \(n, 1\)"),
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
        bounds.symmetric(*arguments, **{"dimension": 1, "norm": 1.0, "eigenfunction_sup": 1, **changed})


def test_bad_arguments_of_asymmetric():
    with pytest.raises(ValueError, match=r"^points: expected a pair"):
        bounds.asymmetric(indefinite, 0.1, dimensions=(1, 1), norms=(1, 1), points=np.eye(3))
    with pytest.raises(ValueError, match=r"^norms: expected a pair"):
        bounds.asymmetric([1.0], 0.1, dimensions=(1, 1), norms=1.0)
    with pytest.raises(ValueError, match=r"^norms\[1\]: expected 1 values"):
        bounds.asymmetric([1.0], 0.1, dimensions=(1, 1), norms=(1.0, [1.0, 2.0]), function_sup=1)


def test_hypotheses_are_checked_on_the_arguments(rng):
    with pytest.raises(ValueError, match=r"^function_sup: expected a bound"):
        bounds.asymmetric([1.0], 0.1, dimensions=(1, 1), norms=(1.0, 1.0))
    with pytest.raises(ValueError, match=r"^points\[1\]: expected points in"):
        bounds.asymmetric(
            lambda a, b: a - b.T, 0.1, dimensions=(1, 1), norms=(1.0, 1.0), points=([[0.0]], [[2.0]])
        )
    sphere = spectra.mercer_sphere(lambda t: 1 + t, 3, 2)
    with pytest.raises(ValueError, match=r"^dimension: expected 3"):
        bounds.symmetric(sphere, 0.1, dimension=1, norm=1.0)
    far = spectra.mercer(lambda a, b: 1 + a @ b.T, np.array([[-50.0], [50.0]]))
    with pytest.raises(ValueError, match=r"^points: expected points in"):
        bounds.symmetric(far, 0.1, dimension=1, norm=1.0)
    # k = 0.6 cos(pi x) cos(pi y) has the eigenvalue 0.3 and an eigenfunction of sup sqrt(2), not 1.
    cosine = bounds.symmetric([0.3], 0.4, dimension=1, norm=10.0, eigenfunction_sup=2**0.5)
    assert cosine.value > 0
    assert "at most 1.414" in str(cosine)
    assert bounds.symmetric([0.3], 0.2, dimension=1, norm=10.0, one_layer="barron").value > 0  # none needed
    # The constant of this theorem is not known, which the quantity says.
    options = {"dimension": 1, "norm": 10.0, "eigenfunction_sup": 2**0.5, "one_layer": "klusowski-barron"}
    assert "if the theorem's constant" in bounds.symmetric([0.3], 0.4, **options).quantity


def test_what_holds_on_the_points_only_says_so():
    x = np.random.default_rng(0).uniform(-1, 1, (3, 10))

    def linear(a, b):
        return 1 + a @ b.T

    # Six relus cannot represent a relation of rank 11 on the cube, only on these three points.
    bound = bounds.symmetric(linear, 0.1, dimension=10, norm=0.0, points=x)
    assert bound.quantity == "neurons that suffice on the 3 points given"
    both = bounds.asymmetric(linear, 0.1, dimensions=(10, 10), norms=(0.0, 0.0), points=(x, x))
    assert both.quantity == "neurons that suffice, both maps on the 3 x 3 points given"


@pytest.mark.parametrize(
    ("name", "D", "n", "scale"),
    [("gaussian", 1, 30, 0.5), ("matern32", 1, 60, 1.0), ("laplace", 1, 100, 1.0), ("gaussian", 2, 300, 1.0)],
)
def test_suprema_and_tails_extended_to_the_cube(name, D, n, scale):
    """The tail of the functions of a sample, over the cube: above the sample's, at most the bound."""
    rng = np.random.default_rng(n)
    x = rng.uniform(-1, 1, (n, D))
    kernel = KERNELS[name](scale)
    gap = bounds.section_gap(name, x, length_scale=scale)
    grid = rng.uniform(-1, 1, (3000, D))
    grid[: 2**D] = np.stack(np.meshgrid(*[[-1, 1]] * D), axis=-1).reshape(-1, D)
    found = spectra.mercer(kernel, x)
    nearest = np.sqrt(np.maximum(2 - 2 * kernel(grid, x).max(axis=1), 0)).max()
    assert nearest <= gap * (1 + 1e-9)
    assert gap <= 1.3 * nearest
    g = kernel(grid, x) @ found.vectors[:, :6] / n / np.sqrt(found.values[:6])
    sample = bounds._symmetric.mercer_of(found)
    cube = sample.on_cube(gap)
    exceeded = 0
    for d in (0, 1, 3, 6):
        tail = (1 - (g[:, :d] ** 2).sum(axis=1)).max()
        assert tail <= cube.tails[d] + 1e-9
        exceeded += tail > sample.tails[d] * (1 + 1e-6)
    assert exceeded
    assert (np.abs(g).max(axis=0) <= cube.sup[:6] + 1e-9).all()
    options = {"dimension": D, "norm": 10.0, "points": x}
    narrow, wide = (bounds.symmetric(kernel, 0.5, section_gap=w, **options) for w in (None, gap))
    assert narrow.value <= wide.value
    assert narrow.quantity.endswith(f"on the {n} points given")
    assert wide.quantity == "neurons that suffice"


KERNELS = {
    "gaussian": lambda s: lambda a, b: np.exp(-np.square(a[:, None] - b).sum(axis=2) / (2 * s * s)),
    "laplace": lambda s: lambda a, b: np.exp(-np.sqrt(np.square(a[:, None] - b).sum(axis=2)) / s),
    "matern32": lambda s: (
        lambda a, b: (1 + 3**0.5 * np.abs(a - b.T) / s) * np.exp(-(3**0.5) * np.abs(a - b.T) / s)
    ),
}


def test_section_gaps_by_hand():
    # 51 points 0.04 apart: no point is farther than 0.02.
    x = np.linspace(-1, 1, 51)[:, None]
    got = bounds.section_gap("gaussian", x, length_scale=0.5)
    assert 0.02 <= got / 2 * (1 + 1e-3) <= 0.0203
    assert bounds.section_gap("laplace", [[0.0]]) == pytest.approx(math.sqrt(2 - 2 / math.e), rel=0.01)
    assert bounds.section_gap("periodic", x, period=1.0) >= math.sqrt(
        2 - 2 * math.exp(-2 * math.sin(0.02 * math.pi) ** 2)
    )
    assert bounds.section_gap("gaussian", np.zeros((1, 12))) <= math.sqrt(2)
    with pytest.raises(ValueError, match=r"^points: expected points in"):
        bounds.section_gap("gaussian", [[1.5]])
    with pytest.raises(ValueError, match=r"^kernel: "):
        bounds.section_gap("polynomial", x)


def test_degrees_that_were_not_computed_count():
    """1e-6 (1 + 3t) + 101 P_50(t): two degrees say nothing of the third of the norm that is all of it."""

    def profile(t):
        return 1e-6 * (1 + 3 * t) + 101 * np.polynomial.legendre.legval(t, np.eye(51)[50])

    sphere = spectra.mercer_sphere(profile, 3, 2)
    assert sphere.squared_norm == pytest.approx(101, rel=1e-9)
    bound = bounds.symmetric(sphere, 0.5, dimension=3, norm=1.0, one_layer="barron")
    assert bound.value == math.inf
    assert "leave a tail of 10.05" in bound.note
    old = spectra.SphereSpectrum(3, sphere.values, sphere.multiplicities, sphere.trace)
    assert bounds.symmetric(old, 0.5, dimension=3, norm=1.0, one_layer="barron").value == math.inf
    smooth = spectra.mercer_sphere(np.exp, 3, 12)
    assert smooth.squared_norm == pytest.approx((smooth.values**2 * smooth.multiplicities).sum(), rel=1e-12)


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


def test_the_floor_of_indefinite_relations():
    """Relations whose diagonal is >= 0 and which no <phi, phi> comes near to."""
    x = np.linspace(-1, 1, 41)
    gap = np.abs(x[:, None] - x)
    assert bounds.symmetric_floor(-gap).value == pytest.approx(1.0)  # attained by phi(x) = x
    assert np.abs(-gap - np.outer(x, x)).max() <= 1 + 1e-12
    assert bounds.symmetric_floor(-(gap**2)).value == pytest.approx(2.0)
    root = bounds.symmetric_floor(-np.sqrt(gap))
    assert root.value > 0.75  # two points give 0.707, the best matrix 0.899
    assert root.details["statement"] == "eigenvector"
    # Two points by hand: s(x,x) + s(y,y) - 2 s(x,y) >= 0.
    assert bounds.symmetric_floor([[0.5, 2.0], [2.0, 0.5]]).value == pytest.approx((4 - 1) / 4)
    # The antisymmetric part adds: at weights 1/4 each, errors 2 + (0, 1, 1, 0).
    assert bounds.symmetric_floor([[-1.0, 4.0], [2.0, -1.0]]).value == pytest.approx((6 + 2 + 2) / 4)


def test_the_floor_against_fitted_matrices(rng):
    """Descend on the largest error of F F' directly: never below the floor, and near to it for few points."""
    nearest = []
    for _ in range(6):
        n = int(rng.integers(2, 6))
        r = rng.standard_normal((n, n))
        floor = bounds.symmetric_floor(r).value

        def soft(f, p, r=r, n=n):
            F = f.reshape(n, n)
            e = r - F @ F.T
            size = np.abs(e)
            value = (size**p).mean() ** (1 / p)
            g = (size / value) ** (p - 1) * np.sign(e) / size.size
            return value, -((g + g.T) @ F).ravel()

        best = np.inf
        for _ in range(2):
            f = rng.standard_normal(n * n)
            for p in (2, 8, 32, 64):
                f = minimize(soft, f, args=(p,), jac=True, options={"maxiter": 100}).x
            best = min(best, np.abs(r - f.reshape(n, n) @ f.reshape(n, n).T).max())
        assert floor <= best + 1e-12
        nearest.append(floor / best)
    assert np.median(nearest) > 0.7
