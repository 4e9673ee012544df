"""Operators that the extension takes whole: the bits of the way through Python, only where that is right."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
import relkernels.torch as rkt  # noqa: E402
from plain_torch import normal, plain_attention, plain_relation, smooth_map  # noqa: E402
from relkernels import _core  # noqa: E402
from relkernels.torch import _attention, _library, _ops, _relational  # noqa: E402
from torch import nn  # noqa: E402

pytestmark = pytest.mark.skipif(
    not _library._READS_TENSORS, reason="this version of PyTorch has no functions that read tensors"
)

OPERATORS = {
    operator._schema.name.partition("::")[2]: operator
    for module in (_ops, _attention, _relational)
    for operator in vars(module).values()
    if isinstance(operator, _library.Operator) and operator._whole is not _library._not_ordinary
}
SIZES = st.sampled_from([1, 2, 3, 7, 12, 13, 17, 33, 65])


class Whole:
    """Which operators have been taken whole; ``off`` makes every call go by way of Python."""

    def __init__(self, monkeypatch):
        self.names, self.off = [], False
        for name, operator in OPERATORS.items():
            monkeypatch.setattr(operator, "_whole", self.recording(name, operator._whole))

    def recording(self, name, whole):
        def call(*arguments):
            result = NotImplemented if self.off else whole(*arguments)
            if result is not NotImplemented and result is not True:
                self.names.append(name)
            return result

        return call


@pytest.fixture(scope="module")
def whole():
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Whole(monkeypatch)


def computed(call, leaves):
    """Results of a call, and gradients of a fixed function of them."""
    results = call()
    results = results if isinstance(results, tuple) else (results,)
    leaves = [a for a in leaves if a.requires_grad]
    if not leaves:
        return results
    total = sum((torch.arange(r.numel(), dtype=r.dtype).sin().reshape(r.shape) * r).sum() for r in results)
    return *results, *torch.autograd.grad(total, leaves, allow_unused=True)


def same_bits(whole, call, leaves, *names):
    """A call is taken whole, as `names`, and has the bits of the way through Python."""
    whole.names.clear()
    found = computed(call, leaves)
    assert whole.names == list(names)
    whole.off = True
    try:
        expected = computed(call, leaves)
    finally:
        whole.off = False
    assert whole.names == list(names)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def laid_out(data, *shape, dtype, grad):
    """A tensor of this shape in one of several layouts."""
    layout = data.draw(st.sampled_from(["plain", "transposed", "every second", "expanded", "offset"]))
    if layout == "transposed":
        a = torch.randn(*shape[:-2], shape[-1], shape[-2], dtype=dtype).mT
    elif layout == "every second":
        a = torch.randn(*shape[:-1], 2 * shape[-1], dtype=dtype)[..., ::2]
    elif layout == "expanded":
        a = torch.randn(*shape[:-2], 1, shape[-1], dtype=dtype).expand(*shape)
    elif layout == "offset":
        a = torch.randn(*shape[:-2], shape[-2] + 1, shape[-1], dtype=dtype)[..., 1:, :]
    else:
        a = torch.randn(*shape, dtype=dtype)
    return a.detach().requires_grad_(grad)


DTYPES = st.sampled_from([torch.float32, torch.float64])
LEADS = st.sampled_from([(), (1,), (3,), (2, 2)])


@given(data=st.data(), n=SIZES, m=SIZES, d=SIZES, lead=LEADS, dtype=DTYPES, grad=st.booleans())
def test_relation_matrix(whole, data, n, m, d, lead, dtype, grad):
    x = laid_out(data, *lead, n, d, dtype=dtype, grad=grad)
    y = laid_out(data, *lead, m, d, dtype=dtype, grad=data.draw(st.booleans()))
    link = data.draw(st.sampled_from(["identity", "exp", "relu", "gaussian"]))
    scale = data.draw(st.sampled_from([1.0, 0.3]))
    names = ["relation_matrix"] + ["relation_matrix_vjp"] * (x.requires_grad or y.requires_grad)
    same_bits(whole, lambda: rkt.relation_matrix(x, y, link=link, scale=scale), [x, y], *names)


@given(n=SIZES, d=SIZES, lead=LEADS, dtype=DTYPES, grad=st.booleans())
def test_symmetric_relation(whole, n, d, lead, dtype, grad):
    x = normal(*lead, n, d, dtype=dtype, grad=grad)
    names = ["relation_matrix"] + ["relation_matrix_vjp"] * grad
    same_bits(whole, lambda: rkt.relation_matrix(x, scale=-0.7), [x], *names)


@given(data=st.data(), n=SIZES, m=SIZES, d=SIZES, lead=LEADS, dtype=DTYPES, grad=st.booleans())
def test_attention(whole, data, n, m, d, lead, dtype, grad):
    q = laid_out(data, *lead, n, d, dtype=dtype, grad=grad)
    k = laid_out(data, *lead, m, d, dtype=dtype, grad=data.draw(st.booleans()))
    v = laid_out(data, *lead, m, data.draw(SIZES), dtype=dtype, grad=data.draw(st.booleans()))
    options = {"causal": data.draw(st.booleans()), "return_lse": data.draw(st.booleans())}
    pairs = data.draw(st.sampled_from([(n, m), (1, m), (n, 1), (*lead, n, m), (*(1 for _ in lead), n, m)]))
    if data.draw(st.booleans()):
        options["mask"] = torch.rand(pairs) < 0.7
    if data.draw(st.booleans()):
        options["bias"] = torch.randn(pairs, dtype=dtype)
    leaves = [q, k, v]
    names = ["attention"] + ["attention_vjp"] * any(a.requires_grad for a in leaves)
    same_bits(whole, lambda: rkt.attention(q, k, v, **options), leaves, *names)


@given(data=st.data(), n=SIZES, m=SIZES, d=SIZES, lead=LEADS, dtype=DTYPES, grad=st.booleans())
def test_relational_attention(whole, data, n, m, d, lead, dtype, grad):
    heads, relations = data.draw(st.sampled_from([1, 3])), data.draw(st.sampled_from([1, 2]))
    of = {"dtype": dtype, "grad": grad}
    q, k = laid_out(data, *lead, heads, n, d, **of), laid_out(data, *lead, heads, m, d, **of)
    v = laid_out(data, *lead, heads, m, 5, **of)
    q_rel, k_rel = (laid_out(data, *lead, relations, size, 3, **of) for size in (n, m))
    act = data.draw(st.sampled_from(["identity", "relu", "tanh", "exp"]))
    options = {"rel_activation": act, "causal": data.draw(st.booleans())}
    names = ["relational_attention"] + ["relational_attention_vjp"] * grad
    arrays = q, k, q_rel, k_rel, v
    same_bits(whole, lambda: rkt.relational_attention(*arrays, **options), arrays, *names)


def test_modules_of_attention_are_taken_whole(whole):
    x = normal(2, 9, 16, dtype=torch.float32)
    for module, name in (
        (lambda: rkt.RelationalAttention(16, 4, n_relations=4)(x, x), "relational_attention"),
        (
            lambda: rkt.RelationAttention(smooth_map([16, 8], dtype=torch.float32))(x, x, x),
            "attention",
        ),
    ):
        whole.names.clear()
        module()
        assert name in whole.names


# ---- tensors that the extension may not read ---------------------------------------------------


class Labelled(torch.Tensor):
    pass


def negated():
    return torch.randn(5, 3, dtype=torch.complex64).conj().imag.mT.mT


@pytest.mark.parametrize(
    "made",
    [
        lambda: torch.randn(5, 3).as_subclass(Labelled),
        lambda: torch.randn(0, 3),
        lambda: torch.randn(5, 3).half(),
        lambda: torch.randn(5, 3, device="meta"),
        lambda: torch.randn(4, 1, 5, 3),  # broadcast
        negated,
    ],
    ids=["subclass", "empty", "16 bits", "meta", "broadcast", "negated"],
)
def test_others_go_by_way_of_python(whole, made):
    y = torch.randn(2, 4, 3)
    x = made()
    whole.names.clear()
    found = rkt.relation_matrix(x, y.to(x.device, x.dtype))
    assert whole.names == []
    assert found.shape == (*torch.broadcast_shapes(x.shape[:-2], (2,)), x.shape[-2], 4)
    if found.device.type == "cpu":
        torch.testing.assert_close(found.float(), (x.float() @ y.mT).float(), atol=2e-2, rtol=2e-2)


def test_a_negated_view_keeps_its_sign(whole):
    x = negated()
    assert x.is_neg()
    assert torch.allclose(rkt.relation_matrix(x, x + 0), x @ (x + 0).mT, atol=1e-5)


def test_parameters_and_inference_mode(whole):
    w, x = nn.Parameter(torch.randn(5, 3)), torch.randn(4, 3)
    whole.names.clear()
    with torch.inference_mode():
        r = rkt.relation_matrix(w, x)
        assert r.is_inference()
    assert not r.requires_grad
    with torch.no_grad():
        assert not rkt.relation_matrix(w, x).requires_grad
    assert rkt.relation_matrix(w, x).requires_grad
    assert whole.names == ["relation_matrix"] * 3


def test_a_scale_with_a_gradient(whole):
    x, scale = normal(5, 3), torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: rkt.relation_matrix(x, scale=s), (scale,))
    assert torch.autograd.gradcheck(lambda s: rkt.attention(x, x, x, scale=s), (scale,))


def test_second_derivatives(whole):
    x, y = normal(4, 3, grad=True), normal(5, 3, grad=True)
    assert torch.autograd.gradgradcheck(rkt.relation_matrix, (x, y))
    assert torch.autograd.gradgradcheck(lambda q, k: rkt.attention(q, k, k), (x, y))


def test_transforms_and_modes(whole):
    x, t = normal(5, 3), normal(5, 3)
    whole.names.clear()
    tangent = torch.func.jvp(rkt.relation_matrix, (x,), (t,))[1]
    torch.testing.assert_close(tangent, t @ x.mT + x @ t.mT)
    batched = torch.vmap(rkt.relation_matrix)(torch.stack([x, t]))
    torch.testing.assert_close(batched[1], t @ t.mT)
    assert whole.names == []
    with torch.autograd.graph.saved_tensors_hooks(lambda a: a.clone(), lambda a: a):  # no mode: taken whole
        rkt.relation_matrix(x.requires_grad_())[0, 0].backward()
    assert x.grad is not None


def test_batches_of_gradients():
    """`is_grads_batched` gives the backward pass tensors of exactly the class Tensor that have no memory."""
    x, y = normal(4, 3, grad=True), normal(5, 3, grad=True)
    for ours, plain in (
        (rkt.relation_matrix, plain_relation),
        (lambda a, b: rkt.attention(a, b, b), lambda a, b: plain_attention(a, b, b)),
    ):
        r = ours(x, y)
        above = normal(7, *r.shape)
        found = torch.autograd.grad(r, (x, y), above, is_grads_batched=True)
        expected = torch.autograd.grad(plain(x, y), (x, y), above, is_grads_batched=True)
        torch.testing.assert_close(found, expected)


def test_results_are_new_tensors_on_their_own_memory():
    x = torch.randn(7, 3)
    first, second = rkt.relation_matrix(x), rkt.relation_matrix(x)
    assert first.data_ptr() != second.data_ptr()
    assert type(first) is torch.Tensor
    assert first.is_contiguous()
    first.zero_()
    assert not torch.equal(first, second)


def test_many_threads():
    q, k, v = torch.randn(3, 8, 33, 16)
    expected, wrong = rkt.attention(q, k, v), []

    def repeated():
        for _ in range(200):
            if not torch.equal(rkt.attention(q, k, v), expected):
                wrong.append(1)

    threads = [threading.Thread(target=repeated) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_wrong_numbers_of_arguments_are_not_ordinary():
    x = torch.randn(3, 2)
    for name in OPERATORS:
        call = _core.whole_operator(name)
        assert call() is NotImplemented
        assert call(x) is NotImplemented
        assert call(*[x] * 40) is NotImplemented
    assert _core.whole_operator("retrieve_nothing") is None


def test_a_class_without_functions_that_read_its_tensors_is_refused():
    arguments = nn.Parameter, torch.is_grad_enabled, (), torch.autograd.forward_ad
    assert not _core.read_tensors(int, *arguments)
