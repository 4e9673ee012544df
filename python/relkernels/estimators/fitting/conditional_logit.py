"""The conditional logit (McFadden 1974): a utility that is bilinear in query and item, by Newton's method.

With ``z = (1, query columns)`` and ``y = (item columns, one column per alternative)`` the utility is
``z' C y``: row 0 of C has the coefficients of the item columns and the constants of the alternatives, the
other rows those of their products with query columns. The mean loss over sets is convex in C.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse.linalg import LinearOperator, cg

from .sets import ItemSets

NEWTON_ITERATIONS = 100
# Entries of the matrix of products up to which it is stored, and products up to which the Hessian is computed
# from it; otherwise only products of the Hessian with vectors are.
_STORED = 20_000_000
_DENSE = 2_000_000_000
# The largest entry of the gradient of the mean loss at which a fit has settled, in standardised columns.
_GRADIENT = 1e-9
# Halvings of a step that does not lower the loss, after which the loss has reached its precision.
_HALVINGS = 30


class Solved(NamedTuple):
    """Coefficients, their loss with the penalty, and whether Newton's method has settled."""

    coefficients: np.ndarray
    loss: float
    n_iter: int
    settled: bool


class ConditionalLogit:
    """The mean loss of a bilinear utility over sets, for the coefficients that are `free`.

    Parameters
    ----------
    Q : ndarray of shape (b, d_q)
    sets : ItemSets
        With d_y columns.
    target : ndarray
        Probabilities of the items, stored as the sets are: (sum(sizes),), or (b, n) for a shared set.
    weight : ndarray of shape (b,), optional
    """

    def __init__(self, Q: np.ndarray, sets: ItemSets, target: np.ndarray, weight: np.ndarray | None) -> None:
        self.z = np.column_stack([np.ones(len(Q)), Q.astype(np.float64)])
        self.y = sets.items.astype(np.float64)
        self.shared = sets.shared
        self.sizes = sets.sizes
        self.starts = np.cumsum(self.sizes) - self.sizes
        self.owner = np.repeat(np.arange(len(Q)), self.sizes)
        self.target = target.ravel().astype(np.float64)
        weight = np.ones(len(Q)) if weight is None else weight.astype(np.float64)
        self.share = weight / weight.sum()
        self.total = float(weight.sum())
        self.shape = (self.z.shape[1], self.y.shape[1])

    def utilities(self, coefficients: np.ndarray) -> np.ndarray:
        """Return the utility of each item, set by set."""
        of_query = self.z @ coefficients
        if self.shared:
            return (of_query @ self.y.T).ravel()
        return np.einsum("ij,ij->i", of_query[self.owner], self.y)

    def losses(self, coefficients: np.ndarray) -> np.ndarray:
        """Return the loss of each set, without weights."""
        u = self.utilities(coefficients)
        return self._softmax(u)[1] - np.add.reduceat(self.target * u, self.starts)

    def fit(
        self,
        free: np.ndarray,
        penalty: np.ndarray,
        start: np.ndarray,
        max_iter: int = NEWTON_ITERATIONS,
    ) -> Solved:
        """Minimize the mean loss plus ``penalty / (2 * total weight) * coefficients**2``.

        A penalty of k is a normal prior of variance 1 / k. Coefficients that are not `free` are zero.
        """
        ridge = penalty[free] / self.total
        products = self._products(free)
        c = np.where(free, start, 0.0)
        loss, settled = self._penalized(c, free, ridge), False
        for n_iter in range(max_iter + 1):
            p = self._softmax(self.utilities(c))[0]
            slope = self._pull((p - self.target) * self.share[self.owner])[free] + ridge * c[free]
            if not np.abs(slope).max(initial=0.0) > _GRADIENT:
                settled = True
                break
            if n_iter == max_iter:
                break
            step = np.zeros(self.shape)
            step[free] = -self._newton(slope, p, free, ridge, products)
            for _ in range(_HALVINGS):
                trial = self._penalized(c + step, free, ridge)
                if trial < loss:
                    break
                step /= 2
            else:
                settled = True
                break
            c, loss = c + step, trial
        return Solved(c, float(loss), n_iter, settled)

    def hessian(self, coefficients: np.ndarray, free: np.ndarray) -> np.ndarray:
        """Return the second derivatives of the sum of the losses: the observed information."""
        p = self._softmax(self.utilities(coefficients))[0]
        n = int(free.sum())
        products = self._products(free)
        if products is not None:
            return self._curvature(p, products) * self.total
        columns = (self._curved(e, p, free) for e in np.eye(n))
        return np.stack(list(columns), axis=1) * self.total

    def _softmax(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the probability of each item and the logarithm of the mass of each set."""
        top = np.maximum.reduceat(u, self.starts)
        e = np.exp(u - top[self.owner])
        mass = np.add.reduceat(e, self.starts)
        return e / mass[self.owner], top + np.log(mass)

    def _penalized(self, c: np.ndarray, free: np.ndarray, ridge: np.ndarray) -> float:
        return float(self.share @ self.losses(c) + 0.5 * ridge @ np.square(c[free]))

    def _pull(self, slopes: np.ndarray) -> np.ndarray:
        """Return the derivative with respect to C from those with respect to the utilities."""
        if self.shared:
            return self.z.T @ (slopes.reshape(len(self.z), -1) @ self.y)
        return self.z.T @ np.add.reduceat(slopes[:, None] * self.y, self.starts)

    def _products(self, free: np.ndarray) -> np.ndarray | None:
        """Return the products of query and item columns that have a coefficient, unless they are many."""
        n = int(free.sum())
        if len(self.owner) * n > _STORED or len(self.owner) * n * n > _DENSE:
            return None
        row, column = np.nonzero(free)
        y = np.tile(self.y, (len(self.z), 1)) if self.shared else self.y
        return self.z[self.owner][:, row] * y[:, column]

    def _curvature(self, p: np.ndarray, products: np.ndarray) -> np.ndarray:
        weighted = (p * self.share[self.owner])[:, None] * products
        means = np.add.reduceat(p[:, None] * products, self.starts)
        return products.T @ weighted - means.T @ (self.share[:, None] * means)

    def _curved(self, v: np.ndarray, p: np.ndarray, free: np.ndarray) -> np.ndarray:
        """Return the Hessian times v."""
        c = np.zeros(self.shape)
        c[free] = v
        change = self.utilities(c)
        mean = np.add.reduceat(p * change, self.starts)
        return self._pull(p * (change - mean[self.owner]) * self.share[self.owner])[free]

    def _newton(
        self,
        slope: np.ndarray,
        p: np.ndarray,
        free: np.ndarray,
        ridge: np.ndarray,
        products: np.ndarray | None,
    ) -> np.ndarray:
        """Return the Hessian's inverse times the slope; in directions without curvature, zero."""
        if products is not None:
            h = self._curvature(p, products)
            h[np.diag_indices_from(h)] += ridge
            try:
                return np.linalg.solve(h, slope) if ridge.all() else _least_squares(h, slope)
            except np.linalg.LinAlgError:
                return _least_squares(h, slope)
        n = len(slope)
        operator = LinearOperator((n, n), matvec=lambda v: self._curved(v, p, free) + ridge * v)
        return cg(operator, slope, rtol=1e-2, maxiter=200)[0]


def _least_squares(h: np.ndarray, slope: np.ndarray) -> np.ndarray:
    return np.linalg.lstsq(h, slope, rcond=1e-12)[0]
