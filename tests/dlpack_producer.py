"""A DLPack producer written from the specification: every field can be set, and its deleter counts calls."""

import ctypes
from typing import ClassVar

import numpy as np


class Device(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int32), ("id", ctypes.c_int32)]


class DataType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", Device),
        ("ndim", ctypes.c_int32),
        ("dtype", DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Managed(ctypes.Structure):
    _fields_ = [("tensor", Tensor), ("context", ctypes.c_void_p), ("deleter", DELETER)]


class ManagedVersioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", DELETER),
        ("flags", ctypes.c_uint64),
        ("tensor", Tensor),
    ]


_new = ctypes.pythonapi.PyCapsule_New
_new.restype, _new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.argtypes = [ctypes.py_object, ctypes.c_char_p]


def is_called(capsule, name):
    return bool(_is_valid(capsule, name.encode()))


def _integers(values):
    return None if values is None else (ctypes.c_int64 * max(len(values), 1))(*values)


class Producer:
    """An array of another library: NumPy memory with an arbitrary description.

    Views call its deleter, which is in its own memory, when they are freed; so producers are never freed.
    """

    _all: ClassVar[list] = []

    def __init__(
        self,
        memory,
        shape,
        strides=None,
        dtype=(2, 32, 1),
        device=(1, 0),
        byte_offset=0,
        versioned=True,
        version=(1, 0),
        flags=0,
    ):
        self._all.append(self)
        self.memory, self.deleted = np.asarray(memory), 0
        self._shape, self._strides = _integers(shape), _integers(strides)
        self._deleter, self._device = DELETER(self._delete), device
        pointer = ctypes.cast(self._shape, ctypes.POINTER(ctypes.c_int64))
        steps = ctypes.cast(self._strides, ctypes.POINTER(ctypes.c_int64)) if strides is not None else None
        tensor = Tensor(
            self.memory.ctypes.data if self.memory.size else None,
            Device(*device),
            len(shape),
            DataType(*dtype),
            pointer,
            steps,
            byte_offset,
        )
        self._name = b"dltensor_versioned" if versioned else b"dltensor"
        if versioned:
            self._managed = ManagedVersioned(*version, None, self._deleter, flags, tensor)
        else:
            self._managed = Managed(tensor, None, self._deleter)

    def _delete(self, _):
        self.deleted += 1

    def __dlpack__(self, **_):
        return _new(ctypes.addressof(self._managed), self._name, None)

    def __dlpack_device__(self):
        return self._device
