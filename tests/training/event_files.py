"""Small recordings in the layouts of SpikingJelly's data sets, and a package that stands in for tonic."""

import numpy as np
import torch

CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def stream(sensor, n=60):
    t, x, y, p = (torch.randint(high, (n,)).numpy() for high in (300_000, sensor, sensor, 2))
    return {"t": np.sort(t), "x": x, "y": y, "p": p}


def write_stream(path, sensor, n=60):
    path.parent.mkdir(parents=True, exist_ok=True)
    events = stream(sensor, n)
    np.savez(path, **events)
    return events


def write_cifar10dvs(root, each=20):
    """Streams as SpikingJelly keeps them, by class and number."""
    folder = root / "cifar10dvs" / "events_np"
    return {
        (k, i): write_stream(folder / name / f"cifar10_{name}_{i}.npz", 128)
        for k, name in enumerate(CIFAR)
        for i in range(each)
    }


def write_splits(root, name, classes, sensor, train=2, test=1):
    return {
        (split, k, i): write_stream(root / name / "events_np" / split / str(k) / f"{i}.npz", sensor)
        for split, n in (("train", train), ("test", test))
        for k in range(classes)
        for i in range(n)
    }


def atis(events):
    """Events in the five bytes of N-MNIST's files."""
    t, x, y, p = (np.asarray(events[key]) for key in "txyp")
    return np.stack([x, y, (p << 7) | (t >> 16), (t >> 8) & 255, t & 255], 1).astype(np.uint8).tobytes()


TONIC = '''
import os
import numpy as np


class NMNIST:
    """What is used of tonic's class of this name."""

    url, filename = "https://example.org/nmnist", "train.zip"

    def __init__(self, save_to, train=True):
        self.location_on_system = os.path.join(save_to, self.__class__.__name__)
        folder = os.path.join(self.location_on_system, "Train" if train else "Test")
        if not os.path.isdir(folder):
            self.download()
        self.data = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
        self.targets = [int(os.path.basename(path)[0]) for path in self.data]

    def download(self):
        raise OSError("the network was asked")

    def __getitem__(self, i):
        raw = np.load(self.data[i])
        events = np.empty(len(raw["t"]), dtype=[(name, int) for name in "xytp"])
        for name in "xytp":
            events[name] = raw[name]
        return events, self.targets[i]
'''
