"""The tables that `relkernels demo` prints, and shows on its page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from . import output
from .page import Table, rich_table


def show(figures: dict[str, Any], seconds: float) -> None:
    """Print a table for each part, and the time in all."""
    console = output.console()
    for part, told in figures.items():
        for table in tables(part, told):
            console.print(rich_table(table))
    console.print(f"{seconds:.1f} seconds in all")


def tables(part: str, told: Any) -> list[Table]:
    """Return the tables of the figures of a part."""
    known: dict[str, Callable[[Any], list[Table]]] = {
        "symmetric": _symmetric,
        "crossdomain": _crossdomain,
        "preference": _preference,
        "kernel": _kernel,
        "retrieval": _retrieval,
    }
    return known[part](told)


def _table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    return Table(title, columns, rows)


def _symmetric(told: dict[str, Any]) -> list[Table]:
    rows = [
        ("ROC-AUC of the relation", f"{told['auc']:.4f}"),
        ("precision@10, learned relation", f"{told['precision_at_10']:.4f}"),
        ("precision@10, raw pixels", f"{told['baseline_precision_at_10']:.4f}"),
        ("seconds to fit", f"{told['seconds']:.2f}"),
    ]
    return [_table("Same digit? Learned relation, 360 held-out images", ("measure", "value"), rows)]


def _crossdomain(told: dict[str, Any]) -> list[Table]:
    ways = {"learned relation": told, **told["baselines"]}
    rows = [(name, f"{way['recall_at_1']:.3f}", f"{way['recall_at_10']:.3f}") for name, way in ways.items()]
    rows.append(("chance", f"{told['chance_recall_at_1']:.3f}", f"{told['chance_recall_at_10']:.3f}"))
    rows.append(("seconds to fit", f"{told['seconds']:.2f}", ""))
    title = "Which bottom half belongs to a top half? 360 held-out images"
    return [_table(title, ("ranked by", "recall@1", "recall@10"), rows)]


def _preference(told: dict[str, Any]) -> list[Table]:
    digit = told["largest_digit"]
    rows = [
        ("largest digit, selected", f"{digit['accuracy']:.4f}"),
        ("smallest digit, selected", f"{digit['accuracy_smallest']:.4f}"),
        ("largest digit, chance", f"{digit['chance']:.4f}"),
        ("preferences that go in a circle", str(digit["transitivity_violations"])),
        ("slope of utility in the query", f"{digit['slope_in_query']:.3g} <= {digit['slope_bound']:.3g}"),
        ("seconds to fit", f"{digit['seconds']:.2f}"),
    ]
    by_attention = [
        (
            f"{row['beta']:.3g}",
            f"{row['accuracy']:.3f}",
            f"{row['guaranteed_accuracy']:.3f}",
            f"{row['error']:.3f}",
            f"{row['error_bound']:.3f}",
        )
        for row in digit["attention"]
    ]
    columns = (
        "inverse temperature",
        "accuracy",
        "at least, by the bound",
        "error in digits",
        "error's bound",
    )
    tables = [
        _table("Largest digit of sets of 8 held-out images", ("measure", "value"), rows),
        _table("The same by attention", columns, by_attention),
    ]
    modes = told["modechoice"]
    columns = ("210 travellers, 5 folds", "accuracy", "log-loss", "conditional logit", "log-loss")
    choices = [
        (
            name.replace("_", " "),
            f"{row['accuracy']:.3f}",
            f"{row['log_loss']:.3f}",
            f"{row['baseline_accuracy']:.3f}",
            f"{row['baseline_log_loss']:.3f}",
        )
        for name, row in (modes or {}).items()
    ]
    if choices:
        tables.append(_table("Air, train, bus or car?", columns, choices))
    return tables


def _kernel(told: list[dict[str, Any]]) -> list[Table]:
    rows = [
        (
            str(row["width"]),
            f"{row['sup_error']:.4f}",
            f"{row['rel_error']:.4f}",
            f"{row['seconds']:.2f}",
        )
        for row in told
    ]
    columns = ("hidden width", "largest error", "relative error", "seconds")
    return [_table("Gaussian kernel by <phi(x), phi(y)>, held-out pairs", columns, rows)]


def _retrieval(told: dict[str, Any]) -> list[Any]:
    rows = [
        ("keys", f"{told['rows']:,} of {told['dim']} features, {told['dtype']}"),
        ("queries, and keys found for each", f"{told['queries']:,}, {told['k']:,}"),
        ("seconds", f"{told['seconds']:.2f}"),
        ("keys a second", f"{told['rows_per_second'] / 1e6:.3g} M"),
        ("bytes a second", f"{told['bytes_per_second'] / 1e9:.3g} GB"),
        ("file", f"{told['bytes'] / 2**20:,.0f} MiB"),
        ("most memory of the process", f"{told['peak_bytes'] / 2**20:,.0f} MiB"),
        (
            "largest error, of the queries checked",
            f"{told['largest_error']:.2g} of {told['error_bound']:.2g}",
        ),
        ("queries checked directly", f"{told['checked_queries']}"),
    ]
    return [_table("Exact retrieval over keys on disk", ("measure", "value"), rows)]
