"""The progress bar of a fit: iterations, loss, throughput."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def _rate(pairs: float, seconds: float) -> str:
    """Return pairs per second with three digits: 12.3 M pairs/s."""
    rate = pairs / max(seconds, 1e-9)
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if rate >= size:
            return f"{rate / size:.3g} {unit} pairs/s"
    return f"{rate:.3g} pairs/s"


@contextmanager
def progress_bar(verbose: bool, total: int) -> Iterator[Callable[[float, int], None]]:
    """Yield a function to call with the loss and the number of pairs of each iteration."""
    if not verbose:
        yield lambda loss, pairs: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("fitting"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("{task.fields[rate]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("fitting", total=total, loss="-", rate="")
        begin = time.perf_counter()

        def advance(loss: float, pairs: int) -> None:
            nonlocal begin
            now = time.perf_counter()
            bar.update(task, advance=1, loss=f"{loss:.6g}", rate=_rate(pairs, now - begin))
            begin = now

        yield advance
