"""`relkernels.torch`: derivatives and transforms are right or rejected, never silently wrong."""

import subprocess
import sys
import textwrap
import warnings

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
import relkernels.torch as rkt  # noqa: E402
from plain_torch import normal, plain_attention, plain_loss, plain_map, plain_relation, smooth_map  # noqa: E402
from relkernels.torch import InnerProductRelation, RelationAttention  # noqa: E402
from torch.autograd import forward_ad  # noqa: E402
from torch.autograd import functional as AF  # noqa: E402, N812

OPS = torch.ops.relkernels


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(20240213)


def functions():
    """Name -> a function of x (6, 3), ours and plain."""
    phi, psi = smooth_map([3, 5, 4]), smooth_map([3, 5, 4])
    y, v, target = normal(7, 3), normal(7, 2), torch.rand(6, 7, dtype=torch.float64)
    return {
        "feature_map": (phi, lambda x: plain_map(x, phi)),
        "symmetric": (lambda x: rkt.relation_matrix(x, None, phi), lambda x: plain_relation(x, None, phi)),
        "two maps": (lambda x: rkt.relation_matrix(x, y, phi, psi), lambda x: plain_relation(x, y, phi, psi)),
        "features": (lambda x: rkt.relation_matrix(x, y), lambda x: plain_relation(x, y)),
        "features themselves": (rkt.relation_matrix, plain_relation),
        "attention": (
            lambda x: rkt.attention(x, y, v, phi, psi),
            lambda x: plain_attention(x, y, v, phi, psi),
        ),
        "attention of features": (lambda x: rkt.attention(x, y, v), lambda x: plain_attention(x, y, v)),
        "loss": (
            lambda x: rkt.relation_loss(x, y, target, phi, psi),
            lambda x: plain_loss(plain_relation(x, y, phi, psi), target),
        ),
        "loss of features": (
            lambda x: rkt.relation_loss(x, y, target),
            lambda x: plain_loss(plain_relation(x, y), target),
        ),
    }


NAMES = list(functions())
FEATURES = ("features", "features themselves", "attention of features", "loss of features")  # no map


def tangent(f, x):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(x, torch.ones_like(x)))).tangent


FORWARD = {
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),)),
    "jacfwd": lambda f, x: torch.func.jacfwd(f)(x),
    "linearize": lambda f, x: torch.func.linearize(f, x),
    "forward_ad": tangent,
    "forward_ad of a leaf": lambda f, x: tangent(f, x.clone().requires_grad_()),
    "without grad": lambda f, x: torch.no_grad()(tangent)(f, x),
    "gradcheck": lambda f, x: torch.autograd.gradcheck(f, x.clone().requires_grad_(), check_forward_ad=True),
    "jacobian": lambda f, x: AF.jacobian(f, x, vectorize=True, strategy="forward-mode"),
    "hessian by jvp": lambda f, x: torch.func.jvp(
        torch.func.grad(lambda a: f(a).square().sum()), (x,), (torch.ones_like(x),)
    ),
}
FUNCTORCH = {
    "grad": lambda f, x: torch.func.grad(lambda a: f(a).square().sum())(x),
    "vjp": lambda f, x: torch.func.vjp(f, x),
    "jacrev": lambda f, x: torch.func.jacrev(f)(x),
    "hessian": lambda f, x: torch.func.hessian(lambda a: f(a).square().sum())(x),
    "a gradient for each": lambda f, x: torch.vmap(torch.func.grad(lambda a: f(a).sum()))(x.expand(2, 6, 3)),
}
SECOND = {
    "hvp": lambda f, x: AF.hvp(lambda a: f(a).square().sum(), x, torch.ones_like(x)),
    "vhp": lambda f, x: AF.vhp(lambda a: f(a).square().sum(), x, torch.ones_like(x)),
    "jvp by two backwards": lambda f, x: AF.jvp(f, x, torch.ones_like(x)),
    "hessian": lambda f, x: AF.hessian(lambda a: f(a).square().sum(), x),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", FORWARD)
def test_forward_mode_is_refused(how, name):
    with pytest.raises(NotImplementedError, match=r"relkernels\.torch: .* are not provided"):
        FORWARD[how](functions()[name][0], normal(6, 3))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", FUNCTORCH)
def test_transforms_are_refused(how, name):
    expected = r"relkernels\.torch: torch\.(func\.grad|vmap).* not provided \(PyTorch does not support"
    with pytest.raises(NotImplementedError, match=expected):
        FUNCTORCH[how](functions()[name][0], normal(6, 3))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", SECOND)
def test_second_derivatives_are_refused(how, name):
    with pytest.raises(RuntimeError, match=r"relkernels\.torch: second derivatives are not provided"):
        SECOND[how](functions()[name][0], normal(6, 3))


@pytest.mark.parametrize("of", ["phi", "psi", "scale"])
def test_parameters_too(of):
    x, v = normal(6, 3), normal(6, 2)
    phi, psi = smooth_map([3, 5, 4]), smooth_map([3, 5, 4])
    scale = torch.tensor(0.5, dtype=torch.float64)
    relation = InnerProductRelation(phi, psi, scale=0.5, learn_scale=True)
    attend = RelationAttention(phi, psi, scale=0.5, learn_scale=True)
    calls = [(relation, (x,)), (attend, (x, x, v))]
    if of == "scale":
        calls.append((lambda scale: rkt.relation_loss(x, None, torch.arange(6), phi, scale=scale), None))
    for call, inputs in calls:
        if inputs is None:
            function, primal = call, scale
        else:
            chosen = {n: p.detach() for n, p in call.named_parameters() if n.startswith((of, f"log_{of}"))}
            name, primal = next(iter(chosen.items()))

            def function(p, call=call, inputs=inputs, name=name):
                return torch.func.functional_call(call, {name: p}, inputs)

        with pytest.raises(NotImplementedError, match=r"relkernels\.torch: forward-mode"):
            torch.func.jvp(function, (primal,), (torch.ones_like(primal),))
        with pytest.raises(NotImplementedError, match=r"relkernels\.torch: forward-mode"):
            tangent(function, primal)
        with pytest.raises(NotImplementedError, match=r"relkernels\.torch: torch\.func\.grad"):
            torch.func.grad(lambda p, f=function: f(p).sum())(primal)


def test_what_is_constant_for_a_transform_passes():
    phi = smooth_map([3, 5, 4])
    x = normal(6, 3)
    with torch.no_grad():
        features = plain_relation(x, None, phi)

    def loss(w):
        return (w * rkt.relation_matrix(x, None, phi).detach()).sum()

    torch.testing.assert_close(torch.func.grad(loss)(torch.ones(6, 6, dtype=x.dtype)), features)
    with forward_ad.dual_level():
        w = forward_ad.make_dual(torch.ones_like(features), torch.ones_like(features))
        torch.testing.assert_close(forward_ad.unpack_dual(loss(w)).tangent, features.sum())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_is_right_or_refused(name):
    ours, plain = functions()[name]
    batch = normal(3, 6, 3)
    if name not in FEATURES:
        with pytest.raises(
            NotImplementedError, match=r"relkernels\.torch: torch\.vmap over feature_map is not"
        ):
            torch.vmap(ours)(batch)
    else:
        torch.testing.assert_close(torch.vmap(ours)(batch), torch.stack([plain(x) for x in batch]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_jacobians_are_right_or_refused(name):
    ours, plain = functions()[name]
    x = normal(6, 3)
    expected = AF.jacobian(plain, x)
    torch.testing.assert_close(AF.jacobian(ours, x), expected)
    if name not in FEATURES:
        with pytest.raises(
            NotImplementedError, match=r"relkernels\.torch: torch\.vmap over feature_map_vjp is"
        ):
            AF.jacobian(ours, x, vectorize=True)
    else:
        torch.testing.assert_close(AF.jacobian(ours, x, vectorize=True), expected)


@pytest.mark.parametrize("name", NAMES)
def test_modes_that_change_nothing(name):
    ours, plain = functions()[name]
    x = normal(6, 3)
    expected = plain(x)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), expected)
        torch.testing.assert_close(ours(x.clone()), expected)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(ours(x), expected)
    with torch.device("meta"):  # for tensors that the functions create
        torch.testing.assert_close(ours(x), expected)


@pytest.mark.parametrize("name", NAMES)
def test_views_with_lazy_bits_and_subclasses(name):
    class Tagged(torch.Tensor):
        pass

    ours, plain = functions()[name]
    negated = torch.randn(6, 3, dtype=torch.complex128).conj().imag
    assert negated.is_neg()
    for x in (negated, normal(6, 3).as_subclass(Tagged)):
        x = x.detach().requires_grad_()
        value, expected = ours(x), plain(x)
        torch.testing.assert_close(value.as_subclass(torch.Tensor), expected.as_subclass(torch.Tensor))
        (got,) = torch.autograd.grad(value.sum(), x)
        (grad,) = torch.autograd.grad(expected.sum(), x)
        torch.testing.assert_close(got.as_subclass(torch.Tensor), grad.as_subclass(torch.Tensor))


def test_neither_import_nor_first_calls_import_dynamo():
    """It takes 2 s and 70 MiB, in the first request of a service."""
    code = """
        import sys, torch
        import relkernels.torch as rkt
        assert "torch._dynamo" not in sys.modules, "at import"
        x = torch.randn(5, 3)
        phi = rkt.FeatureMap([3, 5, 4])
        rkt.InnerProductRelation(phi, learn_scale=True)(x).sum().backward()
        rkt.RelationAttention(phi)(x, x, x).sum().backward()
        rkt.relation_loss(x, None, torch.arange(5), phi).backward()
        assert "torch._dynamo" not in sys.modules, "at the first calls"
        compiled = torch.compile(phi, backend="eager", fullgraph=True)
        assert torch.equal(compiled(x), phi(x))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_kernels_are_not_traced_where_a_graph_is_broken():
    @torch.compiler.disable(recursive=False)
    def model(x):
        return OPS.relation_matrix(x, None, torch.ones((), dtype=torch.float64), 1)

    def calls(x):
        return model(x)

    torch._dynamo.reset()
    x = normal(6, 3)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Dynamo does not know how to trace the builtin .*relkernels")
        value = torch.compile(calls, backend="eager")(x)
    torch.testing.assert_close(value, x @ x.T)
