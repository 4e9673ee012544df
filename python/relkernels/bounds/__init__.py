"""Evaluated theoretical bounds: the width, sharpness or number of items needed for a given accuracy.

Every function returns a `Bound`: value, formula, constants with their sources, assumptions with the checks
that were made. Statements with explicit constants are derived in the docstring of their module and cite the
published rate.
"""

import sys as _sys

from . import _attention
from . import bound as _bound
from ._asymmetric import asymmetric
from ._attention import attention, attention_error
from ._attention_coverage import attention_coverage
from ._attention_regret import attention_regret
from ._certify import Certificate, certify
from ._hilbert_cube import hilbert_cube
from ._neurons import NeuronCount, neurons
from ._one_layer import kernel_norm
from ._random_features import random_features
from ._report import Comparison, Report, report
from ._section_gap import section_gap
from ._symmetric import symmetric
from ._symmetric_floor import symmetric_floor
from ._zonal import zonal
from .bound import Assumption, Bound, Constant
from .margins import Margin, margin_of

__all__ = [
    "Assumption",
    "Bound",
    "Certificate",
    "Comparison",
    "Constant",
    "Margin",
    "NeuronCount",
    "Report",
    "asymmetric",
    "attention",
    "attention_coverage",
    "attention_error",
    "attention_regret",
    "certify",
    "hilbert_cube",
    "kernel_norm",
    "margin_of",
    "neurons",
    "random_features",
    "report",
    "section_gap",
    "symmetric",
    "symmetric_floor",
    "zonal",
]

# Pickles of bounds name modules and functions by where they were before.
_sys.modules[f"{__name__}._bound"] = _bound
for _function in (attention_coverage, attention_regret):
    setattr(_attention, _function.__name__, _function)
