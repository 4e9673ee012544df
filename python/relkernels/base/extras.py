"""Optional dependencies: what to install when one is missing."""

from __future__ import annotations

import importlib.metadata
import re
import shlex


def install(*packages: str) -> str:
    """Return the pip command that installs optional dependencies in the versions this package requires.

    It names the packages themselves, not an extra of relkernels, so it also works for an installation from a
    clone. The versions come from the metadata of the installed package; without metadata, or for packages
    that it does not mention, the names stand alone.
    """
    try:
        required = importlib.metadata.requires("relkernels") or []
    except importlib.metadata.PackageNotFoundError:  # used from the source tree
        required = []
    known: dict[str, str] = {}
    for requirement in required:
        specifier = requirement.partition(";")[0].strip()
        name = re.match(r"[\w.-]+", specifier)
        if name is not None:
            known.setdefault(name[0].lower(), specifier)
    return shlex.join(["pip", "install", *(known.get(package, package) for package in packages)])
