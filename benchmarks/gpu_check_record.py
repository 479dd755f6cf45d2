"""What the steps of ``gpu_check`` launch at full size, noted on a machine without a GPU.

``GPU_CHECK_LAUNCHES=FILE python -m benchmarks.gpu_check_stand_in benchmarks.gpu_check_record`` appends to FILE. All is
run twice, so that the launches behind either outcome of a race are noted: torch wins, and our kernels do.
"""

import argparse
import copy
import os
import sys
import warnings
from collections.abc import Callable, Sequence

import torch

import snn_sparse as ss
from benchmarks import gpu_check_neuron
from benchmarks.gpu_check_stand_in import WINNER
from benchmarks.providers import PROVIDERS, make_step, prepare

BATCH, LAST_BATCH, STEPS = 128, 96, 5  # 60,000 images leave 96 for the last batch of an epoch
LAST_TEST_BATCH = 16  # of 10,000


def _training(arch: str) -> None:
    """A step of each of ours; where torch wins all races, masks change no launch."""
    last = os.environ[WINNER] == "last"
    for provider in (p for p in PROVIDERS if p.fused and p.device == "cuda" and (last or p.mask is None)):
        make_step(provider, prepare(arch, STEPS, BATCH, "cuda"))()


def _search(percents: Sequence[float] = (0.0, 50.0, 75.0)) -> None:
    """Training and evaluation of one channel, as in a search; the first batch decides for all."""
    model = ss.build_model("vgg16", 10, 1, STEPS)
    net = ss.fuse(copy.deepcopy(model)).cuda().to(memory_format=torch.channels_last)
    for percent in percents if os.environ[WINNER] == "last" else percents[:1]:
        mask = ss.magnitude_mask(model, percent) if percent else ss.Mask.dense(model)
        mask.apply_(net)
        with torch.autocast("cuda", torch.bfloat16):
            for batch in (BATCH, LAST_BATCH):
                ss.temporal_cross_entropy(net.train()(_images(batch)).float(), _labels(batch)).backward()
            with torch.no_grad():
                for batch in (BATCH, LAST_TEST_BATCH):
                    net.eval()(_images(batch))


def _images(batch: int) -> torch.Tensor:
    return torch.randn(batch, 1, 32, 32).contiguous(memory_format=torch.channels_last)


def _labels(batch: int) -> torch.Tensor:
    return torch.randint(0, 10, (batch,))


def _neurons() -> None:
    for timesteps in gpu_check_neuron.TIMESTEPS:
        x = gpu_check_neuron.maps(timesteps, gpu_check_neuron.BATCH)
        for forward in gpu_check_neuron.ours(x).values():
            forward(x).sum().backward()


PARTS: dict[str, Callable[[], None]] = {
    "neurons": _neurons,
    "vgg16": lambda: _training("vgg16"),
    "search": _search,
    "resnet19": lambda: _training("resnet19"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m benchmarks.gpu_check_record``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check_record", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)} (default all)")
    args = parser.parse_args(argv)
    unknown = sorted(set(args.parts) - set(PARTS))
    if unknown:
        parser.exit(2, f"gpu_check_record: error: unknown part {unknown[0]!r}: choose from {', '.join(PARTS)}\n")
    warnings.simplefilter("ignore")  # results that nobody has computed
    os.environ["SNN_SPARSE_CACHE"] = ""  # so that every race is run
    for winner in ("first", "last"):
        os.environ[WINNER] = winner
        for part in args.parts or PARTS:
            PARTS[part]()
            print(f"{part}, the {winner} candidate wins: noted", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
