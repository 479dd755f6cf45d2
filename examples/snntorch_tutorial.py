"""A convolutional network as snnTorch's tutorials write it: a loop over steps, potentials passed from step to step."""

import snntorch as snn
import torch
from common import arguments, compare
from snntorch import surrogate
from torch import nn
from torch.nn.functional import cross_entropy, max_pool2d

import snn_sparse as ss


class Net(nn.Module):
    """Digits [N, 1, 28, 28] -> spikes and potentials of ten neurons, both [T, N, 10]."""

    def __init__(self, num_steps: int, width: int, beta: float = 0.5) -> None:
        super().__init__()
        self.num_steps = num_steps
        curve = surrogate.fast_sigmoid(slope=25)
        self.conv1, self.lif1 = nn.Conv2d(1, width, 5), snn.Leaky(beta=beta, spike_grad=curve)
        self.conv2, self.lif2 = nn.Conv2d(width, 4 * width, 5), snn.Leaky(beta=beta, spike_grad=curve)
        self.fc1, self.lif3 = nn.Linear(4 * width * 4 * 4, 10), snn.Leaky(beta=beta, spike_grad=curve)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Show the image at every step."""
        mem1, mem2, mem3 = self.lif1.init_leaky(), self.lif2.init_leaky(), self.lif3.init_leaky()
        spk3_rec, mem3_rec = [], []
        for _ in range(self.num_steps):
            spk1, mem1 = self.lif1(max_pool2d(self.conv1(x), 2), mem1)
            spk2, mem2 = self.lif2(max_pool2d(self.conv2(spk1), 2), mem2)
            spk3, mem3 = self.lif3(self.fc1(spk2.flatten(1)), mem3)
            spk3_rec.append(spk3)
            mem3_rec.append(mem3)
        return torch.stack(spk3_rec), torch.stack(mem3_rec)


def main() -> None:
    """Build, fuse, compare."""
    args = arguments(__doc__, timesteps=25, batch_size=64, width=12)
    model = Net(args.timesteps, args.width)
    x, labels = torch.rand(args.batch_size, 1, 28, 28), torch.randint(10, (args.batch_size,))

    def loss(out: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return sum((cross_entropy(mem, labels) for mem in out[1]), torch.zeros(()))

    fast = ss.fuse(model)  # the one line

    # The potentials start at rest in every call. snnTorch's spikes are float32, whatever the potentials are.
    compare(model, fast, x, loss, lambda net: None, args.rounds, torch.float32)


if __name__ == "__main__":
    main()
