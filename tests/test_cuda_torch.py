"""PyTorch's kind of arrays without a GPU: tensors in main memory that claim to be on one.

The recorder shows the arguments that the extension receives for them; results are tensors.
"""

import contextlib
import ctypes

import numpy as np
import pytest
import relkernels as rk
from cuda_recorder import Array, Recorder
from relkernels import cuda
from relkernels.cuda import devices, libraries

torch = pytest.importorskip("torch", reason="PyTorch is not installed")


@pytest.fixture
def recorder(monkeypatch):
    from relkernels.cuda.libraries import _torch

    made = Recorder()
    monkeypatch.setattr(devices, "extension", lambda: made)
    claims = {
        "device": lambda a: 0 if a.device.type == "cpu" else None,
        "where": lambda device: "cpu",
        "stream": lambda device: 77,
        "guard": lambda device: contextlib.nullcontext(),
        "capturing": lambda device: False,
        "synchronize": lambda device: None,
        "memory_errors": lambda: (RuntimeError,),  # of main memory
    }
    for name, claim in claims.items():
        monkeypatch.setattr(_torch.KIND, name, claim, raising=False)
    assert libraries.kind_of(torch.ones(1)) is _torch.KIND
    return made


def test_tensors_reach_the_kernel_as_they_lie(recorder):
    x = torch.randn(4, 5, 8)[::2, :, 1::2]
    y = torch.randn(1, 4, 6).mT
    out = cuda.call("relation_matrix", {"x": x, "y": y, "heads": 2})
    ((_, context, given),) = recorder.calls
    assert context.stream == 77
    assert given[0] == Array(x.data_ptr(), (2, 5, 4), (80, 8, 2), "float32")
    assert given[1] == Array(y.data_ptr(), (2, 6, 4), (0, 1, 6), "float32")
    assert isinstance(out, torch.Tensor)
    assert out.shape == (2, 2, 5, 6)
    assert given[-1] == Array(out.data_ptr(), (2, 2, 5, 6), (60, 30, 6, 1), "float32")


@pytest.mark.parametrize("element", ["bfloat16", "float16", "float32", "float64"])
def test_dtypes(recorder, element):
    dtype = getattr(torch, element)
    q = torch.ones(5, 4, dtype=dtype)
    mask = torch.ones(5, 5, dtype=torch.bool)
    out, lse = cuda.call("attention", {"q": q, "k": q, "v": q, "mask": mask, "return_lse": True})
    given = recorder.calls[0][2]
    assert [a.dtype for a in given[:3]] == [element] * 3
    assert given[7].dtype == "bool"
    assert out.dtype == dtype
    assert lse.dtype == (torch.float64 if element == "float64" else torch.float32)
    values, indices = cuda.call("retrieve", {"q": q, "keys": q, "k": 2})
    assert (values.dtype, indices.dtype) == (dtype, torch.int64)


def test_results_are_views_and_sums_of_tensors(recorder):
    x, v = torch.ones(5, 4), torch.ones(6)
    out = cuda.call("relation_matvec", {"x": x, "y": torch.ones(6, 4), "v": v})
    assert out.shape == (5,)
    assert out.data_ptr() == recorder.calls[-1][2][-1].pointer
    strided = torch.zeros(5, 4)[:, ::2]
    phi = rk.MLP.random([4, 2], random_state=0)
    assert cuda.call("feature_map", {"x": x, "mlp": phi, "out": strided}) is strided
    assert recorder.calls[-1][2][-1].pointer != strided.data_ptr()
    grads = cuda.call(
        "relation_matrix_vjp", {"x": x[None], "y": torch.ones(2, 6, 4), "grad": torch.ones(2, 5, 6)}
    )
    assert grads[0].shape == (1, 5, 4)
    assert isinstance(grads[0], torch.Tensor)
    _, gradient = cuda.call("feature_map_vjp", {"x": x, "mlp": phi, "grad": torch.ones(5, 2)})
    assert [type(w) for w in gradient.weights] == [torch.Tensor]


def test_weights_are_brought_over_as_they_are(recorder):
    phi = rk.MLP.random([4, 8, 2], random_state=0)
    seen = {}

    class Mlp:
        @staticmethod
        def bytes(widths, arithmetic):
            return 64

        def __init__(self, context, memory, weights, biases, *_):
            for a, name in zip([*weights, *biases], ("w0", "w1", "b0", "b1"), strict=True):
                raw = (ctypes.c_float * int(np.prod(a.shape))).from_address(a.pointer)
                seen[name] = np.array(raw).reshape(a.shape)

    recorder.Mlp = Mlp
    cuda.call("feature_map", {"x": torch.ones(5, 4), "mlp": phi})
    np.testing.assert_array_equal(seen["w0"], phi.weights[0])
    np.testing.assert_array_equal(seen["b1"], phi.biases[1])


def test_tensors_that_cannot_be_read_as_they_lie_are_refused(recorder):
    x = torch.ones(5, 4)
    for bad, message in [
        (x.to_sparse(), r"^x: expected a dense tensor, got one of layout torch.sparse_coo$"),
        (torch.ones(5, 4, dtype=torch.complex64).conj().imag, r"^x: .*resolve_neg"),
        (torch.ones(5, 4, requires_grad=True), r"^x: .*requires no gradient.*detach"),
        (
            torch.ones(5, 4).to(torch.float8_e4m3fn),
            r"^x: .*got an array of dtype float8_e4m3fn and shape \(5, 4\)$",
        ),
        (torch.ones(5, 4, dtype=torch.int32), r"^x: .*int32"),
    ]:
        with pytest.raises(TypeError, match=message):
            cuda.call("relation_matrix", {"x": bad})
    with torch.no_grad():
        cuda.call("relation_matrix", {"x": torch.ones(5, 4, requires_grad=True)})
    with pytest.raises(TypeError, match=r"^y: expected an array of PyTorch on cuda:0, as x is, got .*NumPy"):
        cuda.call("relation_matrix", {"x": x, "y": np.ones((5, 4), np.float32)})


def test_memory_errors(recorder):
    huge = torch.ones(1, 2).expand(2**25, 2)
    with pytest.raises(MemoryError, match=r"relation_matrix.* needs 4503599627370496 bytes"):
        cuda.call("relation_matrix", {"x": huge})
    with pytest.raises(MemoryError, match=r"relation_matrix.* needs \d+ bytes"):
        cuda.call("relation_matrix", {"x": torch.ones(1, 2).expand(2**32, 2)})


def test_tensors_in_main_memory_are_not_on_a_device():
    assert libraries.device_of(torch.ones(3)) is None
    assert libraries.place(torch.ones(3)) == "an array of PyTorch in main memory"
    assert libraries.kind_of(torch.nn.Linear(2, 2)) is None
    assert libraries.kind_of(torch.nn.Parameter(torch.ones(2))) is libraries.kind_of(torch.ones(2))
