"""Pictures: relations, errors beside their bounds, attention, spectra, and what a machine reaches.

Each function takes arrays or what the rest of the package returns (fitted relations, `bounds.Bound`,
`bounds.Report`, spectra, the record of `relkernels bench`), draws on the axes it is given or on new ones, and
returns the axes. Nothing is shown or saved::

    ax = relkernels.plot.spectrum(values, decay="auto")
    ax.figure.savefig("spectrum.svg")

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; series differ by their markers
as well, and bounds are dashed. Axes that hold nothing yet are given these colours as their cycle; axes that
hold something go on with their own.
"""

from __future__ import annotations

try:
    import matplotlib as _matplotlib  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "matplotlib":
        raise
    from ..base.extras import install

    raise ImportError(f"relkernels.plot needs matplotlib: {install('matplotlib')}") from None

from ._attention import attention_against_beta
from ._relation import relation_matrix
from ._roofline import roofline
from ._spectrum import spectrum
from ._width import error_against_width

__all__ = [
    "attention_against_beta",
    "error_against_width",
    "relation_matrix",
    "roofline",
    "spectrum",
]
