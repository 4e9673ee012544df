"""Arrays of every kind: the same results as NumPy's, of the kind that came in, without a copy."""

import subprocess
import sys
import types

import ml_dtypes
import numpy as np
import pytest
import relkernels as rk
from dlpack_producer import Producer
from relkernels import _core, arrays
from relkernels._half import narrow, widen
from strategies import mlp, normal

BF16 = np.dtype(ml_dtypes.bfloat16)


class Library:
    """One library's arrays: from NumPy and back."""

    def __init__(self, name):
        self.name = name
        module = {"torch": "torch", "jax": "jax.numpy", "array_api_strict": "array_api_strict"}[name]
        self.module = pytest.importorskip(module, reason=f"{name} is not installed")

    def of(self, a, dtype=None):
        made = self.module.asarray(a.copy())  # copies: what is shared is shared with the library
        if dtype is None:
            return made
        kind = getattr(self.module, dtype)
        return made.to(kind) if self.name == "torch" else made.astype(kind)

    def to_numpy(self, a):
        if str(a.dtype).endswith("bfloat16"):
            a = a.float() if self.name == "torch" else a.astype("float32")
        return np.from_dlpack(a)

    def pointer(self, a):
        return arrays.from_dlpack(a).pointer

    def is_one(self, a):
        return arrays.kind_of(a).name == self.name


@pytest.fixture(params=["array_api_strict", "torch", "jax"])
def library(request):
    return Library(request.param)


@pytest.fixture(params=["torch", "jax"])
def with_halves(request):
    return Library(request.param)


def calls(x, y, v, mask, labels, indices, of=lambda a: a):
    """Every public operation on these arrays, by name; `of` makes further arrays of the kind."""
    rng = np.random.default_rng(1)
    phi, psi = mlp(rng, [6, 20, 8], np.float32, "gelu"), mlp(rng, [5, 8], np.float32)
    grad_f, grad_r, grad_v = (of(normal(rng, s, np.float32)) for s in [(7, 8), (7, 9), (7, 3)])
    weight = of(rng.random(7).astype(np.float32))
    return {
        "feature_map": lambda: rk.feature_map(x, phi),
        "MLP": lambda: phi(x),
        "relation_matrix": lambda: rk.relation_matrix(x, y, phi, psi, heads=2),
        "symmetric": lambda: rk.relation_matrix(x=x, phi=phi),
        "attention_scores": lambda: rk.attention_scores(x, y, phi, psi, mask=mask),
        "attention": lambda: rk.attention(x, y, v, phi, psi, mask=mask, return_lse=True),
        "retrieve": lambda: rk.retrieve(x, y, 3, phi, psi, mask=mask),
        "relation_matvec": lambda: rk.relation_matvec(x, y, v, phi, psi, link="exp", scale=0.1),
        "nngp_kernel": lambda: rk.nngp_kernel(x, depth=2),
        "feature_map_vjp": lambda: rk.feature_map_vjp(x, phi, grad_f),
        "relation_matrix_vjp": lambda: rk.relation_matrix_vjp(x, y, grad_r, phi, psi),
        "attention_vjp": lambda: rk.attention_vjp(x, y, v, grad_v, phi, psi, mask=mask),
        "relation_loss": lambda: rk.relation_loss(x, y, (labels, indices), phi, psi, sample_weight=weight),
        "relation_loss of values": lambda: rk.relation_loss(x, y, grad_r, phi, psi),
    }


def inputs(rng):
    mask = rng.random((7, 9)) < 0.8
    floats = [normal(rng, s, np.float32) for s in [(7, 6), (9, 5), (9, 3)]]
    return [*floats, mask, rng.integers(0, 3, 7), rng.integers(0, 3, 9)]


NAMES = list(calls(*[None] * 6))


def flat(result):
    """The arrays and numbers of a result."""
    if isinstance(result, (tuple, list)):
        return [a for part in result for a in flat(part)]
    return [] if result is None else [result]


@pytest.mark.parametrize("name", NAMES)
def test_results_are_numpys_and_of_the_kind_that_came_in(name, library, rng):
    given = inputs(rng)
    expected = flat(calls(*given)[name]())
    result = flat(calls(*map(library.of, given), library.of)[name]())
    assert len(result) == len(expected) > 0
    for a, b in zip(result, expected, strict=True):
        if isinstance(b, float):
            assert type(a) is float
        else:
            assert library.is_one(a)
            a = library.to_numpy(a)
            # Without its 64-bit mode JAX has no int64.
            assert a.dtype == b.dtype or (library.name, a.dtype) == ("jax", np.int32)
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", [n for n in NAMES if "loss" not in n])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_halves_are_computed_in_float32_and_rounded_back(name, dtype, with_halves, rng):
    given = inputs(rng)
    kind = BF16 if dtype == "bfloat16" else np.dtype(dtype)
    expected = flat(calls(*[a.astype(kind) if a.dtype.kind == "f" else a for a in given],
                          lambda a: a.astype(kind))[name]())  # fmt: skip
    of = with_halves.of
    halves = [of(a, dtype) if a.dtype.kind == "f" else of(a) for a in given]
    result = flat(calls(*halves, lambda a: of(a, dtype))[name]())
    assert any(str(a.dtype).endswith(dtype) for a in result)
    for a, b in zip(result, expected, strict=True):
        assert with_halves.is_one(a)
        assert str(a.dtype).endswith(b.dtype.name) or b.dtype == np.int64
        np.testing.assert_array_equal(with_halves.to_numpy(a), b.astype(np.float32))


def test_strides_of_other_libraries(rng):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x, y = normal(rng, (6, 7), np.float32), normal(rng, (2, 9, 12), np.float32)
    result = rk.relation_matrix(torch.asarray(x).T, torch.asarray(y)[:, 1::2, ::2])
    np.testing.assert_array_equal(result.numpy(), rk.relation_matrix(x.T, y[:, 1::2, ::2]))
    result = rk.relation_matrix(torch.asarray(x)[:1].expand(5, 7), torch.asarray(x))
    np.testing.assert_array_equal(result.numpy(), rk.relation_matrix(np.broadcast_to(x[:1], (5, 7)), x))
    assert rk.relation_matrix(torch.empty(0, 3), torch.empty(4, 3)).shape == (0, 4)


# ---- no copy -------------------------------------------------------------------------------------


def test_kernels_read_and_write_the_librarys_own_memory(library, rng, monkeypatch):
    met = []
    original = _core.attention

    def watched(*args):
        met.extend(a.ctypes.data for a in args if isinstance(a, np.ndarray))
        return original(*args)

    monkeypatch.setattr(_core, "attention", watched)
    x, _, v, mask, *_ = inputs(rng)
    q, k, v, mask = map(library.of, (x, normal(rng, (9, 6), np.float32), v, mask))
    given = [q, k, v, mask]
    if library.name == "jax":  # its arrays never change: there is no out
        rk.attention(q, k, v, mask=mask)
        assert met[:4] == [library.pointer(a) for a in given]
        return
    out = library.of(np.full((7, 3), np.nan, np.float32))
    assert rk.attention(q, k, v, mask=mask, out=out) is out
    assert met == [library.pointer(a) for a in (*given, out)]
    assert np.isfinite(library.to_numpy(out)).all()


def test_results_are_the_memory_that_the_kernels_wrote(library, monkeypatch):
    written = []
    original = _core.feature_map

    def watched(*args):
        written.append(args[-1].ctypes.data)
        return original(*args)

    monkeypatch.setattr(_core, "feature_map", watched)
    x = library.of(np.ones((3000, 100), np.float32))
    # Above a mebibyte results begin on a cache line, as JAX wants memory that it takes over.
    result = rk.MLP.random([100, 100])(x)
    assert library.pointer(result) == written[0]


def test_memory_taken_is_that_of_the_result(library):
    import tracemalloc

    x = library.of(np.ones((400_000, 64), np.float32))
    phi = rk.MLP.random([64, 2])
    tracemalloc.start()
    result = phi(x)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert result.shape == (400_000, 2)
    assert peak < 400_000 * 2 * 4 * 1.1


RESIDENT = """
import resource
import relkernels as rk
import torch
x = torch.ones((1_000_000, 64))
phi = rk.MLP.random([64, 2])
phi(x[:1000])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert phi(x).shape == (1_000_000, 2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_resident_memory_grows_by_the_result():
    pytest.importorskip("torch", reason="torch is not installed")
    done = subprocess.run([sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 32_000  # KiB: the result has 8 MB, the input 256


# ---- out ------------------------------------------------------------------------------------------


def test_pairs_are_written_and_returned(rng):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x, y, v, mask, *_ = (torch.asarray(a) for a in inputs(rng))
    keys = y @ torch.ones(5, 6)
    out = torch.empty(7, 3), torch.empty(7, 3, dtype=torch.int64)
    assert rk.retrieve(x, keys, 3, out=out) is out
    for written, expected in zip(out, rk.retrieve(x, keys, 3), strict=True):
        assert torch.equal(written, expected)
    out = torch.empty(3, 7).T, torch.empty(14)[::2]
    assert rk.attention(x, keys, v, mask=mask, return_lse=True, out=out) is out
    for written, expected in zip(out, rk.attention(x, keys, v, mask=mask, return_lse=True), strict=True):
        assert torch.equal(written, expected)
    half = torch.empty(7, 9, dtype=torch.bfloat16)
    assert rk.relation_matrix(x.bfloat16(), keys.bfloat16(), out=half) is half
    assert torch.equal(half, rk.relation_matrix(x.bfloat16(), keys.bfloat16()))
    out = torch.empty(7, 2, dtype=torch.float16), torch.empty(7, 2, dtype=torch.int64)
    assert rk.retrieve(x.half(), keys.half(), 2, out=out) is out
    assert torch.equal(out[0], rk.retrieve(x.half(), keys.half(), 2)[0])


# ---- bad input ------------------------------------------------------------------------------------


class Cuda(Producer):
    """An array on a CUDA device, its memory out of reach."""

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
    with pytest.raises(TypeError, match=rf"k: expected an array of {name} on cpu, .* got one of test_arrays "
                                        r"on cuda:1"):  # fmt: skip
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
    """A stand-in for relkernels.cuda that keeps what it is called with."""
    module = types.ModuleType("relkernels.cuda")
    module.calls = []
    module.call = lambda name, arguments: module.calls.append((name, arguments)) or "from the device"
    monkeypatch.setitem(sys.modules, "relkernels.cuda", module)
    monkeypatch.setattr(rk, "cuda", module, raising=False)
    return module


def test_arrays_on_a_cuda_device_are_handed_on_as_they_came(cuda, monkeypatch):
    monkeypatch.setattr(Cuda, "__dlpack__", lambda *_, **__: pytest.fail("an array was converted"))
    x, y, v, out = Cuda(), Cuda(), Cuda((5, 3)), Cuda()
    phi = rk.MLP.random([4, 2])
    assert rk.relation_matrix(x, y, phi, scale=2.0) == "from the device"
    assert rk.retrieve(x, y, 3, out=(out, out)) == "from the device"
    assert phi(x) == "from the device"
    assert rk.relation_loss(x, None, (v, v)) == "from the device"
    assert rk.nngp_kernel(Cuda(device=(13, 0)), depth=2) == "from the device"
    assert cuda.calls[:4] == [
        ("relation_matrix", {"x": x, "y": y, "phi": phi, "scale": 2.0}),
        ("retrieve", {"q": x, "keys": y, "k": 3, "out": (out, out)}),
        ("feature_map", {"x": x, "mlp": phi}),
        ("relation_loss", {"x": x, "y": None, "target": (v, v)}),
    ]
    assert cuda.calls[4][0] == "nngp_kernel"


def test_what_stays_on_the_host_says_so(cuda):
    with pytest.raises(TypeError, match=r"weights\[0\]: expected an array in the host's memory, .* cuda:0"):
        rk.MLP([Cuda()])
    with pytest.raises(TypeError, match=r"x: expected an array in the host's memory, .* cuda:0"):
        rk.as_linear_operator(Cuda())
    assert cuda.calls == []


# ---- maps, kinds, halves --------------------------------------------------------------------------


def test_weights_of_any_kind_make_the_same_map(library, rng):
    weights = [normal(rng, (4, 8), np.float32), normal(rng, (8, 2), np.float32)]
    biases = [normal(rng, (8,), np.float32), normal(rng, (2,), np.float32)]
    theirs = rk.MLP([library.of(w) for w in weights], [library.of(b) for b in biases], "tanh")
    x = normal(rng, (5, 4), np.float32)
    np.testing.assert_array_equal(theirs(x), rk.MLP(weights, biases, "tanh")(x))
    assert all(type(w) is np.ndarray for w in theirs.weights)


def test_kinds(library):
    kind = arrays.kind_of(library.of(np.ones(3)))
    assert kind.name == library.name
    assert hasattr(kind.namespace, "from_dlpack")
    assert arrays.kind_of(np.ones(3)).name == "numpy"
    assert arrays.kind_of(np.ma.ones(3)).name == "numpy"


def test_a_tensor_class_of_the_users_own_is_torchs():
    torch = pytest.importorskip("torch", reason="torch is not installed")

    class Mine(torch.Tensor):
        pass

    assert arrays.kind_of(torch.ones(2, 3).as_subclass(Mine)).name == "torch"
    assert type(rk.relation_matrix(torch.ones(2, 3).as_subclass(Mine))) is torch.Tensor


def test_rounding_to_bfloat16_is_ml_dtypes(rng):
    bits = np.concatenate([rng.integers(0, 2**32, 100_000), np.arange(0, 2**32, 0x8000)]).astype(np.uint32)
    values = bits.view(np.float32)
    with np.errstate(invalid="ignore"):  # signalling NaN become quiet
        mine, theirs = narrow(values, "bfloat16").view(BF16), values.astype(BF16)
    nan = np.isnan(values)
    np.testing.assert_array_equal(mine.view(np.uint16)[~nan], theirs.view(np.uint16)[~nan])
    assert np.isnan(mine[nan].astype(np.float32)).all()
    every = np.arange(2**16, dtype=np.uint16)
    np.testing.assert_array_equal(widen(every, "bfloat16"), every.view(BF16).astype(np.float32))
    table = every.reshape(256, 256).T
    np.testing.assert_array_equal(narrow(widen(table, "bfloat16"), "bfloat16")[:127], table[:127])


def test_bfloat16_needs_no_ml_dtypes():
    pytest.importorskip("torch", reason="torch is not installed")
    code = (
        "import sys; sys.modules['ml_dtypes'] = None\n"
        "import torch, relkernels as rk\n"
        "x = torch.ones(3, 4, dtype=torch.bfloat16)\n"
        "r = rk.relation_matrix(x)\n"
        "assert r.dtype == torch.bfloat16 and (r == 4).all()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
