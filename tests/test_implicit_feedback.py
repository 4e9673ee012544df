"""Linear maps from implicit feedback: the objective over all pairs, its minimizers, and the penalties."""

import numpy as np
import pytest
from relkernels.estimators.fitting import implicit, implicit_choice, implicit_solvers
from relkernels.estimators.fitting.implicit import Penalties, factorize
from scipy import sparse

PENALTIES = Penalties(unobserved=0.1, ridge=0.05)


def ids(n, dtype=np.float64):
    return sparse.eye_array(n, format="csr", dtype=dtype)


def feedback(n=30, m=20, seed=0, density=0.2):
    """Pairs with a confidence; row 3 and column 4 have none, row 5 has every column but 4."""
    rng = np.random.default_rng(seed)
    pairs = (rng.random((n, m)) < density) * rng.uniform(0.5, 2, (n, m))
    pairs[5] = 1
    pairs[3] = pairs[:, 4] = 0
    return sparse.csr_array(pairs)


def side_features(n, seed=0):
    rng = np.random.default_rng(seed)
    return sparse.csr_array(sparse.hstack([ids(n), sparse.random_array((n, 4), density=0.5, rng=rng)]))


def fit(X, Y, pairs, weight=None, d=3, max_iter=30, tol=0.0, penalties=PENALTIES, seed=0):
    rng = np.random.RandomState(seed)
    return factorize(X, Y, pairs, weight, d, penalties, max_iter, tol, rng)


def plain(X, Y, pairs, W, V, weight, penalties=PENALTIES):
    """The objective pair by pair."""
    X, Y, c = X.toarray(), Y.toarray(), pairs.toarray()
    relation = (X @ W) @ (Y @ V).T
    unobserved, ridge = penalties
    total = (weight[:, None] * (c * (1 - relation) ** 2 + unobserved * relation**2)).sum()
    mass = weight[:, None] * (c + unobserved)
    of_x, of_y = ridge * (X**2).T @ mass.sum(axis=1), ridge * (Y**2).T @ mass.sum(axis=0)
    return total + (of_x @ W**2).sum() + (of_y @ V**2).sum()


def best_of_columns(X, Y, pairs, V, weight, penalties=PENALTIES):
    """The best W for V, from the normal equations of all entries of W together."""
    X, c, G = X.toarray(), pairs.toarray(), Y @ V
    unobserved, ridge = penalties
    d, p = G.shape[1], X.shape[1]
    mass = weight[:, None] * (c + unobserved)
    normal = np.diag(np.repeat(ridge * (X**2).T @ mass.sum(axis=1), d))
    right = np.zeros(p * d)
    for i, j in np.ndindex(*c.shape):
        row = np.kron(X[i], G[j])
        normal += mass[i, j] * np.outer(row, row)
        right += weight[i] * c[i, j] * row
    return np.linalg.solve(normal, right).reshape(p, d)


TABLES = {"ids": (ids(30), ids(20)), "side features": (side_features(30), side_features(20, 1))}


@pytest.mark.parametrize(
    ("tables", "weighted"),
    [
        ("ids", False),
        ("side features", True),
        pytest.param("ids", True, marks=pytest.mark.slow),
        pytest.param("side features", False, marks=pytest.mark.slow),
    ],
)
def test_reaches_the_minimum(tables, weighted, monkeypatch):
    monkeypatch.setattr(implicit_solvers, "_STEPS", 60)
    X, Y = TABLES[tables]
    pairs = feedback()
    weight = np.random.default_rng(1).uniform(0.5, 3, 30) if weighted else np.ones(30)
    W, V, curve, _ = fit(X, Y, pairs, weight if weighted else None, max_iter=300)
    assert curve[-1] == pytest.approx(plain(X, Y, pairs, W, V, weight), rel=1e-9)
    # V is the best for W, and W nearly the best for V.
    np.testing.assert_allclose(best_of_columns(X, Y, pairs, V, weight), W, atol=1e-2 * np.abs(W).max())
    better = best_of_columns(X, Y, pairs, V, weight)
    assert plain(X, Y, pairs, better, V, weight) == pytest.approx(curve[-1], rel=1e-4)


@pytest.mark.parametrize("tables", TABLES)
@pytest.mark.parametrize("d", [1, 3, 40])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_objective_decreases(tables, d, dtype):
    X, Y = (table.astype(dtype) for table in TABLES[tables])
    W, V, curve, _ = fit(X, Y, feedback().astype(dtype), d=d)
    assert W.dtype == V.dtype == dtype
    assert (np.diff(curve) <= 1e-6 * curve[0]).all()
    assert curve[-1] < 0.9 * curve[0] or len(curve) == 1
    stopped = fit(X, Y, feedback().astype(dtype), d=d, tol=1e-2)
    assert len(stopped.curve) < 30


@pytest.mark.parametrize("d", [2, 15, 40])
def test_rows_are_solved_exactly(d):
    """Rows with fewer and with more pairs than features, and none."""
    rng = np.random.default_rng(0)
    pairs, weight = feedback(), rng.uniform(0.5, 2, 20)
    H, ridge = rng.standard_normal((20, d)), rng.uniform(0.5, 2, 30)
    found = implicit_solvers.solve_rows(implicit_solvers.Fixed(pairs, H, weight, 0.3), ridge)
    for i, c in enumerate(pairs.toarray()):
        normal = (H.T * (weight * (c + 0.3))) @ H + ridge[i] * np.eye(d)
        np.testing.assert_allclose(found[i], np.linalg.solve(normal, H.T @ (weight * c)), atol=1e-10)


def test_blocks_change_nothing(monkeypatch):
    X, Y = TABLES["side features"]
    whole, of_ids = fit(X, Y, feedback()), fit(*TABLES["ids"], feedback())
    monkeypatch.setattr(implicit_solvers, "_GATHERED", 8)
    np.testing.assert_allclose(fit(X, Y, feedback()).W, whole.W, rtol=1e-9)
    np.testing.assert_allclose(fit(*TABLES["ids"], feedback()).W, of_ids.W, rtol=1e-9)


def test_both_solvers_find_the_same_maps(monkeypatch):
    exact = fit(ids(30), ids(20), feedback())
    monkeypatch.setattr(implicit, "_are_ids", lambda table: False)
    monkeypatch.setattr(implicit_solvers, "_STEPS", 60)
    np.testing.assert_allclose(fit(ids(30), ids(20), feedback()).W, exact.W, atol=1e-8)


def test_ids_without_pairs_have_no_features():
    for X, Y in TABLES.values():
        W, V, _, _ = fit(X, Y, feedback())
        if X.shape[0] == X.shape[1]:
            assert not W[3].any()
            assert not V[4].any()
        assert np.isfinite(W).all()
        assert np.isfinite(V).all()
    wide = sparse.csr_array(sparse.hstack([ids(30), sparse.csr_array((30, 2))]))  # ids that no row has
    assert not fit(wide, ids(20), feedback()).W[30:].any()


def test_a_weight_counts_rows():
    X, Y, pairs = ids(30), ids(20), feedback()
    twice = np.r_[np.arange(30), [0, 1, 2]]
    weight = np.where(np.arange(30) < 3, 2.0, 1.0)
    _, V, curve, _ = fit(X, Y, pairs, weight, max_iter=200)
    _, V_rows, curve_rows, _ = fit(X[twice], Y, pairs[twice], max_iter=200)
    assert curve[-1] == pytest.approx(curve_rows[-1], rel=1e-4)
    relation, of_rows = V @ V.T, V_rows @ V_rows.T
    np.testing.assert_allclose(relation, of_rows, atol=0.05 * np.abs(relation).max())


def test_the_unit_of_a_column_does_not_matter():
    X, Y = TABLES["side features"]
    unit = sparse.diags_array(np.geomspace(1e-2, 1e2, X.shape[1])).tocsr()
    curve = fit(X, Y, feedback()).curve
    scaled = fit(sparse.csr_array(X @ unit), Y, feedback())
    np.testing.assert_allclose(scaled.curve, curve, rtol=1e-6)


def test_reproducible_to_the_last_bit():
    for X, Y in TABLES.values():
        first, second = (fit(X, Y, feedback()) for _ in range(2))
        np.testing.assert_array_equal(first.W, second.W)
        np.testing.assert_array_equal(first.V, second.V)


def test_numbers_that_overflow_end_the_fit():
    pairs = feedback().astype(np.float32)
    huge = sparse.csr_array(side_features(30).astype(np.float32) * np.float32(1e25))
    found = fit(huge, ids(20, np.float32), pairs)
    assert isinstance(found.stopped_by, FloatingPointError)
    assert np.isfinite(found.W).all()
    assert np.isfinite(found.V).all()


def test_an_interrupt_keeps_the_last_iteration(monkeypatch):
    calls = []

    def interrupted(*arguments):
        calls.append(None)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return implicit_solvers.solve_rows(*arguments)

    monkeypatch.setattr(implicit, "solve_rows", interrupted)
    found = fit(ids(30), ids(20), feedback())
    monkeypatch.undo()
    assert isinstance(found.stopped_by, KeyboardInterrupt)
    np.testing.assert_array_equal(found.W, fit(ids(30), ids(20), feedback(), max_iter=1).W)


# ---- penalties


def blocks(n=200, m=100, groups=5, seed=0):
    """Rows that choose among the columns of their group, and now and then another."""
    rng = np.random.default_rng(seed)
    chance = np.where(np.arange(n)[:, None] % groups == np.arange(m) % groups, 0.4, 0.02)
    return sparse.csr_array((rng.random((n, m)) < chance).astype(float))


def choose(pairs, weight=None, seed=0):
    n, m = pairs.shape
    rng = np.random.RandomState(seed)
    return implicit_choice.choose_penalties(ids(n), ids(m), pairs, weight, 8, rng)


def test_penalties_are_among_the_candidates():
    pairs = blocks()
    candidates = [implicit_choice._scaled(pairs, fraction) for fraction in implicit_choice._FRACTIONS]
    assert choose(pairs) in candidates
    assert choose(pairs) == choose(pairs)
    assert choose(pairs, np.ones(200)) == choose(pairs)


def test_few_pairs_choose_nothing():
    pairs = blocks(20, 10)
    assert choose(pairs) == implicit_choice._scaled(pairs, implicit_choice._FRACTIONS[0])


def test_many_pairs_are_judged_by_some_rows(monkeypatch):
    monkeypatch.setattr(implicit_choice, "_PAIRS", 1000)
    monkeypatch.setattr(implicit_choice, "_JUDGED", 20)
    pairs = blocks()
    rows = implicit_choice._some_rows(pairs, np.random.RandomState(0))
    assert 800 < pairs[rows].nnz <= 1000
    assert choose(pairs) == choose(pairs)


def test_penalties_do_not_depend_on_the_size():
    small, large = blocks(), sparse.csr_array(sparse.block_array([[blocks(), None], [None, blocks(seed=1)]]))
    a, b = (implicit_choice._scaled(pairs, 0.4) for pairs in (small, large))
    assert b.unobserved == pytest.approx(a.unobserved / 2, rel=0.1)  # half as dense
    assert b.ridge == pytest.approx(a.ridge, rel=0.1)
