// Forward: the sums of a band's pixels stay in the second level cache, and for each tile of input channels and kernel
// row the weights of a block of filters stay in the first one; where a spike is, its row of weights is added.
#pragma once

#include "convolution/spike_bands.h"

namespace snn_sparse {
namespace SNN_SPARSE_ISA {

template <class T>
struct SpikeForward {
  static constexpr int kBytes = SNN_SPARSE_VECTOR_BYTES, kRegisters = 8, L = kBytes / static_cast<int>(sizeof(T));
  using V = Vec<T, kBytes>;

  const SpikeTask<T>& task;
  const SpikeGeometry g;
  const SpikeTiling t;
  const int64_t tiles;
  T* sums;           // [pixel of the band][filter of the block]
  uint32_t* starts;  // [row][tile][x]: where the spikes from x on begin in entries
  uint16_t* entries; // x * tile + channel of the tile

  SpikeForward(const SpikeTask<T>& of, T* scratch)
      : task(of), g(of.geometry), t(of.tiling), tiles(t.tiles(g.channels)), sums(scratch) {
    starts = reinterpret_cast<uint32_t*>(scratch + sum_elements(t, g));
    entries = reinterpret_cast<uint16_t*>(starts + start_elements(t, g));
  }

  static int64_t sum_elements(const SpikeTiling& t, const SpikeGeometry& g) {
    return t.images * t.rows * g.out_width * t.block;
  }
  static int64_t source_rows(const SpikeTiling& t, const SpikeGeometry& g) {
    return t.images * Band::most_source_rows(g, t);
  }
  static int64_t start_elements(const SpikeTiling& t, const SpikeGeometry& g) {
    return source_rows(t, g) * t.tiles(g.channels) * (g.width + 1);
  }

  static int64_t scratch(const SpikeTask<T>& task) {
    const SpikeTiling& t = task.tiling;
    const SpikeGeometry& g = task.geometry;
    const int64_t entry_bytes = source_rows(t, g) * g.width * g.channels * 2;
    return sum_elements(t, g) + (start_elements(t, g) * 4 + entry_bytes) / static_cast<int64_t>(sizeof(T)) + 1;
  }

  static SpikeTiling tiling(const SpikeGeometry& g, int64_t threads) {
    SpikeTiling t{};
    t.block = kRegisters * L, t.lane = L;
    const int64_t fit = kTileBytes / (g.kernel_w * t.block * static_cast<int64_t>(sizeof(T)));
    t.tile = larger(1, smaller(smaller(fit, 65536 / g.width), g.channels));
    const int64_t pixels = kSumBytes / (t.block * static_cast<int64_t>(sizeof(T)));
    const int64_t all = g.images * g.out_height * g.out_width, blocks = t.blocks(g.filters);
    // Smaller bands where there are too few for all threads, but the weights are read again for each.
    const int64_t shared = threads * 4 > blocks ? all * blocks / (threads * 4) : all;
    cut_bands(g, t, larger(pixels / 4, smaller(pixels, shared)), g.out_width);
    const int64_t bands = t.bands(g);
    t.parts = threads == 1 ? 1 : smaller(blocks, (threads * 4 + bands - 1) / bands);
    return t;
  }

  void list_spikes(const Band& band) const {
    uint32_t count = 0, *start = starts;
    for (int64_t image = band.image_begin; image < band.image_end; ++image)
      for (int64_t y = band.source_begin; y < band.source_end; ++y)
        for (int64_t c = 0; c < g.channels; c += t.tile) {
          const int64_t end = smaller(g.channels, c + t.tile);
          for (int64_t x = 0; x < g.width; ++x) {
            *start++ = count;
            const int64_t shift = x * t.tile - c;
            const int64_t pixel = (image * g.height + y) * g.width + x;
            for_spikes(task, pixel, c, end, [&](int64_t channel) SNN_SPARSE_LAMBDA_INLINE {
              entries[count++] = static_cast<uint16_t>(channel + shift);
            });
          }
          *start++ = count;
        }
  }

  // Row of a band's sums for one tile and kernel row; weights: [kx][channel of the tile][filter].
  template <int R>
  void add_row(T* sum, const uint32_t* start, const T* weights) const {
    for (int64_t x = 0; x < g.out_width; ++x, sum += R * L) {
      const int64_t left = x * g.stride - g.padding, right = left + g.kernel_w;
      const uint32_t first = start[larger(0, smaller(left, g.width))], last = start[larger(0, smaller(right, g.width))];
      if (first == last) continue;
      V total[R];
      for (int i = 0; i < R; ++i) total[i] = load<T, kBytes>(sum + i * L);
      const int64_t shift = left * t.tile;
      for (uint32_t k = first; k < last; ++k) {
        const T* row = weights + (entries[k] - shift) * (R * L);
        for (int i = 0; i < R; ++i) total[i] += load<T, kBytes>(row + i * L);
      }
      for (int i = 0; i < R; ++i) store<T, kBytes>(sum + i * L, total[i]);
    }
  }

  template <int R>
  void run_block(const Band& band, int64_t block) const {
    const int64_t filter = block * t.block, filters = smaller(t.block, g.filters - filter), slab = t.tile * R * L;
    const int64_t pixels = (band.image_end - band.image_begin) * (band.row_end - band.row_begin) * g.out_width;
    T start[R * L] = {};
    if (task.bias) std::memcpy(start, task.bias + filter, static_cast<size_t>(filters) * sizeof(T));
    for (int64_t i = 0; i < pixels; ++i)
      for (int r = 0; r < R; ++r) store<T, kBytes>(sums + (i * R + r) * L, load<T, kBytes>(start + r * L));
    const T* weights = task.packed + filter * g.taps() * tiles * t.tile;
    const int64_t rows = band.source_end - band.source_begin;
    for (int64_t tile = 0; tile < tiles; ++tile)
      for (int64_t ky = 0; ky < g.kernel_h; ++ky, weights += g.kernel_w * slab) {
        T* sum = sums;
        for (int64_t image = 0; image < band.image_end - band.image_begin; ++image)
          for (int64_t y = band.row_begin; y < band.row_end; ++y, sum += g.out_width * R * L) {
            const int64_t source = y * g.stride + ky - g.padding;
            if (source < 0 || source >= g.height) continue;
            const int64_t row = image * rows + source - band.source_begin;
            add_row<R>(sum, starts + (row * tiles + tile) * (g.width + 1), weights);
          }
      }
    write<R>(band, filter, filters, pixels);
  }

  template <int R>
  void write(const Band& band, int64_t filter, int64_t filters, int64_t pixels) const {
    T* out = task.output +
             (band.image_begin * g.out_height + band.row_begin) * g.out_width * g.filters + filter;
    for (int64_t i = 0; i < pixels; ++i)
      std::memcpy(out + i * g.filters, sums + i * R * L, static_cast<size_t>(filters) * sizeof(T));
  }

  template <int R>
  void select(int64_t registers, const Band& band, int64_t block) const {
    if (registers == R) return run_block<R>(band, block);
    if constexpr (R > 1) select<R - 1>(registers, band, block);
  }

  static void run(const SpikeTask<T>& task, T* scratch, int64_t begin, int64_t end) {
    const SpikeForward self(task, scratch);
    const SpikeTiling& t = task.tiling;
    const int64_t blocks = t.blocks(task.geometry.filters);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t part = unit % t.parts;
      const Band band(task.geometry, t, unit / t.parts);
      self.list_spikes(band);
      for (int64_t b = part * blocks / t.parts; b < (part + 1) * blocks / t.parts; ++b)
        self.template select<kRegisters>(t.width(task.geometry.filters, b) / L, band, b);
    }
  }

  static constexpr int64_t kTileBytes = 48 * 1024, kSumBytes = 128 * 1024;
};

// Packs the weights of channels [begin, end) of all filters.
template <class T>
void pack_weight(const SpikeTask<T>& task, int64_t begin, int64_t end) {
  const SpikeGeometry g = task.geometry;
  const SpikeTiling t = task.tiling;
  const int64_t taps = g.taps(), row = g.channels * taps, padded = t.tiles(g.channels) * t.tile;
  constexpr int64_t kRun = 16;
  int64_t to[kRun];
  T quad[16];
  for (int64_t block = 0; block < t.blocks(g.filters); ++block) {
    const int64_t first = block * t.block, filters = smaller(t.block, g.filters - first);
    const int64_t width = t.width(g.filters, block);
    T* packed = task.packed + first * taps * padded;
    for (int64_t j = begin * taps; j < end * taps; j += kRun) {
      const int64_t count = smaller(kRun, end * taps - j);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t channel = (j + i) / taps, tap = (j + i) % taps, tile = channel / t.tile;
        to[i] = ((tile * taps + tap) * t.tile + channel % t.tile) * width;
      }
      for (int64_t f = 0; f < width; f += 4) {
        const T* from = task.weight + (first + f) * row + j;
        int64_t i = 0;
        for (; f + 4 <= filters && i + 4 <= count; i += 4) {
          transpose4(from + i, row, quad, 4);
          for (int k = 0; k < 4; ++k) std::memcpy(packed + to[i + k] + f, quad + 4 * k, 4 * sizeof(T));
        }
        for (; i < count; ++i)
          for (int64_t k = 0; k < smaller<int64_t>(4, width - f); ++k)
            packed[to[i] + f + k] = f + k < filters ? from[k * row + i] : T(0);
      }
    }
  }
}

}  // namespace SNN_SPARSE_ISA
}  // namespace snn_sparse
