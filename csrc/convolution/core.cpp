// What of the sparse convolution does not depend on the instruction set.
#include "convolution/core.h"

#include <algorithm>

namespace snn_sparse {

template <class T>
bool gather_weights(const LiveLists& s, const TilePlan& plan, WeightStrides strides, const T* weight,
                    int32_t* offsets, T* values, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const int32_t* pointers = s.pointers + row * s.tap_count;
    const int64_t filter = row % s.filters, block = row / s.filters;
    const int64_t low = s.block_begin(block), high = s.block_begin(block + 1);
    const int64_t origin = plan.box.used ? low : 0;  // a packed box starts with the block's first channel
    for (int64_t tap = 0; tap < s.tap_count; ++tap) {
      const int32_t first = pointers[tap], last = pointers[tap + 1];
      if (first < 0 || last < first || last > s.live) return false;
      const int64_t first_weight = filter * strides.filter + s.taps[tap];  // of channel 0; weight may be null
      const int64_t tap_offset = plan.tap_offset[static_cast<size_t>(tap)];
      for (int32_t k = first; k < last; ++k) {
        const int64_t channel = s.channels[k];
        if (channel < low || channel >= high) return false;
        offsets[k] = static_cast<int32_t>((channel - origin) * plan.channel_stride + tap_offset);
        if (values) values[k] = weight[first_weight + channel * strides.channel];
      }
    }
  }
  return true;
}

int64_t partial_elements(const LiveLists& s, int64_t scalar_bytes) {
  int64_t most = kAllBlocksLive;
  for (int64_t row = 0; row < s.blocks * s.filters; ++row)
    most = std::max<int64_t>(most, s.pointers[(row + 1) * s.tap_count] - s.pointers[row * s.tap_count]);
  return (most + s.filters) * 64 / scalar_bytes;
}

int64_t tiles_per_band(const ConvGeometry& g, const TilePlan& plan, int64_t max_pixels, int64_t block_channels,
                       int64_t scalar_bytes) {
  const int64_t budget = 20 * 1024;
  const int64_t step = g.source_step();
  const int64_t pixel = block_channels * g.source.pixel_stride() * scalar_bytes;
  const int64_t row_pixels = g.transposed ? (g.destination.W + g.stride - 1) / g.stride : g.destination.W;
  const int64_t row_tiles = (row_pixels + max_pixels - 1) / max_pixels;
  int64_t best = 1;
  for (int64_t tiles = 1; tiles <= static_cast<int64_t>(plan.tiles.size()); tiles += tiles < row_tiles ? 1 : row_tiles) {
    if (row_tiles % tiles != 0 && tiles < row_tiles) continue;  // a band that ends inside a row would make its box wide
    const int64_t rows = (tiles + row_tiles - 1) / row_tiles;
    const int64_t height = std::min((rows - 1) * step + g.kernel_h, g.source.H);
    const int64_t width = std::min((std::min(tiles * max_pixels, row_pixels) - 1) * step + g.kernel_w, g.source.W);
    if (height * width * pixel > budget) break;
    best = tiles;
  }
  return best;
}

int64_t balanced_filter(const LiveLists& s, int64_t part, int64_t parts) {
  const int64_t fixed = 8;  // an empty filter costs about as much as this many live weights
  const int64_t total = s.live + fixed * s.filters;
  const int64_t target = total / parts * part + total % parts * part / parts;
  int64_t filter = 0;
  for (int64_t work = 0; work < target && filter < s.filters; ++filter) {
    work += fixed;
    for (int64_t block = 0; block < s.blocks; ++block)
      work += s.pointers[s.segment(filter, block) + s.tap_count] - s.pointers[s.segment(filter, block)];
  }
  return part >= parts ? s.filters : filter;
}

#define SNN_SPARSE_INSTANTIATE(T)                                                                                 \
  template bool gather_weights<T>(const LiveLists&, const TilePlan&, WeightStrides, const T*, int32_t*, T*, int64_t, \
                                  int64_t);
SNN_SPARSE_INSTANTIATE(float)
SNN_SPARSE_INSTANTIATE(double)

}  // namespace snn_sparse
