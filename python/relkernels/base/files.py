"""Files that are replaced atomically, and safetensors files that are read or mapped into memory."""

from __future__ import annotations

import errno
import json
import mmap
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from . import check
from .describe import option

# NumPy's names of dtypes by their names in safetensors; bfloat16 is read and written as its bits.
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "uint16",
    "I64": "int64",
    "I8": "int8",
}
# The data of a file that is mapped begin on a cache line.
_LINE = 64


def write_whole(path: Any, *parts: Any) -> None:
    """Write the bytes of `parts` to a temporary file in the same folder, and rename it when complete.

    Raises
    ------
    OSError
        If the folder does not exist or does not accept files; the message names it.
    """
    name = os.path.realpath(os.fsdecode(check.path("path", path)))
    folder = os.path.dirname(name)
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, "the folder does not exist", folder)
    if os.path.isdir(name):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    try:
        handle, draft = tempfile.mkstemp(dir=folder, prefix=".relkernels-")
    except OSError as error:  # which names the draft
        raise OSError(error.errno, error.strerror, folder) from None
    try:
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                file.write(part)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(draft, 0o666 & ~umask)  # mkstemp gives access to the owner only
        os.replace(draft, name)
    except BaseException:
        os.unlink(draft)
        raise


def write_safetensors(path: Any, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write contiguous arrays in this order, without a copy of them in memory.

    Arrays of uint16 are written as bfloat16. The first array begins on a cache line when the file is mapped.
    """
    names = {dtype: name for name, dtype in _DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for key, a in tensors.items():
        first, end = end, end + a.nbytes
        header[key] = {"dtype": names[a.dtype.name], "shape": a.shape, "data_offsets": (first, end)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _LINE)
    data = (a.reshape(-1).view(np.uint8).data for a in tensors.values())
    write_whole(path, len(text).to_bytes(8, "little"), text, *data)


def map_safetensors(path: Any) -> tuple[str, dict[str, str], dict[str, np.ndarray]]:
    """Return the same as `read_safetensors`, with read-only arrays in a mapping of the file.

    Bfloat16 is returned as uint16, its bits.
    """
    from safetensors import SafetensorError, safe_open

    name = os.fsdecode(check.path("path", path))
    with check.naming("path"), open(name, "rb") as file:
        try:
            with safe_open(name, framework="numpy"):  # checks the header, and its offsets against the size
                pass
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            start = 8 + int.from_bytes(pages[:8], "little")
            header = json.loads(pages[8:start])
            metadata = header.pop("__metadata__", None) or {}
            tensors = {key: _mapped(pages, start, **entry) for key, entry in header.items()}
        except (SafetensorError, ValueError, TypeError, KeyError, OSError, RecursionError) as error:
            raise ValueError(f"{name}: not a readable safetensors file: {error}") from None
    return name, metadata, tensors


def _mapped(
    pages: mmap.mmap, start: int, dtype: str, shape: list[int], data_offsets: list[int]
) -> np.ndarray:
    kind = np.dtype(_DTYPES[dtype])
    count = (data_offsets[1] - data_offsets[0]) // kind.itemsize
    if count == 0:
        return np.empty(shape, kind)
    return np.frombuffer(pages, kind, count, start + data_offsets[0]).reshape(shape)


def read_safetensors(path: Any) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Return the name of a safetensors file, its metadata and its tensors.

    Raises
    ------
    OSError
        If the file is absent or may not be read.
    ValueError
        If it is not a readable safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    name = os.fsdecode(check.path("path", path))
    with check.naming("path"), open(name, "rb"):  # raises the system's error if it cannot be read
        pass
    try:
        with safe_open(name, framework="numpy") as file:
            metadata = file.metadata() or {}
            return name, metadata, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, TypeError, KeyError, OSError, AttributeError) as error:
        raise ValueError(f"{name}: not a readable safetensors file: {error}") from None


@contextmanager
def checked_contents(name: str, metadata: dict[str, str], form: str, version: str) -> Iterator[None]:
    """Check the format of a file, and name the file in the errors of the block that reads its contents."""
    kind, found = metadata.pop("format", None), metadata.pop("version", None)
    if kind != form:
        raise ValueError(f"{name}: expected a file of format {form!r}, got {kind!r}")
    if found != version:
        raise ValueError(f"{name}: expected version {version} of {form}, got {found!r}")
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{name}: {error.args[0]!r} is missing") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from None


def refuse_rest(metadata: dict[str, str], tensors: dict[str, Any]) -> None:
    """Refuse a file with metadata or tensors that its reader did not use."""
    for what, names in (("metadata", metadata), ("tensors", tensors)):
        if names:
            raise ValueError(f"unknown {what}: {', '.join(map(option, sorted(names)[:5]))}")


def check_writable(option: str, path: str) -> None:
    """Refuse, before any work is done, a path that `write_whole` could not write to afterwards.

    Raises
    ------
    OSError
        If the path is empty, a directory or anything else but an ordinary file, a file without write
        permission, or in a directory that is absent or does not accept files. An existing file is unchanged.
    """
    name = os.path.realpath(path)
    try:
        if not path:
            raise OSError("its name is empty")
        if os.path.isdir(name):
            raise OSError("it is a directory")
        if os.path.lexists(name) and not os.path.isfile(name):
            raise OSError("it is not an ordinary file")
        if os.path.exists(name) and not os.access(name, os.W_OK):
            raise OSError("it may not be written")
        handle, draft = tempfile.mkstemp(dir=os.path.dirname(name), prefix=".relkernels-")
        os.close(handle)
        os.unlink(draft)
    except OSError as error:
        raise OSError(f"{option}: cannot write {path!r}: {error.strerror or error}") from None
