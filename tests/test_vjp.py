"""Vector-Jacobian products: against central finite differences in float64, and float32 against float64."""

import numpy as np
import pytest
import reference
import relkernels as rk
from hypothesis import given
from hypothesis import strategies as st
from strategies import ACTIVATIONS, lay_out, mlp, normal, seeds

SMOOTH = tuple(a for a in ACTIVATIONS if str(a) not in ("relu",) and getattr(a, "name", "") != "leaky_relu")


def difference(f, array, direction, step=1e-6):
    """Return the derivative of f along a direction in one of its arrays (changed in place and restored)."""
    kept = array.copy()
    array += step * direction
    high = f()
    array[...] = kept - step * direction
    low = f()
    array[...] = kept
    return (high - low) / (2 * step)


def check_directions(f, pairs, rng, tolerance=2e-7):
    """Check that <gradient, direction> equals the derivative along it, for each (array, gradient)."""
    for array, gradient in pairs:
        assert gradient.shape == array.shape
        direction = rng.standard_normal(array.shape)
        expected = difference(f, array, direction)
        scale = max(np.linalg.norm(gradient) * np.linalg.norm(direction), 1e-2)
        assert abs(expected - (gradient * direction).sum()) <= tolerance * scale


class Parameters:
    """Float64 weights that can be changed, and their MLP."""

    def __init__(self, rng, widths, activation="tanh", bias=True):
        made = mlp(rng, widths, np.float64, activation, bias)
        self.weights = [w.copy() for w in made.weights]
        self.biases = [b.copy() for b in made.biases] if bias else None
        self.activation = activation

    def mlp(self):
        return rk.MLP(self.weights, self.biases, self.activation)

    def pairs(self, gradient):
        assert (gradient.biases is None) == (self.biases is None)
        return list(zip(self.weights, gradient.weights, strict=True)) + list(
            zip(self.biases or [], gradient.biases or [], strict=True)
        )


@pytest.mark.parametrize("activation", SMOOTH, ids=str)
def test_feature_map_vjp_of_every_activation(activation, rng):
    phi = Parameters(rng, [5, 9, 7, 3], activation)
    x, grad = normal(rng, (21, 5), np.float64), normal(rng, (21, 3), np.float64)
    if getattr(activation, "name", "") == "relu_power":  # twice differentiable away from 0
        x = np.abs(x)
    grad_x, gradient = rk.feature_map_vjp(x, phi.mlp(), grad)

    def value():
        return (grad * reference.feature_map(x, phi.mlp())).sum()

    check_directions(
        value, [(x, grad_x), *phi.pairs(gradient)], rng, 1e-5 if "relu" in str(activation) else 2e-7
    )


@pytest.mark.parametrize("activation", ["relu", rk.leaky_relu(0.2)], ids=str)
def test_feature_map_vjp_of_kinked_activations(activation, rng):
    phi = mlp(rng, [4, 6, 2], np.float64, activation)
    x, grad = normal(rng, (70, 4), np.float64), normal(rng, (70, 2), np.float64)
    grad_x, gradient = rk.feature_map_vjp(x, phi, grad)
    slope = 0.0 if activation == "relu" else 0.2
    z = x @ phi.weights[0] + phi.biases[0]
    delta = (grad @ phi.weights[1].T) * np.where(z > 0, 1, slope)
    np.testing.assert_allclose(grad_x, delta @ phi.weights[0].T, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(gradient.weights[0], x.T @ delta, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(gradient.biases[0], delta.sum(0), rtol=1e-11, atol=1e-12)


@given(
    st.sampled_from([0, 1, 63, 64, 65, 200]),
    st.sampled_from([1, 2, 16, 33]),
    st.sampled_from([1, 3, 32]),
    st.sampled_from(["plain", "transposed", "sliced", "reversed"]),
    seeds,
)
def test_feature_map_vjp_shapes_and_layouts(n, d, width, layout, seed):
    rng = np.random.default_rng(seed)
    phi = mlp(rng, [d, width, 4], np.float64, "tanh", bias=bool(seed % 2))
    x, grad = normal(rng, (2, n, d), np.float64), normal(rng, (2, n, 4), np.float64)
    grad_x, gradient = rk.feature_map_vjp(lay_out(x, layout), phi, lay_out(grad, layout))
    bias = phi.biases[0] if phi.biases else 0
    h = np.tanh(x @ phi.weights[0] + bias)
    delta = grad @ phi.weights[1].T * (1 - h**2)
    np.testing.assert_allclose(grad_x, delta @ phi.weights[0].T, rtol=1e-10, atol=1e-11)
    expected = np.einsum("bni,bnj->ij", x, delta)
    np.testing.assert_allclose(gradient.weights[0], expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(gradient.weights[1], np.einsum("bni,bnj->ij", h, grad), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("kind", ["asymmetric", "one map", "symmetric", "two maps of x", "broadcast"])
def test_relation_matrix_vjp(kind, heads, rng):
    phi, psi = Parameters(rng, [4, 8, 6]), Parameters(rng, [5, 7, 6])
    x, y = normal(rng, (2, 11, 4), np.float64), normal(rng, (2, 13, 5), np.float64)
    if kind == "broadcast":
        x = x[:1, :].copy()
        y = normal(rng, (3, 1, 13, 5), np.float64)
    if kind in ("one map", "two maps of x"):
        psi = phi if kind == "one map" else Parameters(rng, [4, 7, 6])
        y = normal(rng, (2, 13, 4), np.float64)
    no_y = kind in ("symmetric", "two maps of x")
    no_psi = kind in ("one map", "symmetric")

    def relation():
        second = None if no_psi else psi.mlp()
        return rk.relation_matrix(x, None if no_y else y, phi.mlp(), second, scale=0.7, heads=heads)

    grad = normal(rng, relation().shape, np.float64)
    grad_x, grad_y, grad_phi, grad_psi = rk.relation_matrix_vjp(
        x,
        None if no_y else y,
        grad,
        phi.mlp(),
        None if no_psi else psi.mlp(),
        scale=0.7,
        heads=heads,
    )
    pairs = [(x, grad_x), *phi.pairs(grad_phi)]
    assert (grad_y is None) == no_y
    assert (grad_psi is None) == no_psi
    if not no_y:
        pairs.append((y, grad_y))
    if not no_psi:
        pairs += psi.pairs(grad_psi)
    check_directions(lambda: (grad * relation()).sum(), pairs, rng)


@pytest.mark.parametrize("one_map", [False, True])
def test_relation_matrix_vjp_of_one_side(one_map, rng):
    phi = Parameters(rng, [4, 8, 6]).mlp()
    psi = None if one_map else Parameters(rng, [4, 7, 6]).mlp()
    x, y = normal(rng, (2, 11, 4), np.float64), normal(rng, (13, 4), np.float64)
    grad = normal(rng, (2, 11, 13), np.float64)
    both = rk.relation_matrix_vjp(x, y, grad, phi, psi, scale=0.7)
    of_x, of_y = (rk.relation_matrix_vjp(x, y, grad, phi, psi, scale=0.7, of=of) for of in ("x", "y"))
    np.testing.assert_array_equal(of_x.grad_x, both.grad_x)
    np.testing.assert_array_equal(of_y.grad_y, both.grad_y)
    assert of_x.grad_scale == both.grad_scale
    assert (of_x.grad_y, of_x.grad_psi, of_y.grad_x, of_y.grad_scale) == (None,) * 4
    if one_map:
        weights = [a + b for a, b in zip(of_x.grad_phi.weights, of_y.grad_phi.weights, strict=True)]
        np.testing.assert_array_equal(weights[0], both.grad_phi.weights[0])
    else:
        assert of_y.grad_phi is None
        np.testing.assert_array_equal(of_x.grad_phi.weights[0], both.grad_phi.weights[0])
        np.testing.assert_array_equal(of_y.grad_psi.weights[0], both.grad_psi.weights[0])


def test_attention_vjp_from_the_result_of_attention(rng):
    phi = Parameters(rng, [4, 8, 6]).mlp()
    q, k, v = (normal(rng, shape, np.float64) for shape in ((2, 9, 4), (15, 4), (15, 3)))
    grad, options = normal(rng, (2, 9, 3), np.float64), {"scale": -0.3, "causal": True}
    out, lse = rk.attention(q, k, v, phi, return_lse=True, **options)
    expected = rk.attention_vjp(q, k, v, grad, phi, **options)
    for result in ((out, lse), (lay_out(out, "sliced"), lay_out(lse, "transposed"))):
        got = rk.attention_vjp(q, k, v, grad, phi, **options, result=result)
        for a, b in zip(got[:3], expected[:3], strict=True):
            np.testing.assert_array_equal(a, b)
        assert got.grad_scale == expected.grad_scale


def test_relation_matrix_vjp_reads_any_strides(rng):
    f, g = normal(rng, (300, 7), np.float64), normal(rng, (520, 7), np.float64)
    grad = normal(rng, (300, 520), np.float64)
    for layout in ("plain", "transposed", "sliced", "reversed", "broadcast"):
        laid = lay_out(grad, layout)
        grad_f, grad_g, _, _ = rk.relation_matrix_vjp(f, g, laid)
        np.testing.assert_allclose(grad_f, laid @ g, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(grad_g, laid.T @ f, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("one_map", [False, True])
def test_attention_vjp(causal, masked, one_map, rng):
    phi = Parameters(rng, [4, 8, 6])
    psi = phi if one_map else Parameters(rng, [4, 5, 6])
    q, k = normal(rng, (2, 9, 4), np.float64), normal(rng, (1, 15, 4), np.float64)
    v, grad = normal(rng, (15, 3), np.float64), normal(rng, (2, 9, 3), np.float64)
    mask = rng.random((9, 15)) < 0.6 if masked else None
    options = {"mask": mask, "causal": causal}
    second = None if one_map else psi.mlp()
    grad_q, grad_k, grad_v, grad_phi, grad_psi = rk.attention_vjp(q, k, v, grad, phi.mlp(), second, **options)

    def value():
        maps = (phi.mlp(), None if one_map else psi.mlp())
        return (grad * reference.attention(q, k, v, *maps, **options)[0]).sum()

    pairs = [(q, grad_q), (k, grad_k), (v, grad_v), *phi.pairs(grad_phi)]
    assert (grad_psi is None) == one_map
    check_directions(value, pairs + ([] if one_map else psi.pairs(grad_psi)), rng)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (97, 257), (300, 2300), (2300, 70)])
def test_attention_vjp_over_tiles_and_chunks(n, m, causal, rng):
    q, k, v = (normal(rng, s, np.float64) for s in [(n, 5), (m, 5), (m, 3)])
    grad = normal(rng, (n, 3), np.float64)
    grad_q, grad_k, grad_v, _, _ = rk.attention_vjp(q, k, v, grad, causal=causal)
    scores, _ = reference.scores_and_lse(q, k, causal=causal)
    above = grad @ v.T
    below = scores * (above - (grad * (scores @ v)).sum(1, keepdims=True)) / np.sqrt(5)
    np.testing.assert_allclose(grad_q, below @ k, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(grad_k, below.T @ q, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(grad_v, scores.T @ grad, rtol=1e-9, atol=1e-11)


def test_float32_gradients_are_those_of_float64(rng):
    """Norm-wise within 1e-5: sums of hundreds of float32 terms with cancellation."""
    phi = mlp(rng, [6, 40, 8], np.float64, "gelu")
    small = rk.MLP([w.astype("f4") for w in phi.weights], [b.astype("f4") for b in phi.biases], "gelu")
    x, y, v = (normal(rng, s, np.float64) for s in [(150, 6), (310, 6), (310, 4)])
    grad_a, grad_r = normal(rng, (150, 4), np.float64), normal(rng, (150, 310), np.float64)

    def flat(result):
        parts = [a for a in result if isinstance(a, np.ndarray)]
        for gradient in result:
            if isinstance(gradient, rk.MLPGradient):
                parts += gradient.weights + gradient.biases
        return parts

    cases = [
        (rk.attention_vjp(x, y, v, grad_a, phi), [x, y, v, grad_a], rk.attention_vjp),
        (rk.relation_matrix_vjp(x, y, grad_r, phi), [x, y, grad_r], rk.relation_matrix_vjp),
    ]
    for expected, arguments, operation in cases:
        got = operation(*(a.astype("f4") for a in arguments), small)
        for a, b in zip(flat(got), flat(expected), strict=True):
            assert a.dtype == np.float32
            assert reference.relative_error(a, b) <= 1e-5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_attention_vjp_with_values_of_no_columns(dtype, rng):
    """Nothing depends on the scores. Memory is used beforehand, so that unwritten results are noticed."""
    q, k = normal(rng, (17, 8), dtype), normal(rng, (70, 8), dtype)
    rk.attention_vjp(q, k, normal(rng, (70, 5), dtype), normal(rng, (17, 5), dtype))
    gradients = rk.attention_vjp(q, k, np.empty((70, 0), dtype), np.empty((17, 0), dtype))[:3]
    assert [g.shape for g in gradients] == [(17, 8), (70, 8), (70, 0)]
    assert not any(g.any() for g in gradients)


def attention_gradients(q, k, v, grad, allowed=None):
    """Return the gradients of q, k and v and of the scale, written out in float64."""
    q, k, v, grad = (np.float64(a) for a in (q, k, v, grad))
    scale = 1 / np.sqrt(q.shape[-1])
    r = scale * q @ k.T
    r = r if allowed is None else np.where(allowed, r, -np.inf)
    p = np.exp(r - np.maximum(r.max(-1, keepdims=True), -1e300))
    p /= np.maximum(p.sum(-1, keepdims=True), 1e-300)
    dp = grad @ v.T
    dr = p * (dp - (p * dp).sum(-1, keepdims=True))
    return scale * dr @ k, scale * dr.T @ q, p.T @ grad, (dr * (q @ k.T)).sum()


# Several tiles, lanes of several blocks of keys, and several super-blocks of queries (the last).
SHAPES = [(1, 700), (700, 1), (33, 31), (513, 300), (300, 513), (129, 4200), (4200, 129), (2100, 4200)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_attention_vjp_of_many_tiles_on_any_threads_in_any_batch(shape, rng):
    n, m = shape
    width, values = (64, 8) if n * m > 2**22 else (5, 3)
    arrays = [normal(rng, s, np.float32) for s in ((n, width), (m, width), (m, values), (n, values))]
    found = rk.attention_vjp(*arrays)
    expected = attention_gradients(*arrays)
    for a, b in zip(found[:3], expected, strict=False):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5 * max(1, np.abs(b).max()))
    assert found.grad_scale == pytest.approx(expected[3], rel=1e-3, abs=1e-3)
    threads = rk.get_num_threads()
    try:
        for count in (1, 2, 5):
            rk.set_num_threads(count)
            again = rk.attention_vjp(*arrays)
            items = rk.attention_vjp(*(np.stack([a[::-1], a]) for a in arrays))
            for a, b, c in zip(found[:3], again[:3], items[:3], strict=True):
                np.testing.assert_array_equal(a, b)
                np.testing.assert_array_equal(a, c[1])
            assert found.grad_scale == again.grad_scale
    finally:
        rk.set_num_threads(threads)


@pytest.mark.parametrize("shape", [(300, 400), (400, 300)], ids=str)
@pytest.mark.parametrize("kind", ["mask", "causal", "window"])
def test_attention_vjp_of_many_tiles_under_masks(shape, kind, rng):
    n, m = shape
    q, k, v, grad = (normal(rng, s, np.float64) for s in ((n, 5), (m, 5), (m, 3), (n, 3)))
    options = {
        "mask": {"mask": rng.random(shape) < 0.1},
        "causal": {"causal": True},
        "window": {"window": 7},
    }[kind]
    if kind == "mask":
        options["mask"][:, 17] = options["mask"][200] = False
    allowed = reference.allowed(
        shape, options.get("mask"), kind == "causal", options.get("window"), "upper_left"
    )
    expected = attention_gradients(q, k, v, grad, allowed)
    if kind == "mask":  # what nobody may attend to, and who may attend to nothing, spoil nothing
        k[17], v[17], q[200] = np.nan, np.inf, np.nan
    found = rk.attention_vjp(q, k, v, grad, **options)
    for a, b in zip(found[:3], expected, strict=False):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)
    assert found.grad_scale == pytest.approx(expected[3], rel=1e-9)
