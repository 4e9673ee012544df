"""`MultiLayerRandomFeatures`: the features of a random network, as inputs of a linear model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from ..arrays.allocate import empty
from ..arrays.engine import PROCESSOR
from ..base import check
from ..base.random_state import RandomStateLike, legacy_generator
from ..maps.activations import Activation, resolve
from ..ops.nngp import checked_stds
from .tables import validate_data


class MultiLayerRandomFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Features of a random network of several layers (Takhanov, arXiv 2404.17461).

    With standard normal weights W and biases b, drawn once::

        h_1 = weight_std * x W_1 / sqrt(D) + bias_std * b_1
        h_(l+1) = weight_std * a(h_l) W_(l+1) / sqrt(width_l) + bias_std * b_(l+1)
        features = weight_std * a(h_L) / sqrt(width_L), and a constant bias_std if that is not 0

    Inner products of features converge to ``nngp_kernel(x, y, depth=L)`` as the widths grow, with deviations
    of the order of one over the square root of the narrowest width. Ridge regression on the features is the
    random architecture of the paper, whose last layer is the only one trained.

    Parameters
    ----------
    widths : sequence of int, default (1024,)
        Neurons of each layer, the last of which are the features.
    activation : str or Activation, default "relu"
        Any activation of `MLP`, or "step".
    weight_std : float, default sqrt(2)
        Finite, greater than 0.
    bias_std : float, default 0.0
        Finite, not negative.
    random_state : int, Generator, RandomState or None, default None
        Seed of the weights; an int gives the same features every time.

    Attributes
    ----------
    key_ : int
        64 bits that determine the weights.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only if X had column names.

    See Also
    --------
    relkernels.nngp_kernel : The limit of the inner products.

    Notes
    -----
    Weights are not stored: `transform` regenerates them from a counter-based generator (Philox), panel by
    panel as they are multiplied, so a fitted object is as small as its parameters for any widths. From about
    250 rows per call, this is about as fast as reading stored weights; for one row it takes ten to thirty
    times as long (1,024 inputs, 8,192 neurons, float32, AVX-512; measured by
    ``relkernels bench nngp_kernel/random_features``).

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from relkernels import MultiLayerRandomFeatures
    >>> X, y = load_diabetes(return_X_y=True)
    >>> features = MultiLayerRandomFeatures((512, 512), activation="erf", random_state=0)
    >>> model = make_pipeline(StandardScaler(), features, Ridge(3.0)).fit(X[:300], y[:300])
    >>> model.score(X[300:], y[300:]) > 0.4
    True
    """

    def __init__(
        self,
        widths: Sequence[int] = (1024,),
        activation: str | Activation = "relu",
        weight_std: float = 2**0.5,
        bias_std: float = 0.0,
        random_state: RandomStateLike = None,
    ) -> None:
        self.widths = widths
        self.activation = activation
        self.weight_std = weight_std
        self.bias_std = bias_std
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> MultiLayerRandomFeatures:
        """Draw the weights.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features_in)
            Only its number of features is used.
        y : None
            Ignored.

        Returns
        -------
        MultiLayerRandomFeatures
            The object itself.
        """
        validate_data(self, X, dtype=[np.float64, np.float32])
        widths, _, _, bias = self._settings()
        self.key_ = int(legacy_generator(self.random_state).randint(0, 2**63, dtype=np.int64))
        self._n_features_out = widths[-1] + (bias > 0)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return the features of the rows of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features_in)

        Returns
        -------
        ndarray of shape (n_samples, n_features_out)
            Float32 for float32, otherwise float64. Each row depends only on its row of X, to the last bit.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        widths, activation, weight, bias = self._settings()
        out = empty("transform", (len(X), self._n_features_out), X.dtype)
        PROCESSOR.run(
            "random_features",
            X,
            self.key_,
            widths,
            activation.name,
            activation.parameter or 0.0,
            weight,
            bias,
            out[:, : widths[-1]],
        )
        out[:, widths[-1] :] = bias
        return out

    def weights(self, layer: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the standard normal weights and biases of a layer, for inspection.

        Parameters
        ----------
        layer : int
            From 0.

        Returns
        -------
        weights : ndarray of shape (width before, width)
        biases : ndarray of shape (width,)
        """
        check_is_fitted(self)
        widths, *_ = self._settings()
        at = check.integer("layer", layer, 0)
        if at >= len(widths):
            check.fail("layer", f"an integer below {len(widths)}", at)
        before = self.n_features_in_ if at == 0 else widths[at - 1]
        w, b = empty("weights", (before, widths[at]), np.dtype(float)), np.empty((1, widths[at]))
        PROCESSOR.run("random_normals", self.key_, at, 0, w)
        PROCESSOR.run("random_normals", self.key_, at, 1, b)
        return w, b[0]

    def _settings(self) -> tuple[list[int], Activation, float, float]:
        widths = check.widths("widths", self.widths)
        if not widths:
            check.fail("widths", "at least one layer", "none")
        step = isinstance(self.activation, str) and self.activation == "step"
        return (
            widths,
            (Activation("step") if step else resolve(self.activation)),
            *checked_stds(self.weight_std, self.bias_std),
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
