"""Vector-Jacobian products on a device equal those of the CPU in float64 (tested by differences)."""

import numpy as np
import pytest
import reference
import relkernels as rk
from cuda_cases import GRADIENT_BOUND, MANY, SMOOTH, Draw, assert_gradients, cases, double, exact, flat
from relkernels import cuda
from strategies import ACTIVATIONS, lay_out, mlp, normal


@exact
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_feature_map_vjp(device, activation, dtype, rng):
    phi = mlp(rng, [5, 33, 7, 3], dtype, activation, bias=activation != "tanh")
    for shape in [(2, 67), (0,), (1,)]:
        x, grad = normal(rng, (*shape, 5), dtype), normal(rng, (*shape, 3), dtype)
        got = device.feature_map_vjp(x, phi, grad)
        expected = rk.feature_map_vjp(x.astype(float), double(phi), grad.astype(float))
        assert_gradients(got, expected, dtype, 5 * GRADIENT_BOUND[dtype])


@exact
def test_feature_map_vjp_layouts(device, dtype):
    def check(data, rng):
        draw = Draw(device, data, rng, dtype)
        d, width, n = draw.width(), draw.width(), draw.size()
        (lead,) = draw.leads(1)
        phi = mlp(rng, [d, width, 4], dtype, draw.one_of(SMOOTH), bias=draw.one_of([True, False]))
        x, grad = draw.array(*lead, n, d), draw.array(*lead, n, 4)
        expected = rk.feature_map_vjp(x.astype(float), double(phi), grad.astype(float))
        assert_gradients(device.feature_map_vjp(x, phi, grad), expected, dtype, 10 * GRADIENT_BOUND[dtype])

    cases(device, check)


@exact
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("kind", ["asymmetric", "one map", "symmetric", "two maps of x", "features"])
@pytest.mark.parametrize("scale", [-0.7, 0.0])
def test_relation_matrix_vjp(device, scale, kind, heads, dtype, rng):
    phi, psi = mlp(rng, [4, 8, 6], dtype, "tanh"), mlp(rng, [4, 7, 6], dtype, "gelu")
    x, y = normal(rng, (2, 1, 11, 4), dtype), normal(rng, (1, 3, 70, 4), dtype)
    if kind == "features":
        phi, x, y = None, normal(rng, (67, 6), dtype), normal(rng, (2, 130, 6), dtype)
    second = None if kind in ("symmetric", "two maps of x") else y
    if kind in ("one map", "symmetric", "features"):
        psi = None
    shape = reference.relation_matrix(x, second, phi, psi, 1, heads).shape
    grad = lay_out(normal(rng, shape, dtype), "transposed")
    got = device.relation_matrix_vjp(x, second, grad, phi, psi, scale=scale, heads=heads)
    wide = [None if a is None else a.astype(float) for a in (x, second, grad)]
    expected = rk.relation_matrix_vjp(*wide, double(phi), double(psi), scale=scale, heads=heads)
    assert_gradients(got, expected, dtype, 5 * GRADIENT_BOUND[dtype])
    assert got.grad_scale.shape == ()
    assert_gradients([got.grad_scale], [np.array(expected.grad_scale)], dtype, 20 * GRADIENT_BOUND[dtype])


@exact
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_vjp(device, masked, causal, dtype, rng):
    phi, psi = mlp(rng, [4, 8, 6], dtype, "tanh"), mlp(rng, [4, 5, 6], dtype, "silu")
    for n, m, maps_ in [(1, 1, (None, None)), (70, 33, (phi, psi)), (33, 131, (phi, None))]:
        q, k = normal(rng, (2, n, 4), dtype), normal(rng, (1, m, 4), dtype)
        v, grad = normal(rng, (m, 3), dtype), normal(rng, (2, n, 3), dtype)
        mask = rng.random((n, m)) < 0.6 if masked else None
        options = {"scale": {1: None, 70: -0.7, 33: 0.0}[n], "mask": mask, "causal": causal}
        got = device.attention_vjp(q, k, v, grad, *maps_, **options)
        wide = [a.astype(float) for a in (q, k, v, grad)]
        expected = rk.attention_vjp(*wide, *map(double, maps_), **options)
        assert_gradients(got, expected, dtype, 10 * GRADIENT_BOUND[dtype])
        got_scale, wanted = [got.grad_scale], [np.array(expected.grad_scale)]
        assert_gradients(got_scale, wanted, dtype, 20 * GRADIENT_BOUND[dtype])


@exact
@pytest.mark.parametrize(("n", "m"), [(70, MANY), (MANY, 33)])
def test_gradients_over_several_chunks(device, n, m, dtype, rng):
    q, k, v = (normal(rng, shape, dtype) for shape in ((n, 5), (m, 5), (m, 3)))
    grad, grad_r = normal(rng, (n, 3), dtype), normal(rng, (n, m), dtype)
    wide = [a.astype(float) for a in (q, k, v, grad, grad_r)]
    got, expected = device.attention_vjp(q, k, v, grad), rk.attention_vjp(*wide[:4])
    assert_gradients(got, expected, dtype, 10 * GRADIENT_BOUND[dtype])
    got, expected = device.relation_matrix_vjp(q, k, grad_r), rk.relation_matrix_vjp(*wide[:2], wide[4])
    assert_gradients(got, expected, dtype, GRADIENT_BOUND[dtype] * 5)
    for a, b in zip(got[:2], device.relation_matrix_vjp(q, k, grad_r)[:2], strict=True):
        np.testing.assert_array_equal(a, b)


@exact
def test_gradients_of_a_map_over_many_rows(device, dtype, rng):
    phi = mlp(rng, [5, 33, 3], dtype, "tanh")
    x, grad = normal(rng, (3, 700, 5), dtype), normal(rng, (3, 700, 3), dtype)
    got = device.feature_map_vjp(x, phi, grad)
    expected = rk.feature_map_vjp(x.astype(float), double(phi), grad.astype(float))
    assert_gradients(got, expected, dtype, 5 * GRADIENT_BOUND[dtype])
    for a, b in zip(flat(got), flat(device.feature_map_vjp(x, phi, grad)), strict=True):
        np.testing.assert_array_equal(a, b)


@exact
@pytest.mark.parametrize("of", ["x", "y"])
def test_relation_matrix_vjp_of_one_side(device, of, dtype, rng):
    x, y, grad = normal(rng, (67, 6), dtype), normal(rng, (130, 6), dtype), normal(rng, (67, 130), dtype)
    both = device.relation_matrix_vjp(x, y, grad, scale=-0.7)
    one = device.relation_matrix_vjp(x, y, grad, scale=-0.7, of=of)
    for name in ("grad_x", "grad_y", "grad_scale"):
        if (name == "grad_y") == (of == "y"):
            np.testing.assert_array_equal(getattr(one, name), getattr(both, name))
        else:
            assert getattr(one, name) is None


@exact
def test_attention_vjp_from_the_result_of_attention(device, dtype, rng):
    q, k, v, grad = (normal(rng, (n, d), dtype) for n, d in ((67, 6), (130, 6), (130, 3), (67, 3)))
    there = [device.put(a) for a in (q, k, v, grad)]
    named = dict(zip("qkv", there, strict=False))
    result = cuda.call("attention", {**named, "return_lse": True})
    got = device.get(cuda.call("attention_vjp", {**named, "grad": there[3], "result": result}))
    for a, b in zip(got[:3], device.attention_vjp(q, k, v, grad)[:3], strict=True):
        np.testing.assert_array_equal(a, b)
