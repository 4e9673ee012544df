"""Uses of a learned utility: selection, attention, temperatures, checks of consistency."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logsumexp
from sklearn.utils.validation import check_is_fitted

from ..base import check
from ..base.random_state import RandomStateLike, legacy_generator
from ..maps.mlp import MLP
from ..ops import attention, relation_matrix, retrieve
from .consistency import Continuity, Transitivity, continuity, transitivity
from .fitting.choice_samples import chosen_items
from .fitting.problems import Weight
from .fitting.sets import ItemSets

if TYPE_CHECKING:
    from ..bounds import Margin

# Queries per block of utilities in memory.
_BLOCK = 256


class UtilityMixin:
    """Adds to an estimator the uses of its utility ``<phi(q), psi(x)>``.

    Subclasses have `_read`, which checks queries and sets, and call `_keep_margins` after each fit. All
    methods take `alternatives` and `available` as `fit` does.
    """

    phi_: MLP
    psi_: MLP
    margins_: np.ndarray
    n_best_: np.ndarray
    set_sizes_: np.ndarray
    _gaps: np.ndarray | None
    _weights: Callable[[Any, np.ndarray], Weight]

    def _read(
        self,
        Q: Any,
        sets: Any,
        alternatives: Any = None,
        available: Any = None,
        *,
        reset: bool = False,
        name: str = "sets",
    ) -> tuple[np.ndarray, ItemSets]:
        """Return queries and sets as the maps take them; with `reset`, those of a new fit."""
        raise NotImplementedError

    def _keep_margins(self, Q: np.ndarray, sets: ItemSets, partial: bool) -> None:
        """Keep the margins of the sets of a fit; after `partial_fit` none hold for all batches."""
        for name in ("margins_", "n_best_", "set_sizes_", "_gaps"):
            self.__dict__.pop(name, None)
        if not partial:
            margin = self._measured(Q, sets)
            self.margins_, self.n_best_, self.set_sizes_ = margin.per_set, margin.n_best, margin.sizes
            self._gaps = margin.profile

    def _kept(self) -> Margin:
        """Return the margins that the last fit kept."""
        from ..bounds import Margin

        least = float(self.margins_.min())
        # Models pickled by earlier versions have no gaps.
        return Margin(least, self.margins_, self.n_best_, self.set_sizes_, getattr(self, "_gaps", None))

    def _measured(self, Q: np.ndarray, sets: ItemSets) -> Margin:
        """Return the margins of sets."""
        from ..bounds import margin_of
        from ..bounds.margins import joined

        measured = []
        for begin in range(0, len(Q), _BLOCK):
            rows = np.arange(begin, min(begin + _BLOCK, len(Q)))
            measured.append(margin_of(self._utilities(Q[rows], sets.select(rows))))
        return joined(measured)

    def _utilities(self, Q: np.ndarray, sets: ItemSets) -> Any:
        """Return (b, n) utilities, or a list of b arrays if the sets differ in size."""
        items, mask = sets.padded()
        if sets.shared:
            return relation_matrix(Q, items, self.phi_, self.psi_)
        values = relation_matrix(Q[:, None, :], items, self.phi_, self.psi_)[:, 0]
        if mask is None:
            return values
        return [row[:size] for row, size in zip(values, sets.sizes, strict=True)]

    def utility(self, Q: Any, X: Any, *, alternatives: Any = None, available: Any = None) -> Any:
        """Return the utilities of items.

        Parameters
        ----------
        Q : array-like of shape (b, n_features_in)
        X : array-like of shape (b, n, d_x), list of b arrays (n_i, d_x), or array-like (n, d_x)
        alternatives, available : as in `fit`

        Returns
        -------
        ndarray of shape (b, n), or a list of b arrays of shape (n_i,)
            -inf for items that are not `available`. The probability of a choice is the softmax over its set,
            with `normalize` of utilities divided by `temperature_`.
        """
        Q, sets = self._read(Q, X, alternatives, available, name="X")
        return sets.as_given(self._utilities(Q, sets))

    def select(self, Q: Any, sets: Any, *, alternatives: Any = None, available: Any = None) -> np.ndarray:
        """Return the most preferred item of each set, the first of those that are equal.

        Parameters
        ----------
        Q : array-like of shape (b, n_features_in)
        sets : as in `fit`
        alternatives, available : as in `fit`

        Returns
        -------
        ndarray of int of shape (b,)
            Places in the sets.
        """
        Q, sets = self._read(Q, sets, alternatives, available)
        return sets.place_in_given(self._selected(Q, sets))

    def _selected(self, Q: np.ndarray, sets: ItemSets) -> np.ndarray:
        items, mask = sets.padded()
        if sets.shared:
            return retrieve(Q, items, 1, self.phi_, self.psi_)[1][:, 0]
        return retrieve(Q[:, None, :], items, 1, self.phi_, self.psi_, mask=mask)[1][:, 0, 0]

    def score(
        self,
        Q: Any,
        sets: Any,
        chosen: Any = None,
        sample_weight: Any = None,
        *,
        alternatives: Any = None,
        available: Any = None,
    ) -> float:
        """Return the fraction of queries whose most preferred item equals the chosen one.

        Parameters
        ----------
        Q, sets, chosen : as in `fit`
        sample_weight : array-like of shape (b,), optional
        alternatives, available : as in `fit`

        Returns
        -------
        float
        """
        Q, sets = self._read(Q, sets, alternatives, available)
        index = chosen_items(sets, chosen, Q)
        found = self._selected(Q, sets)
        same = (sets.items[sets.starts + found] == sets.items[sets.starts + index]).all(axis=1)
        return float(np.average(same, weights=self._weights(sample_weight, Q)))

    def log_loss(
        self,
        Q: Any,
        sets: Any,
        chosen: Any = None,
        sample_weight: Any = None,
        *,
        alternatives: Any = None,
        available: Any = None,
    ) -> float:
        """Return the mean negative log-likelihood of choices: probabilities are the softmax of utilities.

        With `normalize`, utilities are divided by `temperature_` first.

        Parameters
        ----------
        Q, sets, chosen : as in `fit`
        sample_weight : array-like of shape (b,), optional
        alternatives, available : as in `fit`

        Returns
        -------
        float
            The logarithm of the size of the sets, if all items are equally likely.

        See Also
        --------
        relkernels.metrics.choice_log_loss_scorer : The same for searches and cross-validation.
        """
        Q, sets = self._read(Q, sets, alternatives, available)
        index = chosen_items(sets, chosen, Q)
        temperature = getattr(self, "temperature_", 1.0)
        rows = zip(self._utilities(Q, sets), index, strict=True)
        losses = [float(logsumexp(row / temperature) - row[i] / temperature) for row, i in rows]
        return float(np.average(losses, weights=self._weights(sample_weight, Q)))

    def attend(
        self,
        Q: Any,
        sets: Any,
        V: Any,
        beta: float,
        *,
        alternatives: Any = None,
        available: Any = None,
    ) -> np.ndarray:
        """Return attention over each set: values weighted by softmax(beta * utility).

        Parameters
        ----------
        Q : array-like of shape (b, n_features_in)
        sets : as in `fit`
        V : array-like of shape (b, n, d_v), list of b arrays (n_i, d_v), or of a shared set (n, d_v)
            Values of the items.
        beta : float
            Inverse temperature, finite and >= 0; see `temperature_for`.
        alternatives, available : as in `fit`

        Returns
        -------
        ndarray of shape (b, d_v)
        """
        Q, sets = self._read(Q, sets, alternatives, available)
        if not 0 <= check.real("beta", beta) < np.inf:
            check.fail("beta", "a finite number >= 0", repr(beta))
        values = ItemSets.read("V", V, len(Q), Q.dtype)
        if available is not None:
            values = values.of_available("available", available)
        if values.shared != sets.shared or not np.array_equal(values.sizes, sets.sizes):
            wanted, got = (f"{'one set' if s.shared else 'sets'} of {s.sizes} items" for s in (sets, values))
            check.fail("V", f"a value for each item: {wanted}", got)
        items, mask = sets.padded()
        if sets.shared:
            return attention(Q, items, values.items, self.phi_, self.psi_, scale=float(beta))
        v, _ = values.padded()
        out = attention(Q[:, None, :], items, v, self.phi_, self.psi_, scale=float(beta), mask=mask)
        return out[:, 0]

    def temperature_for(
        self,
        eps: float,
        coverage: float = 1.0,
        Q: Any = None,
        sets: Any = None,
        *,
        alternatives: Any = None,
        available: Any = None,
        confidence: float | None = None,
    ) -> float:
        """Return the inverse temperature for which `attend` has accuracy `eps`.

        Attention then differs from the value of the most preferred item by at most `eps` times the diameter
        of the values, on all of the sets (with `coverage` 1) and on others with such utilities.

        Parameters
        ----------
        eps : float
            Accuracy as a fraction of the diameter of the values, between 0 and 1.
        coverage : float, default 1.0
            Fraction of the sets for which the accuracy holds, those with the largest margins: a few sets with
            a margin near zero may require a very large inverse temperature.
        Q : array-like of shape (b, n_features_in), optional
        sets : as in `fit`, optional
            None means the training sets of the last `fit`. Required after `partial_fit`, which sees one batch
            at a time and changes the utilities of earlier batches.
        alternatives, available : as in `fit`
        confidence : float, optional
            If given, `coverage` holds with this probability for new sets from the distribution of `sets`,
            which are then required and must not have been used to fit. It needs `coverage` < 1 and many sets.

        Returns
        -------
        float
            ``beta`` of `attend`.

        See Also
        --------
        relkernels.bounds.attention : The bound, applied to the gaps of utility in each set.
        relkernels.bounds.attention_coverage : The probability of such an error at a given temperature.
        """
        from ..bounds import attention as attention_bound
        from ..bounds.margins import confidence_level, order_for

        check_is_fitted(self)
        share = check.real("coverage", coverage)
        if not 0 < share <= 1:
            check.fail("coverage", "a fraction in (0, 1]", repr(coverage))
        if not 0 < check.real("eps", eps) < 1:
            check.fail("eps", "a fraction of the diameter in (0, 1)", repr(eps))
        if (Q is None) != (sets is None):
            check.fail("sets" if sets is None else "Q", "both Q and sets, or neither", "None")
        if confidence is not None and Q is None:
            check.fail("Q", "queries and sets that were not used to fit, for a confidence", "None")
        if Q is not None:
            measured = self._measured(*self._read(Q, sets, alternatives, available))
        elif hasattr(self, "margins_"):
            measured = self._kept()
        else:
            check.fail("Q", "queries and their sets after partial_fit, which keeps no margins", "None")
        needed = np.sort(attention_bound(measured, None, 1.0, float(eps)).details["per_set"])
        if confidence is None:
            return float(needed[int(np.ceil(share * len(needed))) - 1])
        order = order_for(len(needed), share, confidence_level("confidence", confidence))
        if order is None:
            check.fail("coverage", f"less, or more than {len(needed)} sets, for this confidence", share)
        return float(needed[order - 1])

    def check_transitivity(
        self,
        Q: Any,
        sets: Any,
        n_triples: int = 1000,
        random_state: RandomStateLike = None,
        *,
        alternatives: Any = None,
        available: Any = None,
    ) -> Transitivity:
        """Look for cyclic preferences.

        Items of random triples are compared in pairs, each pair as a separate set.

        Parameters
        ----------
        Q : array-like of shape (b, n_features_in)
        sets : as in `fit`
            Sets of fewer than three items are skipped.
        n_triples : int, default 1000
        random_state : int, Generator, RandomState or None, default None
        alternatives, available : as in `fit`

        Returns
        -------
        Transitivity
            Numbers of triples, of violations and of incomparable triples.
        """
        Q, sets = self._read(Q, sets, alternatives, available)
        count = check.integer("n_triples", n_triples, 1, check.WIDEST)
        return transitivity(Q, sets, self.phi_, self.psi_, count, legacy_generator(random_state))

    def check_continuity(
        self,
        Q: Any,
        sets: Any,
        radius: float = 1e-2,
        n_directions: int = 4,
        random_state: RandomStateLike = None,
        *,
        alternatives: Any = None,
        available: Any = None,
    ) -> Continuity:
        """Measure how much utilities and selections change when queries are moved slightly.

        Parameters
        ----------
        Q : array-like of shape (b, n_features_in)
        sets : as in `fit`
        radius : float, default 1e-2
            Distance that each query is moved.
        n_directions : int, default 4
            Random directions per query.
        random_state : int, Generator, RandomState or None, default None
        alternatives, available : as in `fit`

        Returns
        -------
        Continuity
            The largest slope measured, the bound that the weights guarantee, and the fractions of selections
            that changed and that cannot change.
        """
        Q, sets = self._read(Q, sets, alternatives, available)
        if not 0 < check.real("radius", radius) < np.inf:
            check.fail("radius", "a finite number > 0", repr(radius))
        count = check.integer("n_directions", n_directions, 1)
        rng = legacy_generator(random_state)
        return continuity(Q, sets, self.phi_, self.psi_, float(radius), count, rng)
