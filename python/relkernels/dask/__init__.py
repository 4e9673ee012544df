"""Relations on Dask arrays: data larger than memory, and more than one machine.

`feature_map`, `relation_matrix`, `relation_matvec`, `attention`, `retrieve` and `nngp_kernel` take and return
Dask arrays, lazily; names and arguments are those of the functions in `relkernels`, except for ``out``. `fit`
trains estimators on Dask arrays block by block. `from_npy` makes an array of a ``.npy`` file that each worker
maps for itself.

What sums over columns (`retrieve`, `attention`, `relation_matvec`) makes a mergeable state of each pair of
blocks (``relkernels.states``: the same that threads of one machine merge) and joins those of a block of rows
in a tree. A task holds one block of rows, one of columns and a state. A map's weights are one value of the
graph, which travels once to a worker, however many tasks need it.

Rows of the first argument are cut as its chunks are, columns as those of the second; features are always in
one chunk, and so are brought into one. Leading dimensions broadcast, and may be cut too.

See ``docs/dask.md`` for chunks, threads, memory and time on many machines.
"""

from __future__ import annotations

try:
    import dask.array as _dask_array  # noqa: F401
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "dask":
        raise
    from ..base.extras import install

    raise ImportError(f"relkernels.dask needs Dask: {install('dask')}") from None

from .arrays import from_npy
from .estimators import fit
from .reductions import attention, relation_matvec, retrieve
from .relations import feature_map, nngp_kernel, relation_matrix

__all__ = [
    "attention",
    "feature_map",
    "fit",
    "from_npy",
    "nngp_kernel",
    "relation_matrix",
    "relation_matvec",
    "retrieve",
]
