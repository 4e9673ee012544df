"""Spectral Barron norms: moments of the frequencies of a function.

With ``f(x) = integral of F(w) exp(i <w, x>) dw`` (so F is the Fourier transform divided by (2 pi)^d), the
norm of order s is ``C = integral of |w|^s |F(w)| dw``. Barron (1993) bounds sigmoidal networks by order 1 and
the Euclidean norm of w; Klusowski and Barron (2018) relu networks by order 2 and the sum of |w_i|.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..base import check


@dataclass(frozen=True)
class BarronNorm:
    """A spectral Barron norm.

    Attributes
    ----------
    value : float
        Infinite if the integral diverges.
    order : int
        Power of the frequency's length.
    norm : int
        Norm of the frequency: 1 (sum of absolute values) or 2 (Euclidean).
    source : str
        How it was computed; contains "bound" if the value is an upper bound.
    tail : float
        Fraction of the value from the upper half of the frequencies that the samples resolve; if it is not
        small, neither is the error. 0 for closed forms.

    Examples
    --------
    >>> from relkernels.spectra import barron_norm_gaussian
    >>> print(barron_norm_gaussian(1.0, 3))
    Barron norm of order 1 (Euclidean): 1.59577 (closed form)
    """

    value: float
    order: int
    norm: int
    source: str
    tail: float = 0.0

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        length = "Euclidean" if self.norm == 2 else "sum of absolute values"
        tail = f", {100 * self.tail:.2g} % from the upper half" if self.tail else ""
        return f"Barron norm of order {self.order} ({length}): {self.value:.6g} ({self.source}{tail})"


def _checked(order: int, norm: int) -> tuple[int, int]:
    order, norm = check.integer("order", order, 0), check.integer("norm", norm, 1)
    if order > 2:
        check.fail("order", "0, 1 or 2", order)
    if norm > 2:
        check.fail("norm", "1 or 2", norm)
    return order, norm


def barron_norm(
    samples: np.ndarray, spacing: float | Sequence[float], *, order: int = 1, norm: int = 2
) -> BarronNorm:
    """Return the Barron norm of a function from its samples on a regular grid.

    The function is assumed to be periodic over the grid. Exact for trigonometric polynomials that the grid
    resolves; for a smooth function that vanishes towards the edges, the error decreases with a finer spacing
    and a larger extent of the grid.

    Parameters
    ----------
    samples : ndarray of shape (n_1, ..., n_d)
        Values on the grid, real or complex.
    spacing : float or sequence of d floats
        Distance between the grid's points along each axis.
    order : {0, 1, 2}, default 1
    norm : {1, 2}, default 2

    Returns
    -------
    BarronNorm

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Examples
    --------
    >>> import numpy as np
    >>> from relkernels.spectra import barron_norm
    >>> x = np.arange(64) * (2 * np.pi / 64)
    >>> round(barron_norm(3 * np.cos(5 * x), 2 * np.pi / 64).value, 10)
    15.0
    """
    order, norm = _checked(order, norm)
    f = samples if isinstance(samples, np.ndarray) and samples.dtype.kind == "c" else None
    f = check.numbers("samples", samples) if f is None else f
    if f.ndim < 1 or min(f.shape) < 2:
        check.fail("samples", "a grid of numbers, at least 2 along each axis", f"shape {f.shape}")
    if not np.isfinite(f).all():
        check.fail("samples", "finite values", "NaN or infinite ones")
    steps = check.numbers("spacing", spacing)
    if steps.shape not in ((), (1,), (f.ndim,)):
        check.fail("spacing", f"one number or {f.ndim}", f"shape {steps.shape}")
    steps = np.broadcast_to(steps, (f.ndim,))
    if not ((steps > 0) & np.isfinite(steps)).all():
        check.fail("spacing", "finite numbers > 0", spacing)
    size = np.abs(np.fft.fftn(f)) / f.size
    axes = [np.abs(np.fft.fftfreq(n, h)) * 2 * np.pi for n, h in zip(f.shape, steps, strict=True)]
    grid = np.meshgrid(*axes, indexing="ij", sparse=True)
    length = sum(grid) if norm == 1 else np.sqrt(sum(w * w for w in grid))
    terms = size * length**order
    upper = np.zeros(f.shape, bool)
    for w, h in zip(grid, steps, strict=True):
        upper |= w > np.pi / h / 2
    value = float(terms.sum())
    return BarronNorm(
        value, order, norm, "FFT of samples", float(terms[upper].sum()) / value if value else 0.0
    )


def barron_norm_gaussian(
    scale: float | Sequence[float] | np.ndarray,
    dimension: int | None = None,
    *,
    amplitude: float = 1.0,
    order: int = 1,
    norm: int = 2,
) -> BarronNorm:
    """Return the Barron norm of ``amplitude * exp(-|(x - c) / scale|^2 / 2)``, in closed form.

    Its transform is `amplitude` times the density of a normal distribution with standard deviations 1 /
    scale, so the norm is a moment of that distribution.

    Parameters
    ----------
    scale : float, or sequence of d floats
        Width along each coordinate.
    dimension : int, optional
        Number of coordinates; required if `scale` is one number.
    amplitude : float, default 1.0
    order : {0, 1, 2}, default 1
    norm : {1, 2}, default 2

    Returns
    -------
    BarronNorm

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Examples
    --------
    >>> from relkernels.spectra import barron_norm_gaussian
    >>> round(barron_norm_gaussian([1.0, 0.5], order=2, norm=2).value, 6)  # E|w|^2 = 1 + 4
    5.0
    """
    order, norm = _checked(order, norm)
    widths = np.atleast_1d(check.numbers("scale", scale))
    if dimension is not None:
        d = check.integer("dimension", dimension, 1)
        if widths.shape not in ((1,), (d,)):
            check.fail("scale", f"one number or {d}", f"shape {widths.shape}")
        widths = np.broadcast_to(widths, (d,))
    elif np.ndim(scale) == 0:
        check.fail("dimension", "a number of coordinates, as scale is one number", dimension)
    if widths.ndim != 1 or not ((widths > 0) & np.isfinite(widths)).all():
        check.fail("scale", "finite numbers > 0", scale)
    factor = check.real("amplitude", amplitude)
    return BarronNorm(abs(factor) * _moment(1 / widths, order, norm), order, norm, "closed form")


def _moment(deviations: np.ndarray, order: int, norm: int) -> float:
    """E |w|^order for independent normal coordinates."""
    if order == 0:
        return 1.0
    variance = deviations**2
    if order == 2 and norm == 2:
        return float(variance.sum())
    if norm == 1:  # E|w_i| = s_i sqrt(2/pi)
        total = float(deviations.sum())
        if order == 1:
            return math.sqrt(2 / math.pi) * total
        return float(variance.sum()) * (1 - 2 / math.pi) + 2 / math.pi * total**2
    if np.ptp(deviations) == 0:  # mean of the chi distribution
        d = len(deviations)
        return float(deviations[0]) * math.sqrt(2) * math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2))
    # sqrt(q) = integral of (1 - exp(-t q)) t^(-3/2) over t > 0 / (2 sqrt(pi)), with t = u^2
    from scipy.integrate import quad

    top = float(variance.max())

    def integrand(u: float) -> float:
        return -math.expm1(-0.5 * float(np.log1p(2 * u * u * variance / top).sum())) / (u * u)

    near = quad(integrand, 0, 1, epsabs=0, epsrel=1e-11)[0]
    far = quad(integrand, 1, np.inf, epsabs=0, epsrel=1e-11)[0]
    return (near + far) * math.sqrt(top / math.pi)


def barron_norm_trigonometric(
    frequencies: np.ndarray, amplitudes: np.ndarray, *, order: int = 1, norm: int = 2
) -> BarronNorm:
    """Return the Barron norm of ``sum_k amplitude_k * cos(<w_k, x> + phase_k)``, in closed form.

    With one frequency these are the eigenfunctions of every shift-invariant kernel on a torus. A
    cosine has two frequencies of half its amplitude, and phases do not matter. If frequencies repeat, the
    value is an upper bound.

    Parameters
    ----------
    frequencies : ndarray of shape (k, d)
    amplitudes : ndarray of shape (k,)
    order : {0, 1, 2}, default 1
    norm : {1, 2}, default 2

    Returns
    -------
    BarronNorm

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Examples
    --------
    >>> import numpy as np
    >>> from relkernels.spectra import barron_norm_trigonometric
    >>> barron_norm_trigonometric(np.array([[3.0, 4.0]]), np.array([2.0])).value
    10.0
    """
    order, norm = _checked(order, norm)
    w, a = check.numbers("frequencies", frequencies), check.numbers("amplitudes", amplitudes)
    if w.ndim != 2:
        check.fail("frequencies", "one frequency a row", f"shape {w.shape}")
    if a.shape != (len(w),):
        check.fail("amplitudes", f"{len(w)} numbers, one for each frequency", f"shape {a.shape}")
    length = np.abs(w).sum(axis=1) if norm == 1 else np.sqrt((w * w).sum(axis=1))
    distinct = len(np.unique(np.concatenate([w, -w]), axis=0)) == 2 * len(w) - int((length == 0).sum())
    source = "closed form" if distinct else "closed form, bound"
    return BarronNorm(float((np.abs(a) * length**order).sum()), order, norm, source)


def barron_norm_eigenfunction(
    vector: np.ndarray, value: float, kernel_norm: BarronNorm | float
) -> BarronNorm:
    """Return a bound on the Barron norm of an eigenfunction of a shift-invariant kernel.

    An eigenfunction is ``e(x) = mean_j k(x - x_j) e(x_j) / value``: a sum of shifted copies of k, whose
    transforms have the same modulus as that of k. Hence ``C(e) <= C(k) * mean_j |e(x_j)| / value``.

    Parameters
    ----------
    vector : ndarray of shape (n,)
        The eigenfunction at the points, as in `MercerSpectrum`.vectors.
    value : float
        Its eigenvalue, greater than 0.
    kernel_norm : BarronNorm or float
        Norm of the function k, for example from `barron_norm_gaussian`.

    Returns
    -------
    BarronNorm

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Examples
    --------
    >>> import numpy as np
    >>> from relkernels.spectra import barron_norm_eigenfunction, barron_norm_gaussian, mercer
    >>> spectrum = mercer(lambda a, b: np.exp(-((a - b.T) ** 2) / 2), np.linspace(-1, 1, 50)[:, None])
    >>> kernel = barron_norm_gaussian(1.0, 1)
    >>> round(barron_norm_eigenfunction(spectrum.vectors[:, 0], spectrum.values[0], kernel).value, 3)
    1.035
    """
    e = check.numbers("vector", vector)
    if e.ndim != 1 or not len(e):
        check.fail("vector", "values of one eigenfunction", f"shape {e.shape}")
    eigenvalue = check.real("value", value)
    if not eigenvalue > 0:
        check.fail("value", "an eigenvalue > 0", repr(value))
    known = isinstance(kernel_norm, BarronNorm)
    order, norm = (kernel_norm.order, kernel_norm.norm) if isinstance(kernel_norm, BarronNorm) else (1, 2)
    size = float(kernel_norm) if known else check.real("kernel_norm", kernel_norm)
    return BarronNorm(size * float(np.abs(e).mean()) / eigenvalue, order, norm, "bound by the kernel's")


def barron_norm_fourier(
    transform: Callable[[float], complex], dimension: int = 1, *, order: int = 1, norm: int = 2
) -> BarronNorm:
    """Return the Barron norm of a function given by its Fourier transform.

    Parameters
    ----------
    transform : callable
        F with ``f(x) = integral of F(w) exp(i <w, x>) dw``. In one dimension a function of w, of either sign;
        in more, F is assumed to be radial and is a function of the Euclidean norm of w.
    dimension : int, default 1
    order : {0, 1, 2}, default 1
    norm : {1, 2}, default 2

    Returns
    -------
    BarronNorm
        Infinite if successive octaves of frequencies contribute undiminished amounts.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Examples
    --------
    >>> import math
    >>> from relkernels.spectra import barron_norm_fourier
    >>> gauss = lambda w: math.exp(-w * w / 2) / math.sqrt(2 * math.pi)  # of exp(-x^2 / 2)
    >>> round(barron_norm_fourier(gauss).value, 6)
    0.797885
    >>> barron_norm_fourier(lambda w: 1 / (math.pi * (1 + w * w))).value  # of exp(-|x|)
    inf
    """
    from scipy.integrate import quad

    order, norm = _checked(order, norm)
    d = check.integer("dimension", dimension, 1, 10**9)
    if not callable(transform):
        raise TypeError(f"transform: expected a callable, got {type(transform).__name__}")
    # |S^(d-1)| times the mean of |u|^order over directions u.
    sphere = 2 * math.exp(d / 2 * math.log(math.pi) - math.lgamma(d / 2))
    mean = 1.0
    if norm == 1 and order == 1:
        mean = d * math.exp(math.lgamma(d / 2) - math.lgamma((d + 1) / 2)) / math.sqrt(math.pi)
    elif norm == 1 and order == 2:
        mean = 1 + (d - 1) * 2 / math.pi

    def density(r: float) -> float:
        with check.naming("transform"):
            size = (abs(transform(r)) + abs(transform(-r))) / 2 if d == 1 else abs(transform(r))
            return float(size) * r ** (d - 1 + order)

    total, last = 0.0, math.inf
    low, high = 0.0, 1.0 / 1024
    growing = 0
    for octave in range(64):
        part = quad(density, low, high, limit=200, epsabs=0, epsrel=1e-10)[0]
        if not math.isfinite(part):
            return BarronNorm(math.inf, order, norm, "Fourier transform")
        total += part
        growing = growing + 1 if part > 0.98 * last else 0
        if octave > 30 and part <= 1e-14 * total:
            break
        if octave > 40 and growing > 12:
            return BarronNorm(math.inf, order, norm, "Fourier transform")
        low, high, last = high, 2 * high, part
    else:
        # A geometric tail: the ratio of the last octaves is extrapolated.
        ratio = min(part / last, 0.98) if last > 0 else 0.0
        total += part * ratio / (1 - ratio)
    return BarronNorm(sphere * mean * total, order, norm, "Fourier transform")
