"""Estimators of relations at their defaults: fits in closed form, on columns in any units."""

import warnings

import numpy as np
import pytest
from relkernels import MLP, AsymmetricRelation, SymmetricRelation
from relkernels.estimators.fitting.matched import matched_maps
from relkernels.estimators.fitting.random_layer import random_layer, with_column_units
from relkernels.estimators.fitting.scaling import Scaling
from relkernels.estimators.fitting.sensitive_layer import sensitive_layer, unit_slopes
from relkernels.estimators.fitting.softmax_head import softmax_head
from relkernels.maps.activations import resolve
from scipy import sparse
from scipy.special import softmax
from sklearn.datasets import (
    load_breast_cancer,
    load_iris,
    load_wine,
    make_classification,
    make_gaussian_quantiles,
    make_moons,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler


def pairs_auc(relation, y):
    upper = np.triu_indices(len(y), 1)
    return roc_auc_score((y[:, None] == y)[upper], relation[upper])


def halves(X, y):
    return train_test_split(X, y, test_size=0.4, random_state=0, stratify=y)


@pytest.mark.parametrize(
    ("load", "least"), [(load_iris, 0.95), (load_wine, 0.97), (load_breast_cancer, 0.95)]
)
def test_labels_in_raw_units_beat_the_cosine_of_scaled_columns(load, least):
    X, held_out, y, held_out_y = halves(*load(return_X_y=True))
    found = pairs_auc(SymmetricRelation(random_state=0).fit(X, y).relation_matrix(held_out), held_out_y)
    raw = pairs_auc(cosine_similarity(StandardScaler().fit(X).transform(held_out)), held_out_y)
    assert found > max(raw, least)


def test_features_of_labels_are_probabilities():
    X, held_out, y, held_out_y = halves(*make_moons(600, noise=0.25, random_state=0))
    relation = SymmetricRelation(random_state=0).fit(X, y)
    p = relation.transform(held_out)
    assert p.shape == (240, 2)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=0.02)
    assert p.min() > -0.05
    assert p.max() < 1.05
    assert (p.argmax(axis=1) == held_out_y).mean() > 0.9
    cross_entropy = -np.log(np.clip(p[np.arange(240), held_out_y], 0.01, 1)).mean()
    assert cross_entropy < 0.3


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu", "sin"])
@pytest.mark.parametrize("n_features", [2, 3, 5])
def test_labels_with_any_number_of_features(activation, n_features):
    X, y = load_iris(return_X_y=True)
    relation = SymmetricRelation(n_features=n_features, activation=activation, random_state=0).fit(X, y)
    assert relation.transform(X).shape == (150, n_features)
    assert relation.score(X, y) > 0.9
    assert relation.n_iter_ == 1
    assert relation.loss_ < (0.05 if n_features >= 3 else 0.15)


def test_fits_in_closed_form_are_reproducible_and_ignore_units():
    X, y = load_wine(return_X_y=True)
    a, b = (SymmetricRelation(random_state=0).fit(X, y) for _ in range(2))
    np.testing.assert_array_equal(a.relation_matrix(X), b.relation_matrix(X))
    units = 10.0 ** np.arange(-6, 7)
    other = SymmetricRelation(random_state=0).fit(X * units + 5 * units, y)
    np.testing.assert_allclose(
        other.relation_matrix(X * units + 5 * units), a.relation_matrix(X), rtol=1e-3, atol=1e-3
    )


def test_a_constant_column_changes_nothing(rng):
    X, y = load_iris(return_X_y=True)
    with_constant = np.column_stack([X, np.full(150, 7.0)])
    relation = SymmetricRelation(random_state=0).fit(with_constant, y)
    assert relation.score(with_constant, y) > 0.95
    with_constant[:, -1] = 8.0
    assert np.isfinite(relation.relation_matrix(with_constant)).all()


def test_columns_that_tell_nothing_of_the_labels_are_shrunk():
    X, y = make_classification(700, 20, n_informative=4, n_redundant=0, shuffle=False, random_state=0)
    X, held_out, y, held_out_y = halves(X, y)
    relation = SymmetricRelation(random_state=0).fit(X, y)
    size = np.linalg.norm(relation.phi_.weights[0] * X.std(axis=0)[:, None], axis=1)
    assert size[:4].min() > 1.5 * size[4:].max()
    assert relation.score(held_out, held_out_y) > 0.85  # 0.81 with units that weigh all columns alike


@pytest.mark.parametrize(
    ("activation", "slope"),
    [
        ("relu", lambda z: (z > 0) * 1.0),
        ("tanh", lambda z: 1 - np.tanh(z) ** 2),
        ("cos", lambda z: -np.sin(z)),
    ],
)
def test_a_sensitive_layer_is_stretched_by_the_root_of_the_mean_of_derivatives(rng, activation, slope):
    X, weight, count = rng.standard_normal((50, 3)), rng.standard_normal((64, 2)), rng.integers(1, 4, 50)
    layer = MLP(
        [rng.standard_normal((3, 64)), np.eye(64)], [rng.standard_normal(64), np.zeros(64)], activation
    )
    pre_activations = X @ layer.weights[0] + layer.biases[0]
    J = np.einsum("ih,nh,hs->nis", layer.weights[0], slope(pre_activations), weight)
    M = np.einsum("n,nis,njs->ij", count, J, J)
    found = sensitive_layer(layer, unit_slopes(layer, X), weight, count)
    np.testing.assert_array_equal(found.biases[0], layer.biases[0])
    root = found.weights[0] @ np.linalg.pinv(layer.weights[0])
    np.testing.assert_allclose(root @ root, M * 3 / np.trace(M), atol=0.02)


def test_a_class_between_two_others_is_found():
    X, held_out, y, held_out_y = halves(*make_gaussian_quantiles(n_samples=400, n_classes=3, random_state=0))
    relation = SymmetricRelation(random_state=0).fit(X, y)
    assert relation.score(held_out, held_out_y) > 0.96


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_classes", [2, 3, 11])
@pytest.mark.parametrize("size", [0.1, 3.0, 30.0])
def test_relu_layers_compute_the_softmax_of_scores(rng, size, n_classes, dtype):
    scores = size * rng.standard_normal((300, n_classes))
    scores -= scores.mean(axis=1, keepdims=True)
    head = softmax_head(scores, resolve("relu"), n_classes, rng)
    mlp = MLP([w.astype(dtype) for w in head.weights], [b.astype(dtype) for b in head.biases])
    scale = min(1, 48 / (1.5 * np.abs(scores).max()))
    near = 1.2 * scores
    error = 0.02 if size < 10 else 0.08
    np.testing.assert_allclose(mlp(near.astype(dtype)), softmax(scale * near, axis=1), atol=error)
    far = mlp((100 * scores).astype(dtype))
    assert far.min() > -1e-3
    assert far.max() < 1 + 1e-3
    padded = softmax_head(scores, resolve("relu"), n_classes + 2, rng)
    np.testing.assert_array_equal(padded.weights[-1], np.pad(head.weights[-1], ((0, 0), (0, 2))))


def test_a_quarter_of_the_units_look_at_single_columns(rng):
    X = rng.standard_normal((200, 3))
    X[:, 2] = X[:, 2] > 0
    layer = random_layer(X, "relu", np.random.RandomState(0))
    count = rng.integers(0, 3, 200).astype(float)
    found = with_column_units(layer, X, count)
    along = (found.weights[0] != 0).sum(axis=0) == 1
    assert along.sum() == 8 + 8 + 1
    assert found.widths == layer.widths
    np.testing.assert_array_equal(found.weights[0][:, ~along], layer.weights[0][:, :-17])
    variance = np.cov(found(X), rowvar=False, fweights=count.astype(int)).diagonal()
    np.testing.assert_allclose(variance[along].sum(), variance[~along].sum())
    repeated = with_column_units(layer, np.repeat(X, count.astype(int), axis=0), np.ones(int(count.sum())))
    for a, b in zip(repeated.weights, found.weights, strict=True):
        np.testing.assert_allclose(a, b)
    rows = sparse.csr_array(X)
    assert with_column_units(layer, rows, count) is layer
    wide = random_layer(np.zeros((1, 300)), "relu", np.random.RandomState(0))
    assert with_column_units(wide, np.zeros((2, 300)), np.ones(2)) is wide
    still = with_column_units(layer, np.ones((5, 3)), np.ones(5))  # all columns are constant
    assert np.isfinite(still(X)).all()


def test_many_classes_are_trained_by_pairs():
    X = np.repeat(np.random.default_rng(0).standard_normal((300, 3)), 2, axis=0)
    relation = SymmetricRelation(max_iter="auto", batch_size=300, tol=10.0, random_state=0)  # a short fit
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        relation.fit(X, np.repeat(np.arange(300), 2))
    assert relation.n_iter_ > 1
    assert relation.loss_ > 0.5  # of softmax, at least log 2 for pairs; the squared loss begins near 0


def test_matched_rows_give_the_mutual_information_of_normal_tables():
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((4, 3))
    X = rng.standard_normal((3000, 4))
    Y = X @ mixing + 0.5 * rng.standard_normal((3000, 3))
    relation = AsymmetricRelation(random_state=0).fit(100 * X[:2500] + 3, Y[:2500] / 100)
    found = relation.relation_matrix(100 * X[2500:] + 3, Y[2500:] / 100)
    errors = (Y[2500:] - (X[2500:] @ mixing)[:, None]) / 0.5
    covariance = mixing.T @ mixing + 0.25 * np.eye(3)
    of_y = np.einsum("ij,jk,ik->i", Y[2500:], np.linalg.inv(covariance), Y[2500:])
    truth = 0.5 * (of_y - np.square(errors).sum(axis=2))
    near = truth > -20  # pairs that a search might return
    assert np.corrcoef(found[near], truth[near])[0, 1] > 0.99
    assert relation.temperature_ == 1
    assert relation.score(100 * X[2500:] + 3, Y[2500:] / 100) > 0.5 * np.mean(
        truth.argmax(1) == np.arange(500)
    )


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize(("n_columns", "n_features"), [(1, None), (3, 2), (3, 50), (150, 8)])
def test_matched_rows_of_any_shape(activation, n_columns, n_features):
    rng = np.random.default_rng(1)
    X = rng.standard_normal((200, 4))
    Y = np.tanh(X @ rng.standard_normal((4, n_columns)))
    phi, psi = matched_maps(X, Y, None, n_features, activation, np.random.RandomState(0))
    n_features = n_features or 4 + n_columns + 2
    assert phi(X).shape == psi(Y).shape == (200, n_features)
    assert np.isfinite(phi(X)).all()
    relation = phi(X) @ psi(Y).T
    rank = (relation > np.diag(relation)[:, None]).sum(axis=1)
    assert np.median(rank) < 50


def test_weights_of_matched_rows_count_as_rows():
    rng = np.random.default_rng(2)
    X = rng.standard_normal((80, 3))
    Y = np.tanh(X @ rng.standard_normal((3, 2))) + 0.1 * rng.standard_normal((80, 2))
    weight = rng.integers(0, 3, 80)
    weighted = AsymmetricRelation(random_state=0).fit(X, Y, sample_weight=weight)
    repeated = AsymmetricRelation(random_state=0).fit(
        np.repeat(X, weight, axis=0), np.repeat(Y, weight, axis=0)
    )
    np.testing.assert_allclose(
        weighted.relation_matrix(X, Y), repeated.relation_matrix(X, Y), rtol=1e-5, atol=1e-4
    )


def test_values_of_a_table_and_their_number_of_features():
    rng = np.random.default_rng(3)
    X, Y = 50 * rng.standard_normal((300, 4)), rng.standard_normal((200, 5)) - 9
    R = np.tanh(X / 50) @ rng.standard_normal((4, 5)) @ Y.T
    relation = AsymmetricRelation(random_state=0).fit(X, Y, R)
    assert relation.score(X, Y, R) > 0.99
    assert 2 <= relation.phi_.widths[-1] <= 5
    assert AsymmetricRelation(n_features=7, random_state=0).fit(X, Y, R).phi_.widths[-1] == 7


def test_scaling_is_folded_into_the_first_layer(rng):
    table = rng.standard_normal((50, 3)) * [1e-3, 1, 1e4] + [0, 5, -2e4]
    scaling = Scaling.of(table)
    np.testing.assert_allclose(scaling(table).mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(scaling(table).std(axis=0), 1)
    mlp = MLP.random((3, 8, 2), random_state=0, dtype="float64")
    folded = scaling.folded(mlp)
    np.testing.assert_allclose(folded(table), mlp(scaling(table)), atol=1e-8)
    for a, b in zip(scaling.unfolded(folded).weights, mlp.weights, strict=True):
        np.testing.assert_allclose(a, b)


def test_scaling_of_constant_huge_and_sparse_columns():
    table = np.column_stack([np.full(9, 0.1), np.arange(9) * 1e200, np.arange(9) * 1e-200])
    scaled = Scaling.of(table)(table)
    np.testing.assert_allclose(scaled[:, 0], 0, atol=1e-15)
    np.testing.assert_allclose(scaled[:, 1:].std(axis=0), 1)
    rows = sparse.csr_array(np.eye(4))
    assert Scaling.of(rows)(rows) is rows
    weight = np.array([2.0, 1, 0, 0, 0, 0, 0, 0, 0])
    assert Scaling.of(table, weight).mean[1] == pytest.approx(1e200 / 3)


def test_standardize_false_trains_on_the_columns_as_given():
    X, y = load_iris(return_X_y=True)
    relation = SymmetricRelation(standardize=False, random_state=0).fit(X, y)
    np.testing.assert_array_equal(relation.column_scales_[0], 1)
    np.testing.assert_array_equal(relation.column_means_[0], 0)


def test_a_short_fit_warns_and_a_long_one_does_not():
    X, y = load_iris(return_X_y=True)
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        SymmetricRelation((16,), max_iter=3, random_state=0).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        relation = SymmetricRelation((16,), random_state=0).fit(X, y)
    assert relation.n_iter_ > 100  # up to 1,000 steps of 64 objects
    assert relation.loss_ < 0.1
    assert relation.score(X, y) > 0.95


def test_training_does_not_end_worse_than_it_began(rng):
    X = rng.standard_normal((60, 3))
    K = X @ X.T
    with pytest.warns(ConvergenceWarning, match="its start"):
        relation = SymmetricRelation(
            (64,), n_features=3, learning_rate=10.0, max_iter=20, random_state=0
        ).fit(X, K)
    assert relation.score(X, K) > 0.9
