"""`relkernels.torch`: values and gradients compared with plain PyTorch, gradcheck, operators, compilation."""

import pickle
import shutil

import numpy as np
import pytest
import reference
import relkernels as rk
from strategies import ACTIVATIONS

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
import relkernels.torch as rkt  # noqa: E402
from plain_torch import agree, normal, plain_attention, plain_loss, plain_map, plain_relation, smooth_map  # noqa: E402
from relkernels.torch import FeatureMap, InnerProductRelation, RelationAttention  # noqa: E402
from torch import nn  # noqa: E402

OPS = torch.ops.relkernels


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(20240213)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_feature_map_of_every_activation(activation):
    phi = FeatureMap([5, 9, 7, 3], activation, dtype=torch.float64)
    x = normal(2, 11, 5, grad=True)
    agree(phi(x), plain_map(x, phi), [x, *phi.parameters()])


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("kind", ["symmetric", "one map", "two maps", "two maps of x", "no map", "broadcast"])
def test_relation_matrix(kind, heads):
    phi, psi = smooth_map([4, 8, 6]), smooth_map([4, 7, 6], bias=False)
    x, y = normal(2, 11, 4, grad=True), normal(2, 13, 4, grad=True)
    if kind == "broadcast":
        x, y = normal(1, 11, 4, grad=True), normal(3, 1, 13, 4, grad=True)
    if kind == "no map":
        x, y = normal(11, 6, grad=True), normal(13, 6, grad=True)
    second = None if kind in ("symmetric", "two maps of x") else y
    first_map = None if kind == "no map" else phi
    second_map = psi if kind in ("two maps", "two maps of x", "broadcast") else None
    leaves = [a for a in (x, second) if a is not None]
    leaves += [p for m in (first_map, second_map) if m is not None for p in m.parameters()]
    arguments = (x, second, first_map, second_map)
    ours = rkt.relation_matrix(*arguments, scale=0.7, heads=heads)
    agree(ours, plain_relation(*arguments, scale=0.7, heads=heads), leaves)
    if kind == "symmetric":
        assert torch.equal(ours, ours.transpose(-1, -2))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("one_map", [False, True])
def test_attention(causal, masked, one_map):
    phi, psi = smooth_map([4, 8, 6]), None if one_map else smooth_map([4, 5, 6])
    q, k, v = normal(2, 9, 4, grad=True), normal(1, 15, 4, grad=True), normal(15, 3, grad=True)
    mask = torch.rand(9, 15) < 0.6 if masked else None
    if masked:
        mask[4] = False  # nothing to attend to
    leaves = [q, k, v, *phi.parameters(), *(() if one_map else psi.parameters())]
    arguments, options = (q, k, v, phi, psi), {"mask": mask, "causal": causal}
    agree(rkt.attention(*arguments, **options), plain_attention(*arguments, **options), leaves)


@pytest.mark.parametrize("align", ["upper_left", "lower_right"])
@pytest.mark.parametrize("window", [2, (None, 1), (4, 0)])
def test_a_window_is_a_mask(window, align):
    phi = smooth_map([4, 8, 6])
    q, k, v = normal(2, 9, 4, grad=True), normal(1, 15, 4, grad=True), normal(15, 3, grad=True)
    mask = torch.from_numpy(reference.allowed((9, 15), None, False, window, align))
    leaves = [q, k, v, *phi.parameters()]
    agree(
        rkt.attention(q, k, v, phi, window=window, align=align),
        plain_attention(q, k, v, phi, mask=mask),
        leaves,
    )
    attend = rkt.RelationAttention(phi, window=window, align=align)
    assert torch.equal(attend(q, k, v), rkt.attention(q, k, v, phi, window=window, align=align))
    assert f"window={window}" in repr(attend)


def test_a_module_attends_with_a_bias_and_a_cap():
    phi, psi = smooth_map([4, 8, 6]), smooth_map([3, 6])
    q, k, v = normal(2, 9, 4, grad=True), normal(15, 3, grad=True), normal(15, 3, grad=True)
    bias, mask = normal(9, 15, grad=True), torch.rand(9, 15) < 0.6
    attend = RelationAttention(phi, psi, softcap=2.0, causal=True)
    leaves = [q, k, v, bias, *phi.parameters(), *psi.parameters()]
    options = {"mask": mask, "bias": bias, "softcap": 2.0, "causal": True}
    agree(attend(q, k, v, mask, bias=bias), rkt.attention(q, k, v, phi, psi, **options), leaves)
    scale = phi.widths[-1] ** -0.5
    scores = 2 * torch.tanh((scale * plain_relation(q, k, phi, psi) + bias) / 2)
    allowed = mask & torch.ones(9, 15, dtype=torch.bool).tril()
    weights = torch.softmax(scores.masked_fill(~allowed, -torch.inf), -1).nan_to_num()
    torch.testing.assert_close(attend(q, k, v, mask, bias=bias), weights @ v)
    assert "softcap=2" in repr(attend)
    old = RelationAttention(phi, psi)
    del old.softcap  # a module that was pickled before there was the option
    assert torch.equal(pickle.loads(pickle.dumps(old))(q, k, v), rkt.attention(q, k, v, phi, psi))


@pytest.mark.parametrize("loss", ["squared", "logistic", "hinge", "softmax"])
@pytest.mark.parametrize("kind", ["symmetric", "one map", "two maps", "weighted"])
@pytest.mark.parametrize("labels", [True, False])
def test_relation_loss(loss, kind, labels):
    phi, psi = smooth_map([4, 8, 6]), smooth_map([4, 7, 6]) if kind == "two maps" else None
    x, y = normal(11, 4, grad=True), None if kind == "symmetric" else normal(13, 4, grad=True)
    m = 11 if y is None else 13
    weight = torch.rand(11, dtype=torch.float64) if kind == "weighted" else None
    of_rows, of_columns = torch.arange(11) % 3, torch.arange(m) % 3
    matrix = (of_rows[:, None] == of_columns).double() if labels else torch.rand(11, m, dtype=torch.float64)
    target = matrix if not labels else of_rows if y is None else (of_rows, of_columns)
    leaves = [a for a in (x, y) if a is not None] + [*phi.parameters(), *(psi.parameters() if psi else ())]
    ours = rkt.relation_loss(x, y, target, phi, psi, loss=loss, sample_weight=weight)
    agree(ours, plain_loss(plain_relation(x, y, phi, psi), matrix, loss, weight), leaves)


def test_relation_loss_is_that_of_numpy_and_takes_memory_linear_in_the_rows():
    import tracemalloc

    phi = FeatureMap.from_mlp(rk.MLP.random([4, 8, 3], random_state=0))
    x, labels = torch.randn(9000, 4), torch.arange(9000) % 10
    tracemalloc.start()  # tracks NumPy's memory, which holds all results
    ours = rkt.relation_loss(x, None, labels, phi)
    ours.backward()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 9000 * 9000 * 4 / 100
    value, gradient, _ = rk.relation_loss(x.numpy(), None, labels.numpy(), phi.to_mlp())
    assert ours.item() == pytest.approx(value, rel=1e-7)
    for w, expected in zip(phi.weights, gradient.weights, strict=True):
        np.testing.assert_allclose(w.grad.numpy(), expected, rtol=1e-5, atol=1e-5)  # other order of sums


def test_one_row_of_a_mask_is_for_all():
    q, k, v = normal(5, 3), normal(7, 3), normal(7, 2)
    row = torch.rand(7) < 0.5
    row[0] = True
    torch.testing.assert_close(
        rkt.attention(q, k, v, mask=row), plain_attention(q, k, v, mask=row.expand(5, 7))
    )


def test_float32_and_tensors_in_any_layout():
    phi = FeatureMap([6, 40, 8], "gelu")
    x = torch.randn(6, 300).T.requires_grad_()[::2]
    y = torch.randn(70, 6, dtype=torch.float32)[:, torch.arange(6)].flip(0)
    assert not x.is_contiguous()
    agree(rkt.relation_matrix(x, y, phi), plain_relation(x, y, phi), list(phi.parameters()), 1e-4)
    one = torch.randn(1, 6).expand(50, 6)
    torch.testing.assert_close(phi(one), plain_map(one, phi), rtol=1e-4, atol=1e-5)
    # The gradient of a sum is a tensor with strides of 0.
    phi.zero_grad()
    rkt.relation_matrix(y, None, phi).sum().backward()
    expected = torch.autograd.grad(plain_relation(y, None, phi).sum(), list(phi.parameters()))
    for p, e in zip(phi.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, e, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (0, 0), (1, 1)])
def test_few_rows(n, m):
    phi = smooth_map([4, 5, 2])
    x, y, v = normal(n, 4, grad=True), normal(m, 4, grad=True), normal(m, 3, grad=True)
    agree(rkt.relation_matrix(x, y, phi), plain_relation(x, y, phi), [x, y, *phi.parameters()])
    ours = rkt.attention(x, y, v, phi)
    assert ours.shape == (n, 3)
    ours.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in (x, y, v, *phi.parameters()))


def test_results_are_those_of_numpy():
    phi, psi = rk.MLP.random([4, 9, 6], seed=1), rk.MLP.random([5, 8, 6], seed=2)
    x, y, v = torch.randn(13, 4), torch.randn(17, 5), torch.randn(17, 3)
    arrays = [a.numpy() for a in (x, y, v)]
    relation, attend = InnerProductRelation.from_mlp(phi, psi), RelationAttention.from_mlp(phi, psi)
    expected = rk.relation_matrix(*arrays[:2], phi, psi)
    np.testing.assert_array_equal(relation(x, y).detach().numpy(), expected)
    np.testing.assert_array_equal(attend(x, y, v).detach().numpy(), rk.attention(*arrays, phi, psi))


def test_memory_is_shared_with_numpy():
    """Inputs are read in place: only the output and the packed weights are allocated."""
    import tracemalloc

    x = torch.ones(64, 400_000).T
    phi = FeatureMap([64, 2])
    with torch.no_grad():
        phi(x[:1])
        tracemalloc.start()
        phi(x)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 400_000 * 2 * 4 * 1.1


# ---- derivatives


@pytest.mark.parametrize("bias", [True, False])
def test_gradcheck_of_feature_map(bias):
    phi = smooth_map([3, 5, 4, 2], bias)
    x = normal(2, 4, 3, grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: phi(x), (x, *phi.parameters()))


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("symmetric", [True, False])
def test_gradcheck_of_relation_matrix(symmetric, heads):
    relation = InnerProductRelation(
        smooth_map([3, 5, 4]), None if symmetric else smooth_map([2, 4, 4]), scale=0.5, heads=heads
    )
    x, y = normal(3, 3, grad=True), normal(2, 4, 2, grad=True)
    inputs = (x,) if symmetric else (x, y)
    assert torch.autograd.gradcheck(lambda *a: relation(*a[: len(inputs)]), (*inputs, *relation.parameters()))


@pytest.mark.parametrize("link", ["identity", "exp", "square", "gaussian", "matern12", "matern52"])
def test_gradcheck_of_links(link):
    x, y, scale = normal(3, 3, grad=True), normal(2, 4, 3, grad=True), scale_of(0.4, grad=True)
    for v in (normal(4, grad=True), normal(1, 4, 2, grad=True)):

        def product(x, y, v, scale):
            return rkt.relation_matvec(x, y, v, link=link, scale=scale)

        assert torch.autograd.gradcheck(product, (x, y, v, scale))

    def matrix(x, y, scale):
        return rkt.relation_matrix(x, y, link=link, scale=scale)

    assert torch.autograd.gradcheck(matrix, (x, y, scale))
    phi = smooth_map([3, 5, 4])
    v = normal(4, grad=True)
    mapped = rkt.relation_matvec(x, y, v, phi, link=link, scale=0.4)
    plain = rkt.relation_matrix(phi(x), phi(y), link=link, scale=0.4) @ v
    agree(mapped, plain, [x, y, v, *phi.parameters()], 1e-12)
    # The gradient of v alone is one product.
    (alone,) = torch.autograd.grad(rkt.relation_matvec(x.detach(), y.detach(), v, link=link).sum(), v)
    (among,) = torch.autograd.grad(rkt.relation_matvec(x, y, v, link=link).sum(), v)
    torch.testing.assert_close(alone, among)


@pytest.mark.parametrize("masked", [True, False])
def test_gradcheck_of_attention(masked):
    attend = RelationAttention(smooth_map([3, 5, 4]), smooth_map([2, 4, 4]), causal=masked)
    q, k, v = normal(3, 3, grad=True), normal(2, 4, 2, grad=True), normal(4, 3, grad=True)
    mask = torch.rand(3, 4) < 0.7 if masked else None
    assert torch.autograd.gradcheck(lambda *a: attend(*a[:3], mask), (q, k, v, *attend.parameters()))


@pytest.mark.parametrize("symmetric", [True, False])
def test_gradcheck_of_relation_loss(symmetric):
    phi, psi = smooth_map([3, 5, 4]), None if symmetric else smooth_map([2, 4, 4])
    x, y = normal(5, 3, grad=True), None if symmetric else normal(4, 2, grad=True)
    target = torch.rand(5, 5 if symmetric else 4, dtype=torch.float64)
    inputs = [a for a in (x, y) if a is not None]
    parameters = [*phi.parameters(), *(psi.parameters() if psi else ())]

    def value(*_):
        return 3 * rkt.relation_loss(x, y, target, phi, psi, loss="softmax")

    assert torch.autograd.gradcheck(value, (*inputs, *parameters))


def test_gradients_only_where_they_are_wanted():
    phi, psi = smooth_map([3, 5, 4]), smooth_map([3, 5, 4])
    psi.requires_grad_(False)
    phi.weights[0].requires_grad_(False)
    x, y, v = normal(6, 3), normal(7, 3, grad=True), normal(7, 2)
    expected = InnerProductRelation(phi, psi)
    plain = torch.autograd.grad(plain_relation(x, y, phi, psi).square().sum(), [y, phi.weights[1]])
    expected(x, y).square().sum().backward()
    torch.testing.assert_close(y.grad, plain[0])
    torch.testing.assert_close(phi.weights[1].grad, plain[1])
    assert phi.weights[0].grad is None
    assert x.grad is None
    assert all(p.grad is None for p in psi.parameters())
    for wanted in range(3):
        inputs = [a.detach().clone().requires_grad_(i == wanted) for i, a in enumerate((x, y, v))]
        (got,) = torch.autograd.grad(rkt.attention(*inputs).square().sum(), inputs[wanted])
        (expect,) = torch.autograd.grad(plain_attention(*inputs).square().sum(), inputs[wanted])
        torch.testing.assert_close(got, expect)
    with torch.no_grad():
        assert not phi(x).requires_grad
    assert not psi(x).requires_grad


def scale_of(value, grad=False):
    return torch.tensor(value, dtype=torch.float64, requires_grad=grad)


@pytest.mark.parametrize("of", ["f", "g"])
def test_one_side_of_the_relation_is_left_out(of):
    f, g, above = normal(5, 4), normal(6, 4), normal(5, 6)
    grads = OPS.relation_matrix_vjp(f, g, scale_of(1.0), 1, above, of == "f", of == "g", False)
    assert [a.numel() for a in grads] == ([20, 0, 0] if of == "f" else [0, 24, 0])
    torch.testing.assert_close(grads[0] if of == "f" else grads[1], above @ g if of == "f" else above.T @ f)


def test_backward_refuses_weights_that_have_changed_since():
    phi = smooth_map([3, 5, 4])
    out = phi(normal(6, 3)).sum()
    with torch.no_grad():
        phi.weights[1].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


# ---- operators


def sample_calls():
    x, y, v = normal(2, 5, 3, grad=True), normal(4, 3, grad=True), normal(4, 2, grad=True)
    phi = smooth_map([3, 5, 4])
    parameters = (list(phi.weights), list(phi.biases), "tanh", None, False)
    mask = torch.rand(5, 4) < 0.8
    yield OPS.feature_map, (x, *parameters)
    yield OPS.feature_map, (x, parameters[0], [], "leaky_relu", 0.1, True)
    scale = scale_of(-0.5, grad=True)
    yield OPS.relation_matrix, (x, None, scale, 1)
    yield OPS.relation_matrix, (x, None, scale, 3)
    yield OPS.relation_matrix, (x, y, scale_of(0.5), 3)
    yield OPS.attention, (x, y, v, None, True, None, None, "upper_left", scale)
    yield OPS.attention, (x, y, v, mask, False, 1, None, "lower_right", scale_of(0.5))
    bias = normal(5, 4).requires_grad_()
    yield OPS.attention, (x, y, v, None, True, None, None, "upper_left", scale, bias, 2.0)
    yield OPS.attention_scores, (x, y, mask, True, None, None, "upper_left", scale, bias, 2.0)
    of_heads, of_keys, values = (a[None] for a in (normal(5, 3).requires_grad_(), y, v))
    how = None, True, None, None, "upper_left", scale, scale_of(0.5), "relu"
    yield OPS.relational_attention, (of_heads, of_keys, of_heads, of_keys, values, *how)
    yield OPS.relation_loss, (y, None, scale, torch.arange(4), None, None, "squared")
    yield OPS.retrieve, (x, y, 3, None, torch.arange(5) - 1, False)
    yield OPS.retrieve, (y, y, 6, mask[:4, :4], None, True)
    other = v @ v.T.detach()[:, :3]
    weight = mask[0].double() + 1
    labels = torch.arange(4)
    yield OPS.relation_loss, (y, other, scale_of(0.5), labels, labels, weight, "softmax")
    yield OPS.relation_matvec, (x, y, v, scale, "square")
    yield OPS.relation_matrix, (x, y, scale, 3, "exp")
    x, y, v, scale = (a.detach() for a in (x, y, v, scale))
    for wanted in ((True, True), (False, True)):
        yield OPS.relation_matvec_vjp, (x, y, v, scale, "exp", normal(2, 5, 2), *wanted)
    parameters = ([w.detach() for w in phi.weights], [b.detach() for b in phi.biases], "tanh", None, True)
    yield OPS.feature_map_vjp, (x, *parameters, normal(2, 5, 4))
    yield OPS.relation_matrix_vjp, (x, y, scale, 3, normal(2, 3, 5, 4), True, False, True)
    yield OPS.relation_matrix_vjp, (x, None, scale, 1, normal(2, 5, 5), True, False, False)
    indices = torch.tensor([[0, -1], [3, 1], [2, 2], [-1, -1], [1, 0]]).expand(2, 5, 2)
    yield OPS.retrieve_vjp, (x, y, indices, normal(2, 5, 2), True, True)
    out, lse = OPS.attention(x, y, v, mask, True, None, None, "upper_left", scale)
    rest = mask, True, None, None, "upper_left", scale, normal(4), 2.0
    found = normal(2, 5, 3), normal(4, 3), scale
    yield (
        OPS.relation_loss_vjp,
        (x, y, scale, torch.arange(5), torch.arange(4), None, "squared", *found, normal(1)[0]),
    )
    yield OPS.attention_vjp, (x, y, v, *rest, None, None, out, lse, normal(2, 5, 2), normal(2, 5), True)
    yield OPS.attention_vjp, (x, y, v, *rest, None, None, out, lse, normal(2, 5, 2), None, False)
    yield OPS.attention_scores_vjp, (x, y, *rest, normal(2, 5, 4), True)


def test_opcheck():
    for operator, arguments in sample_calls():
        result = torch.library.opcheck(operator, arguments)
        assert set(result.values()) == {"SUCCESS"}, (operator, result)


class Both(nn.Module):
    """A model that uses everything."""

    def __init__(self, dtype):
        super().__init__()
        phi, psi = (smooth_map([4, 8, 6], dtype=dtype) for _ in range(2))
        self.relation = InnerProductRelation(phi, psi, scale=0.3, learn_scale=True, heads=2)
        self.same = InnerProductRelation(phi, scale=nn.Parameter(torch.tensor(-0.7, dtype=dtype)))
        self.attend = RelationAttention(psi, phi, causal=True)

    def forward(self, x, y, v, mask):
        return (
            self.relation(x, y).square().mean()
            + self.same(x).tanh().sum()
            + self.attend(x, y, v, mask).square().sum()
            + rkt.relation_loss(x[0], y, self.same(y).detach()[:1], self.same.phi, scale=self.relation.scale)
        )


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_in_one_graph(dynamic):
    torch._dynamo.reset()
    model = Both(torch.float64)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for n in (5, 9) if dynamic else (5,):
        inputs = (normal(2, n, 4, grad=True), normal(7, 4), normal(7, 3), torch.rand(n, 7) < 0.9)
        leaves = [inputs[0], *model.parameters()]
        agree(compiled(*inputs), model(*inputs), leaves, 1e-12)


@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
def test_compile_with_inductor():
    torch._dynamo.reset()
    relation = InnerProductRelation(smooth_map([4, 8, 6]))
    x = normal(5, 4, grad=True)

    def loss(x):
        return (relation(x).tanh() * x.sum()).square().mean()

    agree(torch.compile(loss, fullgraph=True)(x), loss(x), [x, *relation.parameters()])
