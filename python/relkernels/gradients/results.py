"""What the gradients' functions return: they unpack as before, and carry more by name."""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np

from .. import _core
from ..base.result import Result

# An array of the kind that was passed in.
Array = TypeVar("Array")


class MLPGradient(NamedTuple):
    """Gradient with respect to the parameters of an MLP, layer by layer as in `MLP`.

    Its arrays are of the kind of the arrays that were passed, in the dtype of the MLP.

    Attributes
    ----------
    weights : list of ndarray
    biases : list of ndarray or None
        None for an MLP without biases.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> phi = rk.MLP.random([3, 4, 2], bias=False)
    >>> _, gradient = rk.feature_map_vjp(np.ones((5, 3), "f4"), phi, np.ones((5, 2), "f4"))
    >>> [w.shape for w in gradient.weights], gradient.biases
    ([(3, 4), (4, 2)], None)
    """

    weights: list[Any]
    biases: list[Any] | None


OfMap: TypeAlias = MLPGradient | None


class RelationGradients(Result, tuple[Array, Array | None, OfMap, OfMap], Generic[Array], unpacked=4):
    """Result of `relation_matrix_vjp`: unpacks into ``grad_x, grad_y, grad_phi, grad_psi``.

    Attributes
    ----------
    grad_x : ndarray of the shape of `x`, or None
        None for the gradients of `y` only.
    grad_y : ndarray of the shape of `y`, or None
        None where `y` is None: its part is then in `grad_x`. None for the gradients of `x` only.
    grad_phi, grad_psi : MLPGradient or None
        None for a map that is None; where `psi` stands for `phi`, its part is in `grad_phi`.
    grad_scale : float or None
        Derivative with respect to `scale`; for arrays on a CUDA device an array of shape () there. None for
        the gradients of `y` only.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> x, y = np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])
    >>> gradients = rk.relation_matrix_vjp(x, y, np.array([[1.0]]), scale=0.0)
    >>> gradients.grad_x, gradients.grad_scale
    (array([[0., 0.]]), 11.0)
    """

    grad_x: Array
    grad_y: Array | None
    grad_phi: OfMap
    grad_psi: OfMap
    grad_scale: Any


_core.set_gradients_class(RelationGradients)


class MatvecGradients(Result, tuple[Array, Array, Array, OfMap, OfMap], Generic[Array], unpacked=5):
    """Result of `relation_matvec_vjp`: unpacks into ``grad_x, grad_y, grad_v, grad_phi, grad_psi``.

    Attributes
    ----------
    grad_x, grad_y, grad_v : ndarray
        Of the shapes of `x`, `y` and `v`.
    grad_phi, grad_psi : MLPGradient or None
        None for a map that is None; where `psi` stands for `phi`, its part is in `grad_phi`.
    grad_scale : float
        Derivative with respect to `scale`.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> x, y, v = np.array([[0.0]]), np.array([[2.0]]), np.array([1.0])
    >>> gradients = rk.relation_matvec_vjp(x, y, v, np.array([1.0]), link="gaussian")
    >>> gradients.grad_x.round(4), gradients.grad_v.round(4), round(gradients.grad_scale, 4)
    (array([[0.2707]]), array([0.1353]), -0.2707)
    """

    grad_x: Array
    grad_y: Array
    grad_v: Array
    grad_phi: OfMap
    grad_psi: OfMap
    grad_scale: Any


class AttentionGradients(Result, tuple[Array, Array, Array, OfMap, OfMap], Generic[Array], unpacked=5):
    """Result of `attention_vjp`: unpacks into ``grad_q, grad_k, grad_v, grad_phi, grad_psi``.

    Attributes
    ----------
    grad_q, grad_k, grad_v : ndarray
        Of the shapes of `q`, `k` and `v`.
    grad_phi, grad_psi : MLPGradient or None
        None for a map that is None; where `psi` stands for `phi`, its part is in `grad_phi`.
    grad_scale : float
        Derivative with respect to `scale`, also where that was left to its default; for arrays on a CUDA
        device an array of shape () there.
    grad_bias : ndarray of the shape of `bias`, or None
        Summed over the dimensions along which the bias was broadcast; 0 for a pair that may not attend.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> q, k = np.array([[1.0]]), np.array([[0.0], [1.0]])
    >>> gradients = rk.attention_vjp(q, k, k, np.ones((1, 1)), scale=0.0)
    >>> gradients.grad_q, gradients.grad_scale
    (array([[0.]]), 0.25)
    """

    grad_q: Array
    grad_k: Array
    grad_v: Array
    grad_phi: OfMap
    grad_psi: OfMap
    grad_scale: Any
    grad_bias: Array | None


class AttentionScoresGradients(Result, tuple[Array, Array, OfMap, OfMap], Generic[Array], unpacked=4):
    """Result of `attention_scores_vjp`: unpacks into ``grad_q, grad_k, grad_phi, grad_psi``.

    Attributes
    ----------
    grad_q, grad_k : ndarray
        Of the shapes of `q` and `k`.
    grad_phi, grad_psi, grad_scale, grad_bias
        As in `AttentionGradients`.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> q, k = np.array([[1.0]]), np.array([[0.0], [1.0]])
    >>> gradients = rk.attention_scores_vjp(q, k, np.array([[0.0, 1.0]]), scale=0.0)
    >>> gradients.grad_k, gradients.grad_scale
    (array([[-0.],
           [ 0.]]), 0.25)
    """

    grad_q: Array
    grad_k: Array
    grad_phi: OfMap
    grad_psi: OfMap
    grad_scale: Any
    grad_bias: Array | None


class RelationalGradients(Result, tuple[Array, Array, Array, Array, Array], Generic[Array], unpacked=5):
    """Result of `relational_attention_vjp`: unpacks into ``grad_q, grad_k, grad_q_rel, grad_k_rel, grad_v``.

    Attributes
    ----------
    grad_q, grad_k, grad_q_rel, grad_k_rel, grad_v : ndarray
        Of the shapes of the arguments.
    grad_scale, grad_rel_scale : float
        Derivatives with respect to `scale` and `rel_scale`, also where these were left to their defaults.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> one, two = np.ones((1, 1, 1)), np.array([[[0.0], [1.0]]])
    >>> gradients = rk.relational_attention_vjp(one, two, one, two, two, one, one, scale=0.0)
    >>> gradients.grad_q_rel, gradients.grad_scale, gradients.grad_rel_scale
    (array([[[0.5]]]), 0.5, 0.5)
    """

    grad_q: Array
    grad_k: Array
    grad_q_rel: Array
    grad_k_rel: Array
    grad_v: Array
    grad_scale: Any
    grad_rel_scale: Any


class LossGradients(Result, tuple[float, OfMap, OfMap], Generic[Array], unpacked=3):
    """Result of `relation_loss`: unpacks into ``value, grad_phi, grad_psi``.

    Attributes
    ----------
    value : float
    grad_phi, grad_psi : MLPGradient or None
        None for a map that is None; where `psi` stands for `phi`, its part is in `grad_phi`.
    grad_x : ndarray of shape (n, d_x)
    grad_y : ndarray of shape (m, d_y) or None
        None where `y` is None: its part is then in `grad_x`.
    grad_scale : float
        Derivative with respect to `scale`.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> x = np.array([[1.0, 0.0], [0.0, 2.0]])
    >>> loss = rk.relation_loss(x, x, np.array([0, 1]))
    >>> loss.value, loss.grad_x, loss.grad_scale
    (2.25, array([[0., 0.],
           [0., 3.]]), 6.0)
    """

    value: float
    grad_phi: OfMap
    grad_psi: OfMap
    grad_x: Array
    grad_y: Array | None
    grad_scale: float


class FeatureLoss(Result, tuple[float, np.ndarray, np.ndarray], unpacked=3):
    """Result of `feature_loss`: unpacks into ``value, grad_f, grad_g``.

    Attributes
    ----------
    value : float
    grad_f, grad_g : ndarray of the shapes of `f` and `g`
    grad_scale : float
        Derivative with respect to `scale`.

    Examples
    --------
    >>> import numpy as np
    >>> from relkernels.gradients import feature_loss
    >>> f = np.array([[1.0, 0.0], [0.0, 2.0]])
    >>> feature_loss(f, f.copy(), np.eye(2), "squared", scale=0.5).grad_scale
    1.75
    """

    value: float
    grad_f: np.ndarray
    grad_g: np.ndarray
    grad_scale: float
