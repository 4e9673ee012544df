"""What the command line does where the environment keeps the package from being imported.

`relkernels` and ``python -m relkernels`` import the package before any code of the command line runs, so the
package itself turns the error into one line and exit code 2 there; elsewhere it is an ImportError.
"""

from __future__ import annotations

import os
import sys


def is_command() -> bool:
    """Tell whether this process is the command line."""
    first = sys.argv[0] if sys.argv else ""
    if first == "-m":  # before runpy has found the module
        return "relkernels" in sys.orig_argv[sys.orig_argv.index("-m") + 1 :][:1]
    return os.path.splitext(os.path.basename(first))[0] == "relkernels"


def leave_on_wrong_environment(error: ImportError) -> None:
    """End the command line if a variable of the environment is wrong; do nothing in other processes."""
    if str(error).startswith("RELKERNELS_") and is_command():
        print(f"relkernels: {error}", file=sys.stderr)
        raise SystemExit(2) from None
