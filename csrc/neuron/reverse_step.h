// One step of backpropagation through time for one channel of one tile.
#pragma once

#include "neuron/forward.h"

namespace snn_sparse {
namespace SNN_SPARSE_ISA {

template <class S>
struct ReverseArgs {
  Span span;
  Ref<S> grad_spikes;            // of the unpooled spikes
  Ref<S> y, residual;            // residual.base may be null
  Affine<S> norm, norm_residual;
  const S* h;                    // compact rows of this step
  const S* previous;             // of the step before: h, or at the first step v itself
  bool previous_is_h;
  S* grad_v;                     // compact rows, updated: dL/dv of this step -> of the step before
  Ref<S> grad_y, grad_residual;  // base null: not asked for
  Pack<S> scale_y, scale_residual;  // applied to dx on writing
  bool accumulate_y;             // add to grad_y: a static input serves every step
  NormSums *sums, *sums_residual;  // null: no batch norm; of one channel, or of as many as there are lanes
  double* grad_decay;            // null: not asked for
  Mask<S> mask;
  const Neuron<S>* neuron;
};

// dL/dh of one vector, given the gradients of its spike and of the potential behind its reset.
template <Shape G, class S>
inline Pack<S> potential_gradient(const Pack<S>& h, const Pack<S>& grad_spike, const Pack<S>& grad_v,
                                  const Neuron<S>& n) {
  const Pack<S> one(S(1));
  const Pack<S> ds = surrogate<G>(h - n.threshold, n);
  // v = h + s * (offset - h) for hard reset, h + s * offset for others: dv/dh has a direct part and, if not detached, one
  // through the spike. By masks: a factor of 0 would make NaN of an infinite h.
  const Pack<S> through_spike = keep(n.attached, (n.offset - keep(n.hard, h)) * ds);
  return grad_spike * ds + grad_v * (select(h >= n.fires_at, n.keep, one) + through_spike);
}

template <Charge K, class S>
struct InputGradient {
  Pack<S> dx, dv, ddecay;  // of the input, of the potential before the step, of the factor 1/tau or of the decay
};

template <Charge K, class S>
inline InputGradient<K, S> charge_gradient(const Pack<S>& dh, const Pack<S>& x, const Pack<S>& v, const Neuron<S>& n) {
  const Pack<S> zero(S(0));
  if (K == Charge::integrate) return {dh, dh, zero};
  if (K == Charge::scale) return {dh, dh * n.decay, dh * v};
  const Pack<S> leaked = dh * (K == Charge::decay_div || K == Charge::leak_div ? n.inverse_tau : n.decay);
  if (K == Charge::decay_div) return {leaked, dh - leaked, zero};
  if (K == Charge::leak_div) return {dh, dh - leaked, zero};
  if (K == Charge::decay_mul) return {leaked, dh - leaked, dh * (x - (v - n.rest))};
  return {dh, dh - leaked, zero - dh * (v - n.rest)};
}

template <class S>
inline void write_gradient(S* to, const Pack<S>& dx, const Pack<S>& scale, bool accumulate) {
  const Pack<S> g = dx * scale;
  store(to, accumulate ? load(to) + g : g);
}

constexpr int64_t kSumVectors = 64;  // longest run summed in S; runs are summed in double

// Sums over one run of vectors.
template <class S>
struct RunSums {
  Pack<S> dx{S(0)}, dx_y{S(0)}, dx_residual{S(0)}, decay{S(0)};
};

struct TileSums {
  Pack<double> dx{0.0}, dx_y{0.0}, dx_residual{0.0}, decay{0.0};

  template <class S>
  void add(const RunSums<S>& r) {
    dx = dx + widen(r.dx);
    dx_y = dx_y + widen(r.dx_y);
    dx_residual = dx_residual + widen(r.dx_residual);
    decay = decay + widen(r.decay);
  }
};

template <Charge K, Shape G, class S>
inline void reverse_run(const ReverseArgs<S>& a, const Neuron<S>& n, int64_t r, int64_t columns, int64_t first,
                        int64_t last, RunSums<S>& sums) {
  constexpr bool learnt = K == Charge::decay_mul || K == Charge::leak_mul || K == Charge::scale;
  const Pack<S> mean = a.norm.mean, mean_residual = a.norm_residual.mean, zero(S(0));
  const Pack<S> scale_y = a.scale_y, scale_residual = a.scale_residual;
  const bool with_decay = learnt && a.grad_decay, with_norm = a.sums, with_residual_norm = a.sums_residual;
  for (int64_t i = first; i < last; ++i) {
    const int64_t at = (r * columns + i) * kLanes;
    const S* y = a.y.base + r * a.y.row + i * a.y.column;
    const S* residual = a.residual.base + (r * a.residual.row + i * a.residual.column);
    const Pack<S> grad_spike = load(a.grad_spikes.base + r * a.grad_spikes.row + i * a.grad_spikes.column);
    const Pack<S> dh = keep(a.mask, potential_gradient<G>(load(a.h + at), grad_spike, load(a.grad_v + at), n));
    Pack<S> x = zero, v = zero;
    if (with_decay) {
      x = normalise(load(y), a.norm);
      if (a.residual.base) x = x + normalise(load(residual), a.norm_residual);
      v = load(a.previous + at);
      if (a.previous_is_h) v = reset(v, v >= n.fires_at, n);
    }
    const InputGradient<K, S> g = charge_gradient<K>(dh, x, v, n);
    store(a.grad_v + at, g.dv);
    if (with_decay) sums.decay = sums.decay + keep(a.mask, g.ddecay);
    sums.dx = sums.dx + g.dx;
    if (with_norm) sums.dx_y = sums.dx_y + keep(a.mask, g.dx * (load(y) - mean));
    if (with_residual_norm) sums.dx_residual = sums.dx_residual + keep(a.mask, g.dx * (load(residual) - mean_residual));
    if (a.grad_y.base) write_gradient(a.grad_y.base + r * a.grad_y.row + i * a.grad_y.column, g.dx, scale_y, a.accumulate_y);
    if (a.grad_residual.base)
      write_gradient(a.grad_residual.base + r * a.grad_residual.row + i * a.grad_residual.column, g.dx, scale_residual, false);
  }
}

// Adds to the sums of one channel, or (channels) of each lane's.
inline void add_sums(NormSums* to, const Pack<double>& dx, const Pack<double>& dx_y, bool channels) {
  if (!channels) {
    *to = {to->dx + lane_sum(dx), to->dx_y + lane_sum(dx_y)};
    return;
  }
  double first[kLanes], second[kLanes];
  store(first, dx);
  store(second, dx_y);
  for (int l = 0; l < kLanes; ++l) to[l] = {to[l].dx + first[l], to[l].dx_y + second[l]};
}

template <Charge K, Shape G, class S>
void reverse_step(const ReverseArgs<S>& args) {
  const ReverseArgs<S> a = args;  // local copies: the compiler knows that no store can change them
  const Neuron<S> n = *a.neuron;
  int64_t rows = a.span.rows, columns = a.span.columns;
  if (seamless(a.y, columns) && seamless(a.residual, columns) && seamless(a.grad_spikes, columns) &&
      seamless(a.grad_y, columns) && seamless(a.grad_residual, columns)) {
    columns *= rows;
    rows = 1;
  }
  TileSums total;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < columns; i += kSumVectors) {
      RunSums<S> sums;
      reverse_run<K, G>(a, n, r, columns, i, smaller(i + kSumVectors, columns), sums);
      total.add(sums);
    }
  const bool channels = a.span.lanes == LaneKind::channels;
  if (a.sums) add_sums(a.sums, total.dx, total.dx_y, channels);
  if (a.sums_residual) add_sums(a.sums_residual, total.dx, total.dx_residual, channels);
  if (a.grad_decay) *a.grad_decay += lane_sum(total.decay);
}

template <class S>
using ReverseFunction = void (*)(const ReverseArgs<S>&);

template <Charge K, class S>
ReverseFunction<S> reverse_function(Shape g) {
  switch (g) {
    case Shape::atan: return reverse_step<K, Shape::atan, S>;
    case Shape::logistic: return reverse_step<K, Shape::logistic, S>;
    case Shape::triangle: return reverse_step<K, Shape::triangle, S>;
    case Shape::rectangle: return reverse_step<K, Shape::rectangle, S>;
    case Shape::fast_sigmoid: return reverse_step<K, Shape::fast_sigmoid, S>;
    default: return reverse_step<K, Shape::gaussian, S>;
  }
}

template <class S>
ReverseFunction<S> reverse_function(Charge k, Shape g) {
  switch (k) {
    case Charge::decay_div: return reverse_function<Charge::decay_div, S>(g);
    case Charge::leak_div: return reverse_function<Charge::leak_div, S>(g);
    case Charge::decay_mul: return reverse_function<Charge::decay_mul, S>(g);
    case Charge::leak_mul: return reverse_function<Charge::leak_mul, S>(g);
    case Charge::scale:
    case Charge::scale_late: return reverse_function<Charge::scale, S>(g);  // the late reset is detached
    default: return reverse_function<Charge::integrate, S>(g);
  }
}

}  // namespace SNN_SPARSE_ISA
}  // namespace snn_sparse
