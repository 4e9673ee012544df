"""A relation as a SciPy linear operator: products with vectors, the matrix never formed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import host
from ..base import check
from ..maps.mlp import MLP
from .links import Linked
from .relations import relation_matvec
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

    Its entries are those of `relation_matrix` with this link. Products with it and with its adjoint are
    `relation_matvec`, so that solvers (``eigsh``, ``svds``, ``cg``, ``lsqr``, ...) work without the matrix.

    Parameters
    ----------
    x : ndarray of shape (n, d_x)
        Like `y` of NumPy, or of any other library in the host's memory; results are NumPy's, as SciPy is.
    y : ndarray of shape (m, d_y), optional
        None stands for `x`.
    phi, psi : MLP, optional
        Feature maps of `x` and of `y`; `psi` None stands for `phi`, `phi` None for the identity.
    link : str, default "identity"
        As in `relation_matvec`; "gaussian" and "matern12" to "matern52" are kernels of Gaussian processes.
    scale : float, default 1.0
        Any finite number; at least 0 with a link of distances.

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
    >>> kernel = rk.as_linear_operator(x, link="gaussian", scale=4.0)    # the matrix would take 32 MB
    >>> values = eigsh(kernel, k=2, return_eigenvectors=False)
    >>> ridge = kernel + aslinearoperator(eye_array(2000))
    >>> smooth, failed = cg(ridge, x[:, 0], rtol=1e-8)
    >>> failed, np.allclose(kernel @ smooth + smooth, x[:, 0])
    (0, True)
    """
    from scipy.sparse.linalg import LinearOperator

    sides = Sides(_points("x", x), None if y is None else _points("y", y), phi, psi)
    how = Linked.of(sides, link, scale)
    f, g = sides.features()

    def product(rows: np.ndarray, columns: np.ndarray, v: np.ndarray) -> np.ndarray:
        if v.dtype.kind == "c":
            return product(rows, columns, v.real) + 1j * product(rows, columns, v.imag)
        return relation_matvec(
            rows, columns, v.astype(rows.dtype, copy=False), link=how.link, scale=how.scale
        )

    def forward(v: np.ndarray) -> np.ndarray:
        return product(f, g, v)

    def backward(u: np.ndarray) -> np.ndarray:
        return product(g, f, u)

    return LinearOperator(
        (len(f), len(g)), matvec=forward, matmat=forward, rmatvec=backward, rmatmat=backward, dtype=f.dtype
    )


def _points(name: str, a: Any) -> np.ndarray:
    return check.floats(name, check.features(name, host(name, a)), exact=True)
