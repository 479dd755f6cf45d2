// Batch norm of one block of channels: statistics (shifted sums in double, merged in a fixed order), the running
// statistics, and the second pass of its gradient.
#pragma once

#include "channels_last.h"
#include "tiles.h"

namespace snn_sparse {
namespace neuron {
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

// Turns the moments of one set into mean and 1/std of channel c, and updates the running statistics.
template <class S>
inline void finish_set(const Branch<S>& b, int64_t C, int64_t c, int64_t set, const Moments& m) {
  const double variance = m.m2 > 0 ? m.m2 / m.count : (m.m2 == m.m2 ? 0 : m.m2);  // rounding may leave -0, NaN stays
  b.mean[set * C + c] = S(m.mean);
  b.invstd[set * C + c] = S(1 / __builtin_sqrt(variance + b.eps));
  const double f = b.momentum ? b.momentum[set] : 0;
  if (b.running_mean) b.running_mean[c] = S((1 - f) * double(b.running_mean[c]) + f * m.mean);
  if (b.running_var)
    b.running_var[c] = S((1 - f) * double(b.running_var[c]) + f * (variance * (m.count / (m.count - 1))));
}

template <class S>
inline void running_as_statistics(const Branch<S>& b, int64_t c) {
  b.mean[c] = b.running_mean[c];
  b.invstd[c] = S(1 / __builtin_sqrt(double(b.running_var[c]) + b.eps));
}

// Moments of step t of channels [c0, c0 + channels), to moments[t * C + channel].
template <class S>
void step_moments(const Problem& q, const Plan& plan, const Branch<S>& b, const Port<S>& port, int64_t t, int64_t c0,
                  int64_t channels, Moments* moments) {
  if (b.mode == NormMode::none || !b.training || t >= b.steps) return;
  Moments* found = moments + t * q.C + c0;
  if (b.layout.kind == LayoutKind::nhwc) return channels_last_moments(q, b, t, c0, channels, found);
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

// Statistics of channels [c0, c0 + channels) from the moments of all steps; updates come in order of the steps.
template <class S>
void finish_statistics(const Problem& q, const Branch<S>& b, int64_t c0, int64_t channels, const Moments* moments) {
  if (b.mode == NormMode::none) return;
  for (int64_t c = c0; c < c0 + channels; ++c) {
    if (!b.training) {
      running_as_statistics(b, c);
    } else if (b.sets() > 1) {
      for (int64_t t = 0; t < b.steps; ++t) finish_set(b, q.C, c, t, moments[t * q.C + c]);
    } else {
      Moments all = moments[c];
      for (int64_t t = 1; t < b.steps; ++t) merge(all, moments[t * q.C + c]);
      finish_set(b, q.C, c, 0, all);
    }
  }
}

// The affine map of every channel of a block and every step: table[c * T + t].
template <class S>
inline void affine_table(const Problem& q, const Branch<S>& b, int64_t c0, int64_t channels, Affine<S>* table) {
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t t = 0; t < q.T; ++t) {
      if (b.mode == NormMode::none) {
        table[c * q.T + t] = {S(0), S(1), S(0)};
        continue;
      }
      const int64_t at = (b.sets() > 1 ? t : 0) * q.C + c0 + c;
      const S scale = b.weight ? b.invstd[at] * b.weight[c0 + c] : b.invstd[at];
      table[c * q.T + t] = {b.mean[at], scale, b.bias ? b.bias[c0 + c] : S(0)};
    }
}

// Second pass: grad_y = scale * (dx - mean(dx) - (y - mean) * invstd^2 * mean(dx * (y - mean))), in place over dx.
template <class S>
inline void norm_gradient_tile(const Ref<S>& y_ref, const Ref<S>& dx_ref, const Span& s, const Affine<S>& a, S shift,
                               S slope, const Mask<S>& lanes) {
  const Ref<S> y = y_ref, dx = dx_ref;
  const Mask<S> mask = lanes;
  const Pack<S> mean(a.mean), scale(a.scale), shifts(shift), slopes(slope);
  int64_t rows = s.rows, columns = s.columns;
  if (seamless(y, columns) && seamless(dx, columns)) {
    columns *= rows;
    rows = 1;
  }
  for (int64_t r = 0; r < rows; ++r) {
    const S* from = y.base + r * y.row;
    S* to = dx.base + r * dx.row;
    for (int64_t i = 0; i < columns; ++i) {
      const Pack<S> centred = load(from + i * y.column) - mean;
      store(to + i * dx.column, keep(mask, scale * (load(to + i * dx.column) - shifts - centred * slopes)));
    }
  }
}

// The sums of one set of channel c over parts and steps, in a fixed order; sums[(part * C + c) * T + t].
template <class S>
inline NormSums sums_of_set(const Problem& q, int64_t parts, const Branch<S>& b, int64_t c, int64_t set,
                            const NormSums* sums) {
  NormSums total{0, 0};
  const int64_t first = b.sets() > 1 ? set : 0, last = b.sets() > 1 ? set + 1 : q.T;
  for (int64_t part = 0; part < parts; ++part)
    for (int64_t t = first; t < last; ++t) {
      const NormSums& s = sums[(part * q.C + c) * q.T + t];
      total.dx += s.dx;
      total.dx_y += s.dx_y;
    }
  return total;
}

// The gradients of weight and bias.
template <class S>
void affine_gradient(const Problem& q, const Plan& plan, const Branch<S>& b, const NormSums* sums, int64_t c0,
                     int64_t channels) {
  for (int64_t c = c0; c < c0 + channels; ++c) {
    double weight = 0, bias = 0;
    for (int64_t set = 0; set < b.sets(); ++set) {
      const NormSums total = sums_of_set(q, plan.parts, b, c, set, sums);
      weight += total.dx_y * double(b.invstd[set * q.C + c]);
      bias += total.dx;
    }
    if (b.grad_weight) b.grad_weight[c] = S(weight);
    if (b.grad_bias) b.grad_bias[c] = S(bias);
  }
}

// Finishes the gradient of the input at step t; shift and slope as in norm_gradient_tile, for every channel.
template <class S>
inline void input_gradient(const Problem& q, const Tiles& tiles, const Branch<S>& b, const Port<S>& y,
                           const Port<S>& grad, int64_t t, const Affine<S>* affine, const S* shift, const S* slope,
                           int64_t c0, int64_t channels) {
  if (b.layout.kind == LayoutKind::nhwc)
    return channels_last_gradient(q, b, t, c0, channels, affine, shift, slope);
  for (int64_t i = 0; i < tiles.count(); ++i) {
    const Span s = tiles.at(i);
    const Mask<S> mask = first_lanes<S>(s.valid);
    const int64_t line = tiles.line(s);
    y.load(t, s, c0, channels);
    grad.load(t, s, c0, channels);
    for (int64_t c = 0; c < channels; ++c)
      norm_gradient_tile(y.at(t, s, c0, c, line), grad.at(t, s, c0, c, line), s, affine[c], shift[c], slope[c], mask);
    grad.flush(t, s, c0, channels);
  }
}

// Batch norm's part of backward for step t: the gradient of the input, and (once) those of weight and bias.
template <class S>
void norm_backward(const Problem& q, const Plan& plan, const Branch<S>& b, const Port<S>& y, const Port<S>& grad,
                   const Affine<S>* table, const NormSums* sums, int64_t t, int64_t c0, int64_t channels) {
  if (b.mode == NormMode::none || t >= b.steps) return;
  if (t == 0) affine_gradient(q, plan, b, sums, c0, channels);
  if (!b.training || !b.grad_x) return;
  const Tiles tiles(q, plan, y.view.addressable() && grad.view.addressable());
  const double count = double(q.B * q.H * q.W) * double(b.sets() > 1 ? 1 : b.steps);
  const int64_t set = b.sets() > 1 ? t : 0;
  Affine<S> affine[kMaxChannelBlock];
  S shift[kMaxChannelBlock], slope[kMaxChannelBlock];
  for (int64_t c = 0; c < channels; ++c) {
    const NormSums total = sums_of_set(q, plan.parts, b, c0 + c, set, sums);
    const double invstd = double(b.invstd[set * q.C + c0 + c]);
    affine[c] = table[c * q.T + t];
    shift[c] = S(total.dx / count);
    slope[c] = S(total.dx_y * invstd * invstd / count);
  }
  input_gradient(q, tiles, b, y, grad, t, affine, shift, slope, c0, channels);
}

}  // namespace SNN_SPARSE_ISA
}  // namespace neuron
}  // namespace snn_sparse
