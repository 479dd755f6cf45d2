"""Rows of the measured training steps: speed, a whole search, distance from the floor, kernels."""

from collections.abc import Mapping

import snn_sparse as ss
from benchmarks.floor import FLOOR, chip_of, floor
from benchmarks.machine import Breakdown
from benchmarks.projection import search_hours
from benchmarks.rows import Row, device_name, make_rows
from benchmarks.timing import Timing, ratios
from snn_sparse.models import SpikingNetwork

HOURS = "projected search hours"
KINDS = ("uniform", "magnitude", "ticket")
MULTI_STEP = "SpikingJelly multi-step Triton"  # both: as it comes, and compiled
FUSED_DENSE = "fused dense bf16"
Masks = Mapping[str, ss.Mask]  # by provider, whose name tells the kind


def speed_rows(case: str, timings: Mapping[str, Timing], reference: str, batch_size: int, device: str) -> list[Row]:
    """Seconds and ratios to the reference; on a GPU images a second and ratios to the best multi-step network too.

    On a CPU ratios to the best that is not fused.
    """
    rows = make_rows(case, "seconds", timings, device)
    if "cuda" in device:
        images = {name: Timing([batch_size / s for s in t.seconds]) for name, t in timings.items()}
        rows += make_rows(case, "images/s", images, device)
    rows += make_rows(case, "times faster", ratios(timings, reference), device)
    others = [name for name in timings if not name.startswith("fused")]
    if "cuda" not in device and len(others) > 1:
        best = min(others, key=lambda name: timings[name].median)
        rows += make_rows(case, "times faster than the best other", ratios(timings, best), device)
    multi_step = [name for name in timings if name.startswith(MULTI_STEP)]
    if multi_step:
        best = min(multi_step, key=lambda name: timings[name].median)
        rows += make_rows(case, "times faster than multi-step", ratios(timings, best), device)
    return rows


def hours(timings: Mapping[str, Timing], masks: Masks, batch_size: int) -> dict[str, Timing]:
    """Hours of the published search, round by round, at the step time of each dense provider all along.

    For each kind of mask besides: fused, from level to level at the step times under masks of that kind.
    """

    def over_rounds(measured: Mapping[float, Timing]) -> Timing:
        rounds = zip(*(timing.seconds for timing in measured.values()), strict=True)
        return Timing([search_hours(dict(zip(measured, seconds, strict=True)), batch_size) for seconds in rounds])

    found = {name: over_rounds({0.0: timing}) for name, timing in timings.items() if name not in masks}
    for kind in KINDS:
        sparse = {masks[name].sparsity: t for name, t in timings.items() if name in masks and f" {kind} " in name}
        if sparse and FUSED_DENSE in timings:
            found[f"fused bf16, {kind} masks, level by level"] = over_rounds({0.0: timings[FUSED_DENSE], **sparse})
    return found


def floor_rows(
    case: str, model: SpikingNetwork, shape: tuple[int, ...], timings: Mapping[str, Timing], masks: Masks, device: str
) -> list[Row]:
    """The dense floor, and how far each provider is from that of its own mask."""
    chip = chip_of(device_name(device))
    dense = floor(model, shape, model.timesteps, chip=chip)
    rows = []
    for name, seconds in dense.items():
        rows += make_rows(case, f"{FLOOR}{name}", {f"dense bf16 on {chip.name}": Timing([1e6 * seconds])}, device)
    times = {}
    for name, timing in timings.items():
        least = dense["overlapped"]
        if name in masks:
            density = {n: float(m.float().mean()) for n, m in masks[name].items()}
            least = floor(model, shape, model.timesteps, density, chip)["overlapped"]
        times[name] = Timing([s / least for s in timing.seconds])
    return rows + make_rows(case, "times the floor", times, device)


def kernel_rows(case: str, kernels: Mapping[str, Breakdown], device: str) -> list[Row]:
    """How many kernels a step has, and microseconds by what they are for."""
    rows = make_rows(case, "kernels", {p: Timing([k.kernels]) for p, k in kernels.items()}, device)
    for kind in dict.fromkeys(c for k in kernels.values() for c, seconds in k.seconds.items() if seconds):
        times = {p: Timing([1e6 * k.seconds[kind]]) for p, k in kernels.items()}
        rows += make_rows(case, f"us {kind}", times, device)
    return rows
