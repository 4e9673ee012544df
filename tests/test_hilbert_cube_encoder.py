"""HilbertCubeEncoder: coordinates in [0, 1] that do not depend on the grid, and distinguish objects."""

import pickle

import numpy as np
import pytest
from relkernels import HilbertCubeEncoder, SymmetricRelation, bounds
from scipy.integrate import quad
from sklearn.base import clone
from sklearn.pipeline import make_pipeline


def curves(rng, n, points=(30, 80)):
    """Functions with two random coefficients, each on its own grid."""
    out, coefficients = [], rng.uniform(-1, 1, (n, 2))
    for a, b in coefficients:
        t = np.concatenate([[0, 1], np.sort(rng.uniform(0, 1, int(rng.integers(*points))))])
        out.append((t, a * np.sin(2 * np.pi * t) + b * t))
    return out, coefficients


@pytest.mark.parametrize("name", ["fourier", "legendre"])
def test_moments_are_integrals(name):
    t = np.linspace(0, 2, 3001)
    encoder = HilbertCubeEncoder(name, 5, interval=(0, 2)).fit([(t, np.exp(t)), (t, np.cos(t))])
    raw = encoder.family_([(t, np.exp(t))])[0]
    for k in range(5):

        def e(u, k=k):
            if name == "legendre":
                return np.sqrt(2 * k + 1) * np.polynomial.legendre.Legendre.basis(k)(2 * u - 1)
            wave = np.cos if k % 2 else np.sin
            return 1.0 if k == 0 else np.sqrt(2) * wave(2 * np.pi * ((k + 1) // 2) * u)

        assert raw[k] == pytest.approx(quad(lambda u: np.exp(2 * u) * e(u), 0, 1)[0], abs=1e-5)


@pytest.mark.parametrize("name", ["fourier", "legendre"])
def test_the_grid_does_not_matter(name, rng):
    objects, coefficients = curves(rng, 20)
    encoder = HilbertCubeEncoder(name, 6).fit(objects)
    t = np.linspace(0, 1, 4000)
    fine = [(t, a * np.sin(2 * np.pi * t) + b * t) for a, b in coefficients]
    np.testing.assert_allclose(encoder.transform(objects), encoder.transform(fine), atol=0.05)
    shuffled = [np.column_stack(o)[rng.permutation(len(o[0]))] for o in objects]
    np.testing.assert_allclose(encoder.transform(shuffled), encoder.transform(objects), atol=1e-12)


def strings(a, b):
    """Number of pairs of equal letters: a kernel of strings."""
    return sum(x == y for x in a for y in b)


FAMILIES = {
    "fourier": lambda rng: curves(rng, 30)[0],
    "legendre": lambda rng: curves(rng, 30)[0],
    "characteristic": lambda rng: [
        rng.standard_normal((int(rng.integers(5, 50)), 2)) * s for s in range(1, 31)
    ],
    "quantiles": lambda rng: [rng.standard_normal(int(rng.integers(20, 50))) * s for s in range(1, 31)],
    "kernel": lambda rng: ["".join(rng.choice(list("abcd"), 6)) for _ in range(30)],
}


@pytest.mark.parametrize("name", FAMILIES)
def test_coordinates_are_in_the_cube_and_tell_objects_apart(name, rng):
    objects = FAMILIES[name](rng)
    encoder = HilbertCubeEncoder(name, 7, kernel=strings if name == "kernel" else None, random_state=0)
    out = encoder.fit_transform(objects)
    assert out.shape == (30, 7)
    assert out.dtype == np.float64
    assert out.min() >= 0
    assert out.max() <= 1
    if name != "kernel":
        distances = np.abs(out[:, None] - out[None]).max(axis=2) + np.eye(30)
        assert distances.min() > 0
    again = clone(encoder).fit(objects)
    np.testing.assert_array_equal(again.transform(objects), out)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(again)).transform(objects), out)
    assert encoder.get_feature_names_out()[0] == "hilbertcubeencoder0"
    np.testing.assert_allclose(encoder.transform(objects[3:5]), out[3:5], atol=1e-14)


def test_characteristic_function_and_quantiles_by_hand(rng):
    samples = [np.array([0.0, 1.0]), np.array([2.0, 5.0, 3.0])]
    encoder = HilbertCubeEncoder("characteristic", 4, random_state=0).fit(samples)
    w, center = encoder.family_.frequencies_[:, 0], encoder.family_.center_[0]
    z = np.exp(1j * w * (0 - center)) / 2 + np.exp(1j * w * (1 - center)) / 2
    want = (1 + np.array([z[0].real, z[0].imag, z[1].real, z[1].imag])) / 2
    np.testing.assert_allclose(encoder.transform(samples)[0], want, atol=1e-14)
    quantiles = HilbertCubeEncoder("quantiles", 3).fit([np.arange(5.0), np.arange(9.0)])
    np.testing.assert_array_equal(quantiles.family_.levels, [0.5, 0.25, 0.75])
    np.testing.assert_array_equal(quantiles.family_([np.arange(5.0)]), [[2, 1, 3]])


def test_own_functionals():
    encoder = HilbertCubeEncoder([len, lambda s: s.count("a")]).fit(["a", "bab", "bananas"])
    out = encoder.transform(["bab"])
    assert out.shape == (1, 2)
    assert out[0, 0] == 0.5  # the median
    with pytest.raises(ValueError, match=r"^functionals\[0\]: expected a finite number for object 0"):
        HilbertCubeEncoder([lambda s: np.nan]).fit(["a"])


@pytest.mark.slow
def test_a_relation_between_functions_is_learned(rng):
    """Inner products of curves on unequal grids, by an encoder followed by a symmetric relation."""
    objects, c = curves(rng, 120)
    # int (a sin + b t)(a' sin + b' t): 1/2 a a' - (a b' + b a')/(2 pi) + b b'/3.
    gram = np.array([[0.5, -0.5 / np.pi], [-0.5 / np.pi, 1 / 3]])
    truth = c @ gram @ c.T
    X = HilbertCubeEncoder("legendre", 6).fit_transform(objects)
    relation = SymmetricRelation((32,), n_features=4, activation="tanh", solver="lbfgs", random_state=0)
    relation.fit(X[:80], truth[:80, :80])
    assert relation.score(X[80:], truth[80:, 80:]) > 0.97
    assert make_pipeline(HilbertCubeEncoder("legendre", 6)).fit_transform(objects).shape == (120, 6)


def test_bounds_take_the_encoder():
    encoder = HilbertCubeEncoder("fourier", weights="harmonic")
    assert bounds.hilbert_cube(encoder, 1.0, 0.1).value == bounds.hilbert_cube("harmonic", 1.0, 0.1).value


BAD = [
    ({"functionals": "wavelets"}, "functionals"),
    ({"functionals": []}, "functionals"),
    ({"functionals": [3]}, "functionals"),
    ({"functionals": [len], "n_coordinates": 2}, "n_coordinates"),
    ({"n_coordinates": 0}, "n_coordinates"),
    ({"weights": "linear"}, "weights"),
    ({"functionals": "kernel"}, "kernel"),
    ({"interval": (1.0, 0.0)}, "interval"),
    ({"n_coordinates": 40}, "object 0: expected a grid of at least 40 points, as n_coordinates, got 20"),
]


@pytest.mark.parametrize(("parameters", "message"), BAD, ids=[str(b[0]) for b in BAD])
def test_bad_parameters(parameters, message):
    t = np.linspace(0, 1, 20)
    with pytest.raises(ValueError, match=f"^{message}"):
        HilbertCubeEncoder(**parameters).fit([(t, t), (t, t**2)])


def test_bad_objects():
    t = np.linspace(0, 1, 20)
    fit = HilbertCubeEncoder(n_coordinates=4).fit
    with pytest.raises(TypeError, match=r"^X: expected a sequence of objects, got str"):
        fit("abc")
    with pytest.raises(ValueError, match=r"^X: expected at least one object"):
        fit([])
    with pytest.raises(ValueError, match=r"^object 1: expected finite"):
        fit([(t, t), (t, t * np.nan)])
    with pytest.raises(ValueError, match=r"^object 0: expected as many points as values"):
        fit([(t, t[:5])])
    with pytest.raises(ValueError, match=r"^object 0: expected points that differ"):
        fit([(np.zeros(20), t)])
    with pytest.raises(ValueError, match=r"^object 1: expected samples of 1 numbers"):
        HilbertCubeEncoder("characteristic", 3).fit([t, np.ones((5, 2))])
    with pytest.raises(ValueError, match=r"^object 0: expected at least 30 samples"):
        HilbertCubeEncoder("quantiles", 30).fit([t])
    with pytest.raises(ValueError, match=r"^X: expected at least n_coordinates = 5 objects"):
        HilbertCubeEncoder("kernel", 5, kernel=strings).fit(["a", "b"])


@pytest.mark.parametrize(("parameters", "name"), [
    ({"kernel": min}, "kernel"),
    ({"functionals": "quantiles", "interval": (0, 1)}, "interval"),
])  # fmt: skip
def test_what_the_functionals_do_not_take_is_refused(parameters, name):
    with pytest.raises(ValueError, match=f"^{name}: expected None with functionals="):
        HilbertCubeEncoder(**parameters).fit([np.ones(5)])
