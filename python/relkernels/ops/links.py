"""Links, the functions applied to the entries of a relation, and the vectors that a relation multiplies."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

from .. import _core
from ..base import check
from ..base.describe import option
from .sides import Sides

LINKS = _core.LINKS
# Functions of scale * |phi(x) - psi(y)|^2; the others are functions of scale * <phi(x), psi(y)>.
LINKS_OF_DISTANCE = _core.LINKS_OF_DISTANCE

# An array of NumPy or of Dask.
A = TypeVar("A", bound=Any)


class Linked(NamedTuple):
    """A link with its scale and its precision, checked.

    Attributes
    ----------
    link : str
    scale : float
        At least 0 if the link is of distances.
    precision
        As the engine names it.
    """

    link: str
    scale: float
    precision: Any

    @classmethod
    def of(cls, sides: Sides, link: Any, scale: Any, precision: Any = None) -> Linked:
        """Return the checked arguments."""
        link = check.choice("link", link, LINKS)
        factor = check.scale(scale, sides.dtype)
        if link in LINKS_OF_DISTANCE:
            if factor < 0:
                check.fail("scale", f"a number >= 0 with link {link!r}", repr(scale))
            # The precision of bfloat16 arrays may be implied, not the caller's.
            if precision is not None and getattr(sides.x, "element", None) != "bfloat16":
                given = option(precision)
                check.fail("precision", f"None with link {link!r}, of distances in the arrays' dtype", given)
            precision = None
        return cls(link, factor, sides.engine.precision(precision, sides.dtype))


def as_columns(v: A, y: A) -> tuple[A, bool]:
    """Return v as (..., m, c) for the m rows of `y`, and whether it was vectors (..., m).

    An array of fewer dimensions than `y` is vectors; it is returned with as many.
    """
    m, single = y.shape[-2], v.ndim < y.ndim
    if v.ndim == 0 or (v.shape[-1] if single else v.shape[-2]) != m:
        expected = f"shape (..., {m}), or (..., {m}, c) with as many dimensions as y of shape {y.shape}"
        check.fail("v", expected, v.shape)
    return (v[(None,) * (y.ndim - 1 - v.ndim)][..., None] if single else v), single
