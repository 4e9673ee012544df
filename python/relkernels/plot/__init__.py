"""Plots: relations, errors and their bounds, attention, spectra, and the roofline of a machine.

Each function takes arrays or results of the rest of the package (fitted relations, `bounds.Bound`,
`bounds.Report`, spectra, the record of `relkernels bench`), draws on the given axes or on new ones, and
returns the axes. Nothing is shown or saved::

    ax = relkernels.plot.spectrum(values, decay="auto")
    ax.figure.savefig("spectrum.svg")

Colours are those of Okabe and Ito, which colour-blind readers can distinguish; series also differ by their
markers, and bounds are dashed. Empty axes get these colours as their cycle; axes with content keep their own.
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
