"""A relation as a SciPy linear operator: products with vectors, the matrix never formed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import host
from ..base import check
from ..maps.mlp import MLP
from .relations import LINKS, relation_matvec
from .sides import Sides

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
    Features are computed once and kept, O((n + m) d): a product then costs only the pairs.

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

    sides = Sides(_points("x", x), None if y is None else _points("y", y), phi, psi)
    link = check.choice("link", link, LINKS)
    factor = check.scale(scale, sides.dtype)
    f, g = sides.features()

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
    return check.floats(name, check.features(name, host(name, a)), exact=True)
