"""Spike functions with surrogate gradients, as people write them themselves."""

import torch


class Lens(torch.autograd.Function):
    """Above a threshold; a rectangle as the gradient; answers float32."""

    @staticmethod
    def forward(ctx, v, threshold, lens):
        ctx.save_for_backward(v)
        ctx.numbers = threshold, lens
        return v.gt(threshold).float()

    @staticmethod
    def backward(ctx, grad):
        (v,) = ctx.saved_tensors
        threshold, lens = ctx.numbers
        return grad * ((v - threshold).abs() < lens).float(), None, None


class Tent(torch.autograd.Function):
    """Above zero; a triangle as the gradient."""

    @staticmethod
    def forward(ctx, u, gamma):
        ctx.save_for_backward(u)
        ctx.gamma = gamma
        return (u > 0).to(u)

    @staticmethod
    def backward(ctx, grad):
        (u,) = ctx.saved_tensors
        return grad * (ctx.gamma - u.abs()).clamp(min=0) / ctx.gamma**2, None


class AtLeast(torch.autograd.Function):
    """From zero on; an arc tangent's gradient."""

    @staticmethod
    def forward(ctx, u):
        ctx.save_for_backward(u)
        return (u >= 0).to(u)

    @staticmethod
    def backward(ctx, grad):
        (u,) = ctx.saved_tensors
        return grad / (1 + (torch.pi * u) ** 2)


class Logistic(torch.autograd.Function):
    """From zero on, or above; a sigmoid's gradient."""

    @staticmethod
    def forward(ctx, u, steepness, strict):
        ctx.save_for_backward(u)
        ctx.steepness = steepness
        return (u > 0 if strict else u >= 0).to(u)

    @staticmethod
    def backward(ctx, grad):
        (u,) = ctx.saved_tensors
        y = torch.sigmoid(ctx.steepness * u)
        return grad * ctx.steepness * y * (1 - y), None, None
