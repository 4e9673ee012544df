"""Registration of the operators with PyTorch, and the derivatives they refuse.

`torch.library.custom_op` imports ``torch._dynamo`` at an operator's first call: 2 s and 70 MiB in the
first request of a service that compiles nothing. The same registrations made through a `Library` do not.

PyTorch drops the tangents of an operator that has no forward-mode derivative unless some input requires
a gradient, and its message under `torch.func` does not say whose operator it is. Every call with a
derivative therefore passes `_derivatives_provided` first.

The dispatcher reaches a kernel registered from Python in 200 us, with a gradient in 500 us. Calls that need
nothing of it, because no mode or transform is active and the tensors are plain ones on the CPU, go straight
to the kernel, with a gradient by a `torch.autograd.Function` of 30 us (`Operator`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from ._threads import on_pytorch_threads

_NAMESPACE = "relkernels"


def _derivatives_provided(arguments: tuple[Any, ...]) -> None:
    """Refuse the derivatives that would be silently wrong, or fail with a message of PyTorch's."""
    lists = (a if isinstance(a, list) else [a] for a in arguments)
    tensors = [a for given in lists for a in given if isinstance(a, Tensor)]
    if any(forward_ad.unpack_dual(a).tangent is not None for a in tensors):
        raise NotImplementedError(
            "relkernels.torch: forward-mode derivatives (torch.func.jvp, jacfwd and linearize, "
            "torch.autograd.forward_ad) are not provided; use backward() or torch.autograd.grad"
        )
    if (
        torch._C._are_functorch_transforms_active()
        and torch.is_grad_enabled()
        and any(a.requires_grad for a in tensors)
    ):
        raise NotImplementedError(
            "relkernels.torch: torch.func.grad, vjp, jacrev and hessian are not provided (PyTorch does not "
            "support them for operators registered from Python); use backward() or torch.autograd.grad"
        )


class _Library(torch.library.Library):
    """A library whose operators check the requested derivative before PyTorch's autograd kernel runs."""

    def impl(self, op_name: Any, fn: Any, dispatch_key: str = "", **options: Any) -> None:
        kernel = fn
        if dispatch_key == "Autograd":

            def kernel(keyset: Any, *arguments: Any) -> Any:
                _derivatives_provided(arguments)
                return fn(keyset, *arguments)

        # Not by super(): the documentation may be built without torch, and its stand-in has no such method.
        torch.library.Library.impl(self, op_name, kernel, dispatch_key, **options)


_LIBRARY = _Library(_NAMESPACE, "FRAGMENT")


def _untraced(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Keep torch.compile from tracing into a kernel that is called where a graph has been broken."""
    disabled = None

    def called(*arguments: Any) -> Any:
        nonlocal disabled
        if disabled is None:
            dynamo = sys.modules.get("torch._dynamo")
            if dynamo is None:  # nothing has been compiled in this process
                return kernel(*arguments)
            disabled = dynamo.disable(kernel)
        return disabled(*arguments)

    return called


_PLAIN = torch._C._dispatch_keys(torch.empty(0, device="cpu")).raw_repr()


def is_plain(tensor: Tensor) -> bool:
    """Whether the kernels can read this tensor: on the CPU, no subclass, no part of a transform."""
    return type(tensor) is nn.Parameter or (
        type(tensor) is Tensor and torch._C._dispatch_keys(tensor).raw_repr() == _PLAIN
    )


def is_eager() -> bool:
    """Whether operations run as they are called: no tracing, mode, transform or forward-mode derivative."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state() is not None
        or forward_ad._current_level >= 0
    )


class Operator:
    """An operator registered with PyTorch, called directly where the dispatcher has nothing to do."""

    def __init__(self, registered: Any, kernel: Callable[..., Any]) -> None:
        self.registered = registered
        self._schema = registered._schema
        self._kernel = kernel
        self._function: Any = None

    def __call__(self, *arguments: Any) -> Any:
        if not is_eager():
            return self.registered(*arguments)
        needs_grad, grad_mode = False, torch.is_grad_enabled()
        for a in arguments:
            if isinstance(a, list) or (isinstance(a, Tensor) and not is_plain(a)):
                return self.registered(*arguments)
            needs_grad = needs_grad or (grad_mode and isinstance(a, Tensor) and a.requires_grad)
        if not needs_grad:
            return self._kernel(*arguments)
        if self._function is None:
            return self.registered(*arguments)
        return self._function.apply(*arguments)

    def differentiate(self, backward: Callable[..., Any], setup_context: Callable[..., None]) -> None:
        """Set what direct calls with a gradient run."""
        kernel = self._kernel

        class Direct(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *arguments: Any) -> Any:
                output = kernel(*arguments)
                setup_context(ctx, arguments, output)
                return output

            @staticmethod
            def backward(ctx: Any, *grads: Any) -> Any:
                return backward(ctx, *grads)

        Direct.__name__ = Direct.__qualname__ = str(self._schema.name).replace("::", "_")
        self._function = Direct


def operator(schema: str) -> Callable[[Callable[..., Any]], Operator]:
    """Make an operator of a function on tensors of any device that changes none of them."""

    def make(function: Callable[..., Any]) -> Operator:
        kernel = on_pytorch_threads(function)
        name = schema[: schema.index("(")]
        _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        _LIBRARY.impl(name, _untraced(kernel), "CompositeExplicitAutograd")
        if "Tensor[]" in schema:  # for the others PyTorch calls the operator once an item
            for key in ("FuncTorchBatched", "Batched"):  # torch.vmap, and what torch.autograd uses
                _LIBRARY.impl(name, _no_batches(name), key)
        return Operator(getattr(getattr(torch.ops, _NAMESPACE), name).default, kernel)

    return make


def _no_batches(name: str) -> Callable[..., NoReturn]:
    def batched(*arguments: Any) -> NoReturn:
        raise NotImplementedError(
            f"relkernels.torch: torch.vmap over {name} is not provided (PyTorch does not support it for "
            "operators on lists of tensors); maps take batches as they are, of shape (..., n, d), and "
            "torch.autograd.functional.jacobian works with vectorize=False"
        )

    return batched


def fake(operator: Operator) -> Callable[[Callable[..., Any]], Any]:
    """Register the function that gives the shapes of an operator's results without computing them."""
    return torch.library.register_fake(operator._schema.name, lib=_LIBRARY)


def differentiable(
    operator: Operator, backward: Callable[..., Any], setup_context: Callable[..., None] | None = None
) -> None:
    """Register an operator's backward."""
    torch.library.register_autograd(
        operator._schema.name, backward, setup_context=setup_context, lib=_LIBRARY
    )
    if setup_context is not None:
        operator.differentiate(backward, setup_context)


def differentiable_once(operator: Operator) -> None:
    """Make an operator that is itself a derivative raise when it is differentiated."""

    def backward(ctx: Any, *grads: Tensor) -> NoReturn:
        raise RuntimeError(
            "relkernels.torch: second derivatives are not provided; call backward or grad without "
            "create_graph=True"
        )

    differentiable(operator, backward)
