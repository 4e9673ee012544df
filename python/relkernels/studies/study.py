"""The common part of the studies of `relkernels reproduce`: saved pieces, tables, plots and a paragraph.

A study is a module with `CLAIM`, `pieces(quick)` (parameters of independent measurements), `measure(piece)`
(rows of numbers), `judge(rows)` (a `Verdict`) and `panels(rows)` (the parts of its picture). If it has
`page(rows)`, that is the text of a page of tables. Each finished piece is saved immediately, so that an
interrupted run resumes where it stopped.
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import importlib.util
import json
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from .._core import __version__

NAMES = (
    "symmetric",
    "asymmetric",
    "crossdomain",
    "bounds",
    "attention",
    "random-features",
    "zonal",
    "functional",
    "quality",
)

Row = dict[str, Any]


class Criterion(NamedTuple):
    """A condition from the theory, with its threshold, and the measurement."""

    condition: str
    measured: str
    agrees: bool
    # Proven for every instance: if it fails, the program or the proof is wrong.
    proven: bool = False


class Verdict(NamedTuple):
    """A summary of the measurement in a sentence or two, and the criteria for the claim."""

    measurement: str
    criteria: list[Criterion]


class Outcome(NamedTuple):
    """A finished study."""

    name: str
    claim: str
    measurement: str
    criteria: list[Criterion]
    rows: list[Row]
    files: list[str]
    reused: int

    @property
    def stands(self) -> bool:
        """Whether every criterion agrees."""
        return all(criterion.agrees for criterion in self.criteria)

    @property
    def contradicted(self) -> bool:
        """Whether a criterion fails that is proven for every instance."""
        return any(criterion.proven and not criterion.agrees for criterion in self.criteria)

    def verdict(self) -> str:
        """Return a short verdict."""
        failed, count = sum(not c.agrees for c in self.criteria), len(self.criteria)
        if self.contradicted:
            return "contradicts a proven bound"
        if failed:
            return f"disagrees on {failed} of {count} criteria"
        return f"agrees on all {count} criteria" if count > 1 else "agrees"

    def judgements(self) -> list[str]:
        """Return one line per criterion: agrees or disagrees, the condition, the measurement."""
        return [
            f"{'agrees' if c.agrees else 'disagrees'}: {c.condition} Measured: {c.measured}."
            for c in self.criteria
        ]

    def paragraph(self) -> str:
        """Return claim, measurement, criteria and verdict."""
        lines = "".join(f"- {line}\n" for line in self.judgements())
        return (
            f"Claim. {self.claim}\nMeasurement. {self.measurement}\n"
            "Criteria. If the theory states a bound or a rate, it is the threshold, without tolerance.\n"
            f"\n{lines}\nVerdict. The measurement {self.verdict()}.\n"
        )


def study(name: str) -> Any:
    """Return the module of a study."""
    return importlib.import_module(f".{name.replace('-', '_')}", __package__)


def run(
    name: str, directory: str, quick: bool, advance: Callable[[str], None], total: Callable[[int], None]
) -> Outcome:
    """Run a study and write ``name.csv``, ``name.txt``, its pictures and its page, if any, to a directory.

    `total` is called with the number of pieces, `advance` with a description of each finished piece.
    """
    module = study(name)
    os.makedirs(directory, exist_ok=True)
    kept = os.path.join(directory, "pieces")
    os.makedirs(kept, exist_ok=True)
    pieces = module.pieces(quick)
    total(len(pieces))
    rows: list[Row] = []
    reused = 0
    for piece in pieces:
        path = os.path.join(kept, _key(name, piece) + ".json")
        found = _read(path)
        if found is None:
            # Matrices are small: a second BLAS thread would wait longer than it works.
            with threadpool_limits(limits=1, user_api="blas"):
                found = [{**piece, **row} for row in module.measure(piece)]
            _write(path, json.dumps([{k: _plain(v) for k, v in row.items()} for row in found]))
            found = _read(path) or []
        else:
            reused += 1
        rows += found
        advance(", ".join(f"{k} {v}" for k, v in piece.items() if not isinstance(v, (list, tuple))))
    verdict = module.judge(rows)
    files = [_write_csv(os.path.join(directory, f"{name}.csv"), rows)]
    if importlib.util.find_spec("matplotlib") is not None:
        files += _save_picture(name, module.panels(rows), directory)
    outcome = Outcome(name, module.CLAIM, verdict.measurement, verdict.criteria, rows, files, reused)
    text = os.path.join(directory, f"{name}.txt")
    _write(text, outcome.paragraph())
    if hasattr(module, "page"):
        files.append(os.path.join(directory, f"{name}.md"))
        _write(files[-1], _page(outcome, directory, module.page(rows)))
    return outcome._replace(files=[*files, text])


def _key(name: str, piece: Row) -> str:
    text = json.dumps([__version__, name, piece], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _read(path: str) -> list[Row] | None:
    """Return the rows of a finished piece, or None if the file is missing or damaged."""
    try:
        with open(path) as file:
            rows = json.load(file)
    except (FileNotFoundError, ValueError):
        return None
    return rows if isinstance(rows, list) and all(isinstance(r, dict) for r in rows) else None


def _write(path: str, text: str) -> None:
    """Write a file atomically."""
    with open(path + ".part", "w") as file:
        file.write(text)
    os.replace(path + ".part", path)


def _write_csv(path: str, rows: list[Row]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with open(path + ".part", "w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    os.replace(path + ".part", path)
    return path


def _save_picture(name: str, panels: Any, directory: str) -> list[str]:
    from ..plot.panels import save

    return [save(panels, directory, name)] if panels else []


def _page(outcome: Outcome, directory: str, tables: str) -> str:
    """Return the page of a study: the paragraph, the picture and the tables."""
    name = outcome.name
    parts = [f"# {name.capitalize()}\n", _markdown(outcome.paragraph())]
    if os.path.exists(os.path.join(directory, f"{name}.svg")):
        parts.append(f"![{name}]({name}.svg)\n")
    return "\n".join([*parts, tables])


def _markdown(paragraph: str) -> str:
    """Return the paragraph of a study as Markdown, with bold leading words."""
    text = paragraph.replace("<", "&lt;").replace("*", "\\*")
    for word in ("Claim.", "Measurement.", "Criteria.", "Verdict."):
        text = text.replace(f"{word} ", f"\n**{word}** ", 1)
    return text


def write_index(directory: str, command: str) -> str:
    """Write README.md: the paragraphs and pictures of all studies in a directory."""
    parts = [f"# Theory and measurement\n\nWritten by `{command}`.\n"]
    for name in NAMES:
        folder = os.path.join(directory, name)
        try:
            with open(os.path.join(folder, f"{name}.txt")) as file:
                text = _markdown(file.read())
        except FileNotFoundError:
            continue
        found = [f for f in (f"{name}.csv", f"{name}.md") if os.path.exists(os.path.join(folder, f))]
        links = ", ".join(f"[{f}]({name}/{f})" for f in found)
        parts.append(f"## {name}\n{text}\nFigures: {links}\n")
        if os.path.exists(os.path.join(folder, f"{name}.svg")):
            parts.append(f"![{name}]({name}/{name}.svg)\n")
    path = os.path.join(directory, "README.md")
    _write(path, "\n".join(parts))
    return path


def listed(items: list[str], most: int = 8) -> str:
    """Return a list of items as text; of a long one only the first items and the number of others."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def slope(x: Any, y: Any) -> float:
    """Return the exponent p of y ~ x^p by least squares on logarithms."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    good = (x > 0) & (y > 0) & np.isfinite(y)
    if good.sum() < 2:
        return math.nan
    return float(np.polyfit(np.log(x[good]), np.log(y[good]), 1)[0])


def groups(rows: list[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """Return the rows grouped by the values of some columns, in order of appearance."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[k] for k in keys), []).append(row)
    return found
