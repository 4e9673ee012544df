"""Pictures of a report: time against size, time against threads, and the roofline."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from .report import Report, Row
from .workload import OURS

_DPI = 72
_COLUMNS = 3
_COLORS = {OURS: "C3", "numpy": "C0", "torch": "C1", "faiss": "C2", "keops": "C4", "sklearn": "C5"}
# Sizes that a slope is fitted to: the largest, where the time is that of the work.
_SLOPE_POINTS = 3


def save(report: Report, directory: str) -> dict[str, str]:
    """Save the pictures that the rows allow; return their paths by caption.

    Raises
    ------
    OSError
        If the directory or a picture cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    os.makedirs(directory, exist_ok=True)
    paths = {}
    for family, rows in _groups(report.rows, lambda row: row.workload.family).items():
        paths[family] = _time_against_size(family, [row for row in rows if row.most_threads], directory)
    if report.rows:
        paths["roofline"] = _roofline(report, directory)
    if len(report.ceilings) > 1:
        paths["threads"] = _time_against_threads(report, directory)
    return {caption: path for caption, path in paths.items() if path}


def _groups(rows: Iterable[Row], key: Any) -> dict[Any, list[Row]]:
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def slope(sizes: list[int], times: list[float]) -> float | None:
    """Return the exponent of time in size over the largest sizes; None of one size alone."""
    if len(sizes) < 2:
        return None
    x, y = np.log(sizes[-_SLOPE_POINTS:]), np.log(times[-_SLOPE_POINTS:])
    return float(np.polyfit(x, y, 1)[0])


def _grid(n: int, title: str) -> tuple[Any, list[Any]]:
    import matplotlib.pyplot as plt

    columns = min(n, _COLUMNS)
    lines = -(-n // columns)
    fig, axes = plt.subplots(
        lines, columns, figsize=(4.2 * columns, 3.4 * lines), layout="constrained", squeeze=False
    )
    fig.suptitle(title)
    for ax in axes.flat[n:]:
        ax.set_axis_off()
    return fig, list(axes.flat[:n])


def _finish(fig: Any, directory: str, name: str) -> str:
    import matplotlib.pyplot as plt

    path = os.path.join(directory, f"{name}.png")
    fig.savefig(path, dpi=_DPI, pil_kwargs={"optimize": True})
    plt.close(fig)
    return path


def _time_against_size(family: str, rows: list[Row], directory: str) -> str | None:
    series = _groups(rows, lambda row: row.workload.series)
    if not series:
        return None
    fig, axes = _grid(len(series), f"{family}: time against size, {rows[0].threads} threads")
    for ax, (name, of_series) in zip(axes, series.items(), strict=True):
        lines: dict[str, tuple[list[int], list[float]]] = {}
        for row in sorted(of_series, key=lambda row: row.workload.size):
            for who, found in row.race.timings.items():
                sizes, times = lines.setdefault(who, ([], []))
                sizes.append(row.workload.size)
                times.append(found.median)
        for who, (sizes, times) in lines.items():
            exponent = slope(sizes, times)
            label = who if exponent is None else f"{who}, slope {exponent:.2f}"
            width = 2.2 if who == OURS else 1.2
            ax.loglog(sizes, times, "o-", color=_COLORS[who], linewidth=width, markersize=3, label=label)
        ax.set_title(name, fontsize=10)
        ax.set_xlabel(of_series[0].workload.axis)
        ax.set_ylabel("seconds")
        ax.grid(alpha=0.3)
        if lines:
            ax.legend(fontsize=8)
    return _finish(fig, directory, f"time_{family}")


def _roofline(report: Report, directory: str) -> str:
    """Draw the rate of every row on the most threads against its operations a byte, below the ceilings."""
    threads = max(report.ceilings)
    limits = report.ceilings[threads]
    fig, (ax,) = _grid(1, f"Roofline, {threads} threads")
    fig.set_size_inches(8, 5.5)
    rows = [row for row in report.rows if row.most_threads and row.rate(OURS)]
    intensity = [row.workload.flops / (row.workload.read + row.workload.written) for row in rows]
    x = np.geomspace(min(intensity, default=0.1) / 2, max(intensity, default=1e3) * 2, 100)
    for name, style in (("fma_float32", "-"), ("bf16_dot", "--")):
        if (peak := limits[name]) and (read := limits["read"]):
            ax.loglog(x, np.minimum(peak, x * read) / 1e9, f"k{style}", linewidth=1, label=name)
    markers = dict(zip(dict.fromkeys(row.workload.family for row in rows), "os^Dv*", strict=False))
    for family, marker in markers.items():
        at = [i for i, row in enumerate(rows) if row.workload.family == family]
        rates = [rows[i].workload.flops / rows[i].race.timings[OURS].median / 1e9 for i in at]
        ax.loglog([intensity[i] for i in at], rates, marker, markersize=5, alpha=0.8, label=family)
    ax.set_xlabel("operations a byte of input and result")
    ax.set_ylabel("GFLOP/s")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    return _finish(fig, directory, "roofline")


def _time_against_threads(report: Report, directory: str) -> str:
    """Draw our time at the largest size of each series over that on the fewest threads."""
    families = _groups(report.rows, lambda row: row.workload.family)
    fig, axes = _grid(len(families), "Time against threads, largest size of each series")
    for ax, (family, rows) in zip(axes, families.items(), strict=True):
        for series, of_series in _groups(rows, lambda row: row.workload.series).items():
            largest = max(row.workload.size for row in of_series)
            found = [
                (row.threads, row.race.timings[OURS].median)
                for row in sorted(of_series, key=lambda row: row.threads)
                if row.workload.size == largest and OURS in row.race.timings
            ]
            if found:
                ax.loglog(*zip(*found, strict=True), "o-", markersize=3, label=series)
        ax.set_title(family, fontsize=10)
        ax.set_xticks(list(report.ceilings), [str(n) for n in report.ceilings])
        ax.minorticks_off()
        ax.set_xlabel("threads")
        ax.set_ylabel("seconds")
        ax.grid(alpha=0.3)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=8)
    return _finish(fig, directory, "threads")
