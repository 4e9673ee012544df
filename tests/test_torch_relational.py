"""Relational attention on tensors, beside plain PyTorch: results, gradients, transforms, errors."""

import pytest

torch = pytest.importorskip("torch", exc_type=ImportError)

import relkernels as rk  # noqa: E402
from relkernels.torch import relational_attention  # noqa: E402


def plain(q, k, q_rel, k_rel, v, scale, rel_scale, activation=lambda r: r, seen=None):
    scores = scale * q @ k.mT
    scores = scores if seen is None else scores.masked_fill(~seen, -torch.inf)
    relations = activation(rel_scale * q_rel @ k_rel.mT)
    weights = scores.softmax(-1)
    return torch.einsum("...hij,...rij->...hir", weights, relations), weights @ v, scores.logsumexp(-1)


def sides(n=6, m=5, lead=(2,), dtype=torch.float64):
    torch.manual_seed(0)
    shapes = (3, n, 4), (3, m, 4), (2, n, 5), (2, m, 5), (3, m, 7)
    return [torch.randn(*lead, *shape, dtype=dtype).requires_grad_() for shape in shapes]


ACTIVATIONS = {
    "identity": lambda r: r,
    "relu": torch.relu,
    "gelu": torch.nn.functional.gelu,
    "tanh": torch.tanh,
    "exp": torch.exp,
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_those_of_plain_torch(activation):
    inputs = sides()
    scale, rel_scale = (torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in (0.7, 0.4))
    mask = torch.tensor([True, False, True, True, True])
    seen = (torch.arange(5) <= torch.arange(6)[:, None]) & mask
    options = {
        "rel_activation": activation,
        "scale": scale,
        "rel_scale": rel_scale,
        "mask": mask,
        "causal": True,
    }
    found = relational_attention(*inputs, **options, return_lse=True)
    expected = plain(*inputs, scale, rel_scale, ACTIVATIONS[activation], seen)
    torch.testing.assert_close(found, expected)
    above = [torch.randn_like(a) for a in found]
    every = [*inputs, scale, rel_scale]
    torch.testing.assert_close(
        torch.autograd.grad(found, every, above),
        torch.autograd.grad(expected, every, above, retain_graph=True),
    )
    relations, values = relational_attention(*inputs, **options)  # one result alone
    for one, of, other in ((relations, expected[0], above[0]), (values, expected[1], above[1])):
        got = torch.autograd.grad(one, inputs, other, retain_graph=True)
        wanted = torch.autograd.grad(of, inputs, other, allow_unused=True, retain_graph=True)
        zeros = (torch.zeros_like(a) if b is None else b for a, b in zip(inputs, wanted, strict=True))
        torch.testing.assert_close(got, tuple(zeros))


def test_shared_heads_and_symmetric_relations():
    q, k, q_rel, _, v = sides(5, 5)
    one_k, one_v = k[:, :1].detach().requires_grad_(), v[:, :1].detach().requires_grad_()
    found = relational_attention(q, one_k, q_rel, q_rel, one_v, scale=1.0, rel_scale=1.0)
    expected = plain(q, one_k, q_rel, q_rel, one_v, 1.0, 1.0)[:2]
    torch.testing.assert_close(found, expected)
    inputs = q, one_k, q_rel, one_v
    sums = [sum(a.sin().sum() for a in each) for each in (found, expected)]
    torch.testing.assert_close(*(torch.autograd.grad(s, inputs) for s in sums))


def test_derivatives_that_have_no_kernel():
    inputs = sides(3, 4, ())
    options = {"rel_activation": "tanh", "causal": True}

    def call(*given):
        return relational_attention(*given, **options)

    assert torch.autograd.gradcheck(call, inputs, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)
    plain_inputs = [a.detach() for a in inputs]
    tangents = [torch.randn_like(a) for a in plain_inputs]
    value, slope = torch.func.jvp(call, tuple(plain_inputs), tuple(tangents))
    torch.testing.assert_close(value, call(*plain_inputs))
    ends = [
        call(*(a + step * t for a, t in zip(plain_inputs, tangents, strict=True))) for step in (-1e-6, 1e-6)
    ]
    for i in range(2):
        torch.testing.assert_close((ends[1][i] - ends[0][i]) / 2e-6, slope[i], rtol=1e-6, atol=1e-7)


def test_vmap_makes_the_batch_a_leading_dimension():
    inputs = [a.detach() for a in sides(lead=(4, 2))]
    mask = torch.rand(4, 6, 5) < 0.7
    mask[..., 0] = True
    expected = relational_attention(*inputs, mask=mask[:, None, None])
    found = torch.vmap(lambda *a: relational_attention(*a[:5], mask=a[5]))(*inputs, mask)
    torch.testing.assert_close(found, expected)
    shared = torch.vmap(relational_attention, in_dims=(0, None, None, None, None))(
        inputs[0], *(a[0] for a in inputs[1:])
    )
    torch.testing.assert_close(
        shared[0][1], relational_attention(inputs[0][1], *(a[0] for a in inputs[1:]))[0]
    )


def test_the_results_are_those_of_numpy():
    inputs = [a.detach() for a in sides(dtype=torch.float32)]
    found = relational_attention(*inputs, window=2, align="lower_right")
    expected = rk.relational_attention(*(a.numpy() for a in inputs), window=2, align="lower_right")
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, torch.from_numpy(b))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"q": torch.ones(5, 4)}, ValueError, "q: expected at least 3 dimensions"),
        ({"k_rel": 3}, TypeError, "k_rel: expected a torch.Tensor"),
        ({"v": torch.ones(3, 5, 7)}, TypeError, "v: expected float64|v: expected torch.float64"),
        ({"q_rel": torch.ones(2, 2, 9, 5, dtype=torch.float64)}, ValueError, "q_rel: expected 6 rows"),
        ({"rel_activation": "swish"}, ValueError, "rel_activation: expected one of"),
        ({"rel_scale": torch.ones(2)}, ValueError, "rel_scale: expected a number or a tensor of one element"),
        ({"scale": float("nan")}, ValueError, "scale: expected a finite number"),
        ({"mask": torch.ones(6, 5)}, TypeError, "mask: expected a boolean array"),
        ({"causal": "yes"}, TypeError, "causal: expected True or False"),
    ],
)  # fmt: skip
def test_bad_arguments(change, error, message):
    given = dict(zip(("q", "k", "q_rel", "k_rel", "v"), (a.detach() for a in sides()), strict=True))
    with pytest.raises(error, match=message):
        relational_attention(**{**given, **change})
