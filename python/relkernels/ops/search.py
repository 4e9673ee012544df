"""The checked arguments of a search, for `retrieve` and `retrieve_above`, and the run of its kernel."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays.engine import PROCESSOR, engine_of
from ..arrays.stored import STORED_PROCESSOR, widened
from ..base import check
from ..base.describe import described
from ..maps.mlp import MLP, check_mlp
from .allowed import Allowed
from .excluded import Excluded, excluded
from .key_store import Stored
from .keys import Keys
from .scoring import Scoring
from .sides import Attended
from .sparse import mapped_points, mapped_sides


class Search(Attended):
    """The checked arguments of a search among the rows of `keys`; parameters as of `retrieve`.

    Attributes
    ----------
    stored : Stored or None
        The rows of `Keys` at this moment, which are searched in place of `k`.
    excluded : Excluded or None
        With the leading dimensions `lead`, and the numbers of rows of `k` or of `stored`.
    """

    __slots__ = ("excluded", "stored")

    def __init__(
        self,
        q: Any,
        keys: Any,
        phi: MLP | None,
        psi: MLP | None,
        allowed: Allowed,
        exclude: Any,
        precision: str | None,
    ) -> None:
        self.stored: Stored | None = None
        if isinstance(keys, Keys):
            for name in ("q_offsets", "k_offsets"):
                if getattr(allowed, name) is not None:
                    got = described(getattr(allowed, name))
                    raise TypeError(f"{name}: expected None with Keys, got {got}")
            self.stored = keys._stored  # the rows of this moment
            q, keys = _features_and_rows(q, self.stored, phi, psi, precision)
            phi = psi = None
        else:
            q, keys, phi, psi = mapped_sides(q, keys, phi, psi, precision, ("q", "keys"), 1)
        super().__init__(
            q, keys, None, phi, psi, 1.0, Scoring(allowed), precision, keys_name="keys", least_ndim=1
        )
        if self.ragged and not isinstance(self.engine, type(PROCESSOR)):
            raise TypeError(
                f"q_offsets: expected None for arrays on a device, got {described(allowed.q_offsets)}"
            )
        if exclude is not None and self.ragged:
            raise TypeError(f"exclude: expected None with q_offsets, got {described(exclude)}")
        self.excluded = None if exclude is None else self._excluded(exclude)

    def _excluded(self, exclude: Any) -> Excluded | None:
        if not isinstance(self.engine, type(PROCESSOR)):
            raise TypeError("exclude: expected None for arrays on a device, use mask")
        n, stored = None if self.single else self.n, self.stored
        lists = excluded(exclude, n, self.m if stored is None else stored.next_id, ids=stored is not None)
        if lists is None:
            return None
        if stored is not None:
            lists = stored.rows_of(lists, ids=lists is not exclude)
        lead = lists.ranges.shape[:-2]
        both = zip(reversed(lead), reversed(self.lead), strict=False)
        if len(lead) > len(self.lead) or any(size not in (1, whole) for size, whole in both):
            check.fail("exclude", f"leading dimensions that broadcast to {self.lead}", lead)
        return lists.spread(self.lead, self.n)

    def run(self, name: str, *arguments: Any) -> Any:
        """Run the kernel of a search on its two sides and the arguments that follow the mask."""
        keys, maps, mask = self.k, self.maps(self.precision), self.mask
        rest: tuple[Any, ...] = ()
        if self.stored is not None:
            stored, mask = self.stored, self.stored.allowed(self)
            keys, rest = stored.features[: stored.rows], stored.codes_for(self.precision)
            if not rest:
                keys = np.broadcast_to(keys, (*self.lead, *keys.shape))
        if self.excluded is not None:
            rest = (*(rest or (None, None)), tuple(self.excluded))
        if self.ragged:
            rest = (None, None, None, *self.ragged)
        engine = self.engine if self.stored is None else PROCESSOR
        return engine.run(name, self.q, keys, *maps, self.precision, mask, *arguments, *rest)


def _features_and_rows(
    q: Any, stored: Stored, phi: MLP | None, psi: MLP | None, precision: str | None
) -> tuple[Any, Any]:
    """Return the features of queries for `Keys`, and an array of the shape and dtype of the keys."""
    if psi is not None:
        raise TypeError(f"psi: expected None with Keys, which are features already, got {described(psi)}")
    if engine_of(q) is STORED_PROCESSOR:
        q = widened(q)
    if engine_of(q) is not PROCESSOR:
        raise TypeError("keys: expected an array on the device of q, got Keys, which are in main memory")
    check_mlp("phi", phi)
    features = mapped_points("q", q, "phi", phi, precision, 1)
    wanted = stored.arithmetic
    if features.dtype != wanted:
        cast = f"q.astype(np.{wanted})" if phi is None else None
        check.different_dtype("q", "keys", str(wanted), str(features.dtype), cast)
    rows = np.broadcast_to(np.zeros((), wanted), (stored.size, stored.width))
    check.same_width("q", q, features.shape[-1], "keys", rows, stored.width)
    return features, rows
