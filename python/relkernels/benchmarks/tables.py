"""Rows of a report as text: the cells of the tables in the terminal and in the Markdown file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import ceilings
from .processor import HELD_TO_AVX2
from .report import Report, Row, threads_label
from .workload import CEILING, OURS

# Times compared with peers, then rates compared with the machine: a page has a table of each, because a
# single table would be wider than a screen.
TIMES = ("workload", "threads", "relkernels", "best peer", "ratio", "target", "other peers")
RATES = ("rate", "of ceiling", "peak memory: ours, best peer")
HEADERS = TIMES + RATES
# On a GPU there are no threads to choose, and each workload has a floor.
GPU_TIMES = tuple(header for header in TIMES if header != "threads")
GPU_RATES = ("floor", "over floor", *RATES)

# Columns of a quick run, which measures no times.
COMPARED = ("workload", "threads", "compared", "largest difference", "allowed", "result")

QUICK_METHOD = """\
All contestants get the same data and are checked for equal results: ||a - b|| / ||b|| from ours. This run
measures no times; a run without --quick does."""

METHOD = """\
All contestants get the same data, are checked for equal results, and are timed alternately in one process;
times are medians with quartiles, ratios a peer's median over ours (above 1 we are faster). Rates count the
operations of the definition, or the bytes it reads if memory is the limit: that ceiling holds beyond the
last-level cache, while within it a share can exceed 100 %. Targets of an instruction set are judged with one
thread and with the most, others with the most. Peak memory is the memory that one call, including its result,
adds to a fresh process that holds the data."""

GPU_METHOD = """\
All contestants get the same data, are checked for equal results, and are timed alternately in one process by
CUDA events, after the L2 cache was overwritten; times are medians with quartiles, ratios a peer's median over
ours. The floor is the larger of bytes over the copy rate and operations over the rate of their arithmetic, as
measured here. Peak memory is what one call, including its result, adds to PyTorch's allocator."""


def seconds(t: float) -> str:
    """Return a time in the unit that keeps it between 1 and 1,000."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if t * factor >= 1:
            return f"{t * factor:.3g} {unit}" if t * factor < 1000 else f"{t * factor:,.0f} {unit}"
    return f"{t * 1e9:.3g} ns"


def minutes(t: float) -> str:
    """Return a duration in minutes, or in seconds below two minutes."""
    return f"{t / 60:.0f} minutes" if t >= 120 else f"{t:.0f} s"


def size(n: float | None) -> str:
    """Return bytes in the unit that keeps them below 1,024."""
    if n is None:
        return "?"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024 or unit == "GiB":
            break
        n /= 1024
    return f"{n:.3g} {unit}" if n < 1000 else f"{n:.0f} {unit}"


def cells(row: Row, quartiles: bool, headers: Sequence[str] = HEADERS) -> tuple[str, ...]:
    """Return one cell per header, optionally with the quartiles of our times."""
    ours, peer, rate, floor = row.race.timings.get(OURS), row.best_peer, row.rate(OURS), row.floor
    time = "absent"
    if ours is not None:
        time = seconds(ours.median)
        if quartiles:
            time += f" ({seconds(ours.lower_quartile)} – {seconds(ours.upper_quartile)})"
    elif OURS in row.race.unequal:
        time = "unequal"
    unit = ceilings.NAMES[row.workload.device][row.workload.limit][1]
    ratio, share = row.ratio(peer), row.share()
    others = {who: r for who in row.race.timings if who not in (OURS, peer) and (r := row.ratio(who))}
    memory = row.race.memory
    found = {
        "workload": row.workload.label(),
        "threads": str(row.threads),
        "relkernels": time,
        "best peer": f"{peer} {seconds(row.race.timings[peer].median)}" if peer else "",
        "ratio": f"{ratio:.2f}" if ratio else "",
        "target": "; ".join(_verdict(row, i) for i in range(len(row.verdicts()))),
        "other peers": ", ".join(f"{who} {r:.3g}" for who, r in others.items()),
        "floor": seconds(floor) if floor else "",
        "over floor": f"{ours.median / floor:.2f}" if ours and floor else "",
        "rate": f"{rate / 1e9:,.3g} {unit}" if rate else "",
        "of ceiling": f"{share:.0%}" if share else "",
        "peak memory: ours, best peer": ", ".join(size(memory[who]) for who in (OURS, peer) if who in memory),
    }
    return tuple(found[header] for header in headers)


def compared_cells(row: Row) -> tuple[str, ...]:
    """Return one cell per header of COMPARED."""
    race = row.race
    others = {who: apart for who, apart in race.differences.items() if who != next(iter(race.differences))}
    return (
        row.workload.label(),
        str(row.threads),
        ", ".join(others) or "none",
        f"{max(others.values()):.1e}" if others else "",
        f"{row.workload.tolerance:.0e}",
        f"unequal: {', '.join(race.unequal)}" if race.unequal else "equal" if others else "not compared",
    )


def compared(report: Report) -> str:
    """Return the result of a quick run in a sentence."""
    results = sum(max(len(row.race.differences) - 1, 0) for row in report.rows)
    found = f"{len(report.unequal)} unequal" if report.unequal else "all equal"
    return f"{results} results compared with ours: {found}. No times were measured (--quick)."


def keys(row: Row) -> tuple[float | str | None, ...]:
    """Return the sort keys of `cells`, one per header; None if a cell is empty or has no number."""
    ours, peer = row.race.timings.get(OURS), row.best_peer
    verdicts = row.verdicts()
    others = [r for who in row.race.timings if who not in (OURS, peer) and (r := row.ratio(who))]
    return (
        f"{row.workload.series} {row.workload.size:012}",
        float(row.threads),
        ours.median if ours else None,
        row.race.timings[peer].median if peer else None,
        row.ratio(peer),
        "; ".join(_verdict(row, i) for i in range(len(verdicts))) or None,
        max(others, default=None),
        row.rate(OURS),
        row.share(),
        row.race.memory.get(OURS),
    )


def _verdict(row: Row, i: int) -> str:
    v = row.verdicts()[i]
    outcome = "met" if v.met else "missed"
    if v.of == CEILING:
        return f"≥ {v.wanted:.0%} of ceiling: {outcome}"
    of = "" if v.of == "best" else f" {v.of}"
    return f"≥ {v.wanted:g}{of}: {outcome}"


def ceiling_headers(report: Report) -> list[str]:
    """Return the headers of `ceiling_cells`."""
    return ["ceiling", *(map(threads_label, report.ceilings) if report.device == "cpu" else ["rate"])]


def ceiling_cells(report: Report) -> list[tuple[str, ...]]:
    """Return a row for each ceiling: its name, and its rate with each number of threads."""
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
        for name, (what, unit) in ceilings.NAMES[report.device].items()
    ]


def absences(report: Report) -> list[str]:
    """Return the absent contestants with reasons, each once: libraries first, then single workloads."""
    lines = [f"{peer}: {why}" for peer, why in report.missing.items()]
    found: dict[tuple[str, str], list[str]] = {}
    for row in report.rows:
        for who, why in row.race.absent.items():
            if who not in report.missing:
                found.setdefault((who, why), []).append(row.workload.name)
    lines += [f"{who}: {why} ({', '.join(dict.fromkeys(names))})" for (who, why), names in found.items()]
    return lines


def advice(report: Report) -> list[str]:
    """Return reasons to doubt the figures of this run."""
    if report.device != "cpu":
        return []
    machine, lines = report.machine, []
    held = _held_to_avx2(machine["settings"])
    load, processors = machine["load"], machine["processors"] or 1
    # A run that is held to AVX2 may start right after one that kept all processors busy.
    if load is not None and load > 0.5 * processors and not held:
        lines.append(f"the machine was busy: a load of {load:.1f} on {processors} processors at the start")
    for name, value in machine["settings"].items():
        if not (held and name in HELD_TO_AVX2):
            lines.append(f"{name}={value} is set, which may change a contestant's speed")
    if machine["amx"]:
        lines.append("this processor has AMX, whose ceiling is not measured: bfloat16 may exceed bf16_dot")
    return lines


def _held_to_avx2(settings: Mapping[str, str]) -> bool:
    return settings.items() >= HELD_TO_AVX2.items()


def facts(report: Report) -> list[tuple[str, str]]:
    """Return machine and versions."""
    machine = report.machine
    if report.device == "cuda":
        return _gpu_facts(report)
    virtual = (
        ", in a virtual machine: its speed may change with the load of others" if machine["virtual"] else ""
    )
    held = []
    if _held_to_avx2(machine["settings"]):
        names = ", ".join(f"{name}={value}" for name, value in HELD_TO_AVX2.items())
        held = [("all held to AVX2", f"by {names}; except KeOps")]
    return [
        ("processor", f"{machine['cpu']}, {machine['processors']} processors{virtual}"),
        ("instruction set", f"{machine['isa']} (the processor has {', '.join(machine['cpu_features'])})"),
        *held,
        (
            "memory",
            f"{size(machine['memory'])}, last-level cache {size(machine['last_level_cache'])}",
        ),
        ("system", f"{machine['system']}, Python {machine['python']}, {machine['compiler']}"),
        ("relkernels", machine["version"]),
        *report.versions.items(),
        *(
            (f"BLAS {blas['library']}", f"{blas['version']}, kernels {blas['architecture']}")
            for blas in report.blas
        ),
    ]


def _gpu_facts(report: Report) -> list[tuple[str, str]]:
    machine = report.machine
    counts = f"{machine['multiprocessors']} multiprocessors"
    return [
        ("GPU", f"{machine['gpu']}, {counts}, compute capability {machine['compute_capability']}"),
        ("memory", size(machine["memory"])),
        ("system", f"{machine['system']}, Python {machine['python']}"),
        ("relkernels", machine["version"]),
        ("CUDA kernels", machine["cuda"]),
        ("tests", _outcome(machine["tests"])),
        *report.versions.items(),
    ]


def _outcome(tests: dict[str, Any] | None) -> str:
    if tests is None:
        return "not run"
    return f"{tests['run']} run, {len(tests['failed'])} failed, {tests['skipped']} skipped"


def notes(report: Report) -> list[tuple[str, list[str]]]:
    """Return caveats about the figures, by heading; lists may be empty."""
    return [
        ("Caveats", advice(report)),
        ("Absent", absences(report)),
        ("Unequal, not timed", report.unequal),
    ]
