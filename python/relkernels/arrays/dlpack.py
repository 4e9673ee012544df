"""Arrays of other libraries by DLPack: described on any device, and kept; their memory is not touched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .. import _core
from ..base.describe import described

# The requested version; older libraries have none.
_VERSION = (1, 1)


@dataclass(frozen=True, slots=True)
class Tensor:
    """An array of any library, described; its memory is not touched.

    Attributes
    ----------
    pointer : int
        Address of the first element.
    shape : tuple of int
    strides : tuple of int
        In elements.
    dtype : str
        As NumPy spells it, and "bfloat16".
    device : tuple of int
        Type and number, as DLPack counts: (1, 0) is the host, (2, i) the CUDA device i.
    read_only : bool
    owner : object
        Keeps the memory; let it go when it is no longer needed.
    """

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    device: tuple[int, int]
    read_only: bool
    owner: Any


def from_dlpack(a: Any, stream: Any = None) -> Tensor:
    """Describe an array on any device, without a copy.

    Parameters
    ----------
    a : object with a method ``__dlpack__``
    stream : int, optional
        Of the array's device: the stream on which the caller will use it, as DLPack numbers them.

    Returns
    -------
    Tensor

    Raises
    ------
    BufferError, TypeError
        What the library raises where it cannot share the array.

    Examples
    --------
    >>> import numpy as np
    >>> from relkernels.arrays import from_dlpack
    >>> tensor = from_dlpack(np.ones((3, 4), np.float32).T)
    >>> tensor.shape, tensor.strides, tensor.dtype, tensor.device
    ((4, 3), (1, 4), 'float32', (1, 0))
    """
    if not hasattr(a, "__dlpack__") or isinstance(a, type):
        raise TypeError(f"a: expected an array that speaks DLPack, got {described(a)}")
    owner = taken(a) if stream is None else taken(a, stream=stream)
    return Tensor(
        owner.pointer, owner.shape, owner.strides, owner.dtype, owner.device, owner.read_only, owner
    )


def taken(a: Any, **options: Any) -> _core.DlpackTensor:
    """Take the tensor of an array."""
    try:
        capsule = a.__dlpack__(max_version=_VERSION, **options)
    except TypeError:  # a library older than versions; any other error is raised again
        capsule = a.__dlpack__(**options)
    return _core.DlpackTensor.take(capsule)
