"""Figures of Kim et al. (ECCV 2022): CIFAR-10, T = 5, 300 epochs, 15 levels, one RTX 2080 Ti."""

from dataclasses import dataclass

COLUMNS = (68.30, 89.91, 95.69, 98.13)  # percent pruned


@dataclass(frozen=True)
class Published:
    """One line of the published table.

    Attributes:
        network, method: whose.
        accuracies: in percent, at :data:`COLUMNS`.
        hours: of the search at 98.13 %.
    """

    network: str
    method: str
    accuracies: tuple[float, float, float, float]
    hours: float


PUBLISHED = (
    Published("vgg16", "imp", (92.66, 92.54, 92.38, 91.81), 51.99),
    Published("vgg16", "imp+et", (92.49, 92.09, 91.54, 91.10), 38.26),
    Published("vgg16", "eb", (91.74, 91.05, 89.55, 84.64), 0.09),
    Published("vgg16", "eb+et", (91.27, 90.66, 88.95, 84.86), 0.06),
    Published("resnet19", "imp", (93.47, 93.49, 93.22, 92.43), 73.54),
    Published("resnet19", "imp+et", (93.10, 92.72, 92.68, 91.36), 46.40),
)
WHERE = "CIFAR-10, 300 epochs, RTX 2080 Ti"


def published_for(arch: str) -> list[Published]:
    """Published lines to put beside runs of ``arch``: those of ResNet19, else those of VGG16."""
    return [line for line in PUBLISHED if line.network == ("resnet19" if arch == "resnet19" else "vgg16")]
