"""Relation values and pairs of rows in scikit-learn's cross-validation and searches."""

import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
from relkernels import AsymmetricRelation, PreferenceRetriever, RelationValues, RowPairs, SymmetricRelation
from relkernels.metrics import ranking_scorer, recall_at_k
from scipy import sparse
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    KFold,
    ShuffleSplit,
    StratifiedKFold,
    cross_val_score,
    cross_validate,
    learning_curve,
    permutation_test_score,
    train_test_split,
    validation_curve,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X = RNG.standard_normal((90, 3))
Y = RNG.standard_normal((40, 3))
R = rbf_kernel(X, gamma=0.05)
ACROSS = rbf_kernel(X, Y, gamma=0.05)
KIND = np.arange(90) % 3
SPLITTERS = [KFold(3), KFold(3, shuffle=True, random_state=1), ShuffleSplit(3, test_size=0.2, random_state=2)]


def seeded(kind_of, **parameters):
    return kind_of(random_state=0, **parameters)


def quick(kind_of):
    """An estimator that a solver trains in a tenth of a second."""
    return seeded(kind_of, hidden_widths=(16,), n_features=4, max_iter=5, batch_size=64, learning_rate=3e-2)


def by_hand(estimator, splitter, cut):
    """Scores of a loop over the splits, with arguments of `fit` and `score` from `cut(rows)`."""
    scores = []
    for train, test in splitter.split(X):
        fitted = sklearn.base.clone(estimator).fit(*cut(train))
        scores.append(fitted.score(*cut(test)))
    return np.array(scores)


@pytest.mark.parametrize("splitter", SPLITTERS, ids=str)
def test_square_values_are_split_by_rows_and_columns(splitter):
    estimator = seeded(SymmetricRelation)
    scores = cross_val_score(estimator, X, RelationValues(R), cv=splitter, error_score="raise")
    expected = by_hand(estimator, splitter, lambda rows: (X[rows], R[np.ix_(rows, rows)]))
    np.testing.assert_array_equal(scores, expected)
    assert scores.min() > 0.8
    frame = pd.DataFrame(R)
    np.testing.assert_array_equal(cross_val_score(estimator, X, frame, cv=splitter), expected)
    labels = [f"row {i}" for i in range(len(X))]
    frame = pd.DataFrame(R, index=labels, columns=labels)
    np.testing.assert_array_equal(cross_val_score(estimator, X, frame, cv=splitter), expected)


@pytest.mark.parametrize("splitter", SPLITTERS, ids=str)
def test_values_between_tables_are_split_by_rows(splitter):
    estimator = seeded(AsymmetricRelation)
    scores = cross_val_score(estimator, X, RelationValues(ACROSS, Y), cv=splitter, error_score="raise")
    expected = by_hand(estimator, splitter, lambda rows: (X[rows], Y, ACROSS[rows]))
    np.testing.assert_array_equal(scores, expected)
    assert scores.min() > 0.8


def test_an_asymmetric_relation_of_one_table():
    values = np.tril(R) - np.triu(R)
    estimator, splitter = seeded(AsymmetricRelation, max_iter=2), SPLITTERS[1]
    scores = cross_val_score(estimator, X, RelationValues(values), cv=splitter, error_score="raise")
    cut = by_hand(estimator, splitter, lambda rows: (X[rows], X[rows], values[np.ix_(rows, rows)]))
    np.testing.assert_array_equal(scores, cut)


def test_sparse_values_are_split_by_rows_and_columns():
    stored = np.triu(RNG.random(R.shape) < 0.3)
    observed = np.where(stored | stored.T, R, 0)
    estimator, splitter = quick(SymmetricRelation), SPLITTERS[1]
    scores = cross_val_score(
        estimator, X, RelationValues(sparse.csr_array(observed)), cv=splitter, error_score="raise"
    )
    cut = by_hand(estimator, splitter, lambda rows: (X[rows], sparse.csr_array(observed[np.ix_(rows, rows)])))
    np.testing.assert_array_equal(scores, cut)
    across = np.where(RNG.random(ACROSS.shape) < 0.3, ACROSS, 0)
    estimator = quick(AsymmetricRelation)
    scores = cross_val_score(
        estimator, X, RelationValues(sparse.csr_array(across), Y), cv=splitter, error_score="raise"
    )
    cut = by_hand(estimator, splitter, lambda rows: (X[rows], Y, sparse.csr_array(across[rows])))
    np.testing.assert_array_equal(scores, cut)


@pytest.mark.parametrize(
    ("kind_of", "y"),
    [(SymmetricRelation, RelationValues(R)), (AsymmetricRelation, RelationValues(ACROSS, Y))],
)
def test_searches_and_curves(kind_of, y):
    estimator, cv = seeded(kind_of), KFold(3)
    search = GridSearchCV(estimator, {"activation": ["relu", "tanh"]}, cv=cv, error_score="raise").fit(X, y)
    one = cross_val_score(estimator.set_params(**search.best_params_), X, y, cv=cv)
    assert search.best_score_ == one.mean()
    assert search.score(X, y) > 0.9
    halving = HalvingGridSearchCV(estimator, {"activation": ["relu"]}, cv=cv, min_resources=30)
    assert halving.fit(X, y).best_score_ > 0.5
    sizes, _, tested = learning_curve(estimator, X, y, cv=cv, train_sizes=[0.5, 1.0], error_score="raise")
    assert sizes.tolist() == [30, 60]
    np.testing.assert_array_equal(tested[1], one)
    options = {"param_name": "activation", "param_range": ["relu"], "cv": cv, "error_score": "raise"}
    assert np.isfinite(validation_curve(estimator, X, y, **options)[1]).all()
    score, permuted, _ = permutation_test_score(estimator, X, y, cv=cv, n_permutations=2, random_state=0)
    assert score > 0.8 > permuted.max()
    pipeline = make_pipeline(StandardScaler(), estimator)
    assert cross_validate(pipeline, X, y, cv=cv, error_score="raise")["test_score"].min() > 0.8
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
    assert estimator.fit(X_train, y_train).score(X_test, y_test) > 0.8


def test_an_array_of_values_that_was_split_by_rows_is_refused_with_advice():
    said = r"expected .*\(60, 60\).*, got \(60, 90\).*relkernels\.RelationValues"
    with pytest.raises(ValueError, match="^y: " + said):
        cross_val_score(seeded(SymmetricRelation), X, R, cv=3, error_score="raise")
    with pytest.raises(ValueError, match="^y: " + said):
        SymmetricRelation().fit(X[:60], sparse.csr_array(R[:60]))
    frame = pd.DataFrame(R, columns=[f"other {i}" for i in range(90)])  # labels that say nothing
    with pytest.raises(ValueError, match="^y: " + said):
        cross_val_score(seeded(SymmetricRelation), X, frame, cv=3, error_score="raise")
    with pytest.raises(ValueError, match="^R: " + said):
        AsymmetricRelation().fit(X[:60], X[:60], R[:60])


@pytest.mark.parametrize("rows", [np.array([5, 2, 8]), slice(3, 9, 2), np.arange(90) % 2 == 0, [1, 0]])
def test_selection(rows):
    square, across = RelationValues(R), RelationValues(ACROSS, Y)
    np.testing.assert_array_equal(square[rows].values, R[rows][:, rows])
    np.testing.assert_array_equal(square[rows, ...].values, R[rows][:, rows])
    for form in (sparse.csr_array, sparse.csc_array, sparse.coo_array, sparse.csr_matrix):
        stored = RelationValues(form(R))[rows].values
        np.testing.assert_array_equal(stored.toarray(), R[rows][:, rows])
    np.testing.assert_array_equal(across[rows].values, ACROSS[rows])
    assert across[rows].Y is Y
    pairs = RowPairs(np.argwhere(R > 0.5)[:90], X)
    np.testing.assert_array_equal(pairs[rows].pairs, pairs.pairs[rows])
    assert pairs[rows].X is X
    assert len(pairs[rows]) == pairs[rows].shape[0] == len(square[rows]) == square[rows].shape[0]
    again = pickle.loads(pickle.dumps(square[rows]))
    np.testing.assert_array_equal(again.values, square[rows].values)


# Pairs of rows.

INDEX = RNG.permutation(np.argwhere(np.triu(np.ones((90, 90)), 1)))[:900]
SAME = KIND[INDEX[:, 0]] == KIND[INDEX[:, 1]]
CLEAR = X + 2 * np.eye(3)[KIND]


@pytest.mark.parametrize("cv", [KFold(3), StratifiedKFold(3), ShuffleSplit(2, random_state=0)], ids=str)
@pytest.mark.parametrize("values", [SAME, np.where(SAME, 1, -1)], ids=["bool", "signs"])
def test_pairs_are_split_as_samples(cv, values):
    estimator, pairs = quick(SymmetricRelation), RowPairs(INDEX, CLEAR)
    scores = cross_val_score(estimator, pairs, values, cv=cv, error_score="raise")
    assert scores.min() > 0.8
    train, test = next(iter(cv.split(pairs, values)))
    fitted = estimator.fit(pairs[train], values[train])
    rows, columns = INDEX[test].T
    relation = fitted.relation_matrix(CLEAR)[rows, columns]
    assert scores[0] == pytest.approx(roc_auc_score(values[test] > 0, relation))


def test_values_of_pairs():
    pairs, values = RowPairs(INDEX, X), R[INDEX[:, 0], INDEX[:, 1]]
    estimator = quick(SymmetricRelation)
    assert np.isfinite(cross_val_score(estimator, pairs, values, cv=2, error_score="raise")).all()
    fitted = estimator.fit(pairs, values)
    at = sparse.csr_array((values, tuple(INDEX.T)), shape=R.shape)
    np.testing.assert_array_equal(quick(SymmetricRelation).fit(X, at + at.T).phi_(X), fitted.phi_(X))
    relation = fitted.relation_matrix(X)[INDEX[:, 0], INDEX[:, 1]]
    assert fitted.score(pairs, values) == pytest.approx(r2_score(values, relation))
    assert fitted.features_fit_.shape[0] == len(X)
    search = GridSearchCV(estimator, {"activation": ["relu", "tanh"]}, cv=2, error_score="raise")
    assert np.isfinite(search.fit(pairs, values).best_score_)
    assert np.isfinite(learning_curve(estimator, pairs, values, cv=2, train_sizes=[0.5])[2]).all()


def test_pairs_of_two_tables():
    index = RNG.permutation(np.argwhere(np.ones(ACROSS.shape)))[:900]
    pairs, values = RowPairs(index, X, Y), ACROSS[index[:, 0], index[:, 1]]
    estimator = quick(AsymmetricRelation)
    assert np.isfinite(cross_val_score(estimator, pairs, values, cv=2, error_score="raise")).all()
    at = sparse.csr_array((values, tuple(index.T)), shape=ACROSS.shape)
    fitted = estimator.fit(pairs, values)
    np.testing.assert_array_equal(quick(AsymmetricRelation).fit(X, Y, at).psi_(Y), fitted.psi_(Y))
    assert fitted.features_fit_.shape[0] == len(Y)


def test_a_pair_that_is_given_twice_has_the_mean_of_its_values():
    index, values = np.array([[0, 1], [1, 0], [2, 3], [4, 4]]), np.array([1.0, 3.0, 5.0, 7.0])
    once = np.zeros((5, 5))
    once[[0, 1, 2, 3, 4], [1, 0, 3, 2, 4]] = 2, 2, 5, 5, 7
    expected = seeded(SymmetricRelation, max_iter=2).fit(X[:5], sparse.csr_array(once))
    found = seeded(SymmetricRelation, max_iter=2).fit(RowPairs(index, X[:5]), values)
    np.testing.assert_array_equal(found.phi_(X), expected.phi_(X))


@pytest.fixture(scope="module")
def choices():
    """Users and items of four kinds, as ids, and the pairs that were chosen."""
    rng = np.random.default_rng(1)
    taste, genre = rng.integers(4, size=120), rng.integers(4, size=60)
    chosen = rng.random((120, 60)) < np.where(taste[:, None] == genre, 0.5, 0.02)
    pairs = np.argwhere(chosen)
    return RowPairs(pairs, sparse.eye(120, format="csr"), sparse.eye(60, format="csr")), chosen


def test_implicit_feedback(choices):
    pairs, chosen = choices
    estimator, ones = seeded(AsymmetricRelation), np.ones(len(pairs))
    cv = KFold(3, shuffle=True, random_state=0)
    scores = cross_val_score(estimator, pairs, ones, cv=cv, error_score="raise")
    assert scores.min() > 0.8
    recall = ranking_scorer("recall_at_k", k=10)
    recalls = cross_val_score(estimator, pairs, ones, cv=cv, scoring=recall, error_score="raise")
    train, test = next(iter(cv.split(pairs)))
    fitted = estimator.fit(pairs[train], ones[train])
    hidden, known = np.zeros_like(chosen), np.zeros_like(chosen)
    hidden[tuple(pairs.pairs[test].T)], known[tuple(pairs.pairs[train].T)] = True, True
    features = fitted.transform(pairs.X, pairs.Y)
    assert recalls[0] == recall_at_k(hidden, features, 10, exclude=known)
    relation, tested = fitted.relation_matrix(pairs.X, pairs.Y), hidden | ~chosen
    assert scores[0] == pytest.approx(roc_auc_score(hidden[tested], relation[tested]))
    search = GridSearchCV(estimator, {"n_features": [4, 8]}, cv=cv, scoring=recall, error_score="raise")
    assert search.fit(pairs, ones).best_score_ > 0.3


def test_ranking_of_values_and_pairs():
    cv, precision = KFold(3, shuffle=True, random_state=0), ranking_scorer("precision_at_k", k=5)
    same = RelationValues(KIND[:, None] == KIND)
    by_values = cross_val_score(seeded(SymmetricRelation), CLEAR, same, cv=cv, scoring=precision)
    assert by_values.min() > 0.6
    fitted = seeded(SymmetricRelation).fit(CLEAR, KIND)
    assert precision(fitted, CLEAR, same) == precision(fitted, CLEAR, KIND)
    both = RowPairs(np.argwhere(np.triu(KIND[:, None] == KIND, 1)), CLEAR)
    assert precision(fitted, both, np.ones(len(both))) == precision(fitted, CLEAR, KIND)
    across = RelationValues(np.quantile(ACROSS, 0.9) < ACROSS, Y)
    ranked = cross_val_score(seeded(AsymmetricRelation), X, across, cv=cv, scoring=precision)
    assert ranked.min() > 0.3  # 0.1 at random


# Weights, groups and metadata routing.


def test_weights_are_routed_to_fit_and_score():
    weight = 1.0 + np.arange(90) % 2
    y = RelationValues(R)
    for kind_of, target, parts in [
        (SymmetricRelation, KIND, lambda rows: (KIND[rows],)),
        (SymmetricRelation, y, lambda rows: (y[rows],)),
        (AsymmetricRelation, np.tanh(X), lambda rows: (np.tanh(X[rows]),)),
    ]:
        estimator = seeded(kind_of, max_iter=3)
        cv = StratifiedKFold(2) if target is KIND else KFold(2)
        with sklearn.config_context(enable_metadata_routing=True):
            estimator.set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
            params = {"sample_weight": weight}
            scores = cross_val_score(estimator, X, target, cv=cv, params=params, error_score="raise")
            search = GridSearchCV(estimator, {"n_features": [4]}, cv=cv, error_score="raise")
            assert np.isfinite(search.fit(X, target, sample_weight=weight).best_score_)
        train, test = next(iter(cv.split(X, KIND)))
        fitted = seeded(kind_of, max_iter=3).fit(X[train], *parts(train), sample_weight=weight[train])
        assert scores[0] == fitted.score(X[test], *parts(test), sample_weight=weight[test])


@pytest.mark.parametrize("routing", [False, True])
def test_groups_stay_together(routing):
    groups = np.arange(90) // 10
    estimator, y, cv = seeded(SymmetricRelation), RelationValues(R), GroupKFold(3)
    options = {"params": {"groups": groups}} if routing else {"groups": groups}
    with sklearn.config_context(enable_metadata_routing=routing):
        scores = cross_val_score(estimator, X, y, cv=cv, error_score="raise", **options)
        search = GridSearchCV(estimator, {"activation": ["relu"]}, cv=cv, error_score="raise")
        assert search.fit(X, y, groups=groups).best_score_ == scores.mean()
    train, test = next(iter(cv.split(X, groups=groups)))
    assert not set(groups[train]) & set(groups[test])
    assert scores[0] == estimator.fit(X[train], y[train]).score(X[test], y[test])


def test_groups_reach_both_the_splitter_and_the_fit_of_choices():
    sets = RNG.standard_normal((90, 4, 3))
    chosen, person = np.einsum("bd,bnd->bn", X, sets).argmax(axis=1), np.arange(90) // 3
    estimator = seeded(PreferenceRetriever, hidden_widths=())
    with sklearn.config_context(enable_metadata_routing=True):
        cv = GroupKFold(3)
        params = {"chosen": chosen, "groups": person}
        scores = cross_val_score(estimator, X, sets, params=params, cv=cv, error_score="raise")
    train, test = next(iter(cv.split(X, groups=person)))
    fitted = estimator.fit(X[train], sets[train], chosen[train], groups=person[train])
    assert scores[0] == fitted.score(X[test], sets[test], chosen[test])


@pytest.mark.parametrize("kind", ["labels", "values", "sparse"])
def test_weights_of_rows_count_as_copies(kind):
    weight = np.arange(30) % 3
    copies = np.repeat(np.arange(30), weight)
    values = R[:30, :30] if kind == "values" else sparse.csr_array(np.where(R > 0.5, R, 0)[:30, :30])
    y = KIND[:30] if kind == "labels" else RelationValues(values)
    estimator = seeded(SymmetricRelation).fit(X, KIND)
    weighted = estimator.score(X[:30], y, sample_weight=weight)
    if kind == "labels":
        # The pairs of a row with its own copies are only in the repeated table.
        relation, related = estimator.relation_matrix(X[:30]), y[:, None] == y
        upper = np.triu_indices(30, 1)
        pairs = np.outer(weight, weight)[upper]
        assert weighted == roc_auc_score(related[upper], relation[upper], sample_weight=pairs)
    else:
        repeated = y.values[copies][:, copies]
        assert weighted == pytest.approx(estimator.score(X[copies], repeated))
    matched = seeded(AsymmetricRelation).fit(X, np.tanh(X))
    once = [matched.score(X[:30], np.tanh(X[:30]), sample_weight=np.eye(30)[i]) for i in range(30)]
    total = matched.score(X[:30], np.tanh(X[:30]), sample_weight=weight)
    assert total == pytest.approx(np.average(once, weights=weight))


# Scores that are not defined.


@pytest.mark.parametrize(
    ("X", "y", "said"),
    [
        (X[:1], KIND[:1], "all equal: StratifiedKFold"),
        (X[:5], np.zeros(5), "all equal: StratifiedKFold"),
        (X[:3], KIND[:3], "unless two rows have the same label"),
        (X[:1], [[1.0]], "all equal"),
        (X[:1], rbf_kernel, "for pairs that all have the same value"),
        (X[:4], np.ones((4, 4)), "for pairs that all have the same value"),
        (X[:4], sparse.csr_array(np.ones((4, 4))), "if all pairs are related"),
        (RowPairs([[0, 1]], X[:2]), [1], "if all pairs are related"),
    ],
)
def test_scores_that_are_not_defined(X, y, said):
    fitted = seeded(SymmetricRelation).fit(CLEAR, KIND)
    with pytest.warns(UndefinedMetricWarning, match=said):
        assert np.isnan(fitted.score(X, y))


def test_observed_zeros_count_in_the_score():
    relation = seeded(AsymmetricRelation, max_iter=2).fit(X, Y, ACROSS)
    values = sparse.coo_array(([0.0, 1.0, 2.0], ([0, 1, 2], [3, 4, 5])), shape=ACROSS.shape)
    found = relation.relation_matrix(X, Y)[[0, 1, 2], [3, 4, 5]]
    assert relation.score(X, Y, values) == pytest.approx(r2_score([0, 1, 2], found))


# Wrong arguments.


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: RelationValues(ACROSS), ValueError, "values: expected a square matrix.* unless Y is given"),
        (lambda: RelationValues(ACROSS, X), ValueError, "Y: expected 40 rows, one per column of values"),
        (lambda: RelationValues(rbf_kernel), TypeError, "values: expected a matrix of numbers, got function"),
        (lambda: RelationValues(R)[3], TypeError, "expected a slice or an array of rows, got int 3"),
        (lambda: RelationValues(R)[:, 2], TypeError, "expected a slice or an array of rows"),
        (lambda: np.asarray(RelationValues(R)), TypeError, "RelationValues: expected only as y"),
        (lambda: RowPairs([0, 1], X), TypeError, r"pairs: expected integers of shape \(n_pairs, 2\)"),
        (lambda: RowPairs([[0.0, 1.0]], X), TypeError, r"pairs: expected integers of shape \(n_pairs, 2\)"),
        (lambda: RowPairs([[0, 90]], X), ValueError, r"pairs: expected rows below \(90, 90\)"),
        (lambda: RowPairs([[0, -1]], X), ValueError, r"pairs: expected rows below \(90, 90\)"),
        (lambda: RowPairs([[0, 40]], X, Y), ValueError, r"pairs: expected rows below \(90, 40\)"),
        (lambda: SymmetricRelation().fit(RowPairs([[0, 1]], X, Y), [1]), ValueError, "X: .*one table"),
        (lambda: SymmetricRelation().fit(X, RelationValues(ACROSS, Y)), ValueError, "y: .*one table"),
        (lambda: SymmetricRelation().fit(RowPairs(INDEX, X)), ValueError, "y: expected one value for each"),
        (lambda: SymmetricRelation().fit(RowPairs(INDEX, X), SAME[1:]), ValueError, "y: expected one value"),
        (
            lambda: SymmetricRelation().fit(RowPairs(INDEX, X), np.where(SAME, 1, np.nan)),
            ValueError,
            "y: expected finite",
        ),
        (lambda: SymmetricRelation().fit(RowPairs(INDEX[:0], X), []), ValueError, "y: expected finite"),
        (
            lambda: SymmetricRelation().fit(RowPairs(INDEX, X), SAME, np.ones(90)),
            ValueError,
            "sample_weight: expected None for pairs of rows",
        ),
        (lambda: AsymmetricRelation().fit(X, RelationValues(R), R), ValueError, "R: expected None"),
        (lambda: AsymmetricRelation().fit(RowPairs(INDEX, X), SAME, R), ValueError, "R: expected None"),
        (
            lambda: seeded(SymmetricRelation, max_iter=1).fit(X, KIND).transform(RowPairs(INDEX, X)),
            TypeError,
            "X: RowPairs: expected only in fit and score",
        ),
    ],
)
def test_wrong_arguments(call, error, said):
    with pytest.raises(error, match=said):
        call()
