"""Calls of relkernels.jax from compiled programs: XLA's memory, errors, threads, processes, devices."""

import gc
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="jax is not installed")


import jax.numpy as jnp  # noqa: E402
import relkernels.jax as rkj  # noqa: E402
from jax import export  # noqa: E402
from relkernels import ops, relu_power  # noqa: E402
from relkernels.jax import _host, _operators, relations  # noqa: E402

pytestmark = pytest.mark.skipif(
    not _operators._IN_PLACE, reason="this version of XLA's interface is not known: calls copy"
)

IMPORTS = """
import hashlib, sys, time
import jax, jax.export, jax.numpy as jnp, numpy as np, relkernels.jax as rkj
from relkernels.jax._host import hosted
from relkernels.jax._operators import call
"""


def run(code, *arguments):
    """Return what a separate process prints, which has to end normally."""
    command = [sys.executable, "-c", IMPORTS + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture
def hosted(monkeypatch):
    """Return the decorator of functions that are known by a name, here until the end of the test."""
    monkeypatch.setattr(_host, "_HOSTS", dict(_host._HOSTS))
    yield _host.hosted
    _host._parsed.cache_clear()
    jax.clear_caches()


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape, jnp.float32)


def called(name, x, result=None, leading=2, **options):
    result = x if result is None else result
    shape = jax.ShapeDtypeStruct(result.shape, result.dtype)
    return jax.block_until_ready(_operators.call(name, shape, (leading,), (x,), **options))


def address(a):
    return a.__array_interface__["data"][0]


# ---- memory ------------------------------------------------------------------------------------------------

Q, K, V = normal(0, 5, 3), normal(1, 7, 3), normal(2, 7, 2)
MAP = rkj.MLP.random(jax.random.key(3), [3, 4])

# Functions that write their results in place: their module, a call, and the arrays that it passes on.
IN_PLACE = {
    "relation_matrix": (ops, lambda: rkj.relation_matrix(Q, K), (Q, K)),
    "relation_matvec": (ops, lambda: rkj.relation_matvec(Q, K, V), (Q, K, V)),
    "attention": (ops, lambda: rkj.attention(Q, K, V, return_lse=True), (Q, K, V)),
    "attention_scores": (ops, lambda: rkj.attention_scores(Q, K), (Q, K)),
    "nngp_kernel": (relations.nngp, lambda: rkj.nngp_kernel(Q, K), (Q, K)),
    "feature_map": (ops, lambda: rkj.feature_map(Q, MAP), (Q,)),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_kernels_read_and_write_the_memory_of_xla(name, monkeypatch):
    module, call, given = IN_PLACE[name]
    compute, seen = getattr(module, name), []

    def watched(*arguments, out, **options):
        arrays = [a for a in arguments if isinstance(a, np.ndarray)]
        outs = out if isinstance(out, tuple) else (out,)
        seen.append(([address(a) for a in arrays], [address(a) for a in outs]))
        assert not any(a.flags.writeable for a in arrays)
        return compute(*arguments, out=out, **options)

    monkeypatch.setattr(module, name, watched)
    results = jax.block_until_ready(call())
    ((arrays, outs),) = seen
    assert arrays == [a.unsafe_buffer_pointer() for a in given]
    results = results if isinstance(results, tuple) else (results,)
    assert outs == [a.unsafe_buffer_pointer() for a in results]


def test_batches_are_not_copied(hosted):
    seen = []

    @hosted("probe", in_place=True)
    def probe(x, y, *, out):
        seen.append((address(x), x.shape, address(y), y.shape, address(out), out.shape))
        out[...] = x + y

    x, y = normal(0, 6, 4, 5, 3), normal(1, 5, 3)
    shape = jax.ShapeDtypeStruct((5, 3), jnp.float32)
    many = jax.vmap(jax.vmap(lambda x: _operators.call("probe", shape, (2, 2), (x, y))))
    found = jax.block_until_ready(many(x))
    np.testing.assert_array_equal(found, x + y)
    (one,) = seen
    assert one[:2] == (x.unsafe_buffer_pointer(), x.shape)
    assert one[2:4] == (y.unsafe_buffer_pointer(), y.shape) or one[3] == (6, 4, 5, 3)
    assert one[4:] == (found.unsafe_buffer_pointer(), found.shape)

    seen.clear()  # a loop: each item is a part of the same memory
    many = jax.vmap(lambda x: _operators.call("probe", shape, (None, None), (x, y)))
    found = jax.block_until_ready(many(x[0]))
    np.testing.assert_array_equal(found, x[0] + y)
    starts = [found.unsafe_buffer_pointer() + i * 5 * 3 * 4 for i in range(4)]
    assert [one[4] for one in seen] == starts


def test_arguments_are_read_only(hosted):
    @hosted("writes", in_place=True)
    def writes(x, *, out):
        x[...] = 0

    with pytest.raises(Exception, match="read-only"):
        called("writes", Q)


@pytest.mark.parametrize(
    "dtype", ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"]
)
def test_dtypes(dtype, hosted):
    seen = []

    @hosted("copies", in_place=True)
    def copies(x, *, out):
        seen.append((x.dtype, out.dtype, x.shape))
        out[...] = x

    with jax.enable_x64(True):
        for shape in ((), (3,), (2, 3, 4)):
            values = np.arange(np.prod(shape, dtype=int)).reshape(shape) % 5 - (0 if dtype[0] in "?u" else 2)
            x = jnp.asarray(values.astype(dtype))
            np.testing.assert_array_equal(called("copies", x), x)
            assert seen.pop() == (np.dtype(dtype), np.dtype(dtype), shape)
        with pytest.raises(Exception, match="NumPy has no dtype"):
            called("copies", jnp.ones(3, jnp.bfloat16))


def test_results_without_an_address_in_xla_are_copied_to_it(hosted):
    @hosted("returns")
    def returns(x):
        return np.float64(x.sum()), (x + 1).T

    shapes = (jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((3, 5), jnp.float32))
    total, moved = _operators.call("returns", shapes, (2,), (Q,))
    np.testing.assert_allclose(total, Q.sum(), rtol=1e-6)
    np.testing.assert_array_equal(moved, (Q + 1).T)


def test_empty_arrays():
    empty = jnp.zeros((0, 3))
    assert rkj.relation_matrix(empty).shape == (0, 0)
    assert rkj.relation_matrix(empty, K).shape == (0, 7)
    np.testing.assert_array_equal(rkj.relation_matvec(Q, empty, empty), np.zeros((5, 3)))
    np.testing.assert_array_equal(rkj.attention(Q, empty, empty), np.zeros((5, 3)))
    assert jax.grad(lambda x: rkj.relation_matrix(x, K).sum())(empty).shape == (0, 3)
    # Batches without items, of an array without leading dimensions and of gradients.
    nothing = jnp.zeros(0)
    assert jax.vmap(lambda s: rkj.attention(Q, K, V, scale=s))(nothing).shape == (0, 5, 2)
    gradient = jax.grad(lambda q: rkj.attention(q, K, V).sum())
    assert jax.vmap(gradient)(jnp.zeros((0, 5, 3))).shape == (0, 5, 3)
    # XLA may leave out such a call, so that it is also made without XLA.
    text = _host.described("relation_matrix", (2, 2, 0), (2, 2, None), {"link": "identity", "heads": 1})
    shapes = (jax.ShapeDtypeStruct((5, 7), np.float32),)
    (found,) = _host.computed(text, shapes, np.asarray(Q[None]), np.asarray(K[None]), np.asarray(nothing))
    assert found.shape == (0, 5, 7)


# ---- errors ------------------------------------------------------------------------------------------------


def test_messages_arrive():
    f = jax.jit(lambda x, s: rkj.relation_matrix(x, scale=s))
    for _ in range(3):
        with pytest.raises(Exception, match="ValueError: scale: expected a finite number, got nan"):
            jax.block_until_ready(f(Q, jnp.float32(np.nan)))
        np.testing.assert_allclose(f(Q, jnp.float32(2)), 2 * Q @ Q.T, rtol=1e-5)


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, KeyError])
def test_other_errors_arrive_with_their_place(error, hosted):
    @hosted("fails", in_place=True)
    def fails(x, *, out):
        raise error("of no check")

    with pytest.raises(Exception, match=rf"(?s){error.__name__}.*of no check.*{__name__}.py\(\d+\): fails"):
        called("fails", Q)


def test_errors_without_memory_or_message(hosted):
    @hosted("memory", in_place=True)
    def memory(x, *, out):
        raise MemoryError("too much")

    class OddError(ValueError):
        def __str__(self):
            raise RuntimeError

    @hosted("odd", in_place=True)
    def odd(x, *, out):
        raise OddError

    with pytest.raises(Exception, match="MemoryError: too much"):
        called("memory", Q)
    with pytest.raises(Exception, match="without a readable message"):
        called("odd", Q)


def test_failing_calls_leave_nothing(hosted):
    f = jax.jit(lambda x, s: rkj.relation_matrix(x, scale=s))
    scale = jnp.float32(np.nan)

    def fail(times):
        for _ in range(times):
            with pytest.raises(Exception, match="scale"):
                jax.block_until_ready(f(Q, scale))
        gc.collect()
        return sys.getallocatedblocks(), sum(isinstance(o, np.ndarray) for o in gc.get_objects())

    fail(200)
    blocks, arrays = fail(1)
    more_blocks, more_arrays = fail(1000)
    assert more_blocks - blocks < 500
    assert more_arrays == arrays


def test_an_interrupt_reaches_the_main_thread():
    code = """
@hosted("interrupted", in_place=True)
def interrupted(x, *, out):
    raise KeyboardInterrupt

x = jnp.ones((4, 3))
try:
    try:
        jax.block_until_ready(call("interrupted", jax.ShapeDtypeStruct(x.shape, x.dtype), (2,), (x,)))
    except Exception:
        pass
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted")
print(rkj.relation_matrix(x).sum())
"""
    assert run(code) == ["interrupted", "48.0"]


def test_a_process_may_end_before_its_calls():
    code = """
@hosted("slow", in_place=True)
def slow(x, *, out):
    time.sleep(0.2)
    out[...] = x

x = jnp.ones((1500, 1500))  # the products let JAX return before it has computed
f = jax.jit(lambda x: call("slow", jax.ShapeDtypeStruct(x.shape, x.dtype), (2,), (x @ x @ x,)))
kept = [f(x) for _ in range(4)]
print("end")
"""
    assert run(code) == ["end"]


# ---- threads, processes and devices ------------------------------------------------------------------------


def test_many_threads():
    f = jax.jit(rkj.relation_matrix)
    grad = jax.jit(jax.grad(lambda x, y: (rkj.relation_matrix(x, y) ** 2).sum()))

    def work(i):
        for j in range(30):
            x, y = normal(100 * i + j, 4 + i, 3), normal(j, 9, 3)
            np.testing.assert_allclose(f(x, y), x @ y.T, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(grad(x, y), 2 * x @ y.T @ y, rtol=1e-4, atol=1e-4)
        return i

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == list(range(8))


def program(x, y):
    phi = rkj.MLP([Q], activation="leaky_relu")
    r = rkj.attention(x, y, y, phi, window=(2, None), softcap=3.0)
    return r + rkj.nngp_kernel(x, depth=2, activation=relu_power(1.5), weight_std=np.float32(1.5))[:, :5]


def test_exported_programs_run_in_other_processes(tmp_path):
    pytest.importorskip("flatbuffers", reason="JAX exports programs by flatbuffers, which is not installed")
    x, y = normal(0, 6, 5), normal(1, 8, 5)
    checks = [export.DisabledSafetyCheck.custom_call("relkernels")]
    exported = export.export(jax.jit(program), platforms=["cpu"], disabled_checks=checks)(x, y)
    (tmp_path / "program").write_bytes(exported.serialize())
    np.savez(tmp_path / "arrays.npz", x=x, y=y, right=program(x, y))
    code = """
from pathlib import Path
folder = Path(sys.argv[1])
program = jax.export.deserialize(bytearray((folder / "program").read_bytes()))
arrays = np.load(folder / "arrays.npz")
print((np.asarray(program.call(arrays["x"], arrays["y"])) == arrays["right"]).all())
"""
    assert run(code, tmp_path) == ["True"]


def test_programs_are_the_same_in_every_process():
    """Else they could be neither cached on disk nor exported."""
    code = """
x = jnp.ones((6, 5))
attend = jax.jit(lambda x: rkj.attention(x, x, x, rkj.MLP([x.T], activation="leaky_relu"), window=2))
text = attend.lower(x).as_text()
assert "@relkernels" in text
print(hashlib.sha256(text.encode()).hexdigest())
"""
    assert run(code) == run(code)


def test_several_devices():
    code = """
from jax.sharding import NamedSharding, PartitionSpec as P
x = jax.random.normal(jax.random.key(0), (4, 8, 3))
right = np.einsum("bid,bjd->bij", x, x)
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("a",))
parts = jax.device_put(x, NamedSharding(mesh, P("a")))
np.testing.assert_allclose(jax.pmap(rkj.relation_matrix)(x[:2]), right[:2], rtol=1e-5, atol=1e-6)
np.testing.assert_allclose(jax.jit(rkj.relation_matrix)(parts), right, rtol=1e-5, atol=1e-6)
gradient = jax.grad(lambda x: (rkj.relation_matrix(x) * right).sum())
np.testing.assert_allclose(jax.jit(gradient)(parts), gradient(x), rtol=1e-4, atol=1e-4)
print(len(jax.devices()))
"""
    flags = "import os\nos.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=2'\n"
    done = subprocess.run(
        [sys.executable, "-c", flags + IMPORTS + code], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["2"], done.stderr


# ---- versions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [None, (0, 0), (0, 99), (1, 1)])
def test_an_unknown_version_is_not_used(version, monkeypatch):
    words = f"version {version[0]}.{version[1]}" if version else "the version"
    with pytest.warns(UserWarning, match=f"copies .*: {words} of .* is not known"):
        assert not _operators._registered(version)
    monkeypatch.setattr(_operators, "_IN_PLACE", False)
    jax.clear_caches()
    x, y = normal(0, 4, 5, 3), normal(1, 7, 3)
    assert "ffi_call" not in str(jax.make_jaxpr(rkj.relation_matrix)(x, y))
    np.testing.assert_allclose(rkj.relation_matrix(x, y), x @ y.T, rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(rkj.relation_matrix, (0, None))(x, y), x @ y.T, rtol=1e-5)
    indices = rkj.retrieve(Q, K, 2)[1]
    np.testing.assert_array_equal(indices, jax.lax.top_k(Q @ K.T, 2)[1])
    jax.clear_caches()


def test_other_devices_have_another_way():
    program = str(jax.make_jaxpr(rkj.relation_matrix)(Q, K))
    assert "ffi_call" in program
    assert "pure_callback" in program
