"""retrieve by screening: the result of the plain walk to the last bit, whatever the data.

Calls of fewer than 24 queries without codes take the plain walk, and a row's result does not depend on the
batch: so slices of a call are its reference.
"""

import contextlib

import numpy as np
import pytest
import relkernels as rk
from hypothesis import given, settings
from hypothesis import strategies as st
from relkernels import _core
from strategies import lay_out, layouts, mlp, seeds

PLAIN = 20  # queries


def codes_of(keys, capacity=None, first=0, into=None):
    """Return codes and terms of float32 features."""
    panels = -(-(capacity or len(keys)) // 16)
    codes, terms = into or (
        np.full((panels, -(-keys.shape[1] // 4), 16, 4), 99, np.int8),
        np.full((panels, 4, 16), np.nan, np.float32),
    )
    _core.encode_keys(keys, first, codes, terms)
    return codes, terms


def with_codes(q, keys, k, mask=None, coded=None):
    """Return what `_core.retrieve` finds with prepared keys."""
    best = np.full((len(q), k), 7, np.float32), np.full((len(q), k), 7)
    if mask is not None:
        mask = np.broadcast_to(mask, (len(q), len(keys)))
    _core.retrieve(q, keys, None, None, None, mask, *best, *(coded or codes_of(keys)))
    return best


def plain(q, keys, k, phi=None, psi=None, mask=None):
    """Return the result of the plain walk."""
    parts = []
    for i in range(0, len(q), PLAIN):
        rows = mask if mask is None or len(mask) == 1 else mask[i : i + PLAIN]
        parts.append(rk.retrieve(q[i : i + PLAIN], keys, k, phi, psi, mask=rows))
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def bits(a):
    """Return the bits of an array, with one pattern for NaN."""
    a = np.where(np.isnan(a), a.dtype.type(np.nan), a)
    return np.ascontiguousarray(a).view(f"u{a.itemsize}")


def assert_same(got, expected):
    np.testing.assert_array_equal(got[1], expected[1])
    np.testing.assert_array_equal(bits(got[0]), bits(expected[0]))


def assert_exact(q, keys, k, mask=None):
    """Check the calls that screen: of many queries, with codes, and of one query with codes."""
    expected = plain(q, keys, k, mask=mask)
    assert_same(rk.retrieve(q, keys, k, mask=mask), expected)
    coded = codes_of(keys)
    assert_same(with_codes(q, keys, k, mask, coded), expected)
    for i in range(3):
        row = mask if mask is None or len(mask) == 1 else mask[i : i + 1]
        got = with_codes(q[i : i + 1], keys, k, row, coded)
        assert_same(got, tuple(part[i : i + 1] for part in expected))


def f32(a):
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(a, np.float32)


def clusters(rng, n, m, d):
    centres = rng.standard_normal((5, d))
    return tuple(centres[rng.integers(0, 5, c)] + 1e-3 * rng.standard_normal((c, d)) for c in (n, m))


def outlier_dimensions(rng, n, m, d):
    q, keys = rng.standard_normal((n, d)), rng.standard_normal((m, d))
    q[:, 0] *= 1e3
    keys[:, -1] *= 1e3
    return q, keys


def outlier_rows(rng, n, m, d):
    return (rng.standard_normal((c, d)) * np.exp(8 * rng.standard_normal((c, 1))) for c in (n, m))


def duplicates(rng, n, m, d):
    keys = rng.standard_normal((37, d))
    return rng.standard_normal((n, d)), keys[rng.integers(0, 37, m)]


def few_values(rng, n, m, d):
    return rng.integers(-1, 2, (n, d)), rng.integers(-1, 2, (m, d))


def constant_rows(rng, n, m, d):
    return (np.repeat(rng.standard_normal((c, 1)), d, axis=1) for c in (n, m))


def nearly_equal(rng, n, m, d):
    return rng.standard_normal((n, d)), 1 + 1e-6 * rng.standard_normal((m, d))


def increasing(rng, n, m, d):
    """Each key is better than all before, so every pair passes."""
    return np.abs(rng.standard_normal((n, d))), np.linspace(1, 2, m)[:, None] * np.ones(d)


def negative(rng, n, m, d):
    """All values are below 0, so bars are."""
    return (s * np.abs(rng.standard_normal((c, d))) for c, s in ((n, 1), (m, -1)))


def zero_rows(rng, n, m, d):
    q, keys = rng.standard_normal((n, d)), rng.standard_normal((m, d))
    q[rng.random(n) < 0.3] = 0
    keys[rng.random(m) < 0.9] = 0
    keys[rng.random(m) < 0.3] *= -0.0
    return q, keys


def not_finite(rng, n, m, d):
    q, keys = rng.standard_normal((n, d)), rng.standard_normal((m, d))
    for a in (q, keys):
        for value in (np.nan, np.inf, -np.inf):
            a[rng.random(len(a)) < 0.01, rng.integers(0, d)] = value
    return q, keys


def all_nan_but_few(rng, n, m, d):
    q, keys = rng.standard_normal((n, d)), np.full((m, d), np.nan)
    keys[rng.integers(0, m, 9)] = rng.standard_normal((9, d))
    return q, keys


def huge(rng, n, m, d):
    return (rng.standard_normal((c, d)) * 10.0 ** rng.uniform(10, 38.5, (c, 1)) for c in (n, m))


def tiny(rng, n, m, d):
    return (rng.standard_normal((c, d)) * 10.0 ** rng.uniform(-45, -8, (c, 1)) for c in (n, m))


def any_range(rng, n, m, d):
    return (rng.standard_normal((c, d)) * 10.0 ** rng.uniform(-45, 38, (c, d)) for c in (n, m))


DATA = [
    clusters, outlier_dimensions, outlier_rows, duplicates, few_values, constant_rows, nearly_equal,
    increasing, negative, zero_rows, not_finite, all_nan_but_few, huge, tiny, any_range,
]  # fmt: skip


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize(("n", "m", "d", "k"), [(40, 5003, 24, 10), (25, 3000, 7, 1), (30, 4100, 300, 100)])
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_adversarial_data(data, n, m, d, k, rng):
    q, keys = map(f32, data(rng, n, m, d))
    assert_exact(q, keys, k)


@settings(deadline=None, max_examples=25)
@given(st.integers(24, 60), st.integers(2048, 2600), st.integers(1, 40), st.integers(1, 128), layouts, seeds)
def test_any_shape(n, m, d, k, layout, seed):
    rng = np.random.default_rng(seed)
    q, keys = (lay_out(f32(rng.standard_normal((c, d))), layout) for c in (n, m))
    expected = plain(q, keys, k)
    assert_same(rk.retrieve(q, keys, k), expected)
    assert_same(with_codes(np.ascontiguousarray(q), np.ascontiguousarray(keys), k), expected)


@pytest.mark.parametrize("k", [1, 256, 4096, 5000])
def test_any_k(k, rng):
    q, keys = f32(rng.standard_normal((30, 8))), f32(rng.standard_normal((5000, 8)))
    assert_exact(q, keys, k)


@pytest.mark.parametrize("share", [0.9, 0.05, 0.0005])
@pytest.mark.parametrize("rows", [30, 1])
def test_masks(share, rows, rng):
    q, keys = f32(rng.standard_normal((30, 16))), f32(rng.standard_normal((6000, 16)))
    mask = rng.random((rows, 6000)) < share
    assert_exact(q, keys, 10, mask)


def test_maps(rng):
    phi, psi = mlp(rng, [9, 12, 20], np.float32, "tanh"), mlp(rng, [5, 20], np.float32, "relu")
    q, keys = f32(rng.standard_normal((50, 9))), f32(rng.standard_normal((9000, 5)))
    assert_same(rk.retrieve(q, keys, 10, phi, psi), plain(q, keys, 10, phi, psi))


def test_a_batch(rng):
    q, keys = f32(rng.standard_normal((3, 40, 8))), f32(rng.standard_normal((3, 5000, 8)))
    for shared in (False, True):
        one = keys[:1] if shared else keys
        got = rk.retrieve(q, one, 10)
        for i in range(3):
            assert_same((got[0][i], got[1][i]), plain(q[i], one[i % len(one)], 10))


@pytest.mark.parametrize("data", [clusters, few_values, increasing, not_finite])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_threads(data, rng):
    q, keys = map(f32, data(rng, 120, 20_000, 12))
    expected, before = plain(q, keys, 10), _core.get_num_threads()
    coded = codes_of(keys)
    with contextlib.ExitStack() as stack:
        stack.callback(_core.set_num_threads, before)
        for threads in (1, 2, 3):
            _core.set_num_threads(threads)
            assert_same(rk.retrieve(q, keys, 10), expected)
            assert_same(with_codes(q[:1], keys, 10, coded=coded), tuple(part[:1] for part in expected))
            assert_same(with_codes(q[:5], keys, 10, coded=coded), tuple(part[:5] for part in expected))


def test_data_that_changes_along_the_columns(rng):
    """The bounds separate at first, then not at all: the rest of the columns is a plain walk."""
    q = f32(rng.standard_normal((100, 16)))
    easy, hard = rng.standard_normal((20_000, 16)), np.linspace(2, 3, 20_000)[:, None] * np.ones(16)
    for keys in (np.concatenate([easy, hard]), np.concatenate([hard, easy])):
        mask = np.ones((1, 40_000), bool)
        mask[0, ::7] = False
        assert_exact(q, f32(keys), 10)
        assert_exact(q, f32(keys), 10, mask)


@pytest.mark.parametrize("n", [1, 50])
def test_codes_are_used(n, rng):
    """Codes that claim small values hide the keys after those that set the bar."""
    q, keys = np.abs(f32(rng.standard_normal((n, 16)))), np.abs(f32(rng.standard_normal((9000, 16))))
    codes, terms = codes_of(keys)
    codes[...], terms[:, 1:] = 0, 0
    assert (with_codes(q, keys, 5, coded=(codes, terms))[1] < 1000).all()
    assert (plain(q, keys, 5)[1] > 1000).any()


def test_codes_bound_the_keys(rng):
    keys = f32(rng.standard_normal((100, 21)) * np.exp(3 * rng.standard_normal((100, 1))))
    keys[3], keys[5, 2], keys[7], keys[9] = 0, np.nan, 1e-30, 1e30
    codes, terms = codes_of(keys, 130)
    assert (codes[7:] == 99).all()
    assert np.isnan(terms[7:]).all()
    assert (codes[6, :, 4:] == 0).all()
    table = codes[:7].transpose(0, 2, 1, 3).reshape(112, 24)
    assert (table[:, 21:] == 0).all()
    assert np.abs(table[:, :21]).max() == 63
    unit, norm, residual, total = terms[:7].transpose(1, 0, 2).reshape(4, 112)[:, :100]
    np.testing.assert_array_equal(total, table[:100].sum(axis=1))
    assert (unit[[5, 7, 9]] == 0).all()
    assert (table[[5, 7, 9]] == 0).all()
    assert unit[3] == 1
    scaled = np.where(unit[:, None] > 0, keys.astype(float) * unit[:, None], 0)
    for got, exact in ((norm, scaled), (residual, scaled - table[:100, :21])):
        exact = np.linalg.norm(exact, axis=1)
        assert (got >= exact).all()
        np.testing.assert_allclose(got, exact, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("first", [0, 1, 16, 33, 50])
def test_codes_of_rows_that_were_added(first, rng):
    keys = f32(rng.standard_normal((50, 6)))
    whole = codes_of(keys, 64)
    parts = codes_of(keys[:first], 64)
    codes_of(keys, first=first, into=parts)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(a, b)


def test_bad_codes_are_refused(rng):
    keys = f32(rng.standard_normal((40, 6)))
    codes, terms = codes_of(keys)
    best = np.empty((1, 2), np.float32), np.empty((1, 2), int)
    for wrong in ((codes[:2], terms), (codes, terms[:2]), (codes[:, :1], terms), (codes, terms.astype(float)),
                  (codes[:, :, ::-1], terms)):  # fmt: skip
        with pytest.raises(ValueError, match="codes"):
            _core.retrieve(keys[:1], keys, None, None, None, None, *best, *wrong)
        with pytest.raises(ValueError, match="codes"):
            _core.encode_keys(keys, 0, *wrong)
    with pytest.raises(ValueError, match="first"):
        _core.encode_keys(keys, 41, codes, terms)
    with pytest.raises(ValueError, match="codes"):
        _core.retrieve(keys[:1, ::-1], keys[:, ::-1], None, None, None, None, *best, codes, terms)
