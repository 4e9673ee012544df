"""`relkernels.torch`: modules under every kind of update, state and copies, and bad input."""

import copy
import doctest
import importlib
import inspect
import io
import math

import numpy as np
import pytest
import relkernels as rk

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
import relkernels.torch as rkt  # noqa: E402
from plain_torch import normal, plain_map, plain_relation, smooth_map  # noqa: E402
from relkernels.torch import FeatureMap, InnerProductRelation, RelationAttention  # noqa: E402
from torch import nn  # noqa: E402


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(20240213)


def test_public_names_are_documented_and_their_examples_run():
    for name in rkt.__all__:
        assert "Examples\n--------" in inspect.getdoc(getattr(rkt, name)), name
    for module in ("maps", "relations", "modules", "losses"):
        result = doctest.testmod(importlib.import_module(f"relkernels.torch.{module}"))
        assert result.attempted > 0
        assert result.failed == 0


def test_random_weights_are_scaled_as_those_of_an_mlp():
    he, lecun = FeatureMap([400, 500, 500]), FeatureMap([400, 500, 500], "tanh")
    assert he.weights[0].var().item() * 400 == pytest.approx(2, rel=0.02)
    assert he.weights[1].var().item() * 500 == pytest.approx(1, rel=0.02)
    assert lecun.weights[0].var().item() * 400 == pytest.approx(1, rel=0.02)
    assert not any(b.any() for b in he.biases)
    torch.manual_seed(3)
    first = FeatureMap([4, 8, 2])
    torch.manual_seed(3)
    assert torch.equal(first.weights[1], FeatureMap([4, 8, 2]).weights[1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["gelu", rk.relu_power(1.5)], ids=str)
def test_from_and_to_mlp(activation, bias, dtype):
    mlp = rk.MLP.random([3, 6, 2], activation, seed=5, dtype=dtype, bias=bias)
    module = FeatureMap.from_mlp(mlp)
    back = module.to_mlp()
    assert back.activation == mlp.activation
    assert back.dtype == mlp.dtype
    assert module.widths == back.widths == mlp.widths
    assert (back.biases is None) == (not bias)
    for a, b in zip(mlp.weights + (mlp.biases or ()), back.weights + (back.biases or ()), strict=True):
        np.testing.assert_array_equal(a, b)
    with torch.no_grad():
        module.weights[0].zero_()
    assert mlp.weights[0].all()
    assert back.weights[0].all()
    assert repr(module).startswith("FeatureMap(widths=(3, 6, 2), ")


def test_maps_of_the_relations_go_back_to_mlps():
    phi, psi = rk.MLP.random([3, 6, 2], random_state=0), rk.MLP.random([4, 6, 2], random_state=0)
    one, two = InnerProductRelation.from_mlp(phi), RelationAttention.from_mlp(phi, psi)
    first, second = one.to_mlp()
    assert first is second
    assert [m.widths for m in two.to_mlp()] == [(3, 6, 2), (4, 6, 2)]
    assert InnerProductRelation.from_mlp(phi, phi).symmetric
    assert not InnerProductRelation.from_mlp(phi, psi).symmetric


def test_state_dict_and_copies():
    shared = FeatureMap([3, 6, 4])
    assert list(InnerProductRelation(shared, shared).state_dict()) == [
        "phi._extra_state",
        "phi.weights.0",
        "phi.weights.1",
        "phi.biases.0",
        "phi.biases.1",
    ]
    model = RelationAttention(FeatureMap([3, 6, 4]), FeatureMap([2, 4]))
    twin = RelationAttention(FeatureMap([3, 6, 4]), FeatureMap([2, 4]))
    q, k, v = torch.randn(5, 3), torch.randn(7, 2), torch.randn(7, 2)
    assert not torch.equal(model(q, k, v), twin(q, k, v))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    twin.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(model(q, k, v), twin(q, k, v))
    clone = copy.deepcopy(model)
    with torch.no_grad():
        clone.phi.weights[0].zero_()
    assert not torch.equal(model(q, k, v), clone(q, k, v))
    assert torch.equal(model(q, k, v), twin(q, k, v))
    assert torch.equal(model.eval()(q, k, v), model.train()(q, k, v))
    with pytest.raises(RuntimeError, match="size mismatch"):
        twin.load_state_dict(RelationAttention(FeatureMap([3, 5, 4]), FeatureMap([2, 4])).state_dict())
    assert model.double()(q.double(), k.double(), v.double()).dtype == torch.float64


@pytest.mark.parametrize("update", ["in place", "data", "numpy", "load", "assign"])
def test_every_change_of_a_parameter_is_seen(update):
    """Including changes that a tensor's version counter does not count."""
    phi = FeatureMap([3, 6, 4])
    x = torch.randn(5, 3)
    phi(x).sum().backward()
    other = FeatureMap([3, 6, 4])
    new = other.weights[1].detach()
    if update == "in place":
        with torch.no_grad():
            phi.weights[1].copy_(new)
    elif update == "data":
        phi.weights[1].data.copy_(new)
    elif update == "numpy":
        phi.weights[1].detach().numpy()[...] = new.numpy()
    elif update == "load":
        phi.load_state_dict(phi.state_dict() | {"weights.1": new})
    else:
        phi.weights[1] = nn.Parameter(new.clone())
    torch.testing.assert_close(phi(x), plain_map(x, phi))
    got = torch.autograd.grad(phi(x).sum(), list(phi.parameters()))
    for a, b in zip(got, torch.autograd.grad(plain_map(x, phi).sum(), list(phi.parameters())), strict=True):
        torch.testing.assert_close(a, b)


OPTIMISERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "fused adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_training_follows_plain_pytorch(name):
    """The same losses in each step: each forward pass uses the optimiser's last update."""
    ours = InnerProductRelation(smooth_map([4, 16, 8]))
    plain = copy.deepcopy(ours)
    x = normal(40, 4)
    target = (x[:, None] - x[None]).square().sum(-1).neg().exp()

    def losses(parameters, relation):
        optimiser = OPTIMISERS[name](parameters)
        values = []

        def closure():
            optimiser.zero_grad()
            loss = (relation() - target).square().mean()
            loss.backward()
            values.append(loss.item())
            return loss

        for _ in range(10):
            optimiser.step(closure)
        return values

    got = losses(ours.parameters(), lambda: ours(x))
    expected = losses(plain.parameters(), lambda: plain_relation(x, None, plain.phi))
    np.testing.assert_allclose(got, expected, rtol=1e-7)
    assert got[-1] < got[0]


# ---- bad input


def test_bad_tensors_are_named():
    phi = FeatureMap([3, 6, 4])
    x, y, v = torch.randn(5, 3), torch.randn(7, 3), torch.randn(7, 2)
    double = FeatureMap([3, 6, 4], dtype=torch.float64)
    cases = [
        (TypeError, "x: expected a torch.Tensor.*an array", lambda: phi(x.numpy())),
        (ValueError, r"mlp\.weights\[0\]: expected a tensor on meta, as x is", lambda: phi(x.to("meta"))),
        (TypeError, "x: expected float32, float64, bfloat16 or float16, got .*int64", lambda: phi(x.long())),
        (TypeError, "x: expected a dense tensor, got .*sparse", lambda: phi(x.to_sparse())),
        (TypeError, r"mlp\.weights\[0\]: expected torch.float32.*of x, got torch.float64", lambda: double(x)),
        (
            ValueError,
            r"mlp\.weights\[0\]: expected a tensor on cpu, as x is, got one on meta",
            lambda: copy.deepcopy(phi).to("meta")(x),
        ),
        (
            TypeError,
            "mlp: expected a FeatureMap or .*, got MLP.*from_mlp",
            lambda: rkt.feature_map(x, phi.to_mlp()),
        ),
        (ValueError, r"x: expected rows of 3 features.*got \(5, 4\)", lambda: phi(torch.randn(5, 4))),
        (ValueError, "x: expected at least 2 dimensions", lambda: phi(x[0])),
        (ValueError, "x: expected rows of at least one feature", lambda: rkt.relation_matrix(x[:, :0])),
        (TypeError, "y: expected torch.float32", lambda: rkt.relation_matrix(x, y.double())),
        (
            TypeError,
            "psi: expected a FeatureMap or another .* or None",
            lambda: rkt.relation_matrix(x, y, phi, x),
        ),
        (
            ValueError,
            "y: expected features as wide as those of x, 4.*got 2",
            lambda: rkt.relation_matrix(x, y, phi, FeatureMap([3, 2])),
        ),
        (
            ValueError,
            "y: expected rows of 3 features, the input of phi",
            lambda: rkt.relation_matrix(x, y[:, :2], phi),
        ),
        (
            ValueError,
            r"x: expected leading dim.*\(2, 5, 3\).*\(3, 5, 3\)",
            lambda: rkt.relation_matrix(x.expand(2, 5, 3), x.expand(3, 5, 3)),
        ),
        (ValueError, "heads: expected a divisor", lambda: rkt.relation_matrix(x, heads=2)),
        (ValueError, "scale: expected a finite number", lambda: rkt.relation_matrix(x, scale=math.nan)),
        (ValueError, r"v: expected 7 rows.*\(7, 3\), got \(5, 3\)", lambda: rkt.attention(x, y, x)),
        (TypeError, "v: expected torch.float32", lambda: rkt.attention(x, y, v.double())),
        (TypeError, "mask: expected a boolean array", lambda: rkt.attention(x, y, v, mask=torch.ones(5, 7))),
        (
            ValueError,
            r"mask: expected a shape.*\(\.\.\., 5, 7\), got \(7, 5\)",
            lambda: rkt.attention(x, y, v, mask=torch.ones(7, 5, dtype=torch.bool)),
        ),
        (
            TypeError,
            "mask: expected a tensor on cpu, as q is",
            lambda: rkt.attention(x, y, v, mask=torch.ones(5, 7, dtype=torch.bool, device="meta")),
        ),
        (TypeError, "causal: expected True or False", lambda: rkt.attention(x, y, v, causal=1)),
    ]
    for error, message, call in cases:
        with pytest.raises(error, match=message):
            call()


def test_bad_arguments_of_the_loss_are_named():
    x, y, labels = torch.randn(5, 3), torch.randn(7, 3), torch.arange(5)
    values = torch.rand(5, 7)

    def loss(target, y=None, **options):
        return rkt.relation_loss(x, y, target, **options)

    cases = [
        (TypeError, "target: expected a torch.Tensor, got list", lambda: loss([1, 2])),
        (TypeError, r"target\[1\]: expected a torch.Tensor", lambda: loss((labels, 1), y)),
        (TypeError, "target: expected a tensor on cpu, as x is", lambda: loss(labels.to("meta"))),
        (TypeError, "target: expected .* no gradient", lambda: loss(values.requires_grad_(), y)),
        (TypeError, "target: expected float32", lambda: loss(values.detach().double(), y)),
        (ValueError, r"target: expected labels of shape \(5,\), got \(3,\)", lambda: loss(labels[:3])),
        (ValueError, "target: expected labels of both sides, a pair", lambda: loss(labels, y)),
        (ValueError, r"target: expected a shape that broadcasts to \(5, 5\)", lambda: loss(values.detach())),
        (ValueError, r"target\[1\]: expected labels of shape \(7,\)", lambda: loss((labels, labels), y)),
        (ValueError, "sample_weight: expected shape", lambda: loss(labels, sample_weight=torch.ones(4))),
        (ValueError, "loss: expected one of", lambda: loss(labels, loss="cosine")),
        (ValueError, "x: expected 2 dimensions", lambda: rkt.relation_loss(x[None], None, labels)),
        (ValueError, "y: expected at least one row", lambda: loss(values.detach(), y[:0])),
    ]
    for error, message, call in cases:
        with pytest.raises(error, match=message):
            call()


def test_bad_modules_are_named():
    phi = FeatureMap([3, 6, 4])
    cases = [
        (TypeError, "phi: expected a FeatureMap or .*, got MLP", lambda: InnerProductRelation(phi.to_mlp())),
        (TypeError, "phi: expected a FeatureMap or .*, got NoneType", lambda: RelationAttention(None)),
        (TypeError, "phi: expected a relkernels.MLP", lambda: InnerProductRelation.from_mlp(phi)),
        (
            ValueError,
            "psi: expected 4 features, as many as phi gives, got 2",
            lambda: RelationAttention(phi, FeatureMap([3, 2])),
        ),
        (ValueError, "heads: expected a divisor", lambda: InnerProductRelation(phi, heads=3)),
        (ValueError, "scale: expected a finite", lambda: RelationAttention(phi, scale=math.inf)),
        (TypeError, "causal: expected True", lambda: RelationAttention(phi, causal="yes")),
        (TypeError, "widths: expected a sequence", lambda: FeatureMap(3)),
        (ValueError, "widths: expected at least an input", lambda: FeatureMap([3])),
        (ValueError, r"widths\[1\]: expected an integer >= 1", lambda: FeatureMap([3, 0])),
        (ValueError, "activation: expected one of", lambda: FeatureMap([3, 2], "swish")),
        (
            TypeError,
            "dtype: expected torch.float32 or torch.float64",
            lambda: FeatureMap([3, 2], dtype=torch.half),
        ),
        (TypeError, "bias: expected True or False", lambda: FeatureMap([3, 2], bias=None)),
    ]
    for error, message, call in cases:
        with pytest.raises(error, match=message):
            call()


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1000, 1000)),
        [1.0] * 1_000_000,
        "x" * 1_000_000,
        10**400,
        {"x": 1},
        None,
        object(),
        torch.zeros(3, 4, dtype=torch.int64),
        torch.zeros(3, 4, dtype=torch.complex64),
        torch.zeros(3, 4).to_sparse(),
        rk.MLP.random([3, 4], seed=0),
    ],
    ids=lambda a: type(a).__name__,
)
def test_messages_are_short_and_name_the_argument(wrong):
    x, labels = torch.randn(5, 3), torch.arange(5)
    calls = {
        "x": lambda: rkt.relation_matrix(wrong),
        "q": lambda: rkt.attention(wrong, x, x),
        "k": lambda: rkt.attention(x, wrong, x),
        "v": lambda: rkt.attention(x, x, wrong),
        "target": lambda: rkt.relation_loss(x, None, wrong),
        "mlp": lambda: rkt.feature_map(x, wrong),
    }
    if wrong is not None:
        calls |= {
            "y": lambda: rkt.relation_matrix(x, wrong),
            "phi": lambda: rkt.relation_matrix(x, None, wrong),
            "psi": lambda: rkt.relation_matrix(x, None, None, wrong),
            "mask": lambda: rkt.attention(x, x, x, mask=wrong),
            "sample_weight": lambda: rkt.relation_loss(x, None, labels, sample_weight=wrong),
        }
    for name, call in calls.items():
        with pytest.raises((TypeError, ValueError)) as caught:
            call()
        message = str(caught.value)
        assert message.startswith(name)
        assert len(message) < 500, message[:600]
