"""`relkernels.torch`: forward mode, the transforms of `torch.func` and second derivatives."""

import pytest
import relkernels as rk

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
import relkernels.torch as rkt  # noqa: E402
from plain_torch import (  # noqa: E402
    PLAIN,
    normal,
    plain_attention,
    plain_loss,
    plain_map,
    plain_relation,
    smooth_map,
)
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
    mask[:, 0] = True
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
    "third derivative": lambda f, x: AF.hvp(along_hessian(f), x, torch.ones_like(x)),
}
# The others are combinations of these: one function with a map and one without are enough.
FEW = ("feature_map", "attention of features")
OF_ALL = ("jvp", "jacrev", "hessian", "vmap", "gradient of vmap", "vmap of a gradient", "hvp")


def along_hessian(f):
    return lambda x: AF.hvp(squares(f), x, torch.ones_like(x), create_graph=True)[1].sum()


def vmapped_gradient(f, x):
    value = f(x)
    above = torch.stack([torch.ones_like(value), torch.arange(value.numel()).reshape(value.shape).to(value)])
    return torch.vmap(lambda a: torch.autograd.grad(value, x, a)[0])(above)


def gradients_tangent(f, x):
    value = f(x)
    above = torch.ones_like(value)
    return func.jvp(lambda a: torch.autograd.grad(value, x, a)[0], (above,), (2 * above,))


@pytest.mark.parametrize(
    ("how", "name"),
    [
        pytest.param(how, name, marks=[] if how in OF_ALL or name in FEW else pytest.mark.slow)
        for how in WAYS
        for name in NAMES
    ],
)
@pytest.mark.filterwarnings("error:There is a performance drop")
def test_every_way_of_differentiating(how, name):
    ours, plain = functions()[name]
    x = normal(6, 3)
    torch.testing.assert_close(WAYS[how](ours, x), WAYS[how](plain, x), rtol=1e-9, atol=1e-9)


def test_the_tangent_of_a_relation():
    x, t = normal(6, 3), normal(6, 3)
    value, of_value = func.jvp(rkt.relation_matrix, (x,), (t,))
    torch.testing.assert_close(value, x @ x.T)
    torch.testing.assert_close(of_value, t @ x.T + x @ t.T)


def options():
    """Name -> a function and its inputs that have derivatives."""
    x, y, v, bias = normal(5, 4), normal(6, 4), normal(6, 2), normal(5, 6)
    scale, mask = torch.tensor(0.6, dtype=torch.float64), torch.rand(5, 6) < 0.7
    mask[2] = False
    cases = {}
    for name in (n for n in PLAIN if n != "relu_power"):
        cases[f"activation {name}"] = mapping(FeatureMap([4, 3, 2], name, dtype=x.dtype), x)
    power = rk.relu_power(2.5)
    cases["activation relu_power"] = mapping(FeatureMap([4, 3, 2], power, dtype=x.dtype), x)
    unit = FeatureMap([4, 3, 2], "tanh", normalize=True, bias=False, dtype=x.dtype)
    cases["normalize"] = mapping(unit, x)
    for link in rk.ops.LINKS:
        cases[f"link {link}"] = (
            (lambda x, y, s, k=link: rkt.relation_matrix(x, y, link=k, scale=s)),
            x,
            y,
            scale,
        )
        cases[f"product {link}"] = (
            (lambda x, y, v, s, k=link: rkt.relation_matvec(x, y, v, link=k, scale=s)), x, y, v, scale,
        )  # fmt: skip
    near = x.clone()
    near[3] = near[1]
    for link in ("gaussian", "matern32", "matern52"):  # a distance of 0 off the diagonal too
        cases[f"link {link} of x"] = (
            (lambda x, s, k=link: rkt.relation_matrix(x, link=k, scale=s)),
            near,
            scale,
        )
    cases["heads"] = (lambda x, y, s: rkt.relation_matrix(x, y, heads=2, scale=s)), x, y, scale
    cases["heads of x"] = (lambda x, s: rkt.relation_matrix(x, heads=2, scale=s)), x, scale
    cut = torch.where(torch.rand(5, 6) < 0.2, -torch.inf, 0.0)
    cuts = torch.tensor([0, 2, 2, 5]), torch.tensor([0, 3, 4, 6])
    for name, given in {
        "mask": {"mask": mask},
        "causal": {"causal": True},
        "window": {"window": (1, 2)},
        "align": {"causal": True, "window": 2, "align": "lower_right"},
        "softcap": {"softcap": 1.5},
    }.items():
        cases[f"scores, {name}"] = (
            (lambda x, y, s, b, o=given: rkt.attention_scores(x, y, scale=s, bias=b, **o)), x, y, scale, bias,
        )  # fmt: skip
        cases[f"attention, {name}"] = (
            (lambda x, y, v, s, b, o=given: rkt.attention(x, y, v, scale=s, bias=b + cut, **o)),
            x, y, v, scale, bias,
        )  # fmt: skip
    cases["lse"] = (lambda x, y, v, s: rkt.attention(x, y, v, scale=s, return_lse=True)), x, y, v, scale
    for align in ("upper_left", "lower_right"):
        ragged = {"q_offsets": cuts[0], "k_offsets": cuts[1], "causal": True, "align": align}
        cases[f"ragged, {align}"] = (lambda x, y, v, o=ragged: rkt.attention(x, y, v, **o)), x, y, v
    heads = normal(4, 5, 3), normal(2, 6, 3), normal(2, 6, 3)
    cases["grouped"] = (lambda q, k, v: rkt.attention(q, k, v, enable_gqa=True)), *heads
    exclude = torch.tensor([0, 2, -1, 1, 5])
    cases["retrieve"] = (lambda x, y: rkt.retrieve(x, y, 3, exclude=exclude)[0]), x, y
    target, labels = torch.rand(5, 6).double(), (torch.arange(5) % 3, torch.arange(6) % 3)
    weight = torch.rand(5, 6).double()
    for loss in ("squared", "logistic", "hinge", "softmax"):
        per = {"sample_weight": weight[:, 0] if loss == "softmax" else weight, "loss": loss}
        cases[f"loss {loss}"] = (
            (lambda x, y, s, o=per: rkt.relation_loss(x, y, target, scale=s, **o)),
            x,
            y,
            scale,
        )
        cases[f"loss {loss} of labels"] = (
            (lambda x, y, s, k=loss: rkt.relation_loss(x, y, labels, scale=s, loss=k)), x, y, scale,
        )  # fmt: skip
        cases[f"loss {loss} of x"] = (
            (lambda x, s, k=loss: rkt.relation_loss(x, None, labels[0], scale=s, loss=k)), x, scale,
        )  # fmt: skip
    return cases


def mapping(phi, x):
    names = [name for name, _ in phi.named_parameters()]

    def mapped(x, *parameters):
        return func.functional_call(phi, dict(zip(names, parameters, strict=True)), x)

    return mapped, x, *(p.detach() for p in phi.parameters())


@pytest.mark.parametrize("name", list(options()))
def test_formulas_agree_with_kernels(name):
    f, *inputs = options()[name]
    leaves = [a.clone().requires_grad_() for a in inputs]
    value = f(*leaves)
    formula, pull = func.vjp(f, *inputs)
    torch.testing.assert_close(formula, value)
    above = (
        torch.randn_like(value) if isinstance(value, torch.Tensor) else tuple(map(torch.randn_like, value))
    )
    torch.testing.assert_close(pull(above), torch.autograd.grad(value, leaves, above))
    given = tuple(a.clone().requires_grad_() for a in inputs)
    torch.autograd.gradcheck(f, given, fast_mode=True, check_forward_ad=True)
    torch.autograd.gradgradcheck(f, given, fast_mode=True)


def batches():
    """Name -> a function, inputs and the dimensions that may be batched."""
    phi, target = smooth_map([3, 4, 2]), torch.rand(5, 6).double()
    names = [name for name, _ in phi.named_parameters()]
    parameters = [p.detach() for p in phi.parameters()]
    x, y, v, mask, bias = normal(5, 3), normal(6, 3), normal(6, 2), torch.rand(5, 6) < 0.7, normal(6)
    scale, exclude = torch.tensor(0.7, dtype=torch.float64), torch.tensor([0, 1, -1, 5, 2])

    def attend(q, k, v, mask, bias, scale):
        return rkt.attention(q, k, v, mask=mask, bias=bias, scale=scale)

    def scores(q, k, mask, bias, scale):
        return rkt.attention_scores(q, k, mask=mask, bias=bias, scale=scale)

    def product(x, y, v, scale):
        return rkt.relation_matvec(x, y, v, link="gaussian", scale=scale)

    def mapped(x, *parameters):
        return func.functional_call(phi, dict(zip(names, parameters, strict=True)), x)

    return {
        "relation_matrix": (lambda x, y, s: rkt.relation_matrix(x, y, scale=s), x, y, scale),
        "with leading": (lambda x, y: rkt.relation_matrix(x, y), normal(4, 5, 3), y),
        "symmetric": (rkt.relation_matrix, x),
        "heads": (lambda x, y: rkt.relation_matrix(x, y, heads=3), x, y),
        "matvec": (product, x, y, v, scale),
        "attention": (attend, x, y, v, mask, bias, scale),
        "scores": (scores, x, y, mask, bias, scale),
        "retrieve": (
            lambda q, k, m, e: rkt.retrieve(q, k, 3, mask=m, exclude=e, pad=True),
            x,
            y,
            mask,
            exclude,
        ),
        "a single query": (lambda q, k: rkt.retrieve(q, k, 3), normal(3), y),
        "loss": (lambda x, y, t, s: rkt.relation_loss(x, y, t, scale=s), x, y, target, scale),
        "map": (mapped, x, *parameters),
    }


@pytest.mark.parametrize("name", list(batches()))
@pytest.mark.filterwarnings("error:There is a performance drop")
def test_vmap_over_each_argument(name):
    f, *inputs = batches()[name]
    for chosen in [*((i,) for i in range(len(inputs))), range(len(inputs))]:
        for at in (0, -1):
            in_dims = tuple(at if i in chosen else None for i in range(len(inputs)))
            given = [
                torch.stack([a, a.roll(1, 0) if a.ndim else 2 * a, a.flip(0) if a.ndim else -a.abs() / 9], at)
                if i in chosen
                else a
                for i, a in enumerate(inputs)
            ]
            if name == "matvec" and in_dims[3] is not None:
                given[3] = given[3].abs()
            items = [
                f(*(a.select(at, b) if i in chosen else a for i, a in enumerate(given))) for b in range(3)
            ]
            expected = (
                tuple(map(torch.stack, zip(*items, strict=True)))
                if isinstance(items[0], tuple)
                else torch.stack(items)
            )
            torch.testing.assert_close(torch.vmap(f, in_dims)(*given), expected)


@pytest.mark.parametrize("name", FEW)
def test_batches_of_autograd(name):
    ours, plain = functions()[name]
    x = normal(6, 3)
    torch.testing.assert_close(AF.jacobian(ours, x, vectorize=True), AF.jacobian(plain, x))


def test_gradients_for_each_sample():
    phi, x = smooth_map([3, 5, 4]), normal(4, 6, 3)
    parameters = dict(phi.named_parameters())

    def loss(parameters, x):
        return func.functional_call(phi, parameters, x).square().sum()

    each = torch.vmap(func.grad(loss), (None, 0))({k: p.detach() for k, p in parameters.items()}, x)
    for i, item in enumerate(x):
        expected = torch.autograd.grad(loss(parameters, item), list(parameters.values()))
        for (name, _), grad in zip(parameters.items(), expected, strict=True):
            torch.testing.assert_close(each[name][i], grad)


def test_what_kernels_refuse_is_refused_or_nan():
    x = torch.ones(3, 2)
    pairs = func.jacrev(lambda s: rkt.relation_matrix(x, 2 * x, link="matern32", scale=s))(torch.tensor(-1.0))
    assert pairs.isnan().all()
    for call, error, words in (
        (lambda x: rkt.relation_matrix(x, torch.ones(3, 4)), ValueError, "features"),
        (lambda x: rkt.attention_scores(x, x, mask=torch.ones(3, 3)), TypeError, "mask: expected a boolean"),
        (lambda x: rkt.attention_scores(x, x, mask=torch.ones(3, 2) > 0), Exception, "mask|size"),
        (lambda x: rkt.attention_scores(x, x, bias=torch.ones(3, 2)), Exception, "bias|size"),
        (lambda x: rkt.relation_loss(x, None, torch.ones(2, dtype=torch.int64)), ValueError, r"target\[0\]"),
        (lambda x: rkt.relation_loss(x, None, torch.ones(3, 3).double()), TypeError, "target"),
    ):
        with pytest.raises(error, match=words):
            func.jvp(call, (x,), (x,))


def test_offsets_of_segments_are_checked():
    x, offsets = torch.ones(5, 3), torch.tensor([0, 2, 4])
    for given, error in (((offsets, offsets), ValueError), ((offsets, None), TypeError)):
        options = dict(zip(("q_offsets", "k_offsets"), given, strict=True))
        with pytest.raises(error, match="offsets: expected"):
            func.jvp(lambda x, o=options: rkt.attention(x, x, x, **o), (x,), (x,))
    cuts = torch.tensor([[0, 2, 5], [0, 1, 5]])
    with pytest.raises(NotImplementedError, match="q_offsets: expected a plain tensor"):
        torch.vmap(lambda o: rkt.attention(x, x, x, q_offsets=o, k_offsets=o))(cuts)
