"""A relation as a heat map, ordered so that similar rows are adjacent."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes

from ..base import check
from ..bounds.models import relation_of
from .style import DIVERGING, MISSING, SEQUENTIAL, check_words, drawing

# Clustering stores the distances of all pairs of rows: 8 bytes for each of n^2 / 2.
_MOST_CLUSTERED = 5000
# Beyond this many rows, distances are computed between projections onto the span of this many random
# combinations of the rows, at a cost of O(n^2) instead of O(n^2 m). Exact for a relation of up to 64
# features, because that bounds its rank.
_MOST_EXACT, _DIRECTIONS = 1000, 64
# The names of up to this many groups fit along an axis.
_MOST_NAMED = 30


def relation_matrix(
    relation: Any,
    x: Any = None,
    y: Any = None,
    *,
    labels: Any = None,
    labels_y: Any = None,
    order: str | None = None,
    limits: tuple[float, float] | None = None,
    colorbar: bool = True,
    xlabel: str | None = None,
    ylabel: str | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot a relation as a heat map with rows and columns ordered by label or by cluster.

    Parameters
    ----------
    relation : ndarray of shape (n, m), MLP, pair of MLPs, or fitted relation
        The values R_ij, or a model that computes them at `x` and `y`.
    x : array-like of shape (n, d_x), optional
        Rows; required unless `relation` is a matrix.
    y : array-like of shape (m, d_y), optional
        Columns; by default `x`.
    labels : array-like of shape (n,), optional
        Group of each row: rows of a group are adjacent, lines separate the groups, and their names label the
        axis. For a relation among the same objects (a square matrix, or no `y`) they also apply to the
        columns, unless `labels_y` is given.
    labels_y : array-like of shape (m,), optional
        Group of each column.
    order : {"label", "cluster", "given"}, optional
        By label (stable within a group); by average linkage of rows, and of columns, so that similar ones
        are adjacent; or unchanged. The default is "label" with labels, else "cluster". With "label", a side
        without labels keeps its order; a symmetric matrix has one order for both sides. Beyond 1,000
        rows, clusters are computed from projections onto 64 directions, which is exact for a relation of
        up to 64 features.
    limits : (float, float), optional
        Values at the ends of the colour scale; by default the range of the data, symmetric about zero if both
        signs occur.
    colorbar : bool, default True
    xlabel, ylabel, title : str, optional
    ax : matplotlib.axes.Axes, optional
        New axes by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, the matrix is empty or has no finite value, or more than 5,000 rows
        or columns are to be clustered.

    Examples
    --------
    >>> import numpy as np
    >>> import relkernels as rk
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(3, size=60)
    >>> x = np.eye(3)[labels] + 0.2 * rng.standard_normal((60, 3))
    >>> ax = rk.plot.relation_matrix(rk.relation_matrix(x), labels=labels, title="Three groups")
    >>> [tick.get_text() for tick in ax.get_xticklabels()]
    ['0', '1', '2']
    """
    check_words(xlabel=xlabel, ylabel=ylabel, title=title)
    colorbar = check.flag("colorbar", colorbar)
    values, same = _values(relation, x, y)
    n, m = values.shape
    rows, columns = _labels("labels", labels, n), _labels("labels_y", labels_y, m)
    if columns is None and same:
        columns = rows
    way = ("cluster" if rows is None and columns is None else "label") if order is None else order
    way = check.choice("order", way, ("label", "cluster", "given"))
    if way == "label" and rows is None and columns is None:
        check.fail("labels", "the groups that order='label' goes by", None)
    by_row, by_column = _orders(values, rows, columns, way)
    values = values[np.ix_(by_row, by_column)]
    low, high = _limits(values, limits)
    with drawing(ax, (4.8, 4.1)) as ax:
        import matplotlib

        both = low < 0 < high
        colors = matplotlib.colormaps[DIVERGING if both else SEQUENTIAL].with_extremes(bad=MISSING)
        image = ax.imshow(values, cmap=colors, vmin=low, vmax=high, aspect="equal" if n == m else "auto")
        lines = "#101010" if both else "#fafafa"
        if way == "label" and rows is not None:
            _name_groups(ax, "y", rows[by_row], lines)
        if way == "label" and columns is not None:
            _name_groups(ax, "x", columns[by_column], lines)
        words = {"label": "ordered by label", "cluster": "ordered by cluster", "given": ""}[way]
        ax.set_ylabel(f"x {words}".rstrip() if ylabel is None else ylabel)
        ax.set_xlabel(f"{'x' if same else 'y'} {words}".rstrip() if xlabel is None else xlabel)
        if title is not None:
            ax.set_title(title)
        if colorbar:
            ax.figure.colorbar(image, ax=ax, label="relation ⟨φ(x), ψ(y)⟩" if not same else "relation")
    return ax


def _values(relation: Any, x: Any, y: Any) -> tuple[np.ndarray, bool]:
    """Return the matrix, and whether rows and columns are the same objects."""
    if isinstance(relation, np.ndarray) or not _gives_values(relation):
        if x is not None or y is not None:
            check.fail("x", "no points besides a matrix of values", type(y if x is None else x).__name__)
        values = check.numbers("relation", relation)
        if values.ndim != 2:
            check.fail("relation", "a matrix (n, m)", f"shape {values.shape}")
        same = values.shape[0] == values.shape[1]
    else:
        if x is None:
            check.fail("x", "points, as the relation is not a matrix", None)
        same = y is None
        values = np.asarray(relation_of(relation)[0](x, x if same else y))
    if not values.size:
        check.fail("relation", "at least one row and one column", f"shape {values.shape}")
    return values.astype(np.float64), same


def _gives_values(relation: Any) -> bool:
    from ..maps.mlp import MLP

    pair = isinstance(relation, tuple) and bool(relation) and all(isinstance(m, MLP) for m in relation)
    return pair or isinstance(relation, MLP) or hasattr(relation, "relation_matrix")


def _labels(name: str, labels: Any, count: int) -> np.ndarray | None:
    if labels is None:
        return None
    with check.naming(name):
        found = np.asarray(check.sequence(name, labels))
    if found.shape != (count,):
        check.fail(name, f"{count} labels, shape ({count},)", f"shape {found.shape}")
    return found


def _orders(
    values: np.ndarray, rows: np.ndarray | None, columns: np.ndarray | None, way: str
) -> tuple[np.ndarray, np.ndarray]:
    n, m = values.shape
    by_row, by_column = np.arange(n), np.arange(m)
    if way == "label":
        by_row = by_row if rows is None else np.argsort(rows, kind="stable")
        by_column = by_column if columns is None else np.argsort(columns, kind="stable")
    elif way == "cluster":
        by_row = _cluster(values)
        by_column = by_row if n == m and np.array_equal(values, values.T) else _cluster(values.T)
    return by_row, by_column


def _cluster(values: np.ndarray) -> np.ndarray:
    """Return the order of the leaves of the rows' average-linkage tree."""
    n = len(values)
    if n > _MOST_CLUSTERED:
        check.fail("order", f"'label' or 'given' beyond {_MOST_CLUSTERED:,} rows", f"'cluster' of {n:,}")
    if n < 3:
        return np.arange(n)
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import pdist

    finite = np.isfinite(values)
    filled = np.where(finite, values, values[finite].mean() if finite.any() else 0.0)
    if n > _MOST_EXACT and values.shape[1] > _DIRECTIONS:
        mixed = filled.T @ np.random.default_rng(0).standard_normal((n, _DIRECTIONS))
        filled = filled @ np.linalg.qr(mixed)[0]
    # The optimal order of the leaves takes time ~ n^3 for a slightly tidier picture.
    return leaves_list(linkage(pdist(filled), "average", optimal_ordering=n <= 400))


def _limits(values: np.ndarray, limits: Any) -> tuple[float, float]:
    if limits is not None:
        pair = check.numbers("limits", limits)
        if pair.shape != (2,) or not -np.inf < pair[0] < pair[1] < np.inf:
            got = tuple(pair.tolist()) if pair.shape == (2,) else f"shape {pair.shape}"
            check.fail("limits", "two finite numbers, the lower one first", str(got))
        low, high = pair.tolist()
        return low, high
    finite = values[np.isfinite(values)]
    if not finite.size:
        check.fail("relation", "some finite values", "NaN or infinite ones alone")
    low, high = float(finite.min()), float(finite.max())
    if low < 0 < high:
        high = max(-low, high)
        low = -high
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _name_groups(ax: Axes, axis: Literal["x", "y"], groups: np.ndarray, color: str) -> None:
    """Separate the groups by lines and label them at their centres."""
    edges = np.flatnonzero(groups[1:] != groups[:-1]) + 0.5
    for edge in edges:
        (ax.axhline if axis == "y" else ax.axvline)(edge, color=color, linewidth=0.6)
    ends = np.concatenate([[-0.5], edges, [len(groups) - 0.5]])
    names = [str(groups[int(low + 0.5)]) for low in ends[:-1]]
    middles, step = (ends[1:] + ends[:-1]) / 2, -(-len(names) // _MOST_NAMED)
    put = ax.set_yticks if axis == "y" else ax.set_xticks
    put(middles[::step], names[::step])
    long = max(map(len, names)) > 3 and len(names) > 4
    ax.tick_params(axis, length=0, **({"rotation": 90} if axis == "x" and long else {}))
