"""A VGG in the style of the lottery-ticket papers' code: a time loop over single-step neurons, logits added up."""

import torch
from common import arguments, compare
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import nn
from torch.nn.functional import cross_entropy

import snn_sparse as ss


class LoopVGG(nn.Module):
    """Images [N, 3, S, S] -> logits [N, 10], summed over the steps."""

    def __init__(self, timesteps: int, width: int) -> None:
        super().__init__()
        self.timesteps = timesteps
        layers: list[nn.Module] = []
        channels = 3
        for v in (width, width, "M", 2 * width, 2 * width, "M", 4 * width, 4 * width, "M"):
            if v == "M":
                layers.append(nn.MaxPool2d(2))
                continue
            assert isinstance(v, int)
            lif = neuron.LIFNode(tau=4 / 3, surrogate_function=surrogate.ATan(), detach_reset=True)
            layers += [nn.Conv2d(channels, v, 3, padding=1), nn.BatchNorm2d(v), lif]
            channels = v
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(channels, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Show the image at every step."""
        functional.reset_net(self)
        out = 0
        for _ in range(self.timesteps):
            x = self.features(image)
            out += self.fc(x.mean((-2, -1)))
        return out


def main() -> None:
    """Build, fuse, compare."""
    args = arguments(__doc__, timesteps=5, batch_size=16, image_size=32, width=64)
    model = LoopVGG(args.timesteps, args.width)
    x = torch.rand(args.batch_size, 3, args.image_size, args.image_size)
    labels = torch.randint(10, (args.batch_size,))

    fast = ss.fuse(model)  # the one line

    compare(model, fast, x, lambda out: cross_entropy(out, labels), lambda net: None, args.rounds)


if __name__ == "__main__":
    main()
