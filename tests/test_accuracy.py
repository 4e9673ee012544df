"""The proved bounds of docs/accuracy.md, on rows whose rounding errors add up instead of cancelling.

Random data hides long sums: errors of both signs cancel. Rows of equal numbers, of one sign and in increasing
order do not. `loses` goes furthest: each addition loses half a unit in the last place of the sum.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import relkernels as rk
from relkernels import _core
from rounding import (
    CHAIN,
    CHUNK,
    FUNCTION,
    ROWS,
    TILE,
    ceil_div,
    gamma,
    of_columns,
    of_given_weights,
    of_layer,
    of_product,
    of_softmax,
    of_weights_gradient,
    unit,
)

# 64 bits of mantissa on x86: products of float32 are exact in it, those of float64 nearly.
Wide = np.longdouble
SLACK = 1e-3  # for the rounding of the exact values
WIDE_ENOUGH = np.finfo(Wide).nmant > 60
DTYPES = [
    np.float32,
    pytest.param(np.float64, marks=pytest.mark.skipif(not WIDE_ENOUGH, reason="long double is float64 here")),
]
DEPTHS = [1, 3, 64, CHAIN - 1, CHAIN, CHAIN + 1, 1000, 4096, 100_000]
COLUMNS = [1, TILE, TILE + 1, CHUNK, CHUNK + 1, 20_000]


def loses(n, dtype, blocks=(1,)):
    """1, then numbers that a running sum of 1 or more loses, each block of them too.

    In a chain from 1 every addition of u, half the distance to the next number, is a tie that rounds to the
    even 1. Where a block starts, only one number is u and the others are 0, so that the block is lost whole.
    """
    x = np.full(n, unit(dtype), dtype)
    for block in blocks[1:]:
        x[block:] = 0
        x[::block] = unit(dtype)
    x[0] = 1
    return x


def constant(n, dtype):
    return np.full(n, 0.0435719, dtype)


def increasing(n, dtype):
    return np.linspace(0.001, 1, n, dtype=dtype)


def decreasing(n, dtype):
    return increasing(n, dtype)[::-1].copy()


def one_signed(n, dtype):
    return np.random.default_rng(n).random(n).astype(dtype)


def alternating(n, dtype):
    return np.where(np.arange(n) % 2, -0.7, 0.3).astype(dtype)


ROWS_OF_A_KIND = [constant, increasing, decreasing, one_signed, alternating, loses]


def chain(terms):
    """The sum of terms as one chain in their own precision."""
    return np.cumsum(terms, dtype=terms.dtype)[-1]


def check(out, exact, magnitude, roundings, dtype):
    """Check |out - exact| <= gamma(roundings) magnitude, elementwise."""
    error = np.abs(out.astype(Wide) - exact)
    bound = gamma(roundings, dtype) * magnitude * (1 + SLACK)
    assert np.all(error <= bound), f"{float(np.max(error / bound)):.3g} of the bound"
    return error


def test_rows_of_equal_numbers():
    """The case that a bound of 1e-6 does not cover in float32."""
    x = np.full((2, 256), np.float32(0.0435719))
    out = rk.relation_matrix(x)
    exact = 256 * Wide(x[0, 0]) ** 2
    error = check(out, exact, exact, 256, np.float32)
    assert np.all(error <= gamma(256, np.float32) * exact)
    assert gamma(256, np.float32) == pytest.approx(1.53e-5, rel=1e-2)


@pytest.mark.parametrize("kind", ROWS_OF_A_KIND)
@pytest.mark.parametrize("d", DEPTHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 17])
def test_relation_matrix(kind, d, dtype, n):
    x = np.tile(kind(d, dtype), (n, 1))
    y = np.ones((3, d), dtype) if kind is loses else np.tile(kind(d, dtype), (3, 1))
    terms = x[0].astype(Wide) * y[0]
    r = rk.relation_matrix(x, y)
    check(r, terms.sum(), np.abs(terms).sum(), of_product(d), dtype)
    scaled = rk.relation_matrix(x, y, scale=0.3)
    factor = Wide(dtype(0.3))
    check(scaled, factor * terms.sum(), factor * np.abs(terms).sum(), of_product(d) + 1, dtype)
    squares = x[0].astype(Wide) ** 2
    check(rk.relation_matrix(x), squares.sum(), squares.sum(), of_product(d), dtype)
    values, _ = rk.retrieve(x, y, 1)
    np.testing.assert_array_equal(values, r[:, :1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_chains_are_no_longer_than_stated(dtype):
    """The worst case needs the whole bound, and any longer chain exceeds it."""
    ones = np.ones((1, 2 * CHAIN), dtype)
    for d in (CHAIN, 2 * CHAIN):
        x = loses(d, dtype)
        exact = x.astype(Wide).sum()
        error = check(rk.relation_matrix(x[None], ones[:, :d]), exact, exact, of_product(d), dtype)
        assert error[0, 0] <= (CHAIN - 1) * unit(dtype)
    assert abs(chain(x) - exact) > 1.9 * gamma(of_product(2 * CHAIN), dtype) * exact


@pytest.mark.parametrize("kind", ROWS_OF_A_KIND)
@pytest.mark.parametrize("d", [3, CHAIN + 1, 4096])
@pytest.mark.parametrize("dtype", DTYPES)
def test_feature_map(kind, d, dtype):
    """Two layers: the error of the hidden one passes through the weights of the next."""
    x = np.tile(kind(d, dtype), (5, 1))
    rng = np.random.default_rng(0)
    w = [np.ones((d, 300), dtype), rng.random((300, 2)).astype(dtype)]
    b = [np.full(300, 0.5, dtype), np.full(2, 0.25, dtype)]
    hidden = rk.MLP(w[:1], b[:1])
    exact = x.astype(Wide) @ w[0] + b[0]
    magnitude = np.abs(x).astype(Wide) @ w[0] + b[0]
    check(rk.feature_map(x, hidden), exact, magnitude, of_layer(d), dtype)
    phi = rk.MLP(w, b, activation="relu")
    of_hidden = gamma(of_layer(d), dtype) * magnitude  # relu passes errors on, and makes none
    activated = np.maximum(exact, 0)
    size = (activated + of_hidden) @ w[1] + b[1]
    error = np.abs(rk.feature_map(x, phi).astype(Wide) - (activated @ w[1] + b[1]))
    assert np.all(error <= (of_hidden @ w[1] + gamma(of_layer(300), dtype) * size) * (1 + SLACK))


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("kind", ROWS_OF_A_KIND)
@pytest.mark.parametrize("m", COLUMNS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_relation_matvec(columns, kind, m, dtype):
    """R is 1 everywhere, so that the sum over columns is all there is; exp(1) adds the error of exp."""
    v = np.tile(kind(m, dtype)[:, None], (1, columns))
    x, y = np.ones((30, 1), dtype), np.ones((m, 1), dtype)
    exact, size = v.astype(Wide).sum(0), np.abs(v).astype(Wide).sum(0)
    check(rk.relation_matvec(x, y, v), exact, size, of_columns(m), dtype)
    check(rk.relation_matvec(x[:2], y, v), exact, size, of_columns(m), dtype)
    e = np.exp(Wide(1))
    linked = rk.relation_matvec(x, y, v, link="exp")
    check(linked, e * exact, e * size, of_columns(m) + FUNCTION, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_over_columns_are_cut_as_stated(dtype):
    """The worst case of tiles and chunks. One chain, or tiles without chunks, exceed the bound."""
    m = 64 * CHUNK
    ones = np.ones((m, 1), dtype)
    for blocks in ((1,), (1, TILE), (1, CHUNK)):
        v = loses(m, dtype, blocks)
        exact = v.astype(Wide).sum()
        both = np.tile(v[:, None], (1, 2))
        check(rk.relation_matvec(ones[:3], ones, both), exact, exact, of_columns(m), dtype)
    assert abs(chain(loses(m, dtype)) - m * unit(dtype) - 1) > 100 * gamma(of_columns(m), dtype)
    tiles = loses(m, dtype, (1, TILE)).reshape(-1, TILE).sum(1)
    assert abs(chain(tiles) - tiles.astype(Wide).sum()) > 1.3 * gamma(of_columns(m), dtype)


@pytest.mark.parametrize("kind", ROWS_OF_A_KIND)
@pytest.mark.parametrize("m", [*COLUMNS, 1_000_000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_over_equal_keys(kind, m, dtype):
    """The mean of the values: numerator and denominator are each a sum over the columns."""
    v = kind(m, dtype)[:, None]
    q, k = np.full((2, 1), 0.7, dtype), np.ones((m, 1), dtype)
    out = rk.attention(q, k, v)
    exact, size = v.astype(Wide).mean(), np.abs(v).astype(Wide).mean()
    check(out, exact, size, 2 * of_columns(m) + 1, dtype)


@pytest.mark.parametrize("order", ["increasing", "decreasing", "mixed"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_attention(order, dtype):
    """Increasing scores give each tile a new maximum, so that the sums are multiplied again and again."""
    m, d = 20_000, 64
    rng = np.random.default_rng(1)
    along = np.sort(rng.random(m)) * (1 if order == "increasing" else -1)
    if order == "mixed":
        rng.shuffle(along)
    k = (along[:, None] * np.ones(d) + 0.01 * rng.random((m, d))).astype(dtype)
    q = np.full((3, d), 1.5, dtype)
    v = rng.random((m, 2)).astype(dtype)
    out, lse = rk.attention(q, k, v, scale=0.125, return_lse=True)
    r = q.astype(Wide) @ k.astype(Wide).T / 8
    of_scores = (
        gamma(of_product(d) + 1, dtype) * (np.abs(q).astype(Wide) @ np.abs(k).astype(Wide).T / 8).max()
    )
    weights = np.exp(r - r.max(1, keepdims=True))
    total = weights.sum(1, keepdims=True)
    exact = weights @ v / total
    roundings = of_softmax(m, (r.max(1) - r.min(1)).max())
    sums = gamma(roundings, dtype)
    bound = (
        (1 + SLACK)
        * (np.exp(2 * of_scores) * (1 + sums) / (1 - sums) * (1 + unit(dtype)) - 1)
        * (weights @ v)
        / total
    )
    assert np.all(np.abs(out - exact) <= bound)
    expected = r.max(1) + np.log(total[:, 0])
    of_lse = of_scores - np.log1p(-sums) + FUNCTION * unit(dtype) * np.abs(np.log(total[:, 0]))
    assert np.all(np.abs(lse - expected) <= of_lse + 2 * unit(dtype) * np.abs(expected))


@pytest.mark.parametrize("m", [3, 1000, 100_000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_scores_of_equal_keys(m, dtype):
    """Exponentials are summed in as many chains as a vector has lanes: at least 16 bytes of them."""
    lanes = 16 // np.dtype(dtype).itemsize
    scores = rk.attention_scores(np.ones((2, 1), dtype), np.ones((m, 1), dtype))
    check(scores, 1 / Wide(m), 1 / Wide(m), ceil_div(m, lanes) + lanes + 1, dtype)


@pytest.mark.parametrize("kind", ROWS_OF_A_KIND)
@pytest.mark.parametrize("m", COLUMNS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients(kind, m, dtype):
    g = np.tile(kind(m, dtype)[:, None], (1, 2))
    exact, size = g.astype(Wide).sum(0), np.abs(g).astype(Wide).sum(0)
    ones = np.ones((3, m), dtype)
    of_x = rk.relation_matrix_vjp(np.ones((3, 2), dtype), g, ones)[0]
    check(of_x, exact, size, of_given_weights(m), dtype)
    if kind is not loses:  # a chain over rows starts anew for each block of ROWS
        identity = rk.MLP([np.eye(2, dtype=dtype)])
        _, of_map = rk.feature_map_vjp(g, identity, np.ones((m, 2), dtype))
        out = of_map.weights[0]
        check(out, np.broadcast_to(exact[:, None], (2, 2)), size[:, None], of_weights_gradient(m), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_weights_are_cut_as_stated(dtype):
    identity = rk.MLP([np.eye(1, dtype=dtype)])
    n = 40 * ROWS
    for blocks in ((1,), (1, ROWS)):
        x = loses(n, dtype, blocks)[:, None]
        exact = x.astype(Wide).sum()
        _, of_map = rk.feature_map_vjp(x, identity, np.ones((n, 1), dtype))
        check(of_map.weights[0], exact, exact, of_weights_gradient(n), dtype)
    assert abs(chain(loses(n, dtype)) - (1 + (n - 1) * Wide(unit(dtype)))) > 10 * gamma(
        of_weights_gradient(n), dtype
    )


@pytest.mark.parametrize("isa", [isa for isa in _core.available_isas() if isa != _core.isa])
@pytest.mark.skipif("RELKERNELS_ISA" in os.environ, reason="run on each set from the default one")
def test_the_other_instruction_sets(isa):
    """The cases that reach the bounds; a run of the tests with RELKERNELS_ISA has all."""
    words = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", "stated or numbers"]
    done = subprocess.run(
        [*words, __file__],
        env=os.environ | {"RELKERNELS_ISA": isa},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:]
