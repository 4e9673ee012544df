"""`NNGPKernel`: the kernel of a wide random network for scikit-learn's Gaussian processes."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from sklearn.gaussian_process.kernels import Hyperparameter, Kernel

from ..base import check
from ..maps.activations import Activation
from ..ops.nngp import Recursion, nngp_kernel

# Step in the logarithm of a hyperparameter, and the fourth-order central difference.
_STEP = 3e-4
_STENCIL = ((1, 8 / 12), (-1, -8 / 12), (2, -1 / 12), (-2, 1 / 12))


class NNGPKernel(Kernel):
    """Kernel of an infinitely wide random network (NNGP), for Gaussian processes.

    Parameters
    ----------
    depth : int, default 1
        Hidden layers.
    activation : str or Activation, default "relu"
        As for `nngp_kernel`.
    weight_std : float, default sqrt(2)
        Hyperparameter.
    bias_std : float, default 0.1
        Hyperparameter; 0 stays 0.
    weight_std_bounds, bias_std_bounds : pair of floats > 0 or "fixed", default (1e-2, 1e2)

    See Also
    --------
    relkernels.nngp_kernel : The function, with its formulas.

    Notes
    -----
    Gradients are fourth-order central differences of the kernel, which is accurate to 1e-15: their relative
    error is about 1e-11.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.gaussian_process import GaussianProcessRegressor
    >>> from relkernels import NNGPKernel
    >>> x = np.linspace(-1, 1, 30)[:, None]
    >>> kernel = NNGPKernel(2, "erf", weight_std=2.0, bias_std=0.5)
    >>> process = GaussianProcessRegressor(kernel, alpha=1e-6, optimizer=None).fit(x, np.sin(3 * x[:, 0]))
    >>> bool(abs(process.predict([[0.5]])[0] - np.sin(1.5)) < 1e-2)
    True
    """

    def __init__(
        self,
        depth: int = 1,
        activation: str | Activation = "relu",
        weight_std: float = 2**0.5,
        bias_std: float = 0.1,
        weight_std_bounds: tuple[float, float] | str = (1e-2, 1e2),
        bias_std_bounds: tuple[float, float] | str = (1e-2, 1e2),
    ) -> None:
        self.depth = depth
        self.activation = activation
        self.weight_std = weight_std
        self.bias_std = bias_std
        self.weight_std_bounds = weight_std_bounds
        self.bias_std_bounds = bias_std_bounds

    @property
    def hyperparameter_bias_std(self) -> Hyperparameter:
        """Standard deviation of the biases."""
        return Hyperparameter("bias_std", "numeric", self.bias_std_bounds if self.bias_std != 0 else "fixed")

    @property
    def hyperparameter_weight_std(self) -> Hyperparameter:
        """Standard deviation of the weights, times the root of the width."""
        return Hyperparameter("weight_std", "numeric", self.weight_std_bounds)

    def __call__(self, X: Any, Y: Any = None, eval_gradient: bool = False) -> Any:
        """Return the kernel between the rows of X and Y.

        Parameters
        ----------
        X : array-like of shape (n, D)
        Y : array-like of shape (m, D), optional
            None means X.
        eval_gradient : bool, default False
            Also return the gradient with respect to the logarithms of the hyperparameters; Y must be None.

        Returns
        -------
        K : ndarray of shape (n, m)
        gradient : ndarray of shape (n, n, number of hyperparameters not fixed)
            Only with `eval_gradient`; in the order of `theta`.
        """
        X = np.atleast_2d(check.numbers("X", X))
        if Y is not None:
            if check.flag("eval_gradient", eval_gradient):
                raise ValueError("eval_gradient: expected False where Y is given, got True")
            return self._kernel(X, np.atleast_2d(check.numbers("Y", Y)))
        K = self._kernel(X)
        if not check.flag("eval_gradient", eval_gradient):
            return K
        free = [p.name for p in self.hyperparameters if not p.fixed]
        gradient = np.zeros((*K.shape, len(free)))
        for i, name in enumerate(free):
            for steps, weight in _STENCIL:
                moved = getattr(self, name) * np.exp(steps * _STEP)
                gradient[:, :, i] += weight / _STEP * self._kernel(X, **{name: moved})
        return K, gradient

    def _kernel(self, X: np.ndarray, Y: np.ndarray | None = None, **changed: float) -> np.ndarray:
        return nngp_kernel(X, Y, **self._arguments() | changed)

    def _arguments(self) -> dict[str, Any]:
        return {
            "depth": self.depth,
            "activation": self.activation,
            "weight_std": self.weight_std,
            "bias_std": self.bias_std,
        }

    def diag(self, X: Any) -> np.ndarray:
        """Return the kernel of each row of X with itself, without the matrix.

        Parameters
        ----------
        X : array-like of shape (n, D)

        Returns
        -------
        ndarray of shape (n,)
        """
        X = np.atleast_2d(check.numbers("X", X))
        return Recursion(kind="nngp", **self._arguments()).diagonal(X)

    def is_stationary(self) -> bool:
        """Return False: the kernel depends on more than X - Y."""
        return False

    def __repr__(self) -> str:
        return (
            f"NNGPKernel(depth={self.depth}, activation={self.activation!r}, "
            f"weight_std={three_digits(self.weight_std)}, bias_std={three_digits(self.bias_std)})"
        )


def three_digits(value: Any) -> str:
    """Return a number with three digits, or the repr of anything else, which only a call refuses."""
    return f"{value:.3g}" if isinstance(value, Real) else repr(value)
