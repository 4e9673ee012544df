"""Registration of the operators with PyTorch: their kernels, derivatives and behaviour under transforms.

`torch.library.custom_op` imports ``torch._dynamo`` at an operator's first call: 2 s and 70 MiB in the
first request of a service that compiles nothing. The same registrations made through a `Library` do not.

The dispatcher takes 200 us to reach a kernel registered from Python, and 500 us with a gradient. Calls that
do not need it, because no mode or transform is active and all tensors are plain ones on the CPU, go straight
to the kernel, with a gradient through a `torch.autograd.Function` (`Operator`). Ordinary ones among them are
taken whole by the extension (`csrc/bindings/register_tensors.cpp`), in 3 us.

Derivatives that have no kernel come from an operator's formula in differentiable operations (`_formulas`):

- forward-mode derivatives, and those of the transforms of `torch.func`: the formula is called instead of the
  operator. PyTorch would drop tangents silently, and does not support transforms of such operators.
- second derivatives: the backward of an operator that is itself a derivative differentiates its formula.
- `torch.vmap`: an operator's batching rule makes the batch a leading dimension and calls the kernel; where
  the kernel has no leading dimensions for it, the formula is called.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter
from torch._functorch.vmap import unwrap_batched
from torch.autograd import forward_ad
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from .. import _core
from ._threads import on_pytorch_threads

_NAMESPACE = "relkernels"

# Each is zero, False or None where operations run as they are called.
_MODES = (
    torch._C._len_torch_dispatch_stack,
    torch._C._len_torch_function_stack,
    torch._C._are_functorch_transforms_active,
    torch._C._get_tracing_state,
)

# Whether the extension can read tensors by PyTorch's C functions; older versions have none.
_READS_TENSORS = _core.read_tensors(Tensor, nn.Parameter, torch.is_grad_enabled, _MODES, forward_ad)

# Operator -> its formula.
_FORMULAS: dict[str, Callable[..., Any]] = {}


def _needs_formula(arguments: tuple[Any, ...]) -> bool:
    """Whether a call needs derivatives that the autograd kernel of an operator would drop or refuse."""
    tensors = [a for a in tree_flatten(arguments)[0] if isinstance(a, Tensor)]
    if forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(a).tangent is not None for a in tensors):
        return True
    transformed = torch._C._are_functorch_transforms_active() and torch.is_grad_enabled()
    return transformed and any(a.requires_grad for a in tensors)


def _is_transformed(arguments: tuple[Any, ...]) -> bool:
    """Whether tensors belong to a transform, or have a forward-mode derivative, outside compiled code."""
    if torch.compiler.is_compiling():
        return False
    tensors = [a for a in tree_flatten(arguments)[0] if isinstance(a, Tensor)]
    return any(map(torch._C._functorch.is_functorch_wrapped_tensor, tensors)) or _needs_formula(arguments)


class _Library(torch.library.Library):
    """A library whose operators call their formula where PyTorch's autograd kernel would fail."""

    def impl(self, op_name: Any, fn: Any, dispatch_key: str = "", **options: Any) -> None:
        kernel = fn
        if dispatch_key == "Autograd":
            name = op_name.split("::")[-1]

            def kernel(keyset: Any, *arguments: Any) -> Any:
                if _needs_formula(arguments):
                    return _FORMULAS[name](*arguments)
                if torch._C._are_functorch_transforms_active():  # which `fn` refuses before 2.5
                    registered = getattr(getattr(torch.ops, _NAMESPACE), name).default
                    with torch._C._AutoDispatchBelowAutograd():
                        return registered.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)
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


# A number, or before 2.5 a text, that tells sets of keys apart.
_keys_of: Callable[[Any], Any] = getattr(torch._C.DispatchKeySet, "raw_repr", repr)
_PLAIN = _keys_of(torch._C._dispatch_keys(torch.empty(0, device="cpu")))


def is_plain(tensor: Tensor) -> bool:
    """Whether the kernels can read this tensor: on the CPU, no subclass, no part of a transform."""
    return type(tensor) is nn.Parameter or (
        type(tensor) is Tensor and _keys_of(torch._C._dispatch_keys(tensor)) == _PLAIN
    )


def is_eager() -> bool:
    """Whether operations run as they are called: no tracing, mode, transform or forward-mode derivative."""
    return not (
        torch.compiler.is_compiling() or any(mode() for mode in _MODES) or forward_ad._current_level >= 0
    )


def _not_ordinary(*arguments: Any) -> Any:
    """Stand for the extension's function of an operator that has none."""
    return NotImplemented


class Operator:
    """An operator registered with PyTorch, called directly where the dispatcher has nothing to do."""

    def __init__(self, registered: Any, kernel: Callable[..., Any], leading: dict[int, int]) -> None:
        self.registered = registered
        self.leading = leading  # arguments with leading dimensions -> how many dimensions follow them
        self._schema = registered._schema
        name = str(self._schema.name).partition("::")[2]
        self._whole = (_core.whole_operator(name) if _READS_TENSORS else None) or _not_ordinary
        self._kernel = kernel
        self._function: Any = None
        self.gradient: Callable[..., Any] | None = None  # the formula of an operator that is a derivative

    def __call__(self, *arguments: Any) -> Any:
        result = self.ordinary(*arguments)
        if result is not NotImplemented:
            return result
        if not is_eager():
            if self.gradient is not None and _is_transformed(arguments):
                return self.gradient(*arguments)
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

    def ordinary(self, *arguments: Any) -> Any:
        """Return the result of an ordinary call, which needs no checks; NotImplemented for any other."""
        if torch.compiler.is_compiling():
            return NotImplemented
        result = self._whole(*arguments)
        if result is not True:
            return result
        return NotImplemented if self._function is None else self._function.apply(*arguments)

    def differentiate(self, gradients: Callable[..., Any], setup_context: Callable[..., None]) -> None:
        """Set what direct calls with a gradient run."""
        operator = self

        class Direct(torch.autograd.Function):
            # Not a method that calls it: at small sizes a call of Python is part of the time.
            backward = staticmethod(gradients)

            @staticmethod
            def forward(ctx: Any, *arguments: Any) -> Any:
                output = operator._whole(*arguments)
                if output is NotImplemented:
                    output = operator._kernel(*arguments)
                setup_context(ctx, arguments, output)
                return output

        Direct.__name__ = Direct.__qualname__ = str(self._schema.name).replace("::", "_")
        self._function = Direct


def operator(schema: str, **leading: int) -> Callable[[Callable[..., Any]], Operator]:
    """Make an operator of a function on tensors of any device that changes none of them.

    `leading` names the arguments whose leading dimensions are broadcast to those of every result, with the
    number of dimensions that follow them.
    """

    def make(function: Callable[..., Any]) -> Operator:
        kernel = on_pytorch_threads(function)
        name = schema[: schema.index("(")]
        _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        _LIBRARY.impl(name, _untraced(kernel), "CompositeExplicitAutograd")
        registered = getattr(getattr(torch.ops, _NAMESPACE), name).default
        places = {i: leading[a.name] for i, a in enumerate(registered._schema.arguments) if a.name in leading}
        if "Tensor[]" in schema:
            _LIBRARY.impl(name, _item_by_item(registered), "Batched")
        return Operator(registered, kernel, places)

    return make


def _item_by_item(registered: Any) -> Callable[..., list[Tensor]]:
    """Return a loop over the batches of torch.autograd, as PyTorch makes for operators without lists."""

    def batched(*arguments: Any) -> Any:
        level = torch._C._vmapmode_increment_nesting() - 1
        torch._C._vmapmode_decrement_nesting()
        leaves, structure = tree_flatten(arguments)
        tensors = [i for i, a in enumerate(leaves) if isinstance(a, Tensor)]
        size = max(len(torch._remove_batch_dim(leaves[i], level, 1, 0)) for i in tensors)
        for i in tensors:
            leaves[i] = torch._remove_batch_dim(leaves[i], level, size, 0).unbind()
        found = [
            registered(*tree_unflatten([a[i] if isinstance(a, tuple) else a for a in leaves], structure))
            for i in range(size)
        ]
        if isinstance(found[0], Tensor):
            return torch._add_batch_dim(torch.stack(found), 0, level)
        return [torch._add_batch_dim(torch.stack(each), 0, level) for each in zip(*found, strict=True)]

    return batched


def fake(operator: Operator) -> Callable[[Callable[..., Any]], Any]:
    """Register the function that gives the shapes of an operator's results without computing them."""
    return torch.library.register_fake(operator._schema.name, lib=_LIBRARY)


def differentiable(
    operator: Operator,
    backward: Callable[..., Any],
    setup_context: Callable[..., None],
    formula: Callable[..., Any],
) -> None:
    """Register an operator's backward, and the formula for its other derivatives."""
    name = _with_formula(operator, formula)
    torch.library.register_autograd(name, backward, setup_context=setup_context, lib=_LIBRARY)
    operator.differentiate(backward, setup_context)


def differentiable_by(operator: Operator, formula: Callable[..., Any], *found: str) -> None:
    """Register the backward of an operator that is itself a derivative: that of its formula.

    `found` names the arguments that the forward pass found: functions of the others, which the formula
    does not read.
    """

    def refused(*arguments: Any) -> NoReturn:
        raise NotImplementedError(
            f"torch.ops.{operator.registered}: not provided under transforms; the functions and modules of "
            "relkernels.torch are"
        )

    operator.gradient = formula
    name = _with_formula(operator, refused)  # a formula of gradients is itself a transform: not in a kernel
    unread = [a.name in found for a in operator._schema.arguments]

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        leaves, ctx.structure = tree_flatten(inputs)
        ctx.constants = [None if isinstance(a, Tensor) else a for a in leaves]
        ctx.save_for_backward(*(a if isinstance(a, Tensor) else None for a in leaves))
        ctx.unread = [skip for skip, a in zip(unread, inputs, strict=True) for _ in tree_flatten(a)[0]]

    def backward(ctx: Any, *grads: Any) -> Any:
        saved = zip(ctx.saved_tensors, ctx.constants, strict=True)
        leaves = [constant if tensor is None else tensor for tensor, constant in saved]
        chosen = [
            i
            for i, (a, skip) in enumerate(zip(leaves, ctx.unread, strict=True))
            if isinstance(a, Tensor) and a.requires_grad and not skip
        ]

        def of_chosen(*tensors: Tensor) -> tuple[Tensor, ...]:
            given = list(leaves)
            for i, a in zip(chosen, tensors, strict=True):
                given[i] = a
            return tuple(formula(*tree_unflatten(given, ctx.structure)))

        pull = torch.func.vjp(of_chosen, *(leaves[i] for i in chosen))[1]
        result: list[Tensor | None] = [None] * len(leaves)
        above = tuple(tree_flatten(grads)[0])
        for i, grad in zip(chosen, pull(above), strict=True):
            result[i] = grad
        return tuple(tree_unflatten(result, ctx.structure))

    torch.library.register_autograd(name, backward, setup_context=setup_context, lib=_LIBRARY)


def _with_formula(operator: Operator, formula: Callable[..., Any]) -> str:
    """Register an operator's formula; return the operator's name."""
    qualified = str(operator._schema.name)
    name = qualified.split("::")[-1]
    _FORMULAS[name] = formula

    # What PyTorch's own rules for operators are made of, since 2.5 only.
    below = torch._C.DispatchKeySet(torch._C.DispatchKey.FuncTorchBatched)

    def batched(keyset: Any, *arguments: Any) -> Any:
        interpreter: Any = retrieve_current_functorch_interpreter()
        level = interpreter.level()
        given, in_dims = unwrap_batched(arguments, level)
        if not _makes_leading(in_dims, operator.leading):
            return formula(*arguments)
        with torch._C._ExcludeDispatchKeyGuard(below):
            if all(dim is None for dim in tree_flatten(in_dims)[0]):
                return operator.registered(*arguments)
            out = operator.registered(*leading(interpreter.batch_size(), in_dims, *given))
        return tree_map(lambda a: torch._C._functorch._add_batch_dim(a, 0, level), out)

    def leading(batch_size: int, in_dims: tuple[Any, ...], *arguments: Any) -> list[Any]:
        """Return arguments with the batch as the first of all leading dimensions."""
        given = list(arguments)
        own = {
            i: given[i].ndim - (in_dims[i] is not None) - after
            for i, after in operator.leading.items()
            if i < len(given) and given[i] is not None
        }
        most = max(0, *own.values())
        for i, lead in own.items():
            a = given[i].unsqueeze(0) if in_dims[i] is None else given[i].movedim(in_dims[i], 0)
            given[i] = a.reshape(a.shape[0], *(1,) * (most - lead), *a.shape[1:])
        given[0] = given[0].expand(batch_size, *given[0].shape[1:])  # where only others are batched
        return given

    _LIBRARY.impl(name, batched, "FuncTorchBatched", with_keyset=True)
    return qualified


def _makes_leading(in_dims: tuple[Any, ...], leading: dict[int, int]) -> bool:
    """Whether the batched arguments are among those of which the kernel takes leading dimensions."""
    others = (dims for i, dims in enumerate(in_dims) if i not in leading)
    return all(dim is None for dims in others for dim in tree_flatten(dims)[0])
