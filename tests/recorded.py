"""Small recorded results of the commands, so that pages and pictures are tested without the work."""

import numpy as np
from relkernels.benchmarks import ceilings, workloads
from relkernels.benchmarks.report import Report, Row
from relkernels.benchmarks.timing import Race, Timing
from relkernels.benchmarks.workload import OURS
from relkernels.demos.part import Part
from relkernels.studies.study import Criterion, Outcome

MACHINE = {
    "version": "0.1.0", "python": "3.11.7", "cpu": "A <processor> & more", "isa": "avx2",
    "cpu_features": ["avx2", "fma"],
    "amx": False, "compiler": "GNU 12.2.0", "system": "Linux x86_64", "processors": 2, "memory": 8 << 30,
    "last_level_cache": 32 << 20, "load": 0.1, "virtual": False, "settings": {},
}  # fmt: skip


def bench_report():
    """Three families, five workloads, one and two threads; a peer that is absent, one that is slower."""
    report = Report(
        "relkernels bench --html page.html", quick=False, date="2026-11-25 10:00 UTC", machine=MACHINE
    )
    report.missing, report.versions, report.complete = {"keops": "not installed"}, {"numpy": "2.4.6"}, True
    for n in (1, 2):
        report.ceilings[n] = dict.fromkeys(ceilings.NAMES["cpu"], n * 1e11) | {"bf16_dot": None}
    chosen = workloads(["retrieve/queries_1"])[:2] + workloads(["attention/full"])[:2]
    chosen += workloads(["relation_matvec/exp"])[:1]
    for i, workload in enumerate(chosen):
        for n in (1, 2):
            seconds = 3e-5 * 20**i / n
            timings = {
                who: Timing(factor * seconds, 0.9 * factor * seconds, 1.1 * factor * seconds, 9)
                for who, factor in ((OURS, 1.0), ("numpy", 3.5 - i / 2), ("torch", 2.0))
            }
            race = Race(
                timings,
                differences=dict.fromkeys(timings, 1e-7),
                absent={"keops": "not installed"},
            )
            race.memory = {OURS: 1 << 20, "torch": 3 << 20} if n == 2 else {}
            report.rows.append(Row(workload, n, race, report.ceilings[n], n == 2))
    return report


KERNEL = [
    {"width": 32, "sup_error": 0.239, "rel_error": 0.051, "seconds": 4.09},
    {"width": 128, "sup_error": 0.1186, "rel_error": 0.0273, "seconds": 15.81},
    {"width": 512, "sup_error": 0.1289, "rel_error": 0.0126, "seconds": 5.36},
]
SYMMETRIC = {
    "auc": 0.9989, "precision_at_10": 0.9853, "baseline_precision_at_10": 0.6983, "seconds": 1.99,
}  # fmt: skip


def demo_parts():
    """Return the parts "symmetric" and "kernel" of the demo, with pictures of the real kinds."""
    from relkernels.demos import digits, kernel
    from relkernels.plot import relation_matrix

    rng = np.random.default_rng(0)
    image = rng.random(64, np.float32)
    labels = np.arange(80) % 4
    near = np.cos(labels[:, None] - labels) + 0.1 * rng.standard_normal((80, 80))
    return {
        "symmetric": Part(
            SYMMETRIC,
            {
                "relation.png": lambda: (
                    relation_matrix(near, labels=labels, title="Relation <of> digits").figure
                ),
                "retrieved.png": lambda: digits.draw_rows([[(image, "query"), (image, "1.0")]] * 2, "Found"),
            },
        ),
        "kernel": Part(KERNEL, {"error.png": lambda: kernel._draw(KERNEL)}),
    }


def outcome(stands=True):
    """Return an outcome of the study of zonal networks: 12 rows, not all of the same columns."""
    rows = [
        {
            "power": r, "dimension": q, "neurons": n, "error": 0.5 / n / (1 + r),
            "bound": float("inf") if n == 16 else 9 / n, "cited_exponent": 0.75,
            **({"note": "<b>bold</b>"} if q == 3 else {}),
        }
        for q in (2, 3)
        for r in (0.5, 1.0)
        for n in (16, 64, 256)
    ]  # fmt: skip
    claim = 'Errors < N^(-s/q) & "more".'
    criteria = [
        Criterion(
            "The error is at most the bound.",
            "0.2 of the bound" if stands else "1.2 of the bound",
            stands,
            proven=True,
        ),
        Criterion("The exponent is at least 0.75.", "0.8" if stands else "0.7", stands),
    ]
    return Outcome("zonal", claim, "At most 0.2 of the bound.", criteria, rows, [], 0)


def pages():
    """Return a page of each command, from the results above."""
    from argparse import Namespace

    from relkernels.cli import bench, demo, reproduce

    return {
        "bench": bench._page(bench_report()),
        "demo": demo._page(
            demo_parts(),
            32.8,
            Namespace(
                parts=["symmetric", "kernel"],
                plot=None,
                html="x.html",
                **dict.fromkeys(("rows", "keys", "dim", "queries", "k")),
            ),
        ),
        "reproduce": reproduce._page(
            [outcome(), outcome(stands=False)],
            [7.0, 1.5],
            Namespace(names=["zonal"], quick=True, out="a b", html="x.html"),
        ),
    }
