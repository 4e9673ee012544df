"""Arrays of 16-bit floats, which kernels read as they are stored: the bits of float32 copies, and no copies.

The reference is the same call on float32 copies, its results rounded to 16 bits.
"""

import itertools
import subprocess
import sys
import textwrap

import ml_dtypes
import numpy as np
import pytest
import relkernels as rk
from relkernels import _core
from strategies import lay_out, mlp

BF16 = np.dtype(ml_dtypes.bfloat16)
FLOAT16 = np.dtype(np.float16)
both = pytest.mark.parametrize("dtype", [FLOAT16, BF16], ids=["float16", "bfloat16"])

# Rows and columns: few rows read columns in place, others packed; one tile, a chunk, several chunks.
SIZES = [(1, 1), (1, 300), (2, 17), (3, 5000), (4, 33), (7, 257), (97, 600)]
WIDTHS = [1, 3, 8, 16, 17, 31, 64, 67, 300]


def flat(result):
    return list(result) if isinstance(result, tuple) else [result]


def assert_same(dtype, call, *arrays, **options):
    """`call` returns for arrays of `dtype` what it does for float32 copies, rounded, to the last bit."""
    wide = [a.astype(np.float32) for a in arrays]
    precision = {"precision": "bf16"} if dtype == BF16 else {}
    for a, b in zip(flat(call(*arrays, **options)), flat(call(*wide, **precision, **options)), strict=True):
        assert a.dtype == (dtype if b.dtype == np.float32 else b.dtype)
        with np.errstate(over="ignore"):
            found, expected = a.astype(np.float64), b.astype(a.dtype).astype(np.float64)
        np.testing.assert_array_equal(found, expected)
        number = ~np.isnan(found)
        np.testing.assert_array_equal(np.signbit(found)[number], np.signbit(expected)[number])


def drawn(rng, shape, dtype):
    """Normal numbers, some of them 0, subnormal or large."""
    a = rng.standard_normal(shape) * 10.0 ** rng.integers(-6, 2, shape)
    a[rng.random(shape) < 0.05] = -0.0
    return a.astype(dtype)


@both
def test_every_value_is_read_exactly(dtype):
    every = np.arange(2**16, dtype=np.uint16).view(dtype)
    one = np.ones((1, 1), dtype)
    expected = every.astype(np.float32)
    if dtype == BF16 and _core.isa in (
        "amx",
        "avx512_bf16",
    ):  # whose products take subnormal numbers for zero
        expected[np.abs(expected) < np.finfo(np.float32).tiny] = 0
    for values in (
        rk.relation_matrix(every[:, None], one)[:, 0],  # rows
        rk.relation_matrix(one, every[:, None])[0],  # columns in place
        rk.relation_matrix(np.ones((5, 1), dtype), every[:, None])[3],  # packed columns
        rk.relation_matvec(every[:, None], one, np.ones(1, dtype)),
    ):
        np.testing.assert_array_equal(values.astype(np.float32), expected)


@both
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_results_are_those_of_float32_copies(dtype, n, m, rng):
    for d in WIDTHS if m < 1000 else [17, 64]:
        x, y = drawn(rng, (n, d), dtype), drawn(rng, (m, d), dtype)
        v = drawn(rng, (m, int(rng.integers(1, 40))), dtype)
        assert_same(dtype, rk.relation_matrix, x, y)
        assert_same(dtype, rk.retrieve, x, y, k=min(m, 5))
        assert_same(dtype, rk.attention, x, y, v, return_lse=True)
        assert_same(dtype, rk.attention_scores, x, y)
        assert_same(dtype, rk.relation_matvec, x, y, v, link="relu")
        assert_same(dtype, rk.relation_matvec, x, y, v[:, 0])
        if n < 100:
            assert_same(dtype, rk.relation_matrix, x)


@both
@pytest.mark.parametrize("heads", [2, 3])
def test_heads(dtype, heads, rng):
    for n, depth in itertools.product([1, 3, 40], [1, 2, 5, 16]):
        x, y = (drawn(rng, (rows, heads * depth), dtype) for rows in (n, 50))
        assert_same(dtype, rk.relation_matrix, x, y, heads=heads)
        assert_same(dtype, rk.relation_matrix, x, heads=heads)


@both
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_maps(dtype, activation, rng):
    phi = mlp(rng, [9, 40, 6], np.float32, activation)
    psi = mlp(rng, [5, 6], np.float32, activation)
    for n, m in [(1, 3), (200, 700)]:
        x, y, v = (drawn(rng, shape, dtype) for shape in [(n, 9), (m, 5), (m, 4)])
        assert_same(dtype, rk.feature_map, x, mlp=phi)
        assert_same(dtype, rk.relation_matrix, x, phi=phi)
        assert_same(dtype, rk.relation_matrix, x, y, phi=phi, psi=psi)
        assert_same(dtype, rk.attention, x, y, v, phi=phi, psi=psi)
        assert_same(dtype, rk.retrieve, x, y, k=2, phi=phi, psi=psi)


@both
@pytest.mark.parametrize(
    "layout", ["transposed", "sliced", "reversed", "offset", "read-only", "broadcast", "misaligned"]
)
def test_layouts(dtype, layout, rng):
    phi = mlp(rng, [21, 8, 4], np.float32)
    for n in (1, 3, 50):
        x, y, v = (lay_out(drawn(rng, shape, dtype), layout) for shape in [(n, 21), (300, 21), (300, 10)])
        assert_same(dtype, rk.relation_matrix, x, y)
        assert_same(dtype, rk.relation_matrix, x)
        assert_same(dtype, rk.attention, x, y, v)
        assert_same(dtype, rk.relation_matvec, x, y, v)
        assert_same(dtype, rk.relation_matvec, x, y, v[:, 3])
        assert_same(dtype, rk.feature_map, x, mlp=phi)
        assert_same(dtype, rk.retrieve, x[0], y, k=4)


@both
def test_batches(dtype, rng):
    phi = mlp(rng, [6, 5], np.float32)
    x, y, v = (drawn(rng, shape, dtype) for shape in [(4, 2, 7, 6), (2, 9, 6), (9, 3)])
    assert_same(dtype, rk.attention, x, y, v)
    assert_same(dtype, rk.attention, x.transpose(1, 0, 2, 3), y[:, None], v, phi=phi)
    assert_same(dtype, rk.relation_matrix, x, y[0], phi=phi)
    assert_same(dtype, rk.relation_matrix, x, phi=phi)
    assert_same(dtype, rk.relation_matrix, np.broadcast_to(x[0, 0], (3, 7, 6)), y[:1])
    assert_same(dtype, rk.feature_map, x, mlp=phi)
    assert_same(dtype, rk.retrieve, x, y, k=3)
    empty = np.zeros((0, 6), dtype)
    assert_same(dtype, rk.relation_matrix, x, empty)
    assert_same(dtype, rk.attention, empty, y[0], v)
    assert_same(dtype, rk.attention, x, y, v[:, :0])
    assert_same(dtype, rk.feature_map, empty, mlp=phi)


@both
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_masks_and_values_that_are_not_finite(dtype, bad, rng):
    for n, m in [(1, 40), (3, 300), (20, 40)]:
        q, k, v = (drawn(rng, shape, dtype) for shape in [(n, 8), (m, 8), (m, 5)])
        k[3], v[5, 2], v[m - 1] = bad, bad, bad
        mask = rng.random((n, m)) < 0.7
        for options in ({}, {"mask": mask}, {"causal": True}, {"window": 2, "align": "lower_right"}):
            assert_same(dtype, rk.attention, q, k, v, return_lse=True, **options)
            assert_same(dtype, rk.attention_scores, q, k, **options)
        assert_same(dtype, rk.retrieve, q, k, k=6)
        assert_same(dtype, rk.retrieve, q, k, k=6, mask=mask)


def test_float16_in_bfloat16_arithmetic(rng):
    x, y, v = (drawn(rng, shape, FLOAT16) for shape in [(3, 12), (70, 12), (70, 6)])
    for call, arrays in [(rk.relation_matrix, (x, y)), (rk.attention, (x, y, v)), (rk.relation_matrix, (y,))]:
        assert_same(FLOAT16, call, *arrays, precision="bf16")


def test_float16_of_the_other_byte_order(rng):
    x = drawn(rng, (5, 12), FLOAT16)
    swapped = x.astype(x.dtype.newbyteorder())
    np.testing.assert_array_equal(rk.relation_matrix(swapped), rk.relation_matrix(x))


@both
def test_kernels_are_given_the_callers_memory(dtype, rng, monkeypatch):
    met = []
    original = _core.attention

    def watched(*arguments):
        met.extend(a.__array_interface__["data"][0] for a in arguments[:3])
        return original(*arguments)

    monkeypatch.setattr(_core, "attention", watched)
    q, k, v = (drawn(rng, (rows, 6), dtype) for rows in (4, 9, 9))
    rk.attention(q[::2], k, v[:, 1:])
    assert met == [a.__array_interface__["data"][0] for a in (q, k, v[:, 1:])]


@pytest.mark.parametrize("dtype", ["np.float16", "ml_dtypes.bfloat16"])
@pytest.mark.parametrize(
    "call",
    [
        "rk.retrieve(x[:1], x, 10)",
        "rk.retrieve(x[:8], x, 10)",
        "rk.retrieve_blocks(x[:8], x, 10)",
        "rk.attention(x[:8], x, x)",
        "rk.relation_matvec(x[:8], x, x)",
        "rk.feature_map(x, phi)",
    ],
)
def test_memory_does_not_grow_with_the_arrays(dtype, call):
    """A float32 copy of the array would take 128 MB; results of one column take 2."""
    code = f"""
        import resource
        import ml_dtypes, numpy as np, relkernels as rk
        x = np.ones((500_000, 64), {dtype})
        phi = rk.MLP.random([64, 1], random_state=0)
        rk.attention(x[:10], x[:10], x[:10])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        {call}
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 20, f"{done.stdout} MiB"
