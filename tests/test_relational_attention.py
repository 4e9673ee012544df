"""Relational attention and its gradient: definitions, promises, arguments."""

import re

import numpy as np
import pytest
import reference
import relkernels as rk
from hypothesis import given
from hypothesis import strategies as st
from relkernels.ops.relational import REL_ACTIVATIONS
from strategies import DTYPES, dtypes, lay_out, layouts, normal, seeds

BOUND = {np.float32: 2e-5, np.float64: 2e-13}
NAMES = "q", "k", "q_rel", "k_rel", "v"
# One past a strip, a block of rows, a tile of columns.
rows = st.sampled_from([0, 1, 2, 3, 5, 13, 25, 33, 97])
columns = st.sampled_from([0, 1, 3, 17, 33, 64, 129, 257])
limits = st.none() | st.integers(0, 70)
activations = st.sampled_from(REL_ACTIVATIONS)


@pytest.fixture
def threads():
    before = rk.get_num_threads()
    yield rk.set_num_threads
    rk.set_num_threads(before)


def arrays(rng, dtype, n, m, h=2, relations=3, d=4, d_rel=5, d_v=6, lead=()):
    shapes = (h, n, d), (h, m, d), (relations, n, d_rel), (relations, m, d_rel), (h, m, d_v)
    return {name: normal(rng, (*lead, *shape), dtype) for name, shape in zip(NAMES, shapes, strict=True)}


@st.composite
def cases(draw):
    """Arrays of random shapes and strides, and options."""
    dtype, rng = draw(dtypes), np.random.default_rng(draw(seeds))
    n, m, h, relations = draw(rows), draw(columns), draw(st.integers(1, 4)), draw(st.integers(0, 5))
    widths = [draw(st.sampled_from([1, 3, 8, 17])) for _ in range(2)] + [draw(st.sampled_from([0, 1, 9]))]
    lead = draw(st.sampled_from([(), (2,), (2, 1)]))
    given = {}
    for name, a in arrays(rng, dtype, n, m, h, relations, *widths, lead).items():
        a = lay_out(a, draw(layouts))
        if lead and draw(st.booleans()):
            a = a[:1]
        if name in ("k", "v") and draw(st.booleans()):
            a = a[..., :1, :, :]
        given[name] = a
    mask = draw(st.sampled_from([None, (n, m), (h, 1, m), (1, n, 1), (m,)]))
    options = {
        "rel_activation": draw(activations),
        "scale": draw(st.sampled_from([None, 0.3, -1.0])),
        "rel_scale": draw(st.sampled_from([None, 0.5])),
        "mask": None if mask is None else rng.random(mask) < 0.7,
        "causal": draw(st.booleans()),
        "window": draw(st.none() | st.tuples(limits, limits)),
        "align": draw(st.sampled_from(["upper_left", "lower_right"])),
    }
    return given, options, rng


def check_close(found, expected, bound, magnitude=1.0):
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        reference.assert_close(a, b, bound, magnitude * np.sqrt(max(b.size, 1)))


@given(cases())
def test_equals_its_definition(case):
    given, options, _ = case
    found = rk.relational_attention(**given, **options, return_lse=True)
    with np.errstate(all="ignore"):
        expected = reference.relational_attention(**given, **options)
    assert all(a.dtype == given["q"].dtype for a in found)
    check_close(found, expected, 20 * BOUND[given["q"].dtype.type])
    pair = rk.relational_attention(**given, **options)
    assert len(pair) == 2
    for a, b in zip(pair, found, strict=False):
        np.testing.assert_array_equal(a, b)


def gradients(given, upstream, options, **more):
    of_relations, of_values, of_lse = upstream
    return rk.relational_attention_vjp(
        **given, grad_relations=of_relations, grad_values=of_values, grad_lse=of_lse, **options, **more
    )


def upstream_of(given, options, rng):
    dtype = given["q"].dtype.type
    results = rk.relational_attention(**given, **options, return_lse=True)
    return [normal(rng, a.shape, dtype) for a in results]


@given(cases())
def test_gradients_are_those_of_the_definition(case):
    """The change of the float64 definition along a direction, and float32 gradients beside float64 ones."""
    given, options, rng = case
    if options["rel_activation"] in ("relu", "leaky_relu", "sigma_1"):  # a kink may be in between
        options["rel_activation"] = "silu"
    upstream = upstream_of(given, options, rng)
    upstream[2][~np.isfinite(rk.relational_attention(**given, **options, return_lse=True)[2])] = 0
    found = gradients(given, upstream, options)
    wide = {name: a.astype(np.float64) for name, a in given.items()}
    scales = {
        "scale": options["scale"] or 1 / np.sqrt(given["q"].shape[-1]),
        "rel_scale": options["rel_scale"] or 1 / np.sqrt(given["q_rel"].shape[-1]),
    }
    exact = gradients(wide, [a.astype(np.float64) for a in upstream], options)
    magnitude = 1 + max(np.max(np.abs(a), initial=0) for a in exact)
    for name, a, b in zip(NAMES, found, exact, strict=True):
        assert a.shape == given[name].shape
        reference.assert_close(a, b, 200 * BOUND[given["q"].dtype.type], magnitude * np.sqrt(max(a.size, 1)))

    direction = {name: rng.standard_normal(np.shape(a)) for name, a in {**wide, **scales}.items()}
    rest = {name: value for name, value in options.items() if name not in scales}

    def value(step):
        at = {name: a + step * direction[name] for name, a in {**wide, **scales}.items()}
        results = reference.relational_attention(**at, **rest)
        return sum((np.where(np.isfinite(a), a, 0) * g).sum() for a, g in zip(results, upstream, strict=True))

    slope = sum((direction[name] * g).sum() for name, g in zip(NAMES, exact, strict=True))
    slope += direction["scale"] * exact.grad_scale + direction["rel_scale"] * exact.grad_rel_scale
    ends = value(1e-5), value(-1e-5)
    assert abs((ends[0] - ends[1]) / 2e-5 - slope) <= 1e-5 * (1 + abs(slope) + abs(ends[0]))


@pytest.mark.parametrize("activation", REL_ACTIVATIONS)
def test_every_activation_has_its_gradient(activation, rng):
    given = arrays(rng, np.float64, 9, 11)
    options = {"rel_activation": activation, "causal": True, "rel_scale": 0.7}
    upstream = upstream_of(given, options, rng)
    found = gradients(given, upstream, options)
    for name, grad in zip(NAMES, found, strict=True):
        direction = rng.standard_normal(grad.shape)
        ends = [
            sum(
                (a * g).sum()
                for a, g in zip(
                    reference.relational_attention(
                        **{**given, name: given[name] + step * direction}, **options
                    ),
                    upstream,
                    strict=True,
                )
            )
            for step in (-1e-6, 1e-6)
        ]
        slope = (direction * grad).sum()
        assert abs((ends[1] - ends[0]) / 2e-6 - slope) <= 1e-7 * (1 + abs(slope))


def test_a_result_need_not_be_computed_again(rng):
    given, options = arrays(rng, np.float32, 40, 70), {"rel_activation": "tanh"}
    upstream = upstream_of(given, options, rng)
    relations, values, lse = rk.relational_attention(**given, **options, return_lse=True)
    expected = gradients(given, upstream, options)
    for of_rows in (lse, np.repeat(lse, 2, -1)[..., ::2]):  # contiguous or not
        found = gradients(given, upstream, options, result=(relations, values, of_rows))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def flat(result):
    return [np.asarray(a) for a in result]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["identity", "gelu"])
def test_threads_and_the_batch_do_not_change_a_bit(activation, dtype, threads, rng):
    options = {"rel_activation": activation, "mask": rng.random(2200) < 0.9}
    given = arrays(rng, dtype, 130, 2200, lead=(2,))
    upstream = upstream_of(given, options, rng)
    threads(1)
    whole = rk.relational_attention(**given, **options, return_lse=True)
    grads = gradients(given, upstream, options)
    for number in (2, 3):
        threads(number)
        for a, b in zip(rk.relational_attention(**given, **options, return_lse=True), whole, strict=True):
            np.testing.assert_array_equal(a, b)
        for a, b in zip(flat(gradients(given, upstream, options)), flat(grads), strict=True):
            np.testing.assert_array_equal(a, b)
    for part in (slice(0, 1), slice(5, 7), slice(64, 130)):  # read in place, and packed
        cut = {name: a[..., part, :] if name[0] == "q" else a for name, a in given.items()}
        for a, b in zip(rk.relational_attention(**cut, **options, return_lse=True), whole, strict=True):
            np.testing.assert_array_equal(a, b[:, :, part])
    alone = rk.relational_attention(**{name: a[1] for name, a in given.items()}, **options)
    for a, b in zip(alone, whole, strict=False):
        np.testing.assert_array_equal(a, b[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_causal_rule_is_a_mask(dtype, rng):
    given, lower = arrays(rng, dtype, 300, 300), np.tri(300, dtype=bool)
    options = {"rel_activation": "relu"}
    upstream = upstream_of(given, options, rng)
    pairs = zip(
        (
            *rk.relational_attention(**given, causal=True, return_lse=True),
            *gradients(given, upstream, {"causal": True}),
        ),
        (
            *rk.relational_attention(**given, mask=lower, return_lse=True),
            *gradients(given, upstream, {"mask": lower}),
        ),
        strict=True,
    )
    for a, b in pairs:
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("n", [2, 50])
@pytest.mark.parametrize("activation", ["identity", "sigmoid"])
def test_what_is_masked_cannot_be_seen(activation, n, bad, rng):
    """Head 1 may not attend to column 40, which is spoilt; head 0 may, in rows from 1 on."""
    given = arrays(rng, np.float32, n, 60)
    mask = np.ones((2, n, 60), bool)
    mask[1, :, 40] = mask[0, 0, 40] = False
    options = {"mask": mask, "rel_activation": activation}
    clean = rk.relational_attention(**given, **options, return_lse=True)
    upstream = upstream_of(given, options, rng)
    of_clean = gradients(given, upstream, options)
    for name in ("k", "k_rel", "v"):
        spoilt = {**given, name: given[name].copy()}
        spoilt[name][:, 40] = bad
        for a, b in zip(rk.relational_attention(**spoilt, **options, return_lse=True), clean, strict=True):
            np.testing.assert_array_equal(a[1], b[1])
            np.testing.assert_array_equal(a[0, 0], b[0, 0])
        found = gradients(spoilt, upstream, options)
        for grad, expected in zip(
            (found.grad_q, found.grad_k, found.grad_v), of_clean[:2] + of_clean[4:], strict=True
        ):
            np.testing.assert_array_equal(grad[1], expected[1])
        np.testing.assert_array_equal(found.grad_q[0, 0], of_clean.grad_q[0, 0])
        np.testing.assert_array_equal(found.grad_q_rel[:, 0], of_clean.grad_q_rel[:, 0])
    # An upstream gradient of NaN reaches the row that it belongs to, and the columns of its head's pairs.
    upstream[0][1, 0] = bad
    found = gradients(given, upstream, options)
    np.testing.assert_array_equal(found.grad_k_rel[:, 40], of_clean.grad_k_rel[:, 40])
    np.testing.assert_array_equal(found.grad_q_rel[:, 1:], of_clean.grad_q_rel[:, 1:])
    assert not np.isfinite(found.grad_q_rel[:, 0]).any()


def test_rows_without_columns(rng):
    given = arrays(rng, np.float64, 4, 7)
    mask = np.ones((4, 7), bool)
    mask[2] = False
    relations, values, lse = rk.relational_attention(**given, mask=mask, return_lse=True)
    assert not relations[:, 2].any()
    assert not values[:, 2].any()
    assert (lse[:, 2] == -np.inf).all()
    grads = gradients(given, [*upstream_of(given, {}, rng)[:2], None], {"mask": mask})
    assert not grads.grad_q[:, 2].any()
    assert not grads.grad_q_rel[:, 2].any()
    assert np.isfinite(grads.grad_scale)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bits_are_computed_in_float32(dtype, rng):
    torch = pytest.importorskip("torch")
    kind = getattr(torch, dtype)
    given = {name: torch.from_numpy(a).to(kind) for name, a in arrays(rng, np.float32, 9, 20).items()}
    found = rk.relational_attention(**given)
    expected = rk.relational_attention(**{name: a.float() for name, a in given.items()})
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b.to(kind))


def wrong(**change):
    rng = np.random.default_rng(0)
    return {**arrays(rng, np.float32, 5, 7), **change}


BAD = [
    ({"q": np.ones((5, 4), np.float32)}, ValueError, r"q: expected at least 3 dimensions, got shape"),
    ({"q": [1.0]}, TypeError, "q: expected an array"),
    ({"k": np.ones((2, 7, 3), np.float32)}, ValueError, "k: expected features as wide as those of q, 4"),
    ({"k": np.ones((3, 7, 4), np.float32)}, ValueError, "q: expected leading dimensions that broadcast"),
    ({"q_rel": np.ones((3, 6, 5), np.float32)}, ValueError, "q_rel: expected 5 rows, one for each row of q"),
    ({"k_rel": np.ones((3, 6, 5), np.float32)}, ValueError, "k_rel: expected 7 rows, one for each row of k"),
    ({"k_rel": np.ones((3, 7, 2), np.float32)}, ValueError, "k_rel: expected features as wide as those of"),
    ({"v": np.ones((2, 6, 4), np.float32)}, ValueError, "v: expected 7 rows, one for each row of k"),
    ({"v": np.ones((2, 7, 4))}, TypeError, "v: expected float32, the dtype of q, got float64"),
    ({"rel_activation": "soft"}, ValueError, "rel_activation: expected one of 'identity'"),
    ({"rel_activation": "relu_power"}, ValueError, "rel_activation: expected one of"),
    ({"rel_activation": None}, TypeError, "rel_activation: expected one of"),
    ({"scale": np.inf}, ValueError, "scale: expected a finite number"),
    ({"rel_scale": "x"}, TypeError, "rel_scale: expected a real number"),
    ({"mask": np.ones((5, 7))}, TypeError, "mask: expected a boolean array"),
    ({"mask": np.ones((3, 5, 7), bool)}, ValueError, r"mask: .* broadcasts to \(..., 2, 5, 7\)"),
    ({"mask": np.ones((5, 6), bool)}, ValueError, r"mask: expected a shape that broadcasts to \(..., 5, 7\)"),
    ({"causal": 1}, TypeError, "causal: expected True or False"),
    ({"window": (1, 2, 3)}, ValueError, "window: expected two limits"),
    ({"align": "left"}, ValueError, "align: expected one of"),
    ({"return_lse": 1}, TypeError, "return_lse: expected True or False"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_arguments(change, error, message):
    with pytest.raises(error, match=message):
        rk.relational_attention(**wrong(**change))


def test_bad_arguments_of_the_gradient(rng):
    given = wrong()
    upstream = upstream_of(given, {}, rng)
    result = rk.relational_attention(**given, return_lse=True)
    for change, error, message in [
        ({"grad_relations": upstream[1]}, ValueError, "grad_relations: expected shape (2, 5, 3)"),
        ({"grad_values": upstream[0]}, ValueError, "grad_values: expected shape (2, 5, 6)"),
        ({"grad_values": upstream[1].astype(np.float64)}, TypeError, "grad_values: expected float32"),
        ({"grad_lse": upstream[0]}, ValueError, "grad_lse: expected shape (2, 5)"),
        ({"result": result[:2]}, TypeError, "result: expected a tuple of three arrays"),
        ({"result": (*result[1::-1], result[2])}, ValueError, "result[0]: expected shape (2, 5, 3)"),
    ]:
        options = {"grad_relations": upstream[0], "grad_values": upstream[1], **change}
        with pytest.raises(error, match=re.escape(message)):
            rk.relational_attention_vjp(**given, **options)
