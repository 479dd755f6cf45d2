"""Definition of operators: one schema, whatever implements it on each device, and one derivative."""

from collections.abc import Callable
from typing import Any

import torch

from snn_sparse.ops.backend import interpreted


def define(name: str, schema: str) -> None:
    """Define the operator ``snn_sparse::name``; C++ implementations of it are found when the library is loaded."""
    torch.library.define(f"snn_sparse::{name}", schema)


def implement_in_triton(name: str) -> Callable[[Callable[..., Any]], None]:
    """Register a function that launches Triton kernels: under CUDA, and under CPU where the interpreter stands in."""
    return torch.library.impl(f"snn_sparse::{name}", ("CUDA", "CPU") if interpreted() else "CUDA")


def _refuse(name: str) -> Callable[..., Any]:
    def refuse(*_: Any) -> None:
        raise RuntimeError(f"{name} can be differentiated only once: no create_graph=True")

    return refuse


def differentiable_once(name: str, backward: str, differentiate: Callable[..., Any], setup: Callable[..., Any]) -> None:
    """Give an operator its derivative, and let that of ``backward``, the operator it calls, raise a RuntimeError.

    ``differentiate`` and ``setup`` are those of ``torch.library.register_autograd``, which serves ``backward`` only: in
    every call that needs a gradient it reads the schema argument by argument, 0.3 ms for the 37 of the neuron.
    """
    operator = getattr(torch.ops.snn_sparse, name).default

    def run(*inputs: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*inputs)

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            output = run(*inputs)
            setup(ctx, inputs, output)
            return output

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return differentiate(ctx, *grads)

    def dispatch(*inputs: Any) -> Any:
        wanted = torch.is_grad_enabled() and any(isinstance(x, torch.Tensor) and x.requires_grad for x in inputs)
        return Differentiable.apply(*inputs) if wanted else run(*inputs)

    torch.library.impl(f"snn_sparse::{name}", "Autograd", dispatch)
    nothing = lambda ctx, inputs, output: None  # noqa: E731
    torch.library.register_autograd(f"snn_sparse::{backward}", _refuse(name), setup_context=nothing)
