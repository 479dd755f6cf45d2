"""A layer's configuration on a CPU by rule, where timing must not decide: the same for the same layer, always."""

from snn_sparse.ops.convolution import LiveConfiguration
from snn_sparse.ops.spikes import NHWC, MemoryFormat
from snn_sparse.specs import ConvGeometry
from snn_sparse.tuning.cpu import candidates, of_spikes
from snn_sparse.tuning.winner import Winner

LIVE_BELOW = 0.4  # density below which the kernels at live weights won nearly every race
BLOCKS_ABOVE = 0.1  # density above which blocks of channels keep the input in the cache
BLOCK = 32


def by_rule(g: ConvGeometry, density: float | None, rate: int | None = None) -> Winner:
    """Choose as most races ended, without timing anything.

    Args:
        g: sizes of the layer.
        density: share of live weights; None: dense, or no layer for the kernels at live weights.
        rate: percent of the input that is taken to spike; None: it may hold any numbers.
    """
    found = candidates(g, density) if density is not None and density < LIVE_BELOW else []
    if not found:
        spikes = next(iter(of_spikes(g)), None) if rate is not None else None
        return Winner((0.0,), (0.0,), NHWC, spikes=spikes, rate=rate)
    vectors = max(c.vectors for c in found)
    block = BLOCK if density is not None and density > BLOCKS_ABOVE else g.inputs

    def distance(c: LiveConfiguration) -> tuple[int, bool, bool]:
        return abs((c.channel_block or g.inputs) - block), c.rows_outermost, c.pack

    live = min((c for c in found if c.vectors == vectors), key=distance)
    return Winner((0.0,), (0.0,), MemoryFormat("lanes", live.vectors), live, rate=rate)
