"""Pictures of a report: time against size, time against threads, and the roofline."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .report import Report, Row, threads_label
from .workload import OURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..plot.panels import Panel

# Indices of the colours of `relkernels.plot`, by contestant.
_COLORS = {
    OURS: 1,
    "numpy": 0,
    "torch": 4,
    "faiss": 2,
    "keops": 3,
    "sklearn": 5,
}
_OTHER_WAY = 3  # of a contestant that is no library
# Pictures that are not of a single family.
_OTHERS = ("roofline", "threads")
# A slope is fitted to this many of the largest sizes, where the overhead is negligible.
_SLOPE_POINTS = 3


def save(report: Report, directory: str) -> dict[str, str]:
    """Save the pictures that the rows allow; return their paths by caption.

    Raises
    ------
    OSError
        If the directory or a picture cannot be written.
    """
    from ..plot.panels import save as save_panels

    os.makedirs(directory, exist_ok=True)
    return {
        caption: save_panels(found, directory, caption if caption in _OTHERS else f"time_{caption}")
        for caption, found in panels(report).items()
    }


def panels(report: Report) -> dict[str, list[Panel]]:
    """Return the panels of each picture that the rows allow: one per family, "roofline" and "threads"."""
    from ..plot.panels import Panel

    found = {}
    for family, rows in _groups(report.rows, lambda row: row.workload.family).items():
        series = _groups([row for row in rows if row.most_threads], lambda row: row.workload.series)
        if series:
            found[family] = [
                Panel(f"{name}, {threads_label(some[0].threads)}", partial(_against_size, some))
                for name, some in series.items()
            ]
    if report.rows and report.ceilings:
        threads = max(report.ceilings)
        found["roofline"] = [
            Panel(f"Roofline, {threads_label(threads)}", partial(_roofline, report, threads), (6.0, 4.4))
        ]
    if len(report.ceilings) > 1:
        families = _groups(report.rows, lambda row: row.workload.family)
        found["threads"] = [
            Panel(
                f"{family}, largest size of each series",
                partial(_against_threads, list(report.ceilings), rows),
            )
            for family, rows in families.items()
        ]
    return found


def _groups(rows: Iterable[Row], key: Any) -> dict[Any, list[Row]]:
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def slope(sizes: list[int], times: list[float]) -> float | None:
    """Return the exponent of time in size over the largest sizes, or None for a single size."""
    if len(sizes) < 2:
        return None
    x, y = np.log(sizes[-_SLOPE_POINTS:]), np.log(times[-_SLOPE_POINTS:])
    return float(np.polyfit(x, y, 1)[0])


def _against_size(rows: list[Row], ax: Axes) -> None:
    """Draw the times of all contestants of a series."""
    from ..plot.style import PALETTE, finish, label_ticks, series

    lines: dict[str, tuple[list[int], list[float]]] = {}
    for row in sorted(rows, key=lambda row: row.workload.size):
        for who, found in row.race.timings.items():
            sizes, times = lines.setdefault(who, ([], []))
            sizes.append(row.workload.size)
            times.append(found.median)
    ax.set_xscale("log")
    ax.set_yscale("log")
    for who, (sizes, times) in lines.items():
        exponent = slope(sizes, times)
        label = who if exponent is None else f"{who}, slope {exponent:.2f}"
        width = 2.4 if who == OURS else 1.2
        series(ax, sizes, times, label, PALETTE[_COLORS.get(who, _OTHER_WAY)], linewidth=width)
    label_ticks(ax, {row.workload.size for row in rows}, most=6)
    finish(ax, rows[0].workload.axis, "seconds")


def _roofline(report: Report, threads: int, ax: Axes) -> None:
    from ..plot import roofline

    roofline(report.record(), threads=threads, ax=ax)


def _against_threads(threads: list[int], rows: list[Row], ax: Axes) -> None:
    """Draw our time at the largest size of each series of a family."""
    from ..plot.style import finish, series

    ax.set_xscale("log")
    ax.set_yscale("log")
    for name, of_series in _groups(rows, lambda row: row.workload.series).items():
        largest = max(row.workload.size for row in of_series)
        found = [
            (row.threads, row.race.timings[OURS].median)
            for row in sorted(of_series, key=lambda row: row.threads)
            if row.workload.size == largest and OURS in row.race.timings
        ]
        if found:
            series(ax, [n for n, _ in found], [t for _, t in found], name)
    ax.set_xticks(threads, [str(n) for n in threads])
    ax.minorticks_off()
    finish(ax, "threads", "seconds")
