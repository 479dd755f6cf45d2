"""A fused network trains inside a LightningModule as its original does."""

import copy

import pytest
import torch
from spikingjelly.activation_based import functional, neuron
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import snn_sparse as ss

lightning = pytest.importorskip("lightning")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.lif = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), neuron.LIFNode()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        functional.reset_net(self)
        return sum(self.fc(self.lif(self.bn(self.conv(x))).mean((-2, -1))) for _ in range(3))


class Task(lightning.LightningModule):
    def __init__(self, net):
        super().__init__()
        self.net, self.losses = net, []

    def training_step(self, batch, _index):
        images, labels = batch
        loss = cross_entropy(self.net(images), labels)
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def trained(net, data, folder):
    task = Task(net)
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=folder
    )
    trainer.fit(task, DataLoader(data, batch_size=4))
    return task


def test_trains_as_the_original(tmp_path):
    data = TensorDataset(torch.randn(12, 2, 6, 6).double(), torch.randint(3, (12,)))
    model = Net().double()
    fast = ss.fuse(copy.deepcopy(model))
    theirs, ours = trained(model, data, tmp_path / "theirs"), trained(fast, data, tmp_path / "ours")
    assert not ss.explain(fast).left
    assert len(ours.losses) == 6
    torch.testing.assert_close(ours.losses, theirs.losses)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    (path,) = (tmp_path / "ours").rglob("*.ckpt")
    again = Task.load_from_checkpoint(path, net=Net().double())  # an original reads what a fused network wrote
    torch.testing.assert_close(again.state_dict(), theirs.state_dict())
