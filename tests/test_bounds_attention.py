"""Bounds on attention: hand-computed, monotone, and never exceeded by attention."""

import math
import pickle

import numpy as np
import pytest
import relkernels as rk
from relkernels import bounds
from rich.console import Console


def test_by_hand():
    # log 2 + log(4 - 1) over 1 - 0.5: t = 1/3 gives mass 1/4 of diameter 1.
    bound = bounds.attention(1.0, 3, 1.0, 0.25, 0.25)
    assert bound.value == pytest.approx(2 * (math.log(2) + math.log(3)), rel=1e-15)
    assert bounds.attention_error(1.0, 3, 1.0, bound.value, 0.25).value == pytest.approx(0.25, rel=1e-14)
    # Two best of four: uniform weights leave half the mass outside.
    assert bounds.attention_error(1.0, 4, 3.0, 0.0, n_best=2).value == 1.5
    assert bounds.attention(1.0, 1, 1.0, 1e-9).value == 0
    assert bounds.attention(1.0, 5, 1.0, 1.0).value == 0
    assert bounds.attention_error(1.0, 5, 0.0, 1.0).value == 0


def test_error_and_temperature_are_inverse(rng):
    for _ in range(200):
        margin, eta = rng.uniform(0.1, 2), rng.uniform(0, 0.04)
        n, k = int(rng.integers(2, 1000)), 1
        eps = 10 ** rng.uniform(-12, -0.5)
        beta = bounds.attention(margin, n, 2.0, eps, eta, n_best=k).value
        assert bounds.attention_error(margin, n, 2.0, beta, eta, n_best=k).value == pytest.approx(
            eps, rel=1e-9
        )


INCREASING = {"n": [2, 3, 10, 1000], "diameter": [0.5, 1, 10], "relation_error": [0, 0.1, 0.2, 0.3, 5]}
DECREASING = {"margin": [0.5, 0.7, 1, 10], "n_best": [1, 2, 3]}
START = {"margin": 0.6, "n": 4, "diameter": 1.5, "relation_error": 0.05}


def assert_sorted(values):
    assert (values[1:] >= values[:-1]).all(), values


@pytest.mark.parametrize("function", ["attention", "attention_error"])
def test_monotone_in_every_argument(function):
    last = {"eps": 0.01} if function == "attention" else {"beta": 3.0}
    bound = getattr(bounds, function)(**START, **last)
    for argument, values in INCREASING.items():
        assert_sorted(bound.curve(argument, values))
    for argument, values in DECREASING.items():
        assert_sorted(bound.curve(argument, values)[::-1])
    (argument,) = last
    assert_sorted(bound.curve(argument, [0.01, 0.1, 1, 2])[::-1])


def attended(rng, n, k, eta, beta):
    """Return margin and measured error of an instance: utilities, scores off by at most eta, values."""
    u = np.sort(rng.uniform(-1, 1, n))[::-1]
    u[:k] = u[0]
    scores = u + rng.uniform(-eta, eta, n)
    values = rng.standard_normal((n, 3))
    query = np.array([[1.0, 0.0]])
    keys = np.column_stack([scores, rng.standard_normal(n)])
    out = rk.attention(query, keys, values, scale=beta)[0]
    weights = rk.attention_scores(query, keys, scale=beta)[0]
    best = weights[:k] @ values[:k] / weights[:k].sum()
    diameter = max(np.linalg.norm(a - b) for a in values for b in values)
    return bounds.margin_of([u]), diameter, np.linalg.norm(out - best)


def test_holds_on_random_instances(rng):
    tight = 0
    for _ in range(250):
        n = int(rng.integers(2, 30))
        k = int(rng.integers(1, n)) if rng.random() < 0.3 else 1
        eta = rng.choice([0.0, 0.01, 0.3])
        beta = 10 ** rng.uniform(-2, 2)
        margin, diameter, error = attended(rng, n, k, eta, beta)
        bound = bounds.attention_error(margin, n, diameter, beta, eta, n_best=k)
        assert error <= bound.value * (1 + 1e-12) + 1e-14
        tight += error > 0.3 * bound.value
    assert tight > 10  # and it is not vacuous


def test_the_temperature_suffices_on_random_instances(rng):
    held = 0
    while held < 200:
        n, eta = int(rng.integers(2, 20)), 1e-3
        state = rng.bit_generator.state
        margin, diameter, _ = attended(rng, n, 1, eta, 1.0)
        if margin.value <= 2 * eta:
            continue
        beta = bounds.attention(margin, n, diameter, 0.05, eta).value
        rng.bit_generator.state = state
        assert attended(rng, n, 1, eta, beta)[2] <= 0.05 * (1 + 1e-12)
        held += 1


def test_a_vacuous_bound_is_infinite_and_says_so():
    bound = bounds.attention(0.5, 10, 1.0, 0.01, 0.25)
    assert bound.value == math.inf
    assert "no beta helps" in str(bound)
    assert "does not help" in bounds.attention_error(0.5, 10, 1.0, 5.0, 0.3).note
    assert bounds.attention(0.5, 3, 1.0, 0.9, 0.25).value == 0  # uniform weights suffice
    assert bounds.attention_error(0.5, 10, 1.0, math.inf).value == 0
    assert bounds.attention_error(math.inf, 10, 1.0, 0.0).value == pytest.approx(0.9)
    assert bounds.attention(math.inf, 10, 1.0, 0.01).value == 0


def test_a_bound_shows_itself():
    assert "beta = max" in str(bounds.attention(1.0, 2, 1.0, 0.1))
    bound = bounds.attention(bounds.margin_of([[0.0, 1.0]]), 2, 1.0, 0.1)
    text = str(bound)
    for word in ("least beta", "margin between", "checked: measured by margin_of", "not checked", "cited"):
        assert word in text
    assert float(bound) == bound.value
    console = Console(record=True, width=100, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(bound)
    assert "inverse temperature" in console.export_text()
    again = pickle.loads(pickle.dumps(bound))
    assert again == bound
    assert again.curve("eps", [0.2])[0] < bound.value
    with pytest.raises(AttributeError):
        bound.value = 3
    with pytest.raises(ValueError, match="argument: expected one of margin"):
        bound.curve("gamma", [1])


BAD = [
    ({"margin": 0}, ValueError, "margin"),
    ({"margin": -1.0}, ValueError, "margin"),
    ({"margin": float("nan")}, ValueError, "margin"),
    ({"margin": "wide"}, TypeError, "margin"),
    ({"n": 0}, ValueError, "n"),
    ({"n": 2.5}, TypeError, "n"),
    ({"diameter": -1}, ValueError, "diameter"),
    ({"diameter": math.inf}, ValueError, "diameter"),
    ({"eps": 0}, ValueError, "eps"),
    ({"eps": -0.1}, ValueError, "eps"),
    ({"relation_error": -1}, ValueError, "relation_error"),
    ({"n_best": 5}, ValueError, "n_best"),
    ({"n_best": 0}, ValueError, "n_best"),
]


@pytest.mark.parametrize(("changed", "error", "name"), BAD, ids=[str(b[0]) for b in BAD])
def test_bad_arguments(changed, error, name):
    good = {"margin": 1.0, "n": 4, "diameter": 1.0, "eps": 0.1}
    with pytest.raises(error, match=f"^{name}: "):
        bounds.attention(**{**good, **changed})


def test_bad_beta():
    with pytest.raises(ValueError, match=r"^beta: "):
        bounds.attention_error(1.0, 4, 1.0, -1)


def test_margins():
    sets = [np.array([[0.0], [2.0], [1.5]]), np.array([[1.0], [1.0]])]
    margin = bounds.margin_of(lambda items: items[:, 0], sets)
    np.testing.assert_array_equal(margin.per_set, [0.5, np.inf])
    np.testing.assert_array_equal(margin.n_best, [1, 2])
    np.testing.assert_array_equal(margin.sizes, [3, 2])
    assert float(margin) == margin.value == 0.5
    about = bounds.margin_of(lambda q, items: q * items[:, 0], sets, queries=[-1.0, 1.0])
    assert about.value == 1.5
    assert bounds.margin_of([[0.0, 1.0, 0.9]], tie=0.2).value == 1.0
    with pytest.raises(ValueError, match=r"^sets: expected at least one"):
        bounds.margin_of([])
    with pytest.raises(ValueError, match=r"^sets: expected the sets"):
        bounds.margin_of(len)
    with pytest.raises(ValueError, match=r"^queries: expected 2"):
        bounds.margin_of(lambda q, items: items[:, 0], sets, [1.0])
    with pytest.raises(ValueError, match=r"^utility of set 1: expected shape \(2,\)"):
        bounds.margin_of(lambda items: items[:3, 0] if len(items) == 3 else np.ones(3), sets)
    with pytest.raises(ValueError, match=r"^utility of set 0: expected finite values"):
        bounds.margin_of([[np.nan, 1.0]])
    with pytest.raises(ValueError, match=r"^utility of set 1"):
        bounds.margin_of([[0.0], []])


def test_items_that_are_best_up_to_a_tie():
    """Of items within `tie` only one is sure to have the largest utility."""
    u = [1.0, 0.5000001, 0.4]
    margin = bounds.margin_of([u], tie=0.5)
    assert margin.n_best.tolist() == [2]
    weights = np.exp(20 * np.array(u))
    weights /= weights.sum()
    assert weights[2] <= bounds.attention_error(margin, 3, 1.0, 20.0, n_best=2).value
    rng = np.random.default_rng(0)
    for k in (2, 10, 50):
        u = np.concatenate([[1.0], np.full(k - 1, 0.7), rng.uniform(0, 0.69, 5)])
        for beta in (0.0, 1.0, 20.0, 200.0):
            weights = np.exp(beta * (u - 1))
            weights /= weights.sum()
            bound = bounds.attention_error(bounds.margin_of([u], tie=0.3), None, 1.0, beta)
            assert weights[k:].sum() <= bound.value * (1 + 1e-12)


def test_the_profile_is_attained_by_the_worst_scores(rng):
    """Best scores lower by eta, others higher by eta, values of the others together: no slack is left."""
    for _ in range(100):
        n, beta, eta = int(rng.integers(2, 30)), 10 ** rng.uniform(-1, 2), rng.choice([0.0, 0.05])
        u = rng.uniform(0, 1, n)
        u[0] = 1.1
        margin = bounds.margin_of([u])
        scores = u + eta * np.where(np.arange(n) == 0, -1, 1)
        values = np.ones((n, 1))
        values[0] = 0
        query = np.ones((1, 1))
        error = rk.attention(query, scores[:, None], values, scale=beta)[0, 0]
        bound = bounds.attention_error(margin, n, 1.0, beta, eta)
        assert error == pytest.approx(bound.value, rel=1e-9)
        assert bound.value <= bounds.attention_error(margin.value, n, 1.0, beta, eta).value * (1 + 1e-12)


def test_temperatures_by_the_profile(rng):
    for _ in range(100):
        n, eps = int(rng.integers(1, 400)), 10 ** rng.uniform(-8, -0.3)
        u = np.round(rng.uniform(0, 1, (3, n)), int(rng.integers(1, 8)))
        margin = bounds.margin_of(u)
        eta = float(rng.choice([0.0, margin.value / 4])) if margin.value < math.inf else 0.0
        bound = bounds.attention(margin, n, 1.0, eps, eta)
        each = bound.details["per_set"]
        assert bound.value == each.max()
        for i, beta in enumerate(each):
            assert bounds.attention(margin[i], None, 1.0, eps, eta).value == pytest.approx(beta, rel=1e-12)
            assert bounds.attention_error(margin[i], None, 1.0, beta, eta).value <= eps * (1 + 1e-12)
            if beta > 0:  # the least such
                less = bounds.attention_error(margin[i], None, 1.0, beta * (1 - 1e-6), eta).value
                assert less > eps
    # Where no temperature is sure to help, and where one does although 2 eta >= margin.
    steep = bounds.margin_of([[1.0, 0.9] + [0.0] * 100])
    assert bounds.attention(steep, None, 1.0, 0.01, 0.06).value == math.inf
    middle = bounds.attention(steep, None, 1.0, 0.9, 0.06)
    assert 0 < middle.value < math.inf
    assert bounds.attention_error(steep, None, 1.0, middle.value, 0.06).value <= 0.9 * (1 + 1e-12)


def test_groups_of_a_profile_only_raise_the_bound(rng):
    u = np.sort(rng.uniform(0, 1, (4, 3000)), axis=1)
    margin = bounds.margin_of(u)
    assert margin.profile.shape[1] < 100
    gaps = u[:, -1:] - u
    for beta in (1.0, 30.0, 1000.0):
        others = np.exp(-beta * gaps[:, :-1]).sum(axis=1)
        exact = others / (1 + others)
        bound = bounds.attention_error(margin, 3000, 1.0, beta).details["per_set"]
        assert (exact <= bound * (1 + 1e-12)).all()
        assert (bound <= 1.15 * exact).all()


def test_the_profile_is_near_to_what_is_needed(rng):
    """Medians over sets with uniform utilities and values: beta within 1.35, the error within 3."""
    for n in (4, 64, 1024):
        sharper, larger = [], []
        for _ in range(12):
            u, values = rng.uniform(0, 1, n), rng.uniform(0, 1, (n, 3))
            best = values[u.argmax()]
            diameter = float(np.linalg.norm(values[:, None] - values[None, :: max(n // 64, 1)], axis=2).max())

            def error(beta, u=u, values=values, best=best):
                weights = np.exp(beta * (u - u.max()))
                return np.linalg.norm(weights @ values / weights.sum() - best)

            bound = bounds.attention(bounds.margin_of([u]), n, diameter, 0.01 * diameter)
            grid = bound.value / 1.01 ** np.arange(100)
            enough = np.array([error(beta) <= 0.01 * diameter for beta in grid])
            sharper.append(bound.value / grid[max(enough.argmin() - 1, 0)])
            larger.append(0.01 * diameter / error(bound.value))
        assert np.median(sharper) <= 1.35
        assert np.median(larger) <= 3


def test_a_measured_margin_brings_its_sizes():
    margin = bounds.margin_of([np.arange(1000.0), [2.0, 2.0, 1.0]])
    bound = bounds.attention(margin, None, 1.0, 0.1)
    assert {c.symbol: c.value for c in bound.constants}["n"] == 1000
    assert "hull" in bound.note
    with pytest.raises(ValueError, match=r"^n: expected None or 1000"):
        bounds.attention(margin, 3, 1.0, 0.1)
    with pytest.raises(ValueError, match=r"^n_best: expected None or at most 1"):
        bounds.attention_error(margin, 1000, 1.0, 0.1, n_best=2)
    with pytest.raises(ValueError, match=r"^n: expected the number of items"):
        bounds.attention(1.0, None, 1.0, 0.1)
    tied = bounds.attention(bounds.margin_of([[1.0, 1.0]]), None, 1.0, 0.1)
    assert tied.value == 0
    assert {c.symbol: c.value for c in tied.constants}["k"] == 2
    with pytest.raises(IndexError):
        margin[2]


def test_old_margins_have_no_profile():
    old = pickle.loads(pickle.dumps(bounds.Margin(0.5, np.array([0.5]), np.array([1]), np.array([4]))))
    assert bounds.attention(old, 4, 1.0, 0.01).value == pytest.approx(
        bounds.attention(0.5, 4, 1.0, 0.01).value, rel=1e-9
    )


def test_regret(rng):
    assert bounds.attention_regret(8, 2.0, 0.1).value == pytest.approx(math.log(8) / 2 + 0.2)
    assert bounds.attention_regret(8, 2.0, n_best=4).value == pytest.approx(math.log(2) / 2)
    assert bounds.attention_regret(8, 0.0).value == math.inf
    assert bounds.attention_regret(8, math.inf, 0.1).value == 0.2
    start = bounds.attention_regret(8, 2.0, 0.1)
    assert_sorted(start.curve("n", [1, 2, 8, 100]))
    assert_sorted(start.curve("relation_error", [0, 0.1, 1]))
    assert_sorted(start.curve("beta", [0, 0.1, 1, 100])[::-1])
    assert_sorted(start.curve("n_best", [1, 2, 8])[::-1])
    with pytest.raises(ValueError, match=r"^n_best: expected at most n = 8"):
        bounds.attention_regret(8, 1.0, n_best=9)
    worst = 0.0
    for _ in range(300):
        n, beta, eta = int(rng.integers(2, 2000)), 10 ** rng.uniform(-1, 3), rng.choice([0.0, 0.1])
        # The worst utilities: all others equally far below, near log(n) / beta.
        u = np.zeros(n) if rng.random() < 0.7 else rng.uniform(0, 1, n)
        u[0] = u.max() + rng.uniform(0, 1.2) * math.log(n) / beta
        scores = u + eta * np.where(np.arange(n) == 0, -1, 1)
        weights = np.exp(beta * (scores - scores.max()))
        lost = u[0] - weights @ u / weights.sum()
        bound = bounds.attention_regret(n, beta, eta).value
        assert lost <= bound + 1e-12
        worst = max(worst, lost / bound)
    assert worst > 0.5


def test_probabilities_with_confidence(rng):
    margin = bounds.margin_of([[0.0, 1.0]] * 3 + [[0.0, 0.1]])
    # 3 of 4: (4 p^3 (1 - p) + p^4) = 1 - confidence at the lower limit.
    bound = bounds.attention_coverage(margin, 1.0, 0.1, 5.0, confidence=0.9)
    p = bound.value
    assert 4 * p**3 * (1 - p) + p**4 == pytest.approx(0.1, rel=1e-9)
    assert bound.details["fraction"] == 0.75
    assert bounds.attention_coverage(margin, 1.0, 0.1, 0.0).value == 0
    assert bounds.attention_coverage(margin, 1.0, 0.1, math.inf).value == pytest.approx(0.05**0.25)
    assert_sorted(bound.curve("beta", [0, 1, 5, 30, 100]))
    assert_sorted(bound.curve("eps", [0.001, 0.01, 0.1, 0.5]))
    assert_sorted(bound.curve("confidence", [0.5, 0.9, 0.99])[::-1])
    low, high = margin.above(0.5, 0.9)
    assert 4 * low**3 * (1 - low) + low**4 == pytest.approx(0.05, rel=1e-9)
    assert high**4 == pytest.approx(0.95, rel=1e-9)  # at most 3 of 4 with probability 0.05
    assert bounds.margin_of([[0.0, 1.0]]).above(2.0)[0] == 0
    with pytest.raises(TypeError, match=r"^margin: expected the result of margin_of"):
        bounds.attention_coverage(1.0, 1.0, 0.1, 5.0)
    with pytest.raises(ValueError, match=r"^confidence: expected a probability"):
        bounds.attention_coverage(margin, 1.0, 0.1, 5.0, confidence=1)
    # The interval has the true probability as often as it says: margins of two uniform utilities.
    true, covered = (1 - 0.2) ** 2, 0
    for _ in range(200):
        u = rng.uniform(0, 1, (60, 2))
        low, high = bounds.margin_of(u).above(0.2, 0.8)
        covered += low <= true <= high
    assert covered >= 0.8 * 200 - 15
