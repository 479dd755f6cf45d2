"""The definition of a masked optimizer step, against torch.optim in float64."""

import pytest
import torch

from snn_sparse.ops.optimizer_step import adam_step, sgd_step

SGD = [{}, {"momentum": 0.9}, {"momentum": 0.8, "weight_decay": 0.1, "nesterov": True}, {"weight_decay": 0.3}]
ADAM = [{}, {"weight_decay": 0.1, "eps": 1e-3}, {"betas": (0.3, 0.95)}, {"betas": (0.0, 0.0)}]


def draw(density):
    alive = torch.rand(7, 3, 5) < density
    start = torch.randn(7, 3, 5, dtype=torch.float64) * alive
    gradients = [torch.randn(7, 3, 5, dtype=torch.float64) for _ in range(5)]
    return alive, start, gradients


def expected(kind, start, gradients, alive, options):
    weight = start.clone().requires_grad_()
    optimizer = kind([weight], lr=0.05, **options)
    for gradient in gradients:
        weight.grad = gradient * alive
        optimizer.step()
    return weight.detach(), optimizer.state[weight]


def poisoned(gradient, alive):
    return gradient.masked_fill(~alive, float("nan"))


@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("options", SGD)
def test_sgd(options, density):
    alive, weight, gradients = draw(density)
    theirs, state = expected(torch.optim.SGD, weight, gradients, alive, options)
    buffer = torch.zeros_like(weight)
    unmasked, unmasked_buffer = weight.clone(), buffer.clone()
    for gradient in gradients:
        sgd_step(weight, poisoned(gradient, alive), buffer, lr=0.05, alive=alive, **options)
        sgd_step(unmasked, gradient * alive, unmasked_buffer, lr=0.05, **options)
    torch.testing.assert_close(weight, theirs, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(unmasked, theirs, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(buffer, state.get("momentum_buffer", torch.zeros_like(buffer)), rtol=1e-12, atol=1e-14)
    assert weight[~alive].eq(0).all()


@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("options", ADAM)
def test_adam(options, density):
    alive, weight, gradients = draw(density)
    theirs, state = expected(torch.optim.Adam, weight, gradients, alive, options)
    mean, square = torch.zeros_like(weight), torch.zeros_like(weight)
    for step, gradient in enumerate(gradients, 1):
        adam_step(weight, poisoned(gradient, alive), mean, square, step, lr=0.05, alive=alive, **options)
    for ours, other in ((weight, theirs), (mean, state["exp_avg"]), (square, state["exp_avg_sq"])):
        torch.testing.assert_close(ours, other, rtol=1e-11, atol=1e-13)
        assert ours[~alive].eq(0).all()


def test_pruned_entries_are_not_written():
    alive, weight = torch.tensor([True, False]), torch.full((2,), 7.0)
    state = [torch.full((2,), 7.0) for _ in range(3)]
    sgd_step(weight, torch.ones(2), state[0], lr=0.1, momentum=0.9, weight_decay=0.1, alive=alive)
    adam_step(weight, torch.ones(2), state[1], state[2], 1, lr=0.1, weight_decay=0.1, alive=alive)
    for x in (weight, *state):
        assert x[0] != 7
        assert x[1] == 7


def test_wrong_arguments():
    x = torch.zeros(3)
    with pytest.raises(ValueError, match="momentum_buffer"):
        sgd_step(x, x, lr=0.1, momentum=0.9)
    with pytest.raises(ValueError, match="gradient must have"):
        sgd_step(x, torch.zeros(1), lr=0.1)
    with pytest.raises(ValueError, match="exp_avg_sq must have"):
        adam_step(x, x, x, torch.zeros(4), 1, lr=0.1)
    with pytest.raises(ValueError, match="alive must have"):
        sgd_step(x, x, lr=0.1, alive=torch.ones(2, dtype=torch.bool))
    with pytest.raises(TypeError, match="alive must be bool"):
        sgd_step(x, x, lr=0.1, alive=x)
    with pytest.raises(ValueError, match="step must be"):
        adam_step(x, x, x, x, 0, lr=0.1)
