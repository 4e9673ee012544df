"""The tables that `relkernels demo` prints and shows on its page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from . import output
from .page import Table, rich_table


def show(figures: dict[str, Any], seconds: float) -> None:
    """Print the tables of each part, and the total time."""
    console = output.console()
    for part, results in figures.items():
        for table in tables(part, results):
            console.print(rich_table(table))
    console.print(f"{seconds:.1f} seconds in total")


def tables(part: str, results: Any) -> list[Table]:
    """Return the tables of the figures of a part."""
    known: dict[str, Callable[[Any], list[Table]]] = {
        "symmetric": _symmetric,
        "crossdomain": _crossdomain,
        "preference": _preference,
        "kernel": _kernel,
        "relational": _relational,
        "retrieval": _retrieval,
    }
    return known[part](results)


def _table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    return Table(title, columns, rows)


def _symmetric(results: dict[str, Any]) -> list[Table]:
    rows = [
        ("ROC-AUC of the relation", f"{results['auc']:.4f}"),
        ("precision@10, learned relation", f"{results['precision_at_10']:.4f}"),
        ("precision@10, raw pixels", f"{results['baseline_precision_at_10']:.4f}"),
        ("seconds to fit", f"{results['seconds']:.2f}"),
    ]
    return [_table("Same digit? Learned relation, 360 held-out images", ("measure", "value"), rows)]


def _crossdomain(results: dict[str, Any]) -> list[Table]:
    ways = {"learned relation": results, **results["baselines"]}
    rows = [(name, f"{way['recall_at_1']:.3f}", f"{way['recall_at_10']:.3f}") for name, way in ways.items()]
    rows.append(("chance", f"{results['chance_recall_at_1']:.3f}", f"{results['chance_recall_at_10']:.3f}"))
    rows.append(("seconds to fit", f"{results['seconds']:.2f}", ""))
    title = "Which bottom half belongs to a top half? 360 held-out images"
    return [_table(title, ("ranked by", "recall@1", "recall@10"), rows)]


def _preference(results: dict[str, Any]) -> list[Table]:
    digit = results["largest_digit"]
    rows = [
        ("largest digit, selected", f"{digit['accuracy']:.4f}"),
        ("smallest digit, selected", f"{digit['accuracy_smallest']:.4f}"),
        ("largest digit, chance", f"{digit['chance']:.4f}"),
        ("cyclic preferences", str(digit["transitivity_violations"])),
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
        "guaranteed accuracy",
        "error in digits",
        "bound on error",
    )
    tables = [
        _table("Largest digit of sets of 8 held-out images", ("measure", "value"), rows),
        _table("Largest digit, selected by attention", columns, by_attention),
    ]
    modes = results["modechoice"]
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


def _kernel(results: list[dict[str, Any]]) -> list[Table]:
    rows = [
        (
            str(row["width"]),
            f"{row['sup_error']:.4f}",
            f"{row['rel_error']:.4f}",
            f"{row['seconds']:.2f}",
        )
        for row in results
    ]
    columns = ("hidden width", "largest error", "relative error", "seconds")
    return [_table("Gaussian kernel by <phi(x), phi(y)>, held-out pairs", columns, rows)]


def _relational(results: dict[str, Any]) -> list[Table]:
    names, steps = tuple(results["parameters"]), results["measured_steps"]
    found = {(row["network"], row["examples"]): row for row in results["results"]}
    counts = list(dict.fromkeys(count for _, count in found))
    chance = [f"{results['chance']:.3f}"] * len(names)

    def over_seeds(values: Sequence[float]) -> str:
        return f"{sum(values) / len(values):.3f} ({min(values):.3f} to {max(values):.3f})"

    by_examples = [
        (f"{count:,}", *(over_seeds(found[name, count]["accuracies"]) for name in names)) for count in counts
    ]
    by_steps = [
        (
            str(step),
            *(over_seeds([curve[i] for curve in found[name, counts[-1]]["curves"]]) for name in names),
        )
        for i, step in enumerate(steps)
    ]
    facts = [
        ("parameters", *(f"{results['parameters'][name]:,}" for name in names)),
        ("learning rate", *(f"{results['learning_rates'][name]:g}" for name in names)),
        ("seconds, both networks", f"{results['seconds']:.1f}", ""),
    ]
    seeds = len(results["results"][0]["accuracies"])
    title = f"Match to sample: accuracy on held-out symbols, {steps[-1]} steps; mean (range) of {seeds} runs"
    return [
        _table(title, ("training examples", *names), [*by_examples, ("chance", *chance)]),
        _table(
            f"Match to sample: the same by training step, {counts[-1]:,} examples", ("step", *names), by_steps
        ),
        _table("Match to sample: the networks", ("", *names), facts),
    ]


def _retrieval(results: dict[str, Any]) -> list[Any]:
    rows = [
        ("keys", f"{results['rows']:,} of {results['dim']} features, {results['dtype']}"),
        ("queries, keys found per query", f"{results['queries']:,}, {results['k']:,}"),
        ("seconds", f"{results['seconds']:.2f}"),
        ("keys per second", f"{results['rows_per_second'] / 1e6:.3g} M"),
        ("bytes per second", f"{results['bytes_per_second'] / 1e9:.3g} GB"),
        ("file", f"{results['bytes'] / 2**20:,.0f} MiB"),
        ("peak memory of the process", f"{results['peak_bytes'] / 2**20:,.0f} MiB"),
        (
            "largest error of the checked queries",
            f"{results['largest_error']:.2g} (allowed {results['error_bound']:.2g})",
        ),
        ("queries checked directly", f"{results['checked_queries']}"),
    ]
    return [_table("Exact retrieval over keys on disk", ("measure", "value"), rows)]
