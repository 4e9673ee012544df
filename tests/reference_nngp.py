"""Kernels of wide networks by their definitions: closed forms in 40 digits, and quadrature."""

import mpmath as mp
import numpy as np
import reference

DIGITS = 40


def power_mean(order, p, q, c):
    """E[relu(u)^n relu(v)^n], n = 0, 1, 2: (pq)^(n/2) J_n(theta) / (2 pi) (Cho & Saul 2009)."""
    if p == 0 or q == 0:
        return mp.mpf(0)
    cos = c / mp.sqrt(p * q)
    theta = mp.acos(max(min(cos, mp.mpf(1)), mp.mpf(-1)))
    j = {
        0: lambda: mp.pi - theta,
        1: lambda: mp.sin(theta) + (mp.pi - theta) * cos,
        2: lambda: 3 * mp.sin(theta) * cos + (mp.pi - theta) * (1 + 2 * cos**2),
    }[order]()
    return mp.sqrt(p * q) ** order * j / (2 * mp.pi)


def gelu_mean(p, q, c):
    """E[u Phi(u) v Phi(v)] of Tsuchida et al. (2021), by its terms in the raw determinant."""
    t2 = (1 + p) * (1 + q) - c**2
    first = c / 4 + c / (2 * mp.pi) * mp.asin(c / mp.sqrt((1 + p) * (1 + q)))
    return first + (p * q - c**2 + c**2 / (1 + p) + c**2 / (1 + q)) / (2 * mp.pi * mp.sqrt(t2))


def sin_mean(p, q, c):
    return mp.exp(-(p + q) / 2) * mp.sinh(c)


def cos_mean(p, q, c):
    return mp.exp(-(p + q) / 2) * mp.cosh(c)


def gaussian_mean(p, q, c):
    return 1 / mp.sqrt((1 + p) * (1 + q) - c**2)


def leaky_mean(slope):
    return lambda p, q, c: slope * c + (1 - slope) ** 2 * power_mean(1, p, q, c)


def erf_mean(p, q, c):
    return 2 / mp.pi * mp.asin(2 * c / mp.sqrt((1 + 2 * p) * (1 + 2 * q)))


# name -> E[a a], E[a' a'] as functions of p, q, c
CLOSED = {
    "identity": (lambda p, q, c: c, lambda p, q, c: mp.mpf(1)),
    "step": (lambda p, q, c: power_mean(0, p, q, c), None),
    "relu": (lambda p, q, c: power_mean(1, p, q, c), lambda p, q, c: power_mean(0, p, q, c)),
    "relu_power(2)": (lambda p, q, c: power_mean(2, p, q, c), lambda p, q, c: 4 * power_mean(1, p, q, c)),
    "leaky_relu(0.25)": (
        leaky_mean(mp.mpf(1) / 4),
        lambda p, q, c: mp.mpf(1) / 4 + mp.mpf(9) / 16 * power_mean(0, p, q, c),
    ),
    "erf": (erf_mean, lambda p, q, c: 4 / mp.pi / mp.sqrt((1 + 2 * p) * (1 + 2 * q) - 4 * c**2)),
    "gelu": (gelu_mean, lambda p, q, c: mp.diff(lambda t: gelu_mean(p, q, t), c)),
    "sin": (sin_mean, cos_mean),
    "cos": (cos_mean, sin_mean),
    "gaussian": (gaussian_mean, lambda p, q, c: c * gaussian_mean(p, q, c) ** 3),
}


def closed_kernel(x, y, name, depth, weight_std, bias_std, kind="nngp"):
    """The kernel in 40 digits from the very numbers in x and y; rounded to float64 at the end."""
    value, slope = CLOSED[name]
    with mp.workdps(DIGITS):
        wv, bv = mp.mpf(weight_std) ** 2, mp.mpf(bias_std) ** 2

        def inner(u, v):
            return mp.fdot([(mp.mpf(float(s)), mp.mpf(float(t))) for s, t in zip(u, v, strict=True)])

        def one(u, v):
            p, q, c = (bv + wv * inner(s, t) / len(u) for s, t in ((u, u), (v, v), (u, v)))
            tangent = c
            for _ in range(depth):
                step = slope(p, q, c) if kind == "ntk" else 0
                p, q, c = (bv + wv * value(*a) for a in ((p, p, p), (q, q, q), (p, q, c)))
                tangent = c + wv * step * tangent
            return float(tangent if kind == "ntk" else c)

        if x is y:
            upper = {(i, j): one(x[i], x[j]) for i in range(len(x)) for j in range(i, len(x))}
            return np.array([[upper[min(i, j), max(i, j)] for j in range(len(x))] for i in range(len(x))])
        return np.array([[one(u, v) for v in y] for u in x])


def mean_by_quadrature(f, p, q, c, step=0.08):
    """E[f(u) f(v)] by the trapezoidal rule in both dimensions, for smooth f."""
    z = np.arange(-9.2, 9.2, step)
    w = np.exp(-z * z / 2) * step / np.sqrt(2 * np.pi)
    cos = c / np.sqrt(p * q) if p * q > 0 else 0.0
    v = np.sqrt(q) * (cos * z[:, None] + np.sqrt(max(1 - cos * cos, 0.0)) * z)
    return float((w * f(np.sqrt(p) * z)) @ (f(v) @ w))


def sigma_1_means(p, q, c):
    """E[a(u) a(v)] and E[a'(u) a'(v)] of relu(z) - relu(z - 1): the mean over v, given u, in closed form."""
    with mp.workdps(25):
        p, q, c = mp.mpf(p), mp.mpf(q), mp.mpf(c)
        slope, deviation = c / p, mp.sqrt(q - c * c / p)

        def below(mean):  # P(v < 0) and E[relu(v)] for a normal v of this mean
            return mp.ncdf(-mean / deviation), (
                mean * mp.ncdf(mean / deviation) + deviation * mp.npdf(mean / deviation)
            )

        def value(u):
            low, high = below(slope * u), below(slope * u - 1)
            return min(u, 1) * (low[1] - high[1]) * mp.npdf(u / mp.sqrt(p)) / mp.sqrt(p)

        def density(u):
            return (below(slope * u - 1)[0] - below(slope * u)[0]) * mp.npdf(u / mp.sqrt(p)) / mp.sqrt(p)

        inside = [mp.mpf(k) / 8 for k in range(9)]
        if slope > 1:
            inside = sorted([*inside, 1 / slope])
        outside = [1 + mp.sqrt(p) * k for k in (0, 0.25, 0.5, 1, 2, 4, 8, 16)]
        if 0 < slope < 1:
            outside = sorted([*outside, 1 / slope])
        return float(mp.quad(value, inside) + mp.quad(value, outside)), float(mp.quad(density, inside))


def kernel_by_quadrature(x, y, activation, slope, depth, weight_std, bias_std, kind="nngp"):
    """The kernel from its definition, for a smooth activation and its derivative."""
    wv, bv = weight_std**2, bias_std**2
    x, y = reference.float64(x), reference.float64(y)

    def one(u, v):
        p, q, c = (bv + wv * (s @ t) / len(u) for s, t in ((u, u), (v, v), (u, v)))
        tangent = c
        for _ in range(depth):
            step = mean_by_quadrature(slope, p, q, c)
            p, q, c = (
                bv + wv * mean_by_quadrature(activation, *a) for a in ((p, p, p), (q, q, q), (p, q, c))
            )
            tangent = c + wv * step * tangent
        return tangent if kind == "ntk" else c

    return np.array([[one(u, v) for v in y] for u in x])
