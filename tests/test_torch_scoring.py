"""Bias, soft cap and log-sum-exp of attention on tensors, and the weights of attention, with gradients."""

import pytest

torch = pytest.importorskip("torch", exc_type=ImportError)

from relkernels.torch import FeatureMap, attention, attention_scores  # noqa: E402


def plain(q, k, scale, bias, softcap, seen):
    scores = scale * q @ k.mT
    scores = scores if bias is None else scores + bias
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    return scores.masked_fill(~seen, -torch.inf)


def leaves(*shapes):
    return [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("shape", [None, (2, 6, 5), (2, 1, 1), (5,), ()])
def test_gradients_are_those_of_plain_torch(shape, softcap):
    torch.manual_seed(0)
    q, k, v, scale = leaves((2, 6, 3), (5, 3), (5, 4), ())
    bias = None if shape is None else leaves(shape)[0]
    inputs = [q, k, v, scale, *([] if bias is None else [bias])]
    seen = (torch.arange(5) <= torch.arange(6)[:, None]) & (torch.arange(5) >= torch.arange(6)[:, None] - 3)
    options = {"scale": scale, "causal": True, "window": (3, None), "bias": bias, "softcap": softcap}
    out, lse = attention(q, k, v, **options, return_lse=True)
    scores = plain(q, k, scale, bias, softcap, seen)
    expected = scores.softmax(-1) @ v, scores.logsumexp(-1)
    grads = torch.randn_like(out), torch.randn_like(lse)
    for got, wanted, above, used in (
        ((out, lse), expected, grads, inputs),
        (out, expected[0], grads[0], inputs),
        (lse, expected[1], grads[1], [a for a in inputs if a is not v]),
        (attention_scores(q, k, **options), scores.softmax(-1), torch.randn_like(scores),
         [a for a in inputs if a is not v]),
    ):  # fmt: skip
        torch.testing.assert_close(got, wanted)
        found = torch.autograd.grad(got, used, above, retain_graph=True)
        torch.testing.assert_close(found, torch.autograd.grad(wanted, used, above, retain_graph=True))


def test_a_bias_without_gradient_and_maps():
    torch.manual_seed(0)
    phi = FeatureMap([3, 5, 2], "tanh", dtype=torch.float64)
    q, k = leaves((6, 3), (5, 3))
    bias = torch.full((6, 5), -torch.inf, dtype=torch.float64).triu(1)
    weights = attention_scores(q, k, phi, bias=bias)
    torch.testing.assert_close(weights, attention_scores(q, k, phi, causal=True))
    weights.square().sum().backward()
    assert q.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in phi.parameters())


@pytest.mark.parametrize(
    ("error", "text", "options"),
    [
        (TypeError, "bias: expected a torch.Tensor", {"bias": [[1.0]]}),
        (TypeError, "bias: expected .*float64, the dtype of q", {"bias": torch.ones(2, 2)}),
        (TypeError, "bias: expected float32, float64", {"bias": torch.ones(2, 2, dtype=torch.bool)}),
        (ValueError, "bias: expected a shape that broadcasts", {"bias": torch.ones(3, 2).double()}),
        (ValueError, "softcap: expected a finite number > 0", {"softcap": -1.0}),
        (TypeError, "softcap: expected a real number", {"softcap": "1"}),
    ],
)
def test_refused(error, text, options):
    x = torch.ones(2, 2, dtype=torch.float64)
    with pytest.raises(error, match=text):
        attention(x, x, x, **options)
    with pytest.raises(error, match=text):
        attention_scores(x, x, **options)
