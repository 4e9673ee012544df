"""How good the estimators are at their defaults, beside the usual alternatives, on held-out data."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import train_test_split

from ..metrics import precision_at_k, recall_at_k
from . import quality_peers as peers
from . import quality_tables as tables
from .quality_peers import OURS, RAW
from .study import Criterion, Row, Verdict, groups, listed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..plot.panels import Panel

CLAIM = (
    "With no parameter but random_state, the estimators learn relations that are as good on held-out data as "
    "what people would use instead."
)
SEEDS = 5


class Task(NamedTuple):
    """A task: its tables, those of a quick run, and its measures with 1 where larger is better, else -1."""

    tables: tuple[str, ...]
    quick: tuple[str, ...]
    measures: dict[str, int]


TASKS = {
    "same class": Task(
        tables.LABELS, ("iris", "wine", "breast cancer", "moons"), {"ROC-AUC": 1, "precision@10": 1}
    ),
    "kernel": Task(
        tables.VALUES, ("breast cancer: Gaussian, function", "breast cancer: Laplace, matrix"), {"R²": 1}
    ),
    "matched rows": Task(tables.MATCHED, ("breast cancer", "linear views"), {"recall@1": 1, "recall@10": 1}),
    "users and items": Task(tables.INTERACTIONS, ("genres",), {"recall@10": 1}),
    "choices": Task(tables.CHOICES, ("named logit", "nearest"), {"log-loss": -1, "accuracy": 1}),
}


def pieces(quick: bool) -> list[Row]:
    """Return tasks, tables and seeds."""
    return [
        {"task": name, "table": table, "seed": seed}
        for name, task in TASKS.items()
        for table in (task.quick if quick else task.tables)
        if tables.available(table)
        for seed in range(1 if quick else SEEDS)
    ]


def measure(piece: Row) -> list[Row]:
    """Fit every method to 60 % of a table; return its measures on the rest, and seconds of each."""
    name, table, seed = piece["task"], piece["table"], piece["seed"]
    with warnings.catch_warnings():
        # Peers at their defaults often stop early; what counts here is how good they are then.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", FutureWarning)
        return _MEASURES[name](table, seed)


def _timed(method: str, fit: Callable[[], np.ndarray], judge: Callable[[np.ndarray], Row]) -> Row:
    begin = time.perf_counter()
    scores = fit()
    seconds = time.perf_counter() - begin
    # Six digits, as the CSV has them: the page is then the same if it is made from the CSV.
    numbers = {**judge(scores), "seconds": seconds}
    return {"method": method, **{k: float(f"{v:.6g}") for k, v in numbers.items()}}


def _same_class(table: str, seed: int) -> list[Row]:
    X, y = tables.labels(table)
    X, Z, y, labels = train_test_split(X, y, test_size=0.4, random_state=seed, stratify=y)
    pairs = np.triu_indices(len(labels), 1)
    same = labels[:, None] == labels
    own = np.arange(len(labels))

    def judge(scores: np.ndarray) -> Row:
        close = precision_at_k(same, lambda rows: scores[rows], 10, exclude=own)
        return {"ROC-AUC": roc_auc_score(same[pairs], scores[pairs]), "precision@10": close}

    units = peers.scaled(X, Z)
    return [
        _timed(OURS, partial(peers.same_class, X, y, Z, seed), judge),
        *(
            _timed(name, partial(fit, units[0], y, units[1], seed), judge)
            for name, fit in peers.methods("same class").items()
        ),
    ]


def _kernel(table: str, seed: int) -> list[Row]:
    source, _, rest = table.partition(": ")
    kernel, _, form = rest.partition(", ")
    X, Z = train_test_split(tables.rows(source), test_size=0.4, random_state=seed)
    function = peers.kernel_of(kernel, X.shape[1])
    pairs = np.triu_indices(len(Z), 1)
    values = function(Z, Z)[pairs]

    def judge(features: np.ndarray) -> Row:
        return {"R²": r2_score(values, (features @ features.T)[pairs]), "features": features.shape[1]}

    given = function if form == "function" else function(X, X)
    found = [_timed(OURS, partial(peers.kernel_features, X, given, Z, seed), judge)]
    n = int(found[0]["features"])
    for name, fit in peers.methods("kernel").items():
        found.append(_timed(name, partial(fit, X, kernel, Z, n, seed), judge))
    return found


def _matched_rows(table: str, seed: int) -> list[Row]:
    X, Y = tables.matched(table)
    X, A, Y, B = train_test_split(X, Y, test_size=0.4, random_state=seed)
    own = np.arange(len(A))

    def judge(scores: np.ndarray) -> Row:
        return {f"recall@{k}": recall_at_k(own, lambda rows: scores[rows], k) for k in (1, 10)}

    (X1, A1), (Y1, B1) = peers.scaled(X, A), peers.scaled(Y, B)
    return [
        _timed(OURS, partial(peers.matched_rows, X, Y, A, B, seed), judge),
        *(
            _timed(name, partial(fit, X1, Y1, A1, B1, seed), judge)
            for name, fit in peers.methods("matched rows").items()
        ),
    ]


def _users_and_items(table: str, seed: int) -> list[Row]:
    known = tables.interactions(table)
    hidden = known.copy()
    held_out = np.random.default_rng(seed).random(known.nnz) < 0.4
    known.data[held_out], hidden.data[~held_out] = 0, 0
    known.eliminate_zeros()
    hidden.eliminate_zeros()

    def judge(scores: np.ndarray) -> Row:
        return {"recall@10": recall_at_k(hidden, lambda rows: scores[rows], 10, exclude=known)}

    return [
        _timed(name, partial(fit, known, seed), judge)
        for name, fit in {OURS: peers.users_and_items, **peers.methods("users and items")}.items()
    ]


def _choices(table: str, seed: int) -> list[Row]:
    every = tables.choices(table)
    parts = train_test_split(np.arange(len(every.chosen)), test_size=0.4, random_state=seed)
    train, test = (every._replace(**{f: getattr(every, f)[p] for f in every._fields[:3]}) for p in parts)

    def judge(log_p: np.ndarray) -> Row:
        own = np.arange(len(log_p))
        right = log_p.argmax(axis=1) == test.chosen
        return {"log-loss": -log_p[own, test.chosen].mean(), "accuracy": right.mean()}

    return [
        _timed(name, partial(fit, train, test, seed), judge)
        for name, fit in {OURS: peers.preferences, **peers.methods("choices")}.items()
    ]


_MEASURES: dict[str, Callable[[str, int], list[Row]]] = {
    "same class": _same_class,
    "kernel": _kernel,
    "matched rows": _matched_rows,
    "users and items": _users_and_items,
    "choices": _choices,
}


class Comparison(NamedTuple):
    """One measure on one table: the values of every method, one for each seed, larger being better."""

    task: str
    table: str
    measure: str
    values: dict[str, np.ndarray]

    @property
    def best(self) -> str:
        """The best method other than ours."""
        return max((m for m in self.values if m != OURS), key=lambda m: self.values[m].mean())

    def ahead(self, of: str) -> tuple[float, float]:
        """Return our mean lead over another method, and the standard deviation of that over the seeds."""
        other = self.values[of]
        spread = float(other.std(ddof=1)) if len(other) > 1 else 0.0
        return float((self.values[OURS] - other).mean()), spread

    def place(self) -> int:
        """Return 1 if we are ahead of the best other method, 0 within its standard deviation, else -1."""
        mean, spread = self.ahead(self.best)
        return 0 if abs(mean) <= spread else 1 if mean > 0 else -1

    @property
    def name(self) -> str:
        """Table and measure."""
        return f"{self.table} ({self.measure})"


def comparisons(rows: list[Row], task: str, measure: str) -> list[Comparison]:
    """Return the comparisons of all tables of a task."""
    sign = TASKS[task].measures[measure]
    found = []
    for (table,), some in groups([r for r in rows if r["task"] == task], "table").items():
        values = {m: sign * np.array([r[measure] for r in s]) for (m,), s in groups(some, "method").items()}
        found.append(Comparison(task, table, measure, values))
    return found


def judge(rows: list[Row]) -> Verdict:
    """Compare our defaults with the raw baselines and with the best of the other methods."""
    by = {(t, m): comparisons(rows, t, m) for t, task in TASKS.items() for m in task.measures}
    every = [c for some in by.values() for c in some]
    criteria = [
        _criterion(
            "No default is below a raw baseline of its task by more than the baseline's standard deviation.",
            every,
            lambda c: all(sum(c.ahead(raw)) >= 0 for raw in RAW[c.task]),
        )
    ]
    same = by["same class", "ROC-AUC"], by["same class", "precision@10"]
    for some in same:
        criteria.append(
            _criterion(
                f"Same class: {some[0].measure} is at least that of the best other method, or within its "
                "standard deviation.",
                some,
                lambda c: c.place() >= 0,
            )
        )
    first = [c.table for c in same[0] if c.ahead(c.best)[0] > 0]
    criteria.append(
        Criterion(
            "Same class: ROC-AUC is above that of the best other method on at least half of the tables.",
            f"{len(first)} of {len(same[0])}",
            2 * len(first) >= len(same[0]),
        )
    )
    criteria += [
        _criterion(
            "Kernels: R² is at most 0.02 below that of Nyström with as many features.",
            by["kernel", "R²"],
            lambda c: c.ahead("Nyström")[0] >= -0.02,
        ),
        _criterion(
            "Matched rows: recall@10 is at least that of the best of CCA, PLS and ridge.",
            by["matched rows", "recall@10"],
            lambda c: c.ahead(c.best)[0] >= 0,
        ),
        _criterion(
            "Users and items: recall@10 is at least that of the best other method.",
            by["users and items", "recall@10"],
            lambda c: c.ahead(c.best)[0] >= 0,
        ),
        _criterion(
            "Choices: log-loss is at most 1.02 times that of the best other method.",
            by["choices", "log-loss"],
            lambda c: c.values[OURS].mean() >= 1.02 * c.values[c.best].mean(),
        ),
    ]
    places = []
    for (task, name), some in by.items():
        found = [c.place() for c in some]
        counts = ", ".join(str(found.count(place)) for place in (1, 0, -1))
        places.append(f"{task} ({name}) {counts}")
    seeds = max(r["seed"] for r in rows) + 1
    return Verdict(
        f"60 % of each table to fit, 40 % held out, {seeds} random splits. Tables on which our defaults are "
        "ahead of the best other method, within its standard deviation, and behind: "
        f"{'; '.join(places)}.",
        criteria,
    )


def _criterion(condition: str, some: list[Comparison], holds: Callable[[Comparison], bool]) -> Criterion:
    failed = [c for c in some if not holds(c)]
    names = [c.name if len({d.measure for d in some}) > 1 else c.table for c in failed]
    count = f"{len(some) - len(failed)} of {len(some)}"
    return Criterion(condition, count + (f"; not: {listed(names)}" if failed else ""), not failed)


def page(rows: list[Row]) -> str:
    """Return the tables of all measures and of the seconds, in Markdown, and where we are behind."""
    parts = [
        "Our estimators have no parameter but `random_state` and take the columns in the units in which they "
        "come; the other methods take standardised columns. Mean ± standard deviation over the splits; the "
        "best mean of each row in bold. Seconds are those to fit and to score the held-out part, on average "
        "over the tables."
    ]
    for name, task in TASKS.items():
        parts.append(f"## {name.capitalize()}")
        for measure, sign in task.measures.items():
            found = comparisons(rows, name, measure)
            smaller = "" if sign > 0 else " (smaller is better)"
            parts.append(f"{measure}{smaller}:\n\n{_markdown(found, sign)}")
            behind = [c for c in found if c.place() < 0]
            parts.append(_behind(measure, behind, sign))
        parts.append(_seconds([r for r in rows if r["task"] == name]))
    return "\n\n".join(parts) + "\n"


def _markdown(found: list[Comparison], sign: int) -> str:
    names = list(dict.fromkeys(m for c in found for m in c.values))
    lines = [f"| | {' | '.join(names)} |", f"| --- |{' ---: |' * len(names)}"]
    for c in found:
        best = f"{sign * max(v.mean() for v in c.values.values()):.3f}"
        cells = []
        for values in (c.values.get(name) for name in names):
            if values is None:
                cells.append("")
                continue
            spread = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
            mean = f"{sign * values.mean():.3f}"
            cells.append((f"**{mean}**" if mean == best else mean) + spread)
        lines.append(f"| {c.table} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _behind(measure: str, behind: list[Comparison], sign: int) -> str:
    if not behind:
        return f"By {measure}, we are behind on no table."
    lines = [
        f"{c.table} ({sign * c.values[OURS].mean():.3f}; {c.best} {sign * c.values[c.best].mean():.3f})"
        for c in behind
    ]
    return f"By {measure}, we are behind the best other method on {len(lines)}: {'; '.join(lines)}."


def _seconds(rows: list[Row]) -> str:
    means = [(m, np.mean([r["seconds"] for r in s])) for (m,), s in groups(rows, "method").items()]
    shown = [f"{name} {mean:.2f}" for name, mean in means if mean >= 0.01]
    return f"Seconds: {', '.join(shown)}; all others less than 0.01."


def panels(rows: list[Row]) -> list[Panel]:
    """Return a panel for each task: its first measure on each table, for every method."""
    from ..plot.panels import Panel
    from ..plot.style import PALETTE, finish

    def draw(task: str, measure: str) -> Callable[[Axes], Any]:
        found, sign = comparisons(rows, task, measure), TASKS[task].measures[measure]

        def on(ax: Axes) -> None:
            styles = {"raw": ("x", PALETTE[4]), "others": ("o", PALETTE[5]), OURS: ("D", PALETTE[1])}
            for label, (marker, color) in styles.items():
                points = [
                    (sign * values.mean(), -i)
                    for i, c in enumerate(found)
                    for m, values in c.values.items()
                    if (OURS if m == OURS else "raw" if m in RAW[task] else "others") == label
                ]
                # A fit that failed has an R² far below 0, and would hide all other differences.
                x, y = np.array(points).T
                ax.plot(
                    np.maximum(x, -0.1), y, marker, color=color, label=label, markersize=5, linestyle="none"
                )
            ax.set_yticks([-i for i in range(len(found))], [c.table for c in found])
            ax.set_ylim(0.5 - len(found), 0.5)
            lowest = min(sign * v.mean() for c in found for v in c.values.values())
            finish(ax, f"{measure} (below -0.1 drawn at -0.1)" if lowest < -0.1 else measure, "")

        return on

    return [
        Panel(
            task.capitalize(), draw(task, measure), (4.6, 1.3 + 0.2 * len(comparisons(rows, task, measure)))
        )
        for task, measure in ((t, next(iter(TASKS[t].measures))) for t in TASKS)
    ]
