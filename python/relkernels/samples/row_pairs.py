"""`RowPairs`: pairs of rows as samples, so that scikit-learn splits pairs instead of rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import host
from ..base import check
from ..base.describe import described
from .checks import selected_rows, table


class RowPairs:
    """Pairs of rows of one table or of two, as the input X: each pair is a sample, with its value in y.

    Pairs are given by indices, so the tables are stored once and shared by all splits. `fit` and `score` of
    `SymmetricRelation` and `AsymmetricRelation` accept them with y of shape (n_pairs,), and so do
    `cross_val_score`, `GridSearchCV`, `train_test_split` and so on, which split the pairs: all rows are then
    in training and test, in different pairs. To predict for new rows, split rows: see `RelationValues`.

    Parameters
    ----------
    pairs : array-like of int of shape (n_pairs, 2)
        A row of X, and a row of Y or, without Y, of X.
    X : array-like or sparse matrix of shape (n, n_features_in)
    Y : array-like or sparse matrix of shape (m, n_features_y), optional
        The second table of `AsymmetricRelation`. None means X itself.

    Attributes
    ----------
    pairs : ndarray of int64 of shape (n_pairs, 2)
    X : the first table
    Y : the second table, or None
    shape : (int, int)
        That of `pairs`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Notes
    -----
    Pairs that a split leaves out stay known as such: scores that rank all rows of Y do not count them as
    unrelated.

    Examples
    --------
    >>> import numpy as np
    >>> from relkernels import RowPairs, SymmetricRelation
    >>> from sklearn.model_selection import KFold, cross_val_score
    >>> rng = np.random.default_rng(0)
    >>> X, label = rng.standard_normal((60, 4)), np.arange(60) % 3
    >>> X[:, :3] += 3 * np.eye(3)[label]
    >>> pairs = rng.integers(60, size=(600, 2))
    >>> same = label[pairs[:, 0]] == label[pairs[:, 1]]
    >>> scores = cross_val_score(SymmetricRelation(random_state=0), RowPairs(pairs, X), same, cv=KFold(3))
    >>> bool(scores.min() > 0.9)  # ROC-AUC over held-out pairs
    True
    """

    def __init__(self, pairs: Any, X: Any, Y: Any = None) -> None:
        with check.naming("pairs"):
            index = np.asarray(host("pairs", pairs))
        if index.dtype.kind not in "iu" or index.ndim != 2 or index.shape[1] != 2:
            raise TypeError(f"pairs: expected integers of shape (n_pairs, 2), got {described(index)}")
        self.X = table("X", X)
        self.Y = None if Y is None else table("Y", Y)
        sizes = self.sizes
        if index.size and (index.min() < 0 or (index.max(axis=0) >= sizes).any()):
            reached = tuple(index.max(axis=0).tolist())
            check.fail("pairs", f"rows below {sizes}", f"indices from {index.min()} up to {reached}")
        self.pairs = index.astype(np.int64, copy=False)
        self._all = self.pairs  # also those that a split left out

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of `pairs`."""
        return len(self.pairs), 2

    @property
    def second(self) -> Any:
        """The table of the second row of each pair."""
        return self.X if self.Y is None else self.Y

    @property
    def sizes(self) -> tuple[int, int]:
        """The number of rows of each table."""
        return self.X.shape[0], self.second.shape[0]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, rows: Any) -> RowPairs:
        selected = RowPairs(self.pairs[selected_rows(rows, len(self))], self.X, self.Y)
        selected._all = self._all
        return selected

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise TypeError(
            "RowPairs: expected only in fit and score of SymmetricRelation and AsymmetricRelation"
        )

    def __repr__(self) -> str:
        tables = f"X of shape {self.X.shape}" + ("" if self.Y is None else f", Y of shape {self.Y.shape}")
        return f"RowPairs({len(self)} pairs, {tables})"


def values_of_pairs(values: Any, pairs: RowPairs) -> np.ndarray:
    """Return y as one finite number per pair."""
    found = check.numbers("y", host("y", values))
    if found.shape != (len(pairs),):
        check.fail("y", f"one value for each of {len(pairs)} pairs", f"shape {found.shape}")
    if len(found) == 0 or not np.isfinite(found).all():
        check.fail("y", "finite values, at least one", "NaN or infinite ones" if len(found) else "none")
    return found


def observed(pairs: RowPairs, values: np.ndarray, symmetric: bool) -> Any:
    """Return a sparse matrix with the value of each pair; of a pair that is given twice, the mean.

    With `symmetric`, pairs have no order, and the matrix is symmetric.
    """
    from scipy.sparse import csr_array

    n, m = pairs.sizes
    rows, columns = pairs.pairs.T
    if symmetric:
        rows, columns = np.minimum(rows, columns), np.maximum(rows, columns)
    keys, place, count = np.unique(rows * m + columns, return_inverse=True, return_counts=True)
    means = np.bincount(place, values, len(keys)) / count
    rows, columns = np.divmod(keys, m)
    if symmetric:
        apart = rows != columns
        rows, columns = np.append(rows, columns[apart]), np.append(columns, rows[apart])
        means = np.append(means, means[apart])
    return csr_array((means, (rows, columns)), shape=(n, m))


def known_elsewhere(pairs: RowPairs, symmetric: bool) -> Any:
    """Return a sparse matrix of ones at the pairs that a split left out, and are not among these."""
    whole = RowPairs(pairs._all, pairs.X, pairs.Y)
    known = observed(whole, np.ones(len(whole)), symmetric) - observed(pairs, np.ones(len(pairs)), symmetric)
    known.eliminate_zeros()
    return known
