// Register tiles of the direct sparse convolution: P pixels x R registers stay in registers over all live weights of one
// filter and channel block. Compiled once per instruction set; every load is one operand of a multiply-add.
#pragma once

#include <utility>

#include "common/simd.h"
#include "convolution/plan.h"

namespace snn_sparse {
namespace SNN_SPARSE_ISA {

// What the tile kernels need; a "filter" is a destination channel, its live weights are sorted by channel block and tap.
template <class T>
struct TileRun {
  const Tile* tiles;
  int64_t tile_count;
  const Segment* segments;
  const int32_t* pointers;   // of the current channel block; filter f's taps start at pointers[f * taps]
  int64_t taps;
  const int32_t* offsets;    // source offset of each live weight
  const T* values;           // value of each live weight (forward)
  const T* source;
  T* destination;            // forward writes it, the weight gradient reads the gradient from it
  int64_t channel_stride;    // of the destination
  int64_t filter_begin, filter_end;
  bool first_block;          // start from the bias instead of the destination
  const T* bias;             // may be null
  T* partial;                // weight gradient: one register per live weight, counted from partial_base
  int64_t partial_base;
  T* bias_partial;           // weight gradient: one register per filter counted from filter_begin, or null
};

// Step: source pixels between the tile's pixels; Out: destination pixels between them.
template <class T, int Bytes, int P, int R, int Step, int Out>
struct TileKernel {
  static constexpr int L = Bytes / static_cast<int>(sizeof(T));
  using V = Vec<T, Bytes>;
  template <int N>
  using Indices = std::make_index_sequence<static_cast<size_t>(N)>;

  // Position of register i of a run of pixels, in scalars from the run's first pixel.
  static constexpr int at(int i) { return ((i / R) * Step * R + i % R) * L; }

  // The same in the destination.
  static constexpr int out_at(int i) { return ((i / R) * Out * R + i % R) * L; }

  template <int First, size_t... I>
  static SNN_SPARSE_INLINE void multiply_add(V* sum, const T* x, T w, std::index_sequence<I...>) {
    ((sum[First * R + static_cast<int>(I)] += load<T, Bytes>(x + at(static_cast<int>(I))) * w), ...);
  }

  // All live weights of one segment; pixels [First, First + Count) of the tile.
  template <int First, int Count>
  static SNN_SPARSE_INLINE void accumulate(V* sum, const TileRun<T>& run, const T* source, int32_t k, int32_t end) {
    const T* x = source + First * Step * R * L;
    for (; k < end; ++k) multiply_add<First>(sum, x + run.offsets[k], run.values[k], Indices<Count * R>{});
  }

  static SNN_SPARSE_INLINE void accumulate_segment(V* sum, const TileRun<T>& run, const T* source, Trim trim, int32_t k,
                                                   int32_t end) {
    if constexpr (P > 1) {
      if (trim == Trim::first) return accumulate<1, P - 1>(sum, run, source, k, end);
      if (trim == Trim::last) return accumulate<0, P - 1>(sum, run, source, k, end);
    }
    accumulate<0, P>(sum, run, source, k, end);
  }

  // Calls f(trim, first, last) for each segment of a tile. The next segment's range is loaded before the current one is
  // worked on: behind a mispredicted loop exit it would start a chain of four dependent loads.
  template <class F>
  static SNN_SPARSE_INLINE void for_segments(const TileRun<T>& run, const Tile& tile, const int32_t* pointers, F&& f) {
    const Segment *segment = run.segments + tile.segment_begin, *last = run.segments + tile.segment_end;
    if (segment == last) return;
    int32_t k = pointers[segment->tap_begin], end = pointers[segment->tap_end];
    Trim trim = segment->trim;
    while (++segment < last) {
      const int32_t next_k = pointers[segment->tap_begin], next_end = pointers[segment->tap_end];
      const Trim next_trim = segment->trim;
      f(trim, k, end);
      k = next_k, end = next_end, trim = next_trim;
    }
    f(trim, k, end);
  }

  // The next filter's tile, before its turn: channels lie a map apart, where no hardware prefetcher looks.
  static SNN_SPARSE_INLINE void prefetch_tile(const T* out) {
    for (int i = 0; i < P * R; i += 64 / Bytes > 0 ? 64 / Bytes : 1) __builtin_prefetch(out + out_at(i), 1);
  }

  static SNN_SPARSE_INLINE void start(V* sum, const TileRun<T>& run, const T* out, int64_t filter) {
    if (run.first_block) {
      const T b = run.bias ? run.bias[filter] : T(0);
      for (int i = 0; i < P * R; ++i) sum[i] = b - V{};
    } else {
      for (int i = 0; i < P * R; ++i) sum[i] = load<T, Bytes>(out + out_at(i));
    }
  }

  static void forward(const TileRun<T>& arguments) {
    const TileRun<T> run = arguments;  // a local copy, which stores cannot alias
    for (int64_t filter = run.filter_begin; filter < run.filter_end; ++filter) {
      const int32_t* pointers = run.pointers + filter * run.taps;
      if (!run.first_block && pointers[0] == pointers[run.taps]) continue;
      for (const Tile* tile = run.tiles; tile != run.tiles + run.tile_count; ++tile) {
        T* out = run.destination + filter * run.channel_stride + tile->destination;
        const T* source = run.source + tile->source;
        prefetch_tile(out + run.channel_stride);
        V sum[P * R];
        start(sum, run, out, filter);
        for_segments(run, *tile, pointers, [&](Trim trim, int32_t k, int32_t end) SNN_SPARSE_LAMBDA_INLINE {
          accumulate_segment(sum, run, source, trim, k, end);
        });
        for (int i = 0; i < P * R; ++i) store<T, Bytes>(out + out_at(i), sum[i]);
      }
    }
  }

  // Two chains of dot products, so that the additions of one live weight overlap.
  template <int First, size_t... I>
  static SNN_SPARSE_INLINE V dot(const V* g, const T* x, V even, std::index_sequence<I...>) {
    V odd{};
    ((I % 2 ? odd += load<T, Bytes>(x + at(static_cast<int>(I))) * g[First * R + static_cast<int>(I)]
            : even += load<T, Bytes>(x + at(static_cast<int>(I))) * g[First * R + static_cast<int>(I)]),
     ...);
    return sizeof...(I) > 1 ? even + odd : even;
  }

  template <int First, int Count>
  static SNN_SPARSE_INLINE void correlate(const V* g, const TileRun<T>& run, const T* source, int32_t k, int32_t end) {
    const T* x = source + First * Step * R * L;
    T* partial = run.partial + (k - run.partial_base) * L;
    for (; k < end; ++k, partial += L)
      store<T, Bytes>(partial, dot<First>(g, x + run.offsets[k], load<T, Bytes>(partial), Indices<Count * R>{}));
  }

  static SNN_SPARSE_INLINE void correlate_segment(const V* g, const TileRun<T>& run, const T* source, Trim trim, int32_t k,
                                                   int32_t end) {
    if constexpr (P > 1) {
      if (trim == Trim::first) return correlate<1, P - 1>(g, run, source, k, end);
      if (trim == Trim::last) return correlate<0, P - 1>(g, run, source, k, end);
    }
    correlate<0, P>(g, run, source, k, end);
  }

  static void weight_gradient(const TileRun<T>& arguments) {
    const TileRun<T> run = arguments;  // a local copy, which stores cannot alias
    for (int64_t filter = run.filter_begin; filter < run.filter_end; ++filter) {
      const int32_t* pointers = run.pointers + filter * run.taps;
      if (!run.bias_partial && pointers[0] == pointers[run.taps]) continue;
      for (const Tile* tile = run.tiles; tile != run.tiles + run.tile_count; ++tile) {
        const T* gradient = run.destination + filter * run.channel_stride + tile->destination;
        const T* source = run.source + tile->source;
        prefetch_tile(gradient + run.channel_stride);
        V g[P * R];
        for (int i = 0; i < P * R; ++i) g[i] = load<T, Bytes>(gradient + out_at(i));
        if (run.bias_partial) {
          T* b = run.bias_partial + (filter - run.filter_begin) * L;
          V sum = load<T, Bytes>(b);
          for (int i = 0; i < P * R; ++i) sum += g[i];
          store<T, Bytes>(b, sum);
        }
        for_segments(run, *tile, pointers, [&](Trim trim, int32_t k, int32_t end) SNN_SPARSE_LAMBDA_INLINE {
          correlate_segment(g, run, source, trim, k, end);
        });
      }
    }
  }
};

template <class T>
using TileFunction = void (*)(const TileRun<T>&);

constexpr int kMaxRegisters = 8;                             // registers a pixel (more: the pixel is cut in slices)
constexpr int kMaxPixels = SNN_SPARSE_MAX_ACCUMULATORS < 14 ? SNN_SPARSE_MAX_ACCUMULATORS : 14;

// Pixels a tile may have with R registers a pixel; a step between its pixels other than 1 and 2 takes one pixel a tile.
constexpr int64_t max_tile_pixels(int64_t registers, int64_t step) {
  const int64_t fit = SNN_SPARSE_MAX_ACCUMULATORS / registers;
  return step > 2 || fit < 1 ? 1 : fit < kMaxPixels ? fit : kMaxPixels;
}

template <class T, int Bytes, int R, int Step, int Out, bool Forward, size_t... I>
TileFunction<T> tile_function(int pixels, std::index_sequence<I...>) {
  static constexpr TileFunction<T> table[] = {
      (Forward ? &TileKernel<T, Bytes, static_cast<int>(I) + 1, R, Step, Out>::forward
               : &TileKernel<T, Bytes, static_cast<int>(I) + 1, R, Step, Out>::weight_gradient)...};
  return table[pixels - 1];
}

template <class T, int Bytes, bool Forward, int R>
TileFunction<T> select_next(int registers, int pixels, int64_t step, int64_t out);

// The kernel for tiles of `pixels` pixels of `registers` registers, pixels <= max_tile_pixels(registers, steps). Only one of
// the steps is not 1 (forward: the source's, input gradient: the destination's), and neither matters to a single pixel.
template <class T, int Bytes, bool Forward, int R = 1>
TileFunction<T> select_kernel(int registers, int pixels, int64_t step, int64_t out) {
  // With 64 byte registers, 32 byte ones only serve an odd number of float vectors.
  constexpr bool never = Bytes < SNN_SPARSE_VECTOR_BYTES && R % 2 == 0;
  if constexpr (!never) {
    if (registers != R) return select_next<T, Bytes, Forward, R>(registers, pixels, step, out);
    constexpr auto sizes = std::make_index_sequence<static_cast<size_t>(max_tile_pixels(R, 1))>{};
    if (pixels > 1 && step == 2) return tile_function<T, Bytes, R, 2, 1, Forward>(pixels, sizes);
    if constexpr (Forward)
      if (pixels > 1 && out == 2) return tile_function<T, Bytes, R, 1, 2, Forward>(pixels, sizes);
    return tile_function<T, Bytes, R, 1, 1, Forward>(pixels, sizes);
  }
  return select_next<T, Bytes, Forward, R>(registers, pixels, step, out);
}

template <class T, int Bytes, bool Forward, int R>
TileFunction<T> select_next(int registers, int pixels, int64_t step, int64_t out) {
  if constexpr (R < kMaxRegisters) return select_kernel<T, Bytes, Forward, R + 1>(registers, pixels, step, out);
  return nullptr;
}

}  // namespace SNN_SPARSE_ISA
}  // namespace snn_sparse
