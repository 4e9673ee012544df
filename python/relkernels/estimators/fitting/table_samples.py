"""`TableSamples`: rows of two tables, matched or with relation values, as a fit reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import sparse

from ...gradients import feature_loss
from ...maps.activations import Activation
from ...maps.mlp import MLP
from ...ops import feature_map
from .losses import contrastive_loss
from .matched import matched_maps, matched_on_sphere
from .problems import Weight, part
from .random_layer import auto_width
from .scaling import Scaling
from .spectral_start import schmidt_start
from .training import ClosedForm

# Rows of each table whose pairs give the loss of a fit in closed form.
_JUDGED = 2048


@dataclass(frozen=True)
class TableSamples:
    """Rows of two tables, matched or with relation values: the `Samples` of a fit.

    Attributes
    ----------
    X : ndarray or CSR matrix of shape (n, n_features_in)
    Y : ndarray or CSR matrix of shape (m, n_features_y)
        Without R, row i matches row i of X. A selection of rows of X then has the matching ones, otherwise
        all.
    R : ndarray or CSR matrix of shape (n, m), or None
    weight : ndarray of shape (n,), or None
        The weight of each row of X.
    """

    X: np.ndarray
    Y: np.ndarray
    R: Any
    weight: Weight

    @property
    def tables(self) -> tuple[np.ndarray, np.ndarray]:
        """The inputs of both maps."""
        return self.X, self.Y

    def __len__(self) -> int:
        return int(self.X.shape[0])

    def closed_form(
        self,
        n_features: int,
        activation: str | Activation,
        rng: np.random.RandomState,
        *,
        auto: bool,
        normalize: bool,
    ) -> ClosedForm | None:
        """Return maps that are fitted without a solver; None if there is no such fit.

        With `auto`, the samples determine the number of features. Relation values have no closed form with
        features of unit length: singular functions have other lengths.
        """
        X, Y, R = self.X, self.Y, self.R
        if R is None:
            return self._matched(None if auto else n_features, activation, rng, normalize)
        if sparse.issparse(R) or self.weight is not None or normalize:
            return None
        ends = [(table.shape[1], auto_width(table.shape[1]), n_features) for table in (X, Y)]
        phi, psi = (MLP.random(widths, activation, rng, X.dtype) for widths in ends)
        phi, psi = schmidt_start(phi, psi, X, Y, R, rng, auto=auto)
        some = slice(0, _JUDGED)
        loss, *_ = feature_loss(
            feature_map(X[some], phi), feature_map(Y[some], psi), R[some, some], "squared"
        )
        return ClosedForm([phi, psi], loss)

    def _matched(
        self,
        n_features: int | None,
        activation: str | Activation,
        rng: np.random.RandomState,
        normalize: bool,
    ) -> ClosedForm | None:
        """Return the maps of matched rows in closed form, and the loss of InfoNCE."""
        X, Y, weight = self.X, self.Y, self.weight
        if sparse.issparse(X) or sparse.issparse(Y):
            return None
        given = X, Y, weight, n_features, activation, rng
        phi, psi, log_scale = matched_on_sphere(*given) if normalize else (*matched_maps(*given), 0.0)
        rows = np.arange(min(len(self), _JUDGED))
        found = contrastive_loss(X[rows], Y[rows], phi, psi, log_scale, part(weight, rows))
        return ClosedForm([phi, psi], found.value, log_scale)

    def scalings(self) -> list[Scaling]:
        """Return the scaling of the columns of each table."""
        return [Scaling.of(self.X, self.weight), Scaling.of(self.Y, self.weight if self.R is None else None)]

    def scaled(self, scalings: Sequence[Scaling]) -> TableSamples:
        """Return these samples with scaled tables."""
        return replace(self, X=scalings[0](self.X), Y=scalings[1](self.Y))

    def select(self, rows: np.ndarray) -> TableSamples:
        """Return these rows of X."""
        Y = self.Y[rows] if self.R is None else self.Y
        return TableSamples(self.X[rows], Y, part(self.R, rows), part(self.weight, rows))
