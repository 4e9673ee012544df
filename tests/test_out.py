"""`out=` of every operation: written in every layout, rejected if unsuitable, and then unchanged."""

import numpy as np
import pytest
import relkernels as rk
from hypothesis import given
from hypothesis import strategies as st
from strategies import dtypes, lay_out, mlp, normal, seeds

places = st.sampled_from(["plain", "transposed", "sliced", "reversed", "offset", "misaligned"])


def calls(rng, dtype, lead):
    """Operations that return one array, and those that return two: functions of `out`."""
    phi, psi = mlp(rng, [6, 20, 8], dtype, "gelu"), mlp(rng, [5, 8], dtype)
    x, y = normal(rng, (*lead, 7, 6), dtype), normal(rng, (9, 5), dtype)
    v, mask = normal(rng, (*lead, 9, 3), dtype), rng.random((7, 9)) < 0.8
    of_v = np.broadcast_to(y, (*lead, *y.shape))  # vectors have one dimension less than the columns
    one = {
        "feature_map": lambda out=None: rk.feature_map(x, phi, out=out),
        "relation_matrix": lambda out=None: rk.relation_matrix(x, y, phi, psi, out=out),
        "heads": lambda out=None: rk.relation_matrix(x, y, phi, psi, heads=4, out=out),
        "symmetric": lambda out=None: rk.relation_matrix(x, phi=phi, out=out),
        "attention_scores": lambda out=None: rk.attention_scores(x, y, phi, psi, mask=mask, out=out),
        "attention": lambda out=None: rk.attention(x, y, v, phi, psi, mask=mask, out=out),
        "matvec": lambda out=None: rk.relation_matvec(x, y, v, phi, psi, out=out),
        "matvec of a vector": lambda out=None: rk.relation_matvec(x, of_v, v[..., 0], phi, psi, out=out),
        "matvec of one column": lambda out=None: rk.relation_matvec(x, y, v[..., :1], phi, psi, out=out),
        "matvec of no column": lambda out=None: rk.relation_matvec(x, y, v[..., :0], phi, psi, out=out),
        "nngp_kernel": lambda out=None: rk.nngp_kernel(x, depth=2, out=out),
    }
    two = {
        "attention": lambda out=None: rk.attention(x, y, v, phi, psi, return_lse=True, out=out),
        "retrieve": lambda out=None: rk.retrieve(x, y, 3, phi, psi, mask=mask, out=out),
    }
    return one, two


ONE, TWO = (list(part) for part in calls(np.random.default_rng(0), np.float32, ()))


def poisoned(like, layout):
    """Return an output array filled with values that must be overwritten."""
    full = np.full(like.shape, -7, like.dtype)
    with np.errstate(invalid="ignore"):  # gaps of NaN in arrays of integers
        return lay_out(full, layout) if full.ndim > 1 else lay_out(full[:, None], layout)[:, 0]


@pytest.mark.parametrize("name", ONE)
@given(dtypes, st.sampled_from([(), (2,), (2, 3)]), places, seeds)
def test_one_result(name, dtype, lead, place, seed):
    call = calls(np.random.default_rng(seed), dtype, lead)[0][name]
    expected = call()
    out = poisoned(expected, place)
    assert call(out=out) is out
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("name", TWO)
@given(dtypes, st.sampled_from([(), (2,)]), places, places, seeds)
def test_two_results(name, dtype, lead, place, other, seed):
    call = calls(np.random.default_rng(seed), dtype, lead)[1][name]
    expected = call()
    out = poisoned(expected[0], place), poisoned(expected[1], other)
    assert call(out=out) is out
    for written, right in zip(out, expected, strict=True):
        np.testing.assert_array_equal(written, right)


F4 = np.float32
X, Y, V = np.ones((5, 4), F4), np.ones((6, 4), F4), np.ones((6, 3), F4)
READ_ONLY = np.ones((5, 6), F4)
READ_ONLY.flags.writeable = False
BOTH = np.ones((6, 8), F4)
MASK = np.ones((5, 24), bool)
VALUES, INDICES = np.ones((5, 2), F4), np.ones((5, 2), np.int64)
SHARED = np.zeros((5, 3), np.int64)


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: rk.attention(X, Y, V, out=np.ones((5, 4), F4)), ValueError, r"out: expected shape \(5, 3\)"),
    (lambda: rk.attention(X, Y, V, out=np.ones((5, 3))), TypeError, "out: expected dtype float32, got"),
    (lambda: rk.attention(X, Y, V, out=(X, X)), TypeError, "out: expected an array, got tuple"),
    (lambda: rk.attention(X, Y, V, return_lse=True, out=X), TypeError, r"out: .* two arrays \(out, lse\)"),
    (lambda: rk.attention(X, Y, V, return_lse=True, out=(np.ones((5, 3), F4), np.ones(4, F4))), ValueError,
     r"out\[1\]: expected shape \(5,\), got \(4,\)"),
    (lambda: rk.attention(BOTH[:5, :4], Y, V, out=BOTH[:5, 3:6]), ValueError, "out: .* apart from q, got"),
    (lambda: rk.attention(X, BOTH[:, :4], V, out=BOTH[:5, 3:6]), ValueError, "out: .* apart from k, got"),
    (lambda: rk.attention(X, Y, BOTH[:, 4:7], out=BOTH[:5, 5:]), ValueError, "out: .* apart from v, got"),
    (lambda: rk.attention_scores(X, Y, mask=MASK[:, :6], out=MASK.view(F4)), ValueError,
     "out: .* apart from mask"),
    (lambda: rk.attention_scores(X, Y, out=READ_ONLY), ValueError, "out: expected a writable array"),
    (lambda: rk.retrieve(X, Y, 2, out=VALUES), TypeError, r"out: .* \(values, indices\), got an array"),
    (lambda: rk.retrieve(X, Y, 2, out=(VALUES,)), TypeError, "out: .* got a tuple of 1"),
    (lambda: rk.retrieve(X, Y, 2, out=[VALUES, INDICES]), TypeError, "out: .* got list"),
    (lambda: rk.retrieve(X, Y, 2, out=(VALUES, VALUES)), TypeError, r"out\[1\]: expected dtype int64"),
    (lambda: rk.retrieve(X, Y, 3, out=(VALUES, INDICES)), ValueError, r"out\[0\]: expected shape \(5, 3\)"),
    (lambda: rk.retrieve(X, Y, 3, out=(SHARED.view(F4)[:, :3], SHARED)), ValueError,
     r"out\[1\]: expected memory apart from out\[0\]"),
    (lambda: rk.relation_matvec(X, Y, V, out=np.ones((5, 2), F4)), ValueError, r"out: .* \(5, 3\), got"),
    (lambda: rk.relation_matvec(X, Y, V[:, 0], out=np.ones((5, 1), F4)), ValueError, r"out: .* \(5,\), got"),
    (lambda: rk.relation_matvec(X, Y, BOTH[:, 0], out=BOTH[:5, 0]), ValueError, "out: .* apart from v"),
    (lambda: rk.nngp_kernel(X, depth=1, out=np.ones((5, 6), F4)), ValueError, r"out: .* \(5, 5\), got"),
    (lambda: rk.nngp_kernel(BOTH[:, :6], depth=1, out=BOTH[:, 2:]), ValueError, "out: .* apart from x"),
    (lambda: rk.nngp_kernel(X, depth=1, out=np.broadcast_to(X[0, :1], (5, 5))), ValueError, "out: expected"),
])  # fmt: skip
def test_what_cannot_be_written_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
    for kept in (X, BOTH, VALUES):
        assert (kept == 1).all()
    assert (SHARED == 0).all()
