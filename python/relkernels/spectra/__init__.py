"""Spectra of relations and norms of functions, from which the bounds on networks are computed.

`mercer` returns eigenvalues and eigenfunctions of a kernel on points, `mercer_sphere` those of a zonal kernel
on the sphere, `schmidt` the singular spectrum of an asymmetric relation; `fit_decay` estimates how fast a
spectrum decays, `gamma2` the length of the feature maps that a relation needs. `rkhs_norm` and the functions
`barron_norm...` compute norms of functions.
"""

from .barron import (
    BarronNorm,
    barron_norm,
    barron_norm_eigenfunction,
    barron_norm_fourier,
    barron_norm_gaussian,
    barron_norm_trigonometric,
)
from .decay import Decay, fit_decay
from .factorisation import Gamma2, gamma2
from .operators import kernel_operator
from .points import MercerSpectrum, SchmidtSpectrum, mercer, schmidt
from .rkhs import RKHSNorm, rkhs_norm
from .sphere import SphereSpectrum, funk_hecke, mercer_sphere, multiplicity

__all__ = [
    "BarronNorm",
    "Decay",
    "Gamma2",
    "MercerSpectrum",
    "RKHSNorm",
    "SchmidtSpectrum",
    "SphereSpectrum",
    "barron_norm",
    "barron_norm_eigenfunction",
    "barron_norm_fourier",
    "barron_norm_gaussian",
    "barron_norm_trigonometric",
    "fit_decay",
    "funk_hecke",
    "gamma2",
    "kernel_operator",
    "mercer",
    "mercer_sphere",
    "multiplicity",
    "rkhs_norm",
    "schmidt",
]
