"""The calls of one child process, and its reports to the parent."""

from __future__ import annotations

import faulthandler
import json
import mmap
import struct
import sys
import time
import traceback
from pathlib import Path

# The current call, and the number of calls made.
PROGRESS = struct.Struct("<qq")


def main(arguments: list[str]) -> int:
    """Arguments: seed, first call, step, end, seconds, and the file of the progress."""
    seed, first, step, end = (int(a) for a in arguments[:4])
    seconds, path = float(arguments[4]), Path(arguments[5])
    faulthandler.enable()
    from .judge import judge

    with path.open("r+b") as file:
        progress = mmap.mmap(file.fileno(), PROGRESS.size)
    _, made = PROGRESS.unpack(progress[:])
    until = time.monotonic() + seconds
    for index in range(first, end, step):
        if time.monotonic() > until:
            break
        progress[:] = PROGRESS.pack(index, made)
        try:
            what, faults = judge(seed, index)
        except Exception:  # in the campaign itself
            what, faults = "the campaign", [traceback.format_exc()]
        made += 1
        for fault in faults:
            print(json.dumps({"call": index, "what": what, "fault": fault}), flush=True)
    progress[:] = PROGRESS.pack(-1, made)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
