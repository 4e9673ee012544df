"""Bias, soft cap and log-sum-exp of attention, forward and back, with every other option."""

import numpy as np
import pytest
import reference
import relkernels as rk
from hypothesis import given
from hypothesis import strategies as st
from strategies import DTYPES, dtypes, lay_out, layouts, leads, mlp, normal, seeds

BOUND = {np.float32: 5e-6, np.float64: 1e-13}
# One past a strip, a block of rows, a tile of columns and a chunk.
rows = st.sampled_from([0, 1, 2, 5, 13, 25, 97, 130])
columns = st.sampled_from([0, 1, 3, 17, 64, 129, 257, 300])
limits = st.none() | st.integers(0, 70)
windows = st.none() | st.integers(0, 40) | st.tuples(limits, limits)
aligns = st.sampled_from(["upper_left", "lower_right"])
softcaps = st.sampled_from([None, 0.5, 2.0, 30.0])


@st.composite
def biases(draw, lead, n, m, dtype, rng):
    shape = (*draw(st.sampled_from([lead, ()])), draw(st.sampled_from([n, 1])), draw(st.sampled_from([m, 1])))
    bias = normal(rng, shape, dtype)
    if draw(st.booleans()):
        bias[rng.random(shape) < draw(st.sampled_from([0.1, 0.8]))] = -np.inf
    if draw(st.booleans()) and bias.ndim == 2 and len(bias) == 1:
        return bias[0]
    return lay_out(bias, draw(layouts))


@st.composite
def cases(draw):
    """Arrays and options: (q, k, v, options, whether the errors of a row are those of a saturated cap)."""
    dtype, rng = draw(dtypes), np.random.default_rng(draw(seeds))
    n, m, d = draw(rows), draw(columns), draw(st.sampled_from([1, 3, 16]))
    lead_q, lead_k, lead_v = draw(leads(3))
    lead = np.broadcast_shapes(lead_q, lead_k, lead_v)
    q, k = normal(rng, (*lead_q, n, d), dtype), normal(rng, (*lead_k, m, d), dtype)
    v = normal(rng, (*lead_v, m, draw(st.sampled_from([1, 5, 33]))), dtype)
    options = {
        "scale": draw(st.sampled_from([None, 0.3, -1.0])),
        "mask": (rng.random((n, m)) < 0.7) if draw(st.booleans()) else None,
        "causal": draw(st.booleans()),
        "window": draw(windows),
        "align": draw(aligns),
        "bias": draw(st.none() | biases(lead, n, m, dtype, rng)),
        "softcap": draw(softcaps),
    }
    return q, k, v, options, rng


def tolerance(dtype, q, k):
    """Errors of the scores are errors of exponents, relative to the scores' terms."""
    return BOUND[dtype] * (10 + np.max(np.abs(q), initial=0) * np.max(np.abs(k), initial=0) * q.shape[-1])


def summed_to(a, shape):
    a = a.sum(axis=tuple(range(a.ndim - len(shape))))
    return a.sum(axis=tuple(i for i, size in enumerate(shape) if size == 1 != a.shape[i]), keepdims=True)


@given(cases())
def test_equals_its_definition(case):
    q, k, v, options, _ = case
    bound = tolerance(q.dtype.type, q, k)
    out, lse = rk.attention(q, k, v, return_lse=True, **options)
    expected, expected_lse = reference.attention(q, k, v, **options)
    reference.assert_close(out, expected, bound, v)
    reference.assert_close(lse, expected_lse, bound, np.sqrt(max(lse.size, 1)))
    scores = rk.attention_scores(q, k, **options)
    reference.assert_close(scores, reference.attention_scores(q, k, **options), bound, 0)


def check_gradients(found, of_terms, q, k, scale, bias):
    """Compare with the gradients that follow from that of the terms scale * <q, k> + bias."""
    f, g = q.astype(np.float64), k.astype(np.float64)
    scale = 1 / np.sqrt(q.shape[-1]) if scale is None else scale
    magnitude = np.linalg.norm(of_terms) * (1 + np.linalg.norm(f) * np.linalg.norm(g)) + 1
    bound = 10 * tolerance(q.dtype.type, q, k)
    products = f @ np.swapaxes(g, -1, -2)
    reference.assert_close(found.grad_q, summed_to(scale * of_terms @ g, q.shape), bound, magnitude)
    of_k = summed_to(scale * np.swapaxes(of_terms, -1, -2) @ f, k.shape)
    reference.assert_close(found.grad_k, of_k, bound, magnitude)
    assert abs(found.grad_scale - (of_terms * products).sum()) <= bound * magnitude
    assert (found.grad_bias is None) == (bias is None)
    if bias is not None:
        assert found.grad_bias.dtype == q.dtype
        reference.assert_close(found.grad_bias, summed_to(of_terms, bias.shape), bound, magnitude)


@given(cases())
def test_gradients_equal_their_definitions(case):
    q, k, v, options, rng = case
    weights = reference.attention_scores(q, k, **options)
    grad = normal(rng, weights.shape, q.dtype)
    found = rk.attention_scores_vjp(q, k, grad, **options)
    of_terms = reference.gradient_of_terms(grad, 0, q, k, **options)
    check_gradients(found, of_terms, q, k, options["scale"], options["bias"])

    lead = np.broadcast_shapes(weights.shape[:-2], v.shape[:-2])
    grad = normal(rng, (*lead, q.shape[-2], v.shape[-1]), q.dtype)
    grad_lse = normal(rng, grad.shape[:-1], q.dtype)
    found = rk.attention_vjp(q, k, v, grad, grad_lse=grad_lse, **options)
    upstream = grad.astype(np.float64) @ np.swapaxes(v, -1, -2).astype(np.float64)
    of_terms = reference.gradient_of_terms(upstream, grad_lse, q, k, **options)
    check_gradients(found, of_terms, q, k, options["scale"], options["bias"])
    of_v = summed_to(np.swapaxes(weights, -1, -2) @ grad.astype(np.float64), v.shape)
    reference.assert_close(found.grad_v, of_v, 10 * tolerance(q.dtype.type, q, k), np.linalg.norm(grad) + 1)


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("shape", [(2, 9, 7), (2, 1, 7), (9, 1), (1, 1), (7,), ()])
def test_finite_differences(shape, softcap, rng):
    phi, psi = mlp(rng, [4, 5, 3], np.float64, "tanh"), mlp(rng, [2, 3], np.float64)
    q, k, v = (
        normal(rng, (2, 9, 4), np.float64),
        normal(rng, (7, 2), np.float64),
        normal(rng, (7, 5), np.float64),
    )
    arrays = {"q": q, "k": k, "v": v, "bias": normal(rng, shape, np.float64), "scale": np.array(0.7)}
    options = {"window": (4, 3), "softcap": softcap, "phi": phi, "psi": psi}
    grad, grad_lse = normal(rng, (2, 9, 5), np.float64), normal(rng, (2, 9), np.float64)
    grad_scores = normal(rng, (2, 9, 7), np.float64)

    def of_attention(given):
        out, lse = reference.attention(**given, **options)
        return (out * grad).sum() + (lse * grad_lse).sum()

    def of_scores(given):
        return (reference.attention_scores(**given, **options) * grad_scores).sum()

    attention = rk.attention_vjp(**arrays, grad=grad, grad_lse=grad_lse, **options)
    without_v = {name: a for name, a in arrays.items() if name != "v"}
    scores = rk.attention_scores_vjp(**without_v, grad=grad_scores, **options)
    for value, found, at in ((of_attention, attention, arrays), (of_scores, scores, without_v)):
        for name in at:
            direction = normal(rng, at[name].shape, np.float64)
            ends = [value({**at, name: at[name] + step * direction}) for step in (-1e-5, 1e-5)]
            slope = (getattr(found, f"grad_{name}") * direction).sum()
            assert abs((ends[1] - ends[0]) / 2e-5 - slope) <= 1e-8 * (1 + abs(slope))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_score_of_infinity(dtype, rng):
    q, k, v = normal(rng, (6, 3), dtype), normal(rng, (5000, 3), dtype), normal(rng, (5000, 2), dtype)
    bias = normal(rng, (6, 5000), dtype)
    bias[1, 4] = bias[2, 4] = bias[2, 4900] = bias[3, 3000] = np.inf
    bias[3, 2900] = bias[4, 3] = np.nan
    bias[5] = -np.inf
    out, lse = rk.attention(q, k, v, bias=bias, return_lse=True)
    expected, expected_lse = reference.attention(q, k, v, bias=bias)
    np.testing.assert_array_equal(lse[1:], [np.inf, np.inf, np.nan, np.nan, -np.inf])
    reference.assert_close(lse, expected_lse, 1e-5, 0)
    with np.errstate(invalid="ignore"):
        reference.assert_close(out, expected, 1e-5, 0)
    assert np.isnan(out[1:5]).all()
    weights = rk.attention_scores(q, k, bias=bias)
    assert np.isnan(weights[1:5]).all()
    assert (weights[5] == 0).all()
    assert np.isfinite(weights[0]).all()
    found = rk.attention_vjp(q, k, v, np.ones_like(out), bias=bias, result=(out, lse))
    assert np.isnan(found.grad_q[1:5]).all()
    assert np.isfinite(found.grad_q[0]).all()
    assert (found.grad_q[5] == 0).all()
    assert np.isnan(found.grad_v).all()
    assert np.isfinite(rk.attention(q[:3], k, v, bias=bias[:3], softcap=3.0)).all()


def test_what_a_bias_forbids_reaches_nothing(rng):
    q, k, v = (normal(rng, (300, 4), np.float32) for _ in range(3))
    bias = normal(rng, (300, 300), np.float32)
    bias[:, 7], bias[5] = -np.inf, -np.inf
    clean = rk.attention(q, k, v, bias=bias), rk.attention_scores(q, k, bias=bias)
    grad = normal(rng, (300, 4), np.float32)
    gradients = rk.attention_vjp(q, k, v, grad, bias=bias, softcap=3.0)
    of_scores = rk.attention_scores_vjp(q, k, bias, bias=bias * 0.5)
    for bad in (np.nan, np.inf):
        q[5], k[7], v[7], grad[5] = bad, bad, bad, bad
        grad_scores = bias.copy()
        grad_scores[:, 7], grad_scores[5] = bad, bad
        np.testing.assert_array_equal(rk.attention(q, k, v, bias=bias), clean[0])
        np.testing.assert_array_equal(rk.attention_scores(q, k, bias=bias), clean[1])
        np.testing.assert_array_equal(rk.attention(q[4:6], k, v, bias=bias[4:6]), clean[0][4:6])
        for got, expected in (
            (rk.attention_vjp(q, k, v, grad, bias=bias, softcap=3.0), gradients),
            (rk.attention_scores_vjp(q, k, grad_scores, bias=bias * 0.5), of_scores),
        ):
            for a, b in zip(got.__getnewargs__(), expected.__getnewargs__(), strict=True):
                np.testing.assert_array_equal(a, b)


def test_a_bias_of_minus_infinity_is_a_mask(rng):
    q, k, v = (normal(rng, (2, 130, 4), np.float32) for _ in range(3))
    mask = rng.random((130, 130)) < 0.5
    bias = np.where(mask, 0, -np.inf).astype(np.float32)
    np.testing.assert_array_equal(rk.attention(q, k, v, bias=bias), rk.attention(q, k, v, mask=mask))
    grad = normal(rng, v.shape, np.float32)
    found, expected = rk.attention_vjp(q, k, v, grad, bias=bias), rk.attention_vjp(q, k, v, grad, mask=mask)
    for a, b in zip(found[:3], expected[:3], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("shape", [(2, 3, 150, 200), (3, 1, 200), (150, 1), (2, 1, 1, 1)])
def test_no_bit_depends_on_threads_or_on_the_batch(shape, rng):
    q, k, v = (normal(rng, (2, 3, size, 8), np.float32) for size in (150, 200, 200))
    options = {"bias": normal(rng, shape, np.float32), "softcap": 2.0, "causal": True}
    grad, grad_scores = normal(rng, (2, 3, 150, 8), np.float32), normal(rng, (2, 3, 150, 200), np.float32)
    before = rk.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            rk.set_num_threads(threads)
            results.append(
                [
                    *rk.attention(q, k, v, return_lse=True, **options),
                    rk.attention_scores(q, k, **options),
                    *rk.attention_vjp(q, k, v, grad, **options).__getnewargs__(),
                    *rk.attention_scores_vjp(q, k, grad_scores, **options).__getnewargs__(),
                ]
            )
    finally:
        rk.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
    of_one = {**options, "bias": np.broadcast_to(options["bias"], (2, 3, 150, 200))[1, 2]}
    np.testing.assert_array_equal(rk.attention(q[1, 2], k[1, 2], v[1, 2], **of_one), results[0][0][1, 2])
    found = rk.attention_vjp(q[1, 2], k[1, 2], v[1, 2], grad[1, 2], **of_one)
    np.testing.assert_array_equal(found.grad_q, results[0][3][1, 2])


def test_halves_are_read_as_they_are_stored(rng):
    q, k, v = (normal(rng, (130, 8), np.float16) for _ in range(3))
    for shape in ((130, 130), (130, 1), (1, 130), (2, 1, 1)):
        bias = normal(rng, shape, np.float16)
        bias[..., 0, -1] = -np.inf
        got = rk.attention(q, k, v, bias=bias, softcap=4.0)
        wide = (a.astype(np.float32) for a in (q, k, v))
        expected = rk.attention(*wide, bias=bias.astype(np.float32), softcap=4.0)
        np.testing.assert_array_equal(got, expected.astype(np.float16))


def test_the_gradient_of_the_bias_can_be_left_out(rng):
    x, bias = normal(rng, (20, 3), np.float64), normal(rng, (20, 20), np.float64)
    with_it, without = (rk.attention_vjp(x, x, x, x, bias=bias, of_bias=of) for of in (True, False))
    assert without.grad_bias is None
    np.testing.assert_array_equal(with_it.grad_q, without.grad_q)
    assert rk.attention_scores_vjp(x, x, bias, bias=bias, of_bias=False).grad_bias is None


F32 = np.ones((4, 5), np.float32)


@pytest.mark.parametrize(
    ("error", "text", "arguments"),
    [
        (ValueError, "softcap: expected a finite number > 0, got -1", {"softcap": -1}),
        (ValueError, "softcap: expected a finite number > 0, got 0", {"softcap": 0}),
        (ValueError, "softcap: expected a finite number > 0, got nan", {"softcap": np.nan}),
        (ValueError, "softcap: expected a finite number > 0, got inf", {"softcap": np.inf}),
        (ValueError, "softcap: expected a number that float32 can hold, got 1e-60", {"softcap": 1e-60}),
        (ValueError, r"softcap: expected a number that float32 can hold, got 1e\+60", {"softcap": 1e60}),
        (TypeError, "softcap: expected a real number, got str", {"softcap": "2"}),
        (TypeError, "softcap: expected a real number, got bool", {"softcap": True}),
        (TypeError, "bias: expected float32, the dtype of q, got float64", {"bias": F32.astype(float)}),
        (TypeError, "bias: expected float32 or float64, got", {"bias": F32 > 0}),
        (TypeError, "bias: expected an array of float32 or float64, got float 1.0", {"bias": 1.0}),
        (
            ValueError,
            r"bias: expected a shape that broadcasts to \(..., 4, 5\), got \(5, 4\)",
            {"bias": F32.T},
        ),
        (
            ValueError,
            "q: expected leading dimensions that broadcast",
            {"bias": np.ones((3, 4, 5), np.float32)},
        ),
    ],
)
def test_refused(error, text, arguments):
    q, k = np.ones((2, 4, 3), np.float32), np.ones((5, 3), np.float32)
    for call, rest in (
        (rk.attention_scores, {}),
        (rk.attention_scores_vjp, {"grad": np.ones((2, 4, 5), np.float32)}),
        (rk.attention, {"v": k}),
        (rk.attention_vjp, {"v": k, "grad": q}),
    ):
        with pytest.raises(error, match=text):
            call(q, k, **rest, **arguments)


def test_refused_gradients():
    x = np.ones((4, 3), np.float32)
    with pytest.raises(
        ValueError, match=r"grad_lse: expected shape \(4,\), that of the log-sum-exp, got \(3,\)"
    ):
        rk.attention_vjp(x, x, x, x, grad_lse=x[0])
    with pytest.raises(TypeError, match="grad_lse: expected float32, the dtype of q, got float64"):
        rk.attention_vjp(x, x, x, x, grad_lse=np.ones(4))
    with pytest.raises(ValueError, match=r"grad: expected shape \(4, 4\), that of the scores, got \(4, 3\)"):
        rk.attention_scores_vjp(x, x, x)
    with pytest.raises(TypeError, match="of_bias: expected True or False"):
        rk.attention_scores_vjp(x, x, x @ x.T, of_bias=1)
