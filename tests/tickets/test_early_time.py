import numpy as np
import pytest
import torch

import snn_sparse as ss
from snn_sparse.tickets.early_time import find_early_timestep


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("timesteps", [3, 5, 8])
def test_against_the_definition(timesteps):
    logits = torch.randn(timesteps, 20, 6, dtype=torch.float64)
    z = logits.numpy()
    p = softmax(z.mean(0))
    kl = {t: (p * (np.log(p) - np.log(softmax(z[:t].mean(0))))).sum() for t in range(2, timesteps)}
    largest = max(kl.values())
    expected = {t: v / largest for t, v in kl.items()}
    early, divergence = ss.early_timestep(logits)
    assert divergence == pytest.approx(expected)
    assert early == next((t for t, v in expected.items() if v < 0.6), timesteps)


def test_three_timesteps_leave_no_choice():
    assert ss.early_timestep(torch.randn(3, 4, 5))[0] == 3


def test_a_divergence_of_exactly_the_threshold_is_not_below_it():
    logits = torch.randn(3, 4, 5)
    assert ss.early_timestep(logits, 1.0) == (3, {2: 1.0})
    assert ss.early_timestep(logits, 1.001) == (2, {2: 1.0})


def test_steps_that_agree_need_only_two():
    assert ss.early_timestep(torch.randn(1, 4, 5).expand(5, 4, 5)) == (2, {2: 0.0, 3: 0.0, 4: 0.0})


@pytest.mark.parametrize(
    ("logits", "threshold", "named"),
    [
        (torch.randn(2, 4, 5), 0.6, "T >= 3"),
        (torch.randn(4, 5), 0.6, "logits must"),
        (torch.randn(5, 4, 5), 0.0, "threshold"),
        (torch.full((5, 4, 5), float("nan")), 0.6, "finite"),
    ],
)
def test_wrong_arguments(logits, threshold, named):
    with pytest.raises(ValueError, match=named):
        ss.early_timestep(logits, threshold)


@pytest.mark.parametrize("shape", [(5, 4, 0), (5, 0, 4), (5, 0, 0), (0, 4, 5), (5, 4), (5, 4, 5, 1), ()])
def test_logits_without_entries_or_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"^logits must"):
        ss.early_timestep(torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_logits_that_are_no_floating_point(dtype):
    with pytest.raises(TypeError, match=r"^logits must be floating point"):
        ss.early_timestep(torch.zeros(5, 4, 3, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_logits_of_any_precision(dtype):
    logits = torch.randn(6, 3, 4).to(dtype)
    assert ss.early_timestep(logits) == ss.early_timestep(logits.double())


def test_arguments_of_another_kind():
    for wrong in (None, [[[1.0]]], "logits"):
        with pytest.raises(TypeError, match=r"^logits must"):
            ss.early_timestep(wrong)
    for wrong in (None, "0.6", [0.6]):
        with pytest.raises(TypeError, match=r"^threshold must"):
            ss.early_timestep(torch.zeros(5, 4, 3), wrong)


def test_choosing_does_not_move_the_running_statistics():
    model = ss.build_model("vgg_small", 4, 1, 5)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    x = torch.randn(9, 1, 8, 8)
    expected = ss.early_timestep(model(x))
    model.load_state_dict(state)
    model.eval()
    assert find_early_timestep(model, x) == expected
    assert not model.training
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
