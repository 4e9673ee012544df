"""`ObjectSamples`: objects with labels or relation values, as a fit reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from scipy import sparse

from ...gradients import feature_loss
from ...maps.activations import Activation
from ...maps.mlp import MLP
from ...ops import feature_map
from ..targets import selected, targets_among, values_of
from .labels import MOST_CLASSES, label_map
from .problems import Weight, part
from .random_layer import auto_width
from .scaling import Scaling
from .spectral_start import mercer_start
from .training import ClosedForm

# Rows whose pairs give the loss of a fit in closed form: their matrix of values takes 32 MiB.
_JUDGED = 2048


@dataclass(frozen=True)
class ObjectSamples:
    """Objects and their targets: the `Samples` of a fit.

    Attributes
    ----------
    X : ndarray or CSR matrix of shape (n, n_features_in)
    y : codes of labels, a matrix of relation values, a sparse matrix of observed pairs, or a kernel
    weight : ndarray of shape (n,), or None
    unscaled : ndarray or CSR matrix of shape (n, n_features_in)
        The objects as a kernel takes them.
    """

    X: np.ndarray
    y: Any
    weight: Weight
    unscaled: np.ndarray

    @property
    def tables(self) -> tuple[np.ndarray]:
        """The input of the map."""
        return (self.X,)

    @property
    def n_classes(self) -> int:
        """The number of classes of labels, or 0 for other targets."""
        if callable(self.y) or sparse.issparse(self.y) or self.y.ndim != 1:
            return 0
        return int(self.y.max()) + 1

    @property
    def gives_values(self) -> bool:
        """True if the relation of any two objects is known: a matrix of values, or a kernel."""
        return callable(self.y) or (self.y.ndim == 2 and not sparse.issparse(self.y))

    def targets(self) -> Callable[[np.ndarray], np.ndarray]:
        """Return the function from indices of objects to the targets among them."""
        return targets_among(self.y, self.unscaled)

    def spectral_map(self, mlp: MLP, rng: np.random.RandomState, *, auto: bool = False) -> MLP:
        """Return a map like `mlp` that fits the values of the relation; `auto` as in `mercer_start`."""
        values = partial(values_of, self.y) if callable(self.y) else self.y
        return mercer_start(mlp, self.X, values, rng, self.unscaled, auto=auto)

    def closed_form(
        self,
        n_features: int,
        activation: str | Activation,
        rng: np.random.RandomState,
        *,
        auto: bool,
        normalize: bool,
    ) -> ClosedForm | None:
        """Return a map that is fitted without a solver; None if there is no such fit.

        With `auto`, the targets determine the number of features.
        """
        X = self.X
        if self.gives_values and self.weight is None:
            widths = (X.shape[1], auto_width(X.shape[1]), n_features)
            start = MLP.random(widths, activation, rng, X.dtype, normalize=normalize)
            phi = self.spectral_map(start, rng, auto=auto)
            rows = np.arange(min(len(self), _JUDGED))
            features = feature_map(X[rows], phi)
            return ClosedForm([phi], feature_loss(features, features, self.targets()(rows), "squared")[0])
        if not 0 < self.n_classes <= MOST_CLASSES:
            return None
        wanted = None if auto else n_features
        phi, loss = label_map(X, self.y, self.weight, wanted, activation, rng, normalize=normalize)
        return ClosedForm([phi], loss)

    def scalings(self) -> list[Scaling]:
        """Return the scaling of the columns."""
        return [Scaling.of(self.X, self.weight)]

    def scaled(self, scalings: Sequence[Scaling]) -> ObjectSamples:
        """Return these samples with scaled columns."""
        return replace(self, X=scalings[0](self.X))

    def __len__(self) -> int:
        return int(self.X.shape[0])

    def select(self, rows: np.ndarray) -> ObjectSamples:
        """Return these objects."""
        y, weight = selected(self.y, rows), part(self.weight, rows)
        return ObjectSamples(self.X[rows], y, weight, self.unscaled[rows])
