"""Relational attention and its gradient on a device (CPU: test_relational_attention.py)."""

import numpy as np
import pytest
import reference
import relkernels as rk
from cuda_cases import (
    BF16,
    BOUND,
    F4,
    F8,
    F16,
    GRADIENT_BOUND,
    MANY,
    Draw,
    assert_close,
    assert_gradients,
    cases,
    exact,
)
from relkernels import cuda
from relkernels.ops.relational import REL_ACTIVATIONS
from strategies import normal

NAMES = "q", "k", "q_rel", "k_rel", "v"
KINKS = "relu", "leaky_relu", "sigma_1"


def arrays(rng, dtype, n, m, h=2, relations=3, d=4, d_rel=5, d_v=6, lead=()):
    shapes = (h, n, d), (h, m, d), (relations, n, d_rel), (relations, m, d_rel), (h, m, d_v)
    return {name: normal(rng, (*lead, *shape), dtype) for name, shape in zip(NAMES, shapes, strict=True)}


def drawn(draw, rng):
    """Arrays of random shapes and strides, and options."""
    n, m = draw.one_of([0, 1, 17, 64, 65, 131]), draw.one_of([0, 1, 31, 64, 65, 131])
    h = draw.one_of([1, 2, 3])
    relations = draw.one_of([0, 1, 2, 5, 17])  # one past those of a block
    widths = draw.one_of([1, 8, 17, 33]), draw.one_of([1, 4, 16, 35]), draw.one_of([0, 1, 3, 64, 65])
    lead = draw.one_of([(), (2,), (2, 1)])
    given = {}
    for name, a in arrays(rng, draw.dtype, n, m, h, relations, *widths, lead).items():
        if lead and draw.one_of([False, True]):
            a = a[:1]
        if name in ("k", "v") and draw.one_of([False, True]):
            a = a[..., :1, :, :]
        given[name] = draw.array(*a.shape)
    mask = draw.one_of([None, (n, m), (h, 1, m), (h, n, m), (1, n, 1)])
    return given, {
        "rel_activation": draw.one_of(REL_ACTIVATIONS),
        "scale": draw.one_of([None, 0.3, -1.0]),
        "rel_scale": draw.one_of([None, 0.2]),
        "mask": None if mask is None else rng.random(mask) < draw.one_of([0.1, 0.7]),
        "causal": draw.one_of([False, True]),
        "window": draw.one_of([None, (3, None), (70, 5), (0, 0)]),
        "align": draw.one_of(["upper_left", "lower_right"]),
    }


def double(given):
    return {name: reference.float64(a) for name, a in given.items()}


def upstream_of(device, given, options, rng):
    results = device.relational_attention(**given, **options, return_lse=True)
    above = [normal(rng, a.shape, given["q"].dtype) for a in results]
    above[2][~np.isfinite(results[2])] = 0
    return above


def gradients(run, given, upstream, options, **more):
    of_relations, of_values, of_lse = upstream
    return run(
        **given, grad_relations=of_relations, grad_values=of_values, grad_lse=of_lse, **options, **more
    )


def assert_as_on_the_cpu(found, given, upstream, options, dtype, bound):
    above = [reference.float64(a) for a in upstream]
    expected = gradients(rk.relational_attention_vjp, double(given), above, options)
    size = 1 + float(max(np.max(np.abs(a), initial=0) for a in expected))
    scales = [(found.grad_scale, expected.grad_scale), (found.grad_rel_scale, expected.grad_rel_scale)]
    for got, wanted in [*zip(found, expected, strict=True), *((a, np.array(b)) for a, b in scales)]:
        assert got.shape == wanted.shape
        assert_gradients([got / size], [wanted / size], dtype, bound)


@pytest.mark.parametrize("dtype", [F4, F8, BF16, F16], ids=["float32", "float64", "bfloat16", "float16"])
def test_equals_its_definition(device, dtype):
    def check(data, rng):
        draw = Draw(device, data, rng, dtype)
        given, options = drawn(draw, rng)
        found = device.relational_attention(**given, **options, return_lse=True)
        assert [a.dtype for a in found] == [dtype, dtype, F8 if dtype == F8 else F4]
        expected = reference.relational_attention(**double(given), **options)
        bound = 40 * BOUND[dtype, None] if dtype in (F4, F8) else 2 * BOUND[dtype, None]
        for a, b in zip(found, expected, strict=True):
            assert a.shape == b.shape
            assert_close(a, b, bound, 3 * np.sqrt(b.size) + np.linalg.norm(b[np.isfinite(b)]))

    cases(device, check)


@exact
def test_gradients_equal_those_of_the_cpu(device, dtype):
    def check(data, rng):
        given, options = drawn(Draw(device, data, rng, dtype), rng)
        if options["rel_activation"] in KINKS:  # a relation may be on either side of it
            options["rel_activation"] = "silu"
        upstream = upstream_of(device, given, options, rng)
        found = gradients(device.relational_attention_vjp, given, upstream, options)
        assert_as_on_the_cpu(found, given, upstream, options, dtype, 50 * GRADIENT_BOUND[dtype])

    cases(device, check)


@exact
@pytest.mark.parametrize("activation", REL_ACTIVATIONS)
def test_every_activation(device, activation, dtype, rng):
    given = arrays(rng, dtype, 9, 66)
    options = {"rel_activation": activation, "rel_scale": 0.7, "causal": True, "align": "lower_right"}
    found = device.relational_attention(**given, **options, return_lse=True)
    expected = reference.relational_attention(**double(given), **options)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, 40 * BOUND[dtype, None], b)
    upstream = upstream_of(device, given, options, rng)
    found = gradients(device.relational_attention_vjp, given, upstream, options)
    assert_as_on_the_cpu(found, given, upstream, options, dtype, 50 * GRADIENT_BOUND[dtype])


def test_symmetric_relations_and_shared_heads(device, rng):
    given = arrays(rng, F4, 33, 33)
    given |= {"k_rel": given["q_rel"], "k": given["k"][:1], "v": given["v"][:1]}
    own = {name: np.broadcast_to(a, (2, *a.shape[1:])) if name in "kv" else a for name, a in given.items()}
    for a, b in zip(device.relational_attention(**given), device.relational_attention(**own), strict=True):
        np.testing.assert_array_equal(a, b)


@exact
def test_several_chunks_of_columns_and_rows_alone(device, dtype, rng):
    """The number of rows decides whether one block processes all chunks or each has its own block."""
    given = arrays(rng, dtype, 70, MANY, relations=2)
    options = {"rel_activation": "relu", "mask": rng.random(MANY) < 0.9}
    whole = device.relational_attention(**given, **options, return_lse=True)
    expected = reference.relational_attention(**double(given), **options)
    for a, b in zip(whole, expected, strict=True):
        assert_close(a, b, 40 * BOUND[dtype, None], b)
    for part in (slice(0, 1), slice(60, 62)):
        cut = {name: a[..., part, :] if name[0] == "q" else a for name, a in given.items()}
        for a, b in zip(device.relational_attention(**cut, **options, return_lse=True), whole, strict=True):
            np.testing.assert_array_equal(a, b[:, part])


def test_gradients_over_several_chunks(device, rng):
    for n, m in ((5, MANY), (MANY, 5)):
        given, options = arrays(rng, F4, n, m, relations=1, d_v=3), {"rel_activation": "tanh"}
        upstream = upstream_of(device, given, options, rng)
        found = gradients(device.relational_attention_vjp, given, upstream, options)
        assert_as_on_the_cpu(found, given, upstream, options, F4, 50 * GRADIENT_BOUND[F4])


def test_items_of_a_batch_are_those_computed_alone(device, rng):
    given, options = arrays(rng, F4, 9, 70, lead=(3,)), {"rel_activation": "gelu"}
    upstream = upstream_of(device, given, options, rng)
    whole = (
        *device.relational_attention(**given, **options),
        *gradients(device.relational_attention_vjp, given, upstream, options),
    )
    one, above = {name: a[1] for name, a in given.items()}, [a[1] for a in upstream]
    alone = (
        *device.relational_attention(**one, **options),
        *gradients(device.relational_attention_vjp, one, above, options),
    )
    for a, b in zip(alone, whole, strict=True):
        np.testing.assert_array_equal(a, b[1])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("activation", ["identity", "sigmoid"])
def test_what_is_masked_cannot_be_seen(device, activation, bad, rng):
    """Head 1 may not attend to column 40, which is spoilt; head 0 may, in rows from 1 on."""
    given = arrays(rng, F4, 20, 66)
    mask = np.ones((2, 20, 66), bool)
    mask[1, :, 40] = mask[0, 0, 40] = False
    options = {"mask": mask, "rel_activation": activation}
    clean = device.relational_attention(**given, **options, return_lse=True)
    upstream = upstream_of(device, given, options, rng)
    vjp = device.relational_attention_vjp
    of_clean = gradients(vjp, given, upstream, options)
    for name in ("k", "k_rel", "v"):
        spoilt = {**given, name: given[name].copy()}
        spoilt[name][:, 40] = bad
        found = device.relational_attention(**spoilt, **options, return_lse=True)
        for a, b in zip(found, clean, strict=True):
            np.testing.assert_array_equal(a[1], b[1])
            np.testing.assert_array_equal(a[0, 0], b[0, 0])
        found = gradients(vjp, spoilt, upstream, options)
        for of in ("grad_q", "grad_k", "grad_v"):
            np.testing.assert_array_equal(getattr(found, of)[1], getattr(of_clean, of)[1])
        np.testing.assert_array_equal(found.grad_q[0, 0], of_clean.grad_q[0, 0])
        np.testing.assert_array_equal(found.grad_q_rel[:, 0], of_clean.grad_q_rel[:, 0])
    # An upstream gradient of NaN reaches the row that it belongs to, and the columns of its head's pairs.
    upstream[0][1, 0] = bad
    found = gradients(vjp, given, upstream, options)
    np.testing.assert_array_equal(found.grad_k_rel[:, 40], of_clean.grad_k_rel[:, 40])
    np.testing.assert_array_equal(found.grad_q_rel[:, 1:], of_clean.grad_q_rel[:, 1:])
    assert not np.isfinite(found.grad_q_rel[:, 0]).any()


def test_rows_without_columns(device, rng):
    given, mask = arrays(rng, F8, 4, 7), np.ones((4, 7), bool)
    mask[2] = False
    given["q"][:, 2] = given["q_rel"][:, 2] = np.nan
    relations, values, lse = device.relational_attention(**given, mask=mask, return_lse=True)
    assert not relations[:, 2].any()
    assert not values[:, 2].any()
    assert (lse[:, 2] == -np.inf).all()
    above = [np.ones_like(relations), np.ones_like(values), None]
    found = gradients(device.relational_attention_vjp, given, above, {"mask": mask})
    assert not found.grad_q[:, 2].any()
    assert not found.grad_q_rel[:, 2].any()
    assert np.isfinite([found.grad_scale, found.grad_rel_scale]).all()


def test_a_result_need_not_be_computed_again(device, rng):
    given, options = arrays(rng, F4, 40, 70), {"rel_activation": "tanh"}
    upstream = upstream_of(device, given, options, rng)
    names = "grad_relations", "grad_values", "grad_lse"
    there = device.bring("relational_attention_vjp", given | dict(zip(names, upstream, strict=True)))
    sides = {name: there[name] for name in NAMES}
    relations, values, lse = cuda.call("relational_attention", {**sides, **options, "return_lse": True})
    strided = device.put(np.repeat(device.get(lse), 2, -1)[..., ::2])
    expected = gradients(device.relational_attention_vjp, given, upstream, options)
    for of_rows in (lse, strided):
        result = relations, values, of_rows
        found = device.get(cuda.call("relational_attention_vjp", {**there, **options, "result": result}))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_gradients_of_16_bits_are_refused(device, rng):
    given = arrays(rng, F16, 3, 4)
    with pytest.raises(TypeError, match=r"^q: expected float32 or float64, got .*float16"):
        gradients(device.relational_attention_vjp, given, [given["q"], given["v"], None], {})
    given["v"] = given["v"].astype(F4)
    with pytest.raises(TypeError, match=r"^v: expected float16, the dtype of q, got float32"):
        device.relational_attention(**given)
