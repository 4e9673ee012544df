"""relation_loss: value against its definition, gradients against finite differences, labels and weights."""

import numpy as np
import pytest
import reference
import relkernels as rk
from hypothesis import given
from hypothesis import strategies as st
from strategies import lay_out, mlp, normal, seeds
from test_vjp import Parameters, check_directions

LOSSES = ["squared", "logistic", "hinge", "softmax"]


# The softmax loss has one weight per row.
WEIGHTED = [
    (loss, kind)
    for loss in LOSSES
    for kind in (None, "rows", "pairs")
    if (loss, kind) != ("softmax", "pairs")
]


@pytest.mark.parametrize("kind", ["two maps", "one map", "symmetric"])
@pytest.mark.parametrize(("loss", "weighted"), WEIGHTED)
def test_value_and_gradients(loss, kind, weighted, rng):
    phi = Parameters(rng, [4, 8, 6])
    psi = Parameters(rng, [4, 5, 6])
    x = normal(rng, (14, 4), np.float64)
    y = None if kind == "symmetric" else normal(rng, (11, 4), np.float64)
    m = 14 if y is None else 11
    target = rng.random((14, m))
    weight = {None: None, "rows": rng.random(14), "pairs": rng.random((14, m))}[weighted]
    options = {"loss": loss, "sample_weight": weight}
    second = psi.mlp() if kind == "two maps" else None
    value, grad_phi, grad_psi = rk.relation_loss(x, y, target, phi.mlp(), second, **options)

    def definition():
        maps = (phi.mlp(), psi.mlp() if kind == "two maps" else None)
        return reference.relation_loss(x, y, target, *maps, loss, weight)

    assert value == pytest.approx(definition(), rel=1e-12)
    pairs = phi.pairs(grad_phi)
    assert (grad_psi is None) == (kind != "two maps")
    if grad_psi is not None:
        pairs += psi.pairs(grad_psi)
    check_directions(definition, pairs, rng)


@given(
    st.sampled_from(LOSSES), st.sampled_from([1, 2, 97, 200]), st.sampled_from([1, 3, 256, 257]),
    st.sampled_from(["plain", "transposed", "sliced", "broadcast", "misaligned"]), seeds,
)  # fmt: skip
def test_shapes_and_layouts(loss, n, m, layout, seed):
    rng = np.random.default_rng(seed)
    x, y = normal(rng, (n, 3), np.float64), normal(rng, (m, 3), np.float64)
    target = lay_out(rng.random((n, m)), layout)
    phi = mlp(rng, [3, 2], np.float64)
    value, gradient, _ = rk.relation_loss(x, y, target, phi, loss=loss)
    assert value == pytest.approx(
        reference.relation_loss(x, y, target, phi, None, loss), rel=1e-11, abs=1e-13
    )
    f, g = phi(x), phi(y)
    r = f @ g.T
    if loss == "squared":
        d = 2 * (r - target) / r.size
    elif loss == "logistic":
        d = (1 / (1 + np.exp(-r)) - target) / r.size
    elif loss == "hinge":
        s = 2 * target - 1
        d = -s * (1 - s * r > 0) / r.size
    else:
        p, _ = reference.scores_and_lse(f, g, scale=1.0)
        d = (p - target / target.sum(1, keepdims=True)) / n
    expected = x.T @ (d @ g) + y.T @ (d.T @ f)
    np.testing.assert_allclose(gradient.weights[0], expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", LOSSES)
def test_labels_are_the_matrix_of_equal_labels(loss, dtype, rng):
    phi = mlp(rng, [4, 7, 5], dtype)
    x, y = normal(rng, (300, 4), dtype), normal(rng, (270, 4), dtype)
    a, b = rng.integers(0, 5, 300), rng.integers(0, 5, 270)
    cases = [
        (x, None, a, (a[:, None] == a)),
        (x, y, (a, b), (a[:, None] == b)),
    ]
    for left, right, labels, same in cases:
        value, gradient, _ = rk.relation_loss(left, right, labels, phi, loss=loss)
        expected, dense, _ = rk.relation_loss(left, right, same.astype(dtype), phi, loss=loss)
        tolerance = 1e-5 if dtype == np.float32 else 1e-11
        assert value == pytest.approx(expected, rel=tolerance)
        for got, want in zip(gradient.weights, dense.weights, strict=True):
            assert reference.relative_error(got, want) <= tolerance


def test_several_chunks(rng):
    x, y = normal(rng, (150, 3), np.float32), normal(rng, (4200, 3), np.float32)
    labels = rng.integers(0, 3, 150), rng.integers(0, 3, 4200)
    same = labels[0][:, None] == labels[1]
    for loss in LOSSES:
        value, _, _ = rk.relation_loss(x, y, labels, loss=loss)
        assert value == pytest.approx(reference.relation_loss(x, y, same, loss=loss), rel=2e-6)


def test_identity_map_has_no_gradient(rng):
    x = normal(rng, (5, 3), np.float64)
    value, grad_phi, grad_psi = rk.relation_loss(x, None, np.arange(5))
    assert value == pytest.approx(((x @ x.T - np.eye(5)) ** 2).mean())
    assert grad_phi is None
    assert grad_psi is None


@pytest.mark.parametrize(("n", "m"), [(1, 1), (130, 257), (33, 4099), (700, 1030)])
@pytest.mark.parametrize("loss", LOSSES)
def test_bits_depend_neither_on_threads_nor_on_other_rows(loss, n, m, rng):
    """The weights make the mean of all rows twice the sum over half of them, exactly."""
    x, y = normal(rng, (2 * n, 9), np.float32), normal(rng, (m, 9), np.float32)
    target = rng.random((2 * n, m), np.float32)
    before, results = rk.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            rk.set_num_threads(threads)
            weight = np.full(2 * n, 1 / 64, np.float32)
            results.append(rk.relation_loss(x, y, target, loss=loss, sample_weight=weight, scale=0.5))
            half = rk.relation_loss(x[n:], y, target[n:], loss=loss, sample_weight=weight[n:], scale=0.5)
            np.testing.assert_array_equal(half.grad_x, 2 * results[-1].grad_x[n:])
    finally:
        rk.set_num_threads(before)
    for other in results[1:]:
        assert (other.value, other.grad_scale) == (results[0].value, results[0].grad_scale)
        np.testing.assert_array_equal(other.grad_x, results[0].grad_x)
        np.testing.assert_array_equal(other.grad_y, results[0].grad_y)
