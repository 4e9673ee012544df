"""The objects of the study "functional", and the relations between them."""

from __future__ import annotations

import functools
import importlib.util
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sklearn.datasets import load_digits

DECAY = 1.0  # of the coefficients of the random functions: |a_k| <= k^-DECAY
TERMS = 24
LONGEST = 4  # substrings of up to this length are what the kernel of strings sees


class Kind(NamedTuple):
    """Objects: a function (rng, count) -> (objects, relation values), and their functionals."""

    make: Callable[[np.random.Generator, int], tuple[list[Any], np.ndarray]]
    functionals: tuple[str, ...]
    symmetric: bool = True


def functions(rng: np.random.Generator, count: int) -> tuple[list[Any], np.ndarray]:
    """Random Fourier sums, each on its own grid; relation exp(-|f - g|^2 / 2) in L2(0, 1)."""
    k = np.arange(1, TERMS + 1)
    a = rng.uniform(-1, 1, (count, TERMS)) / k**DECAY
    objects = []
    for row in a:
        t = np.concatenate([[0, 1], np.sort(rng.uniform(0, 1, int(rng.integers(150, 400))))])
        half = np.arange(TERMS)
        angle = 2 * np.pi * ((half + 1) // 2)[:, None] * t
        waves = np.sqrt(2) * np.where((half % 2 == 1)[:, None], np.cos(angle), np.sin(angle))
        waves[0] = 1
        objects.append((t, row @ waves))
    return objects, np.exp(-np.square(a[:, None] - a[None]).sum(axis=2) / 2)


def measures(rng: np.random.Generator, count: int) -> tuple[list[Any], np.ndarray]:
    """Mixtures of two normal laws, as samples; relation exp(-W^2), W the Wasserstein distance of order 2."""
    objects, quantiles = [], []
    levels = (np.arange(400) + 0.5) / 400
    for _ in range(count):
        weight, spread = rng.uniform(0.2, 0.8), rng.uniform(0.1, 0.6, 2)
        mean = rng.uniform(-1, 1, 2)

        def draw(m: int, w: float = weight, mu: Any = mean, s: Any = spread) -> np.ndarray:
            side = (rng.random(m) > w).astype(int)
            return mu[side] + s[side] * rng.standard_normal(m)

        objects.append(draw(int(rng.integers(200, 600))))
        quantiles.append(np.quantile(draw(4000), levels))
    Q = np.stack(quantiles)
    return objects, np.exp(-np.square(Q[:, None] - Q[None]).mean(axis=2))


def laws(rng: np.random.Generator, count: int) -> tuple[list[Any], np.ndarray]:
    """Mixtures of two Cauchy laws under weak convergence, as samples; relation P(X < Y), X and Y independent.

    The laws have no moments, hence no Wasserstein distance. The relation is exact, asymmetric, and weakly
    continuous on laws without atoms. An object is a sample of arctan(X): weak convergence is the same after a
    homeomorphism, and the encoder takes the unit of its frequencies from the variance, which X lacks.
    """
    weight = rng.uniform(0.2, 0.8, count)
    weights = np.column_stack([weight, 1 - weight])
    center, spread = rng.uniform(-1, 1, (count, 2)), rng.uniform(0.1, 0.6, (count, 2))
    objects = []
    for w, c, s in zip(weight, center, spread, strict=True):
        m = int(rng.integers(200, 600))
        side = (rng.random(m) > w).astype(int)
        objects.append(np.arctan(c[side] + s[side] * rng.standard_cauchy(m)))
    relation = np.zeros((count, count))
    for i in range(2):
        for j in range(2):
            # The difference of two Cauchy variables is one, whose scale is the sum of theirs.
            unit = (center[:, j] - center[:, [i]]) / (spread[:, j] + spread[:, [i]])
            relation += weights[:, [i]] * weights[:, j] * (0.5 + np.arctan(unit) / np.pi)
    return objects, relation


def _grams(text: str, size: int) -> Counter[str]:
    """Return how often each substring of this size occurs."""
    return Counter(text[i : i + size] for i in range(len(text) - size + 1))


@functools.lru_cache(maxsize=4096)
def _profile(text: str) -> tuple[dict[str, float], float]:
    """Return the counts of substrings of 1 to LONGEST letters and their norm."""
    counts = {g: float(n) for size in range(1, LONGEST + 1) for g, n in _grams(text, size).items()}
    return counts, float(np.sqrt(sum(n * n for n in counts.values())))


def substrings_in_common(a: str, b: str) -> float:
    """Return the cosine of the counts of all substrings of up to LONGEST letters: a kernel of strings."""
    (x, norm_x), (y, norm_y) = _profile(a), _profile(b)
    return sum(n * y.get(g, 0.0) for g, n in x.items()) / (norm_x * norm_y)


def strings(rng: np.random.Generator, count: int) -> tuple[list[Any], np.ndarray]:
    """Strings of 30 to 90 letters of random Markov chains; relation: cosine of the counts of triples.

    Different strings may have the same triples, so the relation separates fewer strings than the kernel of
    the encoder, which sees substrings of 1 to 4 letters.
    """
    objects = []
    for _ in range(count):
        chain = rng.dirichlet(0.5 * np.ones(4), size=4).cumsum(axis=1)
        letter, text = int(rng.integers(4)), ""
        for _ in range(int(rng.integers(30, 90))):
            letter = min(int(np.searchsorted(chain[letter], rng.random())), 3)
            text += "acgt"[letter]
        objects.append(text)
    names: dict[str, int] = {}
    counts = np.zeros((count, 4**3))
    for row, text in zip(counts, objects, strict=True):
        for gram, times in _grams(text, 3).items():
            row[names.setdefault(gram, len(names))] = times
    counts /= np.linalg.norm(counts, axis=1, keepdims=True)
    return objects, counts @ counts.T


def sequences(rng: np.random.Generator, count: int) -> tuple[list[Any], np.ndarray]:
    """Sequences of real numbers, continued by 0, under the product topology, which no norm induces.

    The relation, sum over k >= 1 of 2^-k tanh(y_(k+1) - x_k), is asymmetric: how far y, shifted by one place,
    is above x. Entries have infinite variance.
    """
    objects = [rng.standard_t(2, int(rng.integers(TERMS, 2 * TERMS))) for _ in range(count)]
    return objects, shifted_order(objects, 2 * TERMS)


def shifted_order(objects: list[Any], n: int) -> np.ndarray:
    """Return the relation of the sequences if only their first `n` entries differ from 0."""
    table = np.zeros((len(objects), 2 * TERMS + 1))
    for row, x in zip(table, objects, strict=True):
        row[: min(n, len(x))] = x[:n]
    relation = np.zeros((len(objects), len(objects)))
    for k in range(2 * TERMS):
        relation += 0.5 ** (k + 1) * np.tanh(table[:, k + 1] - table[:, [k]])
    return relation


def entry(k: int, x: np.ndarray) -> float:
    """Return entry `k` of a sequence: a continuous functional; together they separate sequences."""
    return float(x[k]) if k < len(x) else 0.0


def terrain(rng: np.random.Generator, count: int) -> tuple[list[Any], np.ndarray]:
    """Real curves: west-east profiles of the Jacksboro fault elevation model, each at its own points.

    The relation is the correlation of two profiles.
    """
    from matplotlib.cbook import get_sample_data

    data: Any = get_sample_data("jacksboro_fault_dem.npz")
    elevation = np.asarray(data["elevation"], np.float64)
    profiles = elevation[np.sort(rng.permutation(len(elevation))[: min(count, len(elevation))])]
    t = np.linspace(0, 1, profiles.shape[1])
    objects = []
    for row in profiles:
        kept = np.sort(rng.permutation(len(t))[: int(rng.integers(100, 250))])
        objects.append((t[kept], row[kept] / 1000))
    return objects, np.asarray(np.corrcoef(profiles))


def digits(rng: np.random.Generator, count: int) -> tuple[list[Any], np.ndarray]:
    """Real measures on the plane: the ink of scikit-learn's handwritten digits; relation: the same digit.

    A measure is the list of its pixels, each repeated as often as it has grey levels. The relation is that of
    the writers' intention, not of a distance.
    """
    images, labels = load_digits(return_X_y=True)
    chosen = rng.permutation(len(images))[:count]
    places = np.stack(np.divmod(np.arange(64), 8), axis=1) / 3.5 - 1
    objects = [np.repeat(places, ink.astype(int), axis=0) for ink in images[chosen]]
    same = labels[chosen]
    return objects, (same[:, None] == same).astype(np.float64)


KINDS = {
    "functions": Kind(functions, ("fourier", "legendre")),
    "measures": Kind(measures, ("quantiles", "characteristic")),
    "laws": Kind(laws, ("characteristic",), symmetric=False),
    "strings": Kind(strings, ("kernel",)),
    "sequences": Kind(sequences, ("entries",), symmetric=False),
    "digits": Kind(digits, ("characteristic",)),
    "terrain": Kind(terrain, ("legendre",)),
}
if importlib.util.find_spec("matplotlib") is None:  # it ships the elevation model
    del KINDS["terrain"]


@functools.lru_cache(maxsize=1)
def made(kind: str, count: int) -> tuple[list[Any], np.ndarray]:
    """Return at most `count` objects of a kind and the values of all pairs."""
    return KINDS[kind].make(np.random.default_rng(5), count)
