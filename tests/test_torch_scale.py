"""`relkernels.torch`: the scale of a relation as a number, a tensor and a parameter that is learned."""

import copy

import pytest
import relkernels as rk

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
import relkernels.torch as rkt  # noqa: E402
from plain_torch import agree, normal, plain_attention, plain_loss, plain_map, plain_relation, smooth_map  # noqa: E402
from relkernels.torch import FeatureMap, InnerProductRelation, RelationAttention  # noqa: E402
from torch import nn  # noqa: E402


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(20240213)


def tensor(value, dtype=torch.float64, shape=()):
    return torch.full(shape, value, dtype=dtype, requires_grad=True)


VALUES = [0.7, 0.0, -1.3]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("kind", ["symmetric", "one map", "two maps", "broadcast"])
def test_relation_matrix(kind, heads, value):
    phi, psi = smooth_map([3, 5, 4]), smooth_map([3, 5, 4]) if kind == "two maps" else None
    x = normal(2, 6, 3, grad=True)
    y = (
        None
        if kind == "symmetric"
        else normal(3, 1, 7, 3, grad=True)
        if kind == "broadcast"
        else normal(7, 3, grad=True)
    )
    scale = tensor(value)
    leaves = [a for a in (x, y, scale) if a is not None]
    leaves += [*phi.parameters(), *(psi.parameters() if psi else ())]
    ours = rkt.relation_matrix(x, y, phi, psi, scale=scale, heads=heads)
    agree(ours, plain_relation(x, y, phi, psi, scale, heads), leaves)
    fixed = rkt.relation_matrix(x, y, phi, psi, scale=value, heads=heads)
    torch.testing.assert_close(fixed, ours, rtol=0, atol=0)
    if kind == "symmetric":
        assert torch.equal(ours, ours.transpose(-1, -2))


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("causal", [False, True])
def test_attention(causal, value):
    phi, psi = smooth_map([3, 5, 4]), smooth_map([3, 5, 4])
    q, k, v = normal(2, 6, 3, grad=True), normal(7, 3, grad=True), normal(7, 2, grad=True)
    mask = torch.rand(6, 7) < 0.7
    mask[2] = False
    scale = tensor(value)
    options = {"mask": mask, "causal": causal}
    leaves = [q, k, v, scale, *phi.parameters(), *psi.parameters()]
    agree(
        rkt.attention(q, k, v, phi, psi, scale=scale, **options),
        plain_attention(q, k, v, phi, psi, scale, **options),
        leaves,
    )
    agree(
        rkt.attention(q, k, v, phi, psi, scale=value, **options),
        plain_attention(q, k, v, phi, psi, value, **options),
        [q, k],
    )


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("loss", ["squared", "logistic", "hinge", "softmax"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_relation_loss(symmetric, loss, value):
    phi = smooth_map([3, 5, 4])
    x, y = normal(6, 3, grad=True), None if symmetric else normal(7, 3, grad=True)
    rows = torch.arange(6) % 3
    columns = rows if symmetric else torch.arange(7) % 3
    matrix = (rows[:, None] == columns).double()
    leaves = [a for a in (x, y) if a is not None] + list(phi.parameters())
    for scale in (tensor(value), value):
        ours = rkt.relation_loss(x, y, rows if symmetric else (rows, columns), phi, loss=loss, scale=scale)
        wanted = [*leaves, scale] if isinstance(scale, torch.Tensor) else leaves
        agree(ours, plain_loss(plain_relation(x, y, phi, None, scale), matrix, loss), wanted)


@pytest.mark.parametrize("value", [0.7, 0.0, -1.3])
def test_gradcheck(value):
    phi, scale = smooth_map([3, 5, 4]), tensor(value)
    x, y, v = normal(4, 3, grad=True), normal(5, 3, grad=True), normal(5, 2, grad=True)
    target = torch.rand(4, 5, dtype=torch.float64)
    for function, inputs in (
        (lambda s, x: rkt.relation_matrix(x, None, phi, scale=s), (scale, x)),
        (lambda s, x, y: rkt.relation_matrix(x, y, phi, scale=s, heads=2), (scale, x, y)),
        (lambda s, x, y, v: rkt.attention(x, y, v, phi, scale=s, causal=True), (scale, x, y, v)),
        (lambda s, x, y: rkt.relation_loss(x, y, target, phi, scale=s, loss="softmax"), (scale, x, y)),
        (lambda s, x: rkt.relation_loss(x, None, torch.arange(4), phi, scale=s), (scale, x)),
        (lambda s: rkt.relation_matrix(x.detach(), None, scale=s), (scale,)),
        (lambda s: rkt.attention(x.detach(), y.detach(), v.detach(), scale=s), (scale,)),
        (lambda s: rkt.relation_loss(x.detach(), y.detach(), target, scale=s), (scale,)),
    ):
        assert torch.autograd.gradcheck(function, inputs)


def test_shape_and_dtype_of_the_scale_are_its_own():
    x = torch.randn(6, 3)
    for scale in (tensor(0.5, torch.float32, (1,)), tensor(0.5, torch.float64, (1, 1)), tensor(0.5)):
        rkt.relation_matrix(x, scale=scale).sum().backward()
        assert scale.grad.shape == scale.shape
        assert scale.grad.dtype == scale.dtype
        torch.testing.assert_close(scale.grad.item(), (x @ x.T).sum().item(), rtol=1e-4, atol=1e-4)


def test_the_gradient_of_the_scale_stores_no_relation():
    import tracemalloc

    n = 6000
    x, v, scale = torch.randn(n, 4), torch.randn(n, 2), tensor(0.5)
    tracemalloc.start()
    rkt.attention(x, x, v, scale=scale).sum().backward()
    rkt.relation_loss(x, None, torch.arange(n), scale=scale, loss="softmax").backward()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < n * n * 4 / 50
    assert scale.grad.isfinite()


@pytest.mark.parametrize("make", [InnerProductRelation, RelationAttention])
def test_modules_learn_the_scale(make):
    phi = smooth_map([3, 5, 4])
    model = make(phi, scale=0.2, learn_scale=True)
    assert model.scale.item() == pytest.approx(0.2)
    assert dict(model.named_parameters())["log_scale"].dtype == torch.float64
    assert "log_scale" in model.state_dict()
    assert "scale=0.2 (learned)" in repr(model)
    x = normal(6, 3)
    v = normal(6, 2)

    def loss(model):
        return (model(x) if make is InnerProductRelation else model(x, x, v)).sub(1).square().mean()

    twin = make(phi, scale=0.2)
    torch.testing.assert_close(loss(model), loss(twin))
    optimiser = torch.optim.SGD([model.log_scale], lr=0.05)
    first = loss(model)
    for _ in range(20):
        optimiser.zero_grad()
        loss(model).backward()
        optimiser.step()
    assert loss(model) < first
    assert model.scale > 0
    assert model.scale.item() != pytest.approx(0.2)
    other = make(phi, scale=3.0, learn_scale=True)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.scale, model.scale)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*log_scale"):
        twin.load_state_dict(model.state_dict())
    with pytest.raises(AttributeError, match=r"scale: cannot be set.*set log_scale"):
        model.scale = 1.0
    twin.scale = -2.0
    assert twin.scale == -2.0
    from_mlp = make.from_mlp(rk.MLP.random([3, 4], seed=0), scale=2.0, learn_scale=True)
    assert from_mlp.log_scale.dtype == torch.float32
    assert copy.deepcopy(model).scale == model.scale


@pytest.mark.parametrize("make", [InnerProductRelation, RelationAttention])
def test_a_parameter_given_as_scale_is_one_of_the_module(make):
    scale = nn.Parameter(torch.tensor(-0.5, dtype=torch.float64))
    model = make(smooth_map([3, 5, 4]), scale=scale)
    assert dict(model.named_parameters())["scale"] is scale
    x, v = normal(6, 3), normal(6, 2)
    inputs = (x,) if make is InnerProductRelation else (x, x, v)
    plain = plain_relation if make is InnerProductRelation else plain_attention
    f = plain_map(x, model.phi)
    given = (f,) if make is InnerProductRelation else (f, f, v)
    agree(model(*inputs), plain(*given, scale=scale), [scale, *model.phi.parameters()])
    assert "scale=-0.5 (learned)" in repr(model)
    new = torch.tensor(2.0, dtype=torch.float64)
    swapped = torch.func.functional_call(model, {"scale": new}, inputs)
    torch.testing.assert_close(swapped, plain(*given, scale=2.0))
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.scale.fill_(3.0)
    assert scale.item() == -0.5
    model.load_state_dict(other.state_dict())
    assert scale.item() == 3.0
    model.load_state_dict(other.state_dict(), assign=True)
    assert model.scale.item() == 3.0
    assert model.float().scale.dtype == torch.float32


def test_a_tensor_given_as_scale_is_a_buffer():
    scale = torch.tensor(0.5)
    model = InnerProductRelation(FeatureMap([3, 4]), scale=scale)
    assert dict(model.named_buffers()) == {"scale": scale}
    assert model.double().scale.dtype == torch.float64
    assert "scale=0.5," in repr(model)


def test_attention_learns_from_its_default():
    attend = RelationAttention(FeatureMap([3, 16]), learn_scale=True)
    assert attend.scale.item() == pytest.approx(0.25)
    with pytest.raises(ValueError, match="scale: expected a number, as the width of phi is not known"):
        RelationAttention(nn.Linear(3, 4), learn_scale=True)


def test_bad_scales_are_named():
    x, phi = torch.randn(5, 3), FeatureMap([3, 4])
    cases = [
        (TypeError, "scale: expected a real number, got str", lambda: rkt.relation_matrix(x, scale="2")),
        (
            TypeError,
            "scale: expected a real number, got NoneType",
            lambda: rkt.relation_matrix(x, scale=None),
        ),
        (ValueError, "scale: expected a finite number", lambda: rkt.attention(x, x, x, scale=float("inf"))),
        (
            ValueError,
            r"scale: expected a number that float32 can hold, got 1e\+39",
            lambda: rkt.attention(x.float(), x.float(), x.float(), scale=1e39),
        ),
        (
            ValueError,
            r"scale: expected a number that float32 can hold, got -1e\+39",
            lambda: rkt.relation_loss(x.float(), None, torch.arange(len(x)), scale=-1e39),
        ),
        (
            ValueError,
            "scale: expected a finite number",
            lambda: rkt.attention(x, x, x, scale=torch.tensor(torch.nan)),
        ),
        (
            ValueError,
            r"scale: .* one element, got shape \(2,\)",
            lambda: rkt.relation_matrix(x, scale=torch.ones(2)),
        ),
        (
            TypeError,
            "scale: expected float32, float64",
            lambda: rkt.relation_matrix(x, scale=torch.tensor(2)),
        ),
        (
            TypeError,
            "scale: expected a tensor on cpu, as x is",
            lambda: rkt.relation_matrix(x, scale=torch.ones((), device="meta")),
        ),
        (TypeError, "scale: expected a number", lambda: InnerProductRelation(phi, scale=None)),
        (
            ValueError,
            "scale: expected a positive number",
            lambda: InnerProductRelation(phi, scale=-1.0, learn_scale=True),
        ),
        (
            TypeError,
            "scale: expected a number beside",
            lambda: InnerProductRelation(phi, scale=torch.ones(()), learn_scale=True),
        ),
        (TypeError, "learn_scale: expected True or False", lambda: InnerProductRelation(phi, learn_scale=1)),
    ]
    for error, message, call in cases:
        with pytest.raises(error, match=message):
            call()
