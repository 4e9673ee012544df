"""Stand-ins: NumPy arrays with the shape, strides and address of an array on a device or of 16-bit floats.

NumPy cannot read the former, and the latter not as float32. The checks of the package only use shapes,
strides, dtypes and overlaps; a stand-in answers them as the array itself would. Whatever would read or write
elements raises instead of following a pointer that means nothing here.

16-bit floats stand in as float32, in which the CPU computes with them: at twice the address, so that two
stand-ins overlap where their arrays do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from .half import HALVES

# Functions of NumPy that only use shapes and addresses.
_HARMLESS = {np.may_share_memory, np.shares_memory}


class Interface:
    """What NumPy makes a view of memory from."""

    __slots__ = ("__array_interface__",)

    def __init__(self, interface: dict[str, Any]) -> None:
        self.__array_interface__ = interface


class StandIn(np.ndarray):
    """An array on a device or of 16-bit floats, for the checks.

    Attributes
    ----------
    engine : Engine
        Computes with it.
    owner : array
        Of CuPy, PyTorch, ...; the stand-in is a view of it.
    element : str
        Its dtype.
    """

    engine: Any
    owner: Any
    element: str

    def __array_finalize__(self, source: Any) -> None:
        if isinstance(source, StandIn):
            self.engine, self.owner, self.element = source.engine, source.owner, source.element

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(f"an array of {self.element} of shape {self.shape} cannot be read here")

    __array_ufunc__ = _refuse
    __float__ = __int__ = __index__ = __bool__ = __iter__ = __contains__ = _refuse
    copy = astype = item = tolist = tobytes = sum = min = max = mean = any = all = _refuse

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        if function is np.broadcast_to:  # the result is a stand-in as well
            return super().__array_function__(function, types, arguments, {**options, "subok": True})
        if function not in _HARMLESS:
            self._refuse()
        return super().__array_function__(function, types, arguments, options)

    def __setitem__(self, *_: Any) -> NoReturn:
        self._refuse()

    def __repr__(self) -> str:
        return f"<stand-in for an array of {self.element} of shape {self.shape} at {self.address:#x}>"

    __str__ = __repr__

    @property
    def address(self) -> int:
        """Address of the array's first element."""
        address = self.__array_interface__["data"][0]
        return address // 2 if self.element in HALVES else address

    @property
    def steps(self) -> tuple[int, ...]:
        """Strides in elements."""
        return tuple(step // self.itemsize for step in self.strides)


def stand_in(
    engine: Any, owner: Any, address: int, shape: tuple[int, ...], steps: Sequence[int], element: str
) -> StandIn:
    """Return the stand-in for an array with strides `steps`, in elements."""
    half = element in HALVES
    dtype = np.dtype(np.float32 if half else element)
    interface = {
        "version": 3,
        "typestr": dtype.str,
        "shape": tuple(shape),
        "strides": tuple(step * dtype.itemsize for step in steps),
        # Arrays of no elements may have no address, which NumPy would take for a wish to allocate.
        "data": (max(address * 2 if half else address, 256), False),
    }
    made = np.asarray(Interface(interface)).view(StandIn)
    made.engine, made.owner, made.element = engine, owner, element
    return made
