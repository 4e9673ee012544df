"""Grouped queries, ragged batches and jagged nested tensors in relkernels.torch."""

import numpy as np
import pytest
import relkernels as rk

torch = pytest.importorskip("torch")
import relkernels.torch  # noqa: E402
from plain_torch import SINCE_2_5  # noqa: E402

SDPA = torch.nn.functional.scaled_dot_product_attention
attention = relkernels.torch.attention


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def gradients(out, *inputs):
    weights = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(0))
    return torch.autograd.grad((out * weights).sum(), inputs)


@pytest.mark.skipif(not SINCE_2_5, reason="PyTorch has no enable_gqa before 2.5")
@pytest.mark.parametrize("mask_heads", [None, 0, 1, 6])
def test_grouped_queries_are_those_of_pytorch(mask_heads):
    q, k, v = randn(2, 6, 7, 4), randn(2, 3, 9, 4), randn(2, 3, 9, 5)
    mask = None
    if mask_heads is not None:
        mask = torch.rand(*((2, mask_heads) if mask_heads else ()), 7, 9) < 0.8
        mask[..., 0] = True
    out = attention(q, k, v, mask=mask, enable_gqa=True)
    expected = SDPA(q, k, v, attn_mask=mask, enable_gqa=True)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    for a, b in zip(gradients(out, q, k, v), gradients(expected, q, k, v), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_one_head_of_keys_per_head_of_queries():
    q, k, v = randn(2, 3, 7, 4), randn(2, 3, 9, 4), randn(2, 3, 9, 5)
    assert torch.equal(attention(q, k, v, enable_gqa=True), attention(q, k, v))


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("k: expected a number of heads that divides the 4 of q", [(1, 4, 5, 2), (1, 3, 5, 2), (1, 3, 5, 2)]),
        ("v: expected 2 heads, as many as k", [(1, 4, 5, 2), (1, 2, 5, 2), (1, 4, 5, 2)]),
        ("k: expected at least 3 dimensions with enable_gqa", [(4, 5, 2), (5, 2), (5, 2)]),
    ],
)
def test_grouped_queries_refused(text, shapes):
    with pytest.raises(ValueError, match=text):
        attention(*(torch.ones(shape) for shape in shapes), enable_gqa=True)


def test_a_mask_of_other_heads_is_refused():
    q, k = torch.ones(4, 5, 2), torch.ones(2, 5, 2)
    with pytest.raises(ValueError, match="mask: expected 1 or 4 heads"):
        attention(q, k, k, mask=torch.ones(2, 5, 5, dtype=torch.bool), enable_gqa=True)


def test_ragged_batches_have_gradients():
    q, k, v = randn(2, 9, 4), randn(2, 11, 4), randn(2, 11, 3)
    of_q, of_k = torch.tensor([0, 4, 4, 9]), torch.tensor([0, 5, 7, 11])
    out = attention(q, k, v, causal=True, q_offsets=of_q, k_offsets=of_k)
    parts = [
        attention(q[:, a:b], k[:, c:d], v[:, c:d], causal=True)
        for a, b, c, d in zip(of_q[:-1], of_q[1:], of_k[:-1], of_k[1:], strict=True)
    ]
    assert torch.equal(out, torch.cat(parts, 1))
    for a, b in zip(gradients(out, q, k, v), gradients(torch.cat(parts, 1), q, k, v), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)
    scale = torch.tensor(0.5, dtype=torch.float64)
    torch.library.opcheck(
        torch.ops.relkernels.attention.default,
        (q, k, v, None, True, None, None, "upper_left", scale, None, None, of_q, of_k),
        test_utils=["test_schema", "test_faketensor"],
    )


def jagged(lengths, *shape):
    parts = [torch.randn(n, *shape, dtype=torch.float64) for n in lengths]
    return torch.nested.nested_tensor(parts, layout=torch.jagged, requires_grad=True)


@pytest.mark.skipif(not SINCE_2_5, reason="gradients of jagged tensors are wrong in PyTorch before 2.5")
def test_jagged_tensors_are_those_of_pytorch():
    of_q, of_k = jagged([3, 1, 8], 2, 4), jagged([5, 2, 6], 2, 4)
    of_v = torch.nested.nested_tensor_from_jagged(
        torch.randn(13, 2, 3, dtype=torch.float64, requires_grad=True), of_k.offsets()
    )
    q, k, v = (a.transpose(1, 2) for a in (of_q, of_k, of_v))
    out = attention(q, k, v)
    assert out.shape == (*q.shape[:3], 3)
    assert out.offsets() is q.offsets()
    for part, a, b, c in zip(*(x.unbind() for x in (out, q, k, v)), strict=True):
        torch.testing.assert_close(part, SDPA(a, b, c), rtol=0, atol=1e-12)
    (grad,) = torch.autograd.grad(out.values().square().sum(), of_q)
    expected = torch.autograd.grad(
        sum(SDPA(a, b, c).square().sum() for a, b, c in zip(q.unbind(), k.unbind(), v.unbind(), strict=True)),
        of_q,
    )[0]
    torch.testing.assert_close(grad.values(), expected.values(), rtol=0, atol=1e-11)


def test_jagged_tensors_without_heads_through_maps():
    x = jagged([3, 1, 8], 4)
    phi = relkernels.torch.FeatureMap([4, 7, 5], dtype=torch.float64)
    out = attention(x, x, x, phi, causal=True)
    for part, rows in zip(out.unbind(), x.unbind(), strict=True):
        torch.testing.assert_close(part, attention(rows, rows, rows, phi, causal=True), rtol=0, atol=0)


def test_grouped_jagged_tensors():
    x, y = jagged([3, 1, 8], 4, 2).transpose(1, 2), jagged([3, 1, 8], 2, 2).transpose(1, 2)
    out = attention(x, y, y, enable_gqa=True)
    for part, a, b in zip(out.unbind(), x.unbind(), y.unbind(), strict=True):
        assert torch.equal(part, attention(a, b, b, enable_gqa=True))


def test_jagged_tensors_refused():
    x = jagged([3, 5], 2, 4)
    rows = x.transpose(1, 2)
    other = jagged([4, 4], 2, 4).transpose(1, 2)
    with pytest.raises(ValueError, match=r"q: expected a jagged last but one .* use q.transpose\(1, 2\)"):
        attention(x, x, x)
    with pytest.raises(TypeError, match="k: expected a nested tensor of layout"):
        attention(rows, torch.ones(2, 8, 4), rows)
    with pytest.raises(ValueError, match="v: expected the segments of k"):
        attention(rows, rows, other)
    with pytest.raises(TypeError, match="q_offsets: expected None with a jagged q"):
        attention(rows, rows, rows, q_offsets=x.offsets())
    with pytest.raises(TypeError, match="k: expected a dense tensor"):
        attention(torch.ones(2, 8, 4), rows, rows)


def test_offsets_refused():
    x = torch.ones(4, 3)
    with pytest.raises(TypeError, match="q_offsets: expected a vector of int64"):
        attention(x, x, x, q_offsets=torch.tensor([0, 4], dtype=torch.int32), k_offsets=torch.tensor([0, 4]))
    with pytest.raises(TypeError, match="k_offsets: expected a vector of int64, got list"):
        attention(x, x, x, q_offsets=torch.tensor([0, 4]), k_offsets=[0, 4])


def test_tensors_in_the_functions_on_arrays():
    x, offsets = torch.ones(4, 3), torch.tensor([0, 1, 4])
    out = rk.attention(x, x, x, q_offsets=offsets, k_offsets=offsets)
    np.testing.assert_array_equal(out.numpy(), x.numpy())
