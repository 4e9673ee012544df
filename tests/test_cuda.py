"""The operations on a device equal their float64 definitions.

Every case runs on the machine's GPU, through CuPy and through PyTorch, and in the emulator: the same kernels
compiled for this processor, at small sizes.
"""

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
    LAYOUTS,
    MANY,
    OF_ATTENTION,
    Draw,
    arithmetic,
    assert_close,
    cases,
    exact,
    largest_term,
    magnitude,
)
from strategies import ACTIVATIONS, lay_out, mlp, normal


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
    np.testing.assert_array_equal(device.feature_map(x[0], phi), out[0])


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
        expected = reference.relation_matrix(x, y, phi, psi, -0.5, heads)
        out = lay_out(np.full(expected.shape, np.nan, dtype), draw.one_of(["plain", "sliced", "transposed"]))
        got = device.relation_matrix(x, y, phi, psi, scale=-0.5, heads=heads, precision=precision, out=out)
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
            d_q = d_k = width  # errors of a map's features would become errors of the exponents
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
            "scale": draw.one_of([None, 0.1, -0.2, 0.0]),
        }
        expected, expected_lse = reference.attention(q, k, v, phi, psi, **options)
        given = {**options, "precision": precision}
        out, lse = device.attention(q, k, v, phi, psi, return_lse=True, **given)
        scores = device.attention_scores(q, k, phi, psi, **given)
        assert out.dtype == scores.dtype == dtype
        assert lse.dtype == (np.float64 if dtype == F8 else np.float32)
        scale = 1 / np.sqrt(width) if options["scale"] is None else abs(options["scale"])
        bound = OF_ATTENTION.get((dtype, precision), BOUND[dtype, precision])
        if (dtype, precision) in OF_ATTENTION or precision:
            bound *= 1 + scale * largest_term(q, k, phi, psi)
        assert_close(out, expected, bound, v)
        # Products of 16-bit values are exact, so the log-sum-exp only has the error of the sums.
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


@pytest.mark.parametrize("dtype", [np.float32, np.float64, BF16, F16])
@pytest.mark.parametrize("m", [0, 1, 5])
def test_retrieve_pads(device, dtype, m, rng):
    q, keys = rng.integers(-1, 2, (2, 3, 4)).astype(dtype), rng.integers(-1, 2, (m, 4)).astype(dtype)
    keys[3:4] = np.nan
    mask = rng.random((3, m)) < 0.7
    expected = reference.retrieve(reference.relation_matrix(q, keys), 7, mask)
    got = device.retrieve(q, keys, 7, mask=mask, pad=True)
    assert got[0].dtype == dtype
    np.testing.assert_array_equal(reference.float64(got[0]), expected[0])
    np.testing.assert_array_equal(got[1], expected[1])
    single = device.retrieve(q[1, 2], keys, 7, mask=mask[2], pad=True)
    for a, b in zip(single, expected, strict=True):
        np.testing.assert_array_equal(reference.float64(a), b[1, 2])


@arithmetic
@pytest.mark.parametrize("link", ["identity", "exp", "relu", "square"])
def test_relation_matvec(device, link, dtype, precision):
    def check(data, rng):
        draw = Draw(device, data, rng, dtype)
        d, n, m, c = draw.width(), draw.size(), draw.size(), draw.one_of([None, 0, 1, 2, 7, 40])
        phi, psi = draw.maps(d, d, 4)
        lead_x, lead_y = draw.leads(2)
        x, y = draw.array(*lead_x, n, d), draw.array(*lead_y, m, d)
        lead_v = (1,) * len(lead_y)
        v = normal(rng, (*lead_v, m) if c is None else (*lead_v, m, c), dtype)
        out = device.relation_matvec(x, y, v, phi, psi, link=link, scale=0.1, precision=precision)
        v2 = v[..., None] if c is None else v
        expected = reference.relation_matvec(x, y, v2, phi, psi, link, 0.1)
        grows = 1 + 0.1 * largest_term(x, y, phi, psi)
        bound = OF_ATTENTION.get((dtype, precision), BOUND[dtype, precision]) * grows
        if precision or dtype in (BF16, F16):
            bound *= 1 + sum(len(p.weights) for p in (phi, psi) if p)
            if bound > 0.1:
                return  # the error of the exponents is as large as the exponents
        # The sizes of the terms: link and relation are applied to absolute values.
        sizes = np.abs(reference.link(link, np.abs(reference.relation_matrix(x, y, phi, psi, 0.1))))
        assert_close(
            out,
            expected[..., 0] if c is None else expected,
            bound,
            np.linalg.norm(sizes @ np.abs(reference.float64(v2))),
        )

    cases(device, check)


@pytest.mark.parametrize("dtype", [F4, F8, BF16, F16], ids=["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("link", rk.ops.LINKS_OF_DISTANCE)
def test_links_of_distances(device, link, dtype):
    def check(data, rng):
        draw = Draw(device, data, rng, dtype)
        d, n, m, c = draw.width(), draw.size(), draw.size(), draw.one_of([None, 1, 2, 70])
        phi, psi = draw.maps(d, d, 4) if dtype in (F4, F8) else (None, None)
        lead_x, lead_y = draw.leads(2)
        x, y = draw.array(*lead_x, n, d), draw.array(*lead_y, m, d)
        v = normal(rng, (*lead_y, m) if c is None else (*lead_y, m, c), dtype)
        out = device.relation_matvec(x, y, v, phi, psi, link=link, scale=0.7 / d)
        assert out.dtype == dtype
        v2 = v[..., None] if c is None else v
        expected = reference.relation_matvec(x, y, v2, phi, psi, link, 0.7 / d)
        bound = 1e-2 if dtype in (BF16, F16) else 20 * BOUND[dtype, None]
        size = np.linalg.norm(reference.float64(v2)) * np.sqrt(max(n * m, 1)) + 1
        assert_close(out, expected[..., 0] if c is None else expected, bound, size)

    cases(device, check)


@exact
@pytest.mark.parametrize("link", rk.ops.LINKS_OF_DISTANCE)
def test_distances_far_from_the_origin(device, link, dtype, rng):
    x, y = normal(rng, (70, 5), dtype) + dtype(1e4), normal(rng, (MANY, 5), dtype) + dtype(1e4)
    y[:70] = x
    r = device.relation_matvec(x, y[:70], np.eye(70, dtype=dtype), link=link, scale=0.5)
    np.testing.assert_allclose(np.diag(r), 1, rtol=0, atol=0)
    np.testing.assert_allclose(
        r, reference.linked_relation(x, y[:70], link_name=link, scale=0.5), atol=20 * BOUND[dtype, None]
    )
    v = normal(rng, (MANY, 2), dtype)
    expected = reference.relation_matvec(x, y, v, link_name=link, scale=0.5)
    out = device.relation_matvec(x, y, v, link=link, scale=0.5)
    assert_close(out, expected, 20 * BOUND[dtype, None], np.abs(v).sum())
    one = device.relation_matvec(x, y, v[:, 0], link=link, scale=0.5)
    assert_close(one, expected[:, 0], 20 * BOUND[dtype, None], np.abs(v).sum())


def test_links_of_distances_keep_infinity_and_nan(device):
    x, y = np.array([[0.0], [np.inf], [np.nan]]), np.array([[0.0], [1e200]])
    for link in rk.ops.LINKS_OF_DISTANCE:
        out = device.relation_matvec(x, y, np.eye(2), link=link)
        np.testing.assert_array_equal(out, [[1, 0], [0, 0], [np.nan, np.nan]])
