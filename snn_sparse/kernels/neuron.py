"""Batch norm + residual + spiking neuron over all timesteps + 2x2 spike max-pool, forward.

What they compute is ``snn_sparse.ops.fused_neuron.reference``. The host functions of this package:

    inputs = Inputs(y, neuron, timesteps, norm=, residual=, norm_residual=, rate=, v=, pool=)       (``inputs.py``)
    forward(inputs, bits=False, final_v=False) -> (spikes or packed bits, final membrane potential float32 or None)
    backward(inputs, grad_spikes, grad_v, needs) -> Gradients                        (``neuron_backward.py``)
    batch_statistics(y, eps, ...) -> (mean, invstd), moves the running statistics in place     (``statistics.py``)
    pack(spikes) -> bits, unpack(bits, shape, dtype) -> spikes                                 (``spike_bits.py``)

Backward recomputes the membrane potential from ``y``: nothing else is saved, with batch norm its statistics.
"""
# mypy: allow-untyped-defs
# Arguments of kernels have no Python types.

import torch
import triton
import triton.language as tl

from snn_sparse.kernels.branch import hold, load_input, load_tile
from snn_sparse.kernels.inputs import Inputs, packed_shape
from snn_sparse.kernels.launch import launch
from snn_sparse.kernels.neuron_backward import Gradients, backward
from snn_sparse.kernels.neuron_math import charge, decay_rate, reset, step_exists
from snn_sparse.kernels.settings import Neuron, Normalisation
from snn_sparse.kernels.spike_bits import store_spikes
from snn_sparse.kernels.tiles import UNSPECIALIZED, empty, locate, plan

__all__ = ["Gradients", "Inputs", "Neuron", "Normalisation", "backward", "forward"]

_ELEMENTS = 1024  # a program
_FEW_STEPS, _MANY_REGISTERS = 5, 96  # beyond so many unrolled steps the assembler spills a little to use few registers


# fmt: off
@triton.jit(do_not_specialize=(*UNSPECIALIZED, "steps"))
def _forward_kernel(
    y, mean, spread, weight, bias, eps, residual, mean_r, spread_r, weight_r, bias_r, eps_r,
    rate, v_init, spikes, v_final, tau, v_threshold, v_reset,
    steps, images, channels, height, width, pixels, outputs, line, rows_per_image, blocks,
    NORM: tl.constexpr, STATIC: tl.constexpr, NORM_R: tl.constexpr, BITS_R: tl.constexpr, KIND: tl.constexpr,
    DECAY_INPUT: tl.constexpr, HARD_RESET: tl.constexpr, BITS: tl.constexpr, STEPS: tl.constexpr,
    SEGMENTS: tl.constexpr, EXACT: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr, POOL: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):
    place, mask, position, has_output = locate(
        tl.program_id(0) // blocks, tl.program_id(0) % blocks, images, channels, height, width, pixels, outputs, line,
        rows_per_image, ROWS, LANES, POOL, CHANNELS_LAST,
    )
    first_image, within = place[2], place[5]
    start = first_image.to(tl.int64) * channels * pixels
    tau, v_threshold, v_reset = tl.cast(tau, tl.float32), tl.cast(v_threshold, tl.float32), tl.cast(v_reset, tl.float32)
    decay = decay_rate(tau, rate, KIND)
    main, other = (y, mean, spread, weight, bias, eps), (residual, mean_r, spread_r, weight_r, bias_r, eps_r)
    held = hold(main, other, place, mask, NORM, STATIC, NORM_R)
    v = tl.zeros([ROWS, 4 if POOL else 1, LANES], tl.float32) + v_reset
    if v_init is not None:
        v = load_tile(v_init + start, within, mask)
    for seg in range(SEGMENTS):
        for k in tl.static_range(STEPS):
            t = seg * STEPS + k
            live = step_exists(t, steps, EXACT)
            x, _, _, _, _ = load_input(
                main, other, held, t, place, mask & live, NORM, STATIC, NORM_R, BITS_R, CHANNELS_LAST
            )
            h = charge(v, x, v_reset, decay, KIND, DECAY_INPUT)
            v = tl.where(live, reset(h, v_threshold, v_reset, HARD_RESET), v)
            fired = tl.max((h >= v_threshold).to(tl.int32), axis=1, keep_dims=True)
            store_spikes(
                fired, spikes, t, place, position, has_output, live, outputs, rows_per_image,
                BITS, ROWS, LANES, CHANNELS_LAST,
            )
    if v_final is not None:
        tl.store(v_final + start + within, v, mask=mask)
# fmt: on


def forward(inputs: Inputs, *, bits: bool = False, final_v: bool = False) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Spikes, and the membrane potential after the last step.

    Args:
        inputs: what the neuron is fed with.
        bits: whether spikes are packed.
        final_v: whether the potential is wanted.

    Returns:
        spikes ``[T, N, C, H, W]`` (pooled: ``H // 2, W // 2``) in the dtype and memory layout of ``y``, or their packed
        form (``spike_bits.py``); float32 ``[N, C, H, W]`` or None.

    Raises:
        ValueError: maps too small to pool, or too large for 32-bit offsets.
    """
    y, layout = inputs.y, inputs.channels_last
    tiled = inputs.tiled_channels_last(bits)
    tiling = plan(tuple(y.shape[1:]), _ELEMENTS, channels_last=tiled, pool=inputs.pool, bits=bits)
    if bits:
        spikes = torch.empty(packed_shape(inputs.output_shape, layout), dtype=torch.int32, device=y.device)
    else:
        spikes = empty(inputs.output_shape, y.dtype, y.device, layout)
    v_final = empty(tuple(y.shape[1:]), torch.float32, y.device, layout) if final_v else None
    launch(
        _forward_kernel,
        tiling.tiles * tiling.blocks,
        y.device,
        num_warps=4,
        registers=_MANY_REGISTERS if bits and inputs.segment_steps > _FEW_STEPS else None,
        spikes=spikes,
        v_final=v_final,
        BITS=bits,
        **inputs.arguments(),
        **tiling.arguments(),
    )
    return spikes, v_final
