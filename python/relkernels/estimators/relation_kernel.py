"""`RelationKernel`: the relation of a feature map as a kernel for scikit-learn's kernel methods."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.gaussian_process.kernels import Hyperparameter, Kernel

from ..base import check
from ..maps.mlp import MLP, check_mlp, mapped_width
from ..ops import feature_map, relation_matrix
from .nngp import three_digits


class RelationKernel(Kernel):
    """The symmetric relation ``scale * <phi(x), phi(y)>`` as a kernel for scikit-learn.

    Pass it as ``kernel`` to `KernelRidge`, `SVC`, `SVR`, `KernelPCA` or `GaussianProcessRegressor`. All of
    them call it with whole tables, including `KernelRidge`, which calls a function for each pair of rows.

    Parameters
    ----------
    phi : MLP or None
        Feature map, such as ``SymmetricRelation(...).fit(...).phi_``; None is the identity.
    scale : float, default 1.0
        Greater than 0; the hyperparameter that a Gaussian process fits.
    scale_bounds : pair of floats > 0 or "fixed", default (1e-5, 1e5)

    See Also
    --------
    relkernels.relation_matrix : The matrix itself, for ``kernel="precomputed"``.
    relkernels.NNGPKernel : The kernel of an infinitely wide random network.

    Notes
    -----
    Features are computed in the dtype of `phi`, their inner products in float64: kernel matrices are positive
    semi-definite to 1e-15, as their factorizations require. There is no kernel of two maps, because kernel
    methods require a symmetric kernel.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.svm import SVC
    >>> import relkernels as rk
    >>> X, digit = load_digits(return_X_y=True)
    >>> phi = rk.MLP.random([64, 512], "relu", random_state=0)
    >>> model = SVC(kernel=rk.RelationKernel(phi, scale=1e-3)).fit(X[:1000], digit[:1000])
    >>> model.score(X[1000:], digit[1000:]) > 0.9
    True
    """

    def __init__(
        self,
        phi: MLP | None = None,
        scale: float = 1.0,
        scale_bounds: tuple[float, float] | str = (1e-5, 1e5),
    ) -> None:
        self.phi = phi
        self.scale = scale
        self.scale_bounds = scale_bounds

    @property
    def hyperparameter_scale(self) -> Hyperparameter:
        """Factor of the inner products."""
        return Hyperparameter("scale", "numeric", self.scale_bounds)

    def __call__(self, X: Any, Y: Any = None, eval_gradient: bool = False) -> Any:
        """Return the kernel between the rows of X and Y.

        Parameters
        ----------
        X : array-like of shape (n, d)
        Y : array-like of shape (m, d), optional
            None means X; the matrix is then symmetric to the last bit.
        eval_gradient : bool, default False
            Also return the gradient with respect to the logarithm of `scale`; Y must be None.

        Returns
        -------
        K : ndarray of shape (n, m)
        gradient : ndarray of shape (n, n, 1), or (n, n, 0) if `scale` is fixed
            Only with `eval_gradient`.
        """
        if check.flag("eval_gradient", eval_gradient) and Y is not None:
            raise ValueError("eval_gradient: expected False where Y is given, got True")
        factor = self._factor()
        K = relation_matrix(
            self._features("X", X), None if Y is None else self._features("Y", Y), scale=factor
        )
        if not eval_gradient:
            return K
        return K, np.empty((*K.shape, 0)) if self.hyperparameter_scale.fixed else K[:, :, None].copy()

    def diag(self, X: Any) -> np.ndarray:
        """Return the kernel of each row of X with itself, without the matrix.

        Parameters
        ----------
        X : array-like of shape (n, d)

        Returns
        -------
        ndarray of shape (n,)
        """
        features = self._features("X", X)
        return self._factor() * np.einsum("ij,ij->i", features, features)

    def is_stationary(self) -> bool:
        """Return False: the kernel depends on more than X - Y."""
        return False

    def _factor(self) -> float:
        if isinstance(self.scale, MLP):
            raise TypeError(f"scale: expected a number > 0, got {self.scale!r}: a kernel has one map, phi")
        factor = check.scale(self.scale, np.dtype(np.float64))
        wanted = "a finite number > 0, for the kernel to be positive semidefinite"
        return factor if factor > 0 else check.fail("scale", wanted, repr(self.scale))

    def _features(self, name: str, X: Any) -> np.ndarray:
        """Return the features of the rows of X in float64."""
        phi = check_mlp("phi", self.phi)
        points = np.atleast_2d(check.numbers(name, X))
        points = points if phi is None else points.astype(phi.dtype, copy=False)
        if points.ndim != 2:
            check.fail(name, "points, one per row", f"shape {points.shape}")
        mapped_width(name, points, "phi", phi)
        return points if phi is None else feature_map(points, phi).astype(np.float64, copy=False)

    def __repr__(self) -> str:
        return f"RelationKernel({self.phi!r}, scale={three_digits(self.scale)})"
