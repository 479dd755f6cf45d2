"""200 training and 100 test digits: an epoch takes a fraction of a second."""

from snn_sparse.training import Augmentation, Dataset, ImageSet, load_dataset


def tiny_digits():
    digits = load_dataset("digits")

    def cut(part, n):
        return ImageSet(part.images[:n], part.labels[:n], part.mean, part.std)

    return Dataset("digits", cut(digits.train, 200), cut(digits.test, 100), 10, Augmentation(crop_padding=1))
