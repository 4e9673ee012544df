"""A relation as a SciPy linear operator: products with vectors, the matrix never formed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import _check
from .arrays import host
from .mlp import MLP
from .ops import LINKS, feature_map, relation_matvec

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator


def as_linear_operator(
    x: Any,
    y: Any = None,
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    link: str = "identity",
    scale: float = 1.0,
) -> LinearOperator:
    """Return the relation of the rows of `x` and `y` as a SciPy linear operator.

    Its entries are ``link(scale * <phi(x_i), psi(y_j)>)``. Products with it and with its adjoint are
    `relation_matvec`, so that solvers (``eigsh``, ``svds``, ``cg``, ``lsqr``, ...) work without the matrix.

    Parameters
    ----------
    x : ndarray of shape (n, d_x)
        Like `y` of NumPy, or of any other library in the host's memory; results are NumPy's, as SciPy is.
    y : ndarray of shape (m, d_y), optional
        None stands for `x`.
    phi, psi : MLP, optional
        Feature maps of `x` and of `y`; `psi` None stands for `phi`, `phi` None for the identity.
    link : {"identity", "exp", "relu", "square"}, default "identity"
    scale : float, default 1.0
        Any finite number.

    Returns
    -------
    scipy.sparse.linalg.LinearOperator of shape (n, m)
        Of the dtype of `x`, to which vectors are converted; of a complex one, both parts.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.

    Notes
    -----
    Features are computed once and kept, O((n + m) d): each product costs the pairs alone.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> from scipy.sparse import eye_array
    >>> from scipy.sparse.linalg import aslinearoperator, cg, eigsh
    >>> x = np.random.default_rng(0).standard_normal((2000, 3))
    >>> kernel = rk.as_linear_operator(x, link="exp", scale=0.5)    # the matrix would take 32 MB
    >>> values = eigsh(kernel, k=2, return_eigenvectors=False)
    >>> ridge = kernel + aslinearoperator(eye_array(2000))
    >>> smooth, failed = cg(ridge, x[:, 0], rtol=1e-8)
    >>> failed, np.allclose(kernel @ smooth + smooth, x[:, 0])
    (0, True)
    """
    from scipy.sparse.linalg import LinearOperator

    points = _points("x", x)
    others = points if y is None else _points("y", y)
    y_name = "x" if y is None else "y"
    phi, psi = _check.mlp("phi", phi), _check.mlp("psi", psi)
    _check.same_dtype(("x", points), ("y", others), ("phi", phi), ("psi", psi))
    psi_name = "phi" if psi is None else "psi"
    psi = phi if psi is None else psi
    width = _check.mapped_width("x", points, "phi", phi)
    width_y = _check.mapped_width(y_name, others, psi_name, psi)
    _check.same_width("x", points, width, y_name, others, width_y)
    link = _check.choice("link", link, LINKS)
    factor = _check.scale(scale, points.dtype)
    f = points if phi is None else feature_map(points, phi)
    one_side = others is points and psi is phi
    g = f if one_side else others if psi is None else feature_map(others, psi)

    def product(rows: np.ndarray, columns: np.ndarray, v: np.ndarray) -> np.ndarray:
        if v.dtype.kind == "c":
            return product(rows, columns, v.real) + 1j * product(rows, columns, v.imag)
        return relation_matvec(rows, columns, v.astype(rows.dtype, copy=False), link=link, scale=factor)

    def forward(v: np.ndarray) -> np.ndarray:
        return product(f, g, v)

    def backward(u: np.ndarray) -> np.ndarray:
        return product(g, f, u)

    return LinearOperator(
        (len(f), len(g)), matvec=forward, matmat=forward, rmatvec=backward, rmatmat=backward, dtype=f.dtype
    )


def _points(name: str, a: Any) -> np.ndarray:
    return _check.floats(name, _check.features(name, host(name, a)), exact=True)
