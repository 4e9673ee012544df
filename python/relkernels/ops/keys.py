"""`Keys`: rows to search, prepared once and kept, with stable ids."""

from __future__ import annotations

import operator
import os
import threading
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..base import check
from ..base.describe import described
from ..maps.mlp import MLP, check_mlp
from . import keys_file
from .key_store import ELEMENTS, Stored
from .prepared import Rows

# Ids named in a message.
_NAMED = 5


class Keys:
    """Keys for `retrieve`, prepared once: their features, and what makes searching them faster.

    ``retrieve(q, keys, k, phi)`` accepts an object of this class for `keys`. Without a change of dtype its
    result is that of ``retrieve(q, rows, k, phi, psi)``, to the last bit.

    Parameters
    ----------
    keys : ndarray of shape (m, d_k)
        Rows of float32, float64, float16 or bfloat16: of NumPy or any other library, in main memory. Or a
        sparse matrix, as in `feature_map`, if `psi` is not None. There may be no rows, m = 0.
    psi : MLP, optional
        Feature map of the keys, also of those that `add` adds; None for the identity.
    dtype : {"float32", "float64", "float16", "bfloat16"}, optional
        Dtype in which the features are stored; None for that of the features. The 16-bit dtypes take half
        the memory of float32. Queries and scores are then of float32, and the results those of the rounded
        keys.

    Attributes
    ----------
    psi : MLP or None
    dtype : str
        Dtype in which the features are stored.
    ids : ndarray of int64 of shape (m,)
    shape : (int, int)
    dim : int
    nbytes : int

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.
    MemoryError
        If the features would not fit in memory.

    See Also
    --------
    retrieve : The search.
    relkernels.retrieve_blocks : The search of keys that do not fit in memory.

    Notes
    -----
    Each key has an id: the keys of the constructor are numbered from 0, and each key added later receives the
    next number, which is never given to another key. `retrieve` returns ids as indices, and prefers the lower
    id among equal values. The columns of a mask correspond to `ids`, in this order: after a removal, ids and
    columns differ.

    The rows are copied, except a read-only array of features (of `dtype`, in C order, `psi` None), for
    instance from ``numpy.load(path, mmap_mode="r")``: its memory is used, and must not change.

    Threads may search, add and remove at the same time. A search sees the keys of the moment at which it
    began: each `add` and `remove` before it completely, none after it. Changes wait for each other, but not
    for searches, nor searches for them.

    A removal only marks keys, and takes time for one byte per key; their memory is released when half of the
    keys are marked. Additions take room for as many keys again if there is none left.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> keys = rk.Keys(np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]))
    >>> rk.retrieve(np.array([1.0, 0.5]), keys, 2)
    (array([2., 1.]), array([2, 0]))
    >>> keys.add(np.array([[3.0, 0.0]]))
    array([3])
    >>> keys.remove([2])
    >>> rk.retrieve(np.array([1.0, 0.5]), keys, 2)
    (array([3., 1.]), array([3, 0]))
    >>> len(keys), keys.ids
    (3, array([0, 1, 3]))
    """

    __slots__ = ("__weakref__", "_lock", "_stored", "psi")

    psi: MLP | None

    def __init__(self, keys: Any, psi: MLP | None = None, *, dtype: Any = None) -> None:
        kind = None if dtype is None else _storage(dtype)
        check_mlp("psi", psi)
        rows = Rows("keys", keys, psi)
        kind = kind or rows.dtype
        self._set(Stored.of(kind, rows.stored(kind)), psi)

    def _set(self, stored: Stored, psi: MLP | None) -> None:
        self._stored, self.psi, self._lock = stored, psi, threading.Lock()

    @classmethod
    def _of(cls, stored: Stored, psi: MLP | None) -> Keys:
        keys = cls.__new__(cls)
        keys._set(stored, psi)
        return keys

    @property
    def dtype(self) -> str:
        """Dtype in which the features are stored, by name."""
        return self._stored.dtype

    @property
    def ids(self) -> np.ndarray:
        """The ids of the keys, ascending: read-only, of shape (m,)."""
        return self._stored.kept_ids

    @property
    def shape(self) -> tuple[int, int]:
        """Number of keys and of features."""
        return self._stored.size, self._stored.width

    @property
    def dim(self) -> int:
        """Number of features."""
        return self._stored.width

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, including the room for additions and keys that are only marked as removed.

        Pages of the room that were never written, or of a mapped file that were never read, are not in main
        memory.
        """
        return sum(a.nbytes for a in self._stored.arrays)

    def __len__(self) -> int:
        return self._stored.size

    def add(self, rows: Any) -> np.ndarray:
        """Add keys.

        Parameters
        ----------
        rows : ndarray of shape (n, d_k)
            Rows like those of the constructor, mapped by `psi` if there is one. Otherwise of the dtype of the
            keys, or of float32 if that has 16 bits.

        Returns
        -------
        ndarray of int64 of shape (n,)
            Their ids.

        Raises
        ------
        TypeError, ValueError
            If the rows are not as above; nothing is added.

        Examples
        --------
        >>> import numpy as np, relkernels as rk
        >>> keys = rk.Keys(np.empty((0, 2)))
        >>> keys.add(np.eye(2)), keys.add(np.ones((1, 2)))
        (array([0, 1]), array([2]))
        """
        now = self._stored
        new = Rows("rows", rows, self.psi)
        if self.psi is None and new.dtype not in (now.dtype, now.arithmetic.name):
            cast = f"rows.astype(np.{now.arithmetic})"
            check.different_dtype("rows", "keys", now.dtype, new.dtype, cast)
        if new.width != now.width:
            check.fail("rows", f"{now.width} features, as the keys have", f"shape {new.shape}")
        features = new.stored(now.dtype)
        with self._lock:
            now = self._stored
            self._stored = now.extended(features)
        return np.arange(now.next_id, now.next_id + len(features))

    def remove(self, ids: int | Iterable[int]) -> None:
        """Remove keys; the others keep their ids and their order.

        Parameters
        ----------
        ids : int, or array-like of int
            Ids of keys, in any order.

        Raises
        ------
        TypeError
            If `ids` are not integers.
        ValueError
            If there is no key of such an id; the message names it, and nothing is removed.

        Examples
        --------
        >>> import numpy as np, relkernels as rk
        >>> keys = rk.Keys(np.eye(3))
        >>> keys.remove([0, 2])
        >>> keys.ids
        array([1])
        >>> keys.remove([0, 1])
        Traceback (most recent call last):
            ...
        ValueError: ids: expected ids of keys, got 0, which no key has
        """
        given = _integers(ids)
        with self._lock:
            places = self._stored.places(given)
            missing = given[places < 0]
            if missing.size:
                named = ", ".join(map(str, missing[:_NAMED].tolist()))
                named += f" and {missing.size - _NAMED} more" if missing.size > _NAMED else ""
                check.fail("ids", "ids of keys", f"{named}, which no key has")
            self._stored = self._stored.without(places)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the keys to a safetensors file: data only, nothing that runs when it is read.

        Parameters
        ----------
        path : path-like
            The file is written completely or not at all. An existing file is replaced; keys that were loaded
            from it remain valid.

        Raises
        ------
        OSError
            If the folder does not exist (FileNotFoundError), or the file cannot be written.

        Examples
        --------
        >>> import os, tempfile, numpy as np, relkernels as rk
        >>> path = os.path.join(tempfile.mkdtemp(), "keys.safetensors")
        >>> rk.Keys(np.eye(3)).save(path)
        >>> rk.retrieve(np.array([0.0, 3.0, 1.0]), rk.Keys.load(path), 1)
        (array([3.]), array([1]))
        """
        keys_file.write(path, self._stored.compact(), self.psi)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Keys:
        """Map a file that `save` wrote into memory.

        Nothing is computed, and features are read when a search needs them. Processes that load one file
        share its pages. The first `add` copies the keys to memory.

        Parameters
        ----------
        path : path-like
            The file must not be changed in place or truncated as long as the keys are used; `save` and other
            programs may replace it.

        Returns
        -------
        Keys
            The same to the last bit, with the same ids.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is truncated, damaged or not one of keys; the message says which.

        Examples
        --------
        >>> import relkernels as rk
        >>> rk.Keys.load("nowhere.safetensors")
        Traceback (most recent call last):
            ...
        FileNotFoundError: [Errno 2] No such file or directory: 'nowhere.safetensors'
        """
        return cls._of(*keys_file.read(path))

    def __copy__(self) -> Keys:
        """Return the same keys, which share memory until one of the two is changed."""
        return Keys._of(self._stored.trimmed(), self.psi)

    def __getstate__(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "psi": self.psi, **self._stored.compact().contents()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        psi = state.pop("psi")
        self._set(Stored.restored(**state), psi)

    def __repr__(self) -> str:
        stored = self._stored
        psi = "" if self.psi is None else f", psi={self.psi!r}"
        return f"Keys({stored.size} keys of {stored.width} features, {stored.dtype}{psi})"


def _storage(value: Any) -> str:
    """Return the name of a dtype of storage."""
    if isinstance(value, np.dtype) and value.isnative:
        value = value.name
    elif isinstance(value, type):
        value = value.__name__
    return check.choice("dtype", value, tuple(ELEMENTS))


def _integers(ids: Any) -> np.ndarray:
    """Return ids, ascending, each once."""
    found: np.ndarray | None = None
    if isinstance(ids, np.ndarray):
        found = None if isinstance(ids, np.ma.MaskedArray) else ids
    elif isinstance(ids, (bool, str, bytes, dict, type)):
        pass
    elif hasattr(ids, "__index__"):
        found = np.array([operator.index(ids)])
    elif isinstance(ids, Iterable):
        with check.naming("ids"):
            found = np.array([*ids] or np.empty(0, np.int64))
    if found is not None and found.dtype == object and all(type(i) is int for i in found.flat):
        found = np.clip(found, -(2**63), 2**63 - 1).astype(np.int64)  # no key has an id beyond 64 bits
    if found is None or found.dtype.kind not in "iu" or found.ndim > 1:
        wanted = "ids: expected an integer, or integers in an array or a sequence"
        raise TypeError(f"{wanted}, got {described(ids)}")
    if found.dtype == np.uint64:
        found = np.minimum(found, np.uint64(2**63 - 1))
    return np.unique(found.astype(np.int64, copy=False))
