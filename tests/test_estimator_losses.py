"""Losses of the estimators: definitions in float64, gradients against finite differences."""

import numpy as np
import pytest
import relkernels as rk
from relkernels.estimators.fitting import losses
from relkernels.estimators.fitting.parameters import Parameters
from relkernels.gradients import LOSSES
from scipy.special import logsumexp

WEIGHT = np.array([1.0, 2.0, 0.5, 3.0, 1.5])


def elementwise(loss, r, t):
    if loss == "squared":
        return (r - t) ** 2
    if loss == "logistic":
        return np.logaddexp(0, r) - t * r
    return np.maximum(0, 1 - (2 * t - 1) * r)


def reference(loss, r, t, row, column):
    """Weighted mean over pairs; softmax: over rows, with a column of count c occurring c times."""
    if loss != "softmax":
        w = row[:, None] * column
        return (w * elementwise(loss, r, t)).sum() / w.sum()
    t = t * column
    values = logsumexp(r, b=column, axis=1) - (t * r).sum(axis=1) / t.sum(axis=1)
    return (row * values).sum() / row.sum()


@pytest.fixture
def maps():
    return (
        rk.MLP.random([3, 5, 4], "tanh", seed=1, dtype="float64"),
        rk.MLP.random([2, 6, 4], "tanh", seed=2, dtype="float64"),
    )


def joined(parameters, found):
    return found.value, parameters.join(found.of_maps, found.of_numbers)


def check_gradient(parameters, evaluate):
    """Check value and gradient of `evaluate(flat)` by directional derivatives in ten random directions."""
    rng = np.random.default_rng(5)
    _, gradient = evaluate(parameters.start)
    assert np.linalg.norm(gradient) > 1e-6
    for _ in range(10):
        step = rng.standard_normal(len(parameters.start))
        h = 1e-6
        difference = evaluate(parameters.start + h * step)[0] - evaluate(parameters.start - h * step)[0]
        assert difference / (2 * h) == pytest.approx(gradient @ step, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("by_label", [False, True])
def test_symmetric_loss(loss, weighted, by_label, maps, rng):
    x, phi = rng.standard_normal((5, 3)), maps[0]
    labels = np.array([0, 1, 0, 2, 1])
    t = (labels[:, None] == labels).astype(float)
    if not by_label:
        t = np.clip(t + 0.1 * np.outer(WEIGHT, WEIGHT) / 9, 0, 1)
    count = WEIGHT if weighted else None
    parameters = Parameters([phi])

    def evaluate(flat):
        (mlp,), _ = parameters.split(flat)
        return joined(parameters, losses.symmetric_loss(x, labels if by_label else t, mlp, loss, count))

    ones = np.ones(5) if count is None else count
    r = rk.relation_matrix(x, phi=phi)
    assert evaluate(parameters.start)[0] == pytest.approx(reference(loss, r, t, ones, ones), rel=1e-12)
    check_gradient(parameters, evaluate)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("weighted", [False, True])
def test_asymmetric_loss(loss, weighted, maps, rng):
    x, y = rng.standard_normal((5, 3)), rng.standard_normal((7, 2))
    t = rng.random((5, 7))
    count = WEIGHT if weighted else None
    parameters = Parameters(maps)

    def evaluate(flat):
        (phi, psi), _ = parameters.split(flat)
        return joined(parameters, losses.asymmetric_loss(x, y, t, phi, psi, loss, count))

    r = rk.relation_matrix(x, y, *maps)
    ones = np.ones(5) if count is None else count
    assert evaluate(parameters.start)[0] == pytest.approx(reference(loss, r, t, ones, np.ones(7)), rel=1e-12)
    check_gradient(parameters, evaluate)


@pytest.mark.parametrize("weighted", [False, True])
def test_contrastive_loss_and_its_temperature(weighted, maps, rng):
    x, y = rng.standard_normal((5, 3)), rng.standard_normal((5, 2))
    count = WEIGHT if weighted else None
    parameters = Parameters(maps, [0.3])

    def evaluate(flat):
        (phi, psi), (log_scale,) = parameters.split(flat)
        return joined(parameters, losses.contrastive_loss(x, y, phi, psi, log_scale, count))

    r = np.exp(0.3) * rk.relation_matrix(x, y, *maps)
    c = np.ones(5) if count is None else count
    both = reference("softmax", r, np.eye(5), c, c) + reference("softmax", r.T, np.eye(5), c, c)
    assert evaluate(parameters.start)[0] == pytest.approx(both / 2, rel=1e-12)
    check_gradient(parameters, evaluate)


@pytest.mark.parametrize("loss", [*LOSSES, "contrastive"])
def test_a_weight_is_a_number_of_repetitions(loss, maps, rng):
    x, y = rng.standard_normal((5, 3)), rng.standard_normal((5, 2))
    times = np.array([1, 3, 2, 1, 4])
    again, count = np.repeat(np.arange(5), times), times.astype(float)
    if loss == "contrastive":
        # Copies of a repeated row are its negatives, as if they were other rows.
        weighted = losses.contrastive_loss(x, y, *maps, 0.1, count)
        repeated = losses.contrastive_loss(x[again], y[again], *maps, 0.1)
    else:
        labels = np.array([0, 1, 0, 2, 1])
        weighted = losses.symmetric_loss(x, labels, maps[0], loss, count)
        repeated = losses.symmetric_loss(x[again], labels[again], maps[0], loss)
    first, second = (
        [found.value, *found.of_numbers, *(w for gradient in found.of_maps for w in gradient.weights)]
        for found in (weighted, repeated)
    )
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_preference_loss(weighted, maps, rng):
    sizes = np.array([3, 1, 4, 2, 2])
    q, items = rng.standard_normal((5, 3)), rng.standard_normal((sizes.sum(), 2))
    owner = np.repeat(np.arange(5), sizes)
    target = rng.random(sizes.sum())
    target /= np.bincount(owner, target)[owner]
    weight = WEIGHT if weighted else None
    parameters = Parameters(maps)

    def evaluate(flat):
        (phi, psi), _ = parameters.split(flat)
        return joined(parameters, losses.preference_loss(q, items, sizes, target, phi, psi, weight))

    r = rk.relation_matrix(q, items, *maps)
    expected = [logsumexp(r[i, owner == i]) - target[owner == i] @ r[i, owner == i] for i in range(5)]
    wanted = np.average(expected, weights=weight)
    assert evaluate(parameters.start)[0] == pytest.approx(wanted, rel=1e-12)
    check_gradient(parameters, evaluate)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("symmetric", [False, True])
def test_pair_loss(loss, symmetric, maps, rng):
    """Over listed pairs, one of them twice, with more rows than a block."""
    n, m = 600, 40
    x, y = rng.standard_normal((n, 3)), None if symmetric else rng.standard_normal((m, 2))
    columns = n if symmetric else m
    anchors = np.concatenate([rng.permutation(n)[:500], [7]])
    sizes = rng.integers(1, 4, size=len(anchors))
    partners = rng.integers(columns, size=sizes.sum())
    values = rng.random((n, columns))
    values = (values + values.T) / 2 if symmetric else values
    owner = np.repeat(anchors, sizes)
    partners[0] = partners[1] if sizes[0] > 1 else partners[0]
    pairs = losses.PairBatch(anchors, sizes, partners, values[owner, partners])
    count = rng.random(n) + 0.5
    parameters = Parameters(maps[:1] if symmetric else maps)

    def evaluate(flat):
        (phi, *psi), _ = parameters.split(flat)
        count_y = count if symmetric else None
        found = losses.pair_loss(x, y, pairs, phi, *(psi or [None]), loss, count, count_y)
        return joined(parameters, found)

    r = rk.relation_matrix(x, y, maps[0], None if symmetric else maps[1])[owner, partners]
    if loss == "softmax":
        index = np.repeat(np.arange(len(anchors)), sizes)
        mass = np.bincount(index, pairs.targets)
        terms = np.log(np.bincount(index, np.exp(r))) - np.bincount(index, pairs.targets * r) / mass
        wanted = np.average(terms, weights=count[anchors])
    else:
        weight = count[owner] * (count[partners] if symmetric else 1)
        wanted = np.average(elementwise(loss, r, pairs.targets), weights=weight)
    assert evaluate(parameters.start)[0] == pytest.approx(wanted, rel=1e-10)
    check_gradient(parameters, evaluate)


def _cases(rng):
    """Losses as functions of rows of both sides, maps and numbers."""
    labels = np.array([0, 1, 0, 2, 1])
    t = rng.random((5, 6))
    target = np.full(6, 0.5)
    pairs = losses.PairBatch(
        np.array([0, 3, 4]), np.array([2, 1, 2]), np.array([1, 5, 0, 2, 3]), rng.random(5)
    )
    return {
        "symmetric": lambda x, y, maps, numbers: losses.symmetric_loss(
            x, labels, maps[0], "logistic", WEIGHT, numbers
        ),
        "asymmetric": lambda x, y, maps, numbers: losses.asymmetric_loss(
            x, y, t, *maps, "softmax", WEIGHT, numbers
        ),
        "preference": lambda x, y, maps, numbers: losses.preference_loss(
            x[:3], y, np.array([2, 2, 2]), target, *maps, WEIGHT[:3], numbers
        ),
        "pairs": lambda x, y, maps, numbers: losses.pair_loss(
            x, y, pairs, *maps, "softmax", WEIGHT, None, numbers
        ),
    }


@pytest.mark.parametrize("kind", ["symmetric", "asymmetric", "preference", "pairs"])
def test_a_learned_scale_of_cosines(kind, maps, rng):
    x, y = rng.standard_normal((5, 3)), rng.standard_normal((6, 2))
    loss = _cases(rng)[kind]
    unit = [rk.MLP(m.weights, m.biases, m.activation, normalize=True) for m in maps]
    parameters = Parameters(unit[:1] if kind == "symmetric" else unit, [0.7])

    def evaluate(flat):
        split, numbers = parameters.split(flat)
        assert all(m.normalize for m in split)
        return joined(parameters, loss(x, y, split, numbers))

    f, g = (rk.normalize(m(rows)) for m, rows in zip(maps, (x, y), strict=True))
    identity = [rk.MLP([np.eye(4)], [np.zeros(4)])] * 2
    root = np.exp(0.35)  # of the scale, for both sides
    assert evaluate(parameters.start)[0] == pytest.approx(
        loss(root * f, root * g, identity, ()).value, rel=1e-12
    )
    check_gradient(parameters, evaluate)
