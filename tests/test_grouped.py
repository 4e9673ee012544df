"""Grouped queries: items of a batch that share keys, which are then mapped and packed once."""

import numpy as np
import pytest
import relkernels as rk
from campaign.drawing import beside_fence
from hypothesis import given
from hypothesis import strategies as st
from strategies import mlp, normal, seeds

# Leading dimensions of queries and of keys and values.
LEADS = [
    ((2, 4), (2, 1)),
    ((4, 2), (1, 2)),
    ((3,), ()),
    ((2, 3, 2), (2, 1, 2)),
    ((2, 0), (2, 1)),
    ((1, 5), (1, 1)),
]
rows = st.sampled_from([1, 2, 3, 5, 13, 97, 130])
columns = st.sampled_from([1, 7, 64, 257, 2049])


def repeated(a, lead):
    """Return a copy of an array with leading dimensions that do not broadcast."""
    return np.broadcast_to(a, (*lead, *a.shape[-2:])).copy()


def case(n, m, leads, seed, dtype=np.float32):
    rng = np.random.default_rng(seed)
    q = normal(rng, (*leads[0], n, 6), dtype)
    k, v = normal(rng, (*leads[1], m, 6), dtype), normal(rng, (*leads[1], m, 3), dtype)
    return q, k, v, repeated(k, leads[0]), repeated(v, leads[0])


def same(a, b):
    for left, right in zip(*(x if isinstance(x, tuple) else (x,) for x in (a, b)), strict=True):
        np.testing.assert_array_equal(left, right)


options = st.sampled_from(
    [
        {},
        {"causal": True, "align": "lower_right"},
        {"window": (5, 3)},
        {"mask": "all rows"},
        {"mask": "one row"},
        {"mask": "each item"},
        {"mask": "each item", "causal": True},
    ]
)


@given(rows, columns, st.sampled_from(LEADS), options, st.booleans(), st.sampled_from([None, "bf16"]), seeds)
def test_sharing_columns_changes_no_bit(n, m, leads, option, mapped, precision, seed):
    q, k, v, all_k, all_v = case(n, m, leads, seed)
    rng = np.random.default_rng(seed)
    maps = (mlp(rng, [6, 9, 7], np.float32), mlp(rng, [6, 7], np.float32)) if mapped else ()
    kind = {"precision": precision}
    shapes = {"all rows": (n, m), "one row": (1, m), "each item": (*leads[0], n, m)}
    mask = rng.random(shapes[option["mask"]]) < 0.7 if "mask" in option else None
    option = option | {"mask": mask}
    same(
        rk.attention(q, k, v, *maps, return_lse=True, **option, **kind),
        rk.attention(q, all_k, all_v, *maps, return_lse=True, **option, **kind),
    )
    same(
        rk.attention_scores(q, k, *maps, **option, **kind),
        rk.attention_scores(q, all_k, *maps, **option, **kind),
    )
    same(
        rk.retrieve(q, k, min(m, 5), *maps, mask=mask, **kind),
        rk.retrieve(q, all_k, min(m, 5), *maps, mask=mask, **kind),
    )
    same(rk.relation_matrix(q, k, *maps, **kind), rk.relation_matrix(q, all_k, *maps, **kind))
    for values, all_values in ((v, all_v), (v[..., :1], all_v[..., :1])):
        same(
            rk.relation_matvec(q, k, values, *maps, link="exp", **kind),
            rk.relation_matvec(q, all_k, all_values, *maps, link="exp", **kind),
        )


@pytest.mark.parametrize("leads", LEADS)
@pytest.mark.parametrize("n", [3, 130])
def test_gradients_are_sums_over_the_group(leads, n):
    q, k, v, all_k, all_v = case(n, 70, leads, 0, np.float64)
    grad = normal(np.random.default_rng(1), (*leads[0], n, 3), np.float64)
    found = rk.attention_vjp(q, k, v, grad, causal=True)
    separate = rk.attention_vjp(q, all_k, all_v, grad, causal=True)
    assert [g.shape for g in found[:3]] == [q.shape, k.shape, v.shape]
    np.testing.assert_array_equal(found.grad_q, separate.grad_q)
    for a, b in ((found.grad_k, separate.grad_k), (found.grad_v, separate.grad_v)):
        lead = (1,) * (b.ndim - a.ndim) + a.shape[:-2]
        axes = tuple(i for i, size in enumerate(lead) if size != b.shape[i])
        np.testing.assert_allclose(a, b.sum(axes, keepdims=True).reshape(a.shape), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.grad_scale, separate.grad_scale, rtol=1e-12)
    # Only one of keys and values broadcasts: nothing is shared.
    for keys, values in ((k, all_v), (all_k, v)):
        mixed = rk.attention_vjp(q, keys, values, grad, causal=True)
        np.testing.assert_array_equal(mixed.grad_q, separate.grad_q)
        assert [g.shape for g in mixed[:3]] == [q.shape, keys.shape, values.shape]


def test_gradients_of_a_group_do_not_depend_on_threads(rng):
    q, k, v, grad = (normal(rng, (*lead, 200, 8), np.float32) for lead in ((2, 6), (2, 1), (2, 1), (2, 6)))
    before = rk.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            rk.set_num_threads(threads)
            results.append(rk.attention_vjp(q, k, v, grad)[:3])
        same(results[0], results[1])
        same(results[0], results[2])
    finally:
        rk.set_num_threads(before)


def test_keys_that_repeat_in_memory_have_gradients_of_their_own(rng):
    q, grad = normal(rng, (3, 9, 4), np.float64), normal(rng, (3, 9, 4), np.float64)
    k = normal(rng, (1, 11, 4), np.float64)
    view = np.broadcast_to(k, (3, 11, 4))
    found, expected = (
        rk.attention_vjp(q, view, view, grad),
        rk.attention_vjp(q, view.copy(), view.copy(), grad),
    )
    same(found[:3], expected[:3])
    assert found.grad_k.shape == (3, 11, 4)


def test_empty_batches_read_no_keys(rng):
    # Without items there is no memory behind the keys: here they begin at a page that must not be read. NumPy
    # gives arrays without elements strides of 0, as to items that share their keys.
    page = beside_fence(0, True).view(np.float32)
    k, v = (np.lib.stride_tricks.as_strided(page, (0, 17, d), (0, 0, 0)) for d in (4, 1))
    maps = rk.MLP.random([4, 6], seed=0), rk.MLP.random([4, 6], seed=1)
    for q in (normal(rng, (1, 3, 4), np.float32), normal(rng, (5, 0, 3, 4), np.float32)):
        lead = np.broadcast_shapes(q.shape[:-2], (0,))
        assert rk.relation_matrix(q, k, *maps).shape == (*lead, 3, 17)
        assert rk.relation_matvec(q, k, v, *maps, link="exp").shape == (*lead, 3, 1)
        assert rk.attention(q, k, v, *maps).shape == (*lead, 3, 1)
        assert rk.attention_scores(q, k, *maps).shape == (*lead, 3, 17)
        assert rk.retrieve(q, k, 2, *maps)[0].shape == (*lead, 3, 2)
        gradients = rk.attention_vjp(q, k, v, np.empty((*lead, 3, 1), np.float32), *maps)
        assert not gradients.grad_q.any()
        assert gradients.grad_k.shape == k.shape
