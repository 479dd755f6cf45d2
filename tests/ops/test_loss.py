import pytest
import torch
import torch.nn.functional as F

import snn_sparse as ss


@pytest.mark.parametrize("shape", [(1, 1, 2), (5, 7, 10), (3, 2, 4)])
def test_is_the_mean_of_the_losses_of_all_timesteps(shape):
    logits = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    y = torch.randint(0, shape[2], (shape[1],))
    expected = sum(F.cross_entropy(step, y) / shape[0] for step in logits)
    torch.testing.assert_close(ss.temporal_cross_entropy(logits, y), expected)
    assert torch.autograd.gradcheck(lambda z: ss.temporal_cross_entropy(z, y), logits)


def test_prediction_sums_over_time():
    logits = torch.tensor([[[3.0, 0.0]], [[0.0, 2.0]], [[0.0, 2.0]]])
    assert ss.predict(logits).tolist() == [1]


def test_wrong_shapes():
    with pytest.raises(ValueError, match="logits"):
        ss.temporal_cross_entropy(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="y must"):
        ss.temporal_cross_entropy(torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.int64))
