"""Arrays of several kinds or devices in one call, unsharable arrays, and calls of relkernels.cuda."""

import numpy as np
import pytest
import relkernels as rk
from dlpack_producer import Producer
from libraries import Library, inputs
from relkernels import arrays
from relkernels.arrays import engine
from strategies import normal


@pytest.fixture(params=["array_api_strict", "torch", "jax"])
def library(request):
    return Library(request.param)


class Cuda(Producer):
    """An array on a CUDA device with inaccessible memory."""

    def __init__(self, shape=(5, 4), device=(2, 0)):
        super().__init__(np.zeros(1, np.float32), shape, device=device)


def test_kinds_and_devices_of_one_call_are_one(library, rng):
    x, _, _, mask, *_ = inputs(rng)
    theirs, name = library.of(x), library.name
    with pytest.raises(TypeError, match=rf"y: expected an array of {name} on cpu, the kind and device of x, "
                                        r"got one of numpy on cpu"):  # fmt: skip
        rk.relation_matrix(theirs, x)
    with pytest.raises(TypeError, match=rf"y: expected an array of numpy on cpu, .* of x, got one of {name}"):
        rk.relation_matrix(x, theirs)
    with pytest.raises(TypeError, match=rf"mask: expected an array of numpy on cpu, .*, got one of {name}"):
        rk.attention(x, x, x, mask=library.of(mask))
    with pytest.raises(TypeError, match=rf"out: expected an array of numpy on cpu, .*, got one of {name}"):
        rk.relation_matrix(x, out=theirs)
    with pytest.raises(TypeError, match=rf"out\[1\]: expected an array of {name} on cpu, .* of numpy on cpu"):
        rk.retrieve(theirs, theirs, 1, out=(theirs, np.empty((7, 1), np.int64)))
    with pytest.raises(TypeError, match=rf"target\[0\]: expected an array of numpy on cpu, .* of {name}"):
        rk.relation_loss(x, None, (library.of(np.arange(7)), np.arange(7)))
    with pytest.raises(
        TypeError, match=rf"k: expected an array of {name} on cpu, .* got one of \w+ on cuda:1"
    ):
        rk.attention(theirs, Cuda(device=(2, 1)), theirs)
    with pytest.raises(TypeError, match=r"y: expected .* on cuda:0, the kind and device of x, got .* cuda:1"):
        rk.relation_matrix(Cuda(), Cuda(device=(13, 1)))


def test_what_is_no_array_is_said_as_ever(library, rng):
    theirs = library.of(normal(rng, (7, 6), np.float32))
    with pytest.raises(TypeError, match=r"y: expected an array of float32 or float64, got list"):
        rk.relation_matrix(theirs, [1.0])
    with pytest.raises(TypeError, match=r"mlp: expected an MLP, got NoneType"):
        rk.feature_map(theirs, None)
    with pytest.raises(TypeError, match=r"x: expected float32 or float64, got an array of dtype int64"):
        rk.relation_matrix(Library("array_api_strict").of(np.ones((2, 3), np.int64)))
    with pytest.raises(TypeError, match="positional argument"):
        rk.feature_map(theirs)
    with pytest.raises(TypeError, match="multiple values"):
        rk.feature_map(theirs, x=theirs, mlp=None)
    with pytest.raises(TypeError, match="unexpected keyword"):
        rk.relation_matrix(theirs, z=3)


def test_tensors_that_need_gradients_or_are_not_what_lies_in_memory():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = torch.ones(3, 2)
    with pytest.raises(TypeError, match=r"x: .*requires_grad=True: use relkernels.torch.*or x.detach\(\)"):
        rk.relation_matrix(x.clone().requires_grad_())
    with pytest.raises(TypeError, match=r"weights\[0\]: .*requires_grad=True"):
        rk.MLP([torch.nn.Linear(2, 3).weight])
    with pytest.raises(TypeError, match=r"x: .*x.resolve_neg\(\)"):
        rk.relation_matrix(torch.view_as_complex(torch.ones(3, 2, 2)).conj().imag)
    with pytest.raises(TypeError, match=r"y: expected an array that torch shares by DLPack, got BufferError"):
        rk.relation_matrix(x, x.to_sparse())
    with pytest.raises(TypeError, match=r"x: expected an array that torch shares by DLPack"):
        rk.relation_matrix(torch.empty(3, 2, device="meta"))
    with pytest.raises(TypeError, match=r"y: expected float32, the dtype of x, got bfloat16"):
        rk.relation_matrix(x, x.bfloat16())
    with pytest.raises(TypeError, match=r"out: expected bfloat16, the dtype of x, got float32"):
        rk.relation_matrix(x.bfloat16(), out=torch.empty(3, 3))
    with pytest.raises(ValueError, match=r"out: expected shape \(3, 3\), got \(3, 4\)"):
        rk.relation_matrix(x.bfloat16(), out=torch.empty(3, 4, dtype=torch.bfloat16))
    with pytest.raises(TypeError, match=r"weights\[0\]: expected float32 or float64, got a torch .*bfloat16"):
        rk.MLP([x.bfloat16()])


def test_jax_arrays_never_change_and_tracers_have_no_values():
    jax = pytest.importorskip("jax", reason="jax is not installed")
    x, out = jax.numpy.ones((3, 2)), jax.numpy.zeros((3, 3))
    with pytest.raises(ValueError, match=r"out: expected a writable array, got a read-only one"):
        rk.relation_matrix(x, out=out)
    assert not out.any()
    with pytest.raises(TypeError, match=r"x: expected an array with values, .* jax.pure_callback"):
        jax.jit(rk.relation_matrix)(x)


def test_what_cannot_be_given_back_is_refused():
    with pytest.raises(TypeError, match=r"x: .* from_dlpack, .* got one of dlpack_producer, which has none"):
        rk.relation_matrix(Producer(np.ones(12, np.float32), (3, 4)))
    with pytest.raises(TypeError, match=r"x: expected an array on the CPU or on a CUDA device, .* 10:3"):
        rk.relation_matrix(Cuda(device=(10, 3)))
    with pytest.raises(TypeError, match=r"expected an array that speaks DLPack, got list"):
        arrays.kind_of([1])


# ---- CUDA -----------------------------------------------------------------------------------------


@pytest.fixture
def cuda(monkeypatch):
    """The calls that a stand-in for the CUDA engine was given: (name, arguments)."""
    calls = []

    def run(operation, arguments):
        calls.append((operation.name, arguments))
        return "from the device"

    monkeypatch.setitem(engine._DEVICES, 2, lambda: run)
    return calls


def test_arrays_on_a_cuda_device_are_handed_on_as_they_came(cuda, monkeypatch):
    monkeypatch.setattr(Cuda, "__dlpack__", lambda *_, **__: pytest.fail("an array was converted"))
    x, y, v, out = Cuda(), Cuda(), Cuda((5, 3)), Cuda()
    phi = rk.MLP.random([4, 2])
    assert rk.relation_matrix(x, y, phi, scale=2.0) == "from the device"
    assert rk.retrieve(x, y, 3, out=(out, out)) == "from the device"
    assert phi(x) == "from the device"
    assert rk.relation_loss(x, None, (v, v)) == "from the device"
    assert rk.nngp_kernel(Cuda(device=(13, 0)), depth=2) == "from the device"
    assert cuda[:4] == [
        ("relation_matrix", {"x": x, "y": y, "phi": phi, "scale": 2.0}),
        ("retrieve", {"q": x, "keys": y, "k": 3, "out": (out, out)}),
        ("feature_map", {"x": x, "mlp": phi}),
        ("relation_loss", {"x": x, "y": None, "target": (v, v)}),
    ]
    assert cuda[4][0] == "nngp_kernel"


def test_what_stays_on_the_host_says_so(cuda):
    with pytest.raises(TypeError, match=r"weights\[0\]: expected an array in the host's memory, .* cuda:0"):
        rk.MLP([Cuda()])
    with pytest.raises(TypeError, match=r"x: expected an array in the host's memory, .* cuda:0"):
        rk.as_linear_operator(Cuda())
    assert cuda == []
