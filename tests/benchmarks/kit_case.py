"""A small kit as `make gpu-kit` makes it: a wheel, a cache of one kernel, a few images."""

import gzip
import json
import struct
import tarfile
import zipfile

from benchmarks.gpu_check_setup import CACHE, DATA, LAUNCHES, MANIFEST, WHEELS

MODULE = "snn_sparse_kit_probe"


def make_wheel(folder):
    """A wheel of one module; its file name."""
    name = f"{MODULE}-1.0-py3-none-any.whl"
    info = f"{MODULE}-1.0.dist-info"
    with zipfile.ZipFile(folder / name, "w") as wheel:
        wheel.writestr(f"{MODULE}.py", "FOUND = 1\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {MODULE}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return name


def make_images(folder, train=40, test=12):
    """Random images in Fashion-MNIST's files."""
    import numpy as np

    generator = np.random.default_rng()
    for name, n in (("train", train), ("t10k", test)):
        images = generator.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = generator.integers(0, 10, n, dtype=np.uint8)
        for kind, header, data in (
            ("images-idx3", struct.pack(">IIII", 2051, n, 28, 28), images),
            ("labels-idx1", struct.pack(">II", 2049, n), labels),
        ):
            with gzip.open(folder / f"{name}-{kind}-ubyte.gz", "wb") as file:
                file.write(header + data.tobytes())


def make_kit(folder, cache=None, launches=()):
    """A kit in ``folder``; ``cache`` is a Triton cache to pack."""
    for name in (WHEELS, DATA):
        (folder / name).mkdir(parents=True)
    (folder / MANIFEST).write_text(json.dumps({"wheels": {MODULE: make_wheel(folder / WHEELS)}, "commit": "abc"}))
    make_images(folder / DATA)
    if launches:
        (folder / LAUNCHES).write_text("".join(line + "\n" for line in launches))
    if cache is not None:
        with tarfile.open(folder / CACHE, "w:gz") as tar:
            for entry in sorted(cache.iterdir()):
                tar.add(entry, entry.name)
    return folder
