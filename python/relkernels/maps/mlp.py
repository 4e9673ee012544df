"""Multi-layer perceptrons: the feature maps phi and psi."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _core
from ..arrays import Array, host, operation
from ..arrays.engine import PROCESSOR, engine_of
from ..arrays.outputs import Destination
from ..arrays.sparse import SparseRows, is_sparse, sparse_rows
from ..base import check, shapes
from ..base.describe import described
from ..base.random_state import RandomStateLike, generator
from .activations import GAINS, Activation, resolve
from .files import Parts, read, write


def initial_deviation(activation: Activation, fan_in: int, hidden: bool) -> float:
    """Return the standard deviation of a layer's random weights, as `MLP.random` has it."""
    gain = GAINS[activation.name] if hidden else 1.0
    return math.sqrt(gain / fan_in)


class MLP:
    """A multi-layer perceptron: hidden layers activated, output linear or of unit length.

    ``h_0 = x``, ``h_l = act(h_{l-1} @ W_l + b_l)`` for the hidden layers, and
    ``phi(x) = h_{L-1} @ W_L + b_L``. Weights are copied and packed for the kernels once; an MLP does
    not change afterwards.

    Parameters
    ----------
    weights : sequence of ndarray
        ``weights[l]`` has shape (d_in, d_out); all float32 or all float64. Of NumPy or of any other library,
        in the host's memory.
    biases : sequence of ndarray, optional
        ``biases[l]`` has shape (d_out,); None for an MLP without biases.
    activation : str or Activation, default "relu"
        identity, relu, leaky_relu, gelu, gelu_tanh, silu, tanh, sigmoid, softplus, erf, sin, cos,
        gaussian (``exp(-z**2 / 2)``), sigma_1 (``relu(z) - relu(z - 1)``), or the result of
        `relu_power` or `leaky_relu`.
    normalize : bool, default False
        Divide the features of each row by their length, so that inner products are cosines. Features
        that are all 0 stay 0, with a gradient of 0.

    Attributes
    ----------
    weights, biases : tuple of ndarray
        Read-only copies of what was given (`biases` may be None).
    activation : Activation
    normalize : bool
    widths : tuple of int
        Width of the input, of each hidden layer and of the output.
    dtype : numpy.dtype
    n_neurons : int
        Number of hidden units.
    n_parameters : int
        Number of weights and biases.

    Raises
    ------
    TypeError
        If the arrays are not float32 or float64, or of more than one dtype.
    ValueError
        If the layers do not chain, a width is 0, or the weights are float32 and the activation has a
        parameter that float32 cannot hold.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> phi = rk.MLP([np.eye(2), np.ones((2, 1))], activation="relu")
    >>> phi(np.array([[1.0, -2.0], [3.0, 4.0]]))
    array([[1.],
           [7.]])
    >>> rk.MLP([np.array([[3.0, 4.0]])], normalize=True)(np.array([[2.0], [0.0]]))
    array([[0.6, 0.8],
           [0. , 0. ]])
    """

    __slots__ = (
        "__weakref__",
        "_handle",
        "activation",
        "biases",
        "dtype",
        "normalize",
        "weights",
        "widths",
    )

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...] | None
    activation: Activation
    normalize: bool
    widths: tuple[int, ...]
    dtype: np.dtype

    def __init__(
        self,
        weights: Sequence[Any],
        biases: Sequence[Any] | None = None,
        activation: str | Activation = "relu",
        *,
        normalize: bool = False,
    ) -> None:
        self.activation = resolve(activation)
        self.normalize = check.flag("normalize", normalize)
        self.weights = _layers("weights", weights, 2)
        if not self.weights:
            check.fail("weights", "at least one layer", "none")
        self.dtype = self.weights[0].dtype
        widths = [self.weights[0].shape[0]]
        for i, w in enumerate(self.weights):
            check.same_dtype(("weights[0]", self.weights[0]), (f"weights[{i}]", w))
            if w.shape[0] != widths[-1]:
                check.fail(f"weights[{i}]", f"{widths[-1]} rows, the width of the layer before", w.shape)
            if 0 in w.shape:
                check.fail(f"weights[{i}]", "widths of at least 1", w.shape)
            widths.append(w.shape[1])
        self.widths = tuple(widths)
        if self.activation.parameter is not None:
            check.held("activation.parameter", self.activation.parameter, self.dtype)
        self.biases = None
        if biases is not None:
            self.biases = _layers("biases", biases, 1)
            if len(self.biases) != len(self.weights):
                check.fail("biases", f"{len(self.weights)} arrays, one a layer", len(self.biases))
            for i, b in enumerate(self.biases):
                check.same_dtype(("weights[0]", self.weights[0]), (f"biases[{i}]", b))
                if b.shape != (widths[i + 1],):
                    check.fail(f"biases[{i}]", f"shape ({widths[i + 1]},)", b.shape)
        self._handle = _core.Mlp.pack(
            list(self.weights),
            None if self.biases is None else list(self.biases),
            self.activation.name,
            self.activation.parameter or 0.0,
            self.normalize,
        )

    @classmethod
    def random(
        cls,
        widths: Sequence[int],
        activation: str | Activation = "relu",
        random_state: RandomStateLike = None,
        dtype: Any = "float32",
        bias: bool = True,
        *,
        normalize: bool = False,
        seed: int | None = None,
    ) -> MLP:
        """Return an MLP with normal random weights and zero biases.

        Weights have variance 2 / d_in for relu, leaky_relu, relu_power, gelu, gelu_tanh and silu
        (He et al. 2015), 1 / d_in for the others (LeCun et al. 1998); those of the output layer,
        which no activation follows, always 1 / d_in.

        Parameters
        ----------
        widths : sequence of int
            Width of the input, of each hidden layer and of the output.
        activation : str or Activation, default "relu"
        random_state : int, Generator, RandomState or None, default None
            An int gives the same weights on every machine. A generator is drawn from, so that the next map
            differs. None gives new weights in every call.
        dtype : {"float32", "float64"}, default "float32"
        bias : bool, default True
        normalize : bool, default False
            As in `MLP`.
        seed : int, optional
            Another name for `random_state`.

        Returns
        -------
        MLP

        Raises
        ------
        TypeError, ValueError
            If an argument is not as above, or both `random_state` and `seed` are given.

        Examples
        --------
        >>> import relkernels as rk
        >>> rk.MLP.random([64, 256, 64], random_state=0).n_parameters
        33088
        """
        act = resolve(activation)
        sizes = check.widths("widths", widths)
        if len(sizes) < 2:
            check.fail("widths", "at least an input and an output width", str(sizes))
        kind = _dtype(dtype)
        if seed is not None:
            if random_state is not None:
                raise TypeError(
                    "seed: expected None where random_state is given, whose other name it is, got both"
                )
            rng = generator(check.integer("seed", seed, 0))
        else:
            rng = generator(random_state)
        weights = []
        for i, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:], strict=False)):
            w = rng.standard_normal((fan_in, fan_out)) * initial_deviation(act, fan_in, i < len(sizes) - 2)
            weights.append(w.astype(kind))
        biases = [np.zeros(n, kind) for n in sizes[1:]] if check.flag("bias", bias) else None
        return cls(weights, biases, act, normalize=normalize)

    @classmethod
    def from_torch(cls, sequential: Any, *, normalize: bool = False) -> MLP:
        """Return the MLP that a ``torch.nn.Sequential`` of linear layers computes.

        Parameters
        ----------
        sequential : torch.nn.Sequential
            ``Linear`` layers with one and the same activation between them (ReLU, LeakyReLU, GELU,
            SiLU, Tanh, Sigmoid, Softplus(beta=1), Identity or nothing) and none after the last.
            Dropout counts as absent, as in evaluation.
        normalize : bool, default False
            As in `MLP`: for a Sequential whose output goes through ``torch.nn.functional.normalize``.

        Returns
        -------
        MLP
            With copies of the weights, in their dtype.

        Raises
        ------
        TypeError
            If `sequential` is not a Sequential, or a layer has no equivalent here.
        ValueError
            If the activations differ, or follow the last layer.

        Examples
        --------
        >>> from torch import nn  # doctest: +SKIP
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))  # doctest: +SKIP
        >>> rk.MLP.from_torch(net).widths  # doctest: +SKIP
        (4, 8, 2)
        """
        from .torch_layers import read_sequential

        return cls(*read_sequential(sequential), normalize=normalize)

    @property
    def n_neurons(self) -> int:
        """Number of hidden units."""
        return sum(self.widths[1:-1])

    @property
    def n_parameters(self) -> int:
        """Number of weights and biases."""
        return sum(a.size for a in self.weights + (self.biases or ()))

    def __call__(self, x: Array) -> Array:
        """Return the features of points or of a single one: the same as ``feature_map(x, self)``."""
        return feature_map(x, self)

    def __repr__(self) -> str:
        bias = "" if self.biases is not None else ", no biases"
        parameter = "" if self.activation.parameter is None else f"({self.activation.parameter:g})"
        normalized = ", normalized" if self.normalize else ""
        return f"MLP(widths={self.widths}, {self.activation.name}{parameter}, {self.dtype}{bias}{normalized})"

    def __reduce__(self) -> tuple[Any, ...]:
        parts = (self.weights, self.biases, self.activation)
        return (_normalized, parts) if self.normalize else (MLP, parts)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the MLP to a safetensors file: data only, nothing that runs when it is read.

        Parameters
        ----------
        path : path-like
            The file appears whole or not at all; one that is there already is replaced.

        Raises
        ------
        OSError
            If the folder does not exist (FileNotFoundError), or the file cannot be written.

        Examples
        --------
        >>> import tempfile, os, relkernels as rk
        >>> path = os.path.join(tempfile.mkdtemp(), "phi.safetensors")
        >>> rk.MLP.random([3, 5, 2]).save(path)
        >>> rk.MLP.load(path).widths
        (3, 5, 2)
        """
        write(path, parts_of(self))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> MLP:
        """Read an MLP that `save` wrote.

        Parameters
        ----------
        path : path-like

        Returns
        -------
        MLP
            The same to the last bit.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is truncated, damaged or not an MLP, or holds anything else; the message says which.

        Examples
        --------
        >>> import relkernels as rk
        >>> rk.MLP.load("nowhere.safetensors")
        Traceback (most recent call last):
            ...
        FileNotFoundError: [Errno 2] No such file or directory: 'nowhere.safetensors'
        """
        with read(path) as parts:
            return from_parts(parts)


_core.set_map_class(MLP)


def _normalized(*parts: Any) -> MLP:
    """Return an MLP that normalizes: what a pickle calls."""
    return MLP(*parts, normalize=True)


def parts_of(mlp: MLP) -> Parts:
    """Return what a file keeps of an MLP."""
    return mlp.weights, mlp.biases, mlp.activation, mlp.normalize


def from_parts(parts: Parts) -> MLP:
    """Return the MLP that has these parts."""
    weights, biases, activation, normalize = parts
    return MLP(weights, biases, activation, normalize=normalize)


def check_mlp(name: str, value: Any, optional: bool = True) -> MLP | None:
    """Return `value` if it is an MLP, or None for the identity map if `optional`."""
    if (value is None and optional) or isinstance(value, MLP):
        return value
    wanted = "an MLP or None (the identity map)" if optional else "an MLP"
    raise TypeError(f"{name}: expected {wanted}, got {described(value)}")


def mapped_width(name: str, a: Any, map_name: str, phi: MLP | None) -> int:
    """Return the width of the features of `a` through `phi`."""
    if phi is None:
        return a.shape[-1]
    if a.shape[-1] != phi.widths[0]:
        raise ValueError(
            f"{name}: expected rows of {phi.widths[0]} features, the input of {map_name} (widths "
            f"{phi.widths}), got shape {a.shape}"
        )
    return phi.widths[-1]


def mapped_rows(name: str, x: Any, map_name: str, mlp: MLP) -> SparseRows:
    """Return the rows of a sparse matrix if `mlp` maps them."""
    rows = sparse_rows(name, x, mlp.dtype)
    check.same_dtype((name, rows), (map_name, mlp))
    mapped_width(name, rows, map_name, mlp)
    return rows


def sparse_features(
    name: str, x: Any, map_name: str, mlp: MLP, precision: str | None, out: Any = None
) -> np.ndarray:
    """Return `feature_map` of a sparse matrix."""
    rows = mapped_rows(name, x, map_name, mlp)
    rounding = PROCESSOR.precision(precision, rows.dtype)
    shape = (rows.shape[0], mlp.widths[-1])
    to = Destination(PROCESSOR, "feature_map", shape, rows.dtype, out, (name, rows.values))
    packed = PROCESSOR.packed(mlp, rounding)
    PROCESSOR.run("sparse_feature_map", *rows.arrays, mlp.weights[0], packed, rounding, to.array)
    result: np.ndarray = to.result()
    return result


def features(x: np.ndarray, phi: MLP | None) -> np.ndarray:
    """Return the features of `x`: `x` itself for the identity map."""
    return x if phi is None else feature_map(x, phi)


@operation("x", "out")
def feature_map(x: Array, mlp: MLP, *, precision: str | None = None, out: Array | None = None) -> Array:
    """Return the features of `x` through an MLP.

    Parameters
    ----------
    x : ndarray of shape (..., n, d_x), or (d_x,) for a single point
        Float32 or float64, of the MLP's dtype and input width. Or a matrix of `scipy.sparse` in CSR, CSC or
        COO format, of that dtype, integers or booleans.
    mlp : MLP
    precision : {"bf16"}, optional
        "bf16" rounds the factors of float32 products to bfloat16 and sums in float32; None multiplies in
        the arrays' own dtype. Bfloat16 arrays imply "bf16". The first layer of sparse rows is not rounded.
    out : ndarray of the result's shape, optional
        Where to write the result; may not overlap `x`.

    Returns
    -------
    ndarray of shape (..., n, d), or (d,) for a single point
        Each row depends only on its row of `x`, to the last bit.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.
    MemoryError
        If the output would not fit in memory.

    Notes
    -----
    The first layer of sparse rows sums rows of its weights, in time proportional to the number of stored
    entries: ``z_i = sum_j x_ij W[j] + b``. `x` is never made dense. Entries may be in any order; those stored
    twice are added, and a row without entries is the bias. An entry that is not stored does not multiply
    anything, so a NaN in its row of `W` has no effect, unlike for a stored zero.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> phi = rk.MLP.random([64, 256, 256, 64], activation="gelu")
    >>> rk.feature_map(np.ones((1000, 64), np.float32), phi).shape
    (1000, 64)
    >>> rk.feature_map(np.ones(64, np.float32), phi).shape
    (64,)
    >>> from scipy.sparse import eye_array
    >>> rk.feature_map(eye_array(64, dtype=np.float32, format="csr"), phi).shape
    (64, 64)
    """
    if is_sparse(x):
        check_mlp("mlp", mlp, optional=False)
        result: Any = sparse_features("x", x, "mlp", mlp, precision, out)
        return result
    points = check.features("x", x, 1)
    if not isinstance(mlp, MLP):
        check_mlp("mlp", mlp, optional=False)
    if points.dtype != mlp.dtype:
        check.same_dtype(("x", points), ("mlp", mlp))
    engine = engine_of(points)
    rounding = engine.precision(precision, points.dtype)
    shape = shapes.features(points.shape, mapped_width("x", points, "mlp", mlp))
    to = Destination(engine, "feature_map", shape, points.dtype, out, ("x", points))
    rows, written = (points[None], to.array[None]) if points.ndim == 1 else (points, to.array)
    engine.run("feature_map", rows, engine.packed(mlp, rounding), rounding, written)
    return to.result()


def _dtype(value: Any) -> np.dtype:
    """Return the dtype that arrays of weights may have."""
    try:
        kind = np.dtype(value) if isinstance(value, (str, type, np.dtype)) else None
    except (TypeError, ValueError):
        kind = None
    if kind is None or kind.char not in "fd" or not kind.isnative:
        got = described(value) if kind is None else str(kind)
        raise TypeError(f"dtype: expected {check.FLOATS}, got {got}")
    return kind


def _layers(name: str, arrays: Any, ndim: int) -> tuple[np.ndarray, ...]:
    """Read-only copies of a sequence of arrays."""
    if isinstance(arrays, np.ndarray) or not isinstance(arrays, Sequence):
        raise TypeError(f"{name}: expected a sequence of arrays, got {type(arrays).__name__}")
    copies = []
    for i, a in enumerate(arrays):
        label = f"{name}[{i}]"
        copy = check.floats(label, host(label, a), ndim, exact=True).copy(order="C")
        copy.flags.writeable = False
        copies.append(copy)
    return tuple(copies)
