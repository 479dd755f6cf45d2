"""SEW-ResNet18 of SpikingJelly's model zoo on images of CIFAR size: multi-step modules, residuals that add spikes."""

import torch
from common import arguments, compare
from spikingjelly.activation_based import functional, neuron, surrogate
from spikingjelly.activation_based.model import sew_resnet
from torch.nn.functional import cross_entropy

import snn_sparse as ss


def main() -> None:
    """Build, fuse, compare."""
    args = arguments(__doc__, timesteps=4, batch_size=16, image_size=32)
    model = sew_resnet.sew_resnet18(
        num_classes=10, cnf="ADD", spiking_neuron=neuron.LIFNode, surrogate_function=surrogate.ATan(), detach_reset=True
    )
    functional.set_step_mode(model, "m")
    x = torch.rand(args.timesteps, args.batch_size, 3, args.image_size, args.image_size)
    labels = torch.randint(10, (args.batch_size,))

    fast = ss.fuse(model)  # the one line

    compare(model, fast, x, lambda out: cross_entropy(out.mean(0), labels), functional.reset_net, args.rounds)


if __name__ == "__main__":
    main()
