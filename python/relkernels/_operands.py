"""What the operations share: maps, batches, the arguments of attention, and where results are written."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import _check
from ._engine import engine_of
from .mlp import MLP

# Arrays beside their names, as messages have them.
Named = tuple[tuple[str, np.ndarray | None], ...]


def spread(a: np.ndarray, lead: tuple[int, ...], core: int) -> np.ndarray:
    """Return `a` with the leading dimensions `lead`: a view with strides of 0."""
    shape = lead + a.shape[a.ndim - core :]
    return a if a.shape == shape else np.broadcast_to(a, shape)


class Attended:
    """The checked arguments that attention and its relatives share; `has_values` requires `v`."""

    def __init__(
        self,
        q: Any,
        k: Any,
        v: Any,
        phi: MLP | None,
        psi: MLP | None,
        scale: float | None,
        mask: Any,
        causal: bool,
        precision: str | None,
        keys_name: str = "k",
        least_ndim: int = 2,
        has_values: bool = False,
    ) -> None:
        q, k = _check.features("q", q, least_ndim), _check.features(keys_name, k)
        named = [("q", q), (keys_name, k)]
        if v is not None or has_values:
            v = _check.floats("v", v)
            if v.shape[-2] != k.shape[-2]:
                _check.fail("v", f"{k.shape[-2]} rows, one for each row of {keys_name} {k.shape}", v.shape)
            named.append(("v", v))
        self.phi, self.psi = _check.mlp("phi", phi), _check.mlp("psi", psi)
        _check.same_dtype(*named, ("phi", self.phi), ("psi", self.psi))
        psi_name = "phi" if self.psi is None else "psi"
        self.psi = self.phi if self.psi is None else self.psi
        width = _check.mapped_width("q", q, "phi", self.phi)
        width_k = _check.mapped_width(keys_name, k, psi_name, self.psi)
        _check.same_width("q", q, width, keys_name, k, width_k)
        self.width, self.dtype = width, q.dtype
        self.engine = engine_of(q)
        self.precision = self.engine.precision(precision, q.dtype)
        self.scale = _check.scale(scale, q.dtype, 1 / math.sqrt(width))
        # A single query, shape (d_q,): one row here, which the result does not have.
        self.single = q.ndim == 1
        rows = q[None] if self.single else q
        self.n, self.m = rows.shape[-2], k.shape[-2]
        mask = _check.mask(mask, None if self.single else self.n, self.m)
        self.causal = _check.flag("causal", causal)
        # Least and greatest j - i of the pairs that may attend; None: no limit.
        self.band = (None, 0 if self.causal else None)
        self._named, self._mask = named, mask
        batched = [(name, a, min(a.ndim, 2)) for name, a in named]
        if mask is not None:
            batched.append(("mask", mask, 2))
        self.lead = _check.batch_shape(*batched)
        self.q, self.k = spread(rows, self.lead, 2), spread(k, self.lead, 2)
        self.v = None if v is None else spread(v, self.lead, 2)
        self.mask = None if mask is None else np.broadcast_to(mask, (*self.lead, self.n, self.m))

    @property
    def given(self) -> list[np.ndarray]:
        """Return q, k and v before their batches are spread."""
        return [a for _, a in self._named]

    @property
    def inputs(self) -> Named:
        """Return the arrays and what they are called."""
        return (*self._named, ("mask", self._mask))

    @property
    def maps(self) -> tuple[Any, Any]:
        """Return the packed weights of both maps."""
        return self.engine.packed(self.phi, self.precision), self.engine.packed(self.psi, self.precision)


def target(out: np.ndarray, packed: bool = False) -> np.ndarray:
    """Return what the kernels are to write for a checked `out`: itself, or a fresh array where it lies ill.

    They write rows of unit stride, in any places; `packed` is for those that write one row after the other.
    """
    return out if _lies_well(out, packed) else engine_of(out).empty_like(out)


def filled(out: Any, *targets: np.ndarray) -> Any:
    """Return `out`, an array or a tuple of them, with what was written to its targets."""
    for to, written in zip(out if isinstance(out, tuple) else (out,), targets, strict=True):
        if to is not written:
            engine_of(to).copy(to, written)
    return out


def _lies_well(out: np.ndarray, packed: bool) -> bool:
    flags = out.flags
    if not flags.aligned or out.size == 0:
        return out.size == 0
    return flags.c_contiguous if packed else out.shape[-1] == 1 or out.strides[-1] == out.itemsize
