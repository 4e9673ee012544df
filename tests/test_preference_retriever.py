"""PreferenceRetriever: it learns preorders, selects and attends by them, and reports bad input."""

import numpy as np
import pytest
import relkernels as rk
from relkernels import PreferenceRetriever, bounds
from scipy.stats import binom
from sklearn.exceptions import NotFittedError


def utility(Q, sets):
    return -np.linalg.norm(sets - Q[:, None, :], axis=2)  # the nearer the better


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    Q, sets = rng.standard_normal((500, 2)), rng.standard_normal((500, 6, 2))
    return Q, sets, utility(Q, sets)


def make(**parameters):
    settings = {"hidden_widths": (64,), "n_features": 8, "batch_size": 50, "random_state": 0}
    return PreferenceRetriever(**{**settings, **parameters})


@pytest.fixture(scope="module")
def nearest(data):
    Q, sets, u = data
    return make(max_iter=100).fit(Q[:400], sets[:400], u[:400].argmax(axis=1))


def test_learns_choices(data, nearest):
    Q, sets, u = data
    chosen = u.argmax(axis=1)
    assert nearest.score(Q[400:], sets[400:], chosen[400:]) > 0.85
    np.testing.assert_array_equal(nearest.select(Q, sets), nearest.utility(Q, sets).argmax(axis=1))


@pytest.mark.slow
def test_learns_pairs_and_grades(data):
    Q, sets, u = data
    chosen = u.argmax(axis=1)
    first, second = sets[:, 0], sets[:, 1]
    better = (u[:, 0] > u[:, 1])[:, None]
    pairs = make(max_iter=200).fit_pairs(Q, np.where(better, first, second), np.where(better, second, first))
    assert pairs.score(Q, sets, chosen) > 0.75
    graded = make(max_iter=200).fit_graded(Q[:400], sets[:400], 3 * u[:400])
    learned = graded.utility(Q[400:], sets[400:])
    learned -= learned.mean(axis=1, keepdims=True)
    wanted = 3 * (u[400:] - u[400:].mean(axis=1, keepdims=True))
    assert np.corrcoef(learned.ravel(), wanted.ravel())[0, 1] > 0.97


def test_pairs_are_sets_of_two(data):
    Q, sets, _ = data
    by_pairs = make(max_iter=3).fit_pairs(Q, sets[:, 0], sets[:, 1])
    by_sets = make(max_iter=3).fit(Q, sets[:, :2], np.zeros(500, int))
    np.testing.assert_array_equal(by_pairs.transform(Q), by_sets.transform(Q))


def test_sets_of_many_sizes(data):
    """A list of arrays gives the same results as one array, and each set the same as on its own."""
    Q, sets, u = data
    as_list = make(max_iter=3).fit(Q, list(sets), u.argmax(axis=1))
    as_array = make(max_iter=3).fit(Q, sets, u.argmax(axis=1))
    np.testing.assert_array_equal(as_list.transform(Q), as_array.transform(Q))
    sizes = np.random.default_rng(1).integers(1, 7, size=500)
    ragged = [s[:n] for s, n in zip(sets, sizes, strict=True)]
    chosen = np.array([row[:n].argmax() for row, n in zip(u, sizes, strict=True)])
    model = make(max_iter=40).fit(Q, ragged, chosen)
    assert model.score(Q, ragged, chosen) > 0.85
    utilities = model.utility(Q, ragged)
    assert [len(row) for row in utilities] == list(sizes)
    selected, attended = model.select(Q, ragged), model.attend(Q, ragged, ragged, 3.0)
    for i in range(0, 500, 61):
        alone = model.utility(Q[i : i + 1], ragged[i][None])[0]
        np.testing.assert_array_equal(alone, utilities[i])
        assert selected[i] == alone.argmax()
        weights = np.exp(3.0 * (alone - alone.max()))
        np.testing.assert_allclose(attended[i], weights @ ragged[i] / weights.sum(), rtol=1e-9, atol=1e-12)
    assert (model.set_sizes_ == sizes).all()


@pytest.mark.slow
def test_one_set_for_all(data):
    Q, _, _ = data
    items = np.random.default_rng(2).standard_normal((30, 2))
    u = utility(Q, np.broadcast_to(items, (500, 30, 2)))
    chosen = u.argmax(axis=1)
    for n_negatives in (None, 10):
        model = make(n_negatives=n_negatives, max_iter=50).fit(Q[:400], items, chosen[:400])
        assert model.score(Q[400:], items, chosen[400:]) > 0.6
    np.testing.assert_array_equal(model.select(Q, items), model.utility(Q, items).argmax(axis=1))
    weights = rk.attention_scores(Q, items, model.phi_, model.psi_, scale=2.0)
    np.testing.assert_allclose(model.attend(Q, items, items, 2.0), weights @ items, rtol=1e-9, atol=1e-12)
    assert make(max_iter=80).fit_graded(Q, items, 3 * u).score(Q, items, chosen) > 0.6


def test_attention_comes_as_near_as_the_temperature_promises(data, nearest):
    Q, sets, _ = data
    Q, sets = Q[:400], sets[:400]
    margin = bounds.margin_of(nearest.utility(Q, sets))
    np.testing.assert_array_equal(nearest.margins_, margin.per_set)
    values = np.random.default_rng(4).random((400, 6, 1))  # diameter at most 1
    best = values[np.arange(400), nearest.select(Q, sets)]
    order = np.argsort(-margin.per_set)
    for eps, coverage in ((0.2, 0.9), (0.01, 0.8), (0.1, 1.0)):
        beta = nearest.temperature_for(eps, coverage)
        error = np.abs(nearest.attend(Q, sets, values, beta) - best)[:, 0]
        assert (error[order[: int(np.ceil(coverage * 400))]] <= eps).all()
    assert nearest.temperature_for(0.01) > nearest.temperature_for(0.1) > nearest.temperature_for(0.1, 0.9)
    assert nearest.temperature_for(0.1) == bounds.attention(margin, 6, 1.0, 0.1).value


def test_the_temperature_is_of_all_sets_not_of_the_last_batch(data):
    Q, sets, u = data
    chosen = u.argmax(axis=1)
    model = make(max_iter=5).fit(Q, sets, chosen)
    assert model.temperature_for(0.1, Q=Q, sets=sets) == model.temperature_for(0.1)
    for part in (slice(0, 400), slice(400, 500)):
        model.partial_fit(Q[part], sets[part], chosen[part])
    assert not {"margins_", "n_best_", "set_sizes_"} & set(vars(model))
    margin = bounds.margin_of(model.utility(Q, sets))
    wanted = bounds.attention(margin, 6, 1.0, 0.1).value
    assert model.temperature_for(0.1, Q=Q, sets=sets) == wanted
    of_parts = [model.temperature_for(0.1, Q=Q[at], sets=sets[at]) for at in (slice(0, 400), slice(400, 500))]
    assert max(of_parts) == wanted > min(of_parts)


def test_consistency(data, nearest):
    Q, sets, _ = data
    found = nearest.check_transitivity(Q, sets, n_triples=500, random_state=0)
    assert found == (500, 0, 0)
    assert nearest.check_transitivity(Q, sets[:, :2]) == (0, 0, 0)
    small = nearest.check_continuity(Q, sets, radius=1e-4, random_state=0)
    large = nearest.check_continuity(Q, sets, radius=0.5, random_state=0)
    for report in (small, large):
        assert 0 < report.slope <= report.slope_bound
        assert report.changed + report.secured <= 1
    assert small.changed <= 0.01 < large.changed
    assert small.secured > 0.95 > large.secured
    assert small.largest_change < large.largest_change


def test_a_preference_that_goes_in_a_circle_is_found(data, nearest, monkeypatch):
    """The check can fail: rock, paper and scissors by a relation that depends on both items."""
    from relkernels.estimators import consistency

    Q, sets, _ = data

    def circle(q, items, phi, psi):
        turn = items[:, 0, 0] * items[:, 1, 1] - items[:, 0, 1] * items[:, 1, 0]
        return np.stack([turn, -turn], axis=1)[:, None]

    monkeypatch.setattr(consistency, "relation_matrix", circle)
    assert nearest.check_transitivity(Q, sets, random_state=0).n_violations > 50
    monkeypatch.setattr(consistency, "relation_matrix", lambda q, i, *_: np.full((len(q), 1, 2), np.nan))
    assert nearest.check_transitivity(Q, sets, random_state=0).n_incomparable == 1000


BAD = [
    (lambda m, Q, S, c: m.fit(Q, S, np.where(c == 0, 6, c)), "chosen: expected an index below 6"),
    (lambda m, Q, S, c: m.fit(Q, S, c - 6), "chosen: expected an index below 6.*got -"),
    (lambda m, Q, S, c: m.fit(Q, S, c[:9]), r"chosen: expected shape \(500,\)"),
    (lambda m, Q, S, c: m.fit(Q, S), "chosen: expected an index for each query"),
    (lambda m, Q, S, c: m.fit(Q, S[:9], c), "sets: expected 500 sets"),
    (lambda m, Q, S, c: m.fit(Q, S[:, :0], c), "sets: expected at least one item"),
    (lambda m, Q, S, c: m.fit(Q, [*S[:-1], S[0, :0]], c), r"sets\[499\]: expected at least one item"),
    (lambda m, Q, S, c: m.fit(Q, [*S[:-1], S[0, :, :1]], c), "sets: expected items with the same number"),
    (lambda m, Q, S, c: m.fit(Q, np.where(S > 3, np.nan, S), c), "sets contains NaN"),
    (lambda m, Q, S, c: m.fit_pairs(Q, S[:, 0], S[:, 1, :1]), "losers: expected the shape of winners"),
    (lambda m, Q, S, c: m.fit_graded(Q, S, S[:, :5, 0]), r"grades\[0\]: expected shape \(6,\)"),
    (lambda m, Q, S, c: m.fit_graded(Q, S, np.full((500, 6), np.inf)), r"grades\[0\]: expected finite"),
    (lambda m, Q, S, c: m.fit_graded(Q, S, S[:9, :, 0]), "grades: expected 500 rows"),
    (lambda m, Q, S, c: m.set_params(n_negatives=3).fit(Q, S, c), "n_negatives: expected None unless"),
    (
        lambda m, Q, S, c: m.set_params(n_negatives=3).fit_graded(Q, S[0], S[:, :1, 0].repeat(6, 1)),
        "n_negatives: expected None unless",
    ),
    (lambda m, Q, S, c: m.fit(Q, S, c).temperature_for(0.1, Q=Q), "sets: expected both Q and sets"),
    (lambda m, Q, S, c: m.partial_fit(Q, S, c).temperature_for(0.1), "Q: expected queries .* partial_fit"),
    (lambda m, Q, S, c: m.fit(Q, S, c).select(Q, S[:, :, :1]), "sets: expected items of 2 features"),
    (lambda m, Q, S, c: m.fit(Q, S, c).select(Q[:, :1], S), "1 features"),
    (lambda m, Q, S, c: m.fit(Q, S, c).attend(Q, S, S[:, :5], 1.0), "V: expected a value for each item"),
    (lambda m, Q, S, c: m.fit(Q, S, c).attend(Q, S, S, -1.0), "beta: expected a finite number >= 0"),
    (lambda m, Q, S, c: m.fit(Q, S, c).temperature_for(0.0), "eps: expected a fraction"),
    (lambda m, Q, S, c: m.fit(Q, S, c).temperature_for(0.1, 0.0), "coverage: expected a fraction"),
    (lambda m, Q, S, c: m.fit(Q, S, c).check_continuity(Q, S, 0.0), "radius: expected"),
]


@pytest.mark.parametrize(("call", "words"), BAD, ids=[words for _, words in BAD])
def test_bad_input(data, call, words):
    Q, sets, u = data
    with pytest.raises(ValueError, match=words):
        call(make(max_iter=1), Q, sets, u.argmax(axis=1))


def test_wrong_types_and_unfitted(data):
    Q, sets, u = data
    with pytest.raises(TypeError, match="chosen: expected integer indices"):
        make().fit(Q, sets, u.argmax(axis=1).astype(float))
    for call in (
        lambda m: m.utility(Q, sets),
        lambda m: m.select(Q, sets),
        lambda m: m.attend(Q, sets, sets, 1.0),
        lambda m: m.temperature_for(0.1),
        lambda m: m.check_transitivity(Q, sets),
    ):
        with pytest.raises(NotFittedError):
            call(make())


def test_a_temperature_for_new_sets(data, nearest):
    Q, sets, _ = data
    Q, sets = Q[400:], sets[400:]
    needed = bounds.attention(bounds.margin_of(nearest.utility(Q, sets)), None, 1.0, 0.1).details["per_set"]
    beta = nearest.temperature_for(0.1, 0.8, Q=Q, sets=sets, confidence=0.95)
    k = int((needed <= beta).sum())
    assert beta in needed
    # P(at least k of n below the quantile) is at most 0.05 for this k, not for the one before.
    assert binom.sf(k - 1, len(needed), 0.8) <= 0.05 < binom.sf(k - 2, len(needed), 0.8)
    assert beta >= nearest.temperature_for(0.1, 0.8, Q=Q, sets=sets)
    with pytest.raises(ValueError, match=r"^coverage: expected less, or more than"):
        nearest.temperature_for(0.1, 0.999, Q=Q, sets=sets, confidence=0.95)
    with pytest.raises(ValueError, match=r"^Q: expected queries and sets that were not used"):
        nearest.temperature_for(0.1, 0.8, confidence=0.95)
