"""`relkernels.torch`: any module can be a map and is called; maps in state dicts."""

import copy
import io
import pickle

import pytest
import relkernels as rk

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
import relkernels.torch as rkt  # noqa: E402
from plain_torch import agree, normal, plain_attention, plain_loss, plain_map, plain_relation, smooth_map  # noqa: E402
from relkernels.torch import FeatureMap, InnerProductRelation, RelationAttention  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(20240213)


class Normalised(FeatureMap):
    def forward(self, x):
        return F.normalize(super().forward(x), dim=-1)


def hooked():
    phi = smooth_map([3, 5, 4])
    phi.register_forward_hook(lambda module, inputs, output: F.normalize(output, dim=-1))
    return phi, lambda x: F.normalize(plain_map(x, phi), dim=-1)


def pre_hooked():
    phi = smooth_map([3, 5, 4])
    phi.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    return phi, lambda x: plain_map(2 * x, phi)


def widened():
    phi = smooth_map([4, 5, 4])
    phi.register_forward_pre_hook(lambda module, inputs: (F.pad(inputs[0], (0, 1), value=1.0),))
    return phi, lambda x: plain_map(F.pad(x, (0, 1), value=1.0), phi)


def subclass():
    phi = Normalised([3, 5, 4], "tanh", dtype=torch.float64)
    return phi, lambda x: F.normalize(plain_map(x, phi), dim=-1)


def sequential():
    net = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 4)).double()
    return net, net


def weight_norm():
    phi = smooth_map([3, 5, 4])
    torch.nn.utils.parametrizations.weight_norm(phi.weights, "0")
    return phi, lambda x: plain_map(x, phi)


MAPS = [hooked, pre_hooked, widened, subclass, sequential, weight_norm]


@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("make", MAPS)
def test_maps_are_called(make, two):
    phi, plain = make()
    psi, plain_psi = sequential() if two else (None, plain)
    x, y, v = normal(6, 3, grad=True), normal(7, 3, grad=True), normal(7, 2, grad=True)
    labels, target = torch.arange(6) % 3, torch.rand(6, 7, dtype=torch.float64)
    leaves = [x, *phi.parameters()]
    more = [x, y, *phi.parameters(), *(psi.parameters() if two else ())]

    def f():
        return plain(x)

    def g():
        return plain_psi(y)

    agree(rkt.feature_map(x, phi), f(), leaves)
    agree(rkt.relation_matrix(x, None, phi), plain_relation(f()), leaves)
    agree(InnerProductRelation(phi, psi)(x, y), plain_relation(f(), g()), more)
    agree(rkt.relation_matrix(x, y, phi, psi), plain_relation(f(), g()), more)
    agree(rkt.attention(x, y, v, phi, psi), plain_attention(f(), g(), v), [*more, v])
    agree(RelationAttention(phi, psi)(x, y, v), plain_attention(f(), g(), v), [*more, v])
    agree(rkt.relation_loss(x, y, target, phi, psi), plain_loss(f() @ g().T, target), more)
    same = (labels[:, None] == labels).double()
    agree(rkt.relation_loss(x, None, labels, phi), plain_loss(f() @ f().T, same), leaves)


def test_backward_hooks_and_hooks_of_all_modules_run():
    phi = smooth_map([3, 5, 4])
    relation = InnerProductRelation(phi)
    seen = []
    phi.register_full_backward_hook(lambda module, above, below: seen.append("backward"))
    everywhere = nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: seen.append(type(module).__name__)
    )
    try:
        relation(normal(6, 3, grad=True)).sum().backward()
    finally:
        everywhere.remove()
    assert seen == ["FeatureMap", "InnerProductRelation", "backward"]


def test_one_map_is_called_once_for_one_input():
    calls = []

    class Noisy(nn.Module):
        def forward(self, x):
            calls.append(x)
            return F.dropout(x, 0.5)

    noisy = Noisy()
    x = torch.ones(40, 8)
    for r in (rkt.relation_matrix(x, None, noisy), rkt.relation_matrix(x, None, noisy, noisy)):
        assert torch.equal(r, r.T)
        assert r.min() < r.max()
    assert len(calls) == 2
    rkt.relation_loss(x, None, torch.arange(40), noisy, noisy)
    InnerProductRelation(noisy, noisy)(x)
    assert len(calls) == 4
    rkt.relation_matrix(x, x, noisy)
    assert len(calls) == 6


def test_functions_may_be_maps():
    phi = smooth_map([3, 5, 4])
    new = {name: torch.randn_like(p).requires_grad_() for name, p in phi.named_parameters()}
    x = normal(6, 3)

    def called(x):
        return torch.func.functional_call(phi, new, x)

    other = copy.deepcopy(phi)
    with torch.no_grad():
        for name, p in other.named_parameters():
            p.copy_(new[name])
    agree_with = plain_relation(x, None, other)
    ours = rkt.relation_matrix(x, None, called)
    torch.testing.assert_close(ours, agree_with)
    got = torch.autograd.grad(ours.square().sum(), list(new.values()))
    expected = torch.autograd.grad(agree_with.square().sum(), list(other.parameters()))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (lambda x: x.numpy(), TypeError, r"phi\(x\): expected a torch.Tensor of .*got an array"),
        (lambda x: (x, x), TypeError, r"phi\(x\): expected a torch.Tensor of .*got tuple of length 2"),
        (
            lambda x: x.double(),
            TypeError,
            r"phi\(x\): expected torch.float32, the dtype of x, got torch.float64",
        ),
        (lambda x: x.bfloat16(), TypeError, r"phi\(x\): expected torch.float32.* of x, got torch.bfloat16"),
        (lambda x: x[:2], ValueError, r"phi\(x\): expected shape \(6, d\), one row.*got \(2, 3\)"),
        (lambda x: x.sum(-1), ValueError, r"phi\(x\): expected at least 2 dimensions"),
        (lambda x: x[:, :0], ValueError, r"phi\(x\): expected rows of at least one feature"),
    ],
)
def test_what_maps_return_is_checked(result, error, message):
    with pytest.raises(error, match=message):
        rkt.relation_matrix(torch.ones(6, 3), None, result)
    with pytest.raises(
        error, match=message.replace("phi", "psi").replace("x\\)", "y\\)").replace("of x", "of y")
    ):
        rkt.relation_matrix(torch.ones(6, 3), torch.ones(6, 3), None, result)


def test_maps_that_an_mlp_does_not_compute_do_not_become_one():
    net, _ = sequential()
    phi, _ = subclass()
    for relation, named in (
        (InnerProductRelation(net), "phi: expected a FeatureMap.*Sequential"),
        (RelationAttention(smooth_map([3, 4]), net), "psi: expected a FeatureMap.*Sequential"),
        (InnerProductRelation(phi), "to_mlp: expected a FeatureMap with the forward.*Normalised"),
        (phi, "to_mlp: expected a FeatureMap with the forward.*Normalised"),
    ):
        with pytest.raises(TypeError, match=named):
            relation.to_mlp()
    with pytest.raises(
        TypeError, match=r"phi: expected a FeatureMap or another torch.nn.Module, got function"
    ):
        InnerProductRelation(lambda x: x)  # its parameters would not be among the module's


def test_hooks_that_would_never_run_are_refused():
    from torch.nn.utils import prune

    phi = smooth_map([3, 5, 4])
    prune.random_unstructured(phi.weights, "0", 0.5)
    with pytest.raises(RuntimeError, match=r"mlp\.weights: .*torch\.nn\.utils\.parametrizations"):
        phi(normal(6, 3))


@pytest.mark.parametrize("activation", [nn.GELU(), nn.LeakyReLU(0.2)])
def test_from_torch(activation):
    net = nn.Sequential(nn.Linear(4, 8), activation, nn.Linear(8, 2, bias=False))
    phi = FeatureMap.from_torch(net)
    x = torch.randn(5, 4)
    torch.testing.assert_close(phi(x), net(x))
    with torch.no_grad():
        net[0].weight.zero_()
    assert phi.weights[0].all()
    assert all(p.requires_grad for p in phi.parameters())
    with pytest.raises(TypeError, match=r"sequential: expected a torch\.nn\.Sequential"):
        FeatureMap.from_torch(nn.Linear(3, 2))


def test_from_torch_refuses_forwards_that_it_would_not_see():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    class Residual(nn.Sequential):
        def forward(self, x):
            return x + super().forward(x)

    for make in (FeatureMap.from_torch, rk.MLP.from_torch):
        with pytest.raises(
            TypeError, match=r"sequential\[0\]: expected the forward of Linear, got .*Doubled"
        ):
            make(nn.Sequential(Doubled(3, 3)))
        with pytest.raises(
            TypeError, match=r"sequential: expected the forward of Sequential, got .*Residual"
        ):
            make(Residual(nn.Linear(3, 3)))


# ---- features of unit length


@pytest.mark.parametrize("widths", [[3, 4], [3, 5, 4], [3, 5, 6, 4]])
@pytest.mark.parametrize("bias", [True, False])
def test_normalize(widths, bias):
    phi = smooth_map(widths, bias=bias)
    unit = FeatureMap.from_mlp(rk.MLP.from_torch(nn.Sequential(nn.Linear(3, 4)), normalize=True))
    assert unit.normalize
    unit = FeatureMap(widths, "tanh", bias=bias, normalize=True, dtype=torch.float64)
    unit.load_state_dict(dict(phi.named_parameters()))
    x = normal(2, 300, 3).requires_grad_()
    plain = F.normalize(plain_map(x, phi), dim=-1)
    above = torch.randn_like(plain)
    want = torch.autograd.grad(plain, [x, *phi.parameters()], above)
    for call in (unit, lambda a: torch.ops.relkernels.feature_map(
        a, list(unit.weights), list(unit.biases or ()), "tanh", None, True
    )):  # fmt: skip
        ours = call(x)
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
        got = torch.autograd.grad(ours, [x, *unit.parameters()], above)
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        assert torch.equal(unit(x), torch.from_numpy(unit.to_mlp()(x.numpy(force=True))))
    assert copy.deepcopy(unit).normalize
    assert repr(FeatureMap([3, 2], normalize=True)) == "FeatureMap(widths=(3, 2), relu, normalized)"


def test_normalize_belongs_to_the_state():
    plain, unit = FeatureMap([3, 5, 4]), FeatureMap([3, 5, 4], normalize=True)
    FeatureMap([3, 5, 4], normalize=True).load_state_dict(unit.state_dict())
    with pytest.raises(ValueError, match=r"state_dict: expected .* activation relu, normalized, got relu"):
        unit.load_state_dict(plain.state_dict())
    with pytest.raises(TypeError, match=r"normalize: expected True or False"):
        FeatureMap([3, 4], normalize="yes")


# ---- state


@pytest.mark.parametrize("strict", [True, False])
def test_state_of_another_activation_is_refused(strict):
    def relation(activation):
        return InnerProductRelation(FeatureMap([3, 5, 4]), FeatureMap([3, 5, 4], activation))

    state = relation("gelu").state_dict()
    relation("gelu").load_state_dict(state)
    for other in ("tanh", "gelu_tanh", rk.leaky_relu(0.1)):
        into = relation(other)
        before = copy.deepcopy(into.psi)
        with pytest.raises(ValueError, match=r"state_dict: expected .* activation .*, got gelu"):
            into.load_state_dict(state, strict=strict)
        assert all(map(torch.equal, into.psi.parameters(), before.parameters()))
    slopes = [FeatureMap([3, 5, 4], rk.leaky_relu(slope)) for slope in (0.1, 0.1, 0.2)]
    slopes[1].load_state_dict(slopes[0].state_dict())
    with pytest.raises(ValueError, match=r"activation leaky_relu\(0\.2\), got leaky_relu\(0\.1\)"):
        slopes[2].load_state_dict(slopes[0].state_dict())


def test_parameters_without_the_activation_are_loaded():
    phi, other = FeatureMap([3, 5, 4]), FeatureMap([3, 5, 4])
    assert phi.load_state_dict(dict(other.named_parameters())) == ([], [])
    assert torch.equal(phi.weights[0], other.weights[0])
    relation = InnerProductRelation(phi, other)
    relation.load_state_dict(dict(InnerProductRelation(other, phi).named_parameters()))


def test_every_way_to_a_file_and_back(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")

    def build():
        return RelationAttention(
            FeatureMap([3, 5, 4], rk.leaky_relu(0.3)), FeatureMap([3, 4]), scale=0.5, learn_scale=True
        )

    model = build()
    x, v = torch.randn(6, 3), torch.randn(6, 2)
    expected = model(x, x, v)
    into = build()
    safetensors.save_model(model, str(tmp_path / "model.safetensors"))
    safetensors.load_model(into, str(tmp_path / "model.safetensors"))
    assert torch.equal(into(x, x, v), expected)
    file, whole = io.BytesIO(), io.BytesIO()
    torch.save(model.state_dict(), file)
    torch.save(model, whole)
    into = build()
    into.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    copies = [
        into,
        torch.load(io.BytesIO(whole.getvalue()), weights_only=False),
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
    ]
    for made in copies:
        assert torch.equal(made(x, x, v), expected)
        assert made.phi.activation == rk.leaky_relu(0.3)
        assert len(list(made.parameters())) == len(list(model.parameters()))
