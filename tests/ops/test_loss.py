import pytest
import torch
import torch.nn.functional as F

import snn_sparse as ss


@pytest.mark.parametrize("shape", [(1, 1, 2), (5, 7, 10), (3, 2, 4), (2, 3, 1)])
def test_is_the_mean_of_the_losses_of_all_timesteps(shape):
    logits = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    y = torch.randint(0, shape[2], (shape[1],))
    expected = sum(F.cross_entropy(step, y) / shape[0] for step in logits)
    torch.testing.assert_close(ss.temporal_cross_entropy(logits, y), expected)
    assert torch.autograd.gradcheck(lambda z: ss.temporal_cross_entropy(z, y), logits)


def test_prediction_sums_over_time():
    logits = torch.tensor([[[3.0, 0.0]], [[0.0, 2.0]], [[0.0, 2.0]]])
    assert ss.predict(logits).tolist() == [1]
    assert ss.predict(torch.zeros(3, 0, 2)).shape == (0,)


def test_a_seen_label_is_never_left_out():
    """Torch leaves -100 out of the mean unless told otherwise."""
    logits, y = torch.randn(3, 5, 4), torch.randint(0, 4, (5,))
    y[torch.randint(0, 5, ())] = -100
    with pytest.raises(ValueError, match=r"y must hold classes from 0 to 3: .*-100"):
        ss.temporal_cross_entropy(logits, y)


@pytest.mark.parametrize("label", [-1, 4, 5, 255, 2**40, -(2**40)])
@pytest.mark.parametrize("n", [1, 2, 300])
def test_a_label_out_of_range(label, n):
    y = torch.randint(0, 4, (n,))
    y[torch.randint(0, n, ())] = label
    with pytest.raises(ValueError, match=f"y must hold classes from 0 to 3: .*{label}"):
        ss.temporal_cross_entropy(torch.randn(3, n, 4, requires_grad=True), y)


@pytest.mark.parametrize(
    ("y", "error"),
    [
        (torch.zeros(2, dtype=torch.int64), ValueError),
        (torch.zeros(3, 1, dtype=torch.int64), ValueError),
        (torch.zeros((), dtype=torch.int64), ValueError),
        (torch.zeros(0, dtype=torch.int64), ValueError),
        (torch.zeros(3), TypeError),
        (torch.zeros(3, 4), TypeError),
        (torch.zeros(3, dtype=torch.int32), TypeError),
        (torch.zeros(3, dtype=torch.bool), TypeError),
        (torch.zeros(3, dtype=torch.uint8), TypeError),
        ([0, 1, 2], TypeError),
        (None, TypeError),
        (torch.zeros(3, dtype=torch.int64, device="meta"), ValueError),
    ],
)
def test_wrong_labels(y, error):
    with pytest.raises(error, match=r"^y must"):
        ss.temporal_cross_entropy(torch.zeros(2, 3, 4), y)


def test_wrong_logits():
    y = torch.zeros(3, dtype=torch.int64)
    for logits in (torch.zeros(2, 3), torch.zeros(0, 3, 4), torch.zeros(2, 3, 0), [[[1.0]]], None):
        with pytest.raises(ValueError, match=r"^logits must"):
            ss.temporal_cross_entropy(logits, y)
        with pytest.raises(ValueError, match=r"^logits must"):
            ss.predict(logits)
    with pytest.raises(TypeError, match=r"^logits must be floating point"):
        ss.temporal_cross_entropy(torch.zeros(2, 3, 4, dtype=torch.int64), y)
    with pytest.raises(ValueError, match=r"^y must hold at least one"):
        ss.temporal_cross_entropy(torch.zeros(2, 0, 4), y[:0])


def test_no_value_of_a_label_is_read_in_python():
    """A check of values would wait for a GPU, and stop what cannot run it: meta tensors, vmap, compilers."""
    logits, y = torch.randn(3, 5, 4), torch.randint(0, 4, (5,))
    assert ss.temporal_cross_entropy(logits.to("meta"), y.to("meta")).shape == ()
    each = torch.vmap(lambda z, label: ss.temporal_cross_entropy(z[:, None], label[None]), in_dims=(1, 0))(logits, y)
    torch.testing.assert_close(each.mean(), ss.temporal_cross_entropy(logits, y))
    from torch.fx.experimental.proxy_tensor import make_fx

    traced = make_fx(ss.temporal_cross_entropy, tracing_mode="fake")(logits, y)
    assert torch.equal(traced(logits, y), ss.temporal_cross_entropy(logits, y))
    exported = torch.export.export(_Loss(), (logits, y)).module()
    assert torch.equal(exported(logits, y), ss.temporal_cross_entropy(logits, y))


class _Loss(torch.nn.Module):
    def forward(self, logits, y):
        return ss.temporal_cross_entropy(logits, y)
