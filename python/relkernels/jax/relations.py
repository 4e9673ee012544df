"""Relations, products and losses over them, and kernels of infinitely wide networks, on arrays of JAX."""

from __future__ import annotations

import math
from dataclasses import astuple
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import gradients, ops
from ..base import check, shapes
from ..maps import Activation
from ..ops import nngp
from ..ops.links import LINKS, as_columns
from ..ops.nngp import Recursion
from ._host import hosted
from ._operators import call, differentiable, like
from ._tracing import result_of
from .maps import Map, check_map, floats, mapped, points, widened


def both_features(
    x: Any, y: Any, phi: Map | None, psi: Map | None, names: tuple[str, str] = ("x", "y")
) -> tuple[jax.Array, jax.Array | None]:
    """Check the sides of a relation and map them; None for the second if it is the first."""
    x_name, y_name = names if y is not None else (names[0], names[0])
    x = points(x_name, x)
    other = x if y is None else points(y_name, y)
    check.same_dtype((x_name, x), (y_name, other))
    same_map = psi is None or psi is phi
    phi, psi = check_map("phi", phi), check_map("psi", psi)
    f = mapped(x_name, x, "phi", phi)
    if not same_map:
        return f, mapped(y_name, other, "psi", psi)
    return f, None if y is None else mapped(y_name, other, "phi", phi)


def factor(value: Any, dtype: Any, name: str = "scale") -> jax.Array:
    """Return a finite factor as an array of no dimensions; the value of a traced one is checked later."""
    if isinstance(value, (jax.Array, jax.core.Tracer)):
        if value.size != 1 or not jnp.issubdtype(value.dtype, jnp.floating):
            check.fail(name, "a number or an array of one float", f"{value.dtype} of shape {value.shape}")
        return value.reshape(()).astype(dtype)
    number = check.real(name, value)
    if not math.isfinite(number):
        check.fail(name, "a finite number", repr(value))
    return jnp.asarray(number, dtype)


class _Relation(NamedTuple):
    link: str
    heads: int


def relation_matrix(
    x: Any,
    y: Any = None,
    phi: Map | None = None,
    psi: Map | None = None,
    *,
    link: str = "identity",
    scale: Any = 1.0,
    heads: int = 1,
) -> jax.Array:
    """Return the inner products ``R_ij = scale * <phi(x_i), psi(y_j)>``, or a link of them, with gradients.

    Parameters
    ----------
    x : array of shape (..., n, d_x)
        Float32 or float64; or bfloat16 or float16, computed in float32.
    y : array of shape (..., m, d_y), optional
        None stands for `x`.
    phi, psi : MLP or callable, optional
        Maps of `x` and of `y`; None is the identity, and for `psi` the same as `phi`. Any function from
        (..., n, d_x) to (..., n, d) of the same dtype will do, such as the `apply` of another library's
        module with its parameters bound.
    link : str, default "identity"
        As in `relkernels.relation_matvec`.
    scale : float or array of one element, default 1.0
        Any finite number; at least 0 with a link of distances. An array has a gradient.
    heads : int, default 1
        If greater than 1, the features are split into this many groups, each with its own relation.

    Returns
    -------
    array of shape (..., n, m), or (..., heads, n, m) with more than one head

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it. Errors of shapes and dtypes are raised when
        JAX traces the call.

    Examples
    --------
    >>> import jax, relkernels.jax as rkj
    >>> x = jax.numpy.array([[1.0, 2.0], [3.0, 4.0]])
    >>> rkj.relation_matrix(x).tolist()
    [[5.0, 11.0], [11.0, 25.0]]
    >>> jax.grad(lambda x: rkj.relation_matrix(x).trace())(x).tolist()
    [[2.0, 4.0], [6.0, 8.0]]
    """
    f, g = both_features(x, y, phi, psi)
    options = _Relation(check.choice("link", link, LINKS), check.heads(heads, f.shape[-1]))
    return _relation_matrix(options, f, g, factor(scale, f.dtype)).astype(jnp.asarray(x).dtype)


def _matrix(o: _Relation, f: Any, g: Any, scale: Any) -> Any:
    result = result_of("relation_matrix", {"x": f, "y": g}, link=o.link, heads=o.heads)
    return call("relation_matrix", result, (2, 2, None), (f, g, scale), **o._asdict())


@hosted("relation_matrix", in_place=True)
def _matrix_on_host(f: Any, g: Any, scale: Any, *, out: Any, **options: Any) -> None:
    ops.relation_matrix(f, g, scale=float(scale), out=out, **options)


def _matrix_backward(o: _Relation, arrays: Any, out: Any, grad: Any) -> Any:
    result = like(*(a for a in arrays if a is not None))
    found = call("relation_matrix_vjp", result, (None,) * 4, (*arrays, grad), **o._asdict())
    return found if arrays[1] is not None else (found[0], None, found[1])


@hosted("relation_matrix_vjp")
def _matrix_vjp_on_host(f: Any, g: Any, scale: Any, grad: Any, **options: Any) -> Any:
    found = gradients.relation_matrix_vjp(f, g, grad, scale=float(scale), **options)
    sides = (a for a in (found.grad_x, found.grad_y) if a is not None)
    return *sides, found.grad_scale


_relation_matrix = differentiable(_matrix, _matrix_backward)


def relation_matvec(
    x: Any,
    y: Any,
    v: Any,
    phi: Map | None = None,
    psi: Map | None = None,
    *,
    link: str = "identity",
    scale: Any = 1.0,
) -> jax.Array:
    """Return ``sum_j link(scale * <phi(x_i), psi(y_j)>) v_j``, with gradients, the relation never stored.

    Parameters
    ----------
    x : array of shape (..., n, d_x)
    y : array of shape (..., m, d_y)
    v : array of shape (..., m) or (..., m, c)
        An array of fewer dimensions than `y` is one vector (..., m) per relation.
    phi, psi, link, scale
        As in `relation_matrix`.

    Returns
    -------
    array of shape (..., n) or (..., n, c)

    Raises
    ------
    TypeError, ValueError
        As in `relation_matrix`.

    Examples
    --------
    >>> import jax.numpy as jnp, relkernels.jax as rkj
    >>> x = jnp.array([[0.0], [1.0]])
    >>> [round(a, 4) for a in rkj.relation_matvec(x, x, jnp.array([1.0, 0.0]), link="gaussian").tolist()]
    [1.0, 0.6065]
    """
    y, v = points("y", y), floats("v", v, 1)
    f, g = both_features(x, y, phi, psi)
    check.same_dtype(("y", y), ("v", v))
    columns, single = as_columns(widened(v), y)
    out = _relation_matvec(check.choice("link", link, LINKS), f, g, columns, factor(scale, f.dtype))
    return (out[..., 0] if single else out).astype(v.dtype)


def _matvec(link: str, f: Any, g: Any, v: Any, scale: Any) -> Any:
    result = result_of("relation_matvec", {"x": f, "y": g, "v": v}, link=link)
    return call("relation_matvec", result, (2, 2, 2, None), (f, g, v, scale), link=link)


@hosted("relation_matvec", in_place=True)
def _matvec_on_host(f: Any, g: Any, v: Any, scale: Any, *, out: Any, link: str) -> None:
    lead = g.ndim - v.ndim
    columns = v.reshape((1,) * lead + v.shape) if lead > 0 else v  # fewer dimensions would be vectors
    ops.relation_matvec(f, g, columns, link=link, scale=float(scale), out=out)


def _matvec_backward(link: str, arrays: Any, out: Any, grad: Any) -> Any:
    return call("relation_matvec_vjp", like(*arrays), (None,) * 5, (*arrays, grad), link=link)


@hosted("relation_matvec_vjp")
def _matvec_vjp_on_host(f: Any, g: Any, v: Any, scale: Any, grad: Any, *, link: str) -> Any:
    lead = g.ndim - v.ndim
    columns = v.reshape((1,) * lead + v.shape) if lead > 0 else v
    found = gradients.relation_matvec_vjp(f, g, columns, grad, link=link, scale=float(scale))
    return found.grad_x, found.grad_y, found.grad_v.reshape(v.shape), found.grad_scale


_relation_matvec = differentiable(_matvec, _matvec_backward)


def relation_loss(
    x: Any,
    y: Any,
    target: Any,
    phi: Map | None = None,
    psi: Map | None = None,
    *,
    loss: str = "squared",
    scale: Any = 1.0,
    sample_weight: Any = None,
) -> jax.Array:
    """Return a loss over all pairs, with gradients, streaming over the pairs.

    Parameters
    ----------
    x : array of shape (n, d_x)
    y : array of shape (m, d_y) or None
        None stands for `x`.
    target : array or tuple of two arrays
        Relation values that broadcast to (n, m), or integer labels, as in `relkernels.relation_loss`. Has no
        gradient.
    phi, psi, scale
        As in `relation_matrix`.
    loss : {"squared", "logistic", "hinge", "softmax"}, default "squared"
    sample_weight : array of shape (n,) or (n, m), optional
        As in `relkernels.relation_loss`. Has no gradient.

    Returns
    -------
    array of shape ()

    Raises
    ------
    TypeError, ValueError
        As in `relation_matrix`; the shape of `target` is checked when the call runs.

    Examples
    --------
    >>> import jax, relkernels.jax as rkj
    >>> phi = rkj.MLP.random(jax.random.key(0), [8, 32, 4])
    >>> x, labels = jax.random.normal(jax.random.key(1), (1000, 8)), jax.numpy.arange(1000) % 10
    >>> grads = jax.grad(lambda phi: rkj.relation_loss(x, None, labels, phi, loss="softmax"))(phi)
    >>> grads.weights[0].shape
    (8, 32)
    """
    f, g = both_features(x, y, phi, psi)
    for name, features in (("x", f), ("y", f if g is None else g)):
        if features.ndim != 2 or features.shape[0] == 0:
            check.fail(name, "2 dimensions and at least one row", features.shape)
    if g is not None and f.shape[1] != g.shape[1]:
        check.fail("y", f"features as wide as those of x, {f.shape[1]}", g.shape[1])
    rows, columns = target if isinstance(target, tuple) and len(target) == 2 else (target, None)
    goals = [None if a is None else widened(jnp.asarray(a)) for a in (rows, columns)]
    weight = None if sample_weight is None else widened(floats("sample_weight", sample_weight, 1))
    kind = check.choice("loss", loss, gradients.LOSSES)
    value = _relation_loss(kind, f, g, factor(scale, f.dtype), *goals, weight)[0]
    return value.astype(jnp.asarray(x).dtype)


def _loss(loss: str, f: Any, g: Any, scale: Any, *constants: Any) -> Any:
    given = (f, g, scale, *constants)
    found = (jax.ShapeDtypeStruct((), f.dtype), *like(*(a for a in (f, g, scale) if a is not None)))
    return call("relation_loss", found, (None,) * len(given), given, loss=loss)


@hosted("relation_loss")
def _loss_on_host(f: Any, g: Any, scale: Any, rows: Any, columns: Any, weight: Any, *, loss: str) -> Any:
    target = rows if columns is None else (rows, columns)
    found = gradients.relation_loss(f, g, target, loss=loss, scale=float(scale), sample_weight=weight)
    sides = (a for a in (found.grad_x, found.grad_y) if a is not None)
    return found.value, *sides, found.grad_scale


def _loss_backward(loss: str, arrays: Any, out: Any, grad: Any) -> Any:
    of_f, *of_g, of_scale = (grad[0] * a for a in out[1:])
    return of_f, of_g[0] if of_g else None, of_scale, None, None, None


_relation_loss = differentiable(_loss, _loss_backward)


def nngp_kernel(
    x: Any,
    y: Any = None,
    *,
    depth: int = 1,
    activation: str | Activation = "relu",
    weight_std: float = math.sqrt(2),
    bias_std: float = 0.0,
    kind: str = "nngp",
) -> jax.Array:
    """Return the kernel of an infinitely wide random network, without gradients.

    Parameters
    ----------
    x : array of shape (..., n, d)
    y : array of shape (..., m, d), optional
        None stands for `x`.
    depth, activation, weight_std, bias_std, kind
        As in `relkernels.nngp_kernel`.

    Returns
    -------
    array of shape (..., n, m)

    Raises
    ------
    TypeError, ValueError
        As in `relation_matrix`.

    Examples
    --------
    >>> import jax.numpy as jnp, relkernels.jax as rkj
    >>> [[round(k, 4) for k in row] for row in rkj.nngp_kernel(jnp.eye(2)).tolist()]
    [[1.0, 0.3183], [0.3183, 1.0]]
    """
    x = points("x", x)
    other = x if y is None else points("y", y)
    check.same_dtype(("x", x), ("y", other))
    if x.shape[-1] != other.shape[-1]:
        check.fail("y", f"{x.shape[-1]} columns, as x has", other.shape)
    Recursion(depth, activation, weight_std, bias_std, kind)  # refuses what is not as above
    act = activation if isinstance(activation, Activation) else Activation(activation)
    wide = widened(x)
    shape = shapes.relation(shapes.leading(x.shape, other.shape), x.shape[-2], other.shape[-2])
    given = wide, None if y is None else widened(other)
    result = jax.ShapeDtypeStruct(shape, wide.dtype)
    k = call(
        "nngp_kernel", result, (2, 2), given, depth=int(depth), activation=astuple(act),
        weight_std=float(weight_std), bias_std=float(bias_std), kind=kind,
    )  # fmt: skip
    return k.astype(x.dtype)


@hosted("nngp_kernel", in_place=True)
def _nngp_on_host(x: Any, y: Any, *, out: Any, activation: tuple[str, float | None], **options: Any) -> None:
    act = Activation(*activation) if activation[1] is not None else activation[0]
    nngp.nngp_kernel(x, y, activation=act, out=out, **options)
