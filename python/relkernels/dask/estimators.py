"""Estimators fitted to Dask arrays, a block of rows at a time."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import numpy as np
from sklearn.base import clone

from ..base import check
from ..estimators.base import TrainedEstimator
from ..estimators.fitting.training import AUTO_EPOCHS, Plateau
from ..estimators.ridge import Moments, RandomFeatureRidge
from ..states.consumers import State
from .arrays import aligned, array
from .graphs import tree_of_states


def fit(estimator: Any, X: Any, *arguments: Any, sample_weight: Any = None, epochs: int | None = None) -> Any:
    """Fit an estimator to Dask arrays.

    `RandomFeatureRidge` is solved directly: each block's moments are computed by a separate task and merged
    in a tree, and the solution equals that of all rows in memory, up to rounding. Any other estimator with
    ``partial_fit`` (`SymmetricRelation`, `AsymmetricRelation`, `PreferenceRetriever`, scikit-learn's)
    processes the blocks in order, one after the other, `epochs` times: the result is that of calling
    ``partial_fit`` with each block. A fitted estimator is trained further; to start anew, fit its
    `sklearn.base.clone`.

    Parameters
    ----------
    estimator : object
        Changed in place when everything has succeeded: after an error it is unchanged.
    X : dask.array.Array of shape (n_samples, n_features_in)
        Blocks of rows are the batches; features are rechunked into one chunk.
    *arguments
        Further arguments of ``partial_fit``, in its order. Dask arrays are rechunked along their first axis
        like X, and passed block by block; anything else is passed whole with each block.
    sample_weight : dask.array.Array of shape (n_samples,), optional
    epochs : int, optional
        Passes over the blocks. None means the estimator's `max_iter` (10 where that is "auto"), or one if it
        has none; an estimator with `loss_` and `tol` then stops as its own fit does, after 10 passes none of
        which improved the loss by `tol`. `RandomFeatureRidge` needs one.

    Returns
    -------
    object
        The estimator. On relkernels' estimators, `loss_`, `loss_curve_` and `n_iter_` are those of this call:
        one loss per pass, the mean over the blocks weighted by their rows. Attributes of a single table,
        `features_fit_` and `margins_`, are not set: pass the data to `retrieve` and `temperature_for`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or has unknown chunks; the message names it.

    Notes
    -----
    Steps of ``partial_fit`` depend on each other and cannot run in parallel: the gain is that only one block
    is in memory at a time. The estimator is sent with each step, which costs the scheduler some milliseconds:
    use blocks of many mini-batches.

    Examples
    --------
    >>> import dask.array as da, numpy as np, relkernels as rk
    >>> from relkernels.dask import fit
    >>> x = np.linspace(-1, 1, 400)[:, None]
    >>> X = da.from_array(x, chunks=(100, 1))
    >>> features = rk.MultiLayerRandomFeatures((128,), bias_std=1.0, random_state=0)
    >>> model = fit(rk.RandomFeatureRidge(features, alpha=1e-3), X, da.sin(3 * X[:, 0]))
    >>> model.score(x, np.sin(3 * x[:, 0])) > 0.999
    True
    """
    if not hasattr(estimator, "partial_fit"):
        raise TypeError(
            f"estimator: expected one with partial_fit, got {type(estimator).__name__} (with solver='lbfgs' "
            "relkernels' own have none)"
        )
    if epochs is not None:
        check.integer("epochs", epochs, 1)
    X = array("X", X)
    if X.ndim != 2 or X.shape[0] == 0:
        check.fail("X", "shape (n_samples, n_features_in), n_samples > 0", X.shape)
    if isinstance(estimator, RandomFeatureRidge):
        return _solve(estimator, X, *arguments, sample_weight=sample_weight)
    whole = dict(enumerate(arguments))
    cut = {i: array(f"arguments[{i}]", a) for i, a in whole.items() if isinstance(a, da.Array)}
    if sample_weight is not None:
        cut[len(arguments)] = array("sample_weight", sample_weight)
    for i, a in cut.items():
        _same_rows("sample_weight" if i == len(arguments) else f"arguments[{i}]", a, X)
    rows = tuple(size for size in X.chunks[0] if size)
    X = X.rechunk((rows, -1))
    cut = {i: a.rechunk((rows, *(-1 for _ in a.shape[1:]))) for i, a in cut.items()}
    fitted, curve = estimator, []
    passes, plateau = epochs, None
    if passes is None:
        most = getattr(estimator, "max_iter", 1)
        passes = AUTO_EPOCHS if most == "auto" else check.integer("estimator.max_iter", most, 1)
        plateau = Plateau(getattr(estimator, "tol", None) or 0.0)
    for _ in range(passes):
        losses: list[float] = []
        for block in range(len(rows)):
            given = {**whole, **{i: a.blocks[block] for i, a in cut.items()}}
            weight = given.pop(len(arguments), None)
            step = dask.delayed(_step, pure=False)(fitted, X.blocks[block], list(given.values()), weight)
            (fitted,) = dask.compute(step)
            if hasattr(fitted, "loss_"):
                losses.append(fitted.loss_)
        if losses:
            curve.append(float(np.average(losses, weights=rows)))
            if plateau is not None and plateau.reached(curve[-1]):
                break
    if isinstance(fitted, TrainedEstimator):
        fitted._keep_curves(curve, len(curve))
    estimator.__dict__.clear()
    estimator.__dict__.update(fitted.__dict__)
    return estimator


def _same_rows(name: str, a: da.Array, X: da.Array) -> da.Array:
    if a.ndim == 0 or a.shape[0] != X.shape[0]:
        check.fail(name, f"{X.shape[0]} rows, as X {X.shape}", f"shape {a.shape}")
    return a


def _step(estimator: Any, X: np.ndarray, arguments: list[Any], sample_weight: np.ndarray | None) -> Any:
    """Return a copy of the estimator trained on the block; a copy, because Dask may run a task twice."""
    weights = {} if sample_weight is None else {"sample_weight": sample_weight}
    return copy.deepcopy(estimator).partial_fit(X, *arguments, **weights)


@dataclass(frozen=True)
class _Moments:
    """The state of `tree_of_states` for blocks of rows of (X, y), which are its axis of columns."""

    def merge(self, a: Moments, b: Moments) -> Moments:
        return a.merge(b)

    def finish(self, moments: Moments) -> State:
        return np.array([moments.weight]), moments.mean[None], moments.second[None]


def _accept_rows(*blocks: Any, state: _Moments, phi: RandomFeatureRidge, psi: None) -> Moments:
    """Return the moments of a block; `phi` is the estimator, which is sent to workers like a map."""
    X, y, *weights, _, _ = blocks
    if not len(X):
        return Moments.init(phi.width)
    return copy.copy(phi).moments_of(X, y, weights[0] if weights else None)


def _solve(estimator: RandomFeatureRidge, X: da.Array, y: Any = None, *, sample_weight: Any) -> Any:
    """Solve the normal equations of all rows."""
    y = _same_rows("y", array("y", y), X)
    begun = clone(estimator).begin(np.zeros((1, X.shape[1]), X.dtype), y.shape[1:])
    operands = [(X, ("j", "e")), (y, ("j", "f")[: y.ndim])]
    if sample_weight is not None:
        operands.append((_same_rows("sample_weight", array("sample_weight", sample_weight), X), ("j",)))
    operands, chunks = aligned(operands)
    moments = tree_of_states(
        "random_feature_ridge",
        _accept_rows,
        _Moments(),
        operands,
        {**chunks, "i": (1,)},
        (dask.delayed(begun, pure=True, traverse=False), None),
        [((), np.dtype(float)), ((begun.width,), np.dtype(float)), ((begun.width,) * 2, np.dtype(float))],
    )
    (weight,), (mean,), (second,) = dask.compute(*moments)
    estimator.__dict__.update(begun.solve(Moments(float(weight), mean, second)).__dict__)
    return estimator
