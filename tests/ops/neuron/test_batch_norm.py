"""Batch norm of a sequence against torch's and SpikingJelly's layers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from snn_sparse import ops
from snn_sparse.nn import BatchNorm2d

SETTINGS = settings(max_examples=12, deadline=None)


@SETTINGS
@given(
    timesteps=st.integers(1, 6),
    n=st.integers(2, 5),
    c=st.integers(1, 4),
    size=st.integers(1, 4),
    momentum=st.sampled_from([0.1, 0.7, None]),
    affine=st.booleans(),
    track=st.booleans(),
)
def test_per_step_is_torch_called_once_a_timestep(timesteps, n, c, size, momentum, affine, track):
    options = {"momentum": momentum, "affine": affine, "track_running_stats": track}
    ours, theirs = BatchNorm2d(c, **options).double(), nn.BatchNorm2d(c, **options).double()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    for _ in range(2):
        x = torch.randn(timesteps, n, c, size, size, dtype=torch.float64) * 3 + 1
        torch.testing.assert_close(ours(x), torch.stack([theirs(x_t) for x_t in x]))
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x), torch.stack([theirs(x_t) for x_t in x]))


@SETTINGS
@given(timesteps=st.integers(1, 6), n=st.integers(2, 5), momentum=st.sampled_from([0.1, None]))
def test_pooled_is_spikingjelly_multi_step(timesteps, n, momentum):
    from spikingjelly.activation_based import layer

    ours = BatchNorm2d(3, momentum=momentum, bn_statistics="pooled").double()
    theirs = layer.BatchNorm2d(3, momentum=momentum, step_mode="m").double()
    for _ in range(2):
        x = torch.randn(timesteps, n, 3, 2, 2, dtype=torch.float64)
        torch.testing.assert_close(ours(x), theirs(x))
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x), theirs(x))


def test_wrong_arguments():
    with pytest.raises(ValueError, match="bn_statistics"):
        BatchNorm2d(3, bn_statistics="both")
    with pytest.raises(ValueError, match="x must"):
        BatchNorm2d(3)(torch.zeros(3, 3))
    with pytest.raises(ValueError, match="factors"):
        ops.batch_norm_sequence(torch.zeros(2, 2, 3), None, None, None, None, training=True, factors=[0.1])
    with pytest.raises(ValueError, match="x must"):
        ops.batch_norm_sequence(torch.zeros(2, 3), None, None, None, None, training=True, factors=[0.1])
