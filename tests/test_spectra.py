"""Spectra and norms of functions against hand-computed and closed-form cases."""

import math

import numpy as np
import pytest
import relkernels as rk
from relkernels import spectra
from relkernels.spectra import points as on_points
from scipy import integrate, special
from scipy.sparse.linalg import aslinearoperator
from strategies import normal


def gauss(a, b):
    return np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / 2)


# ---- operators -----------------------------------------------------------------------------------


def test_kernel_operator_in_blocks(rng, monkeypatch):
    from relkernels.spectra import operators

    monkeypatch.setattr(operators, "_BLOCK_VALUES", 70)
    x, y = normal(rng, (23, 2), np.float64), normal(rng, (10, 2), np.float64)
    operator, matrix = spectra.kernel_operator(gauss, x, y), gauss(x, y)
    v, u = rng.standard_normal(10), rng.standard_normal((23, 2))
    np.testing.assert_allclose(operator @ v, matrix @ v, rtol=1e-13)
    np.testing.assert_allclose(operator.rmatmat(u), matrix.T @ u, rtol=1e-12, atol=1e-13)


# ---- Mercer and Schmidt on points ----------------------------------------------------------------


@pytest.mark.slow
def test_mercer_of_brownian_motion():
    """min(s, t) on [0, 1]: eigenvalues 1 / (pi (i - 1/2))^2, functions sqrt(2) sin(pi (i - 1/2) t)."""
    x = (np.arange(1500) + 0.5)[:, None] / 1500
    spectrum = spectra.mercer(lambda a, b: np.minimum(a, b.T), x)
    i = np.arange(1, 8)
    np.testing.assert_allclose(spectrum.values[:7], 1 / (np.pi * (i - 0.5)) ** 2, rtol=1e-4)
    assert spectrum.trace == pytest.approx(0.5)
    assert spectrum.tail(0) == pytest.approx(0.5)
    assert spectrum.tail(3) == pytest.approx(0.5 - spectrum.values[:3].sum())
    at = np.array([[0.123], [0.77]])
    want = np.sqrt(2) * np.sin(np.pi * (i - 0.5) * at)
    got = spectrum.functions(at)[:, :7]
    np.testing.assert_allclose(np.abs(got), np.abs(want), atol=1e-2)
    # Nystrom's extension at the points themselves returns the eigenvectors.
    np.testing.assert_allclose(spectrum.functions(x)[:, :7], spectrum.vectors[:, :7], atol=1e-9)
    np.testing.assert_allclose((spectrum.vectors**2).mean(axis=0), 1)
    assert str(spectrum).startswith("Mercer spectrum of 1500 points: 1500 of 1500 eigenvalues [0.4053, ")


def test_lanczos_finds_what_the_matrix_has(rng, monkeypatch):
    x = normal(rng, (120, 3), np.float64)
    whole = spectra.mercer(gauss, x)
    monkeypatch.setattr(on_points, "_DENSE", 60)
    part = spectra.mercer(gauss, x, 12)
    np.testing.assert_allclose(part.values, whole.values[:12], rtol=1e-9)
    assert part.trace == pytest.approx(whole.trace)
    np.testing.assert_allclose(np.abs(part.functions(x[:5])), np.abs(whole.vectors[:5, :12]), atol=1e-6)
    operator = rk.as_linear_operator(x, link="exp", scale=0.3)
    r = np.exp(0.3 * x @ x.T)
    np.testing.assert_allclose(
        spectra.mercer(operator, k=6).values, np.linalg.eigvalsh(r)[::-1][:6] / 120, rtol=1e-9
    )
    one = spectra.mercer(gauss, x, 12)
    np.testing.assert_array_equal(one.vectors, part.vectors)


def test_rounding_of_float32_is_no_negative_eigenvalue(rng, monkeypatch):
    x = normal(rng, (200, 2), np.float32)

    def kernel(a, b):
        return rk.nngp_kernel(a, b, depth=2, activation="erf")

    assert np.linalg.eigvalsh(kernel(x, x).astype(float))[0] < -1e-9  # its own rounding
    whole = spectra.mercer(kernel, x)
    assert (whole.values >= 0).all()
    assert spectra.rkhs_norm(kernel, x[:, 0], x).rank < 100
    monkeypatch.setattr(on_points, "_DENSE", 100)
    np.testing.assert_allclose(spectra.mercer(kernel, x, 5).values, whole.values[:5], rtol=1e-4)


def test_the_matrix_of_many_points_is_never_formed():
    """6,000 points in float32 through the relation's operator: a matrix of 144 MB would be noticed."""
    import tracemalloc

    x = np.random.default_rng(0).standard_normal((6000, 4)).astype(np.float32)
    tracemalloc.start()
    spectrum = spectra.mercer(rk.as_linear_operator(x), k=4)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6
    np.testing.assert_allclose(
        spectrum.values, np.linalg.eigvalsh(x.T.astype(float) @ x)[::-1] / 6000, rtol=1e-4
    )


@pytest.mark.slow
def test_schmidt_of_order():
    """[s < t] on [0, 1]: singular values 1 / (pi (i - 1/2))."""
    x = (np.arange(1000) + 0.5)[:, None] / 1000
    spectrum = spectra.schmidt(lambda a, b: (a < b.T) * 1.0, x)
    i = np.arange(1, 8)
    np.testing.assert_allclose(spectrum.values[:7], 1 / (np.pi * (i - 0.5)), rtol=5e-3)
    assert spectrum.squared_norm == pytest.approx(0.4995)
    product = spectrum.left * spectrum.values @ spectrum.right.T
    np.testing.assert_allclose(product, x < x.T, atol=1e-10)
    cut = (spectrum.left[:, :20] * spectrum.values[:20]) @ spectrum.right[:, :20].T
    assert spectrum.tail(20) == pytest.approx(np.sqrt(((cut - (x < x.T)) ** 2).mean()), rel=1e-9)


def test_schmidt_by_products(rng, monkeypatch):
    x, y = normal(rng, (150, 3), np.float64), normal(rng, (130, 3), np.float64)
    whole = spectra.schmidt(gauss, x, y)
    np.testing.assert_allclose(spectra.schmidt(gauss(x, y)).values, whole.values)
    monkeypatch.setattr(on_points, "_DENSE", 100)
    part = spectra.schmidt(gauss, x, y, 9)
    np.testing.assert_allclose(part.values, whole.values[:9], rtol=1e-9)
    np.testing.assert_allclose(np.abs(part.left), np.abs(whole.left[:, :9]), atol=1e-6)
    np.testing.assert_allclose(np.abs(part.right), np.abs(whole.right[:, :9]), atol=1e-6)
    assert math.isnan(spectra.schmidt(aslinearoperator(gauss(x, y)), k=3).squared_norm)


def test_rkhs_norm_of_kernel_sections(rng):
    """f = sum_j a_j k(., z_j) has the norm sqrt(a K a)."""
    x = normal(rng, (40, 2), np.float64)
    a, z = rng.standard_normal(5), x[:5]
    f = gauss(x, z) @ a
    exact = np.sqrt(a @ gauss(z, z) @ a)
    found = spectra.rkhs_norm(gauss, f, x)
    assert found.value == pytest.approx(exact, rel=1e-6)
    assert found.residual < 1e-10
    assert float(spectra.rkhs_norm(gauss, f[5:20], x[5:20])) <= exact * (1 + 1e-9)
    linear = spectra.rkhs_norm(x @ x.T, x @ np.array([3.0, 4.0]))  # norm of x -> <x, w> is |w|
    assert linear.value == pytest.approx(5)
    assert linear.rank == 2
    assert spectra.rkhs_norm(x @ x.T, x[:, 0] ** 2).residual > 0.1


# ---- the sphere ----------------------------------------------------------------------------------


def test_multiplicities():
    assert [spectra.multiplicity(2, k) for k in range(4)] == [1, 2, 2, 2]
    assert [spectra.multiplicity(4, k) for k in range(4)] == [1, 4, 9, 16]
    for n in (2, 3, 5, 8):  # all polynomials of degree <= K on the sphere
        for top in (1, 3, 6):
            total = math.comb(n + top - 1, n - 1) + math.comb(n + top - 2, n - 1)
            assert sum(spectra.multiplicity(n, k) for k in range(top + 1)) == total


@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_funk_hecke_of_harmonics_and_exponentials(n):
    """t^2 = 1/n + (t^2 - 1/n); exp(s t) has modified Bessel functions, Gegenbauer's formula."""
    squares = spectra.funk_hecke(lambda t: t * t, n, 5)
    np.testing.assert_allclose(squares, [1 / n, 0, 2 / (n * (n + 2)), 0, 0], atol=1e-14)
    s, k = 1.7, np.arange(10)
    want = special.gamma(n / 2) * (2 / s) ** (n / 2 - 1) * special.iv(k + n / 2 - 1, s)
    np.testing.assert_allclose(spectra.funk_hecke(lambda t: np.exp(s * t), n, 10), want, atol=1e-14)


def arccosine(depth, dtype=np.float64):
    def profile(t):
        x = np.column_stack([t, np.sqrt(np.maximum(1 - t * t, 0))]).astype(dtype)
        return rk.nngp_kernel(x, np.array([[1.0, 0.0]]), depth=depth)[:, 0]

    return profile


@pytest.mark.parametrize("n", [2, 3, 5])
def test_arccosine_is_the_square_of_relu(n):
    """E[relu(wx) relu(wy)] over w on the sphere: its eigenvalues are the squares of those of relu(t)."""
    relu = spectra.funk_hecke(lambda t: np.maximum(t, 0), n, 30, breaks=[0.0])
    spectrum = spectra.mercer_sphere(arccosine(1), n, 30)
    # |w|^2 has mean n for a normal w; weight_std^2 is 2 for K(1), and 2 / D = 1 for K(0) in the plane.
    np.testing.assert_allclose(spectrum.values, 2 * n * relu**2, atol=2e-14)
    assert spectrum.trace == pytest.approx(1)
    head = float(spectrum.values @ spectrum.multiplicities)
    assert 0 < 1 - head < 0.02
    assert spectrum.tail(30) == pytest.approx(1 - head)
    expanded = spectrum.expanded(n + 2)
    np.testing.assert_allclose(expanded[1 : n + 1], spectrum.values[1])
    assert (np.diff(expanded) <= 0).all()


@pytest.mark.slow
def test_points_on_the_sphere_tend_to_the_exact_spectrum(rng):
    x = rng.standard_normal((1500, 3))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    exact = spectra.mercer_sphere(lambda t: np.exp(t - 1), 3, 8)
    on_sample = spectra.mercer(lambda a, b: np.exp(a @ b.T - 1), x)
    np.testing.assert_allclose(on_sample.values[:9], exact.expanded(9), rtol=0.12)


# ---- decay ---------------------------------------------------------------------------------------


def test_laws_are_recovered():
    k = np.arange(1.0, 60)
    power = spectra.fit_decay(5 * k**-2.5, "auto")
    assert (power.kind, power.first, power.last) == ("power", 1, 59)
    assert power.rate == pytest.approx(2.5)
    assert power.constant == pytest.approx(5)
    np.testing.assert_allclose(power.predict(k), 5 * k**-2.5)
    exponential = spectra.fit_decay(2 * np.exp(-0.3 * k), "auto", first=5, last=30)
    assert (exponential.kind, exponential.first, exponential.last) == ("exponential", 5, 30)
    assert exponential.rate == pytest.approx(0.3)
    degrees = spectra.fit_decay((k[::2] + 3) ** -4.0, indices=k[::2] + 3)
    assert degrees.rate == pytest.approx(4)


def test_the_interval_covers(rng):
    """Independent errors in the logarithm: the interval covers the rate with the stated confidence."""
    k, hits = np.arange(1.0, 41), 0
    for _ in range(400):
        values = np.sort(np.exp(-1.5 * np.log(k) + 0.1 * rng.standard_normal(40)))[::-1]
        # Sorting would bias a wide error; with this one it hardly changes the order.
        low, high = spectra.fit_decay(values, confidence=0.9, last=12).interval
        hits += low <= 1.5 <= high
    assert 0.8 < hits / 400 <= 0.99


# ---- Barron norms --------------------------------------------------------------------------------


def test_samples_of_trigonometric_polynomials():
    n, side = 32, 2.0
    x = np.arange(n) * side / n
    w = 2 * np.pi / side
    f = 1.5 + np.cos(3 * w * x)[:, None] * np.sin(2 * w * x) + 0.5 * np.cos(w * x)
    # cos(a) sin(b) is half of two waves of frequency (3w, +-2w)
    for order in (0, 1, 2):
        for norm, length in ((1, 5 * w), (2, math.sqrt(13) * w)):
            want = length**order + 0.5 * w**order + (1.5 if order == 0 else 0)
            got = spectra.barron_norm(f, side / n, order=order, norm=norm)
            assert got.value == pytest.approx(want)
            assert got.tail == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("order", "norm"), [(0, 2), (1, 1), (1, 2), (2, 1), (2, 2)])
def test_gaussians_three_ways(order, norm):
    """Closed form, samples and transform agree; and with a brute-force moment."""
    closed = spectra.barron_norm_gaussian(0.8, 2, amplitude=-1.3, order=order, norm=norm).value
    x = (np.arange(256) - 128) * 0.1
    f = -1.3 * np.exp(-(x[:, None] ** 2 + x**2) / (2 * 0.64))
    assert spectra.barron_norm(f, 0.1, order=order, norm=norm).value == pytest.approx(closed, rel=4e-3)

    def transform(r):
        return 1.3 * 0.64 / (2 * np.pi) * np.exp(-0.32 * r * r)

    found = spectra.barron_norm_fourier(transform, 2, order=order, norm=norm).value
    assert found == pytest.approx(closed, rel=1e-9)


@pytest.mark.parametrize(("order", "norm"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_gaussians_of_unequal_widths(order, norm, rng):
    scale = np.array([0.5, 1.0, 3.0])
    w = rng.standard_normal((400_000, 3)) / scale
    length = np.abs(w).sum(1) if norm == 1 else np.linalg.norm(w, axis=1)
    closed = spectra.barron_norm_gaussian(scale, order=order, norm=norm).value
    error = (length**order).std() / np.sqrt(len(w))
    assert abs((length**order).mean() - closed) < 5 * error
    if norm == 2 and order == 1:
        equal = spectra.barron_norm_gaussian([0.7, 0.7, 0.7 + 1e-9]).value
        assert equal == pytest.approx(spectra.barron_norm_gaussian(0.7, 3).value, rel=1e-8)


def test_eigenfunctions_of_a_torus():
    x = np.arange(64) * (2 * np.pi / 64)
    f = 2 * np.cos(3 * x + 0.4) - 0.7 * np.sin(5 * x)
    closed = spectra.barron_norm_trigonometric(np.array([[3.0], [5.0]]), np.array([2.0, 0.7]), order=2)
    assert closed.value == pytest.approx(2 * 9 + 0.7 * 25)
    assert closed.source == "closed form"
    assert spectra.barron_norm(f, x[1], order=2).value == pytest.approx(closed.value)
    twice = spectra.barron_norm_trigonometric(np.array([[1.0], [-1.0]]), np.array([1.0, 1.0]))
    assert "bound" in twice.source


def test_eigenfunctions_of_a_gaussian_kernel_are_bounded():
    """The bound against the integral of the transform of the eigenfunction itself."""
    x = np.linspace(-2, 2, 60)[:, None]
    spectrum = spectra.mercer(gauss, x)
    kernel = spectra.barron_norm_gaussian(1.0, 1, order=2)
    for i in range(4):
        bound = spectra.barron_norm_eigenfunction(spectrum.vectors[:, i], spectrum.values[i], kernel)
        assert bound.order == 2

        def size(w, i=i):
            waves = (spectrum.vectors[:, i] * np.exp(-1j * w * x[:, 0])).mean() / spectrum.values[i]
            return w * w * abs(waves) * np.exp(-w * w / 2) / np.sqrt(2 * np.pi)

        exact = 2 * integrate.quad(size, 0, 12, limit=200)[0]
        assert exact <= bound.value <= 300 * exact


def test_divergence_is_infinite():
    def laplace(w):
        return 1 / (np.pi * (1 + w * w))

    assert spectra.barron_norm_fourier(laplace, order=0).value == pytest.approx(1)
    assert spectra.barron_norm_fourier(laplace, order=1).value == math.inf
    matern = spectra.barron_norm_fourier(lambda w: 2 / (np.pi * (1 + w * w) ** 2), order=1)
    assert matern.value == pytest.approx(2 / np.pi, rel=1e-8)
    assert spectra.barron_norm_fourier(lambda w: 2 / (np.pi * (1 + w * w) ** 2), order=2).value == (
        pytest.approx(1, rel=1e-6)
    )


# ---- bad input -----------------------------------------------------------------------------------

X = np.arange(4.0)[:, None]
BAD = [
    (lambda: spectra.mercer(np.diag([2.0, -0.5])), ValueError, "kernel.*smallest eigenvalue is -0.5"),
    (lambda: spectra.mercer(lambda a, b: -a @ b.T, X), ValueError, "smallest eigenvalue is -14"),
    (lambda: spectra.mercer(np.array([[1.0, 0.2], [0.0, 1.0]])), ValueError, "symmetric.*differ by 0.2"),
    (lambda: spectra.mercer(np.ones((2, 3))), ValueError, r"kernel.*square.*\(2, 3\)"),
    (lambda: spectra.mercer(np.eye(2) * np.nan), ValueError, "kernel.*finite"),
    (lambda: spectra.mercer(lambda a, b: a, X), ValueError, r"kernel.*\(4, 4\).*\(4, 1\)"),
    (lambda: spectra.mercer(gauss), ValueError, "x: expected points"),
    (lambda: spectra.mercer(gauss, X * np.inf), ValueError, "x: expected finite"),
    (lambda: spectra.mercer(gauss, X[:, 0]), ValueError, r"x:.*\(4,\)"),
    (lambda: spectra.mercer(gauss, X, 5), ValueError, "k: expected at most 4, got 5"),
    (lambda: spectra.mercer(np.eye(2)).functions(X), ValueError, "functions: expected.*callable"),
    (lambda: spectra.mercer(aslinearoperator(np.diag([3.0, 1, -2, 0]))), ValueError, "eigenvalue is -2"),
    (lambda: spectra.schmidt(np.ones(3)), ValueError, r"relation.*\(3,\)"),
    (lambda: spectra.schmidt(gauss), ValueError, "x: expected points"),
    (lambda: spectra.rkhs_norm(np.diag([1.0, -1.0]), np.ones(2)), ValueError, "smallest eigenvalue is -1"),
    (lambda: spectra.rkhs_norm(aslinearoperator(np.eye(2)), np.ones(2)), ValueError, "linear operator"),
    (lambda: spectra.rkhs_norm(np.eye(2), np.ones(3)), ValueError, r"f: expected 2 values.*\(3,\)"),
    (
        lambda: spectra.mercer_sphere(lambda t: -t, 3, 4),
        ValueError,
        "smallest eigenvalue is -0.333.*degree 1",
    ),
    (lambda: spectra.funk_hecke(np.cos, 1, 4), ValueError, "dimension: expected an integer >= 2, got 1"),
    (lambda: spectra.funk_hecke(np.cos, 3, 4, breaks=[1.0]), ValueError, "breaks: expected"),
    (lambda: spectra.funk_hecke(lambda t: t / 0, 3, 4), ValueError, "profile: expected finite"),
    (lambda: spectra.fit_decay(np.array([3.0, 2, -1])), ValueError, "values: expected finite.*-1"),
    (lambda: spectra.fit_decay(np.array([3.0, 1, 2])), ValueError, "values.*largest first, got 1 before 2"),
    (lambda: spectra.fit_decay(np.array([3.0, 2])), ValueError, "values: expected at least 3"),
    (lambda: spectra.fit_decay(np.array([3.0, 2, 1, 0])), ValueError, "0 at 4 .set last=3."),
    (lambda: spectra.fit_decay(np.array([3.0, 2, 1]), "linear"), ValueError, "kind: expected one of"),
    (lambda: spectra.fit_decay(np.array([3.0, 2, 1]), confidence=1), ValueError, "confidence: expected"),
    (lambda: spectra.barron_norm(np.ones(1), 1.0), ValueError, "samples: expected a grid"),
    (lambda: spectra.barron_norm(np.ones(8), -1.0), ValueError, "spacing: expected finite numbers > 0"),
    (lambda: spectra.barron_norm(np.ones(8), 1.0, order=3), ValueError, "order: expected 0, 1 or 2, got 3"),
    (lambda: spectra.barron_norm_gaussian(1.0), ValueError, "dimension: expected"),
    (lambda: spectra.barron_norm_gaussian([1.0, 0.0]), ValueError, "scale: expected finite numbers > 0"),
    (lambda: spectra.barron_norm_trigonometric(np.ones((2, 1)), np.ones(3)), ValueError, "amplitudes: exp"),
    (lambda: spectra.barron_norm_eigenfunction(np.ones(3), 0.0, 1.0), ValueError, "value: expected.*> 0"),
    (lambda: spectra.barron_norm_fourier(3), TypeError, "transform: expected a callable, got int"),
    (lambda: rk.as_linear_operator(X, link="cube"), ValueError, "link: expected one of"),
    (lambda: spectra.kernel_operator(3, X), TypeError, "kernel: expected a callable"),
]


@pytest.mark.parametrize(("call", "error", "words"), BAD)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words), np.errstate(divide="ignore", invalid="ignore"):
        call()


def test_results_print_in_one_line():
    results = [
        spectra.mercer(np.eye(3)), spectra.schmidt(np.eye(3)), spectra.mercer_sphere(np.exp, 3, 20),
        spectra.fit_decay(np.arange(9.0, 1, -1)), spectra.rkhs_norm(np.eye(2), np.ones(2)),
        spectra.barron_norm(np.arange(8.0), 0.1),
    ]  # fmt: skip
    for result in results:
        assert 10 < len(str(result)) < 200
        assert "\n" not in str(result)
        with pytest.raises(AttributeError):
            result.values = None
