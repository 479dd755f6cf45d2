// Batch statistics of a block of channels: shifted sums in double, in a fixed order, joined by Chan's formula.
#pragma once

#include <cmath>

#include "neuron/tiles.h"

namespace snn_sparse {
namespace SNN_SPARSE_ISA {

// Sums over the tiles of one channel and step about a centre: the mean of its first vector. One pass is safe: with n
// scalars, (mean - centre)^2 is at most an eighth of the sum of squared deviations, so at most log2(n / 8) of 53 bits cancel.
template <class S>
struct ShiftedSums {
  Pack<double> sum, square;
  S centre;

  void start(const Ref<S>& y, const Span& s, const Mask<S>& mask) {
    sum = square = Pack<double>(0);
    centre = S(lane_sum(widen(keep(mask, load(y.base)))) / s.valid);
  }

  void add(const Ref<S>& ref, const Span& s, const Mask<S>& lanes) {
    const Ref<S> y = ref;  // local copies stay in registers
    const Mask<S> mask = lanes;
    const Pack<S> centres(centre);
    Pack<double> sums = sum, squares = square;
    int64_t rows = s.rows, columns = s.columns;
    if (seamless(y, columns)) {
      columns *= rows;
      rows = 1;
    }
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < columns; ++i) {
        const Pack<double> d = widen(keep(mask, load(y.base + r * y.row + i * y.column) - centres));
        sums = sums + d;
        squares = squares + d * d;
      }
    sum = sums;
    square = squares;
  }

  Moments moments(double count) const {
    const double shift = lane_sum(sum) / count;
    return {count, double(centre) + shift, lane_sum(square) - count * shift * shift};
  }
};

// Sums of (y - centre) and its square over `pixels` pixels, for every channel of a block.
template <class S>
inline void channel_sums(const S* y, int64_t pixels, int64_t C, int64_t channels, const S* centre, double* sum,
                         double* square) {
  for (int64_t p = 0; p < pixels; ++p)
    for (int64_t c = 0; c < channels; ++c) {
      const double d = double(S(y[p * C + c] - centre[c]));
      sum[c] += d;
      square[c] += d * d;
    }
}

// Moments of step t of channels [c0, c0 + channels), about the mean of the first pixels: at most log2(count / 64) bits cancel.
template <class S>
void channels_last_moments(const Problem& q, const S* x, int64_t t, int64_t c0, int64_t channels, Moments* result) {
  const int64_t count = q.B * q.H * q.W, pixels = smaller<int64_t>(count, 64);
  const S* step = x + t * count * q.C + c0;  // a step is contiguous over samples and pixels
  S centre[kMaxChannelBlock] = {};
  double sum[kMaxChannelBlock] = {}, square[kMaxChannelBlock] = {};
  channel_sums(step, pixels, q.C, channels, centre, sum, square);
  for (int64_t c = 0; c < channels; ++c) {
    centre[c] = S(sum[c] / double(pixels));
    sum[c] = square[c] = 0;
  }
  channel_sums(step, count, q.C, channels, centre, sum, square);
  for (int64_t c = 0; c < channels; ++c) {
    const double shift = sum[c] / double(count);
    result[c] = {double(count), double(centre[c]) + shift, square[c] - double(count) * shift * shift};
  }
}

// Moments of step t of a block of channels, where they are asked for.
template <class S>
void step_moments(const Problem& q, const Plan& plan, const Branch<S>& b, const Port<S>& port, int64_t t, int64_t c0,
                  int64_t channels) {
  if (!b.moments || t >= b.steps) return;
  Moments* found = b.moments + t * q.C + c0;
  if (b.layout.kind == LayoutKind::nhwc) return channels_last_moments(q, b.x, t, c0, channels, found);
  const Tiles tiles(q, plan, port.view.addressable());
  ShiftedSums<S> sums[kMaxChannelBlock];
  for (int64_t i = 0; i < tiles.count(); ++i) {
    const Span s = tiles.at(i);
    const Mask<S> mask = first_lanes<S>(s.valid);
    port.load(t, s, c0, channels);
    for (int64_t c = 0; c < channels; ++c) {
      const Ref<S> y = port.at(t, s, c0, c, tiles.line(s));
      if (i == 0) sums[c].start(y, s, mask);
      sums[c].add(y, s, mask);
    }
  }
  for (int64_t c = 0; c < channels; ++c) found[c] = sums[c].moments(double(q.B * q.H * q.W));
}

inline void merge(Moments& a, const Moments& b) {
  const double n = a.count + b.count, delta = b.mean - a.mean;
  a.mean += delta * (b.count / n);
  a.m2 += b.m2 + delta * delta * (a.count * b.count / n);
  a.count = n;
}

// Mean and 1/std of a block of channels from the moments of all steps.
template <class S>
void finish_statistics(const Problem& q, const Branch<S>& b, int64_t c0, int64_t channels) {
  if (!b.moments) return;
  for (int64_t c = c0; c < c0 + channels; ++c) {
    for (int64_t t = 1; b.sets() == 1 && t < b.steps; ++t) merge(b.moments[c], b.moments[t * q.C + c]);
    for (int64_t at = c; at < b.sets() * q.C; at += q.C) {
      const Moments& m = b.moments[at];
      const double m2 = double(S(m.m2));  // rounded as torch's: a sum too large for S is infinite in both, and 1/std zero
      const double variance = m2 > 0 ? m2 / m.count : (m2 == m2 ? 0 : m2);  // may round to -0; NaN stays
      b.mean[at] = S(m.mean);
      b.invstd[at] = S(1 / std::sqrt(variance + b.eps));
    }
  }
}

}  // namespace SNN_SPARSE_ISA
}  // namespace snn_sparse
