// Weight gradient: for each input channel and tap the rows of the output's gradient under its spikes are added up. The
// gradient of a band, with a border of zeros, stays in the first level cache, and the sums in registers.
#pragma once

#include "convolution/spike_bands.h"

namespace snn_sparse {
namespace SNN_SPARSE_ISA {

constexpr int64_t floor_divide(int64_t a, int64_t b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }
constexpr int64_t remainder(int64_t a, int64_t b) { return a - floor_divide(a, b) * b; }

// With stride s, row y of the input is row y / s of class y % s, and so are columns: tap (ky, kx) reads one class of
// each, at whole distances from the output's pixel.
struct SpikeClasses {
  int64_t stride, padding, kernel_h, kernel_w, rows, left, pitch;

  explicit SpikeClasses(const SpikeGeometry& g)
      : stride(g.stride), padding(g.padding), kernel_h(g.kernel_h), kernel_w(g.kernel_w),
        rows((g.height + g.stride - 1) / g.stride), left(larger(0, distance(g.kernel_w - 1))),
        pitch(left + larger(g.out_width, (g.width + g.stride - 1) / g.stride - distance(0))) {}

  int64_t distance(int64_t tap) const { return floor_divide(tap - padding, stride); }
  int64_t of(int64_t tap) const { return remainder(tap - padding, stride); }
  bool read(int64_t kind, int64_t kernel) const {
    for (int64_t tap = 0; tap < kernel; ++tap)
      if (of(tap) == kind) return true;
    return false;
  }
  // Rows of a class that a band's output reads with any tap.
  int64_t first_row(const Band& band) const { return smaller(rows, larger(0, band.row_begin + distance(0))); }
  int64_t last_row(const Band& band) const {
    return larger(first_row(band), smaller(rows, band.row_end + distance(kernel_h - 1)));
  }
  int64_t most_rows(const SpikeTiling& t) const { return smaller(rows, t.rows + distance(kernel_h - 1) - distance(0)); }
};

template <class T>
struct SpikeGradient {
  static constexpr int kBytes = SNN_SPARSE_VECTOR_BYTES, kRegisters = 4, L = kBytes / static_cast<int>(sizeof(T));
  static constexpr int kTaps = 3;  // of a kernel row, worked on at once
  using V = Vec<T, kBytes>;

  const SpikeTask<T>& task;
  const SpikeGeometry g;
  const SpikeTiling t;
  const SpikeClasses classes;
  const int64_t capacity;  // spikes of a channel in a band
  T* sums;                 // [channel of the part][tap][filter]
  T* window;               // gradient of the band: [row][image][left border, columns, right border][filter]
  T* bias;                 // [filter]
  uint32_t* starts;        // [class of columns][class of rows][row][channel]: its first spike among the channel's
  uint16_t* entries;       // [channel][capacity]: (row * images + image) * pitch + column, within their classes
  uint32_t* counts;        // [channel]

  SpikeGradient(const SpikeTask<T>& of, T* scratch)
      : task(of), g(of.geometry), t(of.tiling), classes(g), capacity(most_spikes(g, t)), sums(scratch) {
    window = sums + sum_elements(g, t);
    bias = window + window_elements(g, t);
    starts = reinterpret_cast<uint32_t*>(bias + t.block);
    counts = starts + start_elements(g, t);
    entries = reinterpret_cast<uint16_t*>(counts + channels(g, t));
  }

  static int64_t channels(const SpikeGeometry& g, const SpikeTiling& t) { return (g.channels + t.parts - 1) / t.parts; }
  static int64_t sum_elements(const SpikeGeometry& g, const SpikeTiling& t) {
    return channels(g, t) * g.taps() * t.block;
  }
  static int64_t window_elements(const SpikeGeometry& g, const SpikeTiling& t) {
    return t.rows * t.images * SpikeClasses(g).pitch * t.block;
  }
  static int64_t start_elements(const SpikeGeometry& g, const SpikeTiling& t) {
    return g.stride * g.stride * (SpikeClasses(g).most_rows(t) + 1) * channels(g, t);
  }
  static int64_t most_spikes(const SpikeGeometry& g, const SpikeTiling& t) {
    return t.images * smaller(g.height, SpikeClasses(g).most_rows(t) * g.stride) * g.width;
  }

  static int64_t scratch(const SpikeTask<T>& task) {
    const SpikeTiling& t = task.tiling;
    const SpikeGeometry& g = task.geometry;
    const int64_t bytes = (start_elements(g, t) + channels(g, t)) * 4 + channels(g, t) * most_spikes(g, t) * 2;
    return sum_elements(g, t) + window_elements(g, t) + t.block + bytes / static_cast<int64_t>(sizeof(T)) + 1;
  }

  static SpikeTiling tiling(const SpikeGeometry& g, int64_t threads) {
    SpikeTiling t{};
    t.block = kRegisters * L, t.lane = L;
    cut_bands(g, t, kWindowBytes / (t.block * static_cast<int64_t>(sizeof(T))), SpikeClasses(g).pitch);
    const int64_t blocks = t.blocks(g.filters);
    t.parts = larger((g.channels + kMostChannels - 1) / kMostChannels, (threads + blocks - 1) / blocks);
    const int64_t units = blocks * t.parts;  // each reads the gradient again: few, unless a thread would wait
    if (units % threads != 0 && units < 4 * threads) t.parts = (4 * threads + blocks - 1) / blocks;
    t.parts = smaller(t.parts, g.channels);
    return t;
  }

  uint32_t* start(int64_t columns, int64_t rows, int64_t row) const {
    return starts + ((columns * g.stride + rows) * (classes.most_rows(t) + 1) + row) * channels(g, t);
  }

  void list_spikes(const Band& band, int64_t begin, int64_t end) const {
    const int64_t first = classes.first_row(band), last = classes.last_row(band);
    const size_t bytes = static_cast<size_t>(end - begin) * sizeof(uint32_t);
    std::memset(counts, 0, bytes);
    for (int64_t columns = 0; columns < g.stride; ++columns)
      for (int64_t rows = 0; rows < g.stride; ++rows) {
        if (!classes.read(columns, g.kernel_w) || !classes.read(rows, g.kernel_h)) continue;
        for (int64_t row = first; row < last; ++row) {
          std::memcpy(start(columns, rows, row - first), counts, bytes);
          const int64_t y = row * g.stride + rows;
          for (int64_t image = band.image_begin; image < band.image_end && y < g.height; ++image)
            for (int64_t x = columns, j = 0; x < g.width; x += g.stride, ++j) {
              const int64_t position = ((row - first) * t.images + image - band.image_begin) * classes.pitch + j;
              const int64_t pixel = (image * g.height + y) * g.width + x;
              for_spikes(task, pixel, begin, end, [&](int64_t channel) SNN_SPARSE_LAMBDA_INLINE {
                const int64_t c = channel - begin;
                entries[c * capacity + counts[c]++] = static_cast<uint16_t>(position);
              });
            }
        }
        std::memcpy(start(columns, rows, last - first), counts, bytes);
      }
  }

  // Copies the band's gradient, and adds it up for the bias if that is wanted: bands are summed by themselves, since one
  // long sum in float32 loses digits.
  template <int R>
  void fill_window(const Band& band, int64_t filter, int64_t filters, bool with_bias) const {
    T of_band[R * L] = {};
    for (int64_t y = band.row_begin; y < band.row_end; ++y)
      for (int64_t image = band.image_begin; image < band.image_end; ++image) {
        const T* from = task.grad + (image * g.out_height + y) * g.out_width * g.filters + filter;
        const int64_t row = (y - band.row_begin) * t.images + image - band.image_begin;
        T* to = window + (row * classes.pitch + classes.left) * R * L;
        for (int64_t x = 0; x < g.out_width; ++x, from += g.filters, to += R * L) {
          std::memcpy(to, from, static_cast<size_t>(filters) * sizeof(T));
          if (!with_bias) continue;
          for (int64_t f = 0; f < filters; ++f) of_band[f] += from[f];
        }
      }
    for (int64_t f = 0; f < filters; ++f) bias[f] += of_band[f];
  }

  // Taps kx, kx + stride, ... of a kernel row: each reads a pixel further to the left.
  template <int R, int Taps>
  void add_taps(const uint16_t* first, const uint16_t* last, const T* grad, T* sum) const {
    const int64_t step = g.stride * R * L;
    V total[Taps * R];
    for (int q = 0; q < Taps; ++q)
      for (int i = 0; i < R; ++i) total[q * R + i] = load<T, kBytes>(sum + q * step + i * L);
    for (; first < last; ++first) {
      const T* row = grad + int64_t(*first) * (R * L);
      for (int q = 0; q < Taps; ++q)
        for (int i = 0; i < R; ++i) total[q * R + i] += load<T, kBytes>(row + (i - q * R) * L);
    }
    for (int q = 0; q < Taps; ++q)
      for (int i = 0; i < R; ++i) store<T, kBytes>(sum + q * step + i * L, total[q * R + i]);
  }

  template <int R>
  void add_row(const uint16_t* first, const uint16_t* last, int64_t columns, int64_t distance, T* sum) const {
    for (int64_t kx = remainder(columns + g.padding, g.stride); kx < g.kernel_w;) {
      const T* grad = window + (distance * classes.pitch - classes.distance(kx) + classes.left) * R * L;
      const int64_t taps = smaller<int64_t>(kTaps, (g.kernel_w - kx + g.stride - 1) / g.stride);
      T* at = sum + kx * R * L;
      if (taps == 3) add_taps<R, 3>(first, last, grad, at);
      else if (taps == 2) add_taps<R, 2>(first, last, grad, at);
      else add_taps<R, 1>(first, last, grad, at);
      kx += taps * g.stride;
    }
  }

  template <int R>
  void add_band(const Band& band, int64_t part_channels) const {
    const int64_t first = classes.first_row(band), last = classes.last_row(band);
    for (int64_t c = 0; c < part_channels; ++c)
      for (int64_t ky = 0; ky < g.kernel_h; ++ky) {
        const int64_t away = classes.distance(ky), rows = classes.of(ky);
        const int64_t begin = larger(first, band.row_begin + away), end = smaller(last, band.row_end + away);
        if (begin >= end) continue;
        const uint16_t* list = entries + c * capacity;
        for (int64_t columns = 0; columns < smaller(g.stride, g.kernel_w); ++columns) {
          const int64_t kind = classes.of(columns);
          const uint32_t from = start(kind, rows, begin - first)[c], to = start(kind, rows, end - first)[c];
          const int64_t distance = (first - away - band.row_begin) * t.images;
          T* sum = sums + (c * g.taps() + ky * g.kernel_w) * R * L;
          if (from < to) add_row<R>(list + from, list + to, kind, distance, sum);
        }
      }
  }

  template <int R>
  void run_block(int64_t block, int64_t part) const {
    const int64_t filter = block * t.block, filters = smaller(t.block, g.filters - filter);
    const int64_t begin = part * g.channels / t.parts, end = (part + 1) * g.channels / t.parts;
    const int64_t row = g.channels * g.taps();
    const bool with_bias = task.grad_bias && part == 0;
    std::memset(sums, 0, static_cast<size_t>(bias + t.block - sums) * sizeof(T));
    for (int64_t i = 0; i < t.bands(g); ++i) {
      const Band band(g, t, i);
      fill_window<R>(band, filter, filters, with_bias);
      list_spikes(band, begin, end);
      add_band<R>(band, end - begin);
    }
    T* out = task.grad_weight + filter * row + begin * g.taps();
    rows_from_lanes(sums, int64_t(R * L), static_cast<int>(filters), (end - begin) * g.taps(), out, row);
    if (with_bias) std::memcpy(task.grad_bias + filter, bias, static_cast<size_t>(filters) * sizeof(T));
  }

  template <int R>
  void select(int64_t registers, int64_t block, int64_t part) const {
    if (registers == R) return run_block<R>(block, part);
    if constexpr (R > 1) select<R - 1>(registers, block, part);
  }

  static void run(const SpikeTask<T>& task, T* scratch, int64_t begin, int64_t end) {
    const SpikeGradient self(task, scratch);
    const SpikeTiling& t = task.tiling;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t block = unit / t.parts;
      self.template select<kRegisters>(t.width(task.geometry.filters, block) / L, block, unit % t.parts);
    }
  }

  static constexpr int64_t kWindowBytes = 32 * 1024, kMostChannels = 128;
};

}  // namespace SNN_SPARSE_ISA
}  // namespace snn_sparse
