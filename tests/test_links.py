"""Links of distances, and links of relation matrices, equal their float64 definitions."""

import numpy as np
import pytest
import reference
import relkernels as rk
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    DTYPES,
    columns,
    dtypes,
    lay_out,
    layouts,
    leads,
    maps,
    mlp,
    normal,
    rows,
    seeds,
    widths,
)

LINKS = rk.ops.LINKS
DISTANCES = rk.ops.LINKS_OF_DISTANCE
POINTWISE = tuple(link for link in LINKS if link not in DISTANCES)


@pytest.fixture
def threads():
    before = rk.get_num_threads()
    yield rk.set_num_threads
    rk.set_num_threads(before)


def bound(dtype, depth):
    """The bound of docs/accuracy.md on the error of a link of distances between points."""
    u = np.finfo(dtype).eps / 2
    return u * (0.37 * (min(depth, 256) + np.ceil(depth / 256) + 5) + 8)


def test_names():
    assert set(DISTANCES) == {"gaussian", "matern12", "matern32", "matern52"}
    assert set(DISTANCES) < set(LINKS)


@given(dtypes, rows, columns, widths, st.sampled_from(DISTANCES), st.booleans(), layouts, leads(2), seeds)
def test_matrix_and_product_are_within_the_bound(dtype, n, m, d, link, far, layout, lead, seed):
    rng = np.random.default_rng(seed)
    at = dtype(1e4) if far else dtype(0)
    x = lay_out(normal(rng, (*lead[0], n, d), dtype) + at, layout)
    y = lay_out(normal(rng, (*lead[1], m, d), dtype) + at, layout)
    scale = 0.7 / d
    expected = reference.linked_relation(x, y, link_name=link, scale=scale)
    r = rk.relation_matrix(x, y, link=link, scale=scale)
    assert r.dtype == dtype
    limit = bound(dtype, d)
    assert (np.abs(r - expected) <= limit).all()

    v = normal(rng, (*lead[1], m), dtype)
    u = rk.relation_matvec(x, y, v, link=link, scale=scale)
    size = (expected @ np.abs(reference.float64(v))[..., None])[..., 0]
    many = np.sqrt(max(m, 1)) * np.finfo(dtype).eps
    magnitude = np.abs(reference.float64(v)).sum(axis=-1)[..., None]
    error = np.abs(u - (expected @ reference.float64(v)[..., None])[..., 0])
    assert (error <= bound(dtype, d) * magnitude + many * size).all()


@given(st.data(), dtypes, rows, columns, widths, st.sampled_from(LINKS), st.sampled_from([1, 2]), seeds)
def test_matrix_of_features(data, dtype, n, m, d, link, heads, seed):
    rng = np.random.default_rng(seed)
    phi, psi = data.draw(maps(dtype, d, 4, rng)), mlp(rng, [d, 4], dtype)
    x, y = normal(rng, (n, d), dtype), normal(rng, (m, d), dtype)
    if phi is None:
        psi = None
    r = rk.relation_matrix(x, y, phi, psi, link=link, scale=0.1, heads=heads)
    f, g = reference.both_features(x, y, phi, psi)
    pairs = zip(np.split(f, heads, axis=-1), np.split(g, heads, axis=-1), strict=True)
    expected = [reference.linked_relation(a, b, link_name=link, scale=0.1) for a, b in pairs]
    expected = np.stack(expected) if heads > 1 else expected[0]
    a, b = reference.feature_magnitude(x, phi), reference.feature_magnitude(y, phi if psi is None else psi)
    size = (1 + a.sum(axis=-1)[:, None] ** 2 + b.sum(axis=-1)[None] ** 2) * (1 + np.abs(expected))
    # The slope of matern12 at equal features is infinite.
    bounds = 1e-3 if link == "matern12" else 2e-6
    limit = {np.float32: bounds, np.float64: bounds * 1e-8 if link != "matern12" else 3e-8}[dtype]
    assert (np.abs(r - expected) <= limit * size).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("link", DISTANCES)
def test_a_point_is_at_distance_0_of_itself(link, dtype, rng):
    x = normal(rng, (300, 5), dtype) * dtype(1e6) + dtype(1e7)
    r = rk.relation_matrix(x, link=link, scale=1e-9)
    assert (np.diagonal(r) == 1).all()
    np.testing.assert_array_equal(r, r.T)
    np.testing.assert_array_equal(r, rk.relation_matrix(x, x.copy(), link=link, scale=1e-9))
    product = rk.relation_matvec(x[7:8], x, np.eye(300, dtype=dtype)[7], link=link, scale=1e-9)
    assert product == 1


@pytest.mark.parametrize("link", LINKS)
def test_the_symmetric_matrix_is_symmetric(link, rng):
    phi = mlp(rng, [5, 16, 6], np.float32)
    for n in (1, 50, 1100):
        for map_ in (None, phi):
            x = normal(rng, (n, 5), np.float32)
            r = rk.relation_matrix(x, phi=map_, link=link, scale=0.3)
            np.testing.assert_array_equal(r, r.T)
            np.testing.assert_array_equal(r, rk.relation_matrix(x, x.copy(), map_, link=link, scale=0.3))
    batch = normal(rng, (9, 7, 5), np.float32)
    together = rk.relation_matrix(batch, phi=phi, link=link, scale=0.3)
    for item, r in zip(batch, together, strict=True):
        np.testing.assert_array_equal(r, rk.relation_matrix(item, phi=phi, link=link, scale=0.3))


def test_far_points_keep_their_digits(rng):
    """1e-6 of the sum at 1,000 spreads from the origin, where products of float32 keep no digit."""
    x = normal(rng, (400, 3), np.float32) * np.float32(0.1) + np.float32(100)
    v = rng.random(400).astype(np.float32)
    for link in DISTANCES:
        u = rk.relation_matvec(x, x, v, link=link, scale=100.0)
        expected = reference.relation_matvec(x, x, v[:, None], link_name=link, scale=100.0)[:, 0]
        np.testing.assert_allclose(u, expected, rtol=1e-6)


@pytest.mark.parametrize("link", DISTANCES)
def test_extreme_and_missing_values(link):
    big = np.finfo(np.float32).max
    x = np.array([[0, 0], [1e25, 0], [np.inf, 0], [np.nan, 0], [big, big]], np.float32)
    y = np.array([[0, 0], [1e-30, 0], [3, 4]], np.float32)
    r = rk.relation_matrix(x, y, link=link)
    assert (r[0, :2] == 1).all()
    assert 0 < r[0, 2] < 1
    assert (r[[1, 2, 4]] == 0).all()
    assert np.isnan(r[3]).all()
    v = np.ones(3, np.float32)
    u = rk.relation_matvec(x, y, v, link=link)
    assert np.isnan(u[3])
    assert np.isfinite(u[[0, 1, 2, 4]]).all()
    assert (rk.relation_matrix(x[:1], y, link=link, scale=0.0) == 1).all()
    grads = rk.relation_matvec_vjp(x[:2], y, v, np.ones(2, np.float32), link=link)
    assert all(np.isfinite(g).all() for g in grads[:3])


@pytest.mark.parametrize("link", DISTANCES)
def test_bits_do_not_depend_on_threads_or_the_other_rows(link, threads, rng):
    x, y = normal(rng, (230, 19), np.float32), normal(rng, (4300, 19), np.float32)
    v = normal(rng, (4300, 3), np.float32)

    def call(part, vectors=v):
        return rk.relation_matvec(part, y, vectors, link=link, scale=0.1)

    threads(1)
    whole, one = call(x), call(x, v[:, 1].copy())
    threads(2)
    np.testing.assert_array_equal(whole, call(x))
    for cut in (slice(0, 1), slice(1, 4), slice(100, 197)):
        np.testing.assert_array_equal(whole[cut], call(x[cut]))
        np.testing.assert_array_equal(one[cut], call(x[cut], v[:, 1].copy()))
    r = rk.relation_matrix(x, y, link=link, scale=0.1)
    np.testing.assert_array_equal(r[5:7], rk.relation_matrix(x[5:7], y, link=link, scale=0.1))


@pytest.mark.parametrize("link", DISTANCES)
def test_16_bit_points_equal_their_float32_values(link, rng):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for half in (np.float16, ml_dtypes.bfloat16):
        x, y = normal(rng, (70, 6), np.float32).astype(half), normal(rng, (300, 6), np.float32).astype(half)
        v = normal(rng, (300,), np.float32).astype(half)
        wide = [a.astype(np.float32) for a in (x, y, v)]
        np.testing.assert_array_equal(
            rk.relation_matvec(x, y, v, link=link), rk.relation_matvec(*wide, link=link).astype(half)
        )
        np.testing.assert_array_equal(
            rk.relation_matrix(x, y, link=link), rk.relation_matrix(*wide[:2], link=link).astype(half)
        )


def test_vectors_are_told_by_their_dimensions(rng):
    """The same with all sizes equal, where shapes alone would not say."""
    for b, n, m, c in ((3, 3, 3, 3), (2, 5, 4, 3), (1, 1, 1, 1)):
        x, y = normal(rng, (b, n, 2), np.float64), normal(rng, (b, m, 2), np.float64)
        v, w = normal(rng, (b, m), np.float64), normal(rng, (b, m, c), np.float64)
        r = x @ y.swapaxes(1, 2)
        np.testing.assert_allclose(rk.relation_matvec(x, y, v), np.einsum("bnm,bm->bn", r, v), rtol=1e-13)
        np.testing.assert_allclose(rk.relation_matvec(x, y, w), r @ w, rtol=1e-13)
        np.testing.assert_allclose(rk.relation_matvec(x, y, v[0]), r @ v[0], rtol=1e-13)
        np.testing.assert_allclose(rk.relation_matvec(x[0], y[0], w[0]), r[0] @ w[0], rtol=1e-13)
        np.testing.assert_allclose(rk.relation_matvec(x[0], y[0], w), r[0] @ w, rtol=1e-13)
    with pytest.raises(
        ValueError, match=r"v: expected shape \(\.\.\., 4\), or \(\.\.\., 4, c\) with as many"
    ):
        rk.relation_matvec(np.ones((2, 4)), np.ones((4, 4)), np.ones((2, 4)))


def test_bad_arguments(rng):
    x = normal(rng, (4, 3), np.float32)
    v = np.ones(4, np.float32)
    for call in (rk.relation_matrix, lambda x, **options: rk.relation_matvec(x, x, v, **options)):
        with pytest.raises(ValueError, match="scale: expected a number >= 0 with link 'gaussian', got -1"):
            call(x, link="gaussian", scale=-1.0)
        with pytest.raises(ValueError, match="precision: expected None with link 'matern12'"):
            call(x, link="matern12", precision="bf16")
        with pytest.raises(ValueError, match=r"link: expected one of .*'gauss'"):
            call(x, link="gauss")
        with pytest.raises(TypeError, match="link"):
            call(x, link=3)


# ---- gradients


def derivative(function, a, direction):
    step = 1e-6
    return (function(a + step * direction) - function(a - step * direction)) / (2 * step)


@given(
    st.data(), st.sampled_from([0, 1, 5, 33]), st.sampled_from([0, 1, 7, 257]), st.sampled_from([1, 3, 17])
)
def test_gradients_equal_finite_differences(data, n, m, d):
    link, c = data.draw(st.sampled_from(LINKS)), data.draw(st.sampled_from([None, 0, 1, 3]))
    rng = np.random.default_rng(data.draw(seeds))
    lead = data.draw(leads(3))
    layout = data.draw(layouts.filter(lambda name: name != "misaligned"))
    x = lay_out(normal(rng, (*lead[0], n, d), np.float64), layout)
    y = lay_out(normal(rng, (*lead[1], m, d), np.float64), layout)
    v = normal(rng, (*(1,) * (y.ndim - 2 - len(lead[2])), *lead[2], m, c or 1), np.float64)
    v = v[..., 0] if c is None and v.ndim == y.ndim else v[..., :c]
    phi = data.draw(st.sampled_from([None, mlp(rng, [d, 5, 4], np.float64, "tanh")]))
    scale = 0.4
    out = rk.relation_matvec(x, y, v, phi, link=link, scale=scale)
    grad = normal(rng, out.shape, np.float64)
    found = rk.relation_matvec_vjp(x, y, v, grad, phi, link=link, scale=scale)

    def value(x=x, y=y, v=v, scale=scale):
        return (grad * rk.relation_matvec(x, y, v, phi, link=link, scale=scale)).sum()

    size = 1 + np.abs(grad).sum() * (1 + np.abs(v).max(initial=0))
    for name, of in (("x", x), ("y", y), ("v", v)):
        direction = normal(rng, of.shape, np.float64)
        expected = derivative(lambda a, name=name: value(**{name: a}), of, direction)
        slope = getattr(found, f"grad_{name}")
        assert slope.shape == of.shape
        assert abs((slope * direction).sum() - expected) <= 1e-5 * size
    assert abs(found.grad_scale - derivative(lambda s: value(scale=s), scale, 1.0)) <= 1e-5 * size
    assert (found.grad_phi is None) == (phi is None)
    assert found.grad_psi is None


@pytest.mark.parametrize("link", LINKS)
def test_gradients_of_a_matrix(link, rng):
    x, y = normal(rng, (40, 6), np.float64), normal(rng, (300, 6), np.float64)
    for heads in (1, 3):
        grad = normal(rng, (*((heads,) if heads > 1 else ()), 40, 300), np.float64)
        for above in (grad, np.ascontiguousarray(grad.swapaxes(-1, -2)).swapaxes(-1, -2)):
            found = rk.relation_matrix_vjp(x, y, above, link=link, scale=0.3, heads=heads)

            def value(x=x, y=y, scale=0.3, heads=heads, grad=grad):
                return (grad * rk.relation_matrix(x, y, link=link, scale=scale, heads=heads)).sum()

            for name, of in (("x", x), ("y", y)):
                direction = normal(rng, of.shape, np.float64)
                expected = derivative(lambda a, name=name: value(**{name: a}), of, direction)
                slope = (getattr(found, f"grad_{name}") * direction).sum()
                np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-3)
            expected = derivative(lambda s: value(scale=s), 0.3, 1.0)
            np.testing.assert_allclose(found.grad_scale, expected, rtol=1e-5, atol=1e-3)
            of_x = rk.relation_matrix_vjp(x, y, above, link=link, scale=0.3, heads=heads, of="x")
            np.testing.assert_array_equal(of_x.grad_x, found.grad_x)


@pytest.mark.parametrize("link", LINKS)
def test_gradients_have_the_same_bits(link, threads, rng):
    phi = mlp(rng, [5, 24, 9], np.float32)
    x, y = normal(rng, (230, 5), np.float32), normal(rng, (4300, 5), np.float32)
    v, grad = normal(rng, (4300, 3), np.float32), normal(rng, (230, 3), np.float32)

    def call(part=slice(None), maps=(phi,)):
        return rk.relation_matvec_vjp(x[part], y, v, grad[part], *maps, link=link, scale=0.1)

    threads(1)
    before = call()
    threads(2)
    after = call()
    for a, b in zip(
        (*before[:3], *before.grad_phi.weights), (*after[:3], *after.grad_phi.weights), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert before.grad_scale == after.grad_scale
    plain = call(maps=()).grad_x
    for cut in (slice(0, 1), slice(1, 4), slice(100, 197)):
        np.testing.assert_array_equal(plain[cut], call(cut, ()).grad_x)


def test_gradients_of_far_points_keep_their_digits(rng):
    """Those of distances; float32 at 1,000 spreads from the origin."""
    x = normal(rng, (50, 3), np.float32) * np.float32(0.1) + np.float32(100)
    y = normal(rng, (400, 3), np.float32) * np.float32(0.1) + np.float32(100)
    v, grad = rng.random(400).astype(np.float32), rng.random(50).astype(np.float32)
    for link in DISTANCES:
        found = rk.relation_matvec_vjp(x, y, v, grad, link=link, scale=50.0)
        exact = rk.relation_matvec_vjp(
            *(a.astype(np.float64) for a in (x, y, v, grad)), link=link, scale=50.0
        )
        for a, b in zip(found[:3], exact[:3], strict=True):
            assert np.abs(a - b).max() <= 3e-6 * np.abs(b).max()
        assert found.grad_scale == pytest.approx(exact.grad_scale, rel=1e-5)


def test_slopes_at_kinks_are_zero():
    x = np.ones((1, 2))
    found = rk.relation_matvec_vjp(x, x.copy(), np.ones(1), np.ones(1), link="matern12")
    assert (found.grad_x == 0).all()
    assert found.grad_scale == 0
    zero = np.zeros((1, 2))
    assert (rk.relation_matvec_vjp(zero, x, np.ones(1), np.ones(1), link="relu").grad_x == 0).all()


@pytest.mark.parametrize("link", LINKS)
def test_nan_reaches_only_what_depends_on_it(link, rng):
    x, y = normal(rng, (100, 5), np.float64), normal(rng, (300, 5), np.float64)
    v, grad = normal(rng, (300, 2), np.float64), normal(rng, (100, 2), np.float64)
    x[31] = np.nan
    others = np.arange(100) != 31
    u = rk.relation_matvec(x, y, v, link=link)
    assert np.isnan(u[31]).all() or link == "relu"
    assert np.isfinite(u[others]).all()
    found = rk.relation_matvec_vjp(x, y, v, grad, link=link)
    if link != "identity":  # whose gradient of a row does not depend on the row
        assert np.isnan(found.grad_x[31]).all()
    assert np.isfinite(found.grad_x[others]).all()


def test_gradients_reject_bad_arguments(rng):
    x, v = normal(rng, (4, 3), np.float32), np.ones(4, np.float32)
    with pytest.raises(ValueError, match=r"grad: expected shape \(4,\), that of the product, got \(4, 1\)"):
        rk.relation_matvec_vjp(x, x, v, np.ones((4, 1), np.float32))
    with pytest.raises(ValueError, match="scale: expected a number >= 0"):
        rk.relation_matvec_vjp(x, x, v, v, link="gaussian", scale=-1.0)
    with pytest.raises(TypeError, match="y: expected"):
        rk.relation_matvec_vjp(x, None, v, v)
