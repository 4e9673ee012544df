"""Ragged batches on a device: segments of rows packed one after the other (CPU: test_ragged.py)."""

import numpy as np
import pytest
import reference
import relkernels as rk
from cuda_arrays import KIND, DeviceArray
from cuda_cases import (
    BOUND,
    F4,
    F8,
    GRADIENT_BOUND,
    OF_ATTENTION,
    Draw,
    arithmetic,
    assert_close,
    assert_gradients,
    cases,
    exact,
    largest_term,
)
from cuda_recorder import ones, put
from relkernels import cuda
from strategies import mlp, normal

# Blocks have 64 rows, and tiles 64 columns.
LENGTHS = [0, 0, 1, 2, 17, 63, 64, 65, 129]
LEADS = [((), ()), ((2,), (2,)), ((3,), (1,)), ((2, 2), (2, 1))]


def offsets(lengths):
    return np.cumsum([0, *lengths]).astype(np.int64)


class Case:
    """A random ragged batch and the options of its band."""

    def __init__(self, draw, rng, dtype):
        count = draw.one_of([0, 1, 2, 3])
        lengths = [(draw.one_of(LENGTHS), draw.one_of(LENGTHS)) for _ in range(count)]
        of_q, of_k = offsets([n for n, _ in lengths]), offsets([m for _, m in lengths])
        lead_q, lead_k = draw.one_of(LEADS)
        width, values = draw.one_of([1, 8, 33]), draw.one_of([1, 3, 64, 130])
        self.q = draw.array(*lead_q, of_q[-1], width)
        self.k, self.v = (draw.array(*lead_k, of_k[-1], size) for size in (width, values))
        self.grad = normal(rng, (*lead_q, of_q[-1], values), dtype)
        self.grad_lse = normal(rng, (*lead_q, of_q[-1]), dtype)
        self.ragged = {"q_offsets": of_q, "k_offsets": of_k}
        self.band = {
            "causal": draw.one_of([False, True]),
            "window": draw.one_of([None, 40, (70, None)]),
            "align": draw.one_of(["upper_left", "lower_right"]),
        }
        self.options = {"scale": draw.one_of([None, -0.2]), "softcap": draw.one_of([None, 0.5])}
        self.largest = largest_term(self.q, self.k, None, None)


@arithmetic
def test_attention_equals_its_definition(device, dtype, precision):
    def check(data, rng):
        c = Case(Draw(device, data, rng, dtype), rng, dtype)
        given = {**c.ragged, **c.band, **c.options, "return_lse": True, "precision": precision}
        out, lse = device.attention(c.q, c.k, c.v, **given)
        mask = reference.ragged_mask(*c.ragged.values(), **c.band)
        expected, expected_lse = reference.attention(c.q, c.k, c.v, mask=mask, **c.options)
        bound = OF_ATTENTION.get((dtype, precision), BOUND[dtype, precision]) * (5 + c.largest)
        assert out.dtype == dtype
        assert_close(out, expected, bound, c.v)
        assert_close(lse, expected_lse, bound, np.sqrt(max(lse.size, 1)))

    cases(device, check)


@exact
def test_gradients_equal_those_of_the_cpu(device, dtype):
    def check(data, rng):
        draw = Draw(device, data, rng, dtype)
        c = Case(draw, rng, dtype)
        options = {**c.ragged, **c.band, **c.options}
        grad_lse = draw.one_of([None, c.grad_lse])
        got = device.attention_vjp(c.q, c.k, c.v, c.grad, grad_lse=grad_lse, **options)
        wide = [None if a is None else a.astype(F8) for a in (c.q, c.k, c.v, c.grad, grad_lse)]
        expected = rk.attention_vjp(*wide[:4], grad_lse=wide[4], **options)
        bound = GRADIENT_BOUND[dtype] * (20 + 5 * c.largest)
        assert_gradients(got[:3], expected[:3], dtype, bound)
        of_scale = [got.grad_scale], [np.array(expected.grad_scale)]
        assert_gradients(*of_scale, dtype, bound * max(c.grad.size, 1))

    cases(device, check)


@pytest.mark.parametrize(
    ("maps", "lengths"),
    [
        (True, [(3, 40), (0, 7), (70, 131), (50, 0)]),
        (False, [(3, 40), (70, 2100), (1, 300), (65, 257)]),  # more than one chunk of keys
        (False, [(2100, 70), (9, 2060)]),
    ],
)
def test_bits_are_those_of_a_call_for_each_segment(device, maps, lengths, rng):
    of_q, of_k = offsets([n for n, _ in lengths]), offsets([m for _, m in lengths])
    q, k, v = (normal(rng, shape, F4) for shape in ((2, of_q[-1], 5), (of_k[-1], 5), (of_k[-1], 3)))
    grad = normal(rng, (2, of_q[-1], 3), F4)
    phi, psi = (mlp(rng, [5, 17, 9], F4), mlp(rng, [5, 9], F4)) if maps else (None, None)
    options = {"causal": True, "align": "lower_right"}
    ragged = {"q_offsets": of_q, "k_offsets": of_k}
    found = [
        *device.attention(q, k, v, phi, psi, return_lse=True, **options, **ragged),
        *device.attention_vjp(q, k, v, grad, phi, psi, **options, **ragged)[:3],
        *device.attention(q, k, v, return_lse=True, precision="tf32", **ragged),
    ]
    for rows, columns in reference.segments(of_q, of_k):
        part = q[:, rows], k[columns], v[columns]
        one = [
            *device.attention(*part, phi, psi, return_lse=True, **options),
            *device.attention_vjp(*part, grad[:, rows], phi, psi, **options)[:3],
            *device.attention(*part, return_lse=True, precision="tf32"),
        ]
        places = [np.s_[:, rows]] * 3 + [columns] * 2 + [np.s_[:, rows]] * 2
        for a, b, place in zip(found, one, places, strict=True):
            np.testing.assert_array_equal(a[place], b)


def test_nan_stays_in_its_segment(device, rng):
    of_q, of_k = offsets([30, 40, 20]), offsets([30, 50, 10])
    q, k, v, grad = (normal(rng, (n, 2), F4) for n in (90, 90, 90, 90))
    k[35], v[40], v[70] = np.nan, np.inf, np.nan
    ragged = {"q_offsets": of_q, "k_offsets": of_k}
    out = device.attention(q, k, v, **ragged)
    assert np.isnan(out[30:70]).all()
    assert np.isfinite(np.delete(out, np.s_[30:70], 0)).all()
    grads = device.attention_vjp(q, k, v, grad, **ragged)[:3]
    for a, place in zip(grads, (np.s_[30:70], np.s_[30:80], np.s_[30:80]), strict=True):
        assert np.isfinite(np.delete(a, place, 0)).all()


def test_many_segments(device, rng):
    """More offsets than one launch brings to the device."""
    lengths = rng.integers(0, 3, 700)
    both = offsets(lengths)
    q, v = normal(rng, (both[-1], 2), F8), normal(rng, (both[-1], 1), F8)
    out = device.attention(q, q, v, q_offsets=both, k_offsets=both)
    expected = rk.attention(q, q, v, q_offsets=both, k_offsets=both)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-13)


# What Python makes of the offsets, without kernels.

Q, K = np.ones((4, 3), F4), np.ones((5, 3), F4)
BOTH = {"q_offsets": np.array([0, 2, 4]), "k_offsets": np.array([0, 1, 5])}


def arguments(**changed):
    return {"q": put(Q), "k": put(K), "v": put(K), **changed}


@pytest.mark.parametrize("where", [lambda a: a, put], ids=["main memory", "device"])
def test_offsets_reach_the_kernel(recorder, where):
    there = {name: where(a) for name, a in BOTH.items()}
    cuda.call("attention", arguments(align="lower_right", **there))
    of_q, of_k, from_last = recorder.calls[0][2][-1]
    assert (of_q.tolist(), of_k.tolist(), from_last) == ([0, 2, 4], [0, 1, 5], True)
    cuda.call("attention", arguments())
    assert recorder.calls[1][2][-1] is None


def test_offsets_in_main_memory_beside_arrays_of_a_device(recorder, monkeypatch):
    """The public function takes them, as `cuda.call` does."""
    from relkernels.arrays import dispatch, kinds

    place_of = dispatch.place_of
    monkeypatch.setattr(
        dispatch,
        "place_of",
        lambda name, a: kinds.Place("emulated", (2, 0)) if isinstance(a, DeviceArray) else place_of(name, a),
    )
    monkeypatch.setattr(dispatch, "is_array", lambda a: isinstance(a, (DeviceArray, np.ndarray)))
    rk.attention(**arguments(**BOTH))
    assert len(recorder.calls) == 1
    with pytest.raises(TypeError, match=r"^mask: expected an array of"):
        rk.attention(**arguments(mask=np.ones((4, 5), bool)))


def test_a_graph_cannot_read_offsets(recorder):
    KIND.capture = True
    with pytest.raises(RuntimeError, match=r"attention: q_offsets on cuda:0 would be read, which a graph"):
        cuda.call("attention", arguments(**{name: put(a) for name, a in BOTH.items()}))
    cuda.call("attention", arguments(**BOTH))
    assert len(recorder.calls) == 1


@pytest.mark.parametrize("name", ["attention", "attention_vjp"])
@pytest.mark.parametrize(
    ("error", "text", "changed"),
    [
        (TypeError, "k_offsets: expected a vector of int64 with q_offsets, got None", {"k_offsets": None}),
        (TypeError, "q_offsets: expected a vector of int64, got", {"q_offsets": np.array([0, 4], np.int32)}),
        (ValueError, "q_offsets: expected 0 as the first offset, got 1", {"q_offsets": np.array([1, 2, 4])}),
        (ValueError, "k_offsets: expected 3 offsets, as many as q_offsets, got 4",
         {"k_offsets": np.array([0, 2, 2, 5])}),
        (TypeError, "mask: expected None with q_offsets, got", {"mask": np.ones((4, 5), bool)}),
        (ValueError, "bias: expected None with q_offsets, got", {"bias": np.ones((4, 5), F4)}),
        (TypeError, "k_offsets: expected an array of Emulated on cuda:0, as q is, got .* on cuda:1",
         {"k_offsets": put(BOTH["k_offsets"], 1)}),
    ],
)  # fmt: skip
def test_refused(recorder, name, error, text, changed):
    given = {n: put(a) if isinstance(a, np.ndarray) else a for n, a in (BOTH | changed).items()}
    if name == "attention_vjp":
        given["grad"] = ones(4, 3)
    with pytest.raises(error, match=f"^{text}"):
        cuda.call(name, arguments(**given))
    assert recorder.calls == []
