"""Points spread evenly over spheres, and projections of data onto them."""

from __future__ import annotations

import numpy as np

PROJECTIONS = ("normalize", "lift", "none")


def quasi_uniform(n: int, dimension: int, rng: np.random.RandomState) -> np.ndarray:
    """Return n points spread evenly over the unit sphere of R^dimension.

    Equal angles on the circle and a Fibonacci lattice on S^2, rotated at random; in higher dimensions,
    scrambled Sobol points mapped to the sphere through the normal quantile function.
    """
    if dimension == 1:
        return np.where(np.arange(n) % 2, -1.0, 1.0)[:, None]
    if dimension == 2:
        angle = 2 * np.pi * (np.arange(n) / n + rng.uniform())
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)
    from scipy.stats import qmc, special_ortho_group

    if dimension == 3:
        height = 1 - (2 * np.arange(n) + 1) / n
        angle = np.pi * (1 + np.sqrt(5)) * np.arange(n)
        radius = np.sqrt(1 - height**2)
        lattice = np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1)
        return lattice @ special_ortho_group.rvs(3, random_state=rng)
    from scipy.special import ndtri

    bits = max(1, int(np.ceil(np.log2(n))))
    uniform = qmc.Sobol(dimension, seed=int(rng.randint(2**31))).random_base2(bits)[:n]
    points = ndtri(np.clip(uniform, 1e-12, 1 - 1e-12))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def project(X: np.ndarray, projection: str) -> np.ndarray:
    """Return the rows of X divided by their norms, with "lift" after a coordinate of 1 is appended.

    A row of zeros stays zero under "normalize"; "none" returns X.
    """
    if projection == "none":
        return X
    if projection == "lift":
        X = np.concatenate([X, np.ones((len(X), 1), X.dtype)], axis=1)
    norms = np.linalg.norm(X, axis=1, keepdims=True)
    return X / np.where(norms == 0, 1, norms)
