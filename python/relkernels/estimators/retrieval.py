"""`retrieve` of the estimators of relations, from the table of the last fit or another one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..base import check
from ..maps.mlp import MLP
from ..ops import Keys, feature_map, retrieve


class RetrievalMixin:
    """Adds `retrieve` to an estimator of a relation.

    Subclasses have `_rows` and `_searched`, which check tables, and call `_keep_table` after each fit.
    """

    phi_: MLP
    features_fit_: np.ndarray
    _keys: tuple[np.ndarray, Keys]  # the features, and the keys that were made of them
    _rows: Callable[..., np.ndarray]

    def _searched(self, Y: Any) -> tuple[np.ndarray, MLP]:
        """Return a table to search and its map."""
        raise NotImplementedError

    def _keep_table(self, table: np.ndarray, mlp: MLP, partial: bool) -> None:
        """Keep the features of the table of a fit; after `partial_fit` there is no such table."""
        self.__dict__.pop("_keys", None)
        if partial:
            self.__dict__.pop("features_fit_", None)
        else:
            self.features_fit_ = feature_map(table, mlp)

    def _keys_fit(self) -> Keys:
        """Return the keys of the table of the fit, which are made at the first call."""
        features = self.features_fit_
        made = getattr(self, "_keys", None)
        if made is None or made[0] is not features:
            features.flags.writeable = False  # the keys use its memory
            made = self._keys = features, Keys(features)
        return made[1]

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the keys, whose features it has already."""
        state: Any = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_keys"}

    def retrieve(
        self, Q: Any, k: int, Y: Any = None, *, mask: Any = None, exclude: Any = None, pad: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of a table most related to each query.

        Parameters
        ----------
        Q : array-like or sparse matrix of shape (n, n_features_in)
            Queries like the rows of X in `fit`.
        k : int
            Number of rows to return, at most the number of rows searched (any number with `pad`).
        Y : array-like or sparse matrix of shape (m, n_features_y), optional
            The table to search, like the second table of `fit` or, if there was one table, like X. None means
            the table of the last `fit`. Required after `partial_fit`, which keeps no table.
        mask : ndarray of bool, optional
            True for rows that may be retrieved; broadcast to (n, m).
        exclude : ndarray of int of shape (n,) or (n, e), or sparse matrix of shape (n, m), optional
            Rows of the table that a query may not return, as in `relkernels.retrieve`.
        pad : bool, default False
            Allow `k` to exceed the number of rows, and fill the rest with -inf and -1.

        Returns
        -------
        values : ndarray of shape (n, k)
            Relation values, best first.
        indices : ndarray of int64 of shape (n, k)
            Rows of the table. If `mask` and `exclude` leave fewer than `k`, the rest is -inf and -1.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as described, or if no table is given and none was kept.

        Notes
        -----
        The first call without `Y` after a fit prepares the features of its table (`relkernels.Keys`), and
        makes `features_fit_` read-only, because they share its memory. Later calls take less time; what they
        use in addition is kept in memory, but not pickled or saved.
        """
        queries = self._rows(Q, "Q")
        if Y is not None:
            table, mlp = self._searched(Y)
            return retrieve(queries, table, k, self.phi_, mlp, mask=mask, exclude=exclude, pad=pad)
        if not hasattr(self, "features_fit_"):
            check.fail(
                "Y",
                "a table to search after partial_fit, which keeps none: it sees one batch at a time, and "
                "changes the maps under earlier features",
                "None",
            )
        return retrieve(queries, self._keys_fit(), k, self.phi_, mask=mask, exclude=exclude, pad=pad)
