"""`relkernels.torch` on the emulated GPU: the operators, from tensors to CUDA kernels and back.

The tensors are in main memory and taken for CUDA tensors by relkernels only. How PyTorch dispatches tensors
of a real GPU is tested where there is one.
"""

import contextlib

import pytest
from cuda_arrays import emulated_kernels, in_place_of_the_extension

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
import relkernels.torch as rkt  # noqa: E402
from plain_torch import (  # noqa: E402
    agree,
    normal,
    plain_attention,
    plain_loss,
    plain_map,
    plain_relation,
    smooth_map,
)
from relkernels import cuda  # noqa: E402
from relkernels.arrays import dispatch, kinds  # noqa: E402
from relkernels.torch import (  # noqa: E402
    InnerProductRelation,
    RelationAttention,
    _attention,
    _feature_map,
    _formulas,
    _ops,
    _relational,
    _retrieval,
)


@pytest.fixture(params=[pytest.param("emulated", marks=pytest.mark.slow), "real"])
def put(request, monkeypatch):
    """Return what brings a tensor or a module to the GPU."""
    torch.manual_seed(20240213)
    if request.param == "real":
        if not (cuda.available() and torch.cuda.is_available()):
            pytest.skip("no GPU to compute on")
        yield lambda a: a.to("cuda")
        return
    from relkernels.cuda.libraries import _torch

    claims = {
        "device": lambda a: 0,
        "where": lambda device: "cpu",
        "stream": lambda device: 0,
        "guard": lambda device: contextlib.nullcontext(),
        "capturing": lambda device: False,
        "synchronize": lambda device: None,
    }
    for name, claim in claims.items():
        monkeypatch.setattr(_torch.KIND, name, claim, raising=False)
    monkeypatch.setattr(dispatch, "place_of", lambda name, a: kinds.Place("torch", (2, 0)))
    for module in (_feature_map, _ops, _relational, _retrieval, _attention):
        monkeypatch.setattr(module, "_given", lambda a: None if a is None else a.detach().resolve_neg())
    with in_place_of_the_extension(emulated_kernels()):
        yield lambda a: a


def leaf(put, *shape):
    return put(normal(*shape)).requires_grad_()


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("kind", ["symmetric", "one map", "two maps", "features", "broadcast"])
def test_relation_matrix(kind, heads, put):
    phi, psi = put(smooth_map([4, 8, 6])), put(smooth_map([4, 7, 6], bias=False))
    x, y = leaf(put, 2, 11, 4), leaf(put, 13, 4)
    if kind == "features":
        x, y = leaf(put, 11, 6), leaf(put, 13, 6)
    if kind == "broadcast":
        x, y = leaf(put, 1, 11, 4), leaf(put, 3, 1, 13, 4)
    arguments = (
        x,
        None if kind == "symmetric" else y,
        None if kind == "features" else phi,
        psi if kind in ("two maps", "broadcast") else None,
    )
    leaves = [a for a in arguments if isinstance(a, torch.Tensor)]
    leaves += [p for m in arguments[2:] if m is not None for p in m.parameters()]
    scale = torch.tensor(-0.7, dtype=torch.float64, requires_grad=True)
    for factor in (scale, put(scale.detach()).requires_grad_()):
        ours = rkt.relation_matrix(*arguments, scale=factor, heads=heads)
        assert ours.device == x.device
        agree(ours, plain_relation(*arguments, scale=factor, heads=heads), [*leaves, factor])


@pytest.mark.parametrize("wanted", range(3))
def test_gradients_of_one_side_or_of_the_scale(wanted, put):
    scale = torch.tensor(0.3, dtype=torch.float64)
    x, y, scale = (
        a.requires_grad_(i == wanted) for i, a in enumerate((put(normal(5, 3)), put(normal(7, 3)), scale))
    )
    leaves = [(x, y, scale)[wanted]]
    agree(rkt.relation_matrix(x, y, scale=scale), plain_relation(x, y, scale=scale), leaves)
    if wanted == 2:
        agree(rkt.relation_matrix(x, scale=scale), plain_relation(x, scale=scale), leaves)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attention(causal, masked, put):
    phi, psi = put(smooth_map([4, 8, 6])), put(smooth_map([4, 5, 6]))
    q, k, v = leaf(put, 2, 9, 4), leaf(put, 1, 15, 4), leaf(put, 15, 3)
    mask = put(torch.rand(9, 15) < 0.6) if masked else None
    if masked:
        mask[4] = False  # nothing to attend to
    scale = put(torch.tensor(0.4)).requires_grad_()
    options = {"mask": mask, "causal": causal, "scale": scale}
    leaves = [q, k, v, *phi.parameters(), *psi.parameters()]
    ours, plain = rkt.attention(q, k, v, phi, psi, **options), plain_attention(q, k, v, phi, psi, **options)
    agree(ours, plain, leaves)
    got, expected = (
        torch.autograd.grad(a.sum(), scale)[0]
        for a in (rkt.attention(q, k, v, phi, psi, **options), plain_attention(q, k, v, phi, psi, **options))
    )
    torch.testing.assert_close(got, expected)


def test_retrieve_without_excluded_keys(put):
    q, keys = leaf(put, 2, 9, 4), leaf(put, 13, 4)
    exclude = put(torch.randint(-1, 13, (9, 5)))
    may = torch.ones(9, 14, dtype=torch.bool).scatter(1, exclude.cpu() % 14, value=False)[:, :13]
    values, indices = rkt.retrieve(q, keys, 3, exclude=exclude)
    expected = (q @ keys.T).masked_fill(~put(may), -torch.inf).topk(3)
    assert torch.equal(indices, expected.indices)
    agree(values, expected.values, [q, keys])


@pytest.mark.parametrize("link", ["exp", "relu", "gaussian", "matern52"])
def test_links(link, put):
    x, y, v = leaf(put, 2, 9, 3), leaf(put, 7, 3), leaf(put, 2, 7, 4)
    scale = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    ours = rkt.relation_matrix(x, y, link=link, scale=scale)
    agree(ours, _formulas.relation_matrix(x, y, scale, 1, link), [x, y, scale])
    for leaves in ([x, y, v, scale], [v]):
        ours = rkt.relation_matvec(x, y, v, link=link, scale=scale)
        agree(ours, _formulas.relation_matvec(x, y, v, scale, link), leaves)


@pytest.mark.parametrize("shape", [(2, 9, 15), (9, 1), (15,), (1, 1)])
def test_bias_and_scores(shape, put):
    q, k, v, bias = leaf(put, 2, 9, 4), leaf(put, 15, 4), leaf(put, 15, 3), leaf(put, *shape)
    options = {"scale": 0.4, "bias": bias, "softcap": 1.5}

    def weights():
        return (1.5 * torch.tanh((0.4 * q @ k.mT + bias) / 1.5)).softmax(-1)

    agree(rkt.attention_scores(q, k, **options), weights(), [q, k, bias])
    agree(rkt.attention(q, k, v, **options), weights() @ v, [q, k, v, bias])


@pytest.mark.parametrize("activation", ["identity", "tanh"])
def test_relational_attention(activation, put):
    q, k, v = leaf(put, 2, 3, 9, 4), leaf(put, 1, 3, 15, 4), leaf(put, 1, 15, 5)
    q_rel, k_rel = leaf(put, 2, 9, 6), leaf(put, 2, 2, 15, 6)
    scale = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    mask = put(torch.rand(3, 9, 15) < 0.6)
    options = {"rel_activation": activation, "scale": scale, "rel_scale": 0.3, "mask": mask}
    *ours, lse = rkt.relational_attention(q, k, q_rel, k_rel, v, **options, return_lse=True)
    assert lse.device == q.device
    scores = (scale * q @ k.mT).masked_fill(~mask, -torch.inf)
    related = 0.3 * q_rel @ k_rel.mT
    related = torch.tanh(related) if activation == "tanh" else related
    weights = scores.softmax(-1)
    plain = [torch.einsum("...hij,...rij->...hir", weights, related), weights @ v]
    sums = scores.logsumexp(-1)
    agree(
        torch.cat([*ours, lse[..., None]], -1),
        torch.cat([*plain, sums[..., None]], -1),
        [q, k, v, q_rel, k_rel, scale],
    )


def test_ragged_batches(put):
    q, k, v = leaf(put, 2, 9, 4), leaf(put, 2, 11, 4), leaf(put, 2, 11, 3)
    of_q, of_k = torch.tensor([0, 4, 4, 9]), torch.tensor([0, 5, 7, 11])
    cuts = list(zip(of_q[:-1], of_q[1:], of_k[:-1], of_k[1:], strict=True))
    parts = [plain_attention(q[:, a:b], k[:, c:d], v[:, c:d], causal=True) for a, b, c, d in cuts]
    ours = rkt.attention(q, k, v, causal=True, q_offsets=put(of_q), k_offsets=put(of_k))
    agree(ours, torch.cat(parts, 1), [q, k, v])
    rows = leaf(put, 9, 4)
    jagged = torch.nested.nested_tensor_from_jagged(rows, put(of_q))
    parts = [plain_attention(*(rows[a:b],) * 3) for a, b in zip(of_q[:-1], of_q[1:], strict=True)]
    agree(rkt.attention(jagged, jagged, jagged).values(), torch.cat(parts), [rows])


def test_modules_train(put):
    relation = put(InnerProductRelation(smooth_map([3, 5, 4]), learn_scale=True))
    attend = put(RelationAttention(relation.phi, window=2))
    x, v = put(normal(6, 3)), put(normal(6, 2))
    optimiser = torch.optim.SGD([*relation.parameters()], lr=0.02)
    losses = []
    for _ in range(5):
        optimiser.zero_grad()
        loss = relation(x).sub(1).square().mean() + attend(x, x, v).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    agree(relation.phi(x), plain_map(x, relation.phi), list(relation.phi.parameters()))


@pytest.mark.parametrize("loss", ["squared", "logistic", "hinge", "softmax"])
@pytest.mark.parametrize("kind", ["labels", "pairs of labels", "matrix"])
def test_relation_loss(kind, loss, put):
    phi, scale = put(smooth_map([4, 8, 6])), put(torch.tensor(0.7, dtype=torch.float64)).requires_grad_()
    x, y = leaf(put, 67, 4), leaf(put, 67 if kind == "labels" else 13, 4)
    one, other = put(torch.arange(len(x)) % 3), put(torch.arange(len(y)) % 3)
    target = {
        "labels": one, "pairs of labels": (one, other), "matrix": put(normal(67, 13).abs().clamp(0.1, 1)),
    }[kind]  # fmt: skip
    second = None if kind == "labels" else y
    weight = put(normal(67).abs())
    value = rkt.relation_loss(x, second, target, phi, loss=loss, scale=scale, sample_weight=weight)
    t = target if kind == "matrix" else (one[:, None] == (one if second is None else other)).to(x.dtype)
    wanted = plain_loss(plain_relation(x, second, phi, scale=scale), t, loss, weight)
    agree(value, wanted, [x, scale, *phi.parameters()] + ([] if second is None else [y]))
