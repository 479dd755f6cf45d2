"""The published code's own figures, to 1e-7: logits, losses, gradients, running statistics, masks."""

import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

import snn_sparse as ss

sys.path.insert(0, str(Path(__file__).parents[1]))
import golden_case

RTOL = 1e-7
ZERO = 1e-15  # the gradient of a bias in front of batch norm is zero but for rounding, 1e-18 of it


def close(actual, expected, what):
    atol = max(ZERO, RTOL * np.abs(expected).max())
    np.testing.assert_allclose(actual, expected, rtol=RTOL, atol=atol, err_msg=what)


def pruned(model, figures):
    """Eight rounds of 25 % global pruning before the first step; the masks must agree to the bit."""
    mask = ss.Mask.dense(model)
    for _ in range(8):
        mask = ss.prune_magnitude(model, mask, percent=25.0)
    for name, alive in mask.items():
        assert int(alive.count_nonzero()) == int(figures[f"nnz:{name}"]), name
        assert zlib.crc32(np.packbits(alive.numpy().reshape(-1)).tobytes()) == int(figures[f"crc:{name}"]), name
    return mask


@pytest.mark.slow
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("case", golden_case.CASES)
def test_three_training_steps(case, fused):
    figures, meta = golden_case.load(case)
    model = golden_case.fill_(ss.build_model("vgg16", 10, meta["in_ch"], meta["T"]).double())
    model = ss.fuse(model) if fused else model
    mask = pruned(model, figures) if "pruned" in case else ss.Mask.dense(model)
    mask.apply_(model)
    x, y = golden_case.inputs(case, meta)
    # The published code hands its weight decay to torch's third positional argument, which is the dampening.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, dampening=5e-4)
    model.train()
    for step in range(3):
        logits = model(x)
        loss = ss.temporal_cross_entropy(logits, y)
        close(logits.detach().numpy(), figures[f"logits{step}"], f"logits{step}")
        close(loss.item(), figures[f"loss{step}"], f"loss{step}")
        optimizer.zero_grad()
        loss.backward()
        for name, p in model.named_parameters():
            if p.dim() > 1:  # the published rule, which freezes tiny live weights too
                p.grad[p.detach().abs() < 1e-6] = 0
            if step == 0:
                close(golden_case.sample(p.grad, 64), figures[f"grad:{name}"], f"grad:{name}")
                close(p.grad.norm().item(), figures[f"gradnorm:{name}"], f"gradnorm:{name}")
        optimizer.step()
    for name, p in model.named_parameters():
        close(golden_case.sample(p, 32), figures[f"param3:{name}"], f"param3:{name}")
    for name, b in model.named_buffers():
        if "running" in name:
            close(golden_case.sample(b, 16), figures[f"buf:{name}"], f"buf:{name}")
    model.eval()
    with torch.no_grad():
        close(model(x).numpy(), figures["eval_logits"], "eval_logits")
