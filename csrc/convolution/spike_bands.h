// Bands of images, and the spikes in them: what forward and weight gradient of the spike-driven convolution share.
#pragma once

#include <cstring>

#include "common/simd.h"
#include "convolution/spikes.h"

namespace snn_sparse {
namespace SNN_SPARSE_ISA {

constexpr int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
constexpr int64_t round_up(int64_t a, int64_t unit) { return (a + unit - 1) / unit * unit; }

// Rows [row_begin, row_end) of the output of images [image_begin, image_end), and the rows of the input that they read.
struct Band {
  int64_t image_begin, image_end, row_begin, row_end, source_begin, source_end;

  Band(const SpikeGeometry& g, const SpikeTiling& t, int64_t index) {
    const int64_t in_image = index % t.row_bands(g);
    image_begin = index / t.row_bands(g) * t.images, image_end = smaller(g.images, image_begin + t.images);
    row_begin = in_image * t.rows, row_end = smaller(g.out_height, row_begin + t.rows);
    source_begin = larger(0, row_begin * g.stride - g.padding);
    source_end = larger(source_begin, smaller(g.height, (row_end - 1) * g.stride - g.padding + g.kernel_h));
  }

  // Rows of the input that a band of this tiling may read of one image.
  static int64_t most_source_rows(const SpikeGeometry& g, const SpikeTiling& t) {
    return smaller(g.height, (t.rows - 1) * g.stride + g.kernel_h);
  }
};

// Up to 56 bits from bit `first` on. Lowest bits are in the lowest bytes: packed spikes of a little-endian machine.
template <class T>
SNN_SPARSE_INLINE uint64_t read_bits(const SpikeTask<T>& task, int64_t first, int64_t count) {
  uint64_t word = 0;
  const int64_t byte = first >> 3, left = task.bytes - byte;
  if (left >= 8)
    std::memcpy(&word, task.bits + byte, 8);
  else
    std::memcpy(&word, task.bits + byte, static_cast<size_t>(left));
  return word >> (first & 7) & ((uint64_t(1) << count) - 1);
}

// Calls f(channel) for the spikes of a pixel among channels [begin, end).
template <class T, class F>
SNN_SPARSE_INLINE void for_spikes(const SpikeTask<T>& task, int64_t pixel, int64_t begin, int64_t end, const F& f) {
  const int64_t first = pixel * task.geometry.channels;
  for (int64_t c = begin; c < end; c += 56)
    for (uint64_t word = read_bits(task, first + c, smaller<int64_t>(56, end - c)); word; word &= word - 1)
      f(c + __builtin_ctzll(word));
}

// Cuts the output into bands of at most `pixels` pixels (of `row` pixels a row): whole images or rows of one.
inline void cut_bands(const SpikeGeometry& g, SpikeTiling& t, int64_t pixels, int64_t row) {
  t.rows = larger(1, smaller(g.out_height, pixels / row));
  t.images = t.rows < g.out_height ? 1 : larger(1, smaller(g.images, pixels / (row * g.out_height)));
}

}  // namespace SNN_SPARSE_ISA
}  // namespace snn_sparse
