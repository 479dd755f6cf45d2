"""Batch norm + residual + spiking neuron over all timesteps + 2x2 spike max-pool in one kernel: the forward pass.

It computes ``plain_stage`` of ``reference.py``. Backward (``triton_backward.py``) recomputes the membrane potential
from ``y``: nothing else is saved but, with batch norm, its statistics.
"""
# mypy: allow-untyped-defs, disable-error-code="assignment"
# Arguments of kernels have no Python types, and a tuple may grow.

import torch
import triton
import triton.language as tl

from snn_sparse.ops.neuron.call import Settings, Tensors
from snn_sparse.ops.neuron.triton_branch import hold, load_affines, load_input, load_potentials
from snn_sparse.ops.neuron.triton_inputs import Inputs
from snn_sparse.ops.neuron.triton_math import charge, neuron_numbers, readable_step, reset, step_exists
from snn_sparse.ops.spikes import empty, packed_shape
from snn_sparse.ops.spikes.triton_bits import store_spikes
from snn_sparse.ops.spikes.triton_tiles import UNSPECIALIZED, cut, locate, of_step, offsets
from snn_sparse.ops.triton_launch import launch

_ELEMENTS = 1024  # a program, of each pixel of a window


# fmt: off
@triton.jit(do_not_specialize=(*UNSPECIALIZED, "steps"))
def _forward_kernel(
    y, mean, spread, weight, bias, eps, residual, mean_r, spread_r, weight_r, bias_r, eps_r,
    rate, v_init, spikes, v_final, tau, decay, v_threshold, fires_at, v_reset, late,
    steps, images, channels, height, width, pixels, outputs, line, rows_per_image, blocks,
    NORM: tl.constexpr, CONSTANT: tl.constexpr, NORM_R: tl.constexpr, BITS_R: tl.constexpr, KIND: tl.constexpr,
    DECAY_INPUT: tl.constexpr, RESET: tl.constexpr, BITS: tl.constexpr, STEPS: tl.constexpr,
    SEGMENTS: tl.constexpr, EXACT: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr, POOL: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, WHOLE: tl.constexpr,
):
    WINDOW: tl.constexpr = 4 if POOL else 1
    tile, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    place, output, lanes = locate(
        tile, block, images, channels, height, width, pixels, outputs, line, rows_per_image,
        ROWS, LANES, POOL, CHANNELS_LAST, WHOLE,
    )
    numbers = neuron_numbers((tau, decay, v_threshold, fires_at, v_reset, late), rate, KIND)
    main, other = (y, mean, spread, weight, bias, eps), (residual, mean_r, spread_r, weight_r, bias_r, eps_r)
    held = hold(main, other, place, lanes, NORM, CONSTANT, NORM_R, WINDOW)
    v = load_potentials(v_init, place, tl.zeros([ROWS, LANES], tl.float32) + numbers[3], WINDOW)
    for seg in range(SEGMENTS):
        for k in tl.static_range(STEPS):
            t = seg * STEPS + k
            live, t = step_exists(t, steps, EXACT), readable_step(t, steps, EXACT)
            affines = load_affines(main, other, held, t, lanes, NORM, NORM_R)
            fired, after = tl.full([ROWS, LANES], False, tl.int1), ()
            for w in tl.static_range(WINDOW):
                x, _, _ = load_input(main, other, held, affines, t, place, w, live, NORM, CONSTANT, NORM_R, BITS_R)
                h = charge(v[w], x, numbers, KIND, DECAY_INPUT, RESET)
                fired = fired | (h >= numbers[2])
                after = after + (tl.where(live, reset(h, numbers, RESET), v[w]),)
            v = after
            store_spikes(
                fired, spikes, t, live, output, tile, block, images, channels, rows_per_image,
                BITS, ROWS, LANES, CHANNELS_LAST, WHOLE,
            )
    if v_final is not None:
        for w in tl.static_range(WINDOW):
            tl.store(of_step(v_final, 0, place) + offsets(place, w), v[w], mask=place[3][w])
# fmt: on


def forward(
    t: Tensors, s: Settings, *, bits: bool = False, final_v: bool = False
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute spikes, and the membrane potential after the last step.

    Args:
        t: the tensors of the call.
        s: its numbers.
        bits: whether spikes are packed.
        final_v: whether the potential is wanted.

    Returns:
        spikes ``[T, N, C, H, W]`` (pooled: ``H // 2, W // 2``) in the dtype and memory format of ``y``, or their packed
        form; float32 ``[N, C, H, W]`` or None.

    Raises:
        ValueError: sizes that do not fit, maps too small to pool, or too large for 32-bit offsets.
        TypeError: a dtype that is not supported.
    """
    inputs, y = Inputs(t, s), t.y
    tiled = inputs.tiled_channels_last(bits)
    tiling = cut(tuple(y.shape[1:]), _ELEMENTS * (4 if s.pool else 1), channels_last=tiled, pool=s.pool, bits=bits)
    if bits:
        shape = packed_shape(inputs.output_shape, inputs.channels_last)
        spikes = torch.empty(shape, dtype=torch.int32, device=y.device)
    else:
        spikes = empty(inputs.output_shape, y.dtype, y.device, inputs.memory_format)
    v_final = empty(tuple(y.shape[1:]), torch.float32, y.device, inputs.memory_format) if final_v else None
    launch(
        _forward_kernel,
        tiling.tiles * tiling.blocks,
        y.device,
        num_warps=4,
        spikes=spikes.view(torch.uint8) if bits else spikes,
        v_final=v_final,
        BITS=bits,
        **inputs.arguments(),
        **tiling.arguments(),
    )
    return spikes, v_final
