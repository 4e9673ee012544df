"""The subject of a benchmark: a workload, its contestants, and the targets of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

OURS = "relkernels"
# The target of a share of the ceiling, among those of ratios to peers.
CEILING = "ceiling"
# Tolerance of ||a - b|| / ||b|| for float32 arrays: each contestant rounds in its own order.
FLOAT32 = 1e-5
# Tolerance for two results that were each rounded to bfloat16 at some point: 8 bits of mantissa.
BF16 = 2e-2


class AbsentError(Exception):
    """A contestant cannot take part in a workload; the message gives the reason."""


def as_arrays(result: Any) -> list[np.ndarray]:
    """Return the arrays of a result: NumPy arrays, PyTorch tensors, numbers, or sequences of these."""
    if isinstance(result, (tuple, list)):
        return [a for part in result for a in as_arrays(part)]
    if hasattr(result, "detach"):  # a tensor; NumPy has no bfloat16
        return [result.detach().float().numpy()]
    return [np.asarray(result)]


@dataclass(frozen=True)
class Entry:
    """A contestant that is ready to start: `call` is timed, `arrays` makes its result comparable."""

    call: Callable[[], Any]
    arrays: Callable[[Any], Sequence[np.ndarray]] = as_arrays


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A computation of one size.

    Attributes
    ----------
    family, series, size
        An operation, a variant of it, and the number along which the variant is swept.
    title
        Title for readers; `{size}` is replaced by the size.
    axis
        Meaning of the size.
    flops
        Operations in the definition, with multiplications and additions counted separately.
    read, written
        Bytes of the inputs and of the result, each counted once.
    limit
        The relevant ceiling: a name in `ceilings.NAMES`.
    device
        "cpu" or "cuda": where it runs.
    data
        Creates the contestants' input, on the device.
    contestants
        Functions that prepare a contestant for the data, by name. May raise AbsentError.
    targets
        Minimum ratio of a peer's time to ours, by peer; "best" is the fastest of them. `CEILING` has the
        minimum share of the ceiling. Judged with the most threads.
    isa_targets
        Targets on single instruction sets, in place of `targets`. Judged with one thread and with the most.
    quick
        Small enough for a run that only checks results.
    """

    family: str
    series: str
    size: int
    title: str
    flops: float
    read: float
    written: float
    limit: str
    data: Callable[[], Any]
    contestants: Mapping[str, Callable[[Any], Entry]]
    tolerance: float = FLOAT32
    targets: Mapping[str, float] = field(default_factory=dict)
    isa_targets: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    quick: bool = False
    axis: str = "n"
    device: str = "cpu"

    @property
    def name(self) -> str:
        """family/series/size."""
        return f"{self.family}/{self.series}/{self.size}"

    @property
    def work(self) -> float:
        """Operations, or bytes read if memory is the limit."""
        return self.read if self.limit == "read" else self.flops

    def floor(self, rates: Mapping[str, float | None]) -> float | None:
        """Return the least seconds: for the bytes or for the operations, whichever take longer.

        `rates` has those of "copy" and of the limit; None if one is missing, as on the CPU, where no single
        rate bounds the bytes.
        """
        copy, computed = rates.get("copy"), rates.get(self.limit)
        return max((self.read + self.written) / copy, self.flops / computed) if copy and computed else None

    def label(self) -> str:
        """Title with the size filled in."""
        return self.title.format(size=f"{self.size:,}")


def points(n: int, d: int = 64, seed: int = 0) -> np.ndarray:
    """Return n rows of d normal float32 values."""
    return np.random.default_rng([seed, n, d]).standard_normal((n, d), dtype=np.float32)
