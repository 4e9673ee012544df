"""`relkernels.torch`: forward mode, the transforms of `torch.func` and second derivatives, against plain PyTorch."""

import pytest
import relkernels as rk

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
import relkernels.torch as rkt  # noqa: E402
from plain_torch import PLAIN, normal, plain_attention, plain_loss, plain_map, plain_relation, smooth_map  # noqa: E402
from relkernels.torch import FeatureMap  # noqa: E402
from torch import func  # noqa: E402
from torch.autograd import forward_ad  # noqa: E402
from torch.autograd import functional as AF  # noqa: E402, N812


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(20240213)


def plain_retrieved(x, y, k):
    return plain_relation(x, y).sort(dim=-1, descending=True)[0][..., :k]


def functions():
    """Name -> a function of x (6, 3), ours and plain."""
    phi, psi = smooth_map([3, 5, 4]), smooth_map([3, 5, 4])
    y, v, target = normal(7, 3), normal(7, 2), torch.rand(6, 7, dtype=torch.float64)
    mask = torch.rand(6, 7) < 0.7
    return {
        "feature_map": (phi, lambda x: plain_map(x, phi)),
        "symmetric": (lambda x: rkt.relation_matrix(x, None, phi), lambda x: plain_relation(x, None, phi)),
        "two maps": (lambda x: rkt.relation_matrix(x, y, phi, psi), lambda x: plain_relation(x, y, phi, psi)),
        "features": (lambda x: rkt.relation_matrix(x, y), lambda x: plain_relation(x, y)),
        "features themselves": (rkt.relation_matrix, plain_relation),
        "matvec": (
            lambda x: rkt.relation_matvec(x, y, v, link="square", scale=0.3),
            lambda x: plain_relation(x, y, scale=0.3).square() @ v,
        ),
        "attention": (
            lambda x: rkt.attention(x, y, v, phi, psi, mask=mask),
            lambda x: plain_attention(x, y, v, phi, psi, mask=mask),
        ),
        "attention of features": (
            lambda x: rkt.attention(x, y, v, causal=True),
            lambda x: plain_attention(x, y, v, causal=True),
        ),
        "scores": (
            lambda x: rkt.attention_scores(x, y, causal=True, mask=mask),
            lambda x: plain_attention(x, y, torch.eye(7, dtype=x.dtype), causal=True, mask=mask),
        ),
        "retrieve": (lambda x: rkt.retrieve(x, y, 3)[0], lambda x: plain_retrieved(x, y, 3)),
        "loss": (
            lambda x: rkt.relation_loss(x, y, target, phi, psi),
            lambda x: plain_loss(plain_relation(x, y, phi, psi), target),
        ),
        "loss of features": (
            lambda x: rkt.relation_loss(x, y, target, loss="softmax"),
            lambda x: plain_loss(plain_relation(x, y), target, "softmax"),
        ),
    }


NAMES = list(functions())


def tangent(f, x):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(x, torch.ones_like(x)))).tangent


def squares(f):
    return lambda x: f(x).square().sum()


WAYS = {
    "jvp": lambda f, x: func.jvp(f, (x,), (torch.ones_like(x),)),
    "jacfwd": lambda f, x: func.jacfwd(f)(x),
    "linearize": lambda f, x: func.linearize(f, x)[1](torch.ones_like(x)),
    "forward_ad": tangent,
    "forward_ad of a leaf": lambda f, x: tangent(f, x.clone().requires_grad_()),
    "without grad": lambda f, x: torch.no_grad()(tangent)(f, x),
    "jacobian in forward mode": lambda f, x: AF.jacobian(f, x, vectorize=True, strategy="forward-mode"),
    "grad": lambda f, x: func.grad(squares(f))(x),
    "vjp": lambda f, x: func.vjp(f, x)[1](torch.ones_like(f(x))),
    "jacrev": lambda f, x: func.jacrev(f)(x),
    "hessian": lambda f, x: func.hessian(squares(f))(x),
    "hessian by grads": lambda f, x: func.jacrev(func.grad(squares(f)))(x),
    "a gradient for each": lambda f, x: torch.vmap(func.grad(squares(f)))(torch.stack([x, 2 * x])),
    "grad of vmap": lambda f, x: func.grad(squares(torch.vmap(f)))(torch.stack([x, 2 * x])),
    "vmap": lambda f, x: torch.vmap(f)(torch.stack([x, 2 * x, -x])),
    "vmap of vmap": lambda f, x: torch.vmap(torch.vmap(f))(torch.stack([x, 2 * x, -x])[:, None]),
    "gradient of vmap": lambda f, x: AF.vjp(squares(torch.vmap(f)), torch.stack([x, 2 * x]))[1],
    "vmap of a gradient": lambda f, x: vmapped_gradient(f, x.clone().requires_grad_()),
    "tangent of a gradient": lambda f, x: gradients_tangent(f, x.clone().requires_grad_()),
    "jacobian": AF.jacobian,
    "hvp": lambda f, x: AF.hvp(squares(f), x, torch.ones_like(x)),
    "vhp": lambda f, x: AF.vhp(squares(f), x, torch.ones_like(x)),
    "jvp by two backwards": lambda f, x: AF.jvp(f, x, torch.ones_like(x)),
    "hessian by two backwards": lambda f, x: AF.hessian(squares(f), x),
    "third": lambda f, x: AF.hvp(lambda a: AF.hvp(squares(f), a, torch.ones_like(a), create_graph=True)[1].sum(),
                                 x, torch.ones_like(x)),
}  # fmt: skip


def vmapped_gradient(f, x):
    value = f(x)
    above = torch.stack([torch.ones_like(value), torch.arange(value.numel()).reshape(value.shape).to(value)])
    return torch.vmap(lambda a: torch.autograd.grad(value, x, a)[0])(above)


def gradients_tangent(f, x):
    value = f(x)
    above = torch.ones_like(value)
    return func.jvp(lambda a: torch.autograd.grad(value, x, a)[0], (above,), (2 * above,))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", WAYS)
@pytest.mark.filterwarnings("error:There is a performance drop")
def test_every_way_of_differentiating(how, name):
    ours, plain = functions()[name]
    x = normal(6, 3)
    torch.testing.assert_close(WAYS[how](ours, x), WAYS[how](plain, x), rtol=1e-9, atol=1e-9)
