"""`RelationValues`: a matrix of relation values as a target that is split together with its table."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..base import check
from .checks import matrix, selected_rows, table


class RelationValues:
    """Relation values between the rows of a table, or from them to a second table, as the target y.

    scikit-learn's splitters select rows of X and of y. A matrix of values between the rows of X also needs
    the columns of these rows, which only this class selects: ``RelationValues(R)[rows]`` has the values
    ``R[rows][:, rows]``. It is a valid y of `fit` and `score` of `SymmetricRelation` and
    `AsymmetricRelation`, and so of `cross_val_score`, `GridSearchCV`, `learning_curve`, `train_test_split`
    and so on.

    Parameters
    ----------
    values : array-like or sparse matrix of shape (n, n), or (n, m) with Y
        Relation values, as `fit` takes them: of a sparse matrix the stored entries are the observed ones.
    Y : array-like or sparse matrix of shape (m, n_features_y), optional
        The second table of `AsymmetricRelation`. Selected rows of X then keep all columns, so that new rows
        of X are tested with the same rows of Y. None means X itself.

    Attributes
    ----------
    values : ndarray, or sparse matrix in CSR format
    Y : the second table, or None
    shape : (int, int)
        That of `values`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Examples
    --------
    >>> import numpy as np
    >>> from relkernels import RelationValues, SymmetricRelation
    >>> from sklearn.model_selection import cross_val_score
    >>> X = np.random.default_rng(0).standard_normal((90, 3))
    >>> R = np.exp(-np.square(X[:, None] - X).sum(axis=2) / 20)
    >>> scores = cross_val_score(SymmetricRelation(random_state=0), X, RelationValues(R), cv=3)
    >>> bool(scores.min() > 0.95)  # R² over pairs of held-out rows
    True
    """

    def __init__(self, values: Any, Y: Any = None) -> None:
        self.values = matrix("values", values)
        self.Y = None if Y is None else table("Y", Y)
        self.shape: tuple[int, int] = self.values.shape
        n, m = self.shape
        if self.Y is None and n != m:
            check.fail("values", "a square matrix, between the rows of X, unless Y is given", self.shape)
        if self.Y is not None and self.Y.shape[0] != m:
            check.fail("Y", f"{m} rows, one per column of values {self.shape}", f"shape {self.Y.shape}")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> RelationValues:
        rows = selected_rows(rows, len(self))
        if self.Y is not None:
            return RelationValues(self.values[rows], self.Y)
        if isinstance(self.values, np.ndarray):
            return RelationValues(self.values[np.ix_(rows, rows)])
        return RelationValues(self.values[rows][:, rows])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise TypeError("RelationValues: expected only as y of SymmetricRelation and AsymmetricRelation")

    def __repr__(self) -> str:
        kind = "" if isinstance(self.values, np.ndarray) else ", sparse"
        return f"RelationValues(shape={self.shape}{kind}{'' if self.Y is None else ', with Y'})"
