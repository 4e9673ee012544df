"""The reader of DLPack capsules, with a producer written from the specification, and with libraries."""

import gc

import numpy as np
import pytest
from dlpack_producer import Producer, is_called
from hypothesis import given
from hypothesis import strategies as st
from relkernels import _core
from relkernels.arrays import from_dlpack

MEMORY = np.arange(40, dtype=np.float32)


@pytest.mark.parametrize("versioned", [True, False])
def test_what_is_read(versioned):
    owner = Producer(MEMORY, (2, 3), (12, 2), byte_offset=20, versioned=versioned)
    tensor = from_dlpack(owner)
    assert tensor.pointer == MEMORY.ctypes.data + 20
    assert (tensor.shape, tensor.strides, tensor.dtype) == ((2, 3), (12, 2), "float32")
    assert tensor.device == (1, 0)
    assert tensor.read_only is False
    view = tensor.owner.numpy()
    np.testing.assert_array_equal(view, [[5, 7, 9], [17, 19, 21]])
    assert view.ctypes.data == tensor.pointer


@given(st.lists(st.integers(0, 4), max_size=4))
def test_no_strides_are_those_of_a_compact_tensor(shape):
    size = int(np.prod(shape, dtype=int))
    memory = np.arange(max(size, 1), dtype=np.float32)
    owner = Producer(memory, shape)
    view = from_dlpack(owner).owner.numpy()
    np.testing.assert_array_equal(view, memory[:size].reshape(shape))
    assert view.flags.c_contiguous


@pytest.mark.parametrize(
    ("code", "bits", "name", "seen"),
    [
        (0, 8, "int8", "int8"), (0, 64, "int64", "int64"), (1, 16, "uint16", "uint16"),
        (2, 16, "float16", "float16"), (2, 64, "float64", "float64"), (4, 16, "bfloat16", "uint16"),
        (5, 64, "complex64", "complex64"), (6, 8, "bool", "bool"),
    ],
)  # fmt: skip
def test_dtypes(code, bits, name, seen):
    tensor = from_dlpack(Producer(MEMORY, (3,), dtype=(code, bits, 1)))
    assert tensor.dtype == name
    assert tensor.owner.numpy().dtype == seen


@pytest.mark.parametrize(("code", "bits"), [(3, 64), (10, 8), (0, 4), (2, 12)])
def test_dtypes_that_numpy_lacks_are_described_and_not_viewed(code, bits):
    tensor = from_dlpack(Producer(MEMORY, (3,), dtype=(code, bits, 1)))
    assert str(bits) in tensor.dtype
    with pytest.raises((BufferError, TypeError)):
        tensor.owner.numpy()


def test_flags():
    tensor = from_dlpack(Producer(MEMORY, (3,), flags=1))
    assert tensor.read_only
    assert not tensor.owner.numpy().flags.writeable
    assert from_dlpack(Producer(MEMORY, (3,), flags=2)).owner.copied


@pytest.mark.parametrize("versioned", [True, False])
def test_the_deleter_is_called_once_and_when_the_last_view_is_gone(versioned):
    owner = Producer(MEMORY, (3,), versioned=versioned)
    capsule = owner.__dlpack__()
    tensor = _core.DlpackTensor.take(capsule)
    assert is_called(capsule, "used_dltensor_versioned" if versioned else "used_dltensor")
    with pytest.raises(TypeError, match="nobody has taken yet"):
        _core.DlpackTensor.take(capsule)
    part = tensor.numpy()[1:]
    del tensor, capsule
    gc.collect()
    assert owner.deleted == 0
    np.testing.assert_array_equal(part, [1, 2])
    del part
    gc.collect()
    assert owner.deleted == 1


@pytest.mark.parametrize(("options", "words"), [
    ({"version": (2, 0)}, "version 2"),
    ({"dtype": (2, 32, 4)}, "vectors"),
])  # fmt: skip
def test_what_is_refused_stays_the_producers(options, words):
    owner = Producer(MEMORY, (3,), **options)
    capsule = owner.__dlpack__()
    with pytest.raises(BufferError, match=words):
        _core.DlpackTensor.take(capsule)
    assert is_called(capsule, "dltensor_versioned")
    assert owner.deleted == 0


def test_memory_of_a_device_is_never_touched():
    owner = Producer(MEMORY, (3, 4), device=(2, 5))
    tensor = from_dlpack(owner)
    assert tensor.device == (2, 5)
    with pytest.raises(BufferError, match="not in the host's memory"):
        tensor.owner.numpy()


def test_the_stream_is_passed_on():
    class Streamed(Producer):
        def __dlpack__(self, *, stream=None, max_version=None):
            self.stream = stream
            return super().__dlpack__()

    owner = Streamed(MEMORY, (3,), device=(2, 0))
    from_dlpack(owner, stream=7)
    assert owner.stream == 7


def test_elements_without_memory_and_things_that_are_no_capsules():
    with pytest.raises(BufferError, match="no memory"):
        from_dlpack(Producer(np.empty(0, np.float32), (3,))).owner.numpy()
    for thing in (None, 3, MEMORY):
        with pytest.raises(TypeError, match="DLPack capsule"):
            _core.DlpackTensor.take(thing)


def test_numpy_arrays():
    a = np.arange(24.0).reshape(2, 3, 4)[:, ::-1, 1::2]
    tensor = from_dlpack(a)
    assert (tensor.pointer, tensor.shape, tensor.strides) == (a.ctypes.data, (2, 3, 2), (12, -4, 2))
    if np.lib.NumpyVersion(np.__version__) >= "2.1.0":  # older ones do not share read-only arrays
        fixed = np.ones(3)
        fixed.flags.writeable = False
        assert from_dlpack(fixed).read_only
