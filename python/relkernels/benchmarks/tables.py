"""Rows of a report as text: the cells that the terminal and the Markdown file show."""

from __future__ import annotations

from . import ceilings
from .report import Report, Row
from .workload import OURS

HEADERS = ("workload", "threads", "relkernels", "rate", "of ceiling", "best peer", "ratio", "target",
           "other peers", "peak memory: ours, best peer")  # fmt: skip


def seconds(t: float) -> str:
    """Return a time in the unit that keeps it between 1 and 1,000."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if t * factor >= 1:
            return f"{t * factor:.3g} {unit}" if t * factor < 1000 else f"{t * factor:,.0f} {unit}"
    return f"{t * 1e9:.3g} ns"


def size(n: float | None) -> str:
    """Return bytes in the unit that keeps them below 1,024."""
    if n is None:
        return "?"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024 or unit == "GiB":
            break
        n /= 1024
    return f"{n:.3g} {unit}" if n < 1000 else f"{n:.0f} {unit}"


def cells(row: Row, quartiles: bool) -> tuple[str, ...]:
    """Return one cell a header; with the quartiles of our times if wanted."""
    ours, peer, rate = row.race.timings.get(OURS), row.best_peer, row.rate(OURS)
    time = "absent"
    if ours is not None:
        time = seconds(ours.median)
        if quartiles:
            time += f" ({seconds(ours.lower_quartile)} – {seconds(ours.upper_quartile)})"
    elif OURS in row.race.unequal:
        time = "unequal"
    unit = ceilings.NAMES[row.workload.limit][1]
    ratio, share = row.ratio(peer), row.share()
    others = {who: r for who in row.race.timings if who not in (OURS, peer) and (r := row.ratio(who))}
    memory = ""
    if row.memory:
        memory = ", ".join(size(row.memory[who]) for who in (OURS, peer) if who in row.memory)
    return (
        row.workload.label(),
        str(row.threads),
        time,
        f"{rate / 1e9:,.3g} {unit}" if rate else "",
        f"{share:.0%}" if share else "",
        f"{peer} {seconds(row.race.timings[peer].median)}" if peer else "",
        f"{ratio:.2f}" if ratio else "",
        "; ".join(_verdict(row, i) for i in range(len(row.verdicts()))),
        ", ".join(f"{who} {r:.3g}" for who, r in others.items()),
        memory,
    )


def _verdict(row: Row, i: int) -> str:
    v = row.verdicts()[i]
    outcome = "met" if v.met else "missed"
    if v.of in ceilings.NAMES:
        return f"≥ {v.wanted:.0%} of ceiling: {outcome}"
    of = "" if v.of == "best" else f" {v.of}"
    return f"≥ {v.wanted:g}{of}: {outcome}"


def ceiling_cells(report: Report) -> list[tuple[str, ...]]:
    """Return a row for each ceiling: its name, and its rate on each number of threads."""
    return [
        (
            what,
            *(
                f"{rate / 1e9:,.3g} {unit}"
                if (rate := found[name])
                else "not measured: this processor lacks it"
                for found in report.ceilings.values()
            ),
        )
        for name, (what, unit) in ceilings.NAMES.items()
    ]


def absences(report: Report) -> list[str]:
    """Return who did not take part, and why, each once: libraries first, then single workloads."""
    lines = [f"{peer}: {why}" for peer, why in report.missing.items()]
    found: dict[tuple[str, str], list[str]] = {}
    for row in report.rows:
        for who, why in row.race.absent.items():
            if who not in report.missing:
                found.setdefault((who, why), []).append(row.workload.name)
    lines += [f"{who}: {why} ({', '.join(dict.fromkeys(names))})" for (who, why), names in found.items()]
    return lines


def advice(report: Report) -> list[str]:
    """Return what makes this run's figures doubtful."""
    machine, lines = report.machine, []
    load, processors = machine["load"], machine["processors"] or 1
    if load is not None and load > 0.5 * processors:
        lines.append(
            f"the machine was not quiet: a load of {load:.1f} on {processors} processors at the start"
        )
    for name, value in machine["settings"].items():
        lines.append(f"{name}={value} is set, which may change what a contestant can do")
    if machine["amx"]:
        lines.append("this processor has AMX, whose ceiling is not measured: bfloat16 may exceed bf16_dot")
    return lines
