"""AsymmetricRelation of users and items from implicit feedback: its default, its parameters, bad input."""

import numpy as np
import pytest
import relkernels as rk
from relkernels import AsymmetricRelation
from relkernels.estimators.fitting import implicit_choice
from relkernels.metrics import recall_at_k
from scipy import sparse
from test_implicit_feedback import blocks
from threadpoolctl import threadpool_limits

USERS, ITEMS, GROUPS = 200, 100, 5


def users_and_items(users=USERS, items=ITEMS):
    """Ids of users and of items, and pairs, of which a tenth is held out."""
    pairs = blocks(users, items, GROUPS)
    held = np.random.default_rng(1).random(pairs.nnz) < 0.1
    known, hidden = pairs.copy(), pairs.copy()
    known.data[held], hidden.data[~held] = 0, 0
    known.eliminate_zeros()
    hidden.eliminate_zeros()
    return sparse.eye(users, format="csr"), sparse.eye(items), known, hidden


def relation(**parameters):
    return AsymmetricRelation(**{"n_features": 8, "random_state": 0, **parameters})


def recall(fitted, X, Y, known, hidden):
    return recall_at_k(hidden, fitted.transform(X, Y), 20, exclude=known)


def test_the_default_finds_held_out_items():
    X, Y, known, hidden = users_and_items()
    fitted = relation().fit(X, Y, known)
    assert recall(fitted, X, Y, known, hidden) > 0.6  # of 100 items at random 0.2
    assert fitted.phi_.widths == (USERS, 8)
    assert fitted.psi_.widths == (ITEMS, 8)
    assert fitted.n_iter_ == len(fitted.loss_curve_)
    assert (np.diff(fitted.loss_curve_) <= 0).all()
    assert fitted.loss_ == fitted.loss_curve_[-1]
    assert fitted.score(X, Y, hidden) > 0.8


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dense_ids_are_the_same_ids(dtype):
    X, Y, known, _ = users_and_items()
    found = relation().fit(X.astype(dtype), Y.astype(dtype), known)
    dense = relation().fit(X.toarray().astype(dtype), Y.toarray().astype(dtype), known)
    assert dense.phi_.dtype == dtype
    np.testing.assert_array_equal(dense.phi_.weights[0], found.phi_.weights[0])
    np.testing.assert_array_equal(dense.psi_.weights[0], found.psi_.weights[0])


def test_stored_zeros_and_duplicates_in_a_table():
    X, Y, known, _ = users_and_items()
    data, column = np.tile([0.5, 0.5, 0.0], USERS), np.arange(USERS)
    columns = np.column_stack([column, column, (column + 1) % USERS]).ravel()
    odd = sparse.csr_array((data, columns, np.arange(USERS + 1) * 3), shape=(USERS, USERS))
    given = odd.copy()
    found, plain = (relation().fit(table, Y, known) for table in (odd, X))
    np.testing.assert_array_equal(found.phi_.weights[0], plain.phi_.weights[0])
    np.testing.assert_array_equal(odd.data, given.data)


def test_side_features_speak_for_items_never_seen():
    X, Y, known, _ = users_and_items()
    group = sparse.csr_array(np.eye(GROUPS)[np.arange(ITEMS) % GROUPS])
    cold = np.arange(ITEMS) >= 90
    warm = known.copy()
    warm.data[cold[warm.indices]] = 0
    warm.eliminate_zeros()
    relevant = np.arange(USERS)[:, None] % GROUPS == np.arange(ITEMS) % GROUPS
    known_ones = np.broadcast_to(~cold, relevant.shape)
    without = relation().fit(X, Y, warm).transform(X, Y)
    both = sparse.hstack([Y, group], format="csr")
    with_groups = relation().fit(X, both, warm).transform(X, both)
    assert not without[1][cold].any()
    assert recall_at_k(relevant, with_groups, 2, exclude=known_ones) > 0.9
    assert recall_at_k(relevant, without, 2, exclude=known_ones) < 0.5


def test_reproducible_and_saved(tmp_path):
    X, Y, known, _ = users_and_items()
    fitted, again = (relation().fit(X, Y, known) for _ in range(2))
    np.testing.assert_array_equal(fitted.phi_.weights[0], again.phi_.weights[0])
    fitted.save(tmp_path / "relation")
    loaded = AsymmetricRelation.load(tmp_path / "relation")
    np.testing.assert_array_equal(loaded.retrieve(X, 3)[1], fitted.retrieve(X, 3)[1])


def test_the_number_of_threads_changes_no_bit(monkeypatch):
    monkeypatch.setattr(implicit_choice, "_FRACTIONS", (0.4,))
    n, m = 6000, 40
    pairs, X, Y = blocks(n, m), sparse.eye(n, format="csr"), sparse.eye(m, format="csr")
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            fitted = relation(n_features=64, max_iter=3).fit(X, Y, pairs)
        found.append((fitted.phi_.weights[0], fitted.loss_curve_))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_a_weight_of_zero_leaves_a_row_out():
    X, Y, known, _ = users_and_items()
    weight = (np.arange(USERS) < 150).astype(float)
    found = relation().fit(X, Y, known, sample_weight=weight)
    fewer = relation().fit(X.tocsr()[:150], Y, known[:150])
    np.testing.assert_array_equal(found.psi_.weights[0], fewer.psi_.weights[0])
    assert not found.phi_.weights[0][150:].any()


def test_counts_are_confidences():
    X, Y, known, hidden = users_and_items()
    counts = known.copy()
    counts.data = np.random.default_rng(0).integers(1, 5, counts.nnz).astype(float)
    assert relation(max_iter=1).fit(X, Y, counts).phi_.widths[1] == 256  # values to reproduce, not counts
    fitted = relation(solver="als").fit(X, Y, counts)
    assert recall(fitted, X, Y, known, hidden) > 0.6
    twice = relation(solver="als").fit(X, Y, 2 * counts)
    np.testing.assert_allclose(twice.phi_.weights[0], fitted.phi_.weights[0])
    counts.data[0] = 0  # a stored zero is not an observed pair
    explicit = relation(solver="als").fit(X, Y, counts)
    counts.eliminate_zeros()
    np.testing.assert_array_equal(
        explicit.phi_.weights[0], relation(solver="als").fit(X, Y, counts).phi_.weights[0]
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"loss": "logistic"},
        {"n_negatives": 2},
        {"early_stopping": True},
        {"warm_start": True},
        {"solver": "adam"},
    ],
)
def test_parameters_of_adam_choose_adam(changed):
    X, Y, known, _ = users_and_items(40, 20)
    assert len(relation(hidden_widths=(4,), max_iter=1, **changed).fit(X, Y, known).phi_.widths) == 3


def test_other_tables_and_values_choose_adam():
    X, Y, known, _ = users_and_items(40, 20)
    fit = relation(hidden_widths=(4,), max_iter=1).fit
    table = np.random.default_rng(0).standard_normal((40, 3))
    assert len(fit(table, Y, known).phi_.widths) == 3
    assert len(fit(X, Y, known.toarray()).phi_.widths) == 3
    assert len(relation(hidden_widths=(4,)).partial_fit(X, Y, known).phi_.widths) == 3
    assert len(relation(solver="als").fit(table, Y, known).phi_.widths) == 2


def test_a_user_with_every_item_and_one_with_none():
    X, Y, known, _ = users_and_items()
    known = known.tolil()
    known[3], known[4] = 1, 0
    fitted = relation().fit(X, Y, known.tocsr())
    assert np.isfinite(fitted.transform(X)).all()
    assert not fitted.transform(X)[4].any()


BAD = [
    ({"loss": "logistic"}, None, "loss: expected 'auto' or 'squared' with solver='als'"),
    ({"n_negatives": 3}, None, "n_negatives: expected 'auto' with solver='als'"),
    ({"early_stopping": True}, None, "early_stopping: expected False with solver='als'"),
    ({"warm_start": True}, None, "warm_start: expected False with solver='als'"),
    ({}, np.ones((40, 20)), "solver: expected another one than 'als'"),
    ({}, -sparse.eye_array(40, 20), "R: expected values >= 0"),
    ({}, 0 * sparse.eye_array(40, 20), "R: expected at least one observed pair"),
    ({}, np.nan * sparse.eye_array(40, 20), "R: expected finite"),
]


@pytest.mark.parametrize(("changed", "R", "message"), BAD)
def test_bad_input(changed, R, message):
    X, Y, known, _ = users_and_items(40, 20)
    with pytest.raises(ValueError, match=message):
        relation(solver="als", **changed).fit(X, Y, known if R is None else R)


def test_no_partial_fit():
    assert not hasattr(relation(solver="als"), "partial_fit")
    with pytest.raises(ValueError, match="solver: expected one of"):
        rk.SymmetricRelation(solver="als").fit(np.eye(4), [0, 0, 1, 1])


def test_overflow_says_what_to_do():
    X, Y, known, _ = users_and_items(40, 20)
    with pytest.raises(FloatingPointError, match="scale the columns"):
        relation(solver="als").fit(sparse.hstack([X, 1e25 * X]).astype(np.float32), Y, known)
