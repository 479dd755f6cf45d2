// Batch norm of one block of channels as the neuron applies it, and the second pass of its gradient.
#pragma once

#include "neuron/arithmetic.h"
#include "neuron/tiles.h"

namespace snn_sparse {
namespace SNN_SPARSE_ISA {

// The factor of a channel in a set of statistics.
template <class S>
inline S scale_of(const Problem& q, const Branch<S>& b, int64_t set, int64_t channel) {
  const S invstd = b.invstd[set * q.C + channel];
  return b.weight ? invstd * b.weight[channel] : invstd;
}

// The affine map of every vector of a block and every step: table[c * T + t].
template <class S>
inline void affine_table(const Problem& q, const Plan& plan, const Branch<S>& b, int64_t c0, int64_t slots,
                         Affine<S>* table) {
  for (int64_t c = 0; c < slots; ++c)
    for (int64_t t = 0; t < q.T; ++t) {
      table[c * q.T + t] = Affine<S>{};
      if (b.norm == Norm::none) continue;
      S mean[kLanes], scale[kLanes], shift[kLanes];
      const int64_t set = b.sets() > 1 ? t : 0;
      for (int64_t l = 0; l < kLanes; ++l) {
        const int64_t channel = c0 + c * plan.width() + l % plan.width();
        mean[l] = b.mean[set * q.C + channel], scale[l] = scale_of(q, b, set, channel);
        shift[l] = b.bias ? b.bias[channel] : S(0);
      }
      table[c * q.T + t] = {load(mean), load(scale), load(shift)};
    }
}

// Second pass: grad_y = scale * (dx - mean(dx) - (y - mean) * invstd^2 * mean(dx * (y - mean))), in place over dx.
template <class S>
inline void norm_gradient_tile(const Ref<S>& y_ref, const Ref<S>& dx_ref, const Span& s, const Affine<S>& a, S shift,
                               S slope, const Mask<S>& lanes) {
  const Ref<S> y = y_ref, dx = dx_ref;
  const Mask<S> mask = lanes;
  const Pack<S> mean = a.mean, scale = a.scale, shifts(shift), slopes(slope);
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

// The same for step t of a block of channels-last channels, as they lie: channels are the vector.
template <class S>
void channels_last_gradient(const Problem& q, const Branch<S>& b, int64_t t, int64_t c0, int64_t channels, const S* shift,
                            const S* slope) {
  const int64_t count = q.B * q.H * q.W;
  const S* y = b.x + t * count * q.C + c0;
  S* dx = b.grad_x + t * count * q.C + c0;
  const int64_t set = b.sets() > 1 ? t : 0;
  S mean[kMaxChannelBlock], scale[kMaxChannelBlock];
  for (int64_t c = 0; c < channels; ++c) {
    mean[c] = b.mean[set * q.C + c0 + c];
    scale[c] = scale_of(q, b, set, c0 + c);
  }
  for (int64_t p = 0; p < count; ++p)
    for (int64_t c = 0; c < channels; ++c)
      dx[p * q.C + c] = scale[c] * (dx[p * q.C + c] - shift[c] - (y[p * q.C + c] - mean[c]) * slope[c]);
}

// The sums of one set of channel c over parts and steps, in a fixed order; sums[(part * T + t) * C + c].
template <class S>
inline NormSums sums_of_set(const Problem& q, int64_t parts, const Branch<S>& b, int64_t c, int64_t set,
                            const NormSums* sums) {
  NormSums total{0, 0};
  const int64_t first = b.sets() > 1 ? set : 0, last = b.sets() > 1 ? set + 1 : q.T;
  for (int64_t part = 0; part < parts; ++part)
    for (int64_t t = first; t < last; ++t) {
      const NormSums& s = sums[(part * q.T + t) * q.C + c];
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
                           const Port<S>& grad, int64_t t, const Affine<S>* table, const S* shift, const S* slope,
                           int64_t c0, int64_t channels) {
  if (b.layout.kind == LayoutKind::nhwc) return channels_last_gradient(q, b, t, c0, channels, shift, slope);
  for (int64_t i = 0; i < tiles.count(); ++i) {
    const Span s = tiles.at(i);
    const Mask<S> mask = first_lanes<S>(s.valid);
    const int64_t line = tiles.line(s);
    y.load(t, s, c0, channels);
    grad.load(t, s, c0, channels);
    for (int64_t c = 0; c < channels; ++c)
      norm_gradient_tile(y.at(t, s, c0, c, line), grad.at(t, s, c0, c, line), s, table[c * q.T + t], shift[c],
                         slope[c], mask);
    grad.flush(t, s, c0, channels);
  }
}

// Batch norm's part of backward for step t: the gradient of the input, and (once) those of weight and bias.
template <class S>
void norm_backward(const Problem& q, const Plan& plan, const Branch<S>& b, const Port<S>& y, const Port<S>& grad,
                   const Affine<S>* table, const NormSums* sums, int64_t t, int64_t c0, int64_t channels) {
  if (b.norm == Norm::none || t >= b.steps) return;
  if (t == 0) affine_gradient(q, plan, b, sums, c0, channels);
  if (!b.uses_batch() || !b.grad_x) return;
  const Tiles tiles(q, plan, y.view.addressable() && grad.view.addressable());
  const double count = double(q.B * q.H * q.W) * double(b.sets() > 1 ? 1 : b.steps);
  const int64_t set = b.sets() > 1 ? t : 0;
  S shift[kMaxChannelBlock], slope[kMaxChannelBlock];
  for (int64_t c = 0; c < channels; ++c) {
    const NormSums total = sums_of_set(q, plan.parts, b, c0 + c, set, sums);
    const double invstd = double(b.invstd[set * q.C + c0 + c]);
    shift[c] = S(total.dx / count);
    slope[c] = S(total.dx_y * invstd * invstd / count);
  }
  input_gradient(q, tiles, b, y, grad, t, table, shift, slope, c0, channels);
}

}  // namespace SNN_SPARSE_ISA
}  // namespace snn_sparse
