"""Scale: any finite number in every operation, and its gradient."""

import numpy as np
import pytest
import reference
import relkernels as rk
from hypothesis import given
from hypothesis import strategies as st
from strategies import mlp, normal, seeds
from test_vjp import Parameters, check_directions, difference

SCALES = [-0.7, 0.0, 1.0, 3.0]
LOSSES = ["squared", "logistic", "hinge", "softmax"]
scales = st.sampled_from([-3.0, -0.7, -0.0, 0.0, 0.5])
sizes = st.sampled_from([1, 2, 13, 97, 260])


def close(got, expected, dtype, magnitude=0.0):
    bound = 1e-5 if dtype == np.float32 else 1e-12
    reference.assert_close(got, expected, bound, np.atleast_1d(magnitude))


def check_slope(f, scale, got):
    """Derivative of f, which reads `scale`, an array of shape ()."""
    assert type(got) is float
    assert got == pytest.approx(difference(f, scale, 1.0), rel=1e-6, abs=1e-6)


@given(sizes, sizes, scales, st.sampled_from([np.float32, np.float64]), st.sampled_from([1, 2]), seeds)
def test_relations(n, m, scale, dtype, heads, seed):
    rng = np.random.default_rng(seed)
    phi, psi = mlp(rng, [4, 9, 6], dtype, "tanh"), mlp(rng, [3, 6], dtype)
    x, y, v = normal(rng, (n, 4), dtype), normal(rng, (m, 3), dtype), normal(rng, (m, 2), dtype)
    options = {"scale": scale, "heads": heads}
    close(
        rk.relation_matrix(x, y, phi, psi, **options),
        reference.relation_matrix(x, y, phi, psi, **options),
        dtype,
        1,
    )
    own = rk.relation_matrix(x, None, phi, **options)
    close(own, reference.relation_matrix(x, None, phi, **options), dtype, 1)
    np.testing.assert_array_equal(own, np.swapaxes(own, -1, -2))
    for link in ("identity", "exp", "relu", "square"):
        for c in (1, 2):
            got = rk.relation_matvec(x, y, v[:, :c], phi, psi, link=link, scale=scale)
            size = np.abs(reference.link(link, reference.relation_matrix(x, y, phi, psi, scale)))
            if link == "exp":  # multiplies a rounding error of the exponent by its own value
                f, g = (np.abs(reference.feature_map(a, p)) for a, p in ((x, phi), (y, psi)))
                size = size * (1 + abs(scale) * f @ g.T)
            size = size @ np.abs(v[:, :c])
            close(got, reference.relation_matvec(x, y, v[:, :c], phi, psi, link, scale), dtype, size + 1)


@given(sizes, sizes, scales, st.sampled_from([np.float32, np.float64]), st.booleans(), st.booleans(), seeds)
def test_attention(n, m, scale, dtype, causal, masked, seed):
    """With rows that may attend to nothing, and large products, so that a wrong maximum overflows."""
    rng = np.random.default_rng(seed)
    q, k, v = 15 * normal(rng, (n, 5), dtype), 15 * normal(rng, (m, 5), dtype), normal(rng, (m, 3), dtype)
    mask = rng.random((n, m)) < 0.4 if masked else None
    options = {"scale": scale, "mask": mask, "causal": causal}
    out, lse = rk.attention(q, k, v, return_lse=True, **options)
    expected, expected_lse = reference.attention(q, k, v, **options)
    wide = 30 if dtype == np.float32 else 1  # errors of products of 1,000 pass through exp
    close(out / wide, expected / wide, dtype, 10)
    close(lse, expected_lse, dtype, 1)
    scores = rk.attention_scores(q, k, **options)
    close(scores / wide, reference.attention_scores(q, k, **options) / wide, dtype, 10)
    assert (out[np.isneginf(expected_lse)] == 0).all()


@pytest.mark.parametrize("scale", [-0.5, 0.0])
def test_bfloat16_products(scale, rng):
    x, y, v = (normal(rng, s, np.float32) for s in [(130, 70), (300, 70), (300, 3)])
    low = {"scale": scale, "precision": "bf16"}
    assert (
        reference.relative_error(
            rk.relation_matrix(x, y, **low), reference.relation_matrix(x, y, scale=scale)
        )
        <= 1e-2
    )
    got = rk.attention(x, y, v, scale=scale / 10, causal=True, precision="bf16")
    expected, _ = reference.attention(x, y, v, scale=scale / 10, causal=True)
    assert reference.relative_error(got, expected) <= 1e-2


def test_negative_scale_is_a_negated_side(rng):
    """Bit-identical, because signs are exact."""
    x, y, v = (normal(rng, s, np.float32) for s in [(70, 9), (2100, 9), (2100, 3)])
    np.testing.assert_array_equal(rk.relation_matrix(x, y, scale=-0.3), rk.relation_matrix(-x, y, scale=0.3))
    for option in ({}, {"causal": True}):
        got = rk.attention(x, y, v, scale=-0.3, **option)
        np.testing.assert_array_equal(got, rk.attention(-x, y, v, scale=0.3, **option))
    operators = [rk.as_linear_operator(a, y, scale=s, link="exp") for a, s in ((x, -0.3), (-x, 0.3))]
    np.testing.assert_array_equal(*(operator @ v for operator in operators))
    np.testing.assert_array_equal(*(operator.H @ x for operator in operators))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize(
    "kind", ["two maps", "one map", "symmetric", "two maps of x", "features", "broadcast"]
)
def test_gradient_of_the_scale_of_a_relation(kind, heads, scale, rng):
    phi, psi = mlp(rng, [4, 8, 6], np.float64, "tanh"), mlp(rng, [4, 7, 6], np.float64, "gelu")
    x, y = normal(rng, (2, 11, 4), np.float64), normal(rng, (2, 13, 4), np.float64)
    if kind == "broadcast":
        x, y = x[:1], normal(rng, (3, 1, 13, 4), np.float64)
    if kind == "features":
        phi = psi = None
        x, y = normal(rng, (11, 6), np.float64), normal(rng, (5, 13, 6), np.float64)
    y = None if kind in ("symmetric", "two maps of x") else y
    psi = psi if kind.startswith("two") else None
    at = np.array(scale)

    def relation():
        return reference.relation_matrix(x, y, phi, psi, float(at), heads)

    grad = normal(rng, relation().shape, np.float64)
    got = rk.relation_matrix_vjp(x, y, grad, phi, psi, scale=scale, heads=heads)

    def value():
        return (grad * relation()).sum()

    check_slope(value, at, got.grad_scale)
    check_directions(value, [(x, got.grad_x)], rng)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("mapped", [False, True])
def test_gradient_of_the_scale_of_attention(mapped, masked, causal, scale, rng):
    phi = mlp(rng, [4, 8, 6], np.float64, "tanh") if mapped else None
    q, k = normal(rng, (2, 9, 4), np.float64), normal(rng, (1, 15, 4), np.float64)
    v, grad = normal(rng, (15, 3), np.float64), normal(rng, (2, 9, 3), np.float64)
    mask = rng.random((9, 15)) < 0.3 if masked else None
    if masked:
        mask[2] = False
    options = {"mask": mask, "causal": causal}
    at = np.array(scale)
    got = rk.attention_vjp(q, k, v, grad, phi, scale=scale, **options)

    def value():
        return (grad * reference.attention(q, k, v, phi, scale=float(at), **options)[0]).sum()

    check_slope(value, at, got.grad_scale)
    check_directions(value, [(q, got.grad_q), (k, got.grad_k), (v, got.grad_v)], rng)


def test_gradient_of_the_default_scale_of_attention(rng):
    q, k, v, grad = normal(rng, (4, 30, 4), np.float64)
    assert rk.attention_vjp(q, k, v, grad).grad_scale == rk.attention_vjp(q, k, v, grad, scale=0.5).grad_scale


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("weighted", [None, "rows", "pairs"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", ["two maps", "one map", "symmetric", "two maps of x", "features"])
def test_loss(kind, loss, weighted, scale, rng):
    """Value and all gradients: of the maps, of x and y, of the scale."""
    if (loss, weighted) == ("softmax", "pairs"):
        pytest.skip("softmax has one weight per row")
    phi, psi = Parameters(rng, [4, 8, 6]), Parameters(rng, [4, 5, 6])
    x, y = normal(rng, (14, 4), np.float64), normal(rng, (11, 4), np.float64)
    y = None if kind in ("symmetric", "two maps of x") else y
    m = 14 if y is None else 11
    target = rng.random((14, m))
    weight = {None: None, "rows": rng.random(14), "pairs": rng.random((14, m))}[weighted]
    at = np.array(scale)

    def maps():
        if kind == "features":
            return None, None
        return phi.mlp(), psi.mlp() if kind.startswith("two") else None

    def definition():
        return reference.relation_loss(x, y, target, *maps(), loss, weight, float(at))

    got = rk.relation_loss(x, y, target, *maps(), loss=loss, sample_weight=weight, scale=scale)
    assert got.value == pytest.approx(definition(), rel=1e-12)
    check_slope(definition, at, got.grad_scale)
    pairs = [(x, got.grad_x)]
    assert (got.grad_y is None) == (y is None)
    if y is not None:
        pairs.append((y, got.grad_y))
    for side, gradient in ((phi, got.grad_phi), (psi, got.grad_psi)):
        if gradient is not None:
            pairs += side.pairs(gradient)
    check_directions(definition, pairs, rng)


@given(
    st.sampled_from(LOSSES), sizes, st.sampled_from([1, 3, 257, 2100]), scales,
    st.sampled_from([np.float32, np.float64]), seeds,
)  # fmt: skip
def test_loss_shapes(loss, n, m, scale, dtype, seed):
    rng = np.random.default_rng(seed)
    x, y = normal(rng, (n, 3), dtype), normal(rng, (m, 3), dtype)
    labels = rng.integers(0, 3, n), np.concatenate([np.arange(3), rng.integers(0, 3, m)])[-m:]
    if loss == "softmax":
        labels = np.zeros_like(labels[0]), np.arange(m) % 3
    same = labels[0][:, None] == labels[1]
    got = rk.relation_loss(x, y, labels, loss=loss, scale=scale)
    wide = [a.astype(np.float64) for a in (x, y)]
    expected = reference.relation_loss(*wide, same, loss=loss, scale=scale)
    assert got.value == pytest.approx(expected, rel=1e-5 if dtype == np.float32 else 1e-11, abs=1e-6)
    if loss == "hinge":
        return
    at = np.array(scale)
    slope = difference(lambda: reference.relation_loss(*wide, same, loss=loss, scale=float(at)), at, 1.0)
    assert got.grad_scale == pytest.approx(slope, rel=1e-4, abs=1e-5)
    assert got.grad_x.dtype == got.grad_y.dtype == dtype


@pytest.mark.parametrize("loss", LOSSES)
def test_scale_of_a_loss_equals_scaled_features(loss, rng):
    """Bit-identical for a power of two; the symmetric case with labels has one gradient for both sides."""
    x, labels = normal(rng, (300, 6), np.float32), rng.integers(0, 4, 300)
    got = rk.relation_loss(x, None, labels, loss=loss, scale=0.25)
    halved = rk.relation_loss(0.5 * x, None, labels, loss=loss)
    assert got.value == halved.value
    np.testing.assert_array_equal(got.grad_x, 0.5 * halved.grad_x)
    dense = rk.relation_loss(x, None, (labels, labels.copy()), loss=loss, scale=0.25)
    assert got.grad_scale == pytest.approx(dense.grad_scale, rel=1e-5)


def test_gradients_of_x_and_y_are_two_arrays_where_y_is_x(rng):
    x = normal(rng, (5, 3), np.float64)
    got = rk.relation_loss(x, x, np.arange(5))
    assert not np.shares_memory(got.grad_x, got.grad_y)
    np.testing.assert_array_equal(got.grad_x, got.grad_y)
    whole = rk.relation_loss(x, None, np.arange(5)).grad_x
    np.testing.assert_allclose(whole, got.grad_x + got.grad_y)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_attended_does_not_reach_the_gradient_of_the_scale(bad, rng):
    q, k, v, grad = normal(rng, (4, 20, 3), np.float32)
    mask = rng.random((20, 20)) < 0.7
    mask[[3, 17]], mask[:, 5] = False, False
    clean = rk.attention_vjp(q, k, v, grad, mask=mask).grad_scale
    q[3], q[17, 0], k[5] = bad, bad, bad
    assert rk.attention_vjp(q, k, v, grad, mask=mask).grad_scale == clean


def test_gradient_of_the_scale_has_the_same_bits_whatever_the_threads(rng):
    x, y, v = (normal(rng, s, np.float32) for s in [(700, 20), (2300, 20), (2300, 5)])
    labels = rng.integers(0, 9, 700), np.arange(2300) % 9
    grad_r, grad_v = normal(rng, (700, 2300), np.float32), normal(rng, (700, 5), np.float32)
    before, found = rk.get_num_threads(), set()
    for threads in (1, 2, 5):
        rk.set_num_threads(threads)
        found.add(
            (
                rk.relation_matrix_vjp(x, y, grad_r).grad_scale,
                rk.attention_vjp(x, y, v, grad_v, causal=True).grad_scale,
                rk.relation_loss(x, y, labels, loss="softmax").grad_scale,
            )
        )
    rk.set_num_threads(before)
    assert len(found) == 1


def test_float64_takes_what_float32_cannot_hold():
    x = np.array([[1e-39, 2e-39]])
    np.testing.assert_allclose(rk.relation_matrix(x, np.ones((1, 2)), scale=1e39), 3)
    largest = float(np.finfo(np.float32).max)
    one = np.ones((1, 1), np.float32)
    assert rk.relation_matrix(one, scale=largest) == largest
