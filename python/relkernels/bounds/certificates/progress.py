"""The progress of a certificate: its bound and the largest error found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(verbose: bool) -> Iterator[Callable[[float, float, int], None]]:
    """Yield a function to call with the bound, the largest error found and the number of pairs bounded."""
    if not verbose:
        yield lambda upper, found, n_pairs: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("certifying: error at most {task.fields[upper]:.4g}, found {task.fields[found]:.4g}"),
        TextColumn("{task.completed:,.0f} pairs"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("certifying", total=None, upper=float("inf"), found=0.0)
        yield lambda upper, found, n_pairs: bar.update(task, completed=n_pairs, upper=upper, found=found)
