"""`ZonalFeatures`: units G(x.y_j) with centres spread over a sphere; rotated and translation networks."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from ..base import check
from ..base.random_state import RandomStateLike, legacy_generator
from ..maps.activations import Activation, resolve
from ..maps.mlp import MLP
from ..ops import relation_matrix
from .sphere import PROJECTIONS, project, quasi_uniform
from .tables import check_array, validate_data

KERNELS = ("zonal", "rotated", "translation")


class ZonalFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Features ``G(x, y_j)`` of kernels that need be neither symmetric nor positive definite.

    Followed by a linear model, they form a network ``sum_j a_j G(x, y_j)`` in the sense of Mhaskar (arXiv
    2305.03890), whose centres may be in a different domain than the inputs:

    - ``zonal``: ``G(x . y_j)`` with x and y_j on the same sphere;
    - ``rotated``: ``G(x . U y_j)`` with centres y_j on a sphere of another dimension, which a matrix U with
      orthonormal columns or rows maps to the inputs' space;
    - ``translation``: ``prod_i G((A_j x + b_j)_i)`` with A_j of `rank` rows, a generalised translation
      network.

    Parameters
    ----------
    n_neurons : int, optional
        Number of centres. None is 128, or the number of rows of `centers` if that is an array; any other
        number is then an error.
    activation : str or Activation, default "relu"
        G, as in `MLP`; ``relkernels.relu_power(r)`` for any r > 0.
    centers : {"quasi-uniform", "data"} or array-like of shape (n_neurons, d), default "quasi-uniform"
        Spread evenly over the sphere, drawn from the training rows, or given (and then used unchanged). For
        ``translation`` they are the rows of the A_j, of norm 1 unless given, and cannot be an array if the
        rank is above 1.
    kernel : {"zonal", "rotated", "translation"}, default "zonal"
    center_dimension : int, optional
        Dimension of the centres of ``rotated``; by default that of the inputs.
    rotation : array-like of shape (d_in, d), optional
        The matrix U of ``rotated``; drawn at random if None.
    rank : int, default 1
        Rows of each A_j of ``translation``.
    projection : {"auto", "normalize", "lift", "none"}, default "auto"
        How inputs are mapped to the sphere: divided by their norm, extended to (x, 1) and then divided, or
        not at all; "auto" is "none" for ``translation`` and otherwise "normalize".
    random_state : int, Generator, RandomState or None, default None
        Seeds the turn of the centres, the choice of rows, the rotation and the offsets.

    Attributes
    ----------
    centers_ : ndarray of shape (n_neurons, d) or, with a rank above 1, (n_neurons * rank, d)
        Centres as they are multiplied by the inputs: on the sphere, rotated by U.
    offsets_ : ndarray of shape (n_neurons * rank,)
        The b_j; zero except for ``translation``.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only if X had column names.

    See Also
    --------
    relkernels.bounds.zonal : The degree of approximation.

    Examples
    --------
    >>> import numpy as np
    >>> from relkernels import ZonalFeatures, relu_power
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.pipeline import make_pipeline
    >>> X = np.random.default_rng(0).standard_normal((500, 3))
    >>> X /= np.linalg.norm(X, axis=1, keepdims=True)
    >>> y = np.abs(X[:, 0]) + X[:, 1]
    >>> network = make_pipeline(ZonalFeatures(200, relu_power(1.5), random_state=0), Ridge(1e-6))
    >>> network.fit(X[:400], y[:400]).score(X[400:], y[400:]) > 0.99
    True
    """

    def __init__(
        self,
        n_neurons: int | None = None,
        activation: str | Activation = "relu",
        centers: Any = "quasi-uniform",
        kernel: str = "zonal",
        center_dimension: int | None = None,
        rotation: Any = None,
        rank: int = 1,
        projection: str = "auto",
        random_state: RandomStateLike = None,
    ) -> None:
        self.n_neurons = n_neurons
        self.activation = activation
        self.centers = centers
        self.kernel = kernel
        self.center_dimension = center_dimension
        self.rotation = rotation
        self.rank = rank
        self.projection = projection
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> ZonalFeatures:
        """Place the centres.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features_in)
        y : ignored

        Returns
        -------
        self
        """
        count = 128
        if self.n_neurons is not None:
            count = check.integer("n_neurons", self.n_neurons, 1, check.WIDEST)
        kernel = check.choice("kernel", self.kernel, KERNELS)
        rank = check.integer("rank", self.rank, 1, check.WIDEST)
        chosen = check.choice("projection", self.projection, ("auto", *PROJECTIONS))
        self._projection = (
            ("none" if kernel == "translation" else "normalize") if chosen == "auto" else chosen
        )
        if rank > 1 and kernel != "translation":
            check.fail("rank", f"1 with kernel={kernel!r}", rank)
        if kernel != "rotated" and (self.rotation is not None or self.center_dimension is not None):
            name = "rotation" if self.rotation is not None else "center_dimension"
            check.fail(name, f"None with kernel={kernel!r}", "a value")
        resolve(self.activation)
        X = validate_data(self, X, dtype=[np.float64, np.float32])
        rng = legacy_generator(self.random_state)
        rows = project(X, self._projection)
        width = rows.shape[1]
        own = width
        if kernel == "rotated" and self.center_dimension is not None:
            own = check.integer("center_dimension", self.center_dimension, 1, check.WIDEST)
        if isinstance(self.centers, str):
            name = check.choice("centers", self.centers, ("quasi-uniform", "data"))
            if name == "data":
                if own != width:
                    check.fail("centers", f"'quasi-uniform' or an array, of dimension {own}", "'data'")
                total = count * rank
                chosen_rows = rng.choice(len(rows), total, replace=total > len(rows))
                centers = rows[chosen_rows].astype(np.float64)
            else:
                centers = quasi_uniform(count * rank, own, rng)
        else:
            centers = check_array(self.centers, dtype=np.float64, input_name="centers")
            if rank > 1:
                check.fail("centers", "'quasi-uniform' or 'data' with a rank above 1", centers.shape)
            if kernel != "rotated" and centers.shape[1] != width:
                check.fail("centers", f"shape (n, {width}), the width of the projected inputs", centers.shape)
            if self.n_neurons is not None and count != len(centers):
                check.fail("n_neurons", f"None or {len(centers)}, the number of rows of centers", count)
        if kernel == "rotated":
            centers = centers @ self._rotation(width, centers.shape[1], rng).T
        self.centers_ = np.ascontiguousarray(centers.astype(X.dtype))
        self.offsets_ = np.zeros(len(centers), X.dtype)
        if kernel == "translation":
            reach = float(np.linalg.norm(rows, axis=1).max()) or 1.0
            self.offsets_ = (reach * rng.uniform(-1, 1, len(centers))).astype(X.dtype)
        self._n_features_out = len(centers) // rank
        return self

    def _rotation(self, width: int, own: int, rng: np.random.RandomState) -> np.ndarray:
        if self.rotation is not None:
            given = check_array(self.rotation, dtype=np.float64, input_name="rotation")
            if given.shape != (width, own):
                check.fail("rotation", f"shape {(width, own)}: inputs, centres", given.shape)
            return given
        wide, narrow = max(width, own), min(width, own)
        q, r = np.linalg.qr(rng.standard_normal((wide, narrow)))
        q = q * np.sign(np.diag(r))
        return q if width >= own else q.T

    def transform(self, X: Any) -> np.ndarray:
        """Return the features G(x, y_j).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features_in)

        Returns
        -------
        ndarray of shape (n_samples, n_neurons)
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=self.centers_.dtype, reset=False)
        rows = np.ascontiguousarray(project(X, self._projection))
        arguments = relation_matrix(rows, self.centers_)
        if self.kernel == "translation":
            arguments += self.offsets_
        values = activated(arguments, self.activation)
        if self.rank > 1:
            values = values.reshape(len(X), -1, self.rank).prod(axis=2)
        return values

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def activated(z: np.ndarray, activation: str | Activation) -> np.ndarray:
    """Return the activation of every element of a contiguous array."""
    one = np.ones((1, 1), z.dtype)
    return MLP([one, one], activation=activation)(z.reshape(-1, 1)).reshape(z.shape)
