"""`relkernels.torch`: eager calls on the CPU, which bypass the dispatcher, compared with the operators."""

import pytest
import relkernels as rk

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
import relkernels.torch as rkt  # noqa: E402
from plain_torch import normal, plain_map, smooth_map  # noqa: E402
from relkernels.torch import FeatureMap  # noqa: E402

OPS = torch.ops.relkernels
# Few rows read weights in place, some are one strip, many are several; a layer of 300 is two blocks deep.
ROWS = [0, 1, 2, 3, 4, 13, 96, 200, 700]
WIDTHS = [(5, 9, 7, 3), (300, 520, 70), (300, 33)]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(20240213)


def registered(x, phi):
    biases = [] if phi.biases is None else list(phi.biases)
    activation = phi.activation
    return OPS.feature_map(x, list(phi.weights), biases, activation.name, activation.parameter, False)


def gradients(out, above, leaves):
    return torch.autograd.grad(out, leaves, above, retain_graph=True)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_the_same_features_and_gradients_as_the_operator(rows, widths, activation):
    phi = FeatureMap(widths, activation)
    with torch.no_grad():
        for b in phi.biases:
            b.normal_()
    x = torch.randn(rows, widths[0], requires_grad=True)
    out, expected = phi(x), registered(x, phi)
    assert type(out.grad_fn).__name__ != type(expected.grad_fn).__name__
    assert torch.equal(out, expected)
    with torch.no_grad():
        assert torch.equal(phi(x), expected)
    if rows > 4:  # a row does not depend on the others
        assert torch.equal(phi(x[3:4]), expected[3:4])
    above, leaves = torch.randn_like(out), [x, *phi.parameters()]
    found = gradients(out, above, leaves)
    for a, b, p in zip(found, gradients(expected, above, leaves), leaves, strict=True):
        assert a.shape == p.shape
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5 * max(1.0, float(b.abs().max()) if rows else 0))
    assert all(map(torch.equal, found, gradients(out, above, leaves)))


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
@pytest.mark.parametrize("rows", [3, 150, 2500])
def test_threads_change_no_bit(rows, widths):
    phi = FeatureMap(widths, "silu")
    x, above = torch.randn(rows, widths[0], requires_grad=True), torch.randn(rows, widths[-1])
    leaves, results = [x, *phi.parameters()], []
    threads = rk.get_num_threads()
    try:
        for n in (1, 2, 5):
            rk.set_num_threads(n)
            out = phi(x)
            with torch.no_grad():
                assert torch.equal(phi(x), out)
            results.append([out, *gradients(out, above, leaves)])
    finally:
        rk.set_num_threads(threads)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dims", [(), (2, 3)])
@pytest.mark.parametrize("kind", ["x", "first", "last", "biases"])
def test_only_needed_gradients_are_computed(kind, dims, bias, monkeypatch):
    phi = smooth_map([3, 5, 6, 4], bias=bias)
    x = normal(*dims, 7, 3)
    chosen = {"x": [x], "first": [phi.weights[0]], "last": [phi.weights[2]], "biases": list(phi.biases or ())}
    for a in (x, *phi.parameters()):
        a.requires_grad_(any(a is b for b in chosen[kind]))
    if not chosen[kind]:
        assert not phi(x).requires_grad
        return
    computed = []
    inner = rkt._feature_map._core.feature_map_backward

    def backward(*arguments):
        of_x, of_weights, of_biases = arguments[-3:]
        computed.extend(a for a in (of_x, *of_weights, *of_biases) if a is not None)
        return inner(*arguments)

    monkeypatch.setattr(rkt._feature_map._core, "feature_map_backward", backward)
    found = torch.autograd.grad(phi(x).square().sum(), chosen[kind])
    assert len(computed) == len(chosen[kind])
    for a, b in zip(found, torch.autograd.grad(plain_map(x, phi).square().sum(), chosen[kind]), strict=True):
        torch.testing.assert_close(a, b)


def test_inputs_and_gradients_of_any_strides():
    phi = smooth_map([3, 5, 4])
    base = normal(4, 6, 3)
    inputs = [
        base.transpose(0, 1),
        base[:, ::2],
        base[:1].expand(5, 6, 3),
        normal(6, 3, 4).mT,
        base[0, 0].expand(6, 3),
    ]
    for given in inputs:
        x = given.detach().requires_grad_()
        leaves = [x, *phi.parameters()]
        for above in (
            torch.ones(()).double().expand(*x.shape[:-1], 4),
            normal(4, *x.shape[:-1]).movedim(0, -1),
        ):
            got = torch.autograd.grad(phi(x), leaves, above)
            for a, b in zip(got, torch.autograd.grad(plain_map(x, phi), leaves, above), strict=True):
                torch.testing.assert_close(a, b)


@pytest.mark.parametrize("what", ["x", "weight", "bias"])
def test_tensors_changed_since_the_forward_pass_are_an_error(what):
    phi = smooth_map([3, 5, 4])
    x = normal(6, 3)
    out = phi(x).sum()
    with torch.no_grad():
        {"x": x, "weight": phi.weights[0], "bias": phi.biases[1]}[what].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()
    phi(x).sum().backward()  # no weights are remembered
    expected = torch.autograd.grad(plain_map(x, phi).sum(), phi.weights[0])[0]
    torch.testing.assert_close(phi.weights[0].grad, expected)


def test_layers_that_do_not_fit_are_refused_as_by_the_operator():
    phi = FeatureMap([3, 5, 4])
    x = torch.ones(2, 3)
    phi.weights[1] = torch.nn.Parameter(torch.ones(6, 4))
    with pytest.raises(ValueError, match=r"weights\[1\]: expected 5 rows"):
        phi(x)
    phi.weights[1] = torch.nn.Parameter(torch.ones(5, 4))
    phi.biases[1] = torch.nn.Parameter(torch.ones(5))
    with pytest.raises(ValueError, match=r"biases\[1\]: expected shape \(4,\)"):
        phi(x)


def test_saved_tensors_hooks_and_checkpoints():
    from torch.utils.checkpoint import checkpoint

    phi, x = smooth_map([3, 5, 4]), normal(6, 3, grad=True)
    expected = torch.autograd.grad(phi(x).square().sum(), [x, *phi.parameters()])
    with torch.autograd.graph.save_on_cpu():
        out = phi(x)
    assert all(map(torch.equal, torch.autograd.grad(out.square().sum(), [x, *phi.parameters()]), expected))
    for reentrant in (False, True):
        out = checkpoint(phi, x, use_reentrant=reentrant)
        out.square().sum().backward()
        torch.testing.assert_close(x.grad, expected[0])
        x.grad = None
