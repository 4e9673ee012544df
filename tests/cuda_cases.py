"""Random cases of the operations on a device, and the bounds of their errors."""

import numpy as np
import pytest
import reference
import relkernels as rk
from cuda_arrays import BF16, F16
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import ACTIVATIONS, lay_out, maps, normal, seeds

F4, F8 = np.float32, np.float64
# (dtype of the arrays, precision)
ARITHMETIC = [(F4, None), (F8, None), (F4, "tf32"), (F4, "bf16"), (BF16, None), (F16, None)]
IDS = ["float32", "float64", "tf32", "float32-bf16", "bfloat16", "float16"]
# Errors of feature maps and relations relative to the size of the terms. Half a unit in the last place of a
# factor is 2^-9 in bfloat16 and 2^-11 in float16 and tf32.
BOUND = {
    (F4, None): 1e-6, (F8, None): 1e-14, (F4, "tf32"): 2e-3, (F4, "bf16"): 1e-2, (BF16, None): 1e-2,
    (F16, None): 2e-3,
}  # fmt: skip
OF_ATTENTION = {(F4, None): 5e-6, (F8, None): 1e-13}
LAYOUTS = ["plain", "transposed", "sliced", "reversed", "offset", "broadcast"]
SIZES = [0, 1, 2, 3, 7, 16, 17, 31, 33, 64, 65, 67, 97, 128, 129, 131, 150, 257, 400]
WIDTHS = [1, 2, 3, 8, 13, 16, 17, 31, 33, 64, 65, 80]

MANY = 4_500  # columns: more than two of the chunks that sums are cut into

arithmetic = pytest.mark.parametrize(("dtype", "precision"), ARITHMETIC, ids=IDS)
exact = pytest.mark.parametrize("dtype", [F4, F8], ids=["float32", "float64"])


def cases(device, check):
    """Run check(data, rng) on as many random cases as the device has time for."""

    @settings(max_examples=device.examples, suppress_health_check=list(HealthCheck))
    @given(st.data(), seeds)
    def run(data, seed):
        check(data, np.random.default_rng(seed))

    run()


class Draw:
    """Sizes and arrays of a random case."""

    def __init__(self, device, data, rng, dtype):
        self.device, self.data, self.rng, self.dtype = device, data, rng, dtype

    def one_of(self, options):
        return self.data.draw(st.sampled_from(options))

    def size(self, least=0):
        return self.one_of([n for n in SIZES if least <= n <= self.device.size])

    def width(self):
        return self.one_of(WIDTHS)

    def array(self, *shape):
        layouts = [name for name in LAYOUTS if self.device.negative_strides or name != "reversed"]
        return lay_out(normal(self.rng, shape, self.dtype), self.one_of(layouts))

    def leads(self, count):
        full = self.one_of([(), (), (2,), (3, 2), (1, 3)])
        shapes = []
        for _ in range(count):
            kept = tuple(self.one_of([size, 1]) for size in full)
            shapes.append(kept[self.one_of(range(len(kept) + 1)) :])
        return shapes

    def maps(self, d_x, d_y, width, optional=True):
        """phi and psi to `width` features; None if the widths allow it."""
        dtype = np.float64 if self.dtype == F8 else np.float32
        phi = self.data.draw(maps(dtype, d_x, width, self.rng).filter(lambda p: optional or p))
        psi = self.data.draw(maps(dtype, d_y, width, self.rng).filter(lambda p: p or phi is None))
        return phi, psi

    def mask(self, lead, n, m):
        if not self.data.draw(st.booleans()):
            return None
        shape = (*self.one_of([lead, ()]), self.one_of([n, 1]), self.one_of([m, 1]))
        return self.rng.random(shape) < self.one_of([0.05, 0.5, 0.95])


def assert_close(out, expected, bound, magnitude):
    """Like `reference.assert_close`, and allow for underflow in float16: half of its smallest number."""
    least = 2**-25 * np.sqrt(out.size) if out.dtype == F16 else 0.0
    reference.assert_close(out, expected, bound, np.linalg.norm(magnitude) + least / bound)


def magnitude(x, y, phi, psi):
    psi = phi if psi is None else psi
    return np.linalg.norm(reference.feature_magnitude(x, phi)) * np.linalg.norm(
        reference.feature_magnitude(y, psi)
    )


def largest_term(x, y, phi, psi):
    f = reference.feature_magnitude(x, phi)
    g = reference.feature_magnitude(y, phi if psi is None else psi)
    return f.shape[-1] * np.max(f, initial=0) * np.max(g, initial=0)


# Gradients are compared with those of the CPU in float64, which are tested by finite differences.


def flat(result):
    if isinstance(result, (list, tuple)):
        return [a for part in result for a in flat(part)]
    return [] if result is None else [result]


def assert_gradients(got, expected, dtype, bound):
    got, expected = flat(got), flat(expected)
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == dtype
        assert_close(a, b, bound, 0.1 * np.sqrt(b.size))


def double(phi):
    if phi is None:
        return None
    biases = None if phi.biases is None else [b.astype(np.float64) for b in phi.biases]
    return rk.MLP([w.astype(np.float64) for w in phi.weights], biases, phi.activation)


GRADIENT_BOUND = {F4: 1e-5, F8: 1e-12}
SMOOTH = [a for a in ACTIVATIONS if str(a) != "relu" and getattr(a, "name", "") != "leaky_relu"]
