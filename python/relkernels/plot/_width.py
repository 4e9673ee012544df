"""Errors against the number of neurons, with a bound on them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ..base import check
from ..bounds import Bound, Report
from ._data import numbers
from .style import check_words, drawing, finish, label_ticks, limit, series

# Number of points at which a bound on neurons for a given accuracy is evaluated.
_POINTS = 16
# Widths whose ratio is at least this are labelled by powers of ten.
_FEW_DECADES = 3000


def error_against_width(
    widths: Any,
    errors: Any = None,
    *,
    bound: Any = None,
    label: str | None = None,
    color: Any = None,
    slope: bool = True,
    xlabel: str = "neurons",
    ylabel: str = "error",
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot errors against widths on logarithmic axes, with the bound as a dashed line.

    Parameters
    ----------
    widths : array-like of shape (k,), or sequence of bounds.Report
        Numbers of neurons. Reports of fitted models provide both the numbers of neurons and the errors, the
        largest and the root mean square.
    errors : array-like of shape (k,) or (k, draws)
        For several draws the median is plotted, with their range as a band. Omitted with reports.
    bound : array-like of shape (k,) or Bound, optional
        Upper bound on the error at each width; or a `Bound` that relates the number of neurons to the
        accuracy: one that takes ``n_neurons`` (`bounds.zonal`), or one whose value is the number
        of neurons that suffices for ``eps`` (`bounds.symmetric`, `asymmetric`, `random_features`), which
        is drawn over the range of the errors. Infinite values are omitted.
    label : str, optional
        Name of the series in the legend.
    color : matplotlib colour, optional
        Colour of the series; by default the next in the axes' cycle.
    slope : bool, default True
        Add to the label the exponent p of error ~ N^p, by least squares of logarithms.
    xlabel, ylabel, title : str, optional
    ax : matplotlib.axes.Axes, optional
        New axes by default. A second call with the same axes adds another series.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, a width is not positive, or no error is positive.

    Examples
    --------
    >>> from relkernels import bounds, plot
    >>> bound = bounds.zonal(1.5, 2, 16, norm=1.0)
    >>> ax = plot.error_against_width([16, 64, 256], [0.11, 0.04, 0.012], bound=bound, label="zonal")
    >>> [line.get_label() for line in ax.lines]
    ['zonal, N^-0.80', 'bound']
    """
    check_words(color, label=label, xlabel=xlabel, ylabel=ylabel, title=title)
    slope = check.flag("slope", slope)
    if (reports := _reports(widths)) is not None:
        if errors is not None:
            check.fail("errors", "none besides reports, which hold them", type(errors).__name__)
        at = np.array([report.n_neurons for report in reports], np.float64)
        measured = [("largest", [r.found for r in reports]), ("root mean square", [r.l2 for r in reports])]
    else:
        at = numbers("widths", widths, positive=True)
        measured = [("", errors)]
    if not at.size:
        check.fail("widths", "at least one", "none")
    by_width = np.argsort(at, kind="stable")
    with drawing(ax) as ax:
        ax.set_xscale("log")
        ax.set_yscale("log")
        seen: list[np.ndarray] = []
        for name, values in measured:
            found = _errors(values, len(at))
            middle = np.nanmedian(found, axis=1)
            words = ", ".join(filter(None, (label, name)))
            if slope and not math.isnan(p := _exponent(at, middle)):
                words = f"{words or 'measured'}, N^{p:.2f}"
            line = series(ax, at[by_width], middle[by_width], words or "measured", color)
            if found.shape[1] > 1:
                low, high = np.nanmin(found, axis=1)[by_width], np.nanmax(found, axis=1)[by_width]
                ax.fill_between(at[by_width], low, high, color=line.get_color(), alpha=0.2, linewidth=0)
            seen.append(middle)
        if bound is not None:
            x, y = _bound(bound, at, np.concatenate(seen))
            limit(ax, x, y, line, "bound")
        left, right = ax.dataLim.intervalx
        if right < _FEW_DECADES * left:
            label_ticks(ax, np.concatenate([np.asarray(old.get_xdata(), float) for old in ax.lines]))
        finish(ax, xlabel, ylabel, title)
    return ax


def _reports(widths: Any) -> list[Report] | None:
    """Return the reports of fitted models, or None for anything else."""
    found = [widths] if isinstance(widths, Report) else widths
    if not isinstance(found, (list, tuple)) or not any(isinstance(r, Report) for r in found):
        return None
    for r in found:
        if not isinstance(r, Report):
            raise TypeError(
                f"widths: expected reports alone, or numbers alone, got {type(r).__name__} among them"
            )
        if r.n_neurons is None:
            check.fail("widths", "reports of models whose number of neurons is known", "one without")
    return list(found)


def _errors(errors: Any, count: int) -> np.ndarray:
    """Return the errors as (k, draws); values without a logarithm become NaN."""
    several = check.numbers("errors", errors)
    if several.ndim == 2 and len(several) == count and several.size:
        found = several
    else:
        found = numbers("errors", errors, count)[:, None]
    shown = np.where(np.isfinite(found) & (found > 0), found, np.nan)
    # nanmedian would warn about a row without any value; inf and 0 are gaps in the line.
    if np.isnan(shown).all():
        check.fail("errors", "some finite values > 0", found.ravel()[0])
    empty = np.isnan(shown).all(axis=1)
    if empty.any():
        shown = shown.copy()
        shown[empty] = np.inf
    return shown


def _exponent(x: np.ndarray, y: np.ndarray) -> float:
    good = np.isfinite(y)
    if len(set(x[good])) < 2:
        return math.nan
    return float(np.polyfit(np.log(x[good]), np.log(y[good]), 1)[0])


def _bound(bound: Any, widths: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return widths and errors of a bound, whichever of the two it takes as argument."""
    if not isinstance(bound, Bound):
        x, y = widths, numbers("bound", bound, len(widths))
    elif "n_neurons" in bound.arguments:
        x, y = widths, bound.curve("n_neurons", [int(w) for w in widths])
    elif "eps" in bound.arguments and "neurons" in bound.quantity:
        finite = errors[np.isfinite(errors)]
        y = np.geomspace(finite.min(), max(finite.max(), 1.01 * finite.min()), _POINTS)
        x = bound.curve("eps", y)
    else:
        check.fail("bound", "one of errors and numbers of neurons", f"{bound.name}: {bound.quantity}")
    shown = np.flatnonzero(np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0))
    shown = shown[np.argsort(x[shown], kind="stable")]
    return x[shown], y[shown]
