"""Searches on a device, to the last bit: excluded indices, pairs at or above a threshold, ragged batches."""

import numpy as np
import pytest
import reference
from cuda_arrays import KIND
from cuda_cases import BF16, F4, F8, F16, Draw, arithmetic, cases, exact
from scipy import sparse
from strategies import mlp, normal


def assert_same(got, expected):
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(reference.float64(a), reference.float64(b))
        assert a.shape == b.shape


def lists_of(draw, rng, lead, n, m):
    """Draw indices to exclude; None for none."""
    e = draw.one_of([None, 0, 1, 3, 20])
    if e is None:
        return None
    shape = draw.one_of([(n,), (n, e), (1, e), (*lead, n, e)])
    return rng.integers(-1, m, shape).astype(draw.one_of([np.int64, np.int32]))


def allowed(shape, mask, lists):
    may = reference.not_excluded(shape, lists)
    return may if mask is None else may & mask


def forms_of(draw, device, lists, n, m):
    """Return lists in one of the forms that `exclude` takes."""
    forms = [lists]
    if lists is not None:
        forms.append(device.put(lists))
        if lists.ndim == 2 and len(lists) == n:
            forms.append(sparse.csr_array(~reference.not_excluded((n, m), lists)))
    return draw.one_of(forms)


@exact
def test_exclude(device, dtype):
    def check(data, rng):
        draw = Draw(device, data, rng, dtype)
        n, m, (lead,) = draw.size(), draw.size(1), draw.leads(1)
        q, keys = draw.array(*lead, n, 5), draw.array(m, 5)
        mask, lists = draw.mask((), n, m), lists_of(draw, rng, lead, n, m)
        k = draw.one_of(sorted({1, min(m, 10), m}))
        r = device.relation_matrix(q, keys)
        exclude = forms_of(draw, device, lists, n, m)
        got = device.retrieve(q, keys, k, mask=mask, exclude=exclude)
        assert_same(got, reference.retrieve(r, k, allowed(r.shape, mask, lists)))

    cases(device, check)


@exact
def test_retrieve_above_is_the_matrix_above_the_threshold(device, dtype):
    def check(data, rng):
        draw = Draw(device, data, rng, dtype)
        d, n, m = draw.width(), draw.size(), draw.size()
        phi, psi = draw.maps(d, d, 5)
        lead_q, lead_k = draw.leads(2)
        q, keys = draw.array(*lead_q, n, d), draw.array(*lead_k, m, d)
        r = device.relation_matrix(q, keys, phi, psi)
        largest = float(np.abs(r).max(initial=0))
        bars = draw.one_of([draw.array(n, 2)[:, 1], largest / 2 * draw.array(*r.shape[:-2], 1, 1)[..., 0]])
        threshold = draw.one_of([0.0, largest, -np.inf, np.inf, bars, r[..., 0] if m else 0.0])
        mask = draw.mask(r.shape[:-2], n, m)
        lists = lists_of(draw, rng, r.shape[:-2], n, m) if m else None
        given = {"mask": mask, "exclude": forms_of(draw, device, lists, n, m)}
        got = device.retrieve_above(q, keys, threshold, phi, psi, **given)
        assert_same(got, reference.retrieve_above(r, threshold, allowed(r.shape, mask, lists)))
        assert [a.dtype for a in got] == [np.int64, np.int64, dtype]
        total = len(got[1])
        if total > 1:
            message = rf"^limit: expected at least {total}, the number of pairs .*, got {total - 1}$"
            with pytest.raises(ValueError, match=message):
                device.retrieve_above(q, keys, threshold, phi, psi, **given, limit=total - 1)

    cases(device, check)


@arithmetic
@pytest.mark.parametrize(("n", "m"), [(1, 1100), (65, 65), (64, 64), (3, 1), (2, 515)])
def test_retrieve_above_in_every_arithmetic(device, n, m, dtype, precision, rng):
    """Small integers: products are exact, and many are at the threshold."""
    q, keys = (rng.integers(-2, 3, (rows, 9)).astype(dtype) for rows in (n, m))
    r = reference.relation_matrix(q, keys)
    bars = rng.integers(-4, 5, n)
    for threshold in (3.0, bars.astype(dtype)):
        got = device.retrieve_above(q, keys, threshold, precision=precision, limit=n * m)
        assert_same(got, reference.retrieve_above(r, reference.float64(np.asarray(threshold))))
        assert got[2].dtype == dtype


def test_more_rows_than_one_chunk_of_prefix_sums(device, rng):
    q, keys = rng.integers(-2, 3, (4200, 1)).astype(F4), rng.integers(-2, 3, (66, 1)).astype(F4)
    assert_same(device.retrieve_above(q, keys, 2.0), reference.retrieve_above(q @ keys.T, 2.0))


def test_nan_is_above_no_threshold_and_infinities_are_numbers(device):
    q, keys = np.ones((1, 1)), np.array([[np.nan], [1.0], [np.inf], [-np.inf], [3.0]])
    for threshold, found in [(-np.inf, [1, 2, 3, 4]), (np.inf, [2]), (3.0, [2, 4])]:
        offsets, indices, values = device.retrieve_above(q, keys, threshold)
        assert (offsets.tolist(), indices.tolist()) == ([0, len(found)], found)
        np.testing.assert_array_equal(values, keys[found, 0])


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (1, 1)])
def test_empty_sides(device, shape):
    n, m = shape
    offsets, indices, values = device.retrieve_above(np.ones((2, n, 3), F4), np.ones((m, 3), F4), 3.0)
    np.testing.assert_array_equal(offsets, np.arange(2 * n + 1) * m)
    assert indices.shape == values.shape == (2 * n * m,)


@pytest.mark.parametrize("dtype", [F4, F8, BF16, F16])
def test_a_single_query(device, dtype):
    q, keys = np.ones(1, dtype), np.arange(6).astype(dtype)[:, None]
    for threshold in (3.0, np.array(3, dtype)):
        offsets, indices, values = device.retrieve_above(q, keys, threshold, exclude=np.array([4, -1]))
        assert (offsets.tolist(), indices.tolist()) == ([0, 2], [3, 5])
        np.testing.assert_array_equal(reference.float64(values), [3, 5])
    assert device.retrieve(q, keys, 2, exclude=np.array(5))[1].tolist() == [4, 3]
    assert device.retrieve(q, keys, 2, exclude=sparse.csr_array([[0, 0, 0, 0, 1, 1]]))[1].tolist() == [3, 2]


def test_a_row_does_not_depend_on_the_batch(device, rng):
    q, keys = normal(rng, (70, 6), F4), normal(rng, (900, 6), F4)
    whole = device.retrieve_above(q, keys, 1.0)
    for rows in (slice(0, 1), slice(60, 69)):
        got, at = device.retrieve_above(q[rows], keys, 1.0), whole[0][rows.start : rows.stop + 1]
        part = slice(at[0], at[-1])
        assert_same(got, (at - at[0], whole[1][part], whole[2][part]))


def test_bad_arguments(device):
    q, keys = np.ones((5, 4), F4), np.ones((6, 4), F4)
    with pytest.raises(ValueError, match=r"^exclude: expected indices from 0 to 5, or -1 for none, got 6$"):
        device.retrieve(q, keys, 1, exclude=device.put(np.array([0, 1, 2, 3, 6])))
    with pytest.raises(ValueError, match=r"^threshold: expected numbers, got NaN$"):
        device.retrieve_above(q, keys, np.array([0, 0, 0, 0, np.nan], F4))
    with pytest.raises(ValueError, match=r"^limit: expected at least 30, the number of pairs .*, got 1$"):
        device.retrieve_above(q, keys, 0.0, limit=1)


def test_a_result_too_large_for_the_device(device, monkeypatch):
    if "Emulated" not in type(device).__name__:
        pytest.skip("memory is short in the emulator only")
    monkeypatch.setattr(KIND, "limit", 200_000)
    q, keys = np.ones((500, 1), F4), np.ones((100, 1), F4)
    with pytest.raises(
        MemoryError, match=r"^retrieve_above: the output of shape \(50000,\) needs 400000 bytes"
    ):
        device.retrieve_above(q, keys, 0.0)
    assert device.retrieve_above(q[:9], keys, 0.0)[0][-1] == 900


LENGTHS = [0, 1, 2, 17, 63, 64, 65, 129]


def offsets_of(lengths):
    return np.cumsum([0, *lengths]).astype(np.int64)


@exact
def test_segments_of_a_ragged_batch_are_searches_of_their_own(device, dtype):
    def check(data, rng):
        draw = Draw(device, data, rng, dtype)
        lengths = [(draw.one_of(LENGTHS), draw.one_of(LENGTHS)) for _ in range(draw.one_of([0, 1, 2, 3]))]
        of_q, of_k = (offsets_of([pair[side] for pair in lengths]) for side in (0, 1))
        phi, psi = draw.maps(6, 6, 6)
        lead_q, lead_k = draw.one_of([((), ()), ((2,), (1,)), ((2, 2), (2, 1))])
        q, keys = draw.array(*lead_q, of_q[-1], 6), draw.array(*lead_k, of_k[-1], 6)
        k = draw.one_of([1, 7, 70])
        given = {"q_offsets": of_q, "k_offsets": draw.one_of([of_k, device.put(of_k)])}
        values, indices = device.retrieve(q, keys, k, phi, psi, pad=True, **given)
        assert values.shape == indices.shape == (*lead_q, of_q[-1], k)
        for s in range(len(lengths)):
            of_rows, of_columns = slice(*of_q[s : s + 2]), slice(*of_k[s : s + 2])
            alone = device.retrieve(q[..., of_rows, :], keys[..., of_columns, :], k, phi, psi, pad=True)
            assert_same((values[..., of_rows, :], indices[..., of_rows, :]), alone)

    cases(device, check)


def test_a_long_segment_is_cut_into_parts(device, rng):
    q, keys = normal(rng, (5, 3), F4), normal(rng, (1500, 3), F4)
    of_q, of_k = np.array([0, 2, 5]), np.array([0, 1470, 1500])
    values, indices = device.retrieve(q, keys, 3, q_offsets=of_q, k_offsets=of_k)
    for rows, columns in [(slice(0, 2), slice(0, 1470)), (slice(2, 5), slice(1470, 1500))]:
        assert_same((values[rows], indices[rows]), device.retrieve(q[rows], keys[columns], 3))


def test_keys_of_grouped_queries_are_mapped_once(device, rng, monkeypatch):
    """Their features take 26 KB, and four times as much if each row had its own."""
    if "Emulated" not in type(device).__name__:
        pytest.skip("memory is short in the emulator only")
    phi = mlp(rng, [4, 16], F4, "relu")
    q, keys = normal(rng, (4, 1, 4), F4), normal(rng, (1, 400, 4), F4)
    monkeypatch.setattr(KIND, "limit", 60_000)
    values, indices = device.retrieve(q, keys, 2, phi)
    assert_same((values[3], indices[3]), device.retrieve(q[3], keys[0], 2, phi))
    got = device.retrieve_above(q, keys, float(values[3, 0, 0]), phi)
    assert got[0][4] - got[0][3] == 1
