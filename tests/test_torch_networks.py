"""Modules of relational networks beside their formulas in plain PyTorch, and errors."""

import copy
import math
import pickle

import pytest

torch = pytest.importorskip("torch", exc_type=ImportError)

from relkernels import torch as rt  # noqa: E402

D, N, B = 24, 7, 2
ACTIVATIONS = {
    "identity": lambda r: r,
    "relu": torch.relu,
    "tanh": torch.tanh,
    "gelu_tanh": lambda r: torch.nn.functional.gelu(r, approximate="tanh"),
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def inputs():
    return [torch.randn(B, N, D, dtype=torch.float64, requires_grad=True) for _ in range(2)]


def heads(x, count):
    return x.view(*x.shape[:-1], count, -1).transpose(-2, -3)


def repeated(x, count):
    return x.repeat_interleave(count // x.shape[-3], -3)


def seen(attn_mask, causal, padding):
    may = torch.ones(B, 1, N, N, dtype=torch.bool)
    may = may & torch.ones(N, N, dtype=torch.bool).tril() if causal else may
    may = may if attn_mask is None else may & attn_mask
    return may if padding is None else may & ~padding[:, None, None, :]


def weights(q, k, scale, may):
    found = (scale * q @ k.mT).masked_fill(~may, -torch.inf).softmax(-1)
    return found.masked_fill(~may.any(-1, keepdim=True), 0)


def plain_relational(m, x, symbols, may, of_pairs=False):
    a = weights(
        heads(m.wq_attn(x), m.n_heads), repeated(heads(m.wk_attn(x), m.n_kv_heads), m.n_heads),
        1 / math.sqrt(m.head_dim), may,
    )  # fmt: skip
    q, k = (heads(w(x), m.n_relations) for w in (m.wq_rel, m.wk_rel))
    relations = ACTIVATIONS[m.rel_activation](q @ k.mT / math.sqrt(m.rel_proj_dim))
    out = torch.einsum("bhij,brij,hdr->bihd", a, relations, m.wr)
    out = out + plain_symbols(m, a, symbols, of_pairs)
    return m.wo(out.flatten(-2)), a


def plain_symbols(m, a, symbols, of_pairs):
    if not of_pairs:
        return torch.einsum("bhij,bhjd->bihd", a, repeated(heads(m.wv(symbols), m.n_kv_heads), m.n_heads))
    each = m.wv(symbols).view(N, N, m.n_kv_heads, -1).repeat_interleave(m.n_heads // m.n_kv_heads, 2)
    return torch.einsum("bhij,ijhd->bihd", a, each)


def same(module, found, expected, given):
    torch.testing.assert_close(found, expected)
    every = [*given, *module.parameters()]
    above = torch.randn_like(found)
    grads = [
        torch.autograd.grad(a, every, above, allow_unused=True, retain_graph=True) for a in (found, expected)
    ]
    for name, a, b in zip(
        ["inputs"] * len(given) + [n for n, _ in module.named_parameters()], *grads, strict=True
    ):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")


def masks():
    attn_mask = torch.rand(N, N) < 0.7
    attn_mask.fill_diagonal_(True)
    padding = torch.zeros(B, N, dtype=torch.bool)
    padding[1, 4:] = True
    return [
        {},
        {"is_causal": True},
        {"attn_mask": attn_mask},
        {"attn_mask": torch.rand(B, 4, N, N) < 0.8, "key_padding_mask": padding, "is_causal": True},
    ]


def may_of(how):
    return seen(how.get("attn_mask"), how.get("is_causal", False), how.get("key_padding_mask"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_relations": 3, "rel_activation": "relu", "symmetric_rels": True},
        {"n_relations": 6, "rel_activation": "tanh", "rel_proj_dim": 5, "key_dim": 3, "add_bias_kv": True},
        {"n_kv_heads": 2, "add_bias_out": True, "rel_activation": "gelu_tanh"},
        {"n_kv_heads": 1, "total_n_heads": 8},
        {"use_relative_positional_symbols": True, "n_kv_heads": 2},
    ],
)
def test_relational_attention(options):
    m = rt.RelationalAttention(D, 4, **options).double()
    of_pairs = options.get("use_relative_positional_symbols", False)
    for how in masks():
        x, symbols = inputs()
        if of_pairs:
            symbols = torch.randn(N, N, D, dtype=torch.float64, requires_grad=True)
        expected, a = plain_relational(m, x, symbols, may_of(how), of_pairs)
        out, none = m(x, symbols, **how)
        assert none is None
        same(m, out, expected, (x, symbols))
        out, found = m(x, symbols, **how, need_weights=True)
        torch.testing.assert_close((out, found), (expected, a))


@pytest.mark.parametrize("activation", ["softmax", "identity", "relu", "tanh"])
@pytest.mark.parametrize("options", [{}, {"n_kv_heads": 2}, {"n_kv_heads": 1, "add_bias_kv": True}])
def test_relational_cross_attention(activation, options):
    m = rt.RelationalCrossAttention(D, 4, activation=activation, **options).double()
    for how in masks():
        x, symbols = inputs()
        q, k = heads(m.wq(x), 4), repeated(heads(m.wk(x), m.n_kv_heads), 4)
        may = may_of(how)
        if activation == "softmax":
            a = weights(q, k, m.head_dim**-0.5, may)
        else:
            a = torch.where(may, ACTIVATIONS[activation](q @ k.mT * m.head_dim**-0.5), 0)
        expected = m.wo(plain_symbols(m, a, symbols, False).flatten(-2))
        same(m, m(x, symbols, **how)[0], expected, (x, symbols))
        torch.testing.assert_close(m(x, symbols, **how, need_weights=True), (expected, a))


def angles(width):
    theta = torch.outer(torch.arange(N), 100.0 ** -torch.linspace(0, 1, width // 2)).double()
    return {"freqs_cos": theta.cos(), "freqs_sin": theta.sin()}


def rotated(x, how):
    """Pairs of features as complex numbers, times those of the angles."""
    turned = torch.view_as_complex(x.contiguous().unflatten(-1, (-1, 2)))
    return torch.view_as_real(turned * torch.complex(how["freqs_cos"], how["freqs_sin"])).flatten(-2)


@pytest.mark.parametrize("kv", [2, 1])
@pytest.mark.parametrize("ra_type", ["relational_attention", "rca"])
def test_rotary_embeddings(ra_type, kv):
    """Queries and keys of attention are rotated; relations and symbols are not."""
    options = {"sa_kwargs": {"n_kv_heads": kv}, "ra_kwargs": {"n_kv_heads": kv}, "ra_type": ra_type}
    m = rt.DualAttention(D, 2, 2, **options).double()
    own, related = m.self_attention, m.relational_attention
    x, symbols = inputs()
    may, how = seen(None, True, None), angles(D // 4)

    def rotated_weights(wq, wk):
        q, k = rotated(heads(wq(x), 2), how), rotated(heads(wk(x), kv), how)
        return weights(q, repeated(k, 2), own.head_dim**-0.5, may)

    a = rotated_weights(own.wq, own.wk)
    attended = own.wo((a @ repeated(heads(own.wv(x), kv), 2)).transpose(1, 2).flatten(-2))
    if ra_type == "rca":
        out = plain_symbols(related, rotated_weights(related.wq, related.wk), symbols, False)
    else:
        a = rotated_weights(related.wq_attn, related.wk_attn)
        q, k = (heads(w(x), 2) for w in (related.wq_rel, related.wk_rel))
        out = torch.einsum("bhij,brij,hdr->bihd", a, q @ k.mT / math.sqrt(related.rel_proj_dim), related.wr)
        out = out + plain_symbols(related, a, symbols, False)
    expected = torch.cat((attended, related.wo(out.flatten(-2))), -1)
    same(m, m(x, symbols, is_causal=True, **how)[0], expected, (x, symbols))
    torch.testing.assert_close(m(x, symbols, is_causal=True, need_weights=True, **how)[0], expected)
    assert not torch.allclose(m(x, symbols, is_causal=True)[0], expected)
    block = rt.DualAttentionBlock(D, 2, 2, norm_type="none", **options).double()
    block.dual_attn, block.ff_block.linear2.weight.data[:], block.causal = m, 0, True
    torch.testing.assert_close(block(x, symbols, **how), x + expected + block.ff_block.linear2.bias)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("rel_dim", [1, 3])
def test_multi_dimensional_relation(rel_dim, symmetric):
    m = rt.MultiDimensionalRelation(D, rel_dim, 5, symmetric).double()
    x, y = inputs()
    for right in (None, y[:, :3]):
        f = m.left_encoder(x).view(B, N, rel_dim, 5)
        other = x if right is None else right
        g = m.right_encoder(other).view(B, -1, rel_dim, 5)
        same(m, m(x, right), torch.einsum("bird,bjrd->bijr", f, g), (x,) if right is None else (x, y))
    assert (len(list(m.parameters())) == 2) == symmetric
    if symmetric:
        assert torch.equal(m(x), m(x).transpose(1, 2))


def test_symbols():
    x, _ = inputs()
    m = rt.SymbolicAttention(D, 3, n_symbols=5, scale=0.5).double()
    a = (0.5 * heads(m.q_proj(x), 3) @ heads(m.template_features, 3).mT).softmax(-1)
    expected = (a @ heads(m.symbol_library, 3)).transpose(1, 2).flatten(-2)
    same(m, m(x), expected, (x,))
    assert not rt.SymbolicAttention(D, 3, 5, trainable_symbols=False).symbol_library.requires_grad

    m = rt.PositionalSymbolRetriever(4, 10)
    assert torch.equal(m(x), m.symbol_library(torch.arange(N)).expand(B, N, 4))
    with pytest.raises(ValueError, match="x: expected at most 10 rows"):
        m(torch.ones(11, 2))

    m = rt.PositionRelativeSymbolRetriever(4, 2)
    found, table = m(x), m.rel_pos_enc.rel_pos_embeddings
    assert found.shape == (N, N, 4)
    assert torch.equal(found[1, 2], table[3])
    assert torch.equal(found[6, 0], table[0])
    assert torch.equal(found[0, 6], table[4])


@pytest.mark.parametrize(("sa", "ra"), [(4, 4), (4, 0), (0, 8)])
@pytest.mark.parametrize("ra_type", ["relational_attention", "rca"])
def test_dual_attention(ra_type, sa, ra):
    x, symbols = inputs()
    m = rt.DualAttention(D, sa, ra, ra_type=ra_type).double()
    may, parts, found_weights = seen(None, True, None), [], []
    if sa:
        s = m.self_attention
        a = weights(heads(s.wq(x), sa), heads(s.wk(x), sa), s.head_dim**-0.5, may)
        parts.append(s.wo((a @ heads(s.wv(x), sa)).transpose(1, 2).flatten(-2)))
        found_weights.append(a)
    if ra:
        out, a = m.relational_attention(x, symbols, is_causal=True, need_weights=True)
        parts.append(out)
        found_weights.append(a)
    same(m, m(x, symbols, is_causal=True)[0], torch.cat(parts, -1), (x, symbols) if ra else (x,))
    torch.testing.assert_close(
        m(x, symbols, is_causal=True, need_weights=True)[1], torch.cat(found_weights, 1)
    )


def test_shared_projections():
    m = rt.DualAttention(D, 4, 4, share_attn_params=True)
    assert m.self_attention.wq is m.relational_attention.wq_attn
    assert m.self_attention.wk is m.relational_attention.wk_attn
    with pytest.raises(ValueError, match="share_attn_params: expected False with projections"):
        rt.DualAttention(D, 4, 2, share_attn_params=True)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize(
    ("activation", "norm_type"), [("relu", "layernorm"), ("swiglu", "rmsnorm"), ("gelu", "none")]
)
def test_dual_attention_block(activation, norm_type, norm_first):
    x, symbols = inputs()
    m = rt.DualAttentionBlock(
        D, 2, 2, dff=11, activation=activation, norm_type=norm_type, norm_first=norm_first, causal=True
    ).double()

    def attended(z):
        return m.dual_attn(z, symbols, is_causal=True)[0]

    def network(z):
        f = m.ff_block
        if activation == "swiglu":
            return f.linear2(torch.nn.functional.silu(f.linear1(z)) * f.linear3(z))
        return f.linear2(getattr(torch.nn.functional, activation)(f.linear1(z)))

    if norm_first:
        expected = x + attended(m.norm1(x))
        expected = expected + network(m.norm2(expected))
    else:
        expected = m.norm1(x + attended(x))
        expected = m.norm2(expected + network(expected))
    same(m, m(x, symbols), expected, (x, symbols))


def test_the_names_of_the_parameters():
    """Those of the public code of Altabaa and Lafferty, so that its state_dict loads."""
    block = rt.DualAttentionBlock(D, 2, 2, activation="swiglu", sa_kwargs={"n_kv_heads": 1})
    assert set(block.state_dict()) == {
        *(f"norm{i}.{part}" for i in (1, 2) for part in ("weight", "bias")),
        *(f"dual_attn.self_attention.{name}.weight" for name in ("wq", "wk", "wv", "wo")),
        *(
            f"dual_attn.relational_attention.{name}.weight"
            for name in ("wq_attn", "wk_attn", "wq_rel", "wk_rel", "wv", "wo")
        ),
        "dual_attn.relational_attention.wr",
        *(f"ff_block.linear{i}.{part}" for i in (1, 2, 3) for part in ("weight", "bias")),
    }
    assert set(rt.RelationalCrossAttention(D, 2).state_dict()) == {
        f"{w}.weight" for w in ("wq", "wk", "wv", "wo")
    }
    names = {"q_proj.weight", "q_proj.bias", "template_features", "symbol_library"}
    assert set(rt.SymbolicAttention(D, 2, 3).state_dict()) == names
    assert set(rt.PositionalSymbolRetriever(D, 3).state_dict()) == {"symbol_library.weight"}
    assert set(rt.PositionRelativeSymbolRetriever(D, 3).state_dict()) == {"rel_pos_enc.rel_pos_embeddings"}


def test_dropout_and_copies():
    x, symbols = (a.detach() for a in inputs())
    m = rt.DualAttentionBlock(D, 2, 2, dropout_rate=0.5).double()
    assert not torch.equal(m(x, symbols), m(x, symbols))
    m.eval()
    out = m(x, symbols)
    assert torch.equal(out, m(x, symbols))
    for other in (copy.deepcopy(m), pickle.loads(pickle.dumps(m))):
        assert torch.equal(out, other(x, symbols))
    dropping = rt.RelationalAttention(D, 2, dropout=0.4)
    weights = dropping(x.float(), symbols.float(), need_weights=True)[1]
    assert (weights == 0).any()


def test_batch_first_and_unbatched():
    x, symbols = (a.detach() for a in inputs())
    first = rt.DualAttention(D, 2, 2).double()
    second = rt.DualAttention(D, 2, 2, batch_first=False).double()
    second.load_state_dict(first.state_dict())
    padding = torch.zeros(B, N, dtype=torch.bool)
    padding[0, 3:] = True
    how = {"key_padding_mask": padding, "is_causal": True}
    expected = first(x, symbols, **how)[0]
    torch.testing.assert_close(
        second(x.transpose(0, 1), symbols.transpose(0, 1), **how)[0].transpose(0, 1), expected
    )
    torch.testing.assert_close(first(x[1], symbols[1], is_causal=True)[0], expected[1])


BAD = [
    ((rt.RelationalAttention, 24, 5), {}, "n_heads: expected a divisor of d_model, 24"),
    ((rt.RelationalAttention, 24, 4), {"n_relations": 5}, "n_relations: expected a divisor of 24"),
    ((rt.RelationalAttention, 24, 4), {"n_kv_heads": 3}, "n_kv_heads: expected a divisor of n_heads, 4"),
    ((rt.RelationalAttention, 24, 4), {"total_n_heads": 7}, "total_n_heads: expected a divisor of d_model"),
    ((rt.RelationalAttention, 24, 4), {"total_n_heads": 3}, "total_n_heads: expected an integer >= 4"),
    ((rt.RelationalAttention, 24, 4), {"dropout": 1.0}, "dropout: expected a probability"),
    ((rt.RelationalAttention, 24, 4), {"rel_activation": "softmax"}, "rel_activation: expected one of"),
    ((rt.RelationalCrossAttention, 24, 4), {"activation": "soft"}, "activation: expected one of 'softmax'"),
    ((rt.DualAttention, 24, 0, 0), {}, "n_heads_ra: expected at least one head"),
    ((rt.DualAttention, 24, 2, 2), {"ra_type": "disrca"}, "ra_type: expected one of"),
    ((rt.DualAttention, 24, 2, 2), {"sa_kwargs": 3}, "sa_kwargs: expected a dict"),
    ((rt.DualAttentionBlock, 24, 2, 2), {"norm_type": "batch"}, "norm_type: expected one of"),
    ((rt.DualAttentionBlock, 24, 2, 2), {"dropout_rate": -1}, "dropout_rate: expected a probability"),
    ((rt.MultiDimensionalRelation, 24, 0), {}, "rel_dim: expected an integer >= 1"),
    ((rt.SymbolicAttention, 24, 4, 0), {}, "n_symbols: expected an integer >= 1"),
]


@pytest.mark.parametrize(("call", "options", "message"), BAD)
def test_bad_arguments(call, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call[0](*call[1:], **options)


def test_bad_inputs():
    m = rt.RelationalAttention(D, 4)
    x = torch.randn(B, N, D)
    for given, error, message in [
        ({"x": x[..., :5]}, ValueError, "x: expected last dimension 24"),
        ({"symbols": x[:, :3]}, ValueError, "symbols: expected 7 rows"),
        ({"symbols": [1]}, TypeError, "symbols: expected a torch.Tensor"),
        (
            {"attn_mask": torch.zeros(N, N)},
            TypeError,
            r"attn_mask: expected a boolean tensor \(True = may be attended",
        ),
        (
            {"key_padding_mask": torch.zeros(B, N)},
            TypeError,
            r"key_padding_mask: expected a boolean tensor \(True = ign",
        ),
        (
            {"key_padding_mask": torch.zeros(N, dtype=torch.bool)},
            ValueError,
            "key_padding_mask: expected shape",
        ),
        ({"is_causal": 1}, TypeError, "is_causal: expected True or False"),
        ({"need_weights": None}, TypeError, "need_weights: expected True or False"),
        ({"freqs_cos": x[0, :, :3]}, TypeError, "freqs_sin: expected a torch.Tensor of .*, got NoneType"),
        ({"freqs_cos": x[0], "freqs_sin": x[0]}, ValueError, r"freqs_cos: expected shape \(7, 3\)"),
        ({"freqs_sin": 3}, TypeError, "freqs_cos: expected a torch.Tensor"),
    ]:
        with pytest.raises(error, match=message):
            m(**{"x": x, "symbols": x, **given})
    with pytest.raises(ValueError, match="freqs_cos: expected None, as the width of queries, 3, is odd"):
        rt.RelationalAttention(D, 8)(x, x, freqs_cos=x[0], freqs_sin=x[0])
