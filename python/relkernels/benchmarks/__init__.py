"""Benchmarks: every operation compared with alternative libraries and with the ceilings of the machine.

Each module of `families` has a list of `Workload`. Those of the CPU are run by `relkernels bench` and
bench/bench_families.py, those of a GPU by bench/gpu.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..base.describe import near, option
from .workload import Workload

FAMILIES = (
    "feature_map",
    "relation_matrix",
    "attention",
    "retrieve",
    "retrieve_above",
    "relation_matvec",
    "relational",
    "gradients",
    "nngp_kernel",
)


def workloads(names: Sequence[str] = (), quick: bool = False, device: str = "cpu") -> list[Workload]:
    """Return the workloads of a device, by family, series and size.

    Parameters
    ----------
    names : sequence of str
        Keep those whose name (family/series/size) equals or starts with one of these, compared part by part;
        all if empty.
    quick : bool
        Keep only those small enough for checking results.
    device : {"cpu", "cuda"}

    Raises
    ------
    ValueError
        If a name matches no workload.
    """
    import importlib

    every: list[Workload] = []
    for family in FAMILIES:
        found = importlib.import_module(f".families.{family}", __name__).WORKLOADS
        every += [w for w in found if w.device == device]
    for name in names:
        if not any(_fits(w, name) for w in every):
            series = dict.fromkeys(f"{w.family}/{w.series}" for w in every)
            guess = near(name, [*FAMILIES, *series, *(w.name for w in every)])
            raise ValueError(
                f"name: expected a family, series or workload of {', '.join(series)}, "
                f"got {option(name)}{guess}"
            )
    return [
        w for w in every if (not quick or w.quick) and (not names or any(_fits(w, name) for name in names))
    ]


def _fits(workload: Workload, name: str) -> bool:
    return f"{workload.name}/".startswith(f"{name.rstrip('/')}/")
