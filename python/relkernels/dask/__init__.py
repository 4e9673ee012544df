"""Relations on Dask arrays, for data larger than memory and for several machines.

`feature_map`, `normalize`, `relation_matrix`, `relation_matvec`, `attention`, `retrieve`, `retrieve_above`
and `nngp_kernel` take and return Dask arrays, lazily; names and arguments are those of the functions in
`relkernels`, without ``out``, ``limit`` and offsets of ragged batches. `fit` trains estimators on Dask arrays
block by block. `keys` prepares keys for both searches once. `from_npy` returns an array of the rows of a
``.npy`` file that each worker maps itself.

Operations that reduce over columns (`retrieve`, `retrieve_above`, `attention`, `relation_matvec`) compute a
mergeable state for each pair of blocks (``relkernels.states``: the same states that threads of one machine
merge) and merge the states of a block of rows in a tree. A task holds one block of rows, one of columns and a
state. A map's weights are one value of the graph, which is sent once to each worker, however many tasks need
it.

Rows are chunked like the first argument, columns like the second; features are rechunked into a single chunk.
Leading dimensions broadcast, and may have several chunks, too.

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

from .above import retrieve_above
from .arrays import from_npy
from .estimators import fit
from .key_blocks import keys
from .reductions import attention, relation_matvec, retrieve
from .relations import feature_map, nngp_kernel, normalize, relation_matrix

__all__ = [
    "attention",
    "feature_map",
    "fit",
    "from_npy",
    "keys",
    "nngp_kernel",
    "normalize",
    "relation_matrix",
    "relation_matvec",
    "retrieve",
    "retrieve_above",
]
