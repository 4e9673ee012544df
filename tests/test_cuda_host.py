"""The host side of the CUDA engine, without kernels: the arguments it passes to them, where and when."""

import gc
import subprocess
import sys
import textwrap
import threading
import types
import weakref

import cuda_arrays
import numpy as np
import pytest
import relkernels as rk
from cuda_arrays import BF16, F16, KIND, DeviceArray
from cuda_recorder import Array, ones, put
from relkernels import cuda
from relkernels.cuda import libraries, mlps

F4 = np.float32
PHI = rk.MLP.random([4, 8, 2], random_state=0)


def test_what_a_kernel_is_given(recorder):
    KIND.current_stream = 77
    x = put(np.ones((3, 1, 5, 8), F4)[..., ::2], 1)
    y = ones(2, 6, 4, index=1)
    out = cuda.call("relation_matrix", {"x": x, "y": y, "phi": PHI, "scale": 0.5, "heads": 2})
    ((name, context, arguments),) = recorder.calls
    assert (name, context.device, context.stream) == ("relation_matrix", 1, 77)
    rows, columns, phi, psi, arithmetic, link, scale, heads, written = arguments
    assert rows == Array(x.array.ctypes.data, (3, 2, 5, 4), (40, 0, 8, 2), "float32")
    assert columns == Array(y.array.ctypes.data, (3, 2, 6, 4), (0, 24, 4, 1), "float32")
    assert phi is psi
    assert (phi.arithmetic, phi.activation, phi.parameter) == ("float32", "relu", 0.0)
    assert [(w.shape, w.dtype) for w in phi.weights] == [((4, 8), "float32"), ((8, 2), "float32")]
    assert [b.shape for b in phi.biases] == [(8,), (2,)]
    assert (arithmetic, link, scale, heads) == ("float32", "identity", 0.5, 2)
    assert isinstance(out, DeviceArray)
    assert (out.shape, out.dtype, out.index) == ((3, 2, 2, 5, 6), F4, 1)
    assert written == Array(out.array.ctypes.data, out.shape, (120, 60, 30, 6, 1), "float32")
    assert KIND.current_device == 0


@pytest.mark.parametrize(
    ("dtype", "precision", "arithmetic"),
    [
        (F4, None, "float32"), (F4, "tf32", "tf32"), (F4, "bf16", "bfloat16"), (np.float64, None, "float64"),
        (BF16, None, "bfloat16"), (BF16, "bf16", "bfloat16"), (F16, None, "float16"),
    ],
)  # fmt: skip
def test_arithmetic(recorder, dtype, precision, arithmetic):
    phi = rk.MLP.random([4, 2], dtype=np.float64 if dtype == np.float64 else F4, random_state=0)
    q = ones(5, 4, dtype=dtype)
    arguments = {"q": q, "k": q, "v": q, "phi": phi, "precision": precision, "return_lse": True}
    out, lse = cuda.call("attention", arguments)
    ((_, _, given),) = recorder.calls
    assert given[5] == arithmetic
    assert given[3].arithmetic == arithmetic
    assert given[0] == Array(q.array.ctypes.data, (5, 4), (4, 1), np.dtype(dtype).name)
    assert out.dtype == dtype
    # The log-sum-exp keeps the precision of the sums.
    assert lse.dtype == (np.float64 if dtype == np.float64 else F4)
    assert given[-2].dtype == lse.dtype.name
    values, indices = cuda.call("retrieve", {"q": q, "keys": q, "k": 2, "precision": precision})
    assert (values.dtype, indices.dtype) == (dtype, np.int64)


def test_layouts_reach_the_kernel_in_elements(recorder):
    for dtype in (F4, np.float64, BF16, F16):
        a = np.ones((4, 5), dtype)
        for view in (a.T[:, :2], a[::-1, ::-1], np.broadcast_to(a[:1], (4, 5)), a[1::2]):
            x = put(view)
            cuda.call("relation_matrix", {"x": x})
            given = recorder.calls[-1][2][0]
            steps = tuple(step // view.itemsize for step in view.strides)
            assert given == Array(x.array.ctypes.data, view.shape, steps, np.dtype(dtype).name)


def test_masks_are_broadcast_without_a_copy(recorder):
    q, mask = ones(2, 5, 4), put(np.ones((1, 6), bool))
    cuda.call("attention_scores", {"q": q, "k": ones(6, 4), "mask": mask, "causal": True})
    given = recorder.calls[0][2]
    assert given[6] == Array(mask.array.ctypes.data, (2, 5, 6), (0, 0, 1), "bool")
    assert given[7] == (None, 0)


def test_one_vector_comes_back_as_one(recorder):
    out = cuda.call("relation_matvec", {"x": ones(5, 4), "y": ones(6, 4), "v": ones(6), "link": "exp"})
    *_, link, scale, written = recorder.calls[0][2]
    assert (link, scale, written.shape) == ("exp", 1.0, (5, 1))
    assert out.shape == (5,)
    assert out.array.ctypes.data == written.pointer


def test_a_single_point_comes_back_as_a_vector(recorder):
    x = ones(4)
    out = cuda.call("feature_map", {"x": x, "mlp": PHI})
    points, *_, written = recorder.calls[0][2]
    assert (points.pointer, points.shape) == (x.array.ctypes.data, (1, 4))
    assert (written.pointer, written.shape) == (out.array.ctypes.data, (1, 2))
    assert out.shape == (2,)


def test_out_is_written_in_place_or_by_way_of_a_copy(recorder):
    x = ones(5, 4)
    packed, strided = ones(5, 2), put(np.ones((5, 4), F4)[:, ::2])
    assert cuda.call("feature_map", {"x": x, "mlp": PHI, "out": packed}) is packed
    assert recorder.calls[-1][2][-1].pointer == packed.array.ctypes.data
    assert cuda.call("feature_map", {"x": x, "mlp": PHI, "out": strided}) is strided
    assert recorder.calls[-1][2][-1].strides == (2, 1)
    assert np.isnan(strided.array).all()  # a copy of the array that the recorder did not write


def test_gradients_are_of_the_kind(recorder):
    x, y = ones(3, 1, 5, 4), ones(2, 6, 4)
    grad = ones(3, 2, 5, 6)
    result = cuda.call("relation_matrix_vjp", {"x": x, "y": y, "grad": grad, "phi": PHI})
    grad_x, grad_y, grad_phi, grad_psi = result
    assert [name for name, _, _ in recorder.calls] == [
        "feature_map", "feature_map", "relation_matrix_vjp", "feature_map_vjp", "feature_map_vjp",
    ]  # fmt: skip
    assert isinstance(grad_phi, rk.MLPGradient)
    assert grad_psi is None
    assert (grad_x.shape, grad_y.shape) == ((3, 1, 5, 4), (2, 6, 4))
    assert [w.shape for w in grad_phi.weights] == [(4, 8), (8, 2)]
    assert all(isinstance(a, DeviceArray) for a in (grad_x, grad_y, *grad_phi.weights, *grad_phi.biases))
    plain = rk.MLP(PHI.weights)
    _, gradient = cuda.call("feature_map_vjp", {"x": x, "mlp": plain, "grad": ones(3, 1, 5, 2)})
    assert gradient.biases is None
    assert recorder.calls[-1][2][-1] == []


def test_nothing_to_write_starts_nothing(recorder):
    none = ones(0, 4)
    for name, arguments in {
        "feature_map": {"x": none, "mlp": PHI},
        "relation_matrix": {"x": none, "y": ones(5, 4)},
        "attention": {"q": none, "k": ones(5, 4), "v": ones(5, 3), "return_lse": True},
        "retrieve": {"q": none, "keys": ones(5, 4), "k": 2},
        "relation_matvec": {"x": none, "y": ones(5, 4), "v": ones(5, 3)},
    }.items():
        result = cuda.call(name, arguments)
        assert (result[0] if isinstance(result, tuple) else result).shape[0] == 0
    assert recorder.calls == []
    assert cuda.call("attention", {"q": ones(5, 4), "k": none, "v": ones(0, 3)}).shape == (5, 3)
    assert len(recorder.calls) == 1


def test_weights_are_packed_once_for_a_device_and_an_arithmetic(recorder):
    phi = rk.MLP.random([4, 8, 2], random_state=0)
    for _ in range(3):
        cuda.call("feature_map", {"x": ones(5, 4), "mlp": phi})
    assert len({id(given[1]) for _, _, given in recorder.calls}) == 1
    assert KIND.synchronized == 1
    cuda.call("feature_map", {"x": ones(5, 4), "mlp": phi, "precision": "tf32"})
    cuda.call("feature_map", {"x": ones(5, 4, index=1), "mlp": phi})
    assert len({id(given[1]) for _, _, given in recorder.calls}) == 3
    assert [given[1].context.device for _, _, given in recorder.calls] == [0, 0, 0, 0, 1]
    assert KIND.synchronized == 3


def test_packed_weights_go_with_the_mlp(recorder):
    phi = rk.MLP.random([4, 8, 2], random_state=0)
    cuda.call("feature_map", {"x": ones(5, 4), "mlp": phi})
    memory = weakref.ref(mlps._packed[phi][KIND.name, 0, "float32"].memory)
    KIND.made.clear()
    recorder.calls.clear()
    del phi
    gc.collect()
    assert memory() is None
    assert KIND.synchronized == 1  # by packing; only one stream has read the weights

    phi = rk.MLP.random([4, 8, 2], random_state=0)
    for KIND.current_stream in (0, 5):
        cuda.call("feature_map", {"x": ones(5, 4), "mlp": phi})
    recorder.calls.clear()
    before = KIND.synchronized
    del phi
    gc.collect()
    assert KIND.synchronized == before + 1  # another stream may still read them


def test_weights_are_not_brought_while_a_graph_is_captured(recorder):
    phi, x = rk.MLP.random([4, 8, 2], random_state=0), ones(5, 4)
    KIND.capture = True
    with pytest.raises(RuntimeError, match=r"relkernels.feature_map: .* make the call once before"):
        cuda.call("feature_map", {"x": x, "mlp": phi})
    KIND.capture = False
    cuda.call("feature_map", {"x": x, "mlp": phi})
    KIND.capture = True
    cuda.call("feature_map", {"x": x, "mlp": phi})
    cuda.call("relation_matrix", {"x": x})
    assert KIND.synchronized == 1


def test_workspace_lives_as_long_as_its_kernel(recorder):
    recorder.workspace = 1000
    kept = []
    real = KIND.empty

    def empty(shape, element, device):
        made = real(shape, element, device)
        if element == "uint8":
            kept.append(weakref.ref(made))
        return made

    KIND.empty = empty
    try:
        cuda.call("attention_vjp", dict.fromkeys(("q", "k", "v", "grad"), ones(5, 4)))
    finally:
        del KIND.empty
    KIND.made.clear()
    assert len(kept) == 2  # attention, then its gradient
    assert all(reference() is None for reference in kept)


def test_memory_errors_name_the_bytes_and_leave_everything_usable(recorder):
    x = ones(100, 4)
    KIND.limit = 30_000
    with pytest.raises(MemoryError, match=r"relation_matrix: .*\(100, 100\) needs 40000 bytes.*cuda:0"):
        cuda.call("relation_matrix", {"x": x})
    recorder.workspace = 50_000
    with pytest.raises(MemoryError, match=r"retrieve: the workspace needs 50000 bytes"):
        cuda.call("retrieve", {"q": x, "keys": x, "k": 1})
    big = rk.MLP.random([4, 10_000], random_state=0)
    KIND.limit, recorder.workspace = 50_000, 0
    with pytest.raises(MemoryError, match=r"^a copy of the weights of an MLP needs 160000 bytes.*cuda:0"):
        cuda.call("feature_map", {"x": ones(1, 4), "mlp": big})
    KIND.limit = None
    huge = put(np.broadcast_to(np.ones((1, 2), F4), (2**40, 2)))
    with pytest.raises(MemoryError, match=r"needs 4835703278458516698824704 bytes"):
        cuda.call("relation_matrix", {"x": huge})
    assert cuda.call("relation_matrix", {"x": x}).shape == (100, 100)
    assert cuda.call("feature_map", {"x": x, "mlp": big}).shape == (100, 10_000)


def test_an_error_of_a_kernel_reaches_the_caller(recorder):
    recorder.error = RuntimeError("relkernels.retrieve: an illegal memory access was encountered")
    with pytest.raises(RuntimeError, match=r"relkernels.retrieve: an illegal"):
        cuda.call("retrieve", {"q": ones(5, 4), "keys": ones(5, 4), "k": 1})
    recorder.error = None
    cuda.call("relation_matrix", {"x": ones(5, 4)})


def test_threads_share_the_packed_weights(recorder):
    phi = rk.MLP.random([4, 8, 2], random_state=0)
    start = threading.Barrier(8)

    def work():
        start.wait()
        for _ in range(20):
            cuda.call("feature_map", {"x": ones(5, 4), "mlp": phi})

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(recorder.calls) == 160
    assert len({id(given[1]) for _, _, given in recorder.calls}) == 1


def test_no_operation_reads_what_an_address_points_to():
    """Arrays have invalid addresses: following one would crash the process."""
    code = """
        import itertools
        import numpy as np, relkernels as rk
        import cuda_arrays, cuda_recorder
        from relkernels import cuda
        from relkernels.cuda import libraries

        numbers = itertools.count()

        class Nowhere(cuda_arrays.DeviceArray):
            def __init__(self, *shape, dtype="float32"):
                self.shape, self.index, self.element, self.dtype = shape, 0, dtype, np.dtype(dtype)
                self.steps = tuple(np.cumprod((1, *shape[:0:-1]))[::-1].tolist())
                self.address = 4096 + 65536 * next(numbers)

        class Kind(cuda_arrays.Emulated):
            def describe(self, a): return libraries.Description(a.address, a.shape, a.steps, a.element)
            def empty(self, shape, element, device): return Nowhere(*shape, dtype=element)
            def view(self, a, shape, steps, offset): return Nowhere(*shape, dtype=a.element)
            def add(self, a, b): return a
            def sum(self, a, axes): return Nowhere(*(1 if i in axes else n for i, n in enumerate(a.shape)))
            def copy(self, out, a): pass
            def upload(self, a, device): return Nowhere(*a.shape, dtype=a.dtype.name)

        cuda_arrays.KIND = Kind()
        N, phi = Nowhere, rk.MLP.random([4, 8, 2], random_state=0)
        x, y, v, mask = N(3, 1, 5, 4), N(2, 6, 4), N(6, 3), N(5, 6, dtype="bool")
        out = N(5, 2); out.steps = (4, 2)
        recorder = cuda_recorder.Recorder()
        with cuda_arrays.in_place_of_the_extension(recorder):
            cuda.call("feature_map", dict(x=x, mlp=phi))
            cuda.call("feature_map", dict(x=N(5, 4), mlp=phi, out=out))
            cuda.call("relation_matrix", dict(x=x, y=y, phi=phi, heads=2))
            cuda.call("relation_matrix", dict(x=x, phi=phi, precision="bf16"))
            cuda.call("attention_scores", dict(q=x, k=y, mask=mask))
            cuda.call("attention", dict(q=x, k=y, v=v, phi=phi, mask=mask, causal=True, return_lse=True))
            cuda.call("retrieve", dict(q=x, keys=y, k=3, mask=mask))
            cuda.call("relation_matvec", dict(x=x, y=y, v=N(6), phi=phi))
            cuda.call("feature_map_vjp", dict(x=x, mlp=phi, grad=N(3, 1, 5, 2)))
            cuda.call("relation_matrix_vjp", dict(x=x, y=y, grad=N(3, 2, 5, 6), phi=phi))
            cuda.call("relation_matrix_vjp", dict(x=x, y=None, grad=N(3, 1, 5, 5), phi=phi))
            cuda.call("attention_vjp", dict(q=x, k=y, v=v, grad=N(3, 2, 5, 3), phi=phi, mask=mask))
            print(len(recorder.calls))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, cwd=__file__.rpartition("/")[0],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 23


def test_stand_ins_are_never_read(recorder):
    from relkernels.arrays.stand_ins import stand_in

    a = stand_in(None, None, 4096, (3, 4), (4, 1), "float32")
    for read in (
        lambda: a + 1, lambda: a.sum(), lambda: a.copy(), lambda: float(a[0, :1]), lambda: np.sum(a),
        lambda: a.__setitem__(0, 1), lambda: list(a), lambda: a.astype(int), lambda: np.isnan(a),
        lambda: bool(a),
    ):  # fmt: skip
        with pytest.raises(TypeError, match="cannot be read here"):
            read()
    assert "float32" in repr(a)
    assert np.broadcast_to(a, (2, 3, 4)).steps == (0, 4, 1)


def test_arrays_of_jax_go_by_way_of_another_library(recorder, monkeypatch):
    """Without JAX: a kind that is converted to emulated arrays and back, as JAX arrays are to PyTorch's."""
    module = types.ModuleType("other")

    class Other(DeviceArray):
        pass

    Other.__module__ = "other"

    class Kind(cuda_arrays.Emulated):
        name = "Other"

        def array_class(self):
            return Other

        def through(self, call, name, arguments, arrays):
            assert arrays == ("x", "y")
            for n in arrays:
                a = arguments[n]
                arguments[n] = DeviceArray(a.array, a.memory, a.index)
            return "back", call(name, arguments)

    module.KIND = Kind()
    monkeypatch.setitem(sys.modules, "other", module)
    monkeypatch.setitem(libraries._MODULES, "other", "other")
    x = ones(5, 4)
    given = Other(x.array, x.memory, 0)
    word, result = cuda.call("relation_matrix", {"x": given, "y": given})
    assert word == "back"
    assert type(result) is DeviceArray


def test_excluded_lists_are_copied_once_and_broadcast(recorder):
    q, keys, lists = ones(2, 5, 4), ones(6, 4), np.array([[3], [-1], [0], [5], [1]])
    for exclude in (lists, put(lists)):
        cuda.call("retrieve", {"q": q, "keys": keys, "k": 1, "exclude": exclude})
        ranges, columns, first = recorder.calls[-1][2][-1]
        assert (ranges.shape, ranges.strides, ranges.dtype) == ((2, 5, 2), (0, 2, 1), "int64")
        assert (columns.shape, columns.dtype, first) == ((5,), "int64", 0)
        assert recorder.calls[-1][2][5] is None


def test_a_graph_cannot_capture_what_waits(recorder):
    KIND.capture = True
    q, keys, lists = ones(5, 4), ones(6, 4), np.arange(5)
    for name, words, more in [
        ("retrieve", "an argument in main memory is copied to cuda:0 and", {"k": 1, "exclude": lists}),
        ("retrieve", "exclude is read from cuda:0 and", {"k": 1, "exclude": put(lists)}),
        ("retrieve_above", "a threshold is checked on cuda:0 and", {"threshold": ones(5)}),
        ("retrieve_above", "an argument in main memory", {"threshold": 1.0}),
    ]:
        with pytest.raises(RuntimeError, match=rf"^relkernels.{name}: {words}.* a graph cannot capture$"):
            cuda.call(name, {"q": q, "keys": keys, **more})
    for more in ({"loss": "softmax"}, {"target": put(lists)}, {"sample_weight": ones(5)}):
        with pytest.raises(
            RuntimeError, match=r"^relkernels.relation_loss: an argument is .* cannot capture$"
        ):
            cuda.call("relation_loss", {"x": q, "y": None, "target": ones(5, 5), **more})
    assert recorder.calls == []
    cuda.call("relation_loss", {"x": q, "y": None, "target": ones(5, 5)})
    assert len(recorder.calls) == 1
