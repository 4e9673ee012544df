"""nngp_kernel equals its closed forms in 40 digits, its definition by quadrature, and wide networks."""

import itertools

import numpy as np
import pytest
import reference
import reference_nngp
import relkernels as rk
from hypothesis import given, settings
from hypothesis import strategies as st
from relkernels import _core
from relkernels.ops import dual
from strategies import columns, dtypes, lay_out, layouts, leads, normal, rows, seeds, widths

BOUND = {np.float32: 1e-6, np.float64: 1e-12}
ACTIVATIONS = {
    "relu_power(2)": rk.relu_power(2),
    "leaky_relu(0.25)": rk.leaky_relu(0.25),
}
SMOOTH = ("tanh", "sigmoid", "softplus", "silu", "gelu_tanh")


def close_points(rng, dtype):
    """Return random directions, and pairs that coincide, are opposite or parallel, or nearly so."""
    x = normal(rng, (17, 5), dtype)
    x[1], x[3], x[5], x[7] = x[0], -x[2], 3 * x[4], -2.5 * x[6]
    for row, step in ((9, 1e-3), (11, 1e-5), (13, 1e-7), (15, 1e-9)):
        x[row] = (-1 if row > 12 else 1) * x[row - 1] * (1 + step / 7) + step * rng.standard_normal(5)
    x[16] = 0
    return x


def cases():
    for name, (_, slope) in reference_nngp.CLOSED.items():
        for kind in ("nngp",) if slope is None else ("nngp", "ntk"):
            yield name, kind


@pytest.mark.parametrize("dtype", [np.float64, pytest.param(np.float32, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "kind"), list(cases()))
def test_closed_forms(name, kind, dtype, rng):
    x = close_points(rng, dtype)
    activation = ACTIVATIONS.get(name, name)
    for depth, weight_std, bias_std in ((1, 1.0, 0.0), (3, 1.3, 0.0), (2, 1.1, 0.4)):
        options = {"depth": depth, "weight_std": weight_std, "bias_std": bias_std, "kind": kind}
        if name == "step" and depth > 1:
            # Each step layer takes the square root of small angles, and so of their errors: 1e-16 in the
            # second layer becomes 1e-8. Coinciding points stay exact.
            x = x[:4]
        got = rk.nngp_kernel(x, activation=activation, **options)
        want = reference_nngp.closed_kernel(x, x, name, **options)
        assert reference.relative_error(got, want) <= BOUND[dtype]
        # Every pair separately, relative to the size of the kernel at its points.
        size = np.sqrt(np.outer(np.diag(want), np.diag(want)))
        assert (np.abs(got - want) <= BOUND[dtype] * size).all()


@pytest.mark.parametrize("name", ["relu", "erf", "gelu", "sin"])
def test_large_and_small_variances(name, rng):
    x = close_points(rng, np.float64)
    for factor in (1e-4, 30.0):
        options = {"depth": 2, "weight_std": 1.2, "bias_std": 0.1, "kind": "ntk"}
        scaled = factor * x
        got = rk.nngp_kernel(scaled, activation=name, **options)
        want = reference_nngp.closed_kernel(scaled, scaled, name, **options)
        size = np.sqrt(np.outer(np.diag(want), np.diag(want)))
        assert (np.abs(got - want) <= 1e-12 * size).all()


def smooth(name):
    """An activation and its derivative on arrays of any shape."""

    def call(function):
        def f(z):
            out = np.empty(z.size)
            _core.vector_math(function, np.ascontiguousarray(z).ravel(), 0.0, out)
            return out.reshape(z.shape)

        return f

    return call(name), call(name + "'")


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("name", SMOOTH)
def test_series_against_the_definition(name, kind, rng):
    x, y = normal(rng, (4, 3), np.float64), normal(rng, (2, 3), np.float64)
    y[0], y[1] = x[0] * 1.01, -x[1]
    for depth, weight_std, bias_std in ((1, 1.0, 0.0), (2, 1.5, 0.3)):
        options = {"depth": depth, "weight_std": weight_std, "bias_std": bias_std, "kind": kind}
        want = reference_nngp.kernel_by_quadrature(x, y, *smooth(name), **options)
        got = rk.nngp_kernel(x, y, activation=name, **options)
        assert reference.relative_error(got, want) <= 1e-12
        assert np.abs(got - want).max() <= 1e-12 * np.abs(want).max()


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("kind", ["nngp", "ntk"])
def test_series_as_far_as_it_goes(name, kind):
    """At correlation 1 the series of E[a^2] has its largest tail; one dimension of quadrature checks it."""
    rate = dual._SERIES[name][5 if kind == "ntk" else 4]
    farthest = (dual._MOST - dual._BASE) / rate
    value, slope = smooth(name)
    z = np.arange(-12, 12, 1 / 256)
    w = np.exp(-z * z / 2) / 256 / np.sqrt(2 * np.pi)
    for p in (1e-6, 0.03, 1.0, farthest / 3, farthest * 0.999):
        x = np.array([[np.sqrt(p)]])
        square, tilt = (float(w @ f(np.sqrt(p) * z) ** 2) for f in (value, slope))
        got = rk.nngp_kernel(x, depth=1, activation=name, weight_std=1.0, kind=kind)[0, 0]
        assert got == pytest.approx(square + (tilt * p if kind == "ntk" else 0), rel=1e-12)
    if name == "gelu_tanh":
        with pytest.raises(ValueError, match=rf"x: expected.*variance.*layer 0.*{name} goes.*scale x"):
            rk.nngp_kernel(
                np.array([[np.sqrt(farthest * 1.01)]]), depth=1, activation=name, weight_std=1, kind=kind
            )


def pair_of(p, q, correlation):
    """Return two points whose K(0) is these variances and correlation, for weight_std 1 and no bias."""
    x, y = np.array([[p**0.5, 0.0]]), q**0.5 * np.array([[correlation, (1 - correlation**2) ** 0.5]])
    return x * 2**0.5, y * 2**0.5


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "softplus", "silu"])
@pytest.mark.parametrize("kind", ["nngp", "ntk"])
def test_beyond_the_series(name, kind):
    """Pairs with one variance or both beyond the series' reach; tanh(z / 2) is what the others consist of."""
    value, slope = smooth(name)
    rate, unit = dual._SERIES[name][5 if kind == "ntk" else 4], 1 if name == "tanh" else 4
    reach = (dual._MOST - dual._BASE) / rate
    for p, q, correlation in (
        (1.001 * reach, 1e-3, 0.8),
        (1.001 * reach, reach, -0.6),
        (400 * unit, 3.0, 0.99),
        (400 * unit, 400 * unit, 0.6),
        (300 * unit, 350 * unit, -0.999),
        (300 * unit, 300 * unit, 0.0),
    ):
        x, y = pair_of(p, q, correlation)
        c = correlation * (p * q) ** 0.5
        means = [
            reference_nngp.mean_by_quadrature(f, p, q, c, 0.02 if p < 100 else 0.012) for f in (value, slope)
        ]
        squares = [reference_nngp.mean_by_quadrature(value, r, r, r, 0.03) for r in (p, q)]
        got = rk.nngp_kernel(x, y, depth=1, activation=name, weight_std=1.0, kind=kind)[0, 0]
        want = means[0] + (means[1] * c if kind == "ntk" else 0)
        assert abs(got - want) <= 2e-13 * max(np.sqrt(squares[0] * squares[1]), abs(want))
        np.testing.assert_array_equal(
            got, rk.nngp_kernel(y, x, depth=1, activation=name, weight_std=1.0, kind=kind)[0, 0]
        )


def test_tanh_at_any_variance():
    x, y = pair_of(400, 400, 0.6)
    options = {"depth": 1, "activation": "tanh", "weight_std": 1.0}
    assert rk.nngp_kernel(x, y, **options)[0, 0] == pytest.approx(0.4086870720708768, rel=1e-14)
    for p in (1e4, 1e8, 1e12, 1e200):
        # 1 - E[tanh(u)^2] = integral of the density of u over cosh^-2, whose moments are 2 and pi^2 / 6
        rest = (2 - np.pi**2 / 12 / p) / np.sqrt(2 * np.pi * p)
        x, y = pair_of(p, p, 0.3)
        assert rk.nngp_kernel(x, **options)[0, 0] == pytest.approx(1 - rest, rel=1e-13 if p > 1e5 else 1e-9)
        if p >= 1e12:
            assert rk.nngp_kernel(x, y, **options)[0, 0] == pytest.approx(
                2 / np.pi * np.arcsin(0.3), abs=1e-6
            )
    assert rk.nngp_kernel(x, activation="sigmoid", weight_std=1.0, depth=1)[0, 0] == pytest.approx(0.5)


def test_raw_pixels():
    """Digits from 0 to 16 as they are: variances of 100 and more, in two layers."""
    from sklearn.datasets import load_digits

    x = load_digits().data[:20]
    for activation in ("tanh", "sigmoid", "silu", "softplus", "erf", "gaussian", "sigma_1"):
        k = rk.nngp_kernel(x, depth=2, activation=activation, weight_std=2.0, bias_std=0.3)
        np.testing.assert_array_equal(k, k.T)
        values = np.linalg.eigvalsh(k)
        assert values[0] >= -1e-12 * values[-1]
        ones = rk.nngp_kernel(x[:3], x[15:], depth=2, activation=activation, weight_std=2.0, bias_std=0.3)
        np.testing.assert_array_equal(ones, k[:3, 15:])


SIGMA_1 = [
    (1.0, 1.0, 0.5),
    (1.0, 1.0, -0.9),
    (0.01, 3.0, 0.7),
    (100.0, 150.0, 0.99),
    (1e4, 1e4, 0.3),
    (30.0, 0.5, -0.3),
    (1e8, 3e8, 0.6),
    (5.0, 5.001, 0.999999),
]


@pytest.mark.parametrize(("p", "q", "correlation"), SIGMA_1)
def test_sigma_1_against_the_definition(p, q, correlation):
    x, y = pair_of(p, q, correlation)
    exact = [float(np.sum(a * b)) / 2 for a, b in ((x, x), (y, y), (x, y))]
    value, slope = reference_nngp.sigma_1_means(*exact)
    options = {"depth": 1, "activation": "sigma_1", "weight_std": 1.0}
    k, tangent = (rk.nngp_kernel(x, y, kind=kind, **options)[0, 0] for kind in ("nngp", "ntk"))
    assert k == pytest.approx(value, rel=1e-12)
    assert tangent - k == pytest.approx(slope * exact[2], rel=1e-11, abs=1e-15 * k)
    assert rk.nngp_kernel(y, x, kind="ntk", **options)[0, 0] == tangent


@pytest.mark.parametrize("variance", [1e-8, 0.3, 7.0, 1e4, 1e12])
def test_sigma_1_of_coinciding_and_opposite_points(variance):
    x = np.array([[variance**0.5], [-(variance**0.5)], [0.0]])
    options = {"activation": "sigma_1", "weight_std": 1.0}
    k = rk.nngp_kernel(x, depth=1, **options)
    z = np.linspace(0, 40, 2_000_001)
    density = np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
    want = np.sum(np.minimum(variance**0.5 * z, 1) ** 2 * density) * 2e-5
    np.testing.assert_allclose(k, [[want, 0, 0], [0, want, 0], [0, 0, 0]], rtol=2e-5, atol=1e-300)
    # The tangent of coinciding points is exact in every layer: that of the diagonal.
    tangent = rk.nngp_kernel(np.vstack([x, x]), depth=3, bias_std=0.2, kind="ntk", **options)
    np.testing.assert_allclose(tangent[:3, 3:].diagonal(), tangent.diagonal()[:3], rtol=1e-12)


@pytest.mark.parametrize(
    "activation",
    ["identity", "step", "relu", rk.leaky_relu(0.3), rk.relu_power(2), rk.relu_power(1.5), "erf", "gelu",
     "sin", "cos", "gaussian", "sigma_1", *SMOOTH],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("scale", [1e-154, 1e-160, 1e-162, 1e-170, 0.0])
def test_variances_below_the_normal_numbers(activation, scale):
    """The product of two inverse roots of variances overflows; no kernel does."""
    x = scale * np.array([[1.0, 0.5], [1.0, 0.5], [-0.3, 1.0]])
    for kind in ("nngp", "ntk") if activation != "step" else ("nngp",):
        k = rk.nngp_kernel(x, depth=2, activation=activation, kind=kind)
        assert np.isfinite(k).all()
    if activation == "cos":
        np.testing.assert_allclose(rk.nngp_kernel(x, depth=1, activation="cos"), 2.0, rtol=1e-15)
    if activation == "gaussian":
        np.testing.assert_allclose(rk.nngp_kernel(x, depth=1, activation="gaussian"), 2.0, rtol=1e-15)


@pytest.mark.parametrize("activation", ["erf", "gaussian", "tanh", "sigmoid", "sigma_1"])
def test_bounded_activations_at_huge_variances(activation):
    """Products of variances overflow; kernels are those of the limit, at variances of 1e12."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 3))
    near, far = (rk.nngp_kernel(s * x, depth=1, activation=activation, weight_std=1.0) for s in (1e7, 1e140))
    np.testing.assert_allclose(far, near, rtol=0, atol=1e-6)


@pytest.mark.parametrize("activation", ["gelu", "silu", "softplus"])
@pytest.mark.parametrize("scale", [1e20, 1e150])
def test_rectifiers_at_huge_variances(activation, scale):
    """Products of variances overflow at 1e150; the kernels are those of relu, which is the limit.

    The derivative at equal points is free of cancellation, which would leave sqrt(variance) roundings. In the
    second layer the angle is that of a rounded cosine: it is known to sqrt(eps).
    """
    x = scale * np.array([[1.0, 0.5], [1.0, 0.5], [-0.3, 1.0], [-1.0, -0.5], [1.0, 0.5000001]])
    for kind in ("nngp", "ntk"):
        for (depth, rtol), y in itertools.product(((1, 1e-12), (2, 1e-7)), (None, x * 0.7)):
            found = rk.nngp_kernel(x, y, depth=depth, activation=activation, kind=kind)
            limit = rk.nngp_kernel(x, y, depth=depth, activation="relu", kind=kind)
            np.testing.assert_allclose(found, limit, rtol=rtol, atol=rtol * scale**2)


@pytest.mark.parametrize("r", [0.05, 0.5, 0.75, 1.5, 2.5, 3.0, 7.0])
def test_powers_against_the_hypergeometric_form(r):
    """E[|u|^r |v|^r] and E[sgn |u|^r sgn |v|^r] are hypergeometric in rho^2; relu^r has half of each."""
    import mpmath as mp

    def mean(s, angle):
        s, c = mp.mpf(s), mp.cos(angle)
        even = 2**s * (mp.gamma((s + 1) / 2) ** 2 / mp.pi) * mp.hyp2f1(-s / 2, -s / 2, 0.5, c * c)
        odd = 2 ** (s + 1) * (mp.gamma(s / 2 + 1) ** 2 / mp.pi) * c
        return (even + odd * mp.hyp2f1((1 - s) / 2, (1 - s) / 2, 1.5, c * c)) / 4

    angles = np.array([1e-8, 1e-5, 0.003, 0.2, 1.0, 1.57, 1.58, 2.5, 3.0, 3.14, np.pi])
    x = np.array([[1.0, 0.0]]) * np.sqrt(2)
    y = np.column_stack([np.cos(angles), np.sin(angles)]) * np.sqrt(2)
    activation = rk.relu_power(r)
    with mp.workdps(40):
        exact = [mp.atan2(mp.mpf(float(b)), mp.mpf(float(a))) for a, b in y]
        want = np.array([float(mean(r, t)) for t in exact])
        one = rk.nngp_kernel(x, y, depth=1, activation=activation, weight_std=1.0)[0]
        assert np.abs(one - want).max() <= 1e-13 * want.max()
        if r > 0.5:  # E[a' a'] of r = 3/4 is the root of pi - angle, which at pi is not known to 1e-24
            y, want, exact, angles = (a[:-1] for a in (y, want, exact, angles))
            slope = np.array([float(r * r * mean(r - 1, t)) for t in exact])
            tangent = rk.nngp_kernel(x, y, depth=1, activation=activation, weight_std=1.0, kind="ntk")[0]
            assert np.abs(tangent - (want + slope * np.cos(angles))).max() <= 1e-12 * tangent.max()


def test_a_second_layer_of_powers_keeps_small_angles():
    """relu_power(r), r near 1 and 2, tends to the closed forms, through layers and near angle 0."""
    angles = np.array([0.0, 1e-9, 1e-6, 1e-3, 0.5, 2.0, np.pi])
    x = np.column_stack([np.cos(angles), np.sin(angles)])
    for near in (1, 2):
        options = {"depth": 3, "weight_std": 1.0, "bias_std": 0.2, "kind": "ntk"}
        closed = rk.nngp_kernel(x, activation=rk.relu_power(near), **options)
        table = rk.nngp_kernel(x, activation=rk.relu_power(near + 1e-9), **options)
        np.testing.assert_allclose(table, closed, rtol=1e-7)


@given(st.data(), dtypes, rows, columns, widths, layouts, layouts, seeds)
@settings(max_examples=25)
def test_any_shape(data, dtype, n, m, d, layout_x, layout_y, seed):
    rng = np.random.default_rng(seed)
    lead_x, lead_y = data.draw(leads(2))
    x = lay_out(normal(rng, (*lead_x, n, d), dtype), layout_x)
    y = lay_out(normal(rng, (*lead_y, m, d), dtype), layout_y)
    r = 0.3**2 + 1.2**2 / d * reference.relation_matrix(x, y)
    p = 0.3**2 + 1.2**2 / d * (reference.float64(x) ** 2).sum(-1)[..., :, None]
    q = 0.3**2 + 1.2**2 / d * (reference.float64(y) ** 2).sum(-1)[..., None, :]
    want = 0.3**2 + 1.2**2 * 2 / np.pi * np.arcsin(2 * r / np.sqrt((1 + 2 * p) * (1 + 2 * q)))
    got = rk.nngp_kernel(x, y, depth=1, activation="erf", weight_std=1.2, bias_std=0.3)
    assert got.dtype == dtype
    reference.assert_close(got, want, BOUND[dtype], np.ones_like(want))


@given(st.data(), dtypes, rows, widths, layouts, seeds)
@settings(max_examples=25)
def test_symmetric(data, dtype, n, d, layout, seed):
    rng = np.random.default_rng(seed)
    (lead,) = data.draw(leads(1))
    x = lay_out(normal(rng, (*lead, n, d), dtype), layout)
    activation = data.draw(st.sampled_from(["relu", "erf", "tanh", "gelu", "sin", rk.relu_power(1.5)]))
    options = {"depth": 2, "activation": activation, "bias_std": 0.1, "kind": "ntk"}
    k = rk.nngp_kernel(x, **options)
    np.testing.assert_array_equal(k, np.swapaxes(k, -1, -2))
    np.testing.assert_array_equal(k, rk.nngp_kernel(x, x, **options))


def test_large_symmetric(rng):
    x = normal(rng, (1100, 3), np.float32)
    k = rk.nngp_kernel(x, depth=1)
    np.testing.assert_array_equal(k, k.T)
    np.testing.assert_array_equal(k, rk.nngp_kernel(x, x, depth=1))


def test_beyond_the_workspace(rng):
    """More (wide) points than the 32 MiB hold at a time: no bit changes."""
    x = normal(rng, (2100, 2100), np.float32)
    k = rk.nngp_kernel(x, depth=1)
    np.testing.assert_array_equal(k, k.T)
    np.testing.assert_array_equal(k[:5, 2040:], rk.nngp_kernel(x[:5], x[2040:], depth=1))
    np.testing.assert_array_equal(k[2060:2070, 2060:], rk.nngp_kernel(x[2060:2070], x[2060:], depth=1))


@pytest.mark.parametrize("activation", ["relu", "erf", "softplus", "tanh"])
def test_a_pair_depends_on_its_points_alone(activation, rng):
    x, y = normal(rng, (205, 6), np.float64), normal(rng, (270, 6), np.float64)
    y[7] = x[3] * (1 + 1e-12)
    y[9] = x[4] * 2.5  # needs a longer series than the others
    options = {"depth": 2, "activation": activation, "kind": "ntk", "weight_std": 1.2}
    whole = rk.nngp_kernel(x, y, **options)
    before = rk.get_num_threads()
    try:
        for threads in (1, 2, 3):
            rk.set_num_threads(threads)
            np.testing.assert_array_equal(rk.nngp_kernel(x, y, **options), whole)
    finally:
        rk.set_num_threads(before)
    for some in (slice(0, 1), slice(3, 6), slice(100, 113)):
        np.testing.assert_array_equal(rk.nngp_kernel(x[some], y, **options), whole[some])
        np.testing.assert_array_equal(rk.nngp_kernel(x, y[some], **options), whole[:, some])
    np.testing.assert_array_equal(rk.nngp_kernel(y, x, **options), whole.T)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("activation", ["relu", "step", rk.relu_power(1.5), "erf", "gelu", "cos", "silu"])
def test_nan_stays_in_its_row(activation, bad, rng):
    x, y = normal(rng, (40, 4), np.float64), normal(rng, (30, 4), np.float64)
    options = {"depth": 2, "activation": activation, "weight_std": 1.1, "bias_std": 0.1}
    clean = rk.nngp_kernel(x, y, **options)
    x[17, 2] = bad
    got = rk.nngp_kernel(x, y, **options)
    assert np.isnan(got[17]).all()
    np.testing.assert_array_equal(np.delete(got, 17, 0), np.delete(clean, 17, 0))


def test_depth_zero_is_the_scaled_inner_product(rng):
    x, y = normal(rng, (5, 3), np.float64), normal(rng, (4, 3), np.float64)
    for kind in ("nngp", "ntk"):
        k = rk.nngp_kernel(x, y, depth=0, weight_std=1.5, bias_std=0.5, kind=kind)
        np.testing.assert_allclose(k, 0.25 + 0.75 * x @ y.T, rtol=1e-14)


@pytest.mark.parametrize("activation", ["relu", "tanh", "step"])
def test_wide_random_networks(activation, rng):
    """The mean of a(w x) a(w y) over random weights, within five standard errors."""
    x = normal(rng, (5, 4), np.float64)
    w = rng.standard_normal((4, 400_000)) * 1.3 / 2
    h = {"relu": lambda z: np.maximum(z, 0), "tanh": np.tanh, "step": lambda z: (z > 0) * 1.0}[activation](
        x @ w + 0.2 * rng.standard_normal(400_000)
    )
    products = h[:, None] * h[None]
    mean, error = products.mean(-1), products.std(-1) / np.sqrt(w.shape[1])
    k = rk.nngp_kernel(x, depth=1, activation=activation, weight_std=1.3, bias_std=0.2)
    assert (np.abs((k - 0.04) / 1.69 - mean) <= 5 * error).all()


def test_positive_semi_definite(rng):
    x = normal(rng, (60, 3), np.float64)
    for activation in ("relu", "erf", "softplus", rk.relu_power(0.7)):
        for kind in ("nngp", "ntk"):
            values = np.linalg.eigvalsh(rk.nngp_kernel(x, depth=3, activation=activation, kind=kind))
            assert values[0] >= -1e-12 * values[-1]


BAD = [
    ({"depth": -1}, ValueError, "depth: expected an integer >= 0, got -1"),
    ({"depth": 1.5}, TypeError, "depth: expected an integer"),
    ({"activation": "cube"}, ValueError, "activation: expected one of"),
    ({"activation": 3}, TypeError, "activation: expected"),
    ({"weight_std": 0.0}, ValueError, "weight_std: expected a number > 0 with a finite variance"),
    ({"bias_std": -1}, ValueError, "bias_std: expected a number >= 0 with a finite variance"),
    ({"kind": "rbf"}, ValueError, "kind: expected one of 'nngp', 'ntk'"),
    ({"activation": "step", "kind": "ntk"}, ValueError, "kind: expected 'nngp' with activation 'step'"),
    ({"activation": rk.relu_power(0.5), "kind": "ntk"}, ValueError, "activation: expected relu_power"),
    ({"y": np.ones((2, 4))}, ValueError, r"y: expected features as wide as those of x.*\(2, 4\)"),
    ({"y": np.ones((2, 3), np.float32)}, TypeError, "y: expected float64"),
]


@pytest.mark.parametrize(("options", "error", "words"), BAD)
def test_bad_input(options, error, words):
    with pytest.raises(error, match=words):
        rk.nngp_kernel(np.ones((3, 3)), **{"depth": 1, **options})


def test_neural_tangents_agrees(rng):
    stax = pytest.importorskip(
        "neural_tangents.stax", reason="neural-tangents needs JAX, no dependency of ours"
    )
    layers = [stax.Dense(512, W_std=1.3, b_std=0.2), stax.Relu()] * 2
    *_, kernel_fn = stax.serial(*layers, stax.Dense(1, W_std=1.3, b_std=0.2))
    x, y = normal(rng, (6, 5), np.float32), normal(rng, (4, 5), np.float32)
    for kind in ("nngp", "ntk"):
        ours = rk.nngp_kernel(x, y, depth=2, weight_std=1.3, bias_std=0.2, kind=kind)
        np.testing.assert_allclose(ours, kernel_fn(x, y, kind), rtol=2e-5)


@pytest.mark.parametrize("options", [{"weight_std": 1e200}, {"weight_std": 1e-200}, {"bias_std": 1e300}])
def test_deviations_whose_squares_are_no_numbers_are_refused(options):
    with pytest.raises(ValueError, match=rf"^{next(iter(options))}: expected a number .* variance"):
        rk.nngp_kernel(np.eye(2), depth=1, **options)
