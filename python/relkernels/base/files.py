"""Files that appear whole or not at all, and files of arrays that are read."""

from __future__ import annotations

import errno
import os
import tempfile
from typing import Any

from . import check
from .describe import option


def write_whole(path: Any, data: bytes) -> None:
    """Write a file beside its place and put it there when it is complete.

    Raises
    ------
    OSError
        If the folder does not exist or takes no files; the message names it.
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
            file.write(data)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(draft, 0o666 & ~umask)  # mkstemp's own mode shuts everyone else out
        os.replace(draft, name)
    except BaseException:
        os.unlink(draft)
        raise


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
    with check.naming("path"), open(name, "rb"):  # the system's own error where it cannot be read
        pass
    try:
        with safe_open(name, framework="numpy") as file:
            metadata = file.metadata() or {}
            return name, metadata, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, TypeError, KeyError, OSError, AttributeError) as error:
        raise ValueError(f"{name}: not a readable safetensors file: {error}") from None


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
        If the path is empty, a directory or another thing that is no file, a file that may not be written,
        or in a directory that is absent or takes no files. It is left as it was.
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
