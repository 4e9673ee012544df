"""Arguments that are refused on a device, and the reasons given if there is none."""

import cuda_arrays
import numpy as np
import pytest
import relkernels as rk
from cuda_arrays import BF16, F16, DeviceArray
from cuda_recorder import ones, put
from relkernels import cuda
from relkernels.config import configuration
from relkernels.cuda import devices

F4 = np.float32
PHI = rk.MLP.random([4, 8, 2])

X, Y, V = (np.ones(shape, F4) for shape in ((5, 4), (6, 4), (6, 3)))
REFUSED = [
    ("relation_matrix", lambda: {"x": put(X), "y": Y}, TypeError,
     r"^y: expected an array of Emulated on cuda:0, as x is, got an array of NumPy in main memory$"),
    ("relation_matrix", lambda: {"x": X, "y": put(Y)}, TypeError, r"^x: .* as y is, got an array of NumPy"),
    ("relation_matrix", lambda: {"x": put(X), "y": put(Y, 1)}, TypeError,
     r"^y: .*cuda:0, as x is, got an array of Emulated on cuda:1$"),
    ("attention", lambda: {"q": put(X), "k": put(Y), "v": put(V), "mask": np.ones((5, 6), bool)}, TypeError,
     r"^mask: .* got an array of NumPy in main memory$"),
    ("feature_map", lambda: {"x": put(X), "mlp": PHI, "out": np.ones((5, 2), F4)}, TypeError,
     r"^out: .*NumPy"),
    ("relation_matrix", lambda: {"x": X}, TypeError,
     r"^relkernels.relation_matrix: .* CUDA device, got none"),
    ("nngp_kernel", lambda: {"x": put(X)}, TypeError,
     r"^x: expected an array in main memory, where relkernels.nngp_kernel computes, got .* on cuda:0$"),
    ("relation_loss", lambda: {"x": put(X), "y": None, "target": np.ones((5, 5), F4)}, TypeError,
     r"^target: expected an array of Emulated on cuda:0, as x is, got an array of NumPy in main memory$"),
    ("relation_loss", lambda: {"x": put(X), "y": put(Y), "target": (put(np.arange(5)), np.arange(6))},
     TypeError, r"^target\[1\]: expected an array of Emulated on cuda:0, as x is, got an array of NumPy"),
    ("relation_matrix", lambda: {"x": put(X), "y": [[1.0]]}, TypeError, r"^y: .*list"),
    ("retrieve", lambda: {"q": put(X), "keys": rk.Keys(Y), "k": 1}, TypeError,
     "^keys: expected an array on the device of q, got Keys, which are in main memory$"),
    ("retrieve_above", lambda: {"q": put(X), "keys": rk.Keys(Y), "threshold": 1.0}, TypeError,
     "^keys: expected an array on the device of q, got Keys, which are in main memory$"),
    ("retrieve_above", lambda: {"q": put(X), "keys": put(Y), "threshold": np.ones(5, F4)}, TypeError,
     r"^threshold: expected an array of Emulated on cuda:0, as q is, got an array of NumPy in main memory$"),
    # Messages as on the CPU.
    ("retrieve", lambda: {"q": put(X), "keys": put(Y), "k": 1, "exclude": put(np.array([0, 1, 2, 3, 6]))},
     ValueError, "^exclude: expected indices from 0 to 5, or -1 for none, got 6$"),
    ("retrieve", lambda: {"q": put(X), "keys": put(Y), "k": 1, "exclude": put(X)}, TypeError,
     "^exclude: expected an array of integer indices, .*float32"),
    ("retrieve_above", lambda: {"q": put(X), "keys": put(Y), "threshold": np.nan}, ValueError,
     "^threshold: expected a number, got NaN$"),
    ("retrieve_above", lambda: {"q": put(X), "keys": put(Y), "threshold": put(np.full(5, np.nan, F4))},
     ValueError, "^threshold: expected numbers, got NaN$"),
    ("retrieve_above", lambda: {"q": put(X), "keys": put(Y), "threshold": put(np.ones(5))}, TypeError,
     "^threshold: expected float32, the dtype of q, got float64"),
    ("retrieve_above", lambda: {"q": put(X), "keys": put(Y), "threshold": put(np.ones(4, F4))}, ValueError,
     r"^threshold: expected a number, or a shape that broadcasts to \(5,\), got \(4,\)$"),
    ("retrieve_above", lambda: {"q": put(X), "keys": put(Y), "threshold": 1.0, "limit": 0}, ValueError,
     "^limit: "),
    ("relation_matrix", lambda: {"x": put(X.astype(int))}, TypeError,
     r"^x: .*dtype int64 and shape \(5, 4\): use x\.astype"),
    ("feature_map", lambda: {"x": put(np.ones((5, 3), F4)), "mlp": PHI}, ValueError,
     r"^x: expected rows of 4 features.*\(4, 8, 2\)\), got shape \(5, 3\)$"),
    ("relation_matrix", lambda: {"x": put(X), "y": put(Y.astype(float))}, TypeError,
     r"^y: expected float32, the dtype of x, got float64: use y"),
    ("feature_map", lambda: {"x": put(X), "mlp": rk.MLP.random([4, 2], dtype="float64")}, TypeError,
     r"^mlp: "),
    ("retrieve", lambda: {"q": put(X), "keys": put(Y), "k": 7}, ValueError, r"^k: expected at most 6"),
    ("attention", lambda: {"q": put(X), "k": put(Y), "v": put(V), "mask": put(np.ones((5, 6), F4))},
     TypeError, r"^mask: expected a boolean array"),
    ("attention", lambda: {"q": put(X), "k": put(Y), "v": put(V), "mask": put(np.ones((6, 5), bool))},
     ValueError, r"^mask: expected a shape that broadcasts to \(\.\.\., 5, 6\), got \(6, 5\)$"),
    ("relation_matrix", lambda: {"x": put(X), "scale": np.inf}, ValueError, r"^scale: .*inf$"),
    ("feature_map", lambda: {"x": put(X), "mlp": PHI, "out": put(np.ones((5, 3), F4))}, ValueError,
     r"^out: expected shape \(5, 2\), got \(5, 3\)$"),
    ("feature_map", lambda: {"x": put(X), "mlp": PHI, "out": put(np.ones((5, 2)))}, TypeError,
     r"^out: .*float64$"),
    ("attention_vjp", lambda: {"q": put(X), "k": put(Y), "v": put(V), "grad": put(np.ones((5, 4), F4))},
     ValueError, r"^grad: .*\(5, 3\).*\(5, 4\)$"),
    ("relation_matvec_vjp", lambda: {"x": put(X), "y": put(Y), "v": put(V), "grad": put(np.ones((5, 2), F4))},
     ValueError, r"^grad: expected shape \(5, 3\), that of the product, got \(5, 2\)$"),
    ("relation_matvec_vjp", lambda: {"x": put(X), "y": put(Y), "v": put(V), "grad": V[:5]}, TypeError,
     r"^grad: .* got an array of NumPy in main memory$"),
    ("relation_matrix", lambda: {"x": put(X), "y": put(Y), "link": "gaussian", "scale": -1.0}, ValueError,
     r"^scale: expected a number >= 0 with link 'gaussian', got -1\.0$"),
    ("relation_matrix", lambda: {"x": put(X), "link": "matern32", "precision": "tf32"}, ValueError,
     r"^precision: expected None with link 'matern32'"),
    ("relation_matrix", lambda: {"x": put(X), "link": "cosine"}, ValueError, r"^link: .*'cosine'"),
    ("attention_scores_vjp", lambda: {"q": put(X), "k": put(Y), "grad": put(np.ones((6, 5), F4))}, ValueError,
     r"^grad: expected shape \(5, 6\), that of the scores, got \(6, 5\)$"),
    ("attention_scores_vjp", lambda: {"q": put(X), "k": put(Y), "grad": put(np.ones((5, 6), BF16))},
     TypeError, r"^grad: expected float32 or float64, got an array of dtype bfloat16 and shape \(5, 6\)$"),
    # 16 bits.
    ("relation_matrix", lambda: {"x": put(X.astype(BF16)), "y": put(Y)}, TypeError,
     r"^y: expected bfloat16, the dtype of x, got float32$"),
    ("relation_matrix", lambda: {"x": put(X), "y": put(Y.astype(F16))}, TypeError,
     r"^y: expected float32, the dtype of x, got float16$"),
    ("feature_map", lambda: {"x": put(X.astype(F16)), "mlp": PHI, "out": put(np.ones((5, 2), F4))}, TypeError,
     r"^out: expected float16, the dtype of x, got float32$"),
    ("relation_matrix_vjp", lambda: {"x": put(X.astype(BF16)), "y": None, "grad": put(np.ones((5, 5), BF16))},
     TypeError, r"^x: expected float32 or float64, got an array of dtype bfloat16 and shape \(5, 4\)$"),
    # Precision.
    ("relation_matrix", lambda: {"x": put(X), "precision": "fp8"}, ValueError,
     r"^precision: expected None, 'bf16' or 'tf32', got 'fp8'$"),
    ("relation_matrix", lambda: {"x": put(X.astype(float)), "precision": "tf32"}, ValueError,
     r"^precision: expected None for float64 arrays"),
    ("relation_matrix", lambda: {"x": put(X.astype(F16)), "precision": "bf16"}, ValueError,
     r"^precision: expected None for float16 arrays"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "error", "message"), REFUSED, ids=[c[3] for c in REFUSED])
def test_refusals(recorder, name, arguments, error, message):
    with pytest.raises(error, match=message):
        cuda.call(name, arguments())
    assert recorder.calls == []


@pytest.mark.parametrize("dtype", [F4, BF16], ids=str)
def test_overlaps_are_seen(recorder, dtype):
    both = put(np.ones((5, 8), dtype))
    left = DeviceArray(both.array[:, :4], both.memory, 0)
    for columns, overlap in ((slice(3, 5), True), (slice(4, 6), False)):
        arguments = {"x": left, "mlp": PHI, "out": DeviceArray(both.array[:, columns], both.memory, 0)}
        if overlap:
            with pytest.raises(ValueError, match=r"^out: .* apart from x, got an array that overlaps it$"):
                cuda.call("feature_map", arguments)
        else:
            cuda.call("feature_map", arguments)


def test_tf32_is_for_devices():
    with pytest.raises(ValueError, match=r"^precision: .* for arrays in main memory, got 'tf32'$"):
        rk.relation_matrix(X, precision="tf32")


# The reasons why there is no device.


def test_without_kernels_the_reason_says_so(monkeypatch):
    if devices.extension() is None:
        assert cuda.why_not().startswith("not built: ")
        assert configuration()["cuda"] == cuda.why_not()
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
    with cuda_arrays.in_place_of_the_extension(None):
        assert not cuda.available()
        with pytest.raises(
            RuntimeError, match=r"^relkernels.retrieve: cannot compute on cuda:0: .*not built"
        ):
            cuda.call("retrieve", {"q": ones(5, 4), "keys": ones(5, 4), "k": 1})


def test_without_a_driver_or_a_gpu_the_reason_says_so(recorder, monkeypatch):
    recorder.devices = 0
    devices._missing_on.cache_clear()
    monkeypatch.setattr(devices.ctypes, "CDLL", lambda name: None)
    assert cuda.why_not() == "no GPU that the driver shows to this process"

    def no_library(name):
        raise OSError(name)

    monkeypatch.setattr(devices.ctypes, "CDLL", no_library)
    assert cuda.why_not() == "no NVIDIA driver: libcuda.so.1 does not load"
    assert devices.state() == f"{cuda.why_not()} (kernels for sm_80, sm_90a, CUDA 13.0)"
    with pytest.raises(RuntimeError, match=r"cuda:0: no NVIDIA driver"):
        cuda.call("relation_matrix", {"x": ones(5, 4)})


def test_without_an_array_library_the_reason_says_so(recorder, monkeypatch):
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
    assert cuda.why_not() == "no arrays: neither CuPy nor PyTorch is installed"


def test_with_everything_the_state_names_the_gpus(recorder, monkeypatch):
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: name if name == "torch" else None)
    assert cuda.available()
    gpu = "NVIDIA H200 (compute capability 9.0, 141 GiB, 132 multiprocessors)"
    assert devices.state() == f"{gpu}, {gpu}; kernels for sm_80, sm_90a, CUDA 13.0; arrays of PyTorch"


def test_an_old_gpu_is_refused(recorder):
    recorder.capability = "7.5"
    with pytest.raises(RuntimeError, match=r"capability is 7\.5, the kernels need 8\.0"):
        cuda.call("relation_matrix", {"x": ones(5, 4)})


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        ("8.0", ("sm_80",), True), ("8.9", ("sm_80",), True), ("8.0", ("sm_86",), False),
        ("9.0", ("sm_80",), False), ("9.0", ("sm_80", "sm_90a"), True), ("9.0", ("compute_80",), True),
        ("8.0", ("sm_90a",), False), ("10.0", ("sm_90a",), False), ("10.0", ("sm_90a", "compute_80"), True),
        ("12.0", ("sm_100", "compute_90a"), False), ("10.3", ("sm_100f",), True),
        ("12.0", ("sm_100f",), False), ("12.0", ("native",), True),
    ],
)  # fmt: skip
def test_a_gpu_that_no_kernel_was_built_for_is_refused(recorder, capability, built, runs):
    recorder.capability, recorder.architectures = capability, built
    devices._missing_on.cache_clear()
    if runs:
        cuda.call("relation_matrix", {"x": ones(5, 4)})
        return
    names = ", ".join(built)
    with pytest.raises(RuntimeError, match=rf"is {capability}, the kernels are built for {names}; to build"):
        cuda.call("relation_matrix", {"x": ones(5, 4)})
