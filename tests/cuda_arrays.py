"""Arrays for tests of the CUDA engine: those of the installed libraries, and emulated ones.

An emulated array is in main memory but claims to be on a CUDA device. It has its own kind, and its kernels
are those of an extension that a test substitutes for `relkernels._cuda`. New memory is poisoned and fenced:
values that a kernel does not write are NaN, and writes outside are detected.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import inspect
import os

import ml_dtypes
import numpy as np
import pytest
import relkernels as rk
from relkernels import cuda
from relkernels.arrays.dispatch import OPERATIONS, replaced
from relkernels.base.result import rebuilt
from relkernels.cuda import devices, libraries
from relkernels.cuda.engine import KERNELS

BF16 = np.dtype(ml_dtypes.bfloat16)
F16 = np.dtype(np.float16)
_FENCE = 256  # bytes on both sides
_MARK = 0xA5
_POISON = 0xFF  # NaN in every float, -1 in every integer


def dtype_of(element):
    return BF16 if element == "bfloat16" else np.dtype(element)


class Memory:
    """Bytes between fences; aligned to 256."""

    def __init__(self, nbytes):
        self.all = np.full(nbytes + 2 * _FENCE + 256, _MARK, np.uint8)
        skew = -self.all.ctypes.data % 256 + _FENCE
        self.bytes = self.all[skew : skew + nbytes]
        self.bytes[:] = _POISON

    def intact(self):
        begin = self.bytes.ctypes.data - self.all.ctypes.data
        outside = np.delete(self.all, np.s_[begin : begin + self.bytes.size])
        return bool((outside == _MARK).all())


class DeviceArray:
    """An emulated array: a NumPy array, its memory, and the number of its device."""

    def __init__(self, array, memory, index):
        self.array, self.memory, self.index = array, memory, index
        self.shape, self.dtype = array.shape, array.dtype


class Emulated(libraries.Kind):
    """The kind of emulated arrays. One test at a time may change its streams, its limit and its log."""

    name = "Emulated"

    def __init__(self):
        self.reset()

    def reset(self):
        self.current_stream, self.capture, self.limit = 0, False, None
        self.made, self.synchronized, self.current_device = [], 0, 0

    def array_class(self):
        return DeviceArray

    def device(self, a):
        return a.index

    def describe(self, a):
        steps = tuple(step // a.array.itemsize for step in a.array.strides)
        return libraries.Description(a.array.ctypes.data, a.shape, steps, a.dtype.name)

    def readable(self, name, a):
        return a

    def empty(self, shape, element, device):
        dtype = dtype_of(element)
        nbytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if self.limit is not None and nbytes > self.limit:
            raise MemoryError("emulated")
        memory = Memory(nbytes)
        made = DeviceArray(memory.bytes.view(dtype).reshape(shape), memory, device)
        self.made.append(made)
        return made

    def view(self, a, shape, steps, offset):
        strides = tuple(step * a.array.itemsize for step in steps)
        flat = np.lib.stride_tricks.as_strided(a.array, (a.array.size,), (a.array.itemsize,))
        return DeviceArray(np.lib.stride_tricks.as_strided(flat[offset:], shape, strides), a.memory, a.index)

    def copy(self, out, a):
        out.array[...] = a.array

    def fill(self, a, value):
        a.array[...] = value

    def add(self, a, b):
        return self.upload(a.array + b.array, a.index)

    def sum(self, a, axes):
        return self.upload(a.array.sum(axis=axes, keepdims=True), a.index)

    def upload(self, a, device):
        made = self.empty(a.shape, a.dtype.name, device)
        made.array[...] = a
        return made

    def download(self, a):
        return a.array.copy()

    def any_nan(self, a):
        return bool((a.array != a.array).any())

    def least(self, a):
        return float(a.array.min())

    def stream(self, device):
        return self.current_stream

    @contextlib.contextmanager
    def guard(self, device):
        before, self.current_device = self.current_device, device
        yield
        self.current_device = before

    def capturing(self, device):
        return self.capture

    def synchronize(self, device):
        self.synchronized += 1

    def memory_errors(self):
        return (MemoryError,)


KIND = Emulated()


@contextlib.contextmanager
def in_place_of_the_extension(module):
    """Let the kernels of `module` compute with emulated arrays."""
    before = devices.extension
    devices.extension = lambda: module
    libraries._MODULES[__name__] = __name__
    libraries._kind_of_class.cache_clear()
    KIND.reset()
    try:
        yield
    finally:
        devices.extension = before
        del libraries._MODULES[__name__]
        libraries._kind_of_class.cache_clear()


def _span(a):
    """The bytes from an array's first to its last, and the offset of its first element."""
    if a.size == 0:
        return np.zeros(0, np.uint8), 0
    low, high = np.lib.array_utils.byte_bounds(a)
    raw = np.frombuffer((ctypes.c_uint8 * (high - low)).from_address(low), np.uint8)
    return raw.copy(), a.__array_interface__["data"][0] - low


class Device:
    """A device under test: its operations take and return NumPy arrays.

    `device.attention(q, k, v)` copies every array to the device in its layout, calls `cuda.call` and copies
    the results back.
    """

    # Largest size and number of random cases; rows and columns of the larger fixed cases.
    size, examples = 400, 30
    many = 1031, 2500
    negative_strides = True

    def __getattr__(self, operation):
        if operation not in KERNELS:
            raise AttributeError(operation)
        signature = inspect.signature(inspect.unwrap(getattr(rk, operation)))

        def call(*positional, **named):
            there = self.bring(operation, signature.bind(*positional, **named).arguments)
            self.poison()
            result = cuda.call(operation, there)
            assert there.get("out") is None or result is there["out"]
            return self.get(result)

        return call

    def bring(self, operation, arguments):
        """Copy the arrays among the arguments to the device."""

        def there(label, value):
            return self.put(value) if isinstance(value, np.ndarray) else value

        arrays = OPERATIONS[operation].names
        return {n: replaced(n, a, there) if n in arrays else a for n, a in arguments.items()}

    def get(self, result):
        if isinstance(result, tuple):
            return rebuilt(self.get, result)
        if isinstance(result, list):
            return [self.get(part) for part in result]
        return result if result is None else self.fetch(result)

    def poison(self):
        """Fill the memory that outputs will reuse with NaN."""


class EmulatedDevice(Device):
    """The kernels compiled for this processor, with a fiber for each thread: slow."""

    size, examples = 260, 5
    many = 131, 150
    backward = False

    def poison(self):
        # Threads run in order, and in reverse at the next call, which detects kernels that rely on an order.
        self.backward = not self.backward
        os.environ["RK_EMULATED_ORDER"] = "backward" if self.backward else "forward"

    def put(self, a, index=0):
        raw, offset = _span(a)
        memory = Memory(raw.size)
        memory.bytes[:] = raw
        array = np.ndarray(a.shape, a.dtype, memory.bytes if a.size else None, offset, a.strides)
        return DeviceArray(array, memory, index)

    def fetch(self, a):
        assert isinstance(a, DeviceArray)
        made, KIND.made = KIND.made, []
        for one in [a, *made]:
            assert one.memory.intact(), "a kernel wrote outside of its array"
        return a.array.copy()


class CuPyDevice(Device):
    def put(self, a, index=0):
        import cupy

        raw, offset = _span(a)
        with cupy.cuda.Device(index):
            return cupy.ndarray(a.shape, a.dtype, cupy.asarray(raw).data + offset, a.strides)

    def fetch(self, a):
        return a.get()

    def poison(self):
        import cupy

        cupy.full(1 << 22, np.nan, np.float32)


class PyTorchDevice(Device):
    negative_strides = False

    def put(self, a, index=0):
        import torch

        raw, offset = _span(a)
        dtype = getattr(torch, a.dtype.name)
        steps = tuple(step // a.itemsize for step in a.strides)
        there = torch.from_numpy(raw).to(f"cuda:{index}").view(dtype)
        return there.as_strided(a.shape, steps, offset // a.itemsize)

    def fetch(self, a):
        import torch

        if a.dtype == torch.bfloat16:
            return a.view(torch.int16).cpu().numpy().view(BF16)
        return a.cpu().numpy()

    def poison(self):
        import torch

        torch.full((1 << 22,), np.nan, device="cuda")


def gpu(library):
    """The GPU through CuPy ("cupy") or PyTorch ("torch"); skips with the reason if something is missing."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    if not cuda.available():
        pytest.skip(f"no GPU to compute on: {cuda.why_not()}")
    return CuPyDevice() if library == "cupy" else PyTorchDevice()


@functools.cache
def emulated_kernels():
    """The CUDA sources compiled for this processor, as an extension; skips with the reason if that fails."""
    from cuda_emulation import build

    sources = sorted((build.ROOT / "cuda").glob("**/*.cu")) + sorted((build.ROOT / "cuda").glob("**/*.cpp"))
    path = build.module("_cuda_emulated", sources)
    spec = importlib.util.spec_from_file_location("_cuda_emulated", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
