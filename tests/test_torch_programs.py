"""`relkernels.torch` in programs: checkpoints, export, copies, tied and frozen parameters, two processes."""

import copy
import io
import os
import pickle
import subprocess
import sys
import textwrap

import pytest

torch = pytest.importorskip("torch", exc_type=ImportError)

import relkernels.torch as rkt  # noqa: E402
from plain_torch import normal, plain_attention, plain_relation, smooth_map  # noqa: E402
from relkernels import _core  # noqa: E402
from relkernels.arrays.engine import Processor  # noqa: E402
from relkernels.torch import _attention, _relational  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

D, N = 8, 6


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def operators():
    """Name -> a function of x (2, N, D) and y (2, N, D) with one result."""
    target = torch.rand(N, N, dtype=torch.float64)

    def relational(x, y):
        q, k = (a.unflatten(-1, (2, -1)).mT.mT.transpose(-2, -3) for a in (x, y))
        return rkt.relational_attention(q, k, k, q, q, rel_activation="tanh", causal=True)[0]

    return {
        "relation_matrix": lambda x, y: rkt.relation_matrix(x, y, link="exp", scale=0.1),
        "symmetric": lambda x, y: rkt.relation_matrix(x * y, heads=2),
        "relation_matvec": lambda x, y: rkt.relation_matvec(x, y, y, link="square"),
        "attention": lambda x, y: rkt.attention(x, y, x, softcap=2.0),
        "attention_scores": lambda x, y: rkt.attention_scores(x, y, causal=True),
        "relational_attention": relational,
        "relation_loss": lambda x, y: rkt.relation_loss(x[0], y[0], target),
        "retrieve": lambda x, y: rkt.retrieve(x, y, 2)[0],
        "sdpa": lambda x, y: rkt.scaled_dot_product_attention(x, y, y, is_causal=True),
    }


class WithSymbols(nn.Module):
    """A module of relational networks, with symbols retrieved for the objects."""

    def __init__(self, module, symbols):
        super().__init__()
        self.module, self.symbols = module, symbols

    def forward(self, x):
        out = self.module(x, self.symbols(x))
        return out[0] if isinstance(out, tuple) else out


class Attending(nn.Module):
    """Attention of objects to themselves."""

    def __init__(self, attend):
        super().__init__()
        self.attend = attend

    def forward(self, x):
        return self.attend(x, x, x)


def modules(seed=0):
    """Name -> a module of x (2, N, D), of float64, that shares no parameter with another."""
    torch.manual_seed(seed)
    related = {"n_relations": 2, "rel_activation": "relu", "symmetric_rels": True}
    of_pairs = {"use_relative_positional_symbols": True}
    shared = rkt.DualAttention(D, 2, 2, ra_kwargs={"n_relations": 4}, share_attn_params=True)
    tied, other = smooth_map([D, 5, 4]), smooth_map([D, 5, 4])
    found = {
        "map": smooth_map([D, 5, 4]),
        "relation": rkt.InnerProductRelation(smooth_map([D, 4]), smooth_map([D, 5, 4]), learn_scale=True),
        "relation of one map": rkt.InnerProductRelation(tied, tied, heads=2),
        "attention": Attending(rkt.RelationAttention(other, other, causal=True)),
        "relational attention": WithSymbols(
            rkt.RelationalAttention(D, 4, **related), rkt.SymbolicAttention(D, 2, n_symbols=3)
        ),
        "symbols of pairs": WithSymbols(
            rkt.RelationalAttention(D, 2, **of_pairs), rkt.PositionRelativeSymbolRetriever(D, 3)
        ),
        "cross-attention": WithSymbols(
            rkt.RelationalCrossAttention(D, 2, activation="relu"), rkt.PositionalSymbolRetriever(D, 9)
        ),
        "dual attention": WithSymbols(shared, rkt.SymbolicAttention(D, 2, n_symbols=3)),
        "block": WithSymbols(
            rkt.DualAttentionBlock(D, 1, 1, dff=9, causal=True), rkt.SymbolicAttention(D, 2, n_symbols=3)
        ),
        "multi-dimensional": rkt.MultiDimensionalRelation(D, 3, 4, symmetric=True),
    }
    return {name: module.double() for name, module in found.items()}


OPERATORS, MODULES = list(operators()), list(modules())


def gradients(out, leaves):
    return torch.autograd.grad(out.sin().sum(), leaves)


# ---- checkpoints: the forward pass runs again in the backward pass


@pytest.mark.parametrize("name", OPERATORS)
def test_checkpoints_of_operators(name):
    x, y = normal(2, N, D, grad=True), normal(2, N, D, grad=True)
    function = operators()[name]
    expected = gradients(function(x, y), [x, y])
    for reentrant in (False, True):
        x.grad = y.grad = None
        checkpoint(function, x, y, use_reentrant=reentrant).sin().sum().backward()
        assert torch.equal(x.grad, expected[0])
        assert torch.equal(y.grad, expected[1])


@pytest.mark.parametrize("name", MODULES)
def test_checkpoints_of_modules(name):
    module, x = modules()[name], normal(2, N, D, grad=True)
    leaves = [x, *module.parameters()]
    expected = gradients(module(x), leaves)
    for reentrant in (False, True):
        for a in leaves:
            a.grad = None
        checkpoint(module, x, use_reentrant=reentrant).sin().sum().backward()
        assert all(torch.equal(a.grad, b) for a, b in zip(leaves, expected, strict=True))


def test_a_checkpoint_drops_the_same_weights_again():
    module, x = rkt.DualAttentionBlock(D, 1, 1, dropout_rate=0.5).double(), normal(2, N, D, grad=True)
    state = torch.get_rng_state()
    expected = module(x, x)
    torch.set_rng_state(state)
    out = checkpoint(module, x, x, use_reentrant=False)
    assert torch.equal(out, expected)
    torch.testing.assert_close(gradients(out, [x]), gradients(expected, [x]))


# ---- copies and files


@pytest.mark.parametrize("name", MODULES)
def test_copies_compute_the_same_and_share_nothing(name):
    module, x = modules()[name], normal(2, N, D)
    expected = module(x)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    loaded = modules(1)[name]
    assert not torch.equal(loaded(x), expected)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    assigned = modules(1)[name]
    assigned.load_state_dict(copy.deepcopy(module.state_dict()), assign=True)
    copies = copy.deepcopy(module), pickle.loads(pickle.dumps(module)), loaded, assigned
    for other in copies:
        assert torch.equal(other(x), expected)
        assert [n for n, _ in other.named_parameters()] == [n for n, _ in module.named_parameters()]
        with torch.no_grad():
            for p in other.parameters():
                p.zero_()
    assert torch.equal(module(x), expected)


# ---- tied parameters


def test_one_map_for_both_sides_has_one_gradient():
    phi = smooth_map([D, 5, 4])
    x, y, v = normal(N, D), normal(N, D), normal(N, D)
    for ours, plain in (
        (rkt.InnerProductRelation(phi, phi)(x, y), plain_relation(x, y, phi, phi)),
        (rkt.RelationAttention(phi, phi)(x, y, v), plain_attention(x, y, v, phi, phi)),
    ):
        parameters = list(phi.parameters())
        torch.testing.assert_close(gradients(ours, parameters), gradients(plain, parameters))


def test_maps_that_share_a_layer():
    phi, psi = smooth_map([D, 5, 4]), smooth_map([D, 5, 4])
    psi.weights[0] = phi.weights[0]
    relation = rkt.InnerProductRelation(phi, psi)
    assert len(list(relation.parameters())) == 7
    x = normal(N, D)
    parameters = list(relation.parameters())
    expected = gradients(plain_relation(x, x, phi, psi), parameters)
    torch.testing.assert_close(gradients(relation(x, x), parameters), expected)
    for other in (copy.deepcopy(relation), pickle.loads(pickle.dumps(relation))):
        assert other.psi.weights[0] is other.phi.weights[0]


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("relation of one map", "phi", "phi"),
        ("relational attention", "module.wq_rel", "module.wk_rel"),
        (
            "dual attention",
            "module.self_attention.wq",
            "module.relational_attention.wq_attn",
        ),
        ("multi-dimensional", "left_encoder", "right_encoder"),
    ],
)
def test_what_is_tied_stays_tied(name, one, other):
    module, x = modules()[name], normal(2, N, D)
    trained = modules()[name]
    optimiser = torch.optim.SGD(trained.parameters(), lr=0.1)
    trained(x).sin().sum().backward()
    optimiser.step()
    loaded = modules(1)[name]
    loaded.load_state_dict(trained.state_dict())
    assert torch.equal(loaded(x), trained(x))
    for each in (module, trained, loaded, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert each.get_submodule(one) is each.get_submodule(other)
    assert len(list(module.parameters())) < len(list(module.named_parameters(remove_duplicate=False))) or (
        one == other
    )


# ---- frozen parameters


@pytest.fixture
def calls(monkeypatch):
    """The kernels that run; for those of a map, how many gradients they compute.

    Relations of plain tensors are computed by `_core` directly and are not recorded.
    """
    found = []

    def run(name, *arguments, **options):
        found.append(name)
        return inner(name, *arguments, **options)

    def backward(*arguments):
        of_x, of_weights, of_biases = arguments[-3:]
        found.append(sum(a is not None for a in (of_x, *of_weights, *of_biases)))
        return of_map(*arguments)

    def recorded(operator):
        whole, name = operator._whole, operator._schema.name.partition("::")[2]

        def call(*arguments):
            result = whole(*arguments)
            if result is not NotImplemented:
                found.append(name)
            return result

        monkeypatch.setattr(operator, "_whole", call)

    for operator in (_attention.attention_vjp, _relational.relational_attention_vjp):
        recorded(operator)
    inner, of_map = Processor.run, _core.feature_map_backward
    monkeypatch.setattr(Processor, "run", staticmethod(run))
    monkeypatch.setattr(_core, "feature_map_backward", backward)
    return found


def backward_of(out, calls):
    """What the backward pass runs, in alphabetical order."""
    calls.clear()
    out.sin().sum().backward()
    return sorted(calls, key=str)


def test_frozen_maps_cost_nothing(calls):
    x, y, v = normal(N, D), normal(N, D), normal(N, D)
    phi, psi = smooth_map([D, 5, 4]), smooth_map([D, 5, 4])
    relation, attend = rkt.InnerProductRelation(phi, psi), rkt.RelationAttention(phi, psi)
    assert backward_of(relation(x, y), calls) == [4, 4]
    assert backward_of(attend(x, y, v), calls) == [4, 4, "attention_vjp"]
    phi.requires_grad_(False)
    assert backward_of(relation(x, y), calls) == [4]
    assert backward_of(attend(x, y, v), calls) == [4, "attention_vjp"]
    psi.weights[0].requires_grad_(False)
    assert backward_of(relation(x, y), calls) == [3]
    x.requires_grad_()
    assert backward_of(relation(x, y), calls) == [1, 3]
    x.requires_grad_(False)
    psi.requires_grad_(False)
    assert not relation(x, y).requires_grad
    assert not attend(x, y, v).requires_grad
    assert backward_of(attend(x, y, v.requires_grad_()), calls) == ["attention_vjp"]
    assert backward_of(rkt.relation_matvec(phi(x), psi(y), v, link="exp"), calls) == []
    assert all(p.grad is not None for p in phi.parameters())


def test_frozen_heads_cost_nothing(calls):
    module, x = rkt.DualAttention(D, 2, 2).double(), normal(2, N, D)
    own, related = module.self_attention, module.relational_attention
    assert backward_of(module(x, x)[0], calls) == ["attention_vjp", "relational_attention_vjp"]
    related.requires_grad_(False)
    assert backward_of(module(x, x)[0], calls) == ["attention_vjp"]
    own.requires_grad_(False)
    related.wo.requires_grad_()
    assert backward_of(module(x, x)[0], calls) == []
    related.wv.requires_grad_()
    assert backward_of(module(x, x)[0], calls) == ["relational_attention_vjp"]
    module.requires_grad_(False)
    assert not module(x, x)[0].requires_grad
    symbols = rkt.SymbolicAttention(D, 2, 3, trainable_symbols=False).double()
    assert backward_of(symbols(x), calls) == ["attention_vjp"]
    assert symbols.symbol_library.grad is None


# ---- exported programs


class Operators(nn.Module):
    """Every operator, on the first N rows of a batch of any length."""

    def forward(self, x, y):
        return [function(x, y) for name, function in operators().items() if name != "relation_loss"]


def exported(module, inputs, dynamic):
    """Export a module, save the program, and load it."""
    file = io.BytesIO()
    torch.export.save(torch.export.export(module, inputs, dynamic_shapes=dynamic), file)
    file.seek(0)
    return torch.export.load(file).module()


@pytest.mark.slow
def test_a_network_is_exported():
    """Symbols, a block, attention and a relation in one program, for any batch and number of objects."""
    pieces = modules()
    network = nn.Sequential(
        pieces["relational attention"], pieces["block"], pieces["attention"], nn.Linear(D, 4).double(),
    )  # fmt: skip
    batch, n = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("n", min=2, max=64)
    program = exported(network, (normal(2, N, D),), ({0: batch, 1: n},))
    for shape in ((2, N, D), (3, 11, D)):
        x = normal(*shape)
        torch.testing.assert_close(program(x), network(x))
    found = {str(node.target) for node in program.graph.nodes if "relkernels" in str(node.target)}
    names = "attention", "feature_map", "relational_attention"
    assert found == {f"relkernels.{name}.default" for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_every_module_is_exported(name):
    module, x = modules()[name], normal(2, N, D)
    program = exported(module, (x,), None)
    torch.testing.assert_close(program(x), module(x))
    for m in (program, module):
        m(x).sum().backward()
    found = {key: p.grad for key, p in program.named_parameters() if p.grad is not None}
    assert len(found) == len(list(module.parameters()))
    expected = dict(module.named_parameters(remove_duplicate=False))
    for key, grad in found.items():
        torch.testing.assert_close(grad, expected[key].grad)


@pytest.mark.slow
def test_every_operator_is_exported():
    x, y = normal(2, N, D), normal(2, N, D)
    program = exported(Operators(), (x, y), None)
    torch.testing.assert_close(program(x, y), Operators()(x, y))


# ---- two processes

WORKER = """
    import sys, torch
    from torch import distributed, nn
    sys.path.insert(0, sys.argv[4])
    from test_torch_programs import modules, normal

    rank, file, found = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    distributed.init_process_group("gloo", init_method="file://" + file, rank=rank, world_size=2)
    torch.manual_seed(1)
    x = normal(4, 6, 8)
    gradients = {}
    for name, module in modules().items():
        parallel = nn.parallel.DistributedDataParallel(module)
        parallel(x[2 * rank : 2 * rank + 2]).sin().mean().backward()
        gradients[name] = {key: p.grad for key, p in module.named_parameters()}
    if rank == 0:
        torch.save(gradients, found)
    distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_share_gradients(tmp_path):
    """DistributedDataParallel over gloo: the mean over both processes is the gradient of the whole batch."""
    code, here = textwrap.dedent(WORKER), os.path.dirname(__file__)
    file, found = tmp_path / "group", tmp_path / "gradients.pt"
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), str(file), str(found), here],
            env=environment, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    for worker in workers:
        assert worker.communicate(timeout=300)[1] is not None
        assert worker.returncode == 0
    torch.manual_seed(1)
    x = normal(4, N, D)
    for name, of_two in torch.load(found, weights_only=True).items():
        module = modules()[name]
        module(x).sin().mean().backward()
        for key, p in module.named_parameters():
            torch.testing.assert_close(of_two[key], p.grad, msg=lambda text, at=(name, key): f"{at}: {text}")
