"""Error or accuracy of attention against its inverse temperature, with the guaranteed bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from .. import bounds
from ..base import check
from ..base.describe import described
from ..bounds import Bound
from ._data import numbers
from .style import INK, check_words, drawing, finish, limit, series

_BETAS = tuple(float(b) for b in np.geomspace(0.1, 1000, 13))
_REFERENCE_STYLES = ("-", ":", "-.", "--")


def attention_against_beta(
    beta: Any,
    error: Any,
    *,
    queries: Any = None,
    items: Any = None,
    values: Any = None,
    bound: Any = None,
    measure: str = "error",
    label: str | None = None,
    color: Any = None,
    references: Mapping[str, float] | None = None,
    xlabel: str = "inverse temperature β",
    ylabel: str | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot attention's error or accuracy against the inverse temperature, with the bound dashed.

    Parameters
    ----------
    beta : array-like of shape (k,) or None
        Inverse temperatures > 0; None means 0.1 to 1,000.
    error : array-like of shape (k,), or fitted PreferenceRetriever
        Values to plot. For a retriever, the mean distance between attention and the value of the preferred
        item over the given sets, with the mean of `bounds.attention_error` of each set.
    queries, items, values : array-like, optional
        ``(b, d_q)``, ``(b, n, d_x)`` and ``(b, n, d_v)``: inputs of the retriever; only with a retriever.
    bound : array-like of shape (k,) or Bound, optional
        Upper bound on the error, or lower bound on the accuracy; or `bounds.attention_error` or
        `bounds.attention`, which is evaluated at these temperatures.
    measure : {"error", "accuracy"}, default "error"
        Errors are drawn on a logarithmic axis, accuracies from 0 to 1.
    label : str, optional
        Name of the series in the legend.
    color : matplotlib colour, optional
        Colour of the series; by default the next in the axes' cycle.
    references : mapping of str to float, optional
        Horizontal reference lines, by name: ``{"hard selection": 0.97, "chance": 0.1}``.
    xlabel, ylabel, title : str, optional
    ax : matplotlib.axes.Axes, optional
        New axes by default. A second call with the same axes adds another series.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or the bound is not about attention.

    Examples
    --------
    >>> import numpy as np
    >>> import relkernels as rk
    >>> beta, u = np.geomspace(0.1, 100, 12), np.array([1.0, 0.2, 0.0])
    >>> out = [rk.attention(np.ones((1, 1)), u[:, None], np.eye(3), scale=b)[0] for b in beta]
    >>> error = np.linalg.norm(np.array(out) - [1, 0, 0], axis=1)
    >>> bound = rk.bounds.attention_error(0.8, 3, np.sqrt(2), beta=1.0)
    >>> ax = rk.plot.attention_against_beta(beta, error, bound=bound)
    >>> measured, limit = ax.lines
    >>> bool((measured.get_ydata() <= limit.get_ydata()).all())
    True
    """
    check_words(color, label=label, xlabel=xlabel, ylabel=ylabel, title=title)
    if references is not None and not isinstance(references, Mapping):
        raise TypeError(f"references: expected a mapping of names to numbers, got {described(references)}")
    measure = check.choice("measure", measure, ("error", "accuracy"))
    at = numbers("beta", _BETAS if beta is None else beta, positive=True)
    most: np.ndarray | None
    if hasattr(error, "attend"):
        if measure != "error":
            check.fail("measure", "'error' of a retriever", repr(measure))
        found, most = _measured(error, queries, items, values, at)
    else:
        for name, given in (("queries", queries), ("items", items), ("values", values)):
            if given is not None:
                check.fail(
                    name, "nothing besides figures: it is what a retriever attends to", type(given).__name__
                )
        found = numbers("error", error, len(at))
        most = None
    if bound is not None:
        most = _bound(bound, at)
    order = np.argsort(at, kind="stable")
    at, found = at[order], found[order]
    with drawing(ax) as ax:
        ax.set_xscale("log")
        if measure == "error":
            ax.set_yscale("log")
            found = np.where(found > 0, found, np.nan)  # no logarithm of a zero error: the line ends
        else:
            ax.set_ylim(0, 1.02)
        line = series(ax, at, found, label or "attention", color)
        if most is not None:
            most = most[order]
            side = "bound" if measure == "error" else "guaranteed"
            shown = np.where(most > 0, most, np.nan) if measure == "error" else most
            limit(ax, at, shown, line, side)
        for (name, value), style in zip((references or {}).items(), 4 * _REFERENCE_STYLES, strict=False):
            ax.axhline(
                check.real(f"references[{name!r}]", value),
                color=INK,
                linewidth=0.9,
                linestyle=style,
                label=name,
            )
        finish(ax, xlabel, ylabel or ("accuracy" if measure == "accuracy" else "error"), title)
    return ax


def _bound(bound: Any, at: np.ndarray) -> np.ndarray:
    if not isinstance(bound, Bound):
        return numbers("bound", bound, len(at))
    if bound.name == "attention":
        arguments = {k: v for k, v in bound.arguments.items() if k != "eps"}
        bound = bounds.attention_error(**arguments, beta=1.0)
    if "beta" not in bound.arguments:
        check.fail("bound", "bounds.attention_error or bounds.attention", bound.name)
    return bound.curve("beta", at)


def _measured(
    retriever: Any, queries: Any, items: Any, values: Any, at: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean error of attention over the sets, and the mean of the bounds at their margins."""
    for name, given in (("queries", queries), ("items", items), ("values", values)):
        if given is None:
            check.fail(name, "what the retriever attends to", None)
    sets = [np.asarray(v, np.float64) for v in values]
    chosen = np.stack([v[j] for v, j in zip(sets, retriever.select(queries, items), strict=True)])
    margin = bounds.margin_of(retriever.utility(queries, items))
    diameters = [float(np.linalg.norm(v.max(axis=0) - v.min(axis=0))) for v in sets]
    errors, limits = np.empty((2, len(at)))
    for i, beta in enumerate(at):
        attended = retriever.attend(queries, items, values, float(beta))
        errors[i] = np.linalg.norm(attended - chosen, axis=1).mean()
        share = bounds.attention_error(margin, None, 1.0, float(beta)).details["per_set"]
        limits[i] = np.mean(share * diameters)
    return errors, limits
