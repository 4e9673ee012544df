"""Arrays of every kind: results equal those of NumPy, have the kind of the inputs, and need no copy."""

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import relkernels as rk
from libraries import Library, inputs
from relkernels import _core, arrays
from relkernels.arrays.half import narrow, widen
from strategies import mlp, normal

BF16 = np.dtype(ml_dtypes.bfloat16)


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
        "feature_map, a single point": lambda: rk.feature_map(x[1, :], phi),
        "MLP": lambda: phi(x),
        "relation_matrix": lambda: rk.relation_matrix(x, y, phi, psi, heads=2),
        "symmetric": lambda: rk.relation_matrix(x=x, phi=phi),
        "attention_scores": lambda: rk.attention_scores(x, y, phi, psi, mask=mask),
        "attention": lambda: rk.attention(x, y, v, phi, psi, mask=mask, return_lse=True),
        "retrieve": lambda: rk.retrieve(x, y, 3, phi, psi, mask=mask),
        "retrieve, padded": lambda: rk.retrieve(x, y, 12, phi, psi, mask=mask, pad=True),
        "retrieve, a single query": lambda: rk.retrieve(x[1, :], y, 3, phi, psi, mask=mask[1, :]),
        "retrieve_blocks": lambda: rk.retrieve_blocks(
            x, [y[:4, :], y[4:, :]], 12, phi, psi, mask=mask, pad=True
        ),
        "relation_matvec": lambda: rk.relation_matvec(x, y, v, phi, psi, link="exp", scale=0.1),
        "nngp_kernel": lambda: rk.nngp_kernel(x, depth=2),
        "normalize": lambda: rk.normalize(x),
        "normalize_vjp": lambda: rk.normalize_vjp(grad_f, grad_f),
        "feature_map_vjp": lambda: rk.feature_map_vjp(x, phi, grad_f),
        "relation_matrix_vjp": lambda: rk.relation_matrix_vjp(x, y, grad_r, phi, psi),
        "attention_vjp": lambda: rk.attention_vjp(x, y, v, grad_v, phi, psi, mask=mask),
        "relation_loss": lambda: rk.relation_loss(x, y, (labels, indices), phi, psi, sample_weight=weight),
        "relation_loss of values": lambda: rk.relation_loss(x, y, grad_r, phi, psi),
    }


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
            # JAX has int64 only in its 64-bit mode.
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
    if library.name == "jax":  # its arrays are immutable: there is no out
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
    # Results above 1 MiB are aligned to cache lines, as JAX requires of memory that it adopts.
    result = rk.MLP.random([100, 100], random_state=0)(x)
    assert library.pointer(result) == written[0]


def test_memory_taken_is_that_of_the_result(library):
    import tracemalloc

    x = library.of(np.ones((400_000, 64), np.float32))
    phi = rk.MLP.random([64, 2], random_state=0)
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
    out = torch.empty(7, 12).T[:, 0], torch.empty(12, dtype=torch.int64)
    assert rk.retrieve(x[0], keys, 12, pad=True, out=out) is out
    for written, expected in zip(out, rk.retrieve(x[0], keys, 12, pad=True), strict=True):
        assert torch.equal(written, expected)


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


def test_rounding_to_float16_is_numpys(rng):
    """At each number, half way to the next, one float either side, and anywhere."""
    bits = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32).view(np.uint32)
    half = np.uint32(1 << 12)
    near = [bits, bits + half, bits + half - 1, bits + half + 1, bits - 1, bits + 1]
    values = np.concatenate([*near, rng.integers(0, 1 << 32, 100_003, np.uint32)]).view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values.astype(np.float16)
    found, nan = narrow(values, "float16"), np.isnan(values)
    assert np.isnan(found[nan]).all()
    np.testing.assert_array_equal(found.view(np.uint16)[~nan], expected.view(np.uint16)[~nan])
