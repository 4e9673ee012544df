"""`neurons`: networks that have the accuracy, and counts below which none has it."""

import numpy as np
import pytest
import relkernels as rk
from relkernels import bounds
from relkernels.bounds import width_floors
from relkernels.bounds.certificates.relations import relation_on_cells
from relkernels.bounds.constructions import knots, quadrature, ridges, trained


def tanh(a, b):
    return np.tanh(4 * (b.T - a))


# The largest |tanh''| is 4 / 3^(3/2); the Hessian of r(y - x) has the norm 2 |r''|.
TANH = {"curvature": 2 * 16 * 4 / 3**1.5}


def gaussian(a, b, length_scale=1.0):
    return np.exp(np.square(a[:, None] - b[None]).sum(axis=2) / (-2 * length_scale**2))


def error(r, count, x, y):
    psi = count.phi if count.psi is None else count.psi
    return np.abs(r(x, y) - rk.relation_matrix(x, y, count.phi, psi)).max()


# Relation, its parameters, dimension, eps, and the count of an earlier, simpler construction.
TABLE = [
    ("gaussian", {}, 1, 0.1, 4),
    ("gaussian", {}, 1, 0.01, 11),
    ("gaussian", {"length_scale": 0.5}, 1, 0.1, 7),
    pytest.param("gaussian", {"length_scale": 0.5}, 1, 0.01, 21, marks=pytest.mark.slow),
    (tanh, TANH, 1, 0.1, 24),
    ("laplace", {}, 1, 0.1, 11),
    pytest.param(tanh, TANH, 1, 0.01, 72, marks=pytest.mark.slow),
    pytest.param("gaussian", {}, 2, 0.1, 32, marks=pytest.mark.slow),
    pytest.param("gaussian", {"length_scale": 0.5}, 2, 0.1, 336, marks=pytest.mark.slow),
    ("gaussian", {}, 4, 0.3, 1076),
    pytest.param("gaussian", {}, 4, 0.1, 2760, marks=pytest.mark.slow),
    pytest.param("gaussian", {}, 8, 0.3, 870_000, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("relation", "parameters", "dimension", "eps", "most"), TABLE)
def test_counts_and_errors_of_the_built_networks(relation, parameters, dimension, eps, most):
    count = bounds.neurons(relation, eps, (-1, 1), dimension=dimension, **parameters)
    assert 1 <= count.lower <= count.upper <= most
    assert count.error <= eps
    if count.certificate is not None:
        assert count.certificate.certified
        assert count.certificate.upper == count.error
    if count.phi is None:
        return
    maps = [count.phi] if count.psi is None else [count.phi, count.psi]
    assert sum(m.n_neurons for m in maps) == count.upper
    if dimension == 1:
        x = np.linspace(-1, 1, 1001)[:, None]
    else:
        rng = np.random.default_rng(1)
        x = np.clip(rng.uniform(-1.2, 1.2, (1000, dimension)), -1, 1)
    function = {"gaussian": gaussian, "laplace": lambda a, b: np.exp(-np.abs(a - b.T))}.get(
        relation, relation
    )
    names = {k: v for k, v in parameters.items() if k == "length_scale"}
    assert error(lambda a, b: function(a, b, **names), count, x, x) <= count.error * (1 + 1e-12)


def test_knots_by_hand():
    # x y is bilinear: one interval, exactly.
    count = bounds.neurons("polynomial", 1e-2, (-1, 1), dimension=1, degree=1, offset=0.0)
    assert (count.lower, count.upper) == (0, 1)
    # h^2 / 8 (1 + 1) = 0.1 at h = 0.63: four intervals of length 2 / 4.
    relation = relation_on_cells("relation", "gaussian", (1, 1), None, None, {})
    box = np.array([[-1.0, 1.0]])
    sides = knots.intervals(relation, box, box)
    assert knots.cheapest(*sides, 0.1, True) == (4, 4)
    assert knots.cheapest(*sides, 0.01, True) == (10, 10)
    phi, psi, off = knots.interpolant(relation, box, box, 4, 4, True, False)
    t = np.linspace(-1, 1, 5)[:, None]
    assert phi is psi
    assert off < 1e-14
    np.testing.assert_allclose(rk.relation_matrix(t, t, phi), gaussian(t, t), atol=1e-14)


@pytest.mark.parametrize("s", [0.01, 0.5, 1.0, 3.0])
def test_the_error_of_a_direction(s):
    # One interval of length s for cos(x - y): the bound holds, and is near the error.
    box = np.array([[0.0, s]])
    one = ridges.Directions(np.ones(1), np.ones((1, 1)), 0.0)
    bound = float(ridges._circle(np.array([s]))[1][0])
    phi = ridges.network(ridges.Ridges(one, np.array([1]), bound), box)
    x = np.linspace(0, s, 301)[:, None]
    found = np.abs(np.cos(x - x.T) - rk.relation_matrix(x, x, phi)).max()
    assert found <= bound * (1 + 1e-9) + 1e-15
    if s <= 1:
        assert found >= bound / (1.02 if s < 0.1 else 1.3)


@pytest.mark.parametrize("name", ["gaussian", "matern32"])
def test_random_directions_keep_their_error(name):
    box = np.array([[-0.5, 0.5]] * 3)
    kernel = relation_on_cells("relation", name, (3, 3), None, None, {})
    rng = np.random.default_rng(0)
    h = rng.uniform(-1, 1, (500, 3))
    found = list(quadrature.random_directions(kernel, box, 0.5, rng))
    assert found
    for p, w, most in found:
        mean = np.cos(h @ w.T) @ p
        assert np.abs(mean - kernel.at(h, np.zeros((1, 3)))[:, 0]).max() < most < 0.5


def test_a_rule_keeps_its_error():
    box = np.array([[-1.0, 1.0], [0.0, 1.5]])
    h = np.random.default_rng(0).uniform(-1, 1, (2000, 2)) * [2, 1.5]
    zero = np.zeros((1, 2))
    for kernel, rules in (
        (relation_on_cells("relation", "gaussian", (2, 2), None, None, {}), quadrature.gauss_hermite),
        (relation_on_cells("relation", "periodic", (2, 2), None, None, {}), quadrature.fourier),
    ):
        for p, w, most in rules(kernel, box, 0.05):
            assert np.abs(np.cos(h @ w.T) @ p - kernel.at(h, zero)[:, 0]).max() <= most < 0.05


def test_floors_by_hand():
    box = np.array([[-1.0, 1.0]])
    # x^2 / 2 + y: chords of length L are off by L^2 / 16 at best: 0.01 at L = 0.4, five pieces.
    parabola = relation_on_cells("relation", lambda a, b: a**2 / 2 + b.T, (1, 1), None, 1.0, {})
    assert width_floors.kink_floor(parabola, (box, box), 0.0101) == (4, 0)
    assert width_floors.kink_floor(parabola, (box, box), 0.3) == (0, 0)
    # Rank 3 with large singular values: two units and a constant at least.
    polynomial = relation_on_cells("relation", "polynomial", (1, 1), None, None, {})
    assert width_floors.rank_floor(polynomial, (box, box), 1e-3, True) == 2
    assert width_floors.rank_floor(polynomial, (box, box), 10.0, True) == 0


def test_counts_fall_with_eps():
    counts = [bounds.neurons("gaussian", eps, [(-1, 1)]) for eps in (0.02, 0.05, 0.13, 0.3)]
    for more, less in zip(counts, counts[1:], strict=False):
        assert more.lower >= less.lower
        assert more.upper >= less.upper
        assert more.proved >= less.proved


def test_two_boxes_and_one_map():
    count = bounds.neurons("matern32", 0.1, ([(-1, 0)], [(0, 1)]), max_pairs=1 << 16)
    assert count.psi is None
    x, y = np.linspace(-1, 0, 200)[:, None], np.linspace(0, 1, 200)[:, None]
    z = np.sqrt(3) * np.abs(x - y.T)
    assert np.abs((1 + z) * np.exp(-z) - rk.relation_matrix(x, y, count.phi)).max() <= count.error


def test_one_map_for_a_function():
    no = bounds.neurons(lambda a, b: np.sin(a - b.T), 0.5, [(-1, 1)], maps=1, lipschitz=1.0)
    assert no.lower == no.upper == np.inf
    assert "no network can" in str(no)
    yes = bounds.neurons(lambda a, b: np.cos(a - b.T), 0.05, [(-1, 1)], maps=1, curvature=2.0)
    assert yes.psi is None
    assert yes.upper <= 6
    assert yes.certificate.certified


def test_trained_networks_are_smaller_and_certified():
    built, fewer = (bounds.neurons("laplace", 0.1, [(-1, 1)], train=train) for train in (False, True))
    assert built.lower <= fewer.upper < built.upper
    assert fewer.phi.n_neurons == fewer.upper
    assert fewer.construction == "trained knots"
    assert fewer.certificate.certified
    x = np.linspace(-1, 1, 1001)[:, None]
    assert error(lambda a, b: np.exp(-np.abs(a - b.T)), fewer, x, x) <= fewer.error == fewer.certificate.upper


@pytest.mark.slow
def test_training_halves_a_network_of_ridges():
    count = bounds.neurons("gaussian", 0.3, [(-1, 1)] * 2, train=True)
    assert count.upper <= 5  # 8 are built
    x = np.clip(np.random.default_rng(1).uniform(-1.2, 1.2, (1500, 2)), -1, 1)
    assert error(gaussian, count, x, x) <= count.error <= 0.3


def test_units_without_effect_are_removed_first():
    # x = relu(x) - relu(-x), with copies that have small output weights and a unit that is never active.
    first = np.array([[1.0, -1.0, 1.0, -1.0, 1.0]])
    phi = rk.MLP(
        [first, np.array([[1.0], [-1.0], [1e-3], [0.0], [5.0]])], [np.array([0, 0, 0, 0, -3.0]), np.zeros(1)]
    )
    x = np.linspace(-1, 1, 50)[:, None]
    (found,) = trained.without_units((phi,), (x,), 3)
    assert found.widths == (1, 2, 1)
    np.testing.assert_allclose(found(x), phi(x), atol=1e-4)
    pair = trained.without_units((phi, phi), (x, x), 5)
    assert sum(m.n_neurons for m in pair) == 5
    np.testing.assert_allclose(pair[0](x) * pair[1](x), phi(x) ** 2, atol=1e-3)


@pytest.mark.parametrize("one_map", [True, False])
def test_training_ends_with_the_error_that_it_says(one_map):
    x = np.linspace(-1, 1, 40)[:, None]
    relation = relation_on_cells("relation", "gaussian", (1, 1), None, None, {})
    start = tuple(rk.MLP.random([1, 4, 3], random_state=k, dtype="float64") for k in range(2 - one_map))
    before = np.abs(start[0](x) @ start[-1](x).T - gaussian(x, x)).max()
    maps, largest = trained.trained(relation, start, [x] * len(start), 0.2)
    assert largest == pytest.approx(np.abs(maps[0](x) @ maps[-1](x).T - gaussian(x, x)).max(), abs=1e-12)
    assert largest < before / 2


def test_without_certificates():
    count = bounds.neurons("laplace", 0.1, [(-1, 1)], max_pairs=0)
    assert (count.upper, count.proved, count.certificate) == (20, 20, None)
    assert count.error == pytest.approx(0.1)
    assert "by proof" in str(count)


@pytest.mark.parametrize(
    ("arguments", "parameters", "message"),
    [
        (("gaussian", 0.0, [(-1, 1)]), {}, "eps"),
        (("gaussian", 0.1, [(1, -1)]), {}, "box"),
        (("gaussian", 0.1, [(-1, np.inf)]), {}, "box"),
        (("gaussian", 0.1, [(-1, 1)]), {"dimension": 2}, "box"),
        (("gaussian", 0.1, [(-1, 1)]), {"maps": 2}, "maps"),
        (("gaussian", 0.3, [(-1, 1)] * 3), {"train": True}, "train: .* 3 dimensions"),
        (("gaussian", 0.3, [(-1, 1)]), {"train": True, "max_pairs": 0}, "train: .* max_pairs=0"),
        (("laplace", 0.1, [(-1, 1)] * 2), {}, "box"),
        ((tanh, 0.1, [(-1, 1)]), {}, "lipschitz"),
        ((tanh, 0.1, [(-1, 1)] * 2), {"lipschitz": 4.0}, "box"),
        (("nothing", 0.1, [(-1, 1)]), {}, "relation"),
    ],
)
def test_bad_arguments(arguments, parameters, message):
    with pytest.raises(ValueError, match=message):
        bounds.neurons(*arguments, **parameters)
