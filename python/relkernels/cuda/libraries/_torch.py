"""PyTorch's tensors."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from . import Description, Kind


class _PyTorch(Kind):
    name = "PyTorch"

    def array_class(self) -> type:
        return torch.Tensor

    def device(self, a: Any) -> int | None:
        return a.device.index if a.device.type == "cuda" else None

    def where(self, device: int) -> str:
        return f"cuda:{device}"

    def describe(self, a: Any) -> Description:
        element = str(a.dtype).removeprefix("torch.")
        return Description(a.data_ptr(), tuple(a.shape), tuple(a.stride()), element)

    def readable(self, name: str, a: Any) -> Any:
        if a.layout != torch.strided:
            raise TypeError(f"{name}: expected a dense tensor, got one of layout {a.layout}")
        if a.is_neg():
            raise TypeError(f"{name}: expected a tensor whose sign is applied, call its resolve_neg()")
        if a.requires_grad and torch.is_grad_enabled():
            raise TypeError(
                f"{name}: expected a tensor that requires no gradient, got one that does: call its detach(), "
                "or compute under torch.no_grad()"
            )
        return a

    def empty(self, shape: tuple[int, ...], element: str, device: int) -> Any:
        return torch.empty(shape, dtype=getattr(torch, element), device=self.where(device))

    def view(self, a: Any, shape: tuple[int, ...], steps: tuple[int, ...], offset: int) -> Any:
        return a.as_strided(shape, steps, a.storage_offset() + offset)

    def copy(self, out: Any, a: Any) -> None:
        out.copy_(a)

    def fill(self, a: Any, value: float) -> None:
        a.fill_(value)

    def add(self, a: Any, b: Any) -> Any:
        return a + b

    def sum(self, a: Any, axes: tuple[int, ...]) -> Any:
        return a.sum(dim=axes, keepdim=True)

    def upload(self, a: np.ndarray, device: int) -> Any:
        return torch.tensor(a, device=self.where(device))

    def download(self, a: Any) -> np.ndarray:
        return a.detach().cpu().numpy()

    def any_nan(self, a: Any) -> bool:
        return bool(a.isnan().any())

    def least(self, a: Any) -> float:
        return float(a.min())

    def stream(self, device: int) -> int:
        return torch.cuda.current_stream(device).cuda_stream

    def guard(self, device: int) -> AbstractContextManager[Any]:
        return torch.cuda.device(device)

    def capturing(self, device: int) -> bool:
        return torch.cuda.is_current_stream_capturing()

    def synchronize(self, device: int) -> None:
        torch.cuda.synchronize(device)

    def memory_errors(self) -> tuple[type[BaseException], ...]:
        return (torch.cuda.OutOfMemoryError,)


KIND = _PyTorch()
