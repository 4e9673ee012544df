"""`relkernels.torch`: modes and subclasses of PyTorch, and what its first call imports."""

import subprocess
import sys
import textwrap
import warnings

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
import relkernels.torch as rkt  # noqa: E402
from plain_torch import normal, plain_attention, plain_loss, plain_map, plain_relation, smooth_map  # noqa: E402
from torch.autograd import forward_ad  # noqa: E402

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
