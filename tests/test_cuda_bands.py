"""Attention and its gradients over any band of pairs, least <= j - i <= greatest, equal a dense mask.

The kernels compiled for this processor are called directly: the Python functions pass the causal rule only.
"""

import os

import cuda_arrays
import numpy as np
import pytest
from cuda_arrays import BF16, Memory
from reference import float64

pytestmark = pytest.mark.slow

F4, F8 = np.float32, np.float64
HUGE = 2**63 - 1
# (arithmetic, dtype of the arrays, dtype of the log-sum-exp, bound of the relative error)
ARITHMETIC = [
    ("float32", F4, F4, 1e-5), ("float64", F8, F8, 1e-13), ("tf32", F4, F4, 1e-2),
    ("bfloat16", BF16, F4, 5e-2),
]  # fmt: skip
# Tiles have 64 columns and blocks 64 rows.
SHAPES = [(1, 1), (65, 64), (64, 129), (130, 65), (193, 257)]
FIXED = [
    (None, None), (None, 0), (0, None), (0, 0), (-7, 0), (-64, 63), (-1, 64), (100, None), (None, -100),
    (5, -5), (HUGE, None), (None, -HUGE), (-HUGE, HUGE),
]  # fmt: skip


class Kernels:
    """The functions of the compiled module on NumPy arrays, with outputs that begin as NaN."""

    def __init__(self, module):
        self.module, self.kept = module, []
        self.context = module.Context(0, 0, self.allocate)

    def allocate(self, nbytes):
        self.kept.append(Memory(nbytes))
        return self.kept[-1].bytes.ctypes.data

    def empty(self, shape, dtype):
        self.kept.append(Memory(int(np.prod(shape)) * np.dtype(dtype).itemsize))
        return self.kept[-1].bytes.view(dtype).reshape(shape)

    def argument(self, a):
        if not isinstance(a, np.ndarray):
            return a
        steps = [step // a.itemsize for step in a.strides]
        return self.module.Array(a.ctypes.data, list(a.shape), steps, a.dtype.name)

    def call(self, name, *arguments):
        # Threads in order, and the other way round at the next call.
        backward = os.environ.get("RK_EMULATED_ORDER") == "backward"
        os.environ["RK_EMULATED_ORDER"] = "forward" if backward else "backward"
        getattr(self.module, name)(self.context, *map(self.argument, arguments))
        kept, self.kept = self.kept, []
        assert all(memory.intact() for memory in kept), "a kernel wrote outside of its array"

    def attention(self, q, k, v, scale, mask, band, arithmetic, sums):
        out, lse = self.empty((*q.shape[:-1], v.shape[-1]), v.dtype), self.empty(q.shape[:-1], sums)
        self.call("attention", q, k, v, None, None, arithmetic, scale, mask, band, None, None, out, lse, None)
        return out, lse

    def attention_scores(self, q, k, scale, mask, band, arithmetic):
        out = self.empty((*q.shape[:-1], k.shape[-2]), q.dtype)
        self.call("attention_scores", q, k, None, None, arithmetic, scale, mask, band, None, None, out)
        return out

    def attention_vjp(self, f, g, v, scale, mask, band, out, lse, grad):
        grads = [self.empty(a.shape, a.dtype) for a in (f, g, v, lse)]
        operands = f, g, v, mask, band, None, None, scale, out, lse, grad, None
        self.call("attention_vjp", *operands, *grads[:3], None, grads[3], None)
        return grads


@pytest.fixture(scope="module")
def kernels():
    if "RELKERNELS_ISA" in os.environ:
        pytest.skip("the emulated GPU is the same whatever RELKERNELS_ISA says")
    return Kernels(cuda_arrays.emulated_kernels())


def dense(shape, band, mask):
    """Which pairs may attend, as a matrix."""
    *_, n, m = shape
    difference = np.arange(m)[None] - np.arange(n)[:, None]
    least, greatest = band
    inside = np.ones((n, m), bool)
    if least is not None:
        inside &= difference >= least
    if greatest is not None:
        inside &= difference <= greatest
    return np.broadcast_to(inside if mask is None else inside & mask, shape)


def definition(q, k, v, scale, allowed, grad):
    """Scores, output, log-sum-exp, gradients of q, k and v, and each query's part of that of `scale`."""
    q, k, v, grad = map(float64, (q, k, v, grad))
    r = np.where(allowed, scale * (q @ np.swapaxes(k, -1, -2)), -np.inf)
    top = r.max(-1, keepdims=True, initial=-np.inf)
    weights = np.exp(r - np.where(top == -np.inf, 0, top))
    total = weights.sum(-1, keepdims=True)
    p = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    with np.errstate(divide="ignore"):
        lse = np.where(total > 0, top + np.log(total), -np.inf)[..., 0]
    out = p @ v
    dp = grad @ np.swapaxes(v, -1, -2)
    dr = p * (dp - (grad * out).sum(-1, keepdims=True))
    grad_scale = (q * (dr @ k)).sum(-1)
    return (
        p,
        out,
        lse,
        scale * dr @ k,
        scale * np.swapaxes(dr, -1, -2) @ q,
        np.swapaxes(p, -1, -2) @ grad,
        grad_scale,
    )


def assert_close(got, expected, bound):
    assert got.shape == expected.shape
    got = float64(got)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(got[~finite], expected[~finite])
    size = np.abs(expected[finite]).max(initial=1)  # of the terms, which may cancel
    assert np.abs(got[finite] - expected[finite]).max(initial=0) <= bound * size


def check(kernels, rng, lead, n, m, width, values, band, masked, arithmetic):
    name, dtype, sums, bound = arithmetic
    q, k, v, grad = (
        rng.standard_normal((*lead, *shape)).astype(dtype)
        for shape in ((n, width), (m, width), (m, values), (n, values))
    )
    mask = np.broadcast_to(rng.random((n, m)) < 0.5, (*lead, n, m)) if masked else None
    scale = 0.3
    allowed = dense((*lead, n, m), band, mask)
    p, expected, expected_lse, *gradients = definition(q, k, v, scale, allowed, grad)
    out, lse = kernels.attention(q, k, v, scale, mask, band, name, sums)
    assert_close(out, expected, bound)
    assert_close(lse, expected_lse, bound)
    nothing = ~allowed.any(-1)
    assert (float64(out)[nothing] == 0).all()
    assert (lse[nothing] == -np.inf).all()
    scores = kernels.attention_scores(q, k, scale, mask, band, name)
    assert_close(scores, p, bound)
    assert (float64(scores)[~allowed] == 0).all()
    if name in ("float32", "float64"):
        got = kernels.attention_vjp(q, k, v, scale, mask, band, out, lse, grad)
        for one, of in zip(got, gradients, strict=True):
            assert_close(one, of, 20 * bound)


@pytest.mark.parametrize("arithmetic", ARITHMETIC, ids=lambda a: a[0])
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
def test_fixed_bands(kernels, rng, masked, arithmetic):
    for i, band in enumerate(FIXED):
        n, m = SHAPES[i % len(SHAPES)]
        check(kernels, rng, (), n, m, 9, 70, band, masked, arithmetic)


@pytest.mark.parametrize("arithmetic", ARITHMETIC, ids=lambda a: a[0])
@pytest.mark.parametrize("seed", range(3))
def test_random_bands(kernels, seed, arithmetic):
    rng = np.random.default_rng(seed)
    for _ in range(8):
        n, m = (int(rng.choice([1, 63, 64, 65, 97, 128, 129, 193])) for _ in range(2))
        limits = sorted(rng.integers(-n - 2, m + 2, 2).tolist())
        band = tuple(None if rng.random() < 0.2 else limit for limit in limits)
        lead = (2,) if rng.random() < 0.3 else ()
        values = int(rng.choice([1, 3, 64, 130]))
        check(
            kernels,
            rng,
            lead,
            n,
            m,
            int(rng.choice([1, 16, 33])),
            values,
            band,
            rng.random() < 0.4,
            arithmetic,
        )


@pytest.mark.parametrize("n", [40, 300], ids=["a block a chunk", "a block all chunks"])
@pytest.mark.parametrize(
    "band", [(2100, None), (1000, 1200), (None, 70), (3000, 2000), (4400, None)], ids=str
)
def test_bands_over_chunks(kernels, rng, n, band):
    """Sums are cut into chunks of 2,048 columns: some have no pair of the band, or a few."""
    check(kernels, rng, (), n, 4500, 8, 5, band, False, ARITHMETIC[1])


def test_points_outside_the_band_are_not_used(kernels, rng):
    """NaN in keys and values that no query may attend to changes nothing."""
    n, m, band = 200, 400, (-70, 70)
    q, k, v = rng.standard_normal((n, 8)), rng.standard_normal((m, 8)), rng.standard_normal((m, 8))
    grad, allowed = rng.standard_normal((n, 8)), dense((n, m), band, None)
    expected = definition(q, k, v, 0.3, allowed, grad)
    k[~allowed.any(0)] = v[~allowed.any(0)] = np.nan
    out, lse = kernels.attention(q, k, v, 0.3, None, band, "float64", F8)
    assert_close(out, expected[1], 1e-13)
    grads = kernels.attention_vjp(q, k, v, 0.3, None, band, out, lse, grad)
    for got, of in zip(grads, expected[3:], strict=True):
        assert_close(got, of, 1e-12)
