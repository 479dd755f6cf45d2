"""Home-made spike functions: a step forward, a surrogate backward; they answer in the type of their input."""

import torch


class Rectangle(torch.autograd.Function):
    """1 where x >= 0; gradient 1 / (2 * lens) within ``lens`` of it."""

    @staticmethod
    def forward(ctx, x, lens=0.5):
        ctx.save_for_backward(x)
        ctx.lens = lens
        return x.ge(0).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (x.abs() < ctx.lens).to(grad.dtype) / (2 * ctx.lens), None


class Triangle(torch.autograd.Function):
    """1 where x > 0; gradient max(0, gamma - |x|) / gamma^2."""

    @staticmethod
    def forward(ctx, x, gamma):
        ctx.save_for_backward(x)
        ctx.gamma = gamma
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (1 / ctx.gamma) ** 2 * (ctx.gamma - x.abs()).clamp(min=0), None


class FastSigmoid(torch.autograd.Function):
    """1 where x > 0; gradient 1 / (alpha * |x| + 1)^2."""

    @staticmethod
    def forward(ctx, x, alpha=10.0):
        ctx.save_for_backward(x)
        ctx.alpha = alpha
        return torch.gt(x, 0).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad / (ctx.alpha * x.abs() + 1.0) ** 2, None
