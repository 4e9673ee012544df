"""Colours, sizes and axes that all pictures share.

INK, RULE and PAPER are the colours of text, grid and background: `panels.py` replaces them for a dark page,
so nothing else may be drawn in exactly these colours.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import matplotlib
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from ..base import check
from ..base.describe import described

# Okabe and Ito (2008), without black, which is the ink, and yellow, which is invisible on white paper.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "D", "^", "v", "P")
INK, RULE, PAPER = "#24292f", "#d0d7de", "#ffffff"
# For one sign and for both signs: uniform lightness, and blue to red, whose order colour-blind readers also
# see.
SEQUENTIAL, DIVERGING, MISSING = "viridis", "RdBu_r", "#8c959f"
_SHORT = 4  # legends with at most this many entries have one column
_LABELS = 0.46  # inches that tick labels and the axis label occupy below the axes
SIZE = (4.4, 3.5)  # inches: 10 points are 11 pixels high on a phone of 360

# Axes that were created here: later additions get the same style.
_OWN: WeakSet[Axes] = WeakSet()

_SETTINGS: Any = {
    "font.size": 10.0,
    "axes.titlesize": 10.0,
    "axes.labelsize": 10.0,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "legend.fontsize": 8.0,
    "lines.markersize": 4.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "legend.facecolor": PAPER,
    "legend.edgecolor": RULE,
    "legend.framealpha": 0.85,
}


def look() -> Any:
    """Return a context in which new figures have the style of this package."""
    return matplotlib.rc_context({**_SETTINGS, "axes.prop_cycle": cycler(color=PALETTE)})


def check_words(color: Any = None, **words: Any) -> None:
    """Reject labels and titles that are not text, and a colour that matplotlib does not know."""
    from matplotlib.colors import is_color_like

    for name, text in words.items():
        if text is not None and not isinstance(text, str):
            raise TypeError(f"{name}: expected text or None, got {described(text)}")
    if color is not None and not (isinstance(color, (str, tuple)) and is_color_like(color)):
        check.fail("color", "a colour of matplotlib's, a name or a tuple", check.option(color))


@contextmanager
def drawing(ax: Axes | None, size: tuple[float, float] = SIZE) -> Iterator[Axes]:
    """Yield the axes to draw on: the given ones, or new ones."""
    if ax is None or (isinstance(ax, Axes) and ax in _OWN):
        import matplotlib.pyplot as plt

        with look():
            ax = plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax
            _OWN.add(ax)
            yield ax
        return
    if not isinstance(ax, Axes):
        raise TypeError(f"ax: expected matplotlib axes or None, got {described(ax)}")
    if not ax.has_data():
        ax.set_prop_cycle(color=PALETTE)
    yield ax


def series(ax: Axes, x: Any, y: Any, label: str | None = None, color: Any = None, **options: Any) -> Line2D:
    """Draw points joined by a line in the next colour, with that colour's marker."""
    (line,) = ax.plot(x, y, label=label, **({} if color is None else {"color": color}), **options)
    color = line.get_color()
    if "marker" not in options:
        line.set_marker(MARKERS[PALETTE.index(color) if color in PALETTE else 0])
    return line


def limit(ax: Axes, x: Any, y: Any, of: Line2D, label: str) -> None:
    """Draw the bound of a series dashed, in its colour; all bounds share one entry of the legend."""
    known = any(line.get_label() == label for line in ax.lines)
    ax.plot(x, y, "--", color=of.get_color(), label=None if known else label)


def shades(n: int) -> list[str]:
    """Return n ordered colours that are visible on both white and black."""
    from matplotlib.colors import to_hex

    found = matplotlib.colormaps[SEQUENTIAL]
    return [to_hex(found(0.25 + 0.55 * i / max(n - 1, 1))) for i in range(n)]


def finish(ax: Axes, xlabel: str, ylabel: str, title: str | None = None) -> None:
    """Label axes that have no labels yet, and set grid and legend."""
    ax.set_xlabel(ax.get_xlabel() or xlabel)
    ax.set_ylabel(ax.get_ylabel() or ylabel)
    if title is not None:
        ax.set_title(title)
    ax.set_axisbelow(True)
    ax.grid(True)
    handles: list[Any] = ax.get_legend_handles_labels()[0]
    if handles:
        # Bounds and laws, dashed in the colour of a series, come after the measurements.
        handles.sort(key=lambda handle: isinstance(handle, Line2D) and _is_bound(handle))
        _legend(ax, handles)


def _is_bound(line: Line2D) -> bool:
    return line.get_linestyle() == "--" and line.get_color() != INK


def _legend(ax: Axes, handles: list[Any]) -> None:
    """Put the legend below the axes, where it covers no points, if the layout can reserve space there."""
    figure = ax.figure
    if not isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        ax.legend(handles=handles, ncols=1 if len(handles) <= _SHORT else 2)
        return
    widest = max(len(str(handle.get_label())) for handle in handles)
    below = ax.transAxes + ScaledTranslation(0, -_LABELS, figure.dpi_scale_trans)
    columns = 4 if widest < 9 else 3 if widest < 15 else 2 if widest < 30 else 1
    ax.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below, ncols=columns,
        frameon=False, borderaxespad=0, columnspacing=1.2, handlelength=1.8,
    )  # fmt: skip


def label_ticks(ax: Axes, values: Any, most: int = 8) -> None:
    """Label a logarithmic x axis only at these values, or at every second, third, ... if there are many."""
    ticks = sorted(set(values))
    if ticks[-1] >= 100_000:
        most //= 2  # longer labels
    ticks = ticks[:: -(-len(ticks) // most)]
    ax.set_xticks(ticks, [f"{v:g}" if v < 10_000 else f"{v:,.0f}" for v in ticks])
    ax.xaxis.minorticks_off()
