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
    bound = bounds.attention(bounds.margin_of([[0.0, 1.0]]), 2, 1.0, 0.1)
    text = str(bound)
    for word in ("beta = max", "margin between", "checked: measured by margin_of", "not checked", "cited"):
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
