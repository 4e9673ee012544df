"""
Compiled kernels of relkernels. Arguments are checked by the Python functions above.
"""
from __future__ import annotations
import collections.abc
import numpy
import numpy.typing
import typing
__all__: list[str] = ['ACTIVATIONS', 'DlpackTensor', 'Dual', 'FoundPairs', 'LINKS', 'LINKS_OF_DISTANCE', 'LOSSES', 'Mlp', 'angle_octaves', 'angle_terms', 'attention', 'attention_scores', 'attention_scores_vjp', 'attention_vjp', 'available_isas', 'build_info', 'cpu_info', 'encode_keys', 'feature_map', 'feature_map_backward', 'feature_map_forward', 'feature_map_vjp', 'find_openmp', 'get_num_threads', 'isa', 'measure_ceiling', 'narrow', 'nngp_diagonal', 'nngp_kernel', 'normalize', 'normalize_vjp', 'ordinary', 'philox', 'random_features', 'random_normals', 'read_tensors', 'relation_loss', 'relation_matrix', 'relation_matrix_vjp', 'relation_matvec', 'relation_matvec_vjp', 'relational_attention', 'relational_attention_vjp', 'retrieve', 'retrieve_above', 'set_gradients_class', 'set_map_class', 'set_num_threads', 'sparse_feature_map', 'sparse_feature_map_vjp', 'use_openmp', 'vector_math', 'whole_operator', 'xla_handler']
class DlpackTensor:
    """
    A tensor taken from a DLPack capsule, kept as long as this object.
    """
    @staticmethod
    def take(capsule: typing.Any) -> DlpackTensor:
        ...
    def numpy(self) -> numpy.ndarray:
        ...
    @property
    def copied(self) -> bool:
        ...
    @property
    def device(self) -> tuple[int, int]:
        ...
    @property
    def dtype(self) -> str:
        ...
    @property
    def pointer(self) -> int:
        ...
    @property
    def read_only(self) -> bool:
        ...
    @property
    def shape(self) -> tuple:
        ...
    @property
    def strides(self) -> tuple:
        ...
class Mlp:
    """
    Packed weights of a multi-layer perceptron.
    """
    @staticmethod
    def pack(weights: collections.abc.Sequence[numpy.ndarray], biases: collections.abc.Sequence[numpy.ndarray] | None, activation: str, parameter: typing.SupportsFloat | typing.SupportsIndex, normalize: bool) -> Mlp:
        ...
class Dual:
    """
    The dual of an activation, E[a(u) a(v)].
    """
    @staticmethod
    def closed_form(name: str, parameter: typing.SupportsFloat | typing.SupportsIndex) -> Dual:
        ...
    @staticmethod
    def relu_power(exponent: typing.SupportsFloat | typing.SupportsIndex, square_mean: typing.SupportsFloat | typing.SupportsIndex, slope_square_mean: typing.SupportsFloat | typing.SupportsIndex, eta: numpy.ndarray, eta_slope: numpy.ndarray) -> Dual:
        ...
    @staticmethod
    def series(activation: str, constant: typing.SupportsFloat | typing.SupportsIndex, linear: typing.SupportsFloat | typing.SupportsIndex, slope_constant: typing.SupportsFloat | typing.SupportsIndex, is_odd: bool, nodes: numpy.ndarray, even: numpy.ndarray, odd: numpy.ndarray, base: typing.SupportsFloat | typing.SupportsIndex, rate: typing.SupportsFloat | typing.SupportsIndex, reach: typing.SupportsFloat | typing.SupportsIndex) -> Dual:
        ...
class FoundPairs:
    def write(self, offsets: numpy.ndarray, indices: numpy.ndarray, values: numpy.ndarray) -> None:
        ...
    @property
    def total(self) -> int:
        ...
def attention(q: numpy.ndarray, k: numpy.ndarray, v: numpy.ndarray, phi: Mlp, psi: Mlp, precision: str | None, scale: typing.SupportsFloat | typing.SupportsIndex, mask: numpy.ndarray | None, band: tuple[int | None, int | None], bias: numpy.ndarray | None, softcap: typing.SupportsFloat | typing.SupportsIndex | None, out: numpy.ndarray, lse: numpy.ndarray | None, ragged: tuple[numpy.ndarray, numpy.ndarray, bool] | None = None) -> None:
    ...
def attention_scores(q: numpy.ndarray, k: numpy.ndarray, phi: Mlp, psi: Mlp, precision: str | None, scale: typing.SupportsFloat | typing.SupportsIndex, mask: numpy.ndarray | None, band: tuple[int | None, int | None], bias: numpy.ndarray | None, softcap: typing.SupportsFloat | typing.SupportsIndex | None, out: numpy.ndarray) -> None:
    ...
def attention_scores_vjp(f: numpy.ndarray, g: numpy.ndarray, mask: numpy.ndarray | None, band: tuple[int | None, int | None], bias: numpy.ndarray | None, softcap: typing.SupportsFloat | typing.SupportsIndex | None, scale: typing.SupportsFloat | typing.SupportsIndex, grad: numpy.ndarray, grad_f: numpy.ndarray, grad_g: numpy.ndarray, grad_bias: numpy.ndarray | None, grad_scale: numpy.ndarray | None) -> None:
    ...
def attention_vjp(f: numpy.ndarray, g: numpy.ndarray, v: numpy.ndarray, mask: numpy.ndarray | None, band: tuple[int | None, int | None], bias: numpy.ndarray | None, softcap: typing.SupportsFloat | typing.SupportsIndex | None, scale: typing.SupportsFloat | typing.SupportsIndex, out: numpy.ndarray, lse: numpy.ndarray, grad: numpy.ndarray, grad_lse: numpy.ndarray | None, grad_f: numpy.ndarray, grad_g: numpy.ndarray, grad_v: numpy.ndarray, grad_bias: numpy.ndarray | None, grad_scale: numpy.ndarray | None, ragged: tuple[numpy.ndarray, numpy.ndarray, bool] | None = None) -> None:
    ...
def available_isas() -> list[str]:
    """
    Instruction sets this processor can run, best first.
    """
def build_info() -> dict:
    """
    Version, compiler and flags of this build.
    """
def cpu_info() -> dict:
    """
    Instruction-set extensions of this processor, by name.
    """
def encode_keys(features: numpy.ndarray, first: typing.SupportsInt | typing.SupportsIndex, codes: numpy.ndarray, terms: numpy.ndarray) -> None:
    ...
def feature_map(x: numpy.ndarray, mlp: Mlp, precision: str | None, out: numpy.ndarray) -> None:
    ...
def feature_map_backward(x: numpy.ndarray, weights: collections.abc.Sequence[numpy.ndarray], activation: str, parameter: typing.SupportsFloat | typing.SupportsIndex, normalize: bool, hidden: numpy.ndarray, grad: numpy.ndarray, grad_x: numpy.ndarray | None, grad_weights: collections.abc.Sequence[numpy.ndarray | None], grad_biases: collections.abc.Sequence[numpy.ndarray | None]) -> None:
    ...
def feature_map_forward(x: numpy.ndarray, weights: collections.abc.Sequence[numpy.ndarray], biases: collections.abc.Sequence[numpy.ndarray], activation: str, parameter: typing.SupportsFloat | typing.SupportsIndex, normalize: bool, out: numpy.ndarray, keep: bool) -> numpy.ndarray | None:
    ...
def feature_map_vjp(x: numpy.ndarray, mlp: Mlp, grad: numpy.ndarray, grad_x: numpy.ndarray, grad_weights: collections.abc.Sequence[numpy.ndarray], grad_biases: collections.abc.Sequence[numpy.ndarray] | None) -> None:
    ...
def find_openmp(path: str) -> bool:
    ...
def get_num_threads() -> int:
    ...
def measure_ceiling(name: str, threads: typing.SupportsInt | typing.SupportsIndex, bytes: typing.SupportsInt | typing.SupportsIndex, seconds: typing.SupportsFloat | typing.SupportsIndex) -> float | None:
    """
    Best rate of fma_float32, fma_float64, bf16_dot (operations a second), read, write or stream (bytes a second, over a buffer of so many); None where this processor lacks it.
    """
def narrow(values: numpy.ndarray, out: numpy.ndarray) -> None:
    ...
def nngp_diagonal(x: numpy.ndarray, dual: Dual, weight_variance: typing.SupportsFloat | typing.SupportsIndex, bias_variance: typing.SupportsFloat | typing.SupportsIndex, depth: typing.SupportsInt | typing.SupportsIndex, ntk: bool, terms: typing.SupportsInt | typing.SupportsIndex, out: numpy.ndarray) -> None:
    ...
def nngp_kernel(x: numpy.ndarray, y: numpy.ndarray | None, dual: Dual, weight_variance: typing.SupportsFloat | typing.SupportsIndex, bias_variance: typing.SupportsFloat | typing.SupportsIndex, depth: typing.SupportsInt | typing.SupportsIndex, ntk: bool, terms: typing.SupportsInt | typing.SupportsIndex, out: numpy.ndarray) -> None:
    ...
def normalize(x: numpy.ndarray, out: numpy.ndarray) -> None:
    ...
def normalize_vjp(x: numpy.ndarray, grad: numpy.ndarray, grad_x: numpy.ndarray) -> None:
    ...
def ordinary(name: str) -> typing.Any:
    """
    The function that takes ordinary calls of an operation, or None.
    """
def philox(counters: typing.Annotated[numpy.typing.ArrayLike, numpy.uint32], key: typing.SupportsInt | typing.SupportsIndex, out: typing.Annotated[numpy.typing.ArrayLike, numpy.uint32]) -> None:
    """
    Philox 4x32-10, for tests: contiguous rows of four words.
    """
def random_features(x: numpy.ndarray, key: typing.SupportsInt | typing.SupportsIndex, widths: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], activation: str, parameter: typing.SupportsFloat | typing.SupportsIndex, weight_std: typing.SupportsFloat | typing.SupportsIndex, bias_std: typing.SupportsFloat | typing.SupportsIndex, out: numpy.ndarray) -> None:
    ...
def random_normals(key: typing.SupportsInt | typing.SupportsIndex, layer: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex, out: numpy.ndarray) -> None:
    """
    Weights (stream 0) or biases (stream 1) of a layer of random_features; columns of unit stride.
    """
def read_tensors(tensor: typing.Any, parameter: typing.Any, grad_enabled: typing.Any, modes: tuple, forward_mode: typing.Any) -> bool:
    """
    Introduce PyTorch; False if its tensors cannot be read by C functions.
    """
def relation_loss(f: numpy.ndarray, g: numpy.ndarray, target: numpy.ndarray | None, labels_f: numpy.ndarray | None, labels_g: numpy.ndarray | None, weight: numpy.ndarray | None, row_scale: numpy.ndarray | None, loss: str, scale: typing.SupportsFloat | typing.SupportsIndex, factor: typing.SupportsFloat | typing.SupportsIndex, values: numpy.ndarray, grad_f: numpy.ndarray, grad_g: numpy.ndarray | None, grad_scale: numpy.ndarray | None) -> None:
    ...
def relation_matrix(x: numpy.ndarray, y: numpy.ndarray | None, phi: Mlp, psi: Mlp, precision: str | None, link: str, scale: typing.SupportsFloat | typing.SupportsIndex, heads: typing.SupportsInt | typing.SupportsIndex, out: numpy.ndarray) -> None:
    ...
def relation_matrix_vjp(f: numpy.ndarray, g: numpy.ndarray, grad: numpy.ndarray, link: str, scale: typing.SupportsFloat | typing.SupportsIndex, heads: typing.SupportsInt | typing.SupportsIndex, grad_f: numpy.ndarray | None, grad_g: numpy.ndarray | None, grad_scale: numpy.ndarray | None = None) -> None:
    ...
def relation_matvec(x: numpy.ndarray, y: numpy.ndarray, v: numpy.ndarray, phi: Mlp, psi: Mlp, precision: str | None, link: str, scale: typing.SupportsFloat | typing.SupportsIndex, out: numpy.ndarray) -> None:
    ...
def relation_matvec_vjp(f: numpy.ndarray, g: numpy.ndarray, v: numpy.ndarray, grad: numpy.ndarray, link: str, scale: typing.SupportsFloat | typing.SupportsIndex, grad_f: numpy.ndarray | None, grad_g: numpy.ndarray | None, grad_v: numpy.ndarray | None, grad_scale: numpy.ndarray | None = None) -> None:
    ...
def relational_attention(q: numpy.ndarray, k: numpy.ndarray, q_rel: numpy.ndarray, k_rel: numpy.ndarray, v: numpy.ndarray, activation: str, parameter: typing.SupportsFloat | typing.SupportsIndex, scale: typing.SupportsFloat | typing.SupportsIndex, rel_scale: typing.SupportsFloat | typing.SupportsIndex, mask: numpy.ndarray | None, band: tuple[int | None, int | None], relations: numpy.ndarray, values: numpy.ndarray, lse: numpy.ndarray | None) -> None:
    ...
def relational_attention_vjp(q: numpy.ndarray, k: numpy.ndarray, q_rel: numpy.ndarray, k_rel: numpy.ndarray, v: numpy.ndarray, activation: str, parameter: typing.SupportsFloat | typing.SupportsIndex, scale: typing.SupportsFloat | typing.SupportsIndex, rel_scale: typing.SupportsFloat | typing.SupportsIndex, mask: numpy.ndarray | None, band: tuple[int | None, int | None], result: tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray], grad: tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray | None], to: tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray, numpy.ndarray, numpy.ndarray], grad_scale: numpy.ndarray, grad_rel_scale: numpy.ndarray) -> None:
    ...
def retrieve(q: numpy.ndarray, keys: numpy.ndarray, phi: Mlp, psi: Mlp, precision: str | None, mask: numpy.ndarray | None, values: numpy.ndarray, indices: numpy.ndarray, codes: numpy.ndarray | None = None, terms: numpy.ndarray | None = None, excluded: tuple[numpy.ndarray, numpy.ndarray, typing.SupportsInt | typing.SupportsIndex] | None = None, ragged: tuple[numpy.ndarray, numpy.ndarray, bool] | None = None) -> None:
    ...
def retrieve_above(q: numpy.ndarray, keys: numpy.ndarray, phi: Mlp, psi: Mlp, precision: str | None, mask: numpy.ndarray | None, thresholds: numpy.ndarray, limit: typing.SupportsInt | typing.SupportsIndex, codes: numpy.ndarray | None = None, terms: numpy.ndarray | None = None, excluded: tuple[numpy.ndarray, numpy.ndarray, typing.SupportsInt | typing.SupportsIndex] | None = None) -> FoundPairs:
    ...
def set_gradients_class(gradients: type) -> None:
    """
    The class of what relation_matrix_vjp returns.
    """
def set_map_class(map: type) -> None:
    """
    The class of maps that ordinary calls take.
    """
def set_num_threads(n: typing.SupportsInt | typing.SupportsIndex) -> None:
    ...
def sparse_feature_map(values: numpy.ndarray, columns: numpy.ndarray, offsets: numpy.ndarray, weights: numpy.ndarray, mlp: Mlp, precision: str | None, out: numpy.ndarray) -> None:
    ...
def sparse_feature_map_vjp(values: numpy.ndarray, columns: numpy.ndarray, offsets: numpy.ndarray, weights: numpy.ndarray, mlp: Mlp, grad: numpy.ndarray, grad_weights: collections.abc.Sequence[numpy.ndarray], grad_biases: collections.abc.Sequence[numpy.ndarray] | None) -> None:
    ...
def use_openmp(use: bool) -> bool:
    ...
def vector_math(name: str, x: numpy.ndarray, parameter: typing.SupportsFloat | typing.SupportsIndex, out: numpy.ndarray) -> None:
    """
    Elementwise function of the kernels by name, for tests: out <- name(x), contiguous arrays.
    """
def whole_operator(name: str) -> typing.Any:
    """
    The function that takes ordinary calls of an operator on tensors, or None.
    """
def xla_handler(function: collections.abc.Callable, major: typing.SupportsInt | typing.SupportsIndex, minor: typing.SupportsInt | typing.SupportsIndex) -> typing.Any:
    """
    Return a handler of XLA's foreign function interface, None for a version that is not known here.
    
    It calls ``function(text, arguments, results)`` with the call's only attribute and with arrays over
    XLA's memory, those of the results writable.
    """
ACTIVATIONS: dict = {'identity': (1.0, 1.0), 'relu': (2.0, 1.0), 'leaky_relu': (2.0, None), 'relu_power': (2.0, None), 'gelu': (2.0, 1.128904145185155), 'gelu_tanh': (2.0, 1.128993069), 'silu': (2.0, 1.099839321), 'tanh': (1.0, 1.0), 'sigmoid': (1.0, 0.25), 'softplus': (1.0, 1.0), 'erf': (1.0, 1.1283791670955126), 'sin': (1.0, 1.0), 'cos': (1.0, 1.0), 'gaussian': (1.0, 0.6065306597126335), 'sigma_1': (1.0, 1.0)}
LINKS: tuple = ('identity', 'exp', 'relu', 'square', 'gaussian', 'matern12', 'matern32', 'matern52')
LINKS_OF_DISTANCE: tuple = ('gaussian', 'matern12', 'matern32', 'matern52')
LOSSES: tuple = ('squared', 'logistic', 'hinge', 'softmax')
__version__: str = '0.1.0'
angle_octaves: int = 53
angle_terms: int = 24
isa: str = 'portable'
