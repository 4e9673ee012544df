"""Arrays of any library, and the engine that computes with them."""

from .dispatch import operation
from .dlpack import Tensor, from_dlpack
from .kinds import Array, Kind, host, kind_of

__all__ = ["Array", "Kind", "Tensor", "from_dlpack", "host", "kind_of", "operation"]
