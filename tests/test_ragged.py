"""Ragged batches: segments of rows packed one after the other, each a batch item of its own."""

import numpy as np
import pytest
import reference
import relkernels as rk
from hypothesis import given
from hypothesis import strategies as st
from strategies import lay_out, layouts, mlp, normal, seeds

sizes = st.sampled_from([0, 0, 1, 2, 3, 7, 13, 33, 97, 130, 257])
segments = st.lists(st.tuples(sizes, sizes), max_size=5)
aligns = st.sampled_from(["upper_left", "lower_right"])
bands = st.fixed_dictionaries(
    {}, optional={"causal": st.booleans(), "window": st.tuples(st.integers(0, 40), st.integers(0, 40))}
)
# Leading dimensions of queries and of keys: heads, and groups of heads that share keys.
leads = st.sampled_from([((), ()), ((2,), (2,)), ((3,), (1,)), ((2, 3), (2, 1)), ((2, 3), (3,)), ((2,), ())])


def offsets(lengths):
    return np.cumsum([0, *lengths]).astype(np.int64)


def case(drawn, leads, seed, dtype=np.float64, width=5):
    """Return queries, keys, values, a gradient and the offsets of both."""
    rng = np.random.default_rng(seed)
    of_q, of_k = offsets([n for n, _ in drawn]), offsets([m for _, m in drawn])
    q = normal(rng, (*leads[0], of_q[-1], width), dtype)
    k, v = (normal(rng, (*leads[1], of_k[-1], d), dtype) for d in (width, 3))
    grad = normal(rng, (*np.broadcast_shapes(*leads), of_q[-1], 3), dtype)
    return q, k, v, grad, {"q_offsets": of_q, "k_offsets": of_k}


@given(segments, leads, bands, aligns, layouts, seeds)
def test_attention_and_its_gradient(drawn, leads, band, align, layout, seed):
    q, k, v, grad, ragged = case(drawn, leads, seed)
    q, k, v = (lay_out(a, layout) for a in (q, k, v))
    mask = reference.ragged_mask(*ragged.values(), align=align, **band)
    out, lse = rk.attention(q, k, v, return_lse=True, align=align, **band, **ragged)
    expected, expected_lse = reference.attention(q, k, v, mask=mask)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(lse, expected_lse, rtol=1e-12, atol=1e-12)
    found = rk.attention_vjp(q, k, v, grad, align=align, **band, **ragged)
    dense = rk.attention_vjp(q, k, v, grad, mask=mask)
    for a, b in zip(found[:3], dense[:3], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-11)
    np.testing.assert_allclose(found.grad_scale, dense.grad_scale, rtol=1e-9, atol=1e-10)


few = st.sampled_from([0, 1, 2, 7, 33])


@given(st.lists(st.tuples(few, few), max_size=4), leads, st.integers(1, 20), seeds)
def test_retrieval(drawn, leads, count, seed):
    q, keys, _, _, ragged = case(drawn, leads, seed)
    values, indices = rk.retrieve(q, keys, count, pad=True, **ragged)
    relation = rk.relation_matrix(q, keys)
    for rows, columns in reference.segments(*ragged.values()):
        expected = reference.retrieve(relation[..., rows, columns], count)
        np.testing.assert_array_equal(values[..., rows, :], expected[0])
        np.testing.assert_array_equal(indices[..., rows, :], expected[1])


@pytest.mark.parametrize("maps", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_bits_are_those_of_a_call_for_each_segment(maps, threads, rng):
    drawn = [(3, 40), (0, 7), (130, 2100), (1, 300), (50, 0), (97, 257)]
    q, k, v, grad, ragged = case(drawn, ((2, 4), (2, 1)), 0, np.float32)
    phi = mlp(rng, [5, 17, 9], np.float32) if maps else None
    psi = mlp(rng, [5, 9], np.float32) if maps else None
    options = {"causal": True, "align": "lower_right"}
    before = rk.get_num_threads()
    try:
        rk.set_num_threads(threads)
        for extra in ({}, {"precision": "bf16"}):
            out, lse = rk.attention(q, k, v, phi, psi, return_lse=True, **options, **ragged, **extra)
            best = rk.retrieve(q, k, 5, phi, psi, **ragged, **extra)
            for rows, columns in reference.segments(*ragged.values()):
                part = q[..., rows, :], k[..., columns, :]
                one = rk.attention(*part, v[..., columns, :], phi, psi, return_lse=True, **options, **extra)
                np.testing.assert_array_equal(out[..., rows, :], one[0])
                np.testing.assert_array_equal(lse[..., rows], one[1])
                for a, b in zip(best, rk.retrieve(*part, 5, phi, psi, pad=True, **extra), strict=True):
                    np.testing.assert_array_equal(a[..., rows, :], b)
        found = rk.attention_vjp(q, k, v, grad, phi, psi, **options, **ragged)
    finally:
        rk.set_num_threads(before)
    for rows, columns in reference.segments(*ragged.values()):
        one = rk.attention_vjp(
            q[..., rows, :], k[..., columns, :], v[..., columns, :], grad[..., rows, :], phi, psi, **options
        )
        np.testing.assert_array_equal(found[0][..., rows, :], one[0])
        np.testing.assert_array_equal(found[1][..., columns, :], one[1])
        np.testing.assert_array_equal(found[2][..., columns, :], one[2])


def test_half_precision_is_read_as_stored(rng):
    q, k, v, _, ragged = case([(3, 9), (0, 2), (40, 70)], ((), ()), 1, np.float16)
    phi = mlp(rng, [5, 9], np.float32)
    out = rk.attention(q, k, v, phi, **ragged)
    assert out.dtype == np.float16
    for rows, columns in reference.segments(*ragged.values()):
        np.testing.assert_array_equal(out[rows], rk.attention(q[rows], k[columns], v[columns], phi))


def test_nan_stays_in_its_segment(rng):
    q, k, v, grad, ragged = case([(30, 30), (40, 50), (20, 10)], ((), ()), 2, np.float32)
    k[35], v[40] = np.nan, np.inf
    out = rk.attention(q, k, v, **ragged)
    assert np.isfinite(out[:30]).all()
    assert np.isfinite(out[70:]).all()
    assert np.isnan(out[30:70]).all()
    grad_q, grad_k, grad_v = rk.attention_vjp(q, k, v, grad, **ragged)[:3]
    assert np.isfinite(grad_q[:30]).all()
    assert np.isfinite(grad_k[:30]).all()
    assert np.isfinite(grad_v[80:]).all()


def test_given_outputs(rng):
    q, k, v, _, ragged = case([(3, 9), (4, 2)], ((2,), (2,)), 3)
    out = np.full((2, 7, 6), np.nan)[..., ::2]
    assert rk.attention(q, k, v, **ragged, out=out) is out
    np.testing.assert_array_equal(out, rk.attention(q, k, v, **ragged))


BOTH = {"q_offsets": np.array([0, 2, 4]), "k_offsets": np.array([0, 1, 5])}


@pytest.mark.parametrize(
    ("error", "text", "changed"),
    [
        (TypeError, "k_offsets: expected a vector of int64 with q_offsets, got None", {"k_offsets": None}),
        (TypeError, "q_offsets: expected a vector of int64 with k_offsets, got None", {"q_offsets": None}),
        (TypeError, "q_offsets: expected a vector of int64, got", {"q_offsets": np.array([0, 4], np.int32)}),
        (TypeError, "q_offsets: expected a vector of int64, got", {"q_offsets": np.array([[0, 4]])}),
        (TypeError, "q_offsets: expected a vector of int64, got list", {"q_offsets": [0, 2, 4]}),
        (ValueError, "q_offsets: expected b . 1 offsets", {"q_offsets": np.array([], np.int64)}),
        (ValueError, "q_offsets: expected 0 as the first offset, got 1", {"q_offsets": np.array([1, 2, 4])}),
        (
            ValueError,
            r"k_offsets: expected 5 as the last offset, the rows of k(eys)? \(5, 3\), got 4",
            {"k_offsets": np.array([0, 2, 4])},
        ),
        (
            ValueError,
            r"q_offsets: expected offsets that do not decrease, got 3 and then 2 \(at index 2\)",
            {"q_offsets": np.array([0, 3, 2, 4])},
        ),
        (
            ValueError,
            "k_offsets: expected 3 offsets, as many as q_offsets, got 4",
            {"k_offsets": np.array([0, 2, 2, 5])},
        ),
        (TypeError, "mask: expected None with q_offsets, got", {"mask": np.ones((4, 5), bool)}),
    ],
)
def test_refused(error, text, changed):
    q, k = np.ones((4, 3)), np.ones((5, 3))
    with pytest.raises(error, match=text):
        rk.attention(q, k, k, **BOTH | changed)
    with pytest.raises(error, match=text):
        rk.attention_vjp(q, k, k, q, **BOTH | changed)
    with pytest.raises(error, match=text):
        rk.retrieve(q, k, 1, **BOTH | changed)


def test_retrieval_refuses_keys_and_single_queries():
    q, k = np.ones((4, 3)), np.ones((5, 3))
    with pytest.raises(TypeError, match="q_offsets: expected None with Keys, got"):
        rk.retrieve(q, rk.Keys(k), 1, **BOTH)
    with pytest.raises(ValueError, match="q: expected at least 2 dimensions with q_offsets"):
        rk.retrieve(q[0], k, 1, q_offsets=np.array([0, 1]), k_offsets=np.array([0, 5]))
