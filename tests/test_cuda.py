"""The operations on a device equal their float64 definitions, and keep the promises of the CPU's.

Every case runs on the GPU that is here, by way of CuPy and of PyTorch, and through the emulator: the same
kernels compiled for this processor, on small sizes.
"""

import os

import cuda_arrays
import numpy as np
import pytest
import reference
import relkernels as rk
from cuda_arrays import BF16, F16
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import ACTIVATIONS, lay_out, maps, mlp, normal, seeds

F4, F8 = np.float32, np.float64
# (dtype of the arrays, precision)
ARITHMETIC = [(F4, None), (F8, None), (F4, "tf32"), (F4, "bf16"), (BF16, None), (F16, None)]
IDS = ["float32", "float64", "tf32", "float32-bf16", "bfloat16", "float16"]
# Error of feature maps and relations relative to the terms' size. Half of the last place of a factor is
# 2^-9 in bfloat16 and 2^-11 in float16 and tf32; float32 and float64 as design has them.
BOUND = {
    (F4, None): 1e-6, (F8, None): 1e-14, (F4, "tf32"): 2e-3, (F4, "bf16"): 1e-2, (BF16, None): 1e-2,
    (F16, None): 2e-3,
}  # fmt: skip
OF_ATTENTION = {(F4, None): 5e-6, (F8, None): 1e-13}
LAYOUTS = ["plain", "transposed", "sliced", "reversed", "offset", "broadcast"]
SIZES = [0, 1, 2, 3, 7, 16, 17, 31, 33, 64, 65, 67, 97, 128, 129, 131, 150, 257, 400]
WIDTHS = [1, 2, 3, 8, 13, 16, 17, 31, 33, 64, 65, 80]

arithmetic = pytest.mark.parametrize(("dtype", "precision"), ARITHMETIC, ids=IDS)
exact = pytest.mark.parametrize("dtype", [F4, F8], ids=["float32", "float64"])


@pytest.fixture(scope="session", params=["emulated", "cupy", "torch"])
def device(request):
    if request.param != "emulated":
        yield cuda_arrays.gpu(request.param)
        return
    if "RELKERNELS_ISA" in os.environ:
        pytest.skip("the emulated GPU is the same whatever RELKERNELS_ISA says")
    with cuda_arrays.in_place_of_the_extension(cuda_arrays.emulated_kernels()):
        yield cuda_arrays.EmulatedDevice()


def cases(device, check):
    """Run check(data, rng) on so many random cases as the device has time for."""

    @settings(max_examples=device.examples, suppress_health_check=list(HealthCheck))
    @given(st.data(), seeds)
    def run(data, seed):
        check(data, np.random.default_rng(seed))

    run()


class Draw:
    """Sizes and arrays of a random case."""

    def __init__(self, device, data, rng, dtype):
        self.device, self.data, self.rng, self.dtype = device, data, rng, dtype

    def one_of(self, options):
        return self.data.draw(st.sampled_from(options))

    def size(self, least=0):
        return self.one_of([n for n in SIZES if least <= n <= self.device.size])

    def width(self):
        return self.one_of(WIDTHS)

    def array(self, *shape):
        layouts = [name for name in LAYOUTS if self.device.negative_strides or name != "reversed"]
        return lay_out(normal(self.rng, shape, self.dtype), self.one_of(layouts))

    def leads(self, count):
        full = self.one_of([(), (), (2,), (3, 2), (1, 3)])
        shapes = []
        for _ in range(count):
            kept = tuple(self.one_of([size, 1]) for size in full)
            shapes.append(kept[self.one_of(range(len(kept) + 1)) :])
        return shapes

    def maps(self, d_x, d_y, width, optional=True):
        """phi and psi to so many features; None where the widths allow it."""
        dtype = np.float64 if self.dtype == F8 else np.float32
        phi = self.data.draw(maps(dtype, d_x, width, self.rng).filter(lambda p: optional or p))
        psi = self.data.draw(maps(dtype, d_y, width, self.rng).filter(lambda p: p or phi is None))
        return phi, psi

    def mask(self, lead, n, m):
        if not self.data.draw(st.booleans()):
            return None
        shape = (*self.one_of([lead, ()]), self.one_of([n, 1]), self.one_of([m, 1]))
        return self.rng.random(shape) < self.one_of([0.05, 0.5, 0.95])


def assert_close(out, expected, bound, magnitude):
    """As `reference.assert_close`; what float16 cannot hold is off by half of its least number."""
    least = 2**-25 * np.sqrt(out.size) if out.dtype == F16 else 0.0
    reference.assert_close(out, expected, bound, np.linalg.norm(magnitude) + least / bound)


def magnitude(x, y, phi, psi):
    psi = phi if psi is None else psi
    return np.linalg.norm(reference.feature_magnitude(x, phi)) * np.linalg.norm(
        reference.feature_magnitude(y, psi)
    )


def largest_term(x, y, phi, psi):
    f = reference.feature_magnitude(x, phi)
    g = reference.feature_magnitude(y, phi if psi is None else psi)
    return f.shape[-1] * np.max(f, initial=0) * np.max(g, initial=0)


# ---- Definitions


@arithmetic
def test_feature_map(device, dtype, precision):
    def check(data, rng):
        draw = Draw(device, data, rng, dtype)
        d_in, d_out = draw.width(), draw.width()
        phi, _ = draw.maps(d_in, d_in, d_out, optional=False)
        (lead,) = draw.leads(1)
        x = draw.array(*lead, draw.size(), d_in)
        out = np.full((*x.shape[:-1], d_out), np.nan, dtype)
        got = device.feature_map(x, phi, precision=precision, out=lay_out(out, draw.one_of(LAYOUTS[:3])))
        assert got.dtype == dtype
        bound = BOUND[dtype, precision] * len(phi.weights)
        assert_close(got, reference.feature_map(x, phi), bound, reference.feature_magnitude(x, phi))

    cases(device, check)


@arithmetic
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_every_activation(device, activation, dtype, precision, rng):
    phi = mlp(rng, [16, 96, 40, 5], np.float64 if dtype == F8 else np.float32, activation)
    x = normal(rng, (50, 16), dtype)
    out = device.feature_map(x, phi, precision=precision)
    bound = max(BOUND[dtype, precision], 5e-3 if dtype == F16 or precision == "tf32" else 0)
    assert reference.relative_error(out, reference.feature_map(x, phi)) <= bound


@exact
def test_a_net_too_wide_for_a_block(device, dtype, rng):
    phi = mlp(rng, [5, 1500, 9], dtype, "gelu")
    x = normal(rng, (20, 5), dtype)
    out = device.feature_map(x, phi)
    assert reference.relative_error(out, reference.feature_map(x, phi)) <= BOUND[dtype, None]


@exact
def test_a_net_of_many_layers(device, dtype, rng):
    phi = mlp(rng, [5] + [12] * 20 + [3], dtype, "tanh")
    x = normal(rng, (20, 5), dtype)
    out = device.feature_map(x, phi)
    assert reference.relative_error(out, reference.feature_map(x, phi)) <= 5 * BOUND[dtype, None]


@arithmetic
def test_relation_matrix(device, dtype, precision):
    def check(data, rng):
        draw = Draw(device, data, rng, dtype)
        heads = draw.one_of([1, 1, 2, 3])
        width, d_x, d_y = heads * draw.one_of([1, 4, 11, 32]), draw.width(), draw.width()
        phi, psi = draw.maps(d_x, d_y, width)
        lead_x, lead_y = draw.leads(2)
        x, y = draw.array(*lead_x, draw.size(), d_x), draw.array(*lead_y, draw.size(), d_y)
        expected = reference.relation_matrix(x, y, phi, psi, 0.5, heads)
        out = lay_out(np.full(expected.shape, np.nan, dtype), draw.one_of(["plain", "sliced", "transposed"]))
        got = device.relation_matrix(x, y, phi, psi, scale=0.5, heads=heads, precision=precision, out=out)
        assert got.dtype == dtype
        layers = 1 + sum(len(p.weights) for p in (phi, psi) if p)
        bound = BOUND[dtype, precision] * layers
        assert_close(got, expected, bound, magnitude(x, y, phi, psi))

    cases(device, check)


@arithmetic
def test_symmetric_relation(device, dtype, precision):
    def check(data, rng):
        draw = Draw(device, data, rng, dtype)
        heads, d_in = draw.one_of([1, 2]), draw.width()
        phi, _ = draw.maps(d_in, d_in, d_in if heads == 1 else 6, optional=heads == 1)
        (lead,) = draw.leads(1)
        x = draw.array(*lead, draw.size(), d_in)
        r = device.relation_matrix(x, phi=phi, scale=2.0, heads=heads, precision=precision)
        np.testing.assert_array_equal(r, np.swapaxes(r, -1, -2))
        expected = reference.relation_matrix(x, None, phi, None, 2.0, heads)
        bound = BOUND[dtype, precision] * (1 + 2 * (len(phi.weights) if phi else 0))
        assert_close(r, expected, bound, magnitude(x, x, phi, None))

    cases(device, check)


def test_one_set_through_two_maps_is_not_symmetric(device, rng):
    phi, psi = mlp(rng, [4, 9, 3], np.float64), mlp(rng, [4, 5, 3], np.float64)
    x = normal(rng, (11, 4), np.float64)
    r = device.relation_matrix(x, None, phi, psi)
    assert reference.relative_error(r, reference.relation_matrix(x, x, phi, psi)) <= 1e-14


@arithmetic
def test_attention(device, dtype, precision):
    def check(data, rng):
        draw = Draw(device, data, rng, dtype)
        width, d_q, d_k = draw.width(), draw.width(), draw.width()
        if precision or dtype in (BF16, F16):
            d_q = d_k = width  # an error of a map's features would be one of the exponents
            phi = psi = None
        else:
            phi, psi = draw.maps(d_q, d_k, width)
        lead_q, lead_k, lead_v = draw.leads(3)
        n, m = draw.size(), draw.size()
        q, k = draw.array(*lead_q, n, d_q), draw.array(*lead_k, m, d_k)
        v = draw.array(*lead_v, m, draw.one_of([1, 3, 16, 33, 64, 130]))
        options = {
            "mask": draw.mask(np.broadcast_shapes(lead_q, lead_k, lead_v), n, m),
            "causal": draw.one_of([False, True]),
            "scale": draw.one_of([None, 0.1]),
        }
        expected, expected_lse = reference.attention(q, k, v, phi, psi, **options)
        given = {**options, "precision": precision}
        out, lse = device.attention(q, k, v, phi, psi, return_lse=True, **given)
        scores = device.attention_scores(q, k, phi, psi, **given)
        assert out.dtype == scores.dtype == dtype
        assert lse.dtype == (np.float64 if dtype == F8 else np.float32)
        scale = options["scale"] or 1 / np.sqrt(width)
        bound = OF_ATTENTION.get((dtype, precision), BOUND[dtype, precision])
        if (dtype, precision) in OF_ATTENTION or precision:
            bound *= 1 + scale * largest_term(q, k, phi, psi)
        assert_close(out, expected, bound, v)
        # Products of 16-bit arrays are exact: their log-sum-exp has the sums' error alone.
        fine = 1e-5 * (1 + scale * largest_term(q, k, phi, psi)) if dtype in (BF16, F16) else bound
        assert_close(lse, expected_lse, fine, np.sqrt(max(lse.size, 1)))
        expected = reference.attention_scores(q, k, phi, psi, **options)
        assert_close(scores, expected, bound, 0 if expected.size else 1)

    cases(device, check)


@exact
def test_large_scores_do_not_overflow(device, dtype, rng):
    q, k = normal(rng, (40, 8), dtype) * 50, normal(rng, (60, 8), dtype) * 50
    v = normal(rng, (60, 4), dtype)
    out = device.attention(q, k, v)
    expected = reference.attention(q, k, v)[0]
    assert reference.relative_error(out, expected) <= 1000 * OF_ATTENTION[dtype, None]


@arithmetic
def test_a_row_with_nothing_to_attend_to_gives_zeros(device, dtype, precision, rng):
    q, k, v = (normal(rng, shape, dtype) for shape in ((5, 3), (100, 3), (100, 2)))
    mask = np.ones((5, 100), bool)
    mask[2] = False
    out, lse = device.attention(q, k, v, mask=mask, return_lse=True, precision=precision)
    assert (out[2] == 0).all()
    assert lse[2] == -np.inf
    assert np.isfinite(np.delete(lse, 2)).all()
    assert (device.attention_scores(q, k, mask=mask, precision=precision)[2] == 0).all()
    out, lse = device.attention(q, k[:0], v[:0], return_lse=True, precision=precision)
    assert (out == 0).all()
    assert (lse == -np.inf).all()


@exact
def test_retrieve_is_the_sorted_matrix(device, dtype):
    def check(data, rng):
        draw = Draw(device, data, rng, dtype)
        d, n, m = draw.width(), draw.size(), draw.size(1)
        phi, psi = draw.maps(d, d, 5)
        lead_q, lead_k = draw.leads(2)
        q, keys = draw.array(*lead_q, n, d), draw.array(*lead_k, m, d)
        mask = draw.one_of([None, rng.random((n, m)) < 0.3, rng.random((1, m)) < 0.5])
        k = draw.one_of(sorted({1, min(m, 10), max(1, m // 2), m}))
        r = device.relation_matrix(q, keys, phi, psi)
        values, indices = device.retrieve(q, keys, k, phi, psi, mask=mask)
        expected_values, expected_indices = reference.retrieve(r, k, mask)
        np.testing.assert_array_equal(values, expected_values)
        np.testing.assert_array_equal(indices, expected_indices)
        assert (values.dtype, indices.dtype) == (dtype, np.int64)

    cases(device, check)


@arithmetic
def test_retrieve_in_every_arithmetic(device, dtype, precision, rng):
    q, keys = normal(rng, (33, 40), dtype), normal(rng, (150, 40), dtype)
    r = reference.relation_matrix(q, keys)
    near = BOUND[dtype, precision] * np.linalg.norm(reference.float64(q), axis=1).max() * 10
    for k in (1, 10, 150):
        values, indices = device.retrieve(q, keys, k, precision=precision)
        values = reference.float64(values)
        assert all(len(set(row)) == k for row in indices.tolist())
        np.testing.assert_allclose(values, np.take_along_axis(r, indices, 1), atol=near)
        np.testing.assert_allclose(values, -np.sort(-r, axis=1)[:, :k], atol=near)
        assert (np.diff(values, axis=1) <= 0).all()


def test_ties_go_to_the_lowest_index(device, rng):
    for n, m, k in [(3, 5, 5), (40, 131, 7), (2, 150, 150), (1, 1, 1)]:
        q = rng.integers(-1, 2, (n, 2)).astype(np.float32)
        keys = rng.integers(-1, 2, (m, 2)).astype(np.float32)
        _, indices = device.retrieve(q, keys, k)
        np.testing.assert_array_equal(indices, np.argsort(-(q @ keys.T), axis=1, kind="stable")[:, :k])


@pytest.mark.parametrize("k", [1, 3, 10])
def test_nan_ranks_last_and_infinities_in_order(device, k):
    keys = np.array([[np.nan], [1.0], [np.inf], [-np.inf], [np.nan], [2.0], [3.0], [-1.0], [0.0], [5.0]])
    values, indices = device.retrieve(np.array([[1.0]]), keys, k)
    assert indices[0].tolist() == [2, 9, 6, 5, 1, 8, 7, 3, 0, 4][:k]
    np.testing.assert_array_equal(values[0], keys[indices[0], 0])


def test_a_mask_may_leave_fewer_than_k(device):
    keys = np.arange(4.0)[:, None]
    mask = np.array([[False, True, False, True]])
    values, indices = device.retrieve(np.array([[1.0]]), keys, 3, mask=mask)
    assert indices.tolist() == [[3, 1, -1]]
    assert values.tolist() == [[3.0, 1.0, -np.inf]]


@arithmetic
@pytest.mark.parametrize("link", ["identity", "exp", "relu", "square"])
def test_relation_matvec(device, link, dtype, precision):
    def check(data, rng):
        draw = Draw(device, data, rng, dtype)
        d, n, m, c = draw.width(), draw.size(), draw.size(), draw.one_of([None, 0, 1, 2, 7, 40])
        phi, psi = draw.maps(d, d, 4)
        lead_x, lead_y = draw.leads(2)
        x, y = draw.array(*lead_x, n, d), draw.array(*lead_y, m, d)
        v = normal(rng, (m,) if c is None else (m, c), dtype)
        out = device.relation_matvec(x, y, v, phi, psi, link=link, scale=0.1, precision=precision)
        v2 = v[:, None] if c is None else v
        expected = reference.relation_matvec(x, y, v2, phi, psi, link, 0.1)
        grows = 1 + 0.1 * largest_term(x, y, phi, psi)
        bound = OF_ATTENTION.get((dtype, precision), BOUND[dtype, precision]) * grows
        if precision or dtype in (BF16, F16):
            bound *= 1 + sum(len(p.weights) for p in (phi, psi) if p)
            if bound > 0.1:
                return  # the exponents' error is as large as they are
        # The sizes of the terms, links of the sizes of the relation included.
        sizes = np.abs(reference.link(link, np.abs(reference.relation_matrix(x, y, phi, psi, 0.1))))
        assert_close(
            out,
            expected[..., 0] if c is None else expected,
            bound,
            np.linalg.norm(sizes @ np.abs(reference.float64(v2))),
        )

    cases(device, check)


# ---- Gradients: against those of the CPU in float64, which tests compare with finite differences


def flat(result):
    if isinstance(result, (list, tuple)):
        return [a for part in result for a in flat(part)]
    return [] if result is None else [result]


def assert_gradients(got, expected, dtype, bound):
    got, expected = flat(got), flat(expected)
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == dtype
        assert_close(a, b, bound, 0.1 * np.sqrt(b.size))


def double(phi):
    if phi is None:
        return None
    biases = None if phi.biases is None else [b.astype(np.float64) for b in phi.biases]
    return rk.MLP([w.astype(np.float64) for w in phi.weights], biases, phi.activation)


GRADIENT_BOUND = {F4: 1e-5, F8: 1e-12}
SMOOTH = [a for a in ACTIVATIONS if str(a) != "relu" and getattr(a, "name", "") != "leaky_relu"]


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
def test_relation_matrix_vjp(device, kind, heads, dtype, rng):
    phi, psi = mlp(rng, [4, 8, 6], dtype, "tanh"), mlp(rng, [4, 7, 6], dtype, "gelu")
    x, y = normal(rng, (2, 1, 11, 4), dtype), normal(rng, (1, 3, 70, 4), dtype)
    if kind == "features":
        phi, x, y = None, normal(rng, (67, 6), dtype), normal(rng, (2, 130, 6), dtype)
    second = None if kind in ("symmetric", "two maps of x") else y
    if kind in ("one map", "symmetric", "features"):
        psi = None
    shape = reference.relation_matrix(x, second, phi, psi, 1, heads).shape
    grad = lay_out(normal(rng, shape, dtype), "transposed")
    got = device.relation_matrix_vjp(x, second, grad, phi, psi, scale=0.7, heads=heads)
    wide = [None if a is None else a.astype(float) for a in (x, second, grad)]
    expected = rk.relation_matrix_vjp(*wide, double(phi), double(psi), scale=0.7, heads=heads)
    assert_gradients(got, expected, dtype, 5 * GRADIENT_BOUND[dtype])


@exact
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_vjp(device, masked, causal, dtype, rng):
    phi, psi = mlp(rng, [4, 8, 6], dtype, "tanh"), mlp(rng, [4, 5, 6], dtype, "silu")
    for n, m, maps_ in [(1, 1, (None, None)), (70, 33, (phi, psi)), (33, 131, (phi, None))]:
        q, k = normal(rng, (2, n, 4), dtype), normal(rng, (1, m, 4), dtype)
        v, grad = normal(rng, (m, 3), dtype), normal(rng, (2, n, 3), dtype)
        mask = rng.random((n, m)) < 0.6 if masked else None
        got = device.attention_vjp(q, k, v, grad, *maps_, mask=mask, causal=causal)
        wide = [a.astype(float) for a in (q, k, v, grad)]
        expected = rk.attention_vjp(*wide, *map(double, maps_), mask=mask, causal=causal)
        assert_gradients(got, expected, dtype, 10 * GRADIENT_BOUND[dtype])


# ---- Promises


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


MANY = 4_500  # columns: more than two of the chunks that sums are cut into
CHUNKED = [(F4, None), (F8, None), (BF16, None)]


@pytest.mark.parametrize(("dtype", "precision"), CHUNKED, ids=["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("name", ["attention", "log-sum-exp", "retrieve", "matvec", "matvec, one"])
def test_chunks_of_columns_change_no_bit(device, name, dtype, precision, rng):
    """Whether a block meets all columns or each chunk has a block of its own depends on the rows."""
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
    """A launch of their own: 32 objects a set."""
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
    if not causal:
        np.testing.assert_array_equal(got[1], grads[1])
        np.testing.assert_array_equal(got[2], grads[2])


def test_empty_sides_are_valid(device, rng):
    phi = rk.MLP.random([4, 8, 2])
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
