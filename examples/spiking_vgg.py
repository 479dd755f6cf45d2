"""Spiking VGG11 with batch norm of SpikingJelly's model zoo on images of CIFAR size: multi-step modules, max-pools."""

import torch
from common import arguments, compare
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from spikingjelly.activation_based.model import spiking_vgg
from torch.nn.functional import cross_entropy

import snn_sparse as ss


def main() -> None:
    """Build, fuse, compare."""
    args = arguments(__doc__, timesteps=4, batch_size=16, image_size=32)
    model = spiking_vgg.spiking_vgg11_bn(
        spiking_neuron=neuron.LIFNode, surrogate_function=surrogate.ATan(), detach_reset=True
    )
    model.avgpool, model.classifier = layer.AdaptiveAvgPool2d(1), layer.Linear(512, 10)  # the zoo's are for 224x224
    functional.set_step_mode(model, "m")
    x = torch.rand(args.timesteps, args.batch_size, 3, args.image_size, args.image_size)
    labels = torch.randint(10, (args.batch_size,))

    fast = ss.fuse(model)  # the one line

    compare(model, fast, x, lambda out: cross_entropy(out.mean(0), labels), functional.reset_net, args.rounds)


if __name__ == "__main__":
    main()
