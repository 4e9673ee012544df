"""Links of relation matrices, and the gradients of links, on a device (CPU: test_links.py, test_vjp.py)."""

import numpy as np
import pytest
import reference
import relkernels as rk
from cuda_cases import (
    BF16,
    BOUND,
    F4,
    F8,
    F16,
    GRADIENT_BOUND,
    MANY,
    OF_ATTENTION,
    Draw,
    arithmetic,
    assert_close,
    assert_gradients,
    cases,
    double,
    exact,
    largest_term,
)
from strategies import lay_out, mlp, normal

LINKS = rk.ops.LINKS
DISTANCES = rk.ops.LINKS_OF_DISTANCE
POINTWISE = tuple(link for link in LINKS if link not in (*DISTANCES, "identity"))


@arithmetic
@pytest.mark.parametrize("link", POINTWISE)
def test_relation_matrix(device, link, dtype, precision):
    def check(data, rng):
        draw = Draw(device, data, rng, dtype)
        d, n, m, heads = draw.width(), draw.size(), draw.size(), draw.one_of([1, 1, 2])
        phi, psi = draw.maps(d, d, 4) if heads == 1 else (None, None)
        if phi is None and d % heads:
            d, heads = 2 * d, 2
        lead_x, lead_y = draw.leads(2)
        x, y = draw.array(*lead_x, n, d), draw.one_of([None, draw.array(*lead_y, m, d)])
        psi = None if y is None else psi
        out = device.relation_matrix(x, y, phi, psi, link=link, scale=0.1, heads=heads, precision=precision)
        r = reference.relation_matrix(x, y, phi, psi, 0.1, heads)
        other = x if y is None else y
        grows = 1 + 0.1 * largest_term(x, other, phi, psi)
        bound = OF_ATTENTION.get((dtype, precision), BOUND[dtype, precision]) * grows
        if precision or dtype in (BF16, F16):
            bound *= 1 + sum(len(p.weights) for p in (phi, psi) if p)
            if bound > 0.1 or (dtype == F16 and np.max(r, initial=0) > 10):
                return  # the error of the exponents is as large as the exponents, or results overflow
        assert out.dtype == dtype
        if y is None:
            np.testing.assert_array_equal(out, np.swapaxes(out, -1, -2))
        assert_close(out, reference.link(link, r), bound, np.linalg.norm(reference.link(link, np.abs(r))))

    cases(device, check)


@pytest.mark.parametrize("dtype", [F4, F8, BF16, F16], ids=["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("link", DISTANCES)
def test_relation_matrix_of_distances(device, link, dtype, rng):
    for n, m, heads, symmetric in [
        (1, 1, 1, False),
        (67, 130, 2, False),
        (33, 33, 1, True),
        (130, 130, 3, True),
    ]:
        x, y = normal(rng, (2, n, 6), dtype), normal(rng, (m, 6), dtype)
        y = None if symmetric else y
        out = device.relation_matrix(x, y, link=link, scale=0.2, heads=heads)
        assert out.dtype == dtype
        bound = {BF16: 1e-2, F16: 2e-3}.get(dtype, 20 * BOUND.get((dtype, None), 0))
        for h in range(heads):
            part = np.s_[..., h * (6 // heads) : (h + 1) * (6 // heads)]
            expected = reference.linked_relation(
                x[part], x[part] if y is None else y[part], link_name=link, scale=0.2
            )
            got = out if heads == 1 else out[..., h, :, :]
            np.testing.assert_allclose(reference.float64(got), expected, rtol=0, atol=bound)
        if symmetric:
            np.testing.assert_array_equal(out, np.swapaxes(out, -1, -2))
            assert (np.diagonal(out, axis1=-1, axis2=-2) == 1).all()


def compare(got, expected, dtype, bound):
    """Compare all gradients, that of the scale among them."""
    assert_gradients(got, expected, dtype, bound)
    assert got.grad_scale.shape == ()
    assert_gradients([got.grad_scale], [np.array(expected.grad_scale)], dtype, 4 * bound)


@exact
@pytest.mark.parametrize("link", LINKS)
def test_relation_matvec_vjp(device, link, dtype):
    def check(data, rng):
        draw = Draw(device, data, rng, dtype)
        d, n, m = draw.one_of([1, 3, 8, 33, 65]), draw.size(), draw.size()
        c = draw.one_of([None, 0, 1, 3, 40])
        lead_x, lead_y = draw.leads(2)
        lead = np.broadcast_shapes(lead_x, lead_y)
        x, y = draw.array(*lead_x, n, d), draw.array(*lead_y, m, d)
        v = normal(rng, (*lead_y, m) if c is None else (*lead_y, m, c), dtype)
        grad = lay_out(
            normal(rng, (*lead, n) if c is None else (*lead, n, c), dtype), draw.one_of(["plain", "offset"])
        )
        options = {"link": link, "scale": draw.one_of([0.0, 0.3 / d])}
        got = device.relation_matvec_vjp(x, y, v, grad, **options)
        expected = rk.relation_matvec_vjp(*(a.astype(F8) for a in (x, y, v, grad)), **options)
        grows = 1 + options["scale"] * largest_term(x, y, None, None)
        compare(got, expected, dtype, GRADIENT_BOUND[dtype] * 10 * grows)

    cases(device, check)


@exact
@pytest.mark.parametrize("link", ["exp", "matern32"])
def test_relation_matvec_vjp_through_maps(device, link, dtype, rng):
    phi, psi = mlp(rng, [4, 8, 6], dtype, "tanh"), mlp(rng, [4, 7, 6], dtype, "gelu")
    x, y = normal(rng, (2, 1, 11, 4), dtype), normal(rng, (1, 3, 70, 4), dtype)
    v, grad = normal(rng, (70, 2), dtype), normal(rng, (2, 3, 11, 2), dtype)
    v = v[None, None]
    for maps in [(phi, psi), (phi, None)]:
        got = device.relation_matvec_vjp(x, y, v, grad, *maps, link=link, scale=0.3)
        wide = [a.astype(F8) for a in (x, y, v, grad)]
        expected = rk.relation_matvec_vjp(*wide, *map(double, maps), link=link, scale=0.3)
        compare(got, expected, dtype, 10 * GRADIENT_BOUND[dtype])


@exact
@pytest.mark.parametrize(("n", "m"), [(5, MANY), (MANY, 5)], ids=["many columns", "many rows"])
@pytest.mark.parametrize("link", ["relu", "matern52"])
def test_gradients_over_several_chunks(device, link, n, m, dtype, rng):
    """A block for each chunk, and one block for all chunks, give the same bits."""
    x, y, v, grad = (normal(rng, shape, dtype) for shape in ((n, 3), (m, 3), (m, 2), (n, 2)))
    got = device.relation_matvec_vjp(x, y, v, grad, link=link, scale=0.3)
    wide = [a.astype(F8) for a in (x, y, v, grad)]
    compare(got, rk.relation_matvec_vjp(*wide, link=link, scale=0.3), dtype, 20 * GRADIENT_BOUND[dtype])
    if n > m:
        return
    rows = np.concatenate([x, normal(rng, (300, 3), dtype)])
    slope = np.concatenate([grad, normal(rng, (300, 2), dtype)])
    more = device.relation_matvec_vjp(rows, y, v, slope, link=link, scale=0.3)
    np.testing.assert_array_equal(more.grad_x[:n], got.grad_x)
    slope[1:] = 0  # the sum over rows is the first one's part
    few, many = (device.relation_matvec_vjp(a, y, v, slope[: len(a)], link=link) for a in (x, rows))
    np.testing.assert_array_equal(few.grad_scale, many.grad_scale)


@exact
@pytest.mark.parametrize("link", [link for link in LINKS if link != "identity"])
@pytest.mark.parametrize("heads", [1, 2])
def test_relation_matrix_vjp(device, heads, link, dtype, rng):
    for n, m, lead_x, lead_y in [
        (1, 1, (), ()),
        (70, 33, (2, 1), (1, 3)),
        (17, 131, (), (2,)),
        (3, 0, (), ()),
    ]:
        x, y = normal(rng, (*lead_x, n, 6), dtype), normal(rng, (*lead_y, m, 6), dtype)
        for other in (y, None):
            shape = rk.relation_matrix(x, other, heads=heads).shape
            grad = lay_out(normal(rng, shape, dtype), "transposed")
            got = device.relation_matrix_vjp(x, other, grad, link=link, scale=0.2, heads=heads)
            wide = [None if a is None else a.astype(F8) for a in (x, other, grad)]
            expected = rk.relation_matrix_vjp(*wide, link=link, scale=0.2, heads=heads)
            compare(got, expected, dtype, 30 * GRADIENT_BOUND[dtype])
    for of in ("x", "y"):
        grad = normal(rng, rk.relation_matrix(x, y, heads=heads).shape, dtype)
        both = device.relation_matrix_vjp(x, y, grad, link=link, heads=heads)
        one = device.relation_matrix_vjp(x, y, grad, link=link, heads=heads, of=of)
        np.testing.assert_array_equal(getattr(one, f"grad_{of}"), getattr(both, f"grad_{of}"))


@exact
@pytest.mark.parametrize("link", DISTANCES)
def test_gradients_far_from_the_origin(device, link, dtype, rng):
    x, y, v, grad = (normal(rng, shape, F8) for shape in ((40, 3), (70, 3), (70, 2), (40, 2)))
    far = [np.round(a * 256).astype(dtype) / 256 + 1000 for a in (x, y)]  # exact in float32
    near = [a - 1000 for a in far]
    rest = v.astype(dtype), grad.astype(dtype)
    got = device.relation_matvec_vjp(*far, *rest, link=link, scale=0.5)
    expected = rk.relation_matvec_vjp(*(a.astype(F8) for a in (*near, *rest)), link=link, scale=0.5)
    compare(got, expected, dtype, 20 * GRADIENT_BOUND[dtype])


def test_kinks_have_a_slope_of_zero(device, rng):
    x, ones = normal(rng, (3, 2), F8), np.ones((1, 1))
    found = device.relation_matvec_vjp(x[:1], x[:1].copy(), ones[0], ones[0], link="matern12")
    assert (found.grad_x == 0).all()
    assert found.grad_scale == 0
    zero = np.zeros((1, 2))
    found = device.relation_matrix_vjp(zero, x[:1], ones, link="relu")
    assert (found.grad_x == 0).all()
