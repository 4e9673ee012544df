"""relkernels.torch: 16-bit tensors, autocast, the meta device, copies, and PyTorch's own signature."""

import copy
import io
import pickle

import pytest

torch = pytest.importorskip("torch")

import relkernels.torch as rkt  # noqa: E402
from plain_torch import SINCE_2_5  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

FeatureMap = rkt.FeatureMap


def maps(dtype=torch.float32):
    torch.manual_seed(0)
    return FeatureMap([3, 7, 4], activation="tanh", dtype=dtype)


def calls(phi):
    """Functions of two tensors of 3 columns, each with one result of floats."""
    return {
        "feature_map": lambda x, y: rkt.feature_map(x, phi),
        "module": lambda x, y: phi(x),
        "relation_matrix": lambda x, y: rkt.relation_matrix(x, y, phi, scale=0.5),
        "symmetric": lambda x, y: rkt.relation_matrix(x),
        "relation_matvec": lambda x, y: rkt.relation_matvec(x, y, y[:, 0], phi, link="gaussian"),
        "attention": lambda x, y: rkt.attention(x, y, y, phi, bias=x @ y.T, softcap=3.0),
        "attention_scores": lambda x, y: rkt.attention_scores(x, y, phi, causal=True),
        "relation_loss": lambda x, y: rkt.relation_loss(x, y, x.detach() @ y.detach().T, phi),
        "retrieve": lambda x, y: rkt.retrieve(x, y, 2, phi)[0],
        "relational": lambda x, y: rkt.relational_attention(x[None], y[None], x[None], y[None], y[None])[0],
        "sdpa": lambda x, y: rkt.scaled_dot_product_attention(x, y, y),
    }


NAMES = list(calls(None))
HALVES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", NAMES)
def test_halves_are_computed_in_float32(name, dtype):
    phi = maps()
    x, y = (torch.randn(n, 3).to(dtype).requires_grad_() for n in (5, 6))
    wide = [a.detach().float().requires_grad_() for a in (x, y)]
    if name == "attention":  # its bias is computed by PyTorch from 16-bit tensors
        bias = (x @ y.T).detach()
        got = rkt.attention(x, y, y, phi, bias=bias, softcap=3.0)
        expected = rkt.attention(*wide, wide[1], phi, bias=bias.float(), softcap=3.0)
    elif name == "relation_loss":
        target = (x @ y.T).detach()
        got, expected = rkt.relation_loss(x, y, target, phi), rkt.relation_loss(*wide, target.float(), phi)
    else:
        got, expected = calls(phi)[name](x, y), calls(phi)[name](*wide)
    assert got.dtype == dtype
    assert torch.equal(got, expected.to(dtype))
    above = torch.randn(expected.shape).to(dtype)
    found = torch.autograd.grad(got, (x, y, *phi.parameters()), above, allow_unused=True)
    right = torch.autograd.grad(expected, (*wide, *phi.parameters()), above.float(), allow_unused=True)
    for a, b in zip(found, right, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            # Gradients of a tensor used twice are added in its dtype.
            close = 2 * torch.finfo(dtype).eps * float(b.abs().max())
            torch.testing.assert_close(a.float(), b, atol=close, rtol=torch.finfo(dtype).eps)


@pytest.mark.parametrize("name", NAMES)
def test_under_autocast(name):
    phi = maps()
    x, y = torch.randn(5, 3), torch.randn(6, 3)
    with torch.autocast("cpu", torch.bfloat16):
        linear = nn.Linear(3, 3)
        out = calls(phi)[name](linear(x), linear(y))  # a linear layer gives bfloat16 here
        assert out.dtype == torch.bfloat16
        assert calls(phi)[name](x, y).dtype == torch.float32


def test_autocast_may_mix_and_others_may_not():
    x, y = torch.randn(5, 3), torch.randn(6, 3).bfloat16()
    linear = nn.Linear(3, 4)
    expected = x @ y.float().T
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(rkt.relation_matrix(x, y), expected)
        mapped = rkt.relation_matrix(x, None, linear)  # the map's features are bfloat16
        assert mapped.dtype == torch.float32
        features = linear(x).float()
    torch.testing.assert_close(mapped, features @ features.T)
    with pytest.raises(TypeError, match=r"y: expected torch\.float32, the dtype of x, got torch\.bfloat16"):
        rkt.relation_matrix(x, y)


@pytest.mark.parametrize("dtype", HALVES)
def test_maps_of_16_bit_parameters(dtype):
    phi = maps().to(dtype)
    x = torch.randn(5, 3).to(dtype)
    wide = copy.deepcopy(phi).float()
    assert torch.equal(phi(x), wide(x.float()).to(dtype))
    phi(x).sum().backward()
    for p in phi.parameters():
        assert p.grad.dtype == dtype
        assert p.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_meta_tensors_have_shapes_alone(name):
    x, y = torch.randn(5, 3), torch.randn(6, 3)
    expected = calls(maps())[name](x, y)
    on_meta = FeatureMap([3, 7, 4], activation="tanh", device="meta")
    out = calls(on_meta)[name](x.to("meta"), y.to("meta"))
    assert out.is_meta
    assert (out.shape, out.dtype) == (expected.shape, expected.dtype)


def test_meta_and_others_do_not_mix():
    x = torch.randn(5, 3)
    meta = x.to("meta")
    cases = {
        "y": lambda: rkt.relation_matrix(x, meta),
        "scale": lambda: rkt.relation_matrix(x, scale=torch.ones((), device="meta")),
        "v": lambda: rkt.attention(x, x, meta),
        "mask": lambda: rkt.attention(meta, meta, meta, mask=torch.ones(5, 5, dtype=torch.bool)),
        "bias": lambda: rkt.attention(x, x, x, bias=torch.ones(5, 5, device="meta")),
        "target": lambda: rkt.relation_loss(x, None, torch.arange(5, device="meta")),
    }
    for name, call in cases.items():
        with pytest.raises(TypeError, match=f"^{name}: expected a tensor on (cpu|meta), as . is, got"):
            call()


@pytest.mark.parametrize(
    "module",
    [
        lambda: rkt.InnerProductRelation(maps(), learn_scale=True),
        lambda: rkt.RelationAttention(maps(), maps(), causal=True),
    ],
    ids=["relation", "attention"],
)
def test_copies_and_files_of_modules(module):
    one = module()
    x = torch.randn(5, 3)
    arguments = (x, x, x) if isinstance(one, rkt.RelationAttention) else (x,)
    expected = one(*arguments)
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    loaded = module()
    for p in loaded.parameters():
        nn.init.zeros_(p)
    loaded.load_state_dict(torch.load(file))
    for other in (copy.deepcopy(one), pickle.loads(pickle.dumps(one)), loaded):
        assert torch.equal(other(*arguments), expected)
        other.phi.weights[0].data.zero_()
        assert torch.equal(one(*arguments), expected)  # nothing is shared


def test_parameters_on_a_device():
    assert all(p.is_meta for p in FeatureMap([3, 4], device="meta").parameters())
    assert FeatureMap([3, 4], device="meta").to_empty(device="cpu")(torch.ones(2, 3)).shape == (2, 4)


# ---- scaled_dot_product_attention


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"scale": 0.3}, {"enable_gqa": True}], ids=str)
def test_sdpa_is_pytorchs(options):
    if "enable_gqa" in options and not SINCE_2_5:
        pytest.skip("PyTorch has no enable_gqa before 2.5")
    q, v = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 7, 6)
    k = torch.randn(2, 4, 7, 8)
    if "enable_gqa" in options:
        k, v = k[:, :2], v[:, :2]
    torch.testing.assert_close(
        rkt.scaled_dot_product_attention(q, k, v, **options),
        functional.scaled_dot_product_attention(q, k, v, **options),
    )


def test_sdpa_takes_both_kinds_of_masks():
    q, k, v = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 7, 8), torch.randn(2, 4, 7, 6)
    for mask in (torch.rand(5, 7) < 0.7, torch.randn(2, 1, 5, 7)):
        torch.testing.assert_close(
            rkt.scaled_dot_product_attention(q, k, v, mask),
            functional.scaled_dot_product_attention(q, k, v, mask),
        )
    for wrong, options in (
        ("dropout_p", {"dropout_p": 0.1}),
        ("attn_mask", {"attn_mask": torch.ones(5, 7, dtype=torch.bool), "is_causal": True}),
    ):
        with pytest.raises(ValueError, match=f"{wrong}: expected"):
            rkt.scaled_dot_product_attention(q, k, v, **options)
