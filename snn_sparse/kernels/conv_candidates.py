"""Which ways of a convolution's directions are worth timing. This module needs no Triton."""

from snn_sparse.kernels.conv_settings import MAX_ROWS, Geometry, Way

PIXEL_MAJOR_BELOW = 100  # pixels of a map whose padding is worth skipping
GATHER_BELOW = 0.35  # density below which single channels are listed


def candidates(direction: str, geometry: Geometry, density: float, exact: bool = False) -> list[Way]:
    """The ways of one direction that are worth timing on such a shape; those that would spill registers are not.

    Args:
        direction: ``output``, ``grad_input``, ``grad_weight`` or ``spikes``.
        geometry: of the convolution.
        density: of its mask.
        exact: whether products are float32, which no matrix unit computes: tiles are smaller.
    """
    g = geometry
    high, wide = (g.height, g.width) if direction == "grad_input" else g.out_size
    images = g.images if direction in ("output", "spikes") else g.steps * g.images
    outputs = g.inputs if direction == "grad_input" else g.outputs
    widest = 128 if outputs > 64 else 64
    cuts = [(128, widest, 64, False), (128, 64, 64, False), (64, widest, 64, False), (MAX_ROWS, 64, 64, False)]
    if exact:
        cuts = [(64, 64, 32, False), (64, 32, 32, False)]
    if density < GATHER_BELOW and exact:
        cuts += [(64, 16, 32, True), (32, 32, 32, True)]
    elif density < GATHER_BELOW:
        cuts += [(64, 16, 32, True), (64, 32, 32, True), (128, 32, 32, True), (128, 64, 32, True)]
    if direction == "spikes":  # whole words of packed channels; a potential is held beside each product
        cuts = [(*c[:2], 32, c[3]) for c in cuts if c[1] >= 32 and c[0] * c[1] <= (32 if c[3] else 128) * 64]
    by_pixel = high * wide < PIXEL_MAJOR_BELOW and images >= 32
    if by_pixel:
        cuts = [(rows, *cut[1:]) for cut in cuts for rows in ([128, 64] if images >= 128 and not exact else [32])]
    if by_pixel and direction == "spikes":
        cuts = [c for c in cuts if c[0] * c[1] <= (32 if c[3] else 128) * 64]
    reorder = direction != "spikes"
    return list(
        dict.fromkeys(_way(direction, exact, *cut, reorder=cut[3] and reorder, pixel_major=by_pixel) for cut in cuts)
    )


def _way(direction: str, exact: bool, rows: int, width: int, step: int, gathered: bool, **flags: bool) -> Way:
    """With as many warps as its products and addresses need registers for."""
    many = rows * width >= 128 * 128 or (gathered and rows >= 128) or direction == "spikes" or exact
    return Way(rows, width, step, gathered, num_warps=8 if many else 4, **flags)
