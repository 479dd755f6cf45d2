// The arithmetic of one neuron and one step, shared by forward and backward: backward recomputes h with the very same
// instructions (contraction is off), so that a recomputed spike can never flip.
#pragma once

#include "common/simd.h"
#include "neuron/types.h"

namespace snn_sparse {
namespace SNN_SPARSE_ISA {

// decay: the input decays with the potential; leak: only the potential decays; _div divides by tau, _mul multiplies by 1/tau;
// scale: the potential is multiplied by a factor; _late: and what the last step should have reset is subtracted.
enum class Charge { decay_div, leak_div, decay_mul, leak_mul, integrate, scale, scale_late };

inline Charge charge_kind(const Problem& q) {
  if (q.neuron == NeuronKind::if_) return Charge::integrate;
  if (q.neuron == NeuronKind::leaky) return q.late != 0 ? Charge::scale_late : Charge::scale;
  if (q.neuron == NeuronKind::plif) return q.decay_input ? Charge::decay_mul : Charge::leak_mul;
  return q.decay_input ? Charge::decay_div : Charge::leak_div;
}

// Batch norm of the lanes of a vector: x = (y - mean) * scale + shift; (0, 1, 0) changes nothing, exactly.
template <class S>
struct Affine {
  Pack<S> mean{S(0)}, scale{S(1)}, shift{S(0)};
};

template <class S>
inline Pack<S> normalise(const Pack<S>& y, const Affine<S>& a) {
  return (y - a.mean) * a.scale + a.shift;
}

template <class S>
struct Neuron {
  Pack<S> threshold, fires_at, rest, tau, late;
  Pack<S> decay;        // 1/tau of a parametric neuron, the factor on v of a leaky one
  Pack<S> inverse_tau;  // in gradients only, where rounding cannot flip a spike
  // After a spike v = h * keep + offset: (0, v_reset) for hard reset, (1, -v_threshold) for soft, (1, 0) for late reset. All
  // are exact.
  Pack<S> keep, offset;
  Mask<S> hard, attached;  // whether the reset is hard; whether its gradient flows through the spike
  Pack<S> peak, slope;     // surrogate: height and the factor on h - v_threshold, with what its shape takes out of the loop
  S start;                 // v before the first step

  Neuron(const Problem& q, const S* decay_value)
      : threshold(S(q.v_threshold)),
        fires_at(S(q.fires_at)),
        rest(q.hard_reset ? S(q.v_reset) : S(0)),
        tau(S(q.tau)),
        late(S(q.late)),
        decay(decay_value ? *decay_value : S(q.decay)),
        inverse_tau(S(1 / q.tau)),
        keep(q.hard_reset ? S(0) : S(1)),
        offset(q.hard_reset ? S(q.v_reset) : q.late != 0 ? S(0) : S(-q.v_threshold)),
        hard(Pack<S>(q.hard_reset ? S(1) : S(-1)) >= Pack<S>(S(0))),
        attached(Pack<S>(q.detach_reset ? S(-1) : S(1)) >= Pack<S>(S(0))),
        peak(q.surrogate == Shape::logistic ? S(4 * q.peak) : S(q.peak)),
        slope(q.surrogate == Shape::triangle ? S(q.peak * q.slope) : S(q.slope)),
        start(q.hard_reset ? S(q.v_reset) : S(0)) {}
};

template <Charge K, class S>
inline Pack<S> charge(const Pack<S>& v, const Pack<S>& x, const Neuron<S>& n) {
  if (K == Charge::decay_div) return v + (x - (v - n.rest)) / n.tau;
  if (K == Charge::leak_div) return (v - (v - n.rest) / n.tau) + x;
  if (K == Charge::decay_mul) return v + (x - (v - n.rest)) * n.decay;
  if (K == Charge::leak_mul) return (v - (v - n.rest) * n.decay) + x;
  if (K == Charge::scale) return v * n.decay + x;
  if (K == Charge::scale_late) return (v * n.decay + x) - keep(v >= n.fires_at, n.late);
  return v + x;
}

template <class S>
inline Pack<S> reset(const Pack<S>& h, const Mask<S>& spike, const Neuron<S>& n) {
  return select(spike, h * n.keep + n.offset, h);
}

template <class S>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr float low = -86.0f, log2e = 1.44269504f, round = 12582912.0f;
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr int degree = 7, mantissa = 23;
};
template <>
struct ExpConstants<double> {
  static constexpr double low = -707.0, log2e = 1.44269504088896340736, round = 6755399441055744.0;
  static constexpr double ln2_high = 6.93145751953125e-1, ln2_low = 1.42860682030941723212e-6;
  static constexpr int degree = 13, mantissa = 52;
};

// exp of an argument <= 0: range reduction to |r| <= ln(2)/2, Taylor series, exponent added as an integer; 0 below `low`.
template <class S>
inline Pack<S> exp_negative(const Pack<S>& argument) {
  using C = ExpConstants<S>;
  using Bits = typename Register<S>::bits;
  using Real = typename Register<S>::real;
  constexpr S inverse_factorial[14] = {S(1),           S(1),            S(1.0 / 2),       S(1.0 / 6),        S(1.0 / 24),
                                       S(1.0 / 120),   S(1.0 / 720),    S(1.0 / 5040),    S(1.0 / 40320),    S(1.0 / 362880),
                                       S(1.0 / 3628800), S(1.0 / 39916800), S(1.0 / 479001600), S(1.0 / 6227020800.0)};
  const Pack<S> x = maximum(Pack<S>(C::low), argument);
  const Pack<S> shifted = x * Pack<S>(C::log2e) + Pack<S>(C::round);  // its low bits hold the integer exponent
  const Pack<S> n = shifted - Pack<S>(C::round);
  const Pack<S> r = (x - n * Pack<S>(C::ln2_high)) - n * Pack<S>(C::ln2_low);
  Pack<S> series(inverse_factorial[C::degree]);
  for (int k = C::degree - 1; k >= 0; --k) series = series * r + Pack<S>(inverse_factorial[k]);
  Pack<S> result;
  for (int i = 0; i < Pack<S>::parts; ++i)
    result.p[i] = (Real)((Bits)series.p[i] + ((Bits)shifted.p[i] << C::mantissa));
  return select(argument < Pack<S>(C::low), Pack<S>(S(0)), result);
}

// ds/dh as a function of u = h - v_threshold.
template <Shape G, class S>
inline Pack<S> surrogate(const Pack<S>& u, const Neuron<S>& n) {
  const Pack<S> one(S(1)), zero(S(0)), z = n.slope * u;
  if (G == Shape::atan) return n.peak / (one + z * z);
  if (G == Shape::logistic) {  // peak * 4 y (1 - y), written in exp(-|z|) so that nothing overflows
    const Pack<S> e = exp_negative(zero - absolute(z));
    return n.peak * e / ((one + e) * (one + e));
  }
  if (G == Shape::triangle) return maximum(zero, n.peak - n.slope * absolute(u));
  if (G == Shape::rectangle) return keep(absolute(z) < Pack<S>(S(0.5)), n.peak);
  if (G == Shape::fast_sigmoid) {
    const Pack<S> d = one + absolute(z);
    return n.peak / (d * d);
  }
  return n.peak * exp_negative(zero - z * z);
}

}  // namespace SNN_SPARSE_ISA
}  // namespace snn_sparse
