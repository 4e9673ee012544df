"""The libraries we are compared with: which are installed, and how many threads they use."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator
from typing import Any

from ..config import get_num_threads, set_num_threads

# Contestant: module to import, package for pip.
PEERS = {
    "numpy": ("numpy", "numpy"),
    "torch": ("torch", "torch"),
    "faiss": ("faiss", "faiss-cpu"),
    "keops": ("pykeops", "pykeops"),
    "sklearn": ("sklearn", "scikit-learn"),
}


def missing() -> dict[str, str]:
    """Return the peers that are not installed, with the command to install each."""
    return {
        peer: f"not installed: pip install {package}"
        for peer, (module, package) in PEERS.items()
        if importlib.util.find_spec(module) is None
    }


def versions() -> dict[str, str]:
    """Return the versions of the peers that are installed."""
    absent = missing()
    return {
        peer: importlib.metadata.version(package)
        for peer, (_, package) in PEERS.items()
        if peer not in absent
    }


def blas_in_use() -> list[dict[str, Any]]:
    """Return the BLAS libraries in this process with the kernels that each selected."""
    import threadpoolctl

    return [
        {
            "library": pool["filepath"].rsplit("/", 1)[-1],
            "version": pool.get("version"),
            "architecture": pool.get("architecture"),
            "threading_layer": pool.get("threading_layer"),
        }
        for pool in threadpoolctl.threadpool_info()
        if pool["user_api"] == "blas"
    ]


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """Make every loaded contestant use n threads, and restore the previous numbers afterwards."""
    import threadpoolctl

    ours = get_num_threads()
    torch, faiss = sys.modules.get("torch"), sys.modules.get("faiss")
    torch_before = torch.get_num_threads() if torch else 0
    faiss_before = faiss.omp_get_max_threads() if faiss else 0
    with threadpoolctl.threadpool_limits(n):
        set_num_threads(n)
        if torch:
            torch.set_num_threads(n)
        if faiss:
            faiss.omp_set_num_threads(n)
        try:
            yield
        finally:
            set_num_threads(ours)
            if torch:
                torch.set_num_threads(torch_before)
            if faiss:
                faiss.omp_set_num_threads(faiss_before)
