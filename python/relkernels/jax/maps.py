"""Feature maps whose parameters JAX trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import gradients, maps, ops
from ..base import check
from ..base.describe import described
from ..maps.activations import Activation, resolve
from ._host import hosted
from ._operators import call, differentiable, like

# What maps (..., n, d_in) to (..., n, d): an MLP of either kind, or a function.
Map = Callable[[Any], Any]

_FLOATS = "float32, float64, bfloat16 or float16"


def floats(name: str, value: Any, ndim: int = 2) -> jax.Array:
    """Return an array of floats of at least `ndim` dimensions as one of JAX."""
    if not isinstance(value, (jax.Array, np.ndarray)):
        raise TypeError(f"{name}: expected an array of {_FLOATS}, got {described(value)}")
    a = jnp.asarray(value)
    if not jnp.issubdtype(a.dtype, jnp.floating):
        raise TypeError(f"{name}: expected {_FLOATS}, got an array of dtype {a.dtype} and shape {a.shape}")
    if a.ndim < ndim:
        check.fail(name, f"at least {ndim} dimension{'s' * (ndim != 1)}", f"shape {a.shape}")
    return a


def points(name: str, value: Any) -> jax.Array:
    """Return an array whose rows are points."""
    a = floats(name, value)
    if a.shape[-1] == 0:
        check.fail(name, "rows of at least one feature (last dimension > 0)", a.shape)
    return a


def widened(a: Any) -> Any:
    """Return 16-bit floats as float32, in which they are computed."""
    return a.astype(jnp.float32) if a.dtype in (jnp.bfloat16, jnp.float16) else a


@jax.tree_util.register_pytree_node_class
class MLP:
    """A multi-layer perceptron: `relkernels.MLP` as a pytree, whose leaves are its parameters.

    Parameters
    ----------
    weights : sequence of array
        ``weights[l]`` has shape (d_in, d_out).
    biases : sequence of array, optional
        ``biases[l]`` has shape (d_out,).
    activation : str or Activation, default "relu"
        Of the hidden layers, as in `relkernels.MLP`.
    normalize : bool, default False
        Divide the features of each row by their length.

    Attributes
    ----------
    weights : tuple of array
    biases : tuple of array or None
    activation : Activation
    normalize : bool

    Examples
    --------
    >>> import jax
    >>> from relkernels.jax import MLP
    >>> phi = MLP.random(jax.random.key(0), [64, 256, 16], activation="gelu")
    >>> phi(jax.numpy.ones((10, 64))).shape
    (10, 16)
    """

    def __init__(
        self,
        weights: Sequence[Any],
        biases: Sequence[Any] | None = None,
        activation: str | Activation = "relu",
        *,
        normalize: bool = False,
    ) -> None:
        self.weights = tuple(weights)
        self.biases = None if biases is None else tuple(biases)
        self.activation = resolve(activation)
        self.normalize = check.flag("normalize", normalize)

    @classmethod
    def random(
        cls,
        key: jax.Array,
        widths: Sequence[int],
        activation: str | Activation = "relu",
        *,
        bias: bool = True,
        normalize: bool = False,
        dtype: Any = jnp.float32,
    ) -> MLP:
        """Return a map with weights drawn at random, as `relkernels.MLP.random` scales them; biases are 0.

        Parameters
        ----------
        key : array
            Of `jax.random`.
        widths : sequence of int
            Width of the input, of each hidden layer and of the output.
        activation, normalize
            As in `MLP`.
        bias : bool, default True
        dtype : dtype, default float32

        Returns
        -------
        MLP
        """
        sizes = check.widths("widths", widths)
        if len(sizes) < 2:
            check.fail("widths", "at least an input and an output width", str(sizes))
        act, last = resolve(activation), len(sizes) - 2
        keys = jax.random.split(key, last + 1)
        weights = [
            maps.mlp.initial_deviation(act, n, i < last)
            * jax.random.normal(keys[i], (n, sizes[i + 1]), dtype)
            for i, n in enumerate(sizes[:-1])
        ]
        biases = [jnp.zeros(n, dtype) for n in sizes[1:]] if check.flag("bias", bias) else None
        return cls(weights, biases, act, normalize=normalize)

    @classmethod
    def from_mlp(cls, mlp: maps.MLP) -> MLP:
        """Return the parameters of a `relkernels.MLP`."""
        if not isinstance(mlp, maps.MLP):
            raise TypeError(f"mlp: expected a relkernels.MLP, got {described(mlp)}")
        biases = None if mlp.biases is None else map(jnp.asarray, mlp.biases)
        return cls(
            list(map(jnp.asarray, mlp.weights)),
            None if biases is None else list(biases),
            mlp.activation,
            normalize=mlp.normalize,
        )

    def to_mlp(self) -> maps.MLP:
        """Return the parameters as a `relkernels.MLP`."""
        biases = None if self.biases is None else [np.asarray(b) for b in self.biases]
        weights = [np.asarray(w) for w in self.weights]
        return maps.MLP(weights, biases, self.activation, normalize=self.normalize)

    def __call__(self, x: Any) -> jax.Array:
        """Return the features of `x`, as `relkernels.jax.feature_map`."""
        return _features("x", points("x", x), self)

    def tree_flatten(self) -> tuple[Any, Any]:
        """Return the parameters, and what JAX keeps fixed."""
        return (self.weights, self.biases), (self.activation, self.normalize)

    @classmethod
    def tree_unflatten(cls, fixed: Any, parameters: Any) -> MLP:
        """Return a map of parameters, which may be any leaves."""
        made = cls.__new__(cls)
        made.weights, made.biases = parameters
        made.activation, made.normalize = fixed
        return made

    def __repr__(self) -> str:
        shapes = [tuple(getattr(w, "shape", ())) for w in self.weights]
        return f"MLP(weights of shapes {shapes}, {self.activation.name})"


def check_map(name: str, value: Any, optional: bool = True) -> Any:
    """Return a map as a function: an MLP of either kind, or any other callable."""
    if value is None and optional:
        return None
    if isinstance(value, maps.MLP):
        return MLP.from_mlp(value)
    if callable(value) and not isinstance(value, type):
        return value
    raise TypeError(f"{name}: expected an MLP or a function{' or None' * optional}, got {described(value)}")


def mapped(x_name: str, x: jax.Array, name: str, phi: Map | None) -> jax.Array:
    """Return the features of points through a map, those of 16 bits widened."""
    if phi is None:
        return widened(x)
    if isinstance(phi, MLP):
        return _features(x_name, widened(x), phi, name)
    result = f"{name}({x_name})"
    features = points(result, phi(x))
    check.same_dtype((x_name, x), (result, features))
    if features.shape[:-1] != x.shape[:-1]:
        leading = ", ".join(str(n) for n in x.shape[:-1])
        check.fail(result, f"shape ({leading}, d), one row for each of {x_name}", features.shape)
    return widened(features)


def feature_map(x: Any, mlp: Map) -> jax.Array:
    """Return the features of `x` through a map, with gradients of `x` and of the map's parameters.

    Parameters
    ----------
    x : array of shape (..., n, d_x)
        Float32 or float64; or bfloat16 or float16, computed in float32.
    mlp : MLP
        Of this module or of relkernels, or a function from (..., n, d_x) to (..., n, d).

    Returns
    -------
    array of shape (..., n, d)

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.

    Examples
    --------
    >>> import jax, relkernels.jax as rkj
    >>> phi = rkj.MLP.random(jax.random.key(0), [3, 8, 2])
    >>> rkj.feature_map(jax.numpy.ones((5, 3)), phi).shape
    (5, 2)
    """
    x = points("x", x)
    return mapped("x", x, "mlp", check_map("mlp", mlp, optional=False)).astype(x.dtype)


def _features(x_name: str, x: jax.Array, phi: MLP, name: str = "mlp") -> jax.Array:
    weights = tuple(widened(jnp.asarray(w)) for w in phi.weights)
    biases = () if phi.biases is None else tuple(widened(jnp.asarray(b)) for b in phi.biases)
    wide = widened(x)
    width = wide.shape[-1]
    for i, w in enumerate(weights):
        check.same_dtype((x_name, wide), (f"{name}.weights[{i}]", w))
        if w.ndim != 2 or (i > 0 and w.shape[0] != width):
            check.fail(f"{name}.weights[{i}]", f"shape ({width}, d)", w.shape)
        if w.shape[0] != width:
            check.fail(x_name, f"rows of {w.shape[0]} features, the input of {name}", x.shape)
        width = w.shape[1]
    if biases and len(biases) != len(weights):
        check.fail(f"{name}.biases", f"one for each of the {len(weights)} weights", len(biases))
    for i, (b, w) in enumerate(zip(biases, weights, strict=False)):
        check.same_dtype((x_name, wide), (f"{name}.biases[{i}]", b))
        if b.shape != w.shape[1:]:
            check.fail(f"{name}.biases[{i}]", f"shape {w.shape[1:]}", b.shape)
    options = _Options(astuple(phi.activation), phi.normalize, len(weights))
    return _feature_map(options, wide, *weights, *biases).astype(x.dtype)


class _Options(NamedTuple):
    activation: tuple[str, float | None]
    normalize: bool
    layers: int


def _mlp(
    parameters: tuple[Any, ...], activation: tuple[str, float | None], normalize: bool, layers: int
) -> maps.MLP:
    biases = list(parameters[layers:]) or None
    return maps.MLP(list(parameters[:layers]), biases, Activation(*activation), normalize=normalize)


def _forward(options: _Options, x: Any, *parameters: Any) -> Any:
    width = parameters[options.layers - 1].shape[1]
    result = jax.ShapeDtypeStruct((*x.shape[:-1], width), x.dtype)
    leading = (2, *(None,) * len(parameters))
    return call("feature_map", result, leading, (x, *parameters), **options._asdict())


@hosted("feature_map", in_place=True)
def _forward_on_host(x: Any, *parameters: Any, out: Any, **options: Any) -> None:
    ops.feature_map(x, _mlp(parameters, **options), out=out)


def _backward(options: _Options, arrays: tuple[Any, ...], out: Any, grad: Any) -> Any:
    leading = (None,) * (len(arrays) + 1)
    return call("feature_map_vjp", like(*arrays), leading, (*arrays, grad), **options._asdict())


@hosted("feature_map_vjp")
def _backward_on_host(x: Any, *rest: Any, **options: Any) -> Any:
    *parameters, grad = rest
    grad_x, gradient = gradients.feature_map_vjp(x, _mlp(tuple(parameters), **options), grad)
    return (grad_x, *gradient.weights, *(gradient.biases or ()))


_feature_map = differentiable(_forward, _backward)
