"""Eigenvalues or singular values, and a law fitted to their decay."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ..base import check
from ..spectra import Decay, MercerSpectrum, SchmidtSpectrum, SphereSpectrum, fit_decay
from ._data import numbers
from .style import check_words, drawing, finish, series

# In spectra given as arrays, negative values of at most this fraction of the largest are rounding.
_ROUNDING = 1e-15


def spectrum(
    values: Any,
    decay: Any = None,
    *,
    indices: Any = None,
    label: str | None = None,
    color: Any = None,
    xlabel: str | None = None,
    ylabel: str | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot a spectrum and the law fitted to its decay.

    Parameters
    ----------
    values : ndarray of shape (k,), MercerSpectrum, SchmidtSpectrum or SphereSpectrum
        Values, largest first. Zeros are omitted, and for a Mercer or Schmidt spectrum also values below n
        times the rounding of the largest. A spectrum on the sphere is plotted over the degrees 1, 2, ...;
        degree 0 cannot be shown on a logarithmic axis.
    decay : Decay or {"power", "exponential", "auto"}, optional
        A law from `spectra.fit_decay`, or the kind to fit to all plotted values. It is drawn dashed over the
        fitted range, and the legend gives its rate with the confidence interval.
    indices : array-like of shape (k,), optional
        Values of k, increasing and > 0; by default 1, 2, ...
    label : str, optional
        Name of the series in the legend.
    color : matplotlib colour, optional
        Colour of the series; by default the next in the axes' cycle.
    xlabel, ylabel, title : str, optional
    ax : matplotlib.axes.Axes, optional
        New axes by default. A second call with the same axes adds another series. If the first law on empty
        axes is exponential, the index axis is linear, so that the law is a straight line.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above or a spectrum has no value > 0.

    Examples
    --------
    >>> import numpy as np
    >>> import relkernels as rk
    >>> values = 2.0 * np.arange(1, 40) ** -1.5
    >>> ax = rk.plot.spectrum(values, "power", label="kernel")
    >>> [line.get_label() for line in ax.lines]
    ['kernel', 'k^-1.50 (1.50 to 1.50)']
    """
    check_words(color, label=label, xlabel=xlabel, ylabel=ylabel, title=title)
    found, at, names = _values(values, indices)
    law: Decay | None = decay
    if decay is not None and not isinstance(decay, Decay):
        kind = check.choice("decay", decay, ("power", "exponential", "auto"))
        law = fit_decay(np.minimum.accumulate(found), kind, indices=at)
    with drawing(ax) as ax:
        if not ax.has_data():
            ax.set_yscale("log")
            if law is None or law.kind == "power":
                ax.set_xscale("log")
        line = series(
            ax, at, found, label or (names[1] if law is not None else None), color, linestyle="none"
        )
        if law is not None:
            inside = at[(at >= law.first) & (at <= law.last)]
            ends = inside if inside.size else at
            k = np.linspace(ends[0], ends[-1], 50)
            ax.plot(k, law.predict(k), "--", color=line.get_color(), label=_law(law))
        finish(ax, xlabel or names[0], ylabel or names[1], title)
    return ax


def _law(law: Decay) -> str:
    low, high = law.interval
    shape = f"k^-{law.rate:.2f}" if law.kind == "power" else f"exp(-{law.rate:.2f} k)"
    return f"{shape} ({low:.2f} to {high:.2f})"


def _values(values: Any, indices: Any) -> tuple[np.ndarray, np.ndarray, tuple[str, str]]:
    """Return the positive values, their indices, and the names of both axes."""
    names = ("number k", "value")
    if isinstance(values, SphereSpectrum):
        raw, at, names = values.values[1:], np.arange(1.0, len(values.values)), ("degree k", "eigenvalue")
    else:
        if isinstance(values, (MercerSpectrum, SchmidtSpectrum)):
            mercer = isinstance(values, MercerSpectrum)
            names = ("number k", "eigenvalue" if mercer else "singular value")
            floor = len(values.values) * float(np.finfo(np.float64).eps)
            values = np.where(values.values > floor * values.values.max(initial=0), values.values, 0)
        raw = numbers("values", values)
        at = np.arange(1.0, raw.size + 1)
    if not np.isfinite(raw).all():
        check.fail("values", "finite values", "NaN or infinite ones")
    if indices is not None:
        at = numbers("indices", indices, len(raw), positive=True)
        if not (np.diff(at) > 0).all():
            check.fail("indices", "increasing numbers", at)
    if raw.size and raw.min() < -_ROUNDING * max(raw.max(), 0) * raw.size:
        check.fail("values", "a spectrum, none below 0", f"{raw.min():.6g}")
    shown = raw > 0
    if not shown.any():
        check.fail("values", "at least one value > 0", f"{raw.size} of none")
    return raw[shown], at[shown], names
