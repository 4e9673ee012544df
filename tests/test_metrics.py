"""Measures of rankings equal their plain definitions, whatever form their arguments have."""

import pickle
import tracemalloc

import numpy as np
import pytest
import relkernels as rk
from hypothesis import given
from hypothesis import strategies as st
from relkernels import metrics
from relkernels.metrics import ranking
from scipy import sparse
from sklearn.metrics import ndcg_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from strategies import seeds


def ranked(scores, excluded):
    """The items of each row, best first, ties by the lower index, excluded ones left out."""
    for row, out in zip(scores, excluded, strict=True):
        yield [j for j in sorted(range(len(row)), key=lambda j: (-row[j], j)) if not out[j]]


def defined(measure, gains, scores, excluded, k):
    """The mean of a measure over rows, item by item."""
    found = []
    for gain, order in zip(gains, ranked(scores, excluded), strict=True):
        relevant = [j for j in order if gain[j] > 0]
        if not relevant:
            continue
        best = order[:k]
        hits = [j for j in best if gain[j] > 0]
        if measure == "recall_at_k":
            found.append(len(hits) / len(relevant))
        elif measure == "precision_at_k":
            found.append(len(hits) / len(best))
        elif measure == "mean_reciprocal_rank":
            found.append(1 / (1 + order.index(hits[0])) if hits else 0.0)
        else:
            ideal = sorted((gain[j] for j in order), reverse=True)[:k]
            found.append(
                sum(gain[j] / np.log2(i + 2) for i, j in enumerate(best))
                / sum(value / np.log2(i + 2) for i, value in enumerate(ideal))
            )
    return np.mean(found) if found else None


MEASURES = ["recall_at_k", "precision_at_k", "ndcg_at_k", "mean_reciprocal_rank"]


@pytest.mark.parametrize("measure", MEASURES)
@given(st.data(), st.integers(1, 12), st.integers(1, 9), seeds)
def test_equals_the_definition(measure, data, n, m, seed):
    rng = np.random.default_rng(seed)
    F = rng.integers(-2, 3, (n, 2)).astype(data.draw(st.sampled_from([np.float32, np.float64])))  # many ties
    G = rng.integers(-2, 3, (m, 2)).astype(F.dtype)
    gains = rng.integers(0, 3, (n, m)) * (rng.random((n, m)) < 0.4)
    excluded = rng.random((n, m)) < data.draw(st.sampled_from([0.0, 0.3, 0.8]))
    k = data.draw(st.integers(1, 12))
    expected = defined(measure, gains, F @ G.T, excluded, k)
    function = getattr(metrics, measure)
    scores = data.draw(st.sampled_from([(F, G), F @ G.T, lambda rows: F[rows] @ G.T]))
    relevant = data.draw(st.sampled_from([gains, sparse.csc_matrix(gains), sparse.coo_array(gains)]))
    exclude = data.draw(
        st.sampled_from([excluded, sparse.csr_array(excluded), [*map(np.flatnonzero, excluded)]])
    )
    ranking._PAIRS = data.draw(st.sampled_from([1, 20, 1 << 22]))
    try:
        if expected is None:
            with pytest.raises(ValueError, match=r"relevant: .* at least one row"):
                function(relevant, scores, k, exclude=exclude)
        else:
            assert function(relevant, scores, k, exclude=exclude) == pytest.approx(expected, abs=1e-12)
    finally:
        ranking._PAIRS = 1 << 22
    if expected is not None and measure == "mean_reciprocal_rank":
        assert function(gains, scores, exclude=exclude) == pytest.approx(
            defined(measure, gains, F @ G.T, excluded, m), abs=1e-12
        )


@pytest.mark.parametrize("k", [1, 3, 10, 50])
def test_ndcg_is_that_of_scikit_learn(k):
    rng = np.random.default_rng(0)
    gains, scores = rng.integers(0, 4, (30, 20)), rng.standard_normal((30, 20))
    gains[:, 0] = 1  # scikit-learn counts rows without relevant items as 0
    assert metrics.ndcg_at_k(gains, scores, k) == pytest.approx(ndcg_score(gains, scores, k=k))


def test_truncated_recall():
    scores = np.array([[4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]])
    relevant = [[0, 1, 2], [3]]
    assert metrics.recall_at_k(relevant, scores, 2) == pytest.approx((2 / 3 + 1) / 2)
    assert metrics.recall_at_k(relevant, scores, 2, truncated=True) == 1.0
    assert metrics.recall_at_k(relevant, scores, 10**30, truncated=True) == 1.0


def test_lists_of_items():
    scores = np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    assert metrics.recall_at_k([[0, 0, 2], [], [1]], scores, 2) == 0.75  # duplicates count once
    assert metrics.recall_at_k(np.array([0, 0, 1]), scores, 1) == pytest.approx(1 / 3)
    assert metrics.recall_at_k([0, 2, 0], scores, 1) == 1.0  # of equal scores the first


def test_rows_that_say_nothing():
    scores = np.eye(3)
    every = [[], [], [0, 1, 2]]
    assert metrics.recall_at_k([[0], [], [2]], scores, 1, exclude=every) == 1.0
    assert metrics.precision_at_k([[0], [1], []], scores, 10, exclude=[[1, 2], [0, 2], []]) == 1.0
    explicit = sparse.csr_array(([0.0, 1.0], ([0, 1], [1, 1])), shape=(3, 3))
    assert metrics.recall_at_k(explicit, scores, 1) == 1.0  # a stored zero is not relevant


def test_infinite_scores_are_ranked():
    scores = np.array([[-np.inf, 1.0, np.inf], [-np.inf, -np.inf, -np.inf]])
    assert metrics.mean_reciprocal_rank([1, 1], scores) == 0.5
    assert metrics.mean_reciprocal_rank([1, 1], scores, 2) == 0.5


def test_never_holds_the_matrix():
    F = np.random.default_rng(0).standard_normal((20_000, 4), dtype=np.float32)
    own = sparse.eye_array(20_000, format="csr")
    metrics.recall_at_k(own[:10], (F[:10], F), 3)  # imports what it needs
    tracemalloc.start()
    metrics.recall_at_k(own, (F, F), 3, exclude=sparse.eye_array(20_000, k=1))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000**2 / 8  # a bit for each pair


BAD = [
    ({"relevant": sparse.eye_array(3)}, ValueError, "relevant: expected shape"),
    ({"relevant": np.full((3, 4), "a")}, TypeError, "relevant: expected a sparse matrix"),
    ({"relevant": 3}, TypeError, "relevant: expected a sparse matrix"),
    ({"relevant": [0, 1]}, ValueError, "relevant: expected one item or list of items for each of 3"),
    ({"relevant": [0, 1, 4]}, ValueError, r"relevant\[2\]: expected items from 0 to 3"),
    ({"relevant": [0, 1, -1]}, ValueError, r"relevant\[2\]: expected items from 0 to 3"),
    ({"relevant": [0, 1, 0.5]}, TypeError, r"relevant\[2\]: expected an item"),
    ({"relevant": np.full((3, 4), -1.0)}, ValueError, "relevant: expected finite values >= 0"),
    ({"relevant": np.full((3, 4), np.nan)}, ValueError, "relevant: expected finite values >= 0"),
    ({"relevant": np.zeros((3, 4))}, ValueError, "relevant: expected at least one row"),
    ({"exclude": np.ones((3, 4), bool)}, ValueError, "relevant: expected at least one row"),
    ({"exclude": np.ones((4, 3), bool)}, ValueError, "exclude: expected shape"),
    ({"scores": np.full((3, 4), np.nan)}, ValueError, "scores: expected numbers, got NaN"),
    ({"scores": np.ones(3)}, TypeError, "scores: expected features"),
    ({"scores": (np.ones((3, 2)), np.ones((4, 3)))}, ValueError, "expected features as wide"),
    ({"scores": (np.ones((3, 2)),) * 3}, ValueError, "scores: expected features"),
    ({"scores": (np.ones((3, 2)), np.full((4, 2), np.inf))}, ValueError, r"scores\[1\]: expected finite"),
    ({"scores": lambda rows: np.ones((1, 4))}, ValueError, r"scores: expected shape \(3, 4\)"),
    ({"k": 0}, ValueError, "k: expected an integer >= 1"),
    ({"k": 1.5}, TypeError, "k: expected an integer"),
]


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(("changed", "error", "message"), BAD)
def test_bad_input(measure, changed, error, message):
    arguments = {"relevant": [0, 1, 2], "scores": np.eye(3, 4), "k": 2, **changed}
    with pytest.raises(error, match=message):
        getattr(metrics, measure)(**arguments)


# ---- scorers


def views():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((90, 4))
    return X, np.tanh(X @ rng.standard_normal((4, 5)))


def test_scorer_of_matched_rows():
    X, Y = views()
    relation = rk.AsymmetricRelation((8,), n_features=4, max_iter=5, batch_size=20, random_state=0)
    scorer = metrics.ranking_scorer("recall_at_k", k=1)
    relation.fit(X[:60], Y[:60])
    assert scorer(relation, X[60:], Y[60:]) == pytest.approx(relation.score(X[60:], Y[60:]))
    search = GridSearchCV(relation, {"max_iter": [1, 200]}, scoring=pickle.loads(pickle.dumps(scorer)), cv=3)
    assert search.fit(X, Y).best_params_ == {"max_iter": 200}
    many = {"first": scorer, "rank": metrics.ranking_scorer("mean_reciprocal_rank")}
    refitted = GridSearchCV(relation, {"max_iter": [5]}, scoring=many, refit="rank", cv=2).fit(X, Y)
    assert 0 < refitted.best_score_ < 1


def test_scorer_of_labels():
    X, _ = views()
    label = np.array(["a", "b", "c"])[np.argmax(X[:, :3], axis=1)]
    model = make_pipeline(
        StandardScaler(), rk.SymmetricRelation((8,), n_features=3, max_iter=3, random_state=0)
    )
    scorer = metrics.ranking_scorer("precision_at_k", k=5)
    found = scorer(model.fit(X, label), X, label)
    F = model.transform(X)
    same = (label[:, None] == label) & ~np.eye(len(X), dtype=bool)
    expected = defined("precision_at_k", same, F @ F.T, np.eye(len(X), dtype=bool), 5)
    assert found == pytest.approx(expected)
    assert len(cross_val_score(model, X, label, scoring=scorer, cv=2)) == 2


def test_scorer_refuses_other_data():
    X, Y = views()
    relation = rk.SymmetricRelation((4,), n_features=3, max_iter=1, random_state=0).fit(X, X[:, 0] > 0)
    with pytest.raises(ValueError, match="y: expected one label"):
        metrics.ranking_scorer()(relation, X, Y)
    with pytest.raises(ValueError, match="y: expected the matching rows"):
        metrics.ranking_scorer()(relation, X, None)
    with pytest.raises(ValueError, match="measure: expected one of"):
        metrics.ranking_scorer("recall")
    with pytest.raises(ValueError, match="k: expected"):
        metrics.ranking_scorer(k=0)
