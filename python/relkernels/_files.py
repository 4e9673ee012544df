"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file beside its place and put it there when it is complete."""
    name = os.path.realpath(path)
    handle, draft = tempfile.mkstemp(dir=os.path.dirname(name), prefix=".relkernels-")
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


def check_writable(option: str, path: str) -> None:
    """Refuse before the work what `write_whole` could not write after it.

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
