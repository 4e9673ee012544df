"""Tests that need a GPU: streams, threads, graphs, running out of memory, and compute-sanitizer.

Without a GPU all of them are skipped, with the reason.
"""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import cuda_arrays
import numpy as np
import pytest
import reference
import relkernels as rk
from relkernels import cuda
from strategies import mlp, normal

F4 = np.float32


@pytest.fixture(scope="module")
def torch_gpu():
    return cuda_arrays.gpu("torch")


@pytest.fixture(scope="module")
def cupy_gpu():
    return cuda_arrays.gpu("cupy")


def calls(rng, on):
    """Every operation on small arrays, by name: functions that return arrays of the library."""
    phi, psi = mlp(rng, [6, 40, 9], F4, "gelu"), mlp(rng, [5, 24, 9], F4, "tanh")
    x, y, v = (on.put(normal(rng, shape, F4)) for shape in ((70, 6), (131, 5), (131, 7)))
    grad_f, grad_r, grad_v = (on.put(normal(rng, shape, F4)) for shape in ((70, 9), (70, 131), (70, 7)))
    mask = on.put(rng.random((70, 131)) < 0.7)
    maps = {"phi": phi, "psi": psi}
    table = {
        "feature_map": {"x": x, "mlp": phi},
        "relation_matrix": {"x": x, "y": y, "heads": 3, **maps},
        "attention_scores": {"q": x, "k": y, "mask": mask, **maps},
        "attention": {"q": x, "k": y, "v": v, "causal": True, **maps},
        "retrieve": {"q": x, "keys": y, "k": 3, "mask": mask, **maps},
        "relation_matvec": {"x": x, "y": y, "v": v, "link": "exp", **maps},
        "feature_map_vjp": {"x": x, "mlp": phi, "grad": grad_f},
        "relation_matrix_vjp": {"x": x, "y": y, "grad": grad_r, **maps},
        "attention_vjp": {"q": x, "k": y, "v": v, "grad": grad_v, "mask": mask, **maps},
    }
    made = {name: (lambda n=name, a=a: cuda.call(n, a)) for name, a in table.items()}
    made["symmetric relation_matrix"] = lambda: cuda.call("relation_matrix", {"x": x, "phi": phi})
    for precision in ("tf32", "bf16"):
        for name in ("feature_map", "relation_matrix", "attention", "retrieve", "relation_matvec"):
            arguments = {**table[name], "precision": precision}
            made[f"{name}, {precision}"] = lambda n=name, a=arguments: cuda.call(n, a)
    return made


def flat(result):
    if isinstance(result, (list, tuple)):
        return [a for part in result for a in flat(part)]
    return [] if result is None else [result]


def assert_same(on, results, expected):
    for a, b in zip(flat(results), flat(expected), strict=True):
        np.testing.assert_array_equal(on.fetch(a), b)


def test_work_goes_to_the_current_stream_of_pytorch(torch_gpu, rng):
    """While a stream is busy, a call returns at once; its result is right when the stream has finished."""
    import torch

    x = normal(rng, (500, 16), F4)
    there = torch_gpu.put(x)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
        r = cuda.call("relation_matrix", {"x": there})
        assert not stream.query()  # the call did not wait
    stream.synchronize()
    assert reference.relative_error(torch_gpu.fetch(r), reference.relation_matrix(x)) <= 1e-6


def test_work_goes_to_the_current_stream_of_cupy(cupy_gpu, rng):
    import cupy

    x = normal(rng, (500, 16), F4)
    there = cupy_gpu.put(x)
    cupy.cuda.Device().synchronize()
    loop = "long long t = clock64(); while (clock64() - t < n) {}"
    wait = cupy.RawKernel(f'extern "C" __global__ void wait(long long n) {{ {loop} }}', "wait")
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        wait((1,), (1,), (np.int64(200_000_000),))
        r = cuda.call("relation_matrix", {"x": there})
        assert not stream.done
    stream.synchronize()
    assert reference.relative_error(r.get(), reference.relation_matrix(x)) <= 1e-6


def test_several_streams_at_once(torch_gpu, rng):
    import torch

    table = calls(rng, torch_gpu)
    alone = {name: [torch_gpu.fetch(a) for a in flat(call())] for name, call in table.items()}
    streams = [torch.cuda.Stream() for _ in range(4)]
    torch.cuda.synchronize()
    found = []
    for stream in streams:
        with torch.cuda.stream(stream):
            found.append({name: call() for name, call in table.items()})
    torch.cuda.synchronize()
    for results in found:
        for name, result in results.items():
            assert_same(torch_gpu, result, alone[name])


@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_threads(library, rng):
    on = cuda_arrays.gpu(library)
    table = calls(rng, on)
    alone = {name: [on.fetch(a) for a in flat(call())] for name, call in table.items()}
    errors = []

    def work():
        try:
            for name, call in table.items():
                assert_same(on, call(), alone[name])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.mark.parametrize("name", list(calls(np.random.default_rng(0), cuda_arrays.EmulatedDevice())))
def test_a_graph_captures_and_replays(name, torch_gpu, rng):
    import torch

    call = calls(rng, torch_gpu)[name]
    expected = [torch_gpu.fetch(a) for a in flat(call())]  # copies the weights of the maps to the device
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = flat(call())
    for a in results:
        a.fill_(7)
    graph.replay()
    torch.cuda.synchronize()
    assert_same(torch_gpu, results, expected)


def test_a_first_call_in_a_graph_is_refused(torch_gpu, rng):
    import torch

    x, phi = torch_gpu.put(normal(rng, (5, 4), F4)), rk.MLP.random([4, 8, 2], random_state=0)
    with (
        pytest.raises(RuntimeError, match="make the call once before the capture"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        cuda.call("feature_map", {"x": x, "mlp": phi})
    assert cuda.call("feature_map", {"x": x, "mlp": phi}).shape == (5, 2)


@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_out_of_memory_leaves_the_device_usable(library, rng):
    on = cuda_arrays.gpu(library)
    x = normal(rng, (50, 4), F4)
    there = on.put(x)
    before = on.fetch(cuda.call("relation_matrix", {"x": there}))
    huge = on.put(np.broadcast_to(x[:1], (3_000_000, 4)))
    with pytest.raises(MemoryError, match=r"relation_matrix.* needs 36000000000000 bytes"):
        cuda.call("relation_matrix", {"x": huge})
    np.testing.assert_array_equal(on.fetch(cuda.call("relation_matrix", {"x": there})), before)


def test_several_devices(torch_gpu, rng):
    import torch

    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    x, phi = normal(rng, (70, 6), F4), mlp(rng, [6, 40, 9], F4)
    here, there = torch_gpu.put(x, 0), torch_gpu.put(x, 1)
    first = cuda.call("relation_matrix", {"x": here, "phi": phi})
    second = cuda.call("relation_matrix", {"x": there, "phi": phi})
    assert (first.device.index, second.device.index) == (0, 1)
    assert torch.cuda.current_device() == 0
    np.testing.assert_array_equal(torch_gpu.fetch(first), torch_gpu.fetch(second))
    with pytest.raises(TypeError, match=r"^y: .*cuda:0, as x is, got .*cuda:1"):
        cuda.call("relation_matrix", {"x": here, "y": there})


def test_tensors_that_require_gradients_are_refused_unless_asked(torch_gpu):
    import torch

    x = torch.ones(5, 4, device="cuda", requires_grad=True)
    with pytest.raises(TypeError, match=r"^x: .*requires no gradient"):
        cuda.call("relation_matrix", {"x": x})
    with torch.no_grad():
        assert cuda.call("relation_matrix", {"x": x}).shape == (5, 5)


def test_arrays_of_jax(rng):
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    cuda_arrays.gpu("torch")
    if jax.default_backend() != "gpu":
        pytest.skip("JAX finds no GPU")
    x = normal(rng, (70, 6), F4)
    r = cuda.call("relation_matrix", {"x": jax.numpy.asarray(x)})
    assert isinstance(r, jax.Array)
    assert reference.relative_error(np.asarray(r), reference.relation_matrix(x)) <= 1e-6


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck"])
def test_the_sanitizer_finds_nothing(tool):
    """A small case of every kernel in every arithmetic, run by compute-sanitizer."""
    cuda_arrays.gpu("cupy")
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not installed")
    script = Path(__file__).with_name("cuda_every_kernel.py")
    command = [sanitizer, f"--tool={tool}", "--error-exitcode=17", sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    if "Device not supported" in done.stdout + done.stderr:
        pytest.skip("compute-sanitizer does not support this device")
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "every kernel has run" in done.stdout
