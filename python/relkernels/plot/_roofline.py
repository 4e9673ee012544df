"""The roofline: rates and the limits of arithmetic and memory (Williams, Waterman, Patterson 2009)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ..base import check
from ..base.describe import described
from ..bounds.bound import positive
from ._data import numbers
from .style import INK, MARKERS, check_words, drawing, finish, series

_OURS = "relkernels"
# The ceilings of a `relkernels bench` record that are arithmetic peaks, and their names in the plot.
_PEAKS = {"fma_float32": "multiply-adds, float32", "bf16_dot": "products of bfloat16"}
_ROOF_STYLES = ("-", "--", "-.", ":")


def roofline(
    intensity: Any,
    rate: Any = None,
    *,
    peaks: Mapping[str, float] | None = None,
    bandwidth: float | None = None,
    groups: Any = None,
    threads: int | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot rates against operations per byte, below the roofs of a machine.

    Parameters
    ----------
    intensity : array-like of shape (k,), or record of a benchmark
        Operations per byte of input and result of each workload. Or the output of
        ``relkernels bench --json bench.json``, as the path of the file or as the dictionary in it: it
        contains the rates and the measured ceilings.
    rate : array-like of shape (k,), optional
        Operations per second.
    peaks : mapping of str to float, optional
        Arithmetic peaks in operations per second, by name: the flat roofs.
    bandwidth : float, optional
        Memory bandwidth in bytes per second: the slanted roof. Points above it had their data in a cache.
    groups : array-like of shape (k,), optional
        Group of each workload; each group has one colour and marker.
    threads : int, optional
        With a record, the number of threads; by default the largest.
    title : str, optional
    ax : matplotlib.axes.Axes, optional
        New axes by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or a record lacks the plotted values.
    OSError
        If a file cannot be read.

    Examples
    --------
    >>> from relkernels import plot
    >>> ax = plot.roofline(
    ...     [0.5, 8.0, 100.0], [2e10, 1.5e11, 2.1e11], peaks={"float32": 2.4e11}, bandwidth=5e10
    ... )
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('operations per byte', 'GFLOP/s')
    """
    check_words(title=title)
    if isinstance(intensity, (str, os.PathLike)):
        intensity = _read(intensity)
    if isinstance(intensity, Mapping):
        if not (rate is peaks is bandwidth is groups is None):
            check.fail("rate", "nothing besides a record, which holds all that is drawn", "more")
        x, y, groups, peaks, bandwidth = _of_record(intensity, threads)
    else:
        if threads is not None:
            check.fail("threads", "None without a record", threads)
        x = numbers("intensity", intensity, positive=True)
        y = numbers("rate", rate, len(x), positive=True)
    with check.naming("groups"):
        kinds = np.full(len(x), "") if groups is None else np.asarray(check.sequence("groups", groups))
    if peaks is not None and not isinstance(peaks, Mapping):
        raise TypeError(f"peaks: expected a mapping of names to rates, got {described(peaks)}")
    if kinds.shape != x.shape:
        check.fail("groups", f"one for each of {len(x)} intensities", f"shape {kinds.shape}")
    slant = None if bandwidth is None else positive("bandwidth", bandwidth)
    with drawing(ax) as ax:
        ax.set_xscale("log")
        ax.set_yscale("log")
        span = np.geomspace(x.min() / 2, x.max() * 2, 200) if len(x) else np.geomspace(0.1, 1e3, 200)
        for (name, peak), style in zip((peaks or {}).items(), 4 * _ROOF_STYLES, strict=False):
            flat = np.full_like(span, positive(f"peaks[{name!r}]", peak))
            roof = flat if slant is None else np.minimum(flat, span * slant)
            ax.plot(span, roof / 1e9, color=INK, linestyle=style, linewidth=1.1, label=name)
        if slant is not None and not peaks:
            ax.plot(span, span * slant / 1e9, color=INK, linewidth=1.1, label="memory")
        for i, kind in enumerate(dict.fromkeys(kinds.tolist())):
            some, marker = kinds == kind, MARKERS[i % len(MARKERS)]
            series(ax, x[some], y[some] / 1e9, str(kind) or None, linestyle="none", marker=marker, alpha=0.85)
        finish(ax, "operations per byte", "GFLOP/s", title)
    return ax


def _read(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Read the record from a file."""
    with open(path, encoding="utf-8") as file:
        try:
            record = json.load(file)
        except ValueError as error:  # of JSON, or of UTF-8
            problem = f"expected a file of `relkernels bench --json`, got {os.fspath(path)!r}: {error}"
            raise ValueError(f"intensity: {problem}") from None
    if not isinstance(record, Mapping):
        check.fail(
            "intensity", "a file of `relkernels bench --json`", f"{os.fspath(path)!r}, a list or a value"
        )
    return record


def _of_record(record: Mapping[str, Any], threads: int | None) -> tuple[Any, ...]:
    """Return intensities, rates, families, peaks and bandwidth from a record for one number of threads."""
    if record.get("quick"):
        check.fail(
            "intensity", "the record of a full benchmark", "one of `relkernels bench --quick`, without times"
        )
    try:
        ceilings = {int(n): found for n, found in record["ceilings"].items()}
        most = max(ceilings, default=0) if threads is None else check.integer("threads", threads, 1)
        if most not in ceilings:
            check.fail("threads", f"one of {', '.join(map(str, ceilings)) or 'none'}", most)
        rows = [row for row in record["rows"] if row["threads"] == most and _OURS in row["contestants"]]
        read, written = (np.array([row[f"bytes_{w}"] for row in rows], float) for w in ("read", "written"))
        flops = np.array([row["flops"] for row in rows], float)
        seconds = np.array([row["contestants"][_OURS]["median"] for row in rows], float)
        limits = ceilings[most]
        peaks = {name: limits[key] for key, name in _PEAKS.items() if limits.get(key)}
        families = [row["family"] for row in rows]
    except (KeyError, AttributeError, TypeError) as error:
        raise ValueError(
            f"intensity: expected numbers or the record of `relkernels bench --json`, got one without {error}"
        ) from None
    return flops / (read + written), flops / seconds, families, peaks, limits.get("read")
