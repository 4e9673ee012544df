"""Ordinary calls, which the extension takes whole: the results are those of the Python functions."""

import inspect
import pickle

import numpy as np
import pytest
import relkernels as rk
from numpy.testing import assert_array_equal
from relkernels import _core
from relkernels.base.result import Result
from strategies import mlp, normal

# name: how many sides it has, whether values, and its plain options.
OPERATIONS = {
    "feature_map": [{}],
    "relation_matrix": [{}, {"scale": 0.3}, {"scale": -2.0, "heads": 1}],
    "relation_matvec": [{}, {"link": "exp", "scale": 0.3}, {"link": "relu"}, {"link": "square"}],
    "attention_scores": [{}, {"scale": 0.3, "causal": True}, {"causal": False, "align": "upper_left"}],
    "attention": [{}, {"scale": None, "causal": True}, {"scale": 2.0, "return_lse": False, "mask": None}],
    "retrieve": [{}, {"pad": True}, {"pad": False, "mask": None, "precision": None}],
    "relation_matrix_vjp": [{}, {"scale": 0.3, "of": None}, {"of": "x"}, {"of": "y", "heads": 1}],
}
# Gradients of maps are left to Python.
MAPPED = dict.fromkeys(OPERATIONS, ("none", "phi", "both", "psi")) | {"relation_matrix_vjp": ("none",)}


def arguments(name, rng, dtype, n, m, d, c, mapped):
    """The positional arguments of a call."""
    x, y = normal(rng, (n, d), dtype), normal(rng, (m, d), dtype)
    phi, psi = mlp(rng, [d, 5, 3], dtype, "gelu"), mlp(rng, [d, 3], dtype)
    maps = {"none": (), "phi": (phi,), "both": (phi, psi), "psi": (None, mlp(rng, [d, d], dtype))}[mapped]
    if name == "feature_map":
        return x, phi
    between = {
        "relation_matvec": (normal(rng, (m, c) if c else (m,), dtype),),
        "attention": (normal(rng, (m, c or 1), dtype),),
        "relation_matrix_vjp": (normal(rng, (n, m), dtype),),
        "retrieve": (1 + c % m,),
    }
    return x, y, *between.get(name, ()), *maps


def equal(a, b):
    """Equal to the bit, of the same dtype, shape and layout."""
    pairs = zip(a, b, strict=True) if isinstance(a, tuple) else [(a, b)]
    if isinstance(a, Result):
        assert type(a) is type(b)
        assert a.grad_scale == b.grad_scale
        assert type(a.grad_scale) is type(b.grad_scale)
    for one, other in pairs:
        if one is other is None:
            continue
        assert type(one) is type(other) is np.ndarray
        assert (one.dtype, one.shape, one.strides) == (other.dtype, other.shape, other.strides)
        assert one.flags.owndata
        assert one.flags.writeable
        assert_array_equal(one.view(f"u{one.itemsize}"), other.view(f"u{one.itemsize}"))


def taken(name, *args, **kwargs):
    """Whether the call is an ordinary one."""
    return _core.ordinary(name)(*args, **kwargs) is not NotImplemented


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", OPERATIONS)
def test_same_bits_as_by_way_of_python(name, dtype, rng):
    call = getattr(rk, name)
    for n, m, d, c in [
        (1, 1, 1, 0),
        (1, 7, 3, 1),
        (16, 16, 16, 2),
        (40, 3, 64, 5),
        (5, 300, 9, 0),
        (97, 13, 2, 3),
    ]:
        for mapped in MAPPED[name]:
            args = arguments(name, rng, dtype, n, m, d, c, mapped)
            for options in OPERATIONS[name]:
                assert taken(name, *args, **options)
                equal(call(*args, **options), call.__wrapped__(*args, **options))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_point_and_one_side(dtype, rng):
    x, phi, psi = normal(rng, (9, 4), dtype), mlp(rng, [4, 3], dtype), mlp(rng, [4, 3], dtype)
    cases = [
        ("feature_map", (x[2], phi)),
        ("retrieve", (x[2], x, 3)),
        ("retrieve", (x[2], x, 3, phi, psi)),
        ("relation_matrix", (x,)),
        ("relation_matrix", (x, None, phi)),
        ("relation_matrix", (x, None, phi, phi)),
        ("relation_matrix", (x, None, phi, psi)),
        ("relation_matrix", (x, None, None, mlp(rng, [4, 4], dtype))),
        ("relation_matrix_vjp", (x, None, normal(rng, (9, 9), dtype))),
    ]
    for name, args in cases:
        assert taken(name, *args)
        equal(getattr(rk, name)(*args), getattr(rk, name).__wrapped__(*args))


def test_not_a_number_goes_the_same_way(rng):
    x = normal(rng, (9, 4), np.float32)
    x[3, 1], x[5, 0] = np.nan, np.inf
    for name, args in [("relation_matrix", (x, x)), ("attention", (x, x, x)), ("retrieve", (x, x, 9))]:
        with np.errstate(all="ignore"):
            equal(getattr(rk, name)(*args), getattr(rk, name).__wrapped__(*args))


def test_keywords_and_positions_mean_the_same(rng):
    x, y, phi = normal(rng, (3, 4), np.float32), normal(rng, (5, 4), np.float32), mlp(rng, [4, 2], np.float32)
    expected = rk.relation_matrix(x, y, phi)
    for args, named in [((), {"x": x, "y": y, "phi": phi}), ((x,), {"phi": phi, "y": y, "psi": None})]:
        assert taken("relation_matrix", *args, **named)
        assert_array_equal(rk.relation_matrix(*args, **named), expected)


@pytest.mark.parametrize("name", ["feature_map", "relation_matrix", "relation_matvec", "attention"])
def test_out_is_written_and_returned(name, rng):
    args = arguments(name, rng, np.float32, 6, 7, 4, 3, "phi")
    expected = getattr(rk, name)(*args)
    out = np.full_like(expected, np.nan)
    assert taken(name, *args, out=np.empty_like(out))
    assert getattr(rk, name)(*args, out=out) is out
    assert_array_equal(out, expected)
    strided = np.full((*expected.shape, 2), np.nan, np.float32)[..., 0]
    read_only = np.empty_like(expected)
    read_only.flags.writeable = False
    shared = (
        args[0].ravel()[: expected.size].reshape(expected.shape) if expected.size <= args[0].size else args[0]
    )
    for bad in (strided, read_only, shared, expected[:-1], expected.astype(np.float64), [], expected.T):
        assert not taken(name, *args, out=bad)


class Subclass(np.ndarray):
    pass


def unusual(x):
    """Arrays that Python's checks must see."""
    misaligned = np.empty(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    misaligned[...] = x
    return {
        "empty": x[:0],
        "no features": x[:, :0],
        "strided": x[::2],
        "transposed": np.asfortranarray(x),
        "columns": x[:, :2],
        "misaligned": misaligned,
        "big-endian": x.astype(x.dtype.newbyteorder()),
        "half": x.astype(np.float16),
        "integers": x.astype(np.int32),
        "objects": x.astype(object),
        "complex": x.astype(np.complex64),
        "batch": x[None],
        "number": x[0, 0],
        "subclass": x.view(Subclass),
        "masked": np.ma.masked_array(x),
        "matrix": x.view(np.matrix),
        "other dtype": x.astype(np.float64),
        "list": x.tolist(),
        "bytes": x.tobytes(),
        "nothing": None,
    }


@pytest.mark.parametrize("kind", unusual(np.ones((4, 4), np.float32)))
@pytest.mark.parametrize("name", OPERATIONS)
def test_unusual_arrays_are_left_to_python(name, kind, rng):
    args = arguments(name, rng, np.float32, 4, 4, 4, 4, "none")
    assert taken(name, *args)
    for i, given in enumerate(args):
        if isinstance(given, np.ndarray):
            changed = [*args[:i], unusual(given)[kind], *args[i + 1 :]]
            if name.startswith("relation_matrix") and kind == "nothing" and i == 1:
                continue  # the symmetric relation
            assert not taken(name, *changed)


def test_read_only_and_unpickled_arrays_are_ordinary(rng):
    x = normal(rng, (3, 4), np.float32)
    x.flags.writeable = False
    own_dtype = x.astype(np.dtype("f4", metadata={"a": 1}))
    for given in (x, pickle.loads(pickle.dumps(x)), own_dtype):
        assert taken("relation_matrix", given, x)
        assert taken("relation_matrix", x, given)
    assert rk.relation_matrix(own_dtype, x).dtype is own_dtype.dtype


class Sub(rk.MLP):
    __slots__ = ()


def test_unusual_options_are_left_to_python(rng):
    x = normal(rng, (4, 4), np.float32)
    phi, double = mlp(rng, [4, 2], np.float32), mlp(rng, [4, 2], np.float64)
    for args, options in [
        ((x, x, phi, mlp(rng, [4, 3], np.float32)), {}),
        ((x, x, double), {}),
        ((x, x, mlp(rng, [3, 4], np.float32)), {}),
        ((x, x, Sub(phi.weights)), {}),
        ((x, x, phi._handle), {}),
        ((x, x[:, :3].copy()), {}),
        ((x, x), {"scale": 1}),
        ((x, x), {"scale": True}),
        ((x, x), {"scale": None}),
        ((x, x), {"scale": np.float32(1)}),
        ((x, x), {"scale": float("nan")}),
        ((x, x), {"scale": float("inf")}),
        ((x, x), {"scale": 1e39}),
        ((x, x), {"heads": 2}),
        ((x, x), {"heads": True}),
        ((x, x), {"heads": 2**70}),
        ((x, x), {"precision": "bf16"}),
        ((x, x), {"unknown": 1}),
        ((x, x), {"x": x}),
        ((x, x, None, None, 1.0), {}),
        ((), {}),
        ((np.ones((4100, 4), np.float32),) * 2, {}),  # a new result of more than 64 MiB
    ]:
        assert not taken("relation_matrix", *args, **options)
    for name, args, options in [
        ("retrieve", (x, x, 0), {}),
        ("retrieve", (x, x, 5), {"pad": True}),
        ("retrieve", (x, x, True), {}),
        ("retrieve", (x, x), {}),
        ("retrieve", (x, x, 1), {"pad": 1}),
        ("relation_matvec", (x, x, x), {"link": "cube"}),
        ("relation_matvec", (x, x, x), {"link": "\udc80"}),
        ("relation_matvec", (x, x, x[:3]), {}),
        ("attention", (x, x, x), {"causal": 1}),
        ("attention", (x, x, x), {"window": 2}),
        ("attention", (x, x, x), {"align": "lower_right"}),
        ("attention", (x, x, x), {"return_lse": True}),
        ("attention", (x, x, x), {"mask": np.ones((4, 4), bool)}),
        ("attention", (x, x, x), {"bias": x}),
        ("attention", (x, x, x), {"softcap": 2.0}),
        ("attention_scores", (x, x), {"bias": x}),
        ("attention_scores", (x, x), {"softcap": 2.0}),
        ("attention", (x, x, x[:3]), {}),
        ("feature_map", (x, None), {}),
        ("relation_matrix_vjp", (x, x, x, phi), {}),
        ("relation_matrix_vjp", (x, x, x[:3]), {}),
        ("relation_matrix_vjp", (x, None, x), {"of": "x"}),
        ("relation_matrix_vjp", (x, x, x), {"of": "z"}),
        ("relation_matrix_vjp", (x, x, x), {"of": 1}),
        ("feature_map", (x[0], double), {}),
    ]:
        assert not taken(name, *args, **options)


@pytest.mark.parametrize("name", OPERATIONS)
def test_functions_look_as_before(name):
    """The parameters are those of the Python function, which keeps its name, text and pickle."""
    call, short = getattr(rk, name), _core.ordinary(name)
    assert str(inspect.signature(short)) == str(
        inspect.Signature(
            [
                p.replace(annotation=inspect.Parameter.empty)
                for p in inspect.signature(call.__wrapped__).parameters.values()
            ]
        )
    )
    assert call.__name__ == name
    assert call.__doc__ == call.__wrapped__.__doc__
    assert pickle.loads(pickle.dumps(call)) is call
    assert _core.ordinary("nngp_kernel") is None


def test_large_results_begin_on_a_cache_line():
    x = np.ones((600, 4), np.float32)
    r = rk.relation_matrix(x, x + 1)
    assert r.ctypes.data % 64 == 0
    assert r.flags.writeable
    assert r.flags.c_contiguous
    assert (r == 8).all()
    view = r[1:]
    del r
    view += 1  # the memory lives as long as a view of it
    assert (view == 9).all()
    out = np.empty((4100, 4100), np.float32)  # of the caller's, of any size
    many = np.ones((4100, 1), np.float32)
    assert rk.relation_matrix(many, many, out=out) is out
    assert (out == 1).all()
