"""Features and rows of unit length: the float64 definition, extreme scales, gradients, operations, files."""

import copy
import pickle

import numpy as np
import pytest
import reference
import relkernels as rk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from strategies import DTYPES, dtypes, lay_out, layouts, leads, mlp, normal, rows, seeds, widths

BOUND = {np.float32: 4e-7, np.float64: 1e-15}


def unit(mlp_):
    """The same map, normalized."""
    return rk.MLP(mlp_.weights, mlp_.biases, mlp_.activation, normalize=True)


@given(st.data(), dtypes, rows, widths, layouts, seeds)
def test_rows_of_unit_length(data, dtype, n, d, layout, seed):
    rng = np.random.default_rng(seed)
    (lead,) = data.draw(leads(1))
    size = dtype(data.draw(st.sampled_from([1e-20, 1, 1e15])))
    x = lay_out(normal(rng, (*lead, n, d), dtype) * size, layout)
    out = np.full(x.shape, np.nan, dtype)
    assert rk.normalize(x, out=out) is out
    np.testing.assert_allclose(out, reference.normalize(x), rtol=BOUND[dtype] * (1 + d), atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_scales(dtype):
    """Rows of the least and of the largest numbers, of both at once, and of one number, keep their digits."""
    info = np.finfo(dtype)
    x = np.array([[3.0, 4.0, 0.0, 0.0]] * 6, dtype)
    x[1] *= info.smallest_subnormal
    x[2] *= info.max / 8
    x[3] *= info.tiny
    x[4] = [info.max, info.smallest_subnormal, 0, 0]
    x[5] = [0, -info.smallest_subnormal, 0, -0.0]
    want = [[0.6, 0.8, 0, 0]] * 4 + [[1, 0, 0, 0], [0, -1, 0, -0.0]]
    np.testing.assert_allclose(rk.normalize(x), want, rtol=2 * info.eps)
    phi = rk.MLP([np.eye(4, dtype=dtype)], normalize=True)
    np.testing.assert_array_equal(phi(x)[:3], rk.normalize(x[:3]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_stay_and_nan_stays_in_its_row(dtype, rng):
    x = normal(rng, (40, 7), dtype)
    clean = rk.normalize(x)
    x[3], x[5, 2], x[9, 1] = 0, np.nan, np.inf
    got = rk.normalize(x)
    np.testing.assert_array_equal(got[3], 0)
    assert np.isnan(got[5]).all()
    np.testing.assert_array_equal(got[9], np.where(np.arange(7) == 1, np.nan, 0))
    others = np.delete(np.arange(40), [3, 5, 9])
    np.testing.assert_array_equal(got[others], clean[others])
    grad = normal(rng, x.shape, dtype)
    slope = rk.normalize_vjp(x, grad)
    np.testing.assert_array_equal(slope[3], 0)
    assert np.isnan(slope[[5, 9]]).all()
    assert np.isfinite(slope[others]).all()


@pytest.mark.parametrize("shape", [(7,), (0, 3), (2, 0, 3), (1, 1)])
def test_shapes(shape, rng):
    x = normal(rng, shape, np.float64)
    np.testing.assert_allclose(rk.normalize(x), reference.normalize(x), rtol=1e-15)


@given(dtypes, rows, widths, layouts, seeds)
@settings(max_examples=25)
def test_gradient_of_rows(dtype, n, d, layout, seed):
    rng = np.random.default_rng(seed)
    x, grad = (lay_out(normal(rng, (n, d), dtype), layout) for _ in range(2))
    f, g = reference.normalize(x), reference.float64(grad)
    length = np.linalg.norm(reference.float64(x), axis=-1, keepdims=True)
    want = (g - f * (f * g).sum(-1, keepdims=True)) / length
    error = np.abs(rk.normalize_vjp(x, grad) - want)
    assert (error <= 4 * BOUND[dtype] * (1 + d) * np.linalg.norm(g, axis=-1, keepdims=True) / length).all()


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_gradient_at_extreme_scales(factor, rng):
    x, grad = normal(rng, (5, 6), np.float32), normal(rng, (5, 6), np.float32)
    got = rk.normalize_vjp(x * np.float32(factor), grad).astype(float) * factor
    np.testing.assert_allclose(got, rk.normalize_vjp(x, grad), rtol=1e-3, atol=1e-5)


@given(st.data(), dtypes, rows, widths, widths, layouts, st.sampled_from([(), (9,), (5, 17)]), seeds)
@settings(max_examples=25)
def test_features_of_unit_length(data, dtype, n, d_in, d_out, layout, hidden, seed):
    rng = np.random.default_rng(seed)
    plain = mlp(rng, [d_in, *hidden, d_out], dtype, "tanh")
    (lead,) = data.draw(leads(1))
    x = lay_out(normal(rng, (*lead, n, d_in), dtype), layout)
    phi = unit(plain)
    np.testing.assert_array_equal(rk.feature_map(x, phi), rk.normalize(rk.feature_map(x, plain)))
    if dtype == np.float32:
        np.testing.assert_array_equal(
            rk.feature_map(x, phi, precision="bf16"),
            rk.normalize(rk.feature_map(x, plain, precision="bf16")),
        )


@pytest.mark.parametrize("hidden", [(), (9,), (9, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_gradient_through_a_map(hidden, bias, rng):
    plain = mlp(rng, [5, *hidden, 3], np.float64, "tanh", bias)
    x, grad = normal(rng, (300, 5), np.float64), normal(rng, (300, 3), np.float64)
    grad_x, gradient = rk.feature_map_vjp(x, unit(plain), grad)
    parameters = [x, *(w.copy() for w in plain.weights), *(b.copy() for b in plain.biases or ())]

    def value(at):
        n = len(plain.weights)
        made = rk.MLP(at[1 : 1 + n], at[1 + n :] or None, plain.activation, normalize=True)
        return (grad * made(at[0])).sum()

    for i, slope in enumerate([grad_x, *gradient.weights, *(gradient.biases or ())]):
        direction = rng.standard_normal(slope.shape)
        high, low = (
            value([a + (step * direction if i == j else 0) for j, a in enumerate(parameters)])
            for step in (1e-6, -1e-6)
        )
        size = np.linalg.norm(slope) * np.linalg.norm(direction)
        assert abs((high - low) / 2e-6 - (slope * direction).sum()) <= 2e-7 * size


def test_every_operation_uses_the_features(rng):
    """Each operation gives the bits that it gives for the features themselves."""
    phi, psi = (unit(mlp(rng, [d, 20, 8], np.float32, "gelu")) for d in (6, 5))
    x, y = normal(rng, (150, 6), np.float32), normal(rng, (300, 5), np.float32)
    v, f, g = normal(rng, (300, 4), np.float32), phi(x), psi(y)

    def same(got, want):
        for a, b in zip(got, want, strict=True) if isinstance(got, tuple) else [(got, want)]:
            np.testing.assert_array_equal(a, b)

    same(rk.relation_matrix(x, y, phi, psi, heads=2), rk.relation_matrix(f, g, heads=2))
    same(rk.relation_matrix(x, phi=phi), rk.relation_matrix(f))
    same(rk.attention(x, y, v, phi, psi, scale=9.0), rk.attention(f, g, v, scale=9.0))
    same(rk.attention_scores(x, y, phi, psi), rk.attention_scores(f, g))
    same(rk.retrieve(x, y, 5, phi, psi), rk.retrieve(f, g, 5))
    same(rk.relation_matvec(x, y, v, phi, psi, link="exp"), rk.relation_matvec(f, g, v, link="exp"))
    same(rk.retrieve(x, rk.Keys(y, psi), 3, phi), rk.retrieve(f, rk.Keys(g), 3))
    assert np.abs(np.diag(rk.relation_matrix(x, phi=phi)) - 1).max() <= 1e-6
    label = rng.integers(0, 9, 150), rng.integers(0, 9, 300)
    value, grad_phi, _ = rk.relation_loss(x, y, label, phi, psi)
    of_features = rk.relation_loss(f, g, label)
    assert value == of_features[0]
    _, want = rk.feature_map_vjp(x, phi, of_features.grad_x)
    np.testing.assert_array_equal(grad_phi.weights[0], want.weights[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_sparse_rows(dtype, rng):
    phi = mlp(rng, [40, 9, 5], dtype, "tanh")
    x = sparse.random_array((200, 40), density=0.1, format="csr", rng=rng, dtype=dtype)
    np.testing.assert_array_equal(unit(phi)(x), rk.normalize(phi(x)))
    grad = normal(rng, (200, 5), dtype)
    _, got = rk.feature_map_vjp(x, unit(phi), grad)
    _, want = rk.feature_map_vjp(x.toarray(), unit(phi), grad)
    for a, b in zip([*got.weights, *got.biases], [*want.weights, *want.biases], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_same_bits_for_any_threads_and_batch(rng):
    phi = unit(mlp(rng, [6, 33, 17], np.float32))
    x, grad = normal(rng, (4, 500, 6), np.float32), normal(rng, (4, 500, 17), np.float32)
    whole, (slope, _) = phi(x), rk.feature_map_vjp(x, phi, grad)
    wide = normal(rng, (4, 500, 65), np.float32)
    unit_rows, slopes = rk.normalize(wide), rk.normalize_vjp(wide, wide[::-1])
    before = rk.get_num_threads()
    try:
        for threads in (1, 2, 3):
            rk.set_num_threads(threads)
            np.testing.assert_array_equal(phi(x), whole)
            np.testing.assert_array_equal(rk.feature_map_vjp(x, phi, grad)[0], slope)
            np.testing.assert_array_equal(rk.normalize(wide), unit_rows)
            np.testing.assert_array_equal(rk.normalize_vjp(wide, wide[::-1]), slopes)
    finally:
        rk.set_num_threads(before)
    np.testing.assert_array_equal(phi(x[1, 77:210]), whole[1, 77:210])
    np.testing.assert_array_equal(rk.normalize(wide[1, 77:210]), unit_rows[1, 77:210])


def test_copies_pickles_and_files(rng, tmp_path):
    phi = unit(mlp(rng, [6, 9, 4], np.float64, rk.leaky_relu(0.2)))
    assert repr(phi) == "MLP(widths=(6, 9, 4), leaky_relu(0.2), float64, normalized)"
    x = normal(rng, (7, 6), np.float64)
    phi.save(tmp_path / "phi.safetensors")
    rk.Keys(x, phi).save(tmp_path / "keys.safetensors")
    keys = rk.Keys.load(tmp_path / "keys.safetensors")
    for same in (
        pickle.loads(pickle.dumps(phi)),
        copy.copy(phi),
        copy.deepcopy(phi),
        rk.MLP.load(tmp_path / "phi.safetensors"),
    ):
        assert same.normalize is True
        np.testing.assert_array_equal(same(x), phi(x))
    np.testing.assert_array_equal(rk.retrieve(x, keys, 1, phi)[1].ravel(), np.arange(7))


def test_a_plain_map_is_saved_as_before(tmp_path):
    """Without the option files have no mention of it, so that earlier versions read them."""
    rk.MLP.random([3, 2]).save(tmp_path / "phi.safetensors")
    assert b"normalize" not in (tmp_path / "phi.safetensors").read_bytes()
    assert rk.MLP.load(tmp_path / "phi.safetensors").normalize is False


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_stored_points(dtype, rng):
    kind = np.float16 if dtype == "float16" else np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    x = normal(rng, (9, 6), np.float32).astype(kind)
    want = rk.normalize(x.astype(np.float32)).astype(kind)
    np.testing.assert_array_equal(rk.normalize(x).view(np.uint16), want.view(np.uint16))


BAD = [
    (lambda: rk.MLP.random([3, 2], normalize=1), TypeError, "normalize: expected True or False"),
    (lambda: rk.normalize(np.ones(3, int)), TypeError, "x: expected float32 or float64"),
    (lambda: rk.normalize(np.ones((2, 0))), ValueError, "x: expected"),
    (lambda: rk.normalize(np.ones(3), out=np.ones(2)), ValueError, "out: expected shape"),
    (
        lambda: rk.normalize_vjp(np.ones((2, 3)), np.ones((2, 2))),
        ValueError,
        r"grad: expected shape \(2, 3\)",
    ),
    (lambda: rk.normalize_vjp(np.ones((2, 3)), np.ones((2, 3), "f")), TypeError, "grad: expected float64"),
]


@pytest.mark.parametrize(("call", "error", "words"), BAD)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
