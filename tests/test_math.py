"""Vector math: at most 2 ulp over the whole range in both precisions, specials as in the C library."""

import mpmath
import numpy as np
import pytest
from relkernels import _core
from scipy import special

mpmath.mp.prec = 160
DTYPES = (np.float32, np.float64)


def run(name, x, parameter=0.0):
    out = np.full_like(x, 12345)
    _core.vector_math(name, x, parameter, out)
    return out


def sigmoid(t):
    return 1 / (1 + mpmath.exp(-t))


EXACT = {
    "exp": mpmath.exp,
    "log": lambda t: mpmath.log(t) if t >= 0 else mpmath.nan,
    "tanh": mpmath.tanh,
    "erf": mpmath.erf,
    "sin": mpmath.sin,
    "cos": mpmath.cos,
    "sigmoid": sigmoid,
    "softplus": lambda t: mpmath.log1p(mpmath.exp(t)) if t < 5 else t + mpmath.log1p(mpmath.exp(-t)),
}


def sample(name, dtype, rng, n=2500):
    """Return random bit patterns, and values in the interesting range of the function."""
    bits = {np.float32: np.uint32, np.float64: np.uint64}[dtype]
    anywhere = rng.integers(0, np.iinfo(bits).max, n // 2, dtype=bits, endpoint=True).view(dtype)
    reach = 90 if dtype == np.float32 else 720
    parts = [
        anywhere,
        rng.uniform(-2, 2, n),
        rng.uniform(-12, 12, n),
        rng.uniform(-reach, reach, n),
    ]
    parts.append(rng.standard_normal(n // 2) * 1e-4)
    parts.append(np.arange(1, 60) * np.pi / 2)
    if name == "log":
        parts.append(1 + rng.uniform(-0.01, 0.01, n))
    x = np.concatenate([p.astype(dtype) for p in parts])
    x = x[np.isfinite(x)]
    return np.abs(x) if name == "log" else x


def ulps(got, x, exact, dtype):
    """Return the distance to the exact values in units of the last place of the result."""
    tiny = float(np.finfo(dtype).tiny)
    worst = 0.0
    for value, at in zip(got.tolist(), x.tolist(), strict=True):
        want = exact(mpmath.mpf(at))
        rounded = dtype(float(want)) if dtype == np.float32 else float(want)
        if not np.isfinite(rounded) or not np.isfinite(value):
            assert value == rounded, at
            continue
        unit = float(np.spacing(dtype(max(abs(float(rounded)), tiny))))
        worst = max(worst, float(abs(mpmath.mpf(value) - want) / unit))
    return worst


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EXACT)
def test_within_2_ulp(name, dtype, rng):
    x = sample(name, dtype, rng)
    if name in ("sin", "cos"):  # mpmath reduces arguments exactly, but huge ones slowly
        x = x[(np.abs(x) < 1e30) & (np.abs(x) > 1e-200)]
    if name == "erf":
        x = x[np.abs(x) < 30]
    with np.errstate(over="ignore"):
        assert ulps(run(name, x), x, EXACT[name], dtype) <= 2


@pytest.mark.parametrize("r", [0.5, 1.5, 2.0, 3.0, 2.718])
@pytest.mark.parametrize("dtype", DTYPES)
def test_power_within_2_ulp(dtype, r, rng):
    x = np.abs(sample("pow", dtype, rng, 1000))
    exponent = mpmath.mpf(float(dtype(r)))
    with np.errstate(over="ignore"):
        assert ulps(run("pow", x, float(dtype(r))), x, lambda t: t**exponent if t else t, dtype) <= 2


@pytest.mark.parametrize("x", [1.0, -1.0, 0.3, -2e-3, 5e4, 0.0, -0.0, 1e30, -1e30])
@pytest.mark.parametrize("dtype", DTYPES)
def test_angle_within_2_ulp(dtype, x, rng):
    y = np.concatenate([sample("atan2", dtype, rng, 150), np.float64(x) * rng.uniform(0.3, 3, 300)])
    y = y[(np.abs(y) > 1e-30) & (np.abs(y) < 1e35)].astype(dtype)
    right = mpmath.mpf(float(dtype(x)))
    assert ulps(run("atan2", y, float(dtype(x))), y, lambda t: mpmath.atan2(t, right), dtype) <= 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_angles_at_the_ends_are_those_of_the_c_library(dtype):
    ends = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan], dtype)
    for x in ends:
        got, want = run("atan2", ends, float(x)), np.arctan2(ends, x)
        np.testing.assert_array_max_ulp(got[~np.isnan(want)], want[~np.isnan(want)], 1)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        np.testing.assert_array_equal(np.signbit(got[~np.isnan(want)]), np.signbit(want[~np.isnan(want)]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_specials(dtype):
    inf, nan = np.inf, np.nan
    table = {
        "exp": [(inf, inf), (-inf, 0.0), (0.0, 1.0), (-0.0, 1.0)],
        "log": [(inf, inf), (0.0, -inf), (-0.0, -inf), (-1.0, nan), (-inf, nan), (1.0, 0.0)],
        "tanh": [(inf, 1.0), (-inf, -1.0), (0.0, 0.0), (-0.0, -0.0)],
        "erf": [(inf, 1.0), (-inf, -1.0), (0.0, 0.0), (-0.0, -0.0)],
        "sin": [(inf, nan), (-inf, nan), (0.0, 0.0), (-0.0, -0.0)],
        "cos": [(inf, nan), (-inf, nan), (0.0, 1.0)],
        "sigmoid": [(inf, 1.0), (-inf, 0.0), (0.0, 0.5)],
        "softplus": [(inf, inf), (-inf, 0.0)],
        "relu": [(inf, inf), (-inf, 0.0), (-1.0, 0.0)],
        "gelu": [(inf, inf), (-inf, 0.0), (0.0, 0.0)],
        "gelu_tanh": [(inf, inf), (-inf, 0.0), (0.0, 0.0)],
        "silu": [(inf, inf), (-inf, 0.0), (0.0, 0.0)],
        "tanh'": [(inf, 0.0), (-inf, 0.0), (0.0, 1.0)],
        "gelu'": [(inf, 1.0), (-inf, 0.0), (0.0, 0.5)],
        "gelu_tanh'": [(inf, 1.0), (-inf, 0.0), (0.0, 0.5)],
        "silu'": [(inf, 1.0), (-inf, 0.0), (0.0, 0.5)],
        "relu'": [(inf, 1.0), (-inf, 0.0), (0.0, 0.0)],
        "gaussian": [(inf, 0.0), (-inf, 0.0), (0.0, 1.0), (-0.0, 1.0)],
        "gaussian'": [(inf, 0.0), (-inf, 0.0), (-0.0, 0.0)],
        "sigma_1": [(inf, 1.0), (-inf, 0.0), (0.0, 0.0), (1.0, 1.0), (2.0, 1.0), (0.5, 0.5)],
        "sigma_1'": [(inf, 0.0), (-inf, 0.0), (0.0, 0.0), (1.0, 1.0), (0.5, 1.0), (2.0, 0.0)],
    }
    for name, cases in table.items():
        x = np.array([at for at, _ in cases] + [nan], dtype)
        want = np.array([value for _, value in cases] + [nan], dtype)
        got = run(name, x)
        np.testing.assert_array_equal(got, want, err_msg=name)
        number = ~np.isnan(want)
        np.testing.assert_array_equal(np.signbit(got[number]), np.signbit(want[number]), err_msg=name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "name", [*EXACT, "gelu", "gelu'", "silu", "tanh'", "relu_power", "gelu_tanh'", "gaussian"]
)
def test_a_lane_depends_on_itself_alone(name, dtype, rng):
    x = sample("log" if name == "log" else name, dtype, rng, 60)
    whole = run(name, x, 1.5)
    for begin in range(0, 40, 7):
        for length in (1, 2, 3, 15, 17, 33):
            part = run(name, x[begin : begin + length].copy(), 1.5)
            np.testing.assert_array_equal(part, whole[begin : begin + length])


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_of_lanes_whose_results_underflow(dtype, rng):
    """Subnormal results are made another way, and zeros set aside: whatever the other lanes are."""
    info = np.finfo(dtype)
    ends = {np.float32: (-104.0, -87.0), np.float64: (-746.0, -708.0)}[dtype]
    few = np.array([ends[0], ends[1], -1e30, -np.inf, -2.0, np.log(float(info.tiny)), np.inf, np.nan])
    x = np.concatenate([rng.uniform(*ends, 400), few, rng.uniform(ends[0] - 3, 3, 200)]).astype(dtype)
    alone = np.array([run("exp", np.full(16, value, dtype))[0] for value in x])
    order = rng.permutation(x.size)
    np.testing.assert_array_equal(run("exp", x[order]), alone[order])
    finite = np.isfinite(x)
    unit = mpmath.mpf(float(info.smallest_subnormal))
    for value, got in zip(x[finite].tolist(), alone[finite].tolist(), strict=True):
        want = mpmath.exp(mpmath.mpf(value))
        assert abs(got - want) <= 0.51 * unit + 2 * float(info.eps) * want
    assert (alone[x <= ends[0]] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_tails_do_not_vanish(dtype):
    """gelu keeps its leading digits far to the left, because the two tails are computed separately."""
    x = np.linspace(-9, -3, 50).astype(dtype)
    want = x * special.ndtr(x.astype(np.float64))
    np.testing.assert_allclose(run("gelu", x), want, rtol=1e-5 if dtype == np.float32 else 1e-13)


@pytest.mark.parametrize(
    "name",
    [
        "leaky_relu",
        "relu_power",
        "gelu",
        "gelu_tanh",
        "silu",
        "tanh",
        "sigmoid",
        "softplus",
        "erf",
        "sin",
        "cos",
        "gaussian",
    ],
)
def test_derivatives(name, rng):
    x = rng.uniform(-5, 5, 400)
    x = x[np.abs(x) > 1e-3]
    step = 1e-6
    numeric = (run(name, x + step, 1.7) - run(name, x - step, 1.7)) / (2 * step)
    np.testing.assert_allclose(run(name + "'", x, 1.7), numeric, rtol=2e-7, atol=2e-9)


def test_unknown_name():
    with pytest.raises(ValueError, match="no function is called 'sinh'"):
        run("sinh", np.zeros(1))
