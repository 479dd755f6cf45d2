"""Triton reads TRITON_INTERPRET when it decorates: these tests run in their own process (``test_interpreter.py``)."""

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["*"]


def _poisoned(allocate):
    def poisoned(*args, **kwargs):
        x = allocate(*args, **kwargs)
        if x.device.type == "cpu":
            x.fill_(float("nan") if x.is_floating_point() else 0x55555555 if x.dtype == torch.int32 else 1)
        return x

    return poisoned


@pytest.fixture
def poison(monkeypatch):
    """Uninitialised memory holds NaN, or a large number: whatever a kernel forgets to write shows."""
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, _poisoned(getattr(owner, name)))


@pytest.fixture(autouse=True)
def _no_candidates(monkeypatch):
    """Convolutions run by torch: timing ways in the interpreter takes minutes and says nothing."""
    monkeypatch.setattr("snn_sparse.nn.fused.gpu_plan.candidates", lambda *_: [])
