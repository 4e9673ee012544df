"""The numerical promises on a device: the same bits in any batch, NaN contained, empty sides valid."""

import numpy as np
import pytest
import reference
import relkernels as rk
from cuda_cases import BF16, BOUND, F4, F8, MANY, OF_ATTENTION, arithmetic, assert_close, exact
from strategies import mlp, normal

ROW_WISE = {
    "feature_map": lambda on, x, y, v, phi, p: on.feature_map(x, phi, precision=p),
    "relation_matrix": lambda on, x, y, v, phi, p: on.relation_matrix(x, y, phi, precision=p),
    "relation_matrix of features": lambda on, x, y, v, phi, p: on.relation_matrix(x, y, precision=p),
    "attention_scores": lambda on, x, y, v, phi, p: on.attention_scores(x, y, phi, precision=p),
    "attention": lambda on, x, y, v, phi, p: on.attention(x, y, v, phi, precision=p),
    "log-sum-exp": lambda on, x, y, v, phi, p: on.attention(x, y, v, phi, return_lse=True, precision=p)[1],
    "retrieve": lambda on, x, y, v, phi, p: on.retrieve(x, y, 5, phi, precision=p)[0],
    "matvec": lambda on, x, y, v, phi, p: on.relation_matvec(x, y, v, phi, link="exp", precision=p),
    "matvec, one": lambda on, x, y, v, phi, p: on.relation_matvec(x, y, v[:, 0], phi, precision=p),
}
GRADIENTS = {
    "gradient of x": lambda on, x, y, v, phi: on.feature_map_vjp(x, phi, x[:, :4] * 2)[0],
    "gradient of R": lambda on, x, y, v, phi: on.relation_matrix_vjp(x, y, x[:, :1] * y[:, 0])[0],
    "gradient of q": lambda on, x, y, v, phi: on.attention_vjp(x, y, v, x[:, :3].copy())[0],
}


def points(device, rng, dtype):
    n, m = device.many
    return normal(rng, (n, 6), dtype), normal(rng, (m, 6), dtype), normal(rng, (m, 3), dtype)


def assert_rows_stand_alone(operation, x, rng):
    whole = operation(x)
    np.testing.assert_array_equal(operation(x), whole)
    for rows in [slice(0, 1), slice(17, 18), slice(3, 6), slice(60, 130), slice(9, None)]:
        np.testing.assert_array_equal(operation(x[rows]), whole[rows])
    order = rng.permutation(len(x))
    np.testing.assert_array_equal(operation(x[order]), whole[order])


@arithmetic
@pytest.mark.parametrize("name", ROW_WISE)
def test_a_row_does_not_depend_on_the_batch(device, name, dtype, precision, rng):
    phi = mlp(rng, [6, 33, 4], np.float64 if dtype == F8 else np.float32, "silu")
    x, y, v = points(device, rng, dtype)
    assert_rows_stand_alone(lambda rows: ROW_WISE[name](device, rows, y, v, phi, precision), x, rng)


@exact
@pytest.mark.parametrize("name", GRADIENTS)
def test_a_gradient_does_not_depend_on_the_batch(device, name, dtype, rng):
    phi = mlp(rng, [6, 33, 4], dtype, "silu")
    x, y, v = points(device, rng, dtype)
    assert_rows_stand_alone(lambda rows: GRADIENTS[name](device, rows, y, v, phi), x, rng)


CHUNKED = [(F4, None), (F8, None), (BF16, None)]


@pytest.mark.parametrize(("dtype", "precision"), CHUNKED, ids=["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("name", ["attention", "log-sum-exp", "retrieve", "matvec", "matvec, one"])
def test_chunks_of_columns_change_no_bit(device, name, dtype, precision, rng):
    """The number of rows decides whether one block processes all chunks or each has its own block."""
    x, y, v = (normal(rng, shape, dtype) for shape in ((131, 6), (MANY, 6), (MANY, 3)))

    def operation(rows):
        return ROW_WISE[name](device, rows, y, v, None, precision)

    whole = operation(x)
    for rows in [slice(0, 1), slice(17, 20), slice(60, 130)]:
        np.testing.assert_array_equal(operation(x[rows]), whole[rows])


@pytest.mark.parametrize(("dtype", "precision"), CHUNKED, ids=["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("n", [1, 70])
def test_several_chunks_of_columns(device, n, dtype, precision, rng):
    x, y, v = (normal(rng, shape, dtype) for shape in ((n, 8), (MANY, 8), (MANY, 3)))
    bound = OF_ATTENTION.get((dtype, precision), BOUND[dtype, precision])
    for causal in (False, True):
        out, lse = device.attention(x, y, v, causal=causal, return_lse=True)
        expected, expected_lse = reference.attention(x, y, v, causal=causal)
        assert reference.relative_error(out, expected) <= bound
        assert reference.relative_error(lse, expected_lse) <= min(bound, 5e-6)
    out = device.relation_matvec(x, y, v, link="exp", scale=0.3)
    expected = reference.relation_matvec(x, y, v, None, None, "exp", 0.3)
    size = reference.relation_matvec(x, y, np.abs(reference.float64(v)), None, None, "exp", 0.3)
    assert_close(out, expected, bound, size)
    values, indices = device.retrieve(x, y, 50)
    r = reference.float64(device.relation_matrix(x, y))
    np.testing.assert_array_equal(reference.float64(values), np.take_along_axis(r, indices, 1))
    np.testing.assert_array_equal(reference.float64(values), -np.sort(-r, axis=1)[:, :50])


def test_causal_rows_do_not_depend_on_later_ones(device, rng):
    q, k, v = (normal(rng, (150, 16), F4) for _ in range(3))
    whole = device.attention(q, k, v, causal=True)
    for end in (1, 13, 64, 65, 131):
        np.testing.assert_array_equal(device.attention(q[:end], k[:end], v[:end], causal=True), whole[:end])


def test_items_of_a_batch_are_those_computed_alone(device, rng):
    phi = mlp(rng, [8, 16, 8], np.float32)
    x, v = normal(rng, (4, 33, 8), F4), normal(rng, (4, 33, 5), F4)
    r, o = device.relation_matrix(x, phi=phi), device.attention(x, x, v, phi)
    for i in range(4):
        np.testing.assert_array_equal(r[i], device.relation_matrix(x[i], phi=phi))
        np.testing.assert_array_equal(o[i], device.attention(x[i], x[i], v[i], phi))


def test_many_small_relations(device, rng):
    """Up to 32 rows have their own kernel, with blocks of 32 rows."""
    phi = mlp(rng, [8, 16, 8], np.float32)
    x = normal(rng, (2, device.size // 10, 32, 8), F4)
    r = device.relation_matrix(x, phi=phi)
    np.testing.assert_array_equal(r, r.swapaxes(-1, -2))
    assert reference.relative_error(r, reference.relation_matrix(x, None, phi)) <= 1e-6


@arithmetic
def test_nan_reaches_what_depends_on_it_and_nothing_else(device, dtype, precision, rng):
    phi = mlp(rng, [6, 9, 5], np.float64 if dtype == F8 else np.float32, "tanh")
    x, y, v = normal(rng, (70, 6), dtype), normal(rng, (131, 6), dtype), normal(rng, (131, 6), dtype)
    row, column, values = x.copy(), y.copy(), v.copy()
    row[67, 2], column[100], values[5, 3] = np.nan, np.nan, np.inf
    others = np.arange(70) != 67

    def all_of(x, y, v):
        return {
            "map": device.feature_map(x, phi, precision=precision),
            "relation": device.relation_matrix(x, y, phi, precision=precision),
            "attention": device.attention(x, y, v, phi, precision=precision),
            "matvec": device.relation_matvec(x, y, v, phi, link="exp", precision=precision),
            "best": device.retrieve(x, y, 4, phi, precision=precision)[0],
        }

    clean = all_of(x, y, v)
    for name, got in all_of(row, y, v).items():
        assert np.isnan(reference.float64(got[67])).all(), name
        np.testing.assert_array_equal(got[others], clean[name][others], name)
    got = device.relation_matrix(x, column, phi, precision=precision)
    assert np.isnan(reference.float64(got[:, 100])).all()
    np.testing.assert_array_equal(np.delete(got, 100, 1), np.delete(clean["relation"], 100, 1))
    got = device.attention(x, y, values, phi, precision=precision)
    assert not np.isfinite(reference.float64(got[:, 3])).any()
    np.testing.assert_array_equal(np.delete(got, 3, 1), np.delete(clean["attention"], 3, 1))
    symmetric = device.relation_matrix(row, phi=phi, precision=precision)
    assert np.isnan(reference.float64(symmetric[67])).all()
    plain = device.relation_matrix(x, phi=phi, precision=precision)
    np.testing.assert_array_equal(symmetric[others][:, others], plain[others][:, others])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("dtype", "precision"), [(F4, None), (BF16, None)], ids=["float32", "bfloat16"])
def test_what_is_masked_cannot_be_seen(device, dtype, precision, causal, bad, rng):
    q, k, v = (normal(rng, (131, 8), dtype) for _ in range(3))
    hidden = 100  # column; visible from row 100 on if causal, from no row if masked
    mask = None if causal else np.broadcast_to(np.arange(131) != hidden, (131, 131))
    blind = np.arange(131) < hidden if causal else np.ones(131, bool)
    options = {"mask": mask, "causal": causal}
    clean = device.attention(q, k, v, return_lse=True, **options)
    scores = device.attention_scores(q, k, **options)
    k2, v2 = k.copy(), v.copy()
    k2[hidden], v2[hidden] = bad, bad
    for keys, values in [(k2, v), (k, v2)]:
        out, lse = device.attention(q, keys, values, return_lse=True, **options)
        np.testing.assert_array_equal(out[blind], clean[0][blind])
        np.testing.assert_array_equal(lse[blind], clean[1][blind])
    np.testing.assert_array_equal(device.attention_scores(q, k2, **options)[blind], scores[blind])
    if dtype != F4:
        return
    grad = normal(rng, (131, 8), dtype)
    grads = device.attention_vjp(q, k, v, grad, **options)[:3]
    got = device.attention_vjp(q, k2, v2, grad, **options)[:3]
    np.testing.assert_array_equal(got[0][blind], grads[0][blind])
    masked = mask is not None and not causal
    if masked:
        q2 = q.copy()
        mask = np.broadcast_to(mask, (131, 131)).copy()
        mask[7] = False
        q2[7] = bad
        arguments = (k, v, grad)
        np.testing.assert_array_equal(
            device.attention_vjp(q2, *arguments, mask=mask).grad_scale,
            device.attention_vjp(q, *arguments, mask=mask).grad_scale,
        )
    if not causal:
        np.testing.assert_array_equal(got[1], grads[1])
        np.testing.assert_array_equal(got[2], grads[2])


def test_empty_sides_are_valid(device, rng):
    phi = rk.MLP.random([4, 8, 2], random_state=0)
    none, x, y, v = (np.ones(shape, np.float32) for shape in ((0, 4), (5, 4), (6, 4), (6, 3)))
    assert device.feature_map(none, phi).shape == (0, 2)
    assert device.relation_matrix(none, y).shape == (0, 6)
    assert device.relation_matrix(x, none).shape == (5, 0)
    assert device.relation_matrix(none).shape == (0, 0)
    assert device.attention(none, y, v).shape == (0, 3)
    assert device.attention(x, y, v[:, :0]).shape == (5, 0)
    assert (device.relation_matvec(x, none, np.ones(0, np.float32)) == 0).all()
    assert device.retrieve(none, y, 2)[1].shape == (0, 2)
    batch = device.relation_matrix(np.ones((0, 5, 4), np.float32), np.ones((0, 6, 4), np.float32))
    assert batch.shape == (0, 5, 6)
    grad_x, gradient = device.feature_map_vjp(none, phi, np.ones((0, 2), np.float32))
    assert grad_x.shape == (0, 4)
    assert all((a == 0).all() for a in [*gradient.weights, *gradient.biases])
    grad_x, grad_y, _, _ = device.relation_matrix_vjp(none, y, np.ones((0, 6), np.float32))
    assert grad_x.shape == (0, 4)
    assert (grad_y == 0).all()
    grads = device.attention_vjp(none, y, v, np.ones((0, 3), np.float32))
    assert grads[0].shape == (0, 4)
    assert (grads[1] == 0).all()
    assert (grads[2] == 0).all()
