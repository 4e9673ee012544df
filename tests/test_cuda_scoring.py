"""Bias, soft cap and infinite scores of attention on a device, forward and back (CPU: test_scoring.py)."""

import numpy as np
import pytest
import reference
import relkernels as rk
from cuda_cases import (
    BOUND,
    F8,
    GRADIENT_BOUND,
    MANY,
    OF_ATTENTION,
    Draw,
    arithmetic,
    assert_close,
    assert_gradients,
    cases,
    exact,
    largest_term,
)
from strategies import lay_out, normal


def draw_bias(draw, lead, n, m):
    """Return a bias that broadcasts to the scores; in some cases -inf forbids pairs."""
    shape = (*draw.one_of([lead, ()]), draw.one_of([n, 1]), draw.one_of([m, 1]))
    bias = normal(draw.rng, shape, draw.dtype)
    bias[draw.rng.random(shape) < draw.one_of([0.0, 0.1, 0.8])] = -np.inf
    return lay_out(bias, draw.one_of(["plain", "transposed", "sliced", "offset"]))


def draw_scoring(draw, lead, n, m):
    """Return the options that make scores of inner products."""
    return {
        "mask": draw.mask(lead, n, m),
        "causal": draw.one_of([False, True]),
        "window": draw.one_of([None, 40, (70, None)]),
        "align": draw.one_of(["upper_left", "lower_right"]),
        "bias": draw_bias(draw, lead, n, m) if draw.one_of([True, True, False]) else None,
        "softcap": draw.one_of([None, 0.5, 30.0]),
    }


def assert_bias_gradient(got, expected, dtype, bound):
    assert (got.grad_bias is None) == (expected.grad_bias is None)
    if got.grad_bias is not None:
        assert got.grad_bias.shape == expected.grad_bias.shape
        assert_gradients([got.grad_bias], [expected.grad_bias], dtype, bound)


@arithmetic
def test_equals_its_definition(device, dtype, precision):
    def check(data, rng):
        draw = Draw(device, data, rng, dtype)
        lead_q, lead_k, lead_v = draw.leads(3)
        n, m, width = draw.size(), draw.size(), draw.one_of([1, 8, 33])
        q, k = draw.array(*lead_q, n, width), draw.array(*lead_k, m, width)
        v = draw.array(*lead_v, m, draw.one_of([1, 3, 64, 130]))
        lead = np.broadcast_shapes(lead_q, lead_k, lead_v)
        options = {"scale": draw.one_of([None, -0.2]), **draw_scoring(draw, lead, n, m)}
        out, lse = device.attention(q, k, v, return_lse=True, precision=precision, **options)
        scores = device.attention_scores(q, k, precision=precision, **options)
        expected, expected_lse = reference.attention(q, k, v, **options)
        bound = OF_ATTENTION.get((dtype, precision), BOUND[dtype, precision])
        bound *= 5 + largest_term(q, k, None, None)  # errors of scores are errors of exponents
        assert out.dtype == scores.dtype == dtype
        assert_close(out, expected, bound, v)
        assert_close(lse, expected_lse, bound, np.sqrt(max(lse.size, 1)))
        expected = reference.attention_scores(q, k, **options)
        assert_close(scores, expected, bound, 0 if expected.size else 1)

    cases(device, check)


@exact
@pytest.mark.parametrize("n", [40, 300], ids=["a block a chunk", "a block all chunks"])
def test_a_score_of_infinity(device, n, dtype, rng):
    q, k, v = (normal(rng, shape, dtype) for shape in ((n, 3), (MANY, 3), (MANY, 2)))
    bias = normal(rng, (n, MANY), dtype)
    bias[1, 4] = bias[2, 4] = bias[2, 4400] = bias[3, 3000] = np.inf
    bias[3, 2900] = bias[4, 3] = np.nan
    bias[5] = -np.inf
    out, lse = device.attention(q, k, v, bias=bias, return_lse=True)
    expected, expected_lse = reference.attention(q, k, v, bias=bias)
    np.testing.assert_array_equal(lse[1:6], [np.inf, np.inf, np.nan, np.nan, -np.inf])
    finite = np.r_[0, 5:n]
    assert_close(lse[np.r_[0, 6:n]], expected_lse[np.r_[0, 6:n]], 1e-5, 0)
    assert_close(out[finite], expected[finite], 1e-5, 0)
    assert np.isnan(out[1:5]).all()
    weights = device.attention_scores(q, k, bias=bias)
    assert np.isnan(weights[1:5]).all()
    assert (weights[5] == 0).all()
    assert np.isfinite(weights[0]).all()
    assert np.isfinite(device.attention(q[:3], k, v, bias=bias[:3], softcap=3.0)).all()


def test_what_a_bias_forbids_reaches_nothing(device, rng):
    q, k, v = (normal(rng, (100, 4), F8) for _ in range(3))
    bias = normal(rng, (100, 100), F8)
    bias[:, 7], bias[5] = -np.inf, -np.inf
    options = {"bias": bias, "softcap": 2.0}
    clean = device.attention(q, k, v, **options), device.attention_scores(q, k, **options)
    k[7], v[7], q[5] = np.nan, np.inf, np.nan
    np.testing.assert_array_equal(device.attention(q, k, v, **options), clean[0])
    np.testing.assert_array_equal(device.attention_scores(q, k, **options), clean[1])


@exact
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_gradients_equal_those_of_the_cpu(device, softcap, dtype):
    def check(data, rng):
        draw = Draw(device, data, rng, dtype)
        n, m, d = draw.size(1), draw.size(1), draw.one_of([1, 8, 33])
        lead_q, lead_k, lead_v = draw.leads(3)
        q, k = draw.array(*lead_q, n, d), draw.array(*lead_k, m, d)
        v = draw.array(*lead_v, m, 5)
        lead = np.broadcast_shapes(lead_q, lead_k, lead_v)
        options = {**draw_scoring(draw, lead, n, m), "softcap": softcap}
        lead = np.broadcast_shapes(lead, () if options["bias"] is None else options["bias"].shape[:-2])
        grad, grad_lse = (
            normal(rng, (*lead, n, 5), dtype),
            draw.one_of([None, normal(rng, (*lead, n), dtype)]),
        )
        named = {**options, "grad_lse": grad_lse, "of_bias": draw.one_of([True, True, False])}
        got = device.attention_vjp(q, k, v, grad, **named)
        wide = {name: a.astype(F8) if getattr(a, "dtype", None) == dtype else a for name, a in named.items()}
        expected = rk.attention_vjp(*(a.astype(F8) for a in (q, k, v, grad)), **wide)
        bound = GRADIENT_BOUND[dtype] * (20 + 5 * largest_term(q, k, None, None))
        assert_gradients(got[:3], expected[:3], dtype, bound)
        assert_bias_gradient(got, expected, dtype, bound)

    cases(device, check)


@exact
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_gradients_of_scores_equal_those_of_the_cpu(device, softcap, dtype):
    def check(data, rng):
        draw = Draw(device, data, rng, dtype)
        n, m, d = draw.size(), draw.size(), draw.one_of([1, 8, 33, 65])
        lead_q, lead_k = draw.leads(2)
        q, k = draw.array(*lead_q, n, d), draw.array(*lead_k, m, d)
        lead = np.broadcast_shapes(lead_q, lead_k)
        options = {**draw_scoring(draw, lead, n, m), "softcap": softcap, "scale": draw.one_of([None, -0.3])}
        grad = lay_out(
            normal(rng, rk.attention_scores(q, k, **options).shape, dtype),
            draw.one_of(["plain", "transposed", "sliced"]),
        )
        got = device.attention_scores_vjp(q, k, grad, **options)
        wide = {
            name: a.astype(F8) if getattr(a, "dtype", None) == dtype else a for name, a in options.items()
        }
        expected = rk.attention_scores_vjp(*(a.astype(F8) for a in (q, k, grad)), **wide)
        bound = GRADIENT_BOUND[dtype] * (20 + 5 * largest_term(q, k, None, None))
        assert_gradients(got, expected, dtype, bound)
        assert_gradients([got.grad_scale], [np.array(expected.grad_scale)], dtype, 4 * bound)
        assert_bias_gradient(got, expected, dtype, bound)

    cases(device, check)


@exact
@pytest.mark.parametrize(("n", "m"), [(5, MANY), (300, MANY), (MANY, 5)])
def test_gradients_of_scores_over_several_chunks(device, n, m, dtype, rng):
    q, k, grad = (normal(rng, shape, dtype) for shape in ((n, 4), (m, 4), (n, m)))
    options = {"window": (3000, 2900), "softcap": 3.0}
    got = device.attention_scores_vjp(q, k, grad, **options)
    expected = rk.attention_scores_vjp(*(a.astype(F8) for a in (q, k, grad)), **options)
    assert_gradients(got, expected, dtype, 20 * GRADIENT_BOUND[dtype])
    if n == 300:  # a block a chunk computes the same bits as a block all chunks
        few = device.attention_scores_vjp(q[:5], k, grad[:5], **options)
        np.testing.assert_array_equal(few.grad_q, got.grad_q[:5])


def test_gradients_of_scores_do_not_read_what_is_forbidden(device, rng):
    q, k, grad = (normal(rng, shape, F8) for shape in ((70, 4), (90, 4), (70, 90)))
    mask = rng.random((70, 90)) < 0.5
    mask[3] = False
    clean = device.attention_scores_vjp(q, k, grad, mask=mask)
    again = device.attention_scores_vjp(q, k, np.where(mask, grad, np.nan), mask=mask)
    for a, b in zip(clean[:2], again[:2], strict=True):
        np.testing.assert_array_equal(a, b)
    assert (clean.grad_q[3] == 0).all()


@exact
@pytest.mark.parametrize(
    "shape",
    [(2, 3, 37, 51), (3, 1, 1), (2, 1, 37, 51), (3, 37, 1), (37, 51), (2, 1, 1, 51), (51,), (37, 1), ()],
)
def test_gradients_of_a_bias_add_up_what_it_reached(device, shape, dtype, rng):
    q, k, v = (normal(rng, of, dtype) for of in ((2, 3, 37, 4), (3, 51, 4), (2, 1, 51, 2)))
    grad, of_weights = normal(rng, (2, 3, 37, 2), dtype), normal(rng, (2, 3, 37, 51), dtype)
    bias = np.array(normal(rng, shape, dtype))
    options = {"bias": bias, "window": (20, 30)}
    wide = {"bias": bias.astype(F8), "window": (20, 30)}
    for name, arguments in (("attention_vjp", (q, k, v, grad)), ("attention_scores_vjp", (q, k, of_weights))):
        got = getattr(device, name)(*arguments, **options)
        expected = getattr(rk, name)(*(a.astype(F8) for a in arguments), **wide)
        assert_bias_gradient(got, expected, dtype, 30 * GRADIENT_BOUND[dtype])
        again = getattr(device, name)(*arguments, **options)
        np.testing.assert_array_equal(got.grad_bias, again.grad_bias)
    for empty in (np.s_[:, :, :0], np.s_[:0]):
        if bias.ndim < 4 and (bias.ndim < 2 or bias.shape[-2] == 1):
            found = device.attention_scores_vjp(q[empty], k, of_weights[empty], **options)
            assert (found.grad_bias == 0).all()


@exact
def test_gradients_of_infinite_scores_and_empty_rows(device, dtype, rng):
    q, k, v = (normal(rng, (n, 4), dtype) for n in (40, 70, 70))
    bias = normal(rng, (40, 70), dtype)
    bias[1, 4], bias[5] = np.inf, -np.inf
    grad = np.ones((40, 4), dtype)
    found = device.attention_vjp(q, k, v, grad, bias=bias, of_bias=False)
    assert np.isnan(found.grad_q[1]).all()
    assert (found.grad_q[5] == 0).all()
    assert np.isfinite(np.delete(found.grad_q, 1, 0)).all()
    assert np.isnan(found.grad_v).all()
