"""Configurations of a convolution's directions on a GPU that are worth timing. This module needs no Triton."""

from snn_sparse.ops.convolution.configuration import MAX_ROWS, TileConfiguration
from snn_sparse.specs import ConvGeometry

PIXEL_MAJOR_BELOW = 100  # pixels of a map whose padding is worth skipping
GATHER_BELOW = 0.35  # density below which single channels are listed


def candidates(direction: str, geometry: ConvGeometry, density: float, exact: bool = False) -> list[TileConfiguration]:
    """List the configurations of one direction worth timing on such a shape; those that would spill registers are not.

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
    tiles = _tiles(128 if outputs > 64 else 64, density, exact)
    by_pixel = high * wide < PIXEL_MAJOR_BELOW and images >= 32
    if by_pixel:
        heights = [128, 64] if images >= 128 and not exact else [32]
        tiles = [(rows, *cut[1:]) for cut in tiles for rows in heights]
    if direction == "spikes":
        tiles = [
            (rows, width, 32, gathered) for rows, width, _, gathered in tiles if _holds(rows, width, gathered, exact)
        ]
    found = []
    for rows, width, step, gathered in tiles:
        many = rows * width >= 128 * 128 or (gathered and rows >= 128) or direction == "spikes" or exact
        reorder = gathered and direction != "spikes"  # packed channels keep their order
        found.append(TileConfiguration(rows, width, step, gathered, reorder, by_pixel, num_warps=8 if many else 4))
    return list(dict.fromkeys(found))


def _tiles(widest: int, density: float, exact: bool) -> list[tuple[int, int, int, bool]]:
    """Rows, width, step of a tile, and whether its channels are gathered."""
    if exact:
        tiles, gathered = [(64, 32, 32, False), (32, 64, 32, False)], [(64, 16, 32, True), (32, 32, 32, True)]
    else:
        tiles = [(128, widest, 64, False), (128, 64, 64, False), (64, widest, 64, False), (MAX_ROWS, 64, 64, False)]
        gathered = [(64, 16, 32, True), (64, 32, 32, True), (128, 32, 32, True), (128, 64, 32, True)]
    return tiles + gathered if density < GATHER_BELOW else tiles


def _holds(rows: int, width: int, gathered: bool, exact: bool) -> bool:
    """Whether a tile packs whole words and leaves registers for a potential beside each product."""
    return 32 <= width <= (32 if exact else width) and rows <= 64 and (rows * width <= 2048 or not (gathered or exact))
