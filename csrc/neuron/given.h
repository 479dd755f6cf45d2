// The arguments of the neuron's operators as they are given, checked and read for its kernels.
#pragma once

#include <cmath>

#include "neuron/arguments.h"

namespace snn_sparse {

// The arguments that both operators have, in the order of their schemas; _r belongs to the residual.
struct Given {
  // y [steps, N, C, H, W] in `format`, N = images; constant: one map [1, N, C, H, W] for all steps. mean and spread (1/std)
  // [steps of y or 1, C] of the batch; if frozen, running mean and variance [C]; None without batch norm. weight, bias [C].
  // residual: as y with all steps, in `format_r`. bits_r: None. rate: 1/tau of plif, or the decay of leaky where it is
  // learnt, one element. v [N, C, H, W]: potential before the first step, contiguous or channels last; None: v_reset, or 0
  // for soft reset. spikes in `format_out`. A neuron spikes where h >= fires_at; late: what the next charge subtracts from a
  // potential that has fired (0: the reset is not late); the surrogate is peak * shape(slope * (h - v_threshold)).
  const Tensor& y;
  const OptionalTensor &mean, &spread, &weight, &bias;
  const OptionalTensor &residual, &mean_r, &spread_r, &weight_r, &bias_r, &bits_r, &rate, &v;
  int64_t steps, images;
  bool constant;
  int64_t kind;
  double tau;
  bool decay_input;
  double decay, v_threshold, fires_at, v_reset;
  bool hard_reset;
  double late;
  bool detach_reset;
  int64_t surrogate;
  double peak, slope;
  bool frozen, frozen_r;
  double eps, eps_r;
  bool pool;
  int64_t format, format_r, format_out;
};

// A branch's share of the arguments.
struct BranchGiven {
  const OptionalTensor &x, &mean, &spread, &weight, &bias;
  bool frozen;
  double eps;
  int64_t batch;
  const char *x_name, *mean_name, *spread_name, *weight_name, *bias_name;
};

// 1/std from running variances.
template <class S>
std::vector<S> inverse_deviations(const S* variance, int64_t C, double eps) {
  std::vector<S> found(C);
  for (int64_t c = 0; c < C; ++c) found[c] = S(1 / std::sqrt(double(variance[c]) + eps));
  return found;
}

template <class S>
Branch<S> read_branch(const Checks& check, const Problem& q, const BranchGiven& g, const Layout& layout, int64_t steps,
                      ScalarType dtype, std::vector<S>& frozen) {
  Branch<S> b{};
  b.layout = layout, b.steps = steps;
  check(g.x || !g.mean, g.mean_name, " is given, but no ", g.x_name);
  check(g.mean.has_value() == g.spread.has_value(), g.mean_name, " and ", g.spread_name, " go together");
  check(g.mean || g.batch || (!g.weight && !g.bias), g.weight_name, " or ", g.bias_name, " is given, but no ",
        g.mean_name);
  if (g.x) check_layout(check, *g.x, dtype, layout, sizes_of(layout, q, steps, false), g.x_name);
  b.x = data<S>(g.x);
  if (!g.mean && !g.batch) return b;
  check.channels(g.weight, dtype, q.C, g.weight_name);
  check.channels(g.bias, dtype, q.C, g.bias_name);
  b.weight = data<S>(g.weight), b.bias = data<S>(g.bias), b.mean = data<S>(g.mean), b.eps = g.eps;
  check(std::isfinite(g.eps) && g.eps >= 0, "eps must not be negative");
  if (g.batch) {
    check(!g.mean, g.mean_name, " is given, but it is to be found as well");
    check(g.x.has_value(), "statistics are to be found, but there is no ", g.x_name);
    b.norm = Norm(g.batch);
    const double values = double(q.B * q.H * q.W) * double(b.norm == Norm::pooled ? steps : 1);
    check(values > 1, g.x_name, " must hold more than one value per channel");
    return b;
  }
  if (g.frozen) {
    check.channels(g.mean, dtype, q.C, g.mean_name);
    check.channels(g.spread, dtype, q.C, g.spread_name);
    frozen = inverse_deviations(data<S>(*g.spread), q.C, g.eps);
    b.norm = Norm::frozen, b.invstd = frozen.data();
    return b;
  }
  check.contiguous(*g.mean, dtype, 2, g.mean_name);
  b.norm = g.mean->size(0) == steps ? Norm::per_step : Norm::pooled;
  check.sizes(*g.mean, {b.sets(), q.C}, g.mean_name);
  check.contiguous(*g.spread, dtype, 2, g.spread_name);
  check.sizes(*g.spread, {b.sets(), q.C}, g.spread_name);
  b.invstd = data<S>(g.spread);
  return b;
}

inline void read_neuron(const Checks& check, const Given& g, Problem& q) {
  check.range(g.kind, 0, int(NeuronKind::leaky), "kind");
  check.range(g.surrogate, 0, int(Shape::gaussian), "surrogate");
  const auto positive = [&](double x, const char* name) {
    check(std::isfinite(x) && x > 0, name, " must be positive, got ", x);
  };
  const auto finite = [&](double x, const char* name) { check(std::isfinite(x), name, " must be finite, got ", x); };
  positive(g.tau, "tau"), positive(g.peak, "peak"), positive(g.slope, "slope");
  finite(g.decay, "decay"), finite(g.v_threshold, "v_threshold"), finite(g.fires_at, "fires_at");
  finite(g.v_reset, "v_reset"), finite(g.late, "late");
  q.neuron = NeuronKind(g.kind), q.surrogate = Shape(g.surrogate);
  q.decay_input = g.decay_input, q.hard_reset = g.hard_reset, q.detach_reset = g.detach_reset;
  q.tau = g.tau, q.decay = g.decay, q.v_threshold = g.v_threshold, q.fires_at = g.fires_at, q.v_reset = g.v_reset;
  q.late = g.late, q.peak = g.peak, q.slope = g.slope;
  const bool leaky = q.neuron == NeuronKind::leaky;
  check(g.late == 0 || (leaky && !g.hard_reset && g.detach_reset), "late needs kind leaky, a soft reset, detach_reset");
  check(g.rate.has_value() == (q.neuron == NeuronKind::plif) || leaky, "rate goes with plif, or with leaky where learnt");
  if (!g.rate) return;
  check.dtype(*g.rate, g.y.scalar_type(), "rate");
  check(g.rate->numel() == 1, "rate must have one element, got ", g.rate->numel());
}

inline Sizes potential_sizes(const Problem& q) { return {q.B, q.C, q.H, q.W}; }

// Where batch norm is frozen, 1/std of y and of the residual.
template <class S>
using Frozen = std::vector<S>[2];

template <class S>
void read_arguments(const Checks& check, const Given& g, int64_t batch, int64_t batch_r, NeuronArgs<S>& a,
                    Frozen<S>& frozen) {
  Problem& q = a.problem;
  const Layout layout = layout_of(check, g.format, "format"), layout_r = layout_of(check, g.format_r, "format_r");
  read_sizes(check, q, g.y, layout, g.steps, g.images);
  const int64_t steps = g.constant ? 1 : g.steps;
  const ScalarType dtype = g.y.scalar_type();
  const OptionalTensor y = g.y;
  const BranchGiven main{y,   g.mean, g.spread, g.weight, g.bias, g.frozen, g.eps, batch,
                         "y", "mean", "spread", "weight", "bias"};
  const BranchGiven shortcut{g.residual, g.mean_r, g.spread_r, g.weight_r, g.bias_r, g.frozen_r, g.eps_r, batch_r,
                             "residual", "mean_r", "spread_r", "weight_r", "bias_r"};
  a.main = read_branch<S>(check, q, main, layout, steps, dtype, frozen[0]);
  a.shortcut = read_branch<S>(check, q, shortcut, layout_r, q.T, dtype, frozen[1]);
  check(!g.bits_r, "bits_r must be None on the CPU");
  read_neuron(check, g, q);
  a.decay = data<S>(g.rate);
  q.pool = g.pool;
  check(!q.pool || (q.H >= 2 && q.W >= 2), "pool needs maps of 2x2 or more, got ", q.H, "x", q.W);
  q.out_layout = layout_of(check, g.format_out, "format_out");
  q.v_layout = {q.out_layout.kind == LayoutKind::nhwc ? LayoutKind::nhwc : LayoutKind::nchw, 1};
  if (!g.v) return;
  q.v_layout.kind = g.v->is_contiguous() ? LayoutKind::nchw : LayoutKind::nhwc;
  check_layout(check, *g.v, dtype, q.v_layout, potential_sizes(q), "v");
  a.v_init = data<S>(g.v);
}

// Plans the work once all tensors are made: from here on layouts are those with the better path.
template <class S>
void plan_work(NeuronArgs<S>& a, bool uses_v) {
  Problem& q = a.problem;
  q.out_layout = simplest(q.out_layout, q.C, q.pool ? (q.H / 2) * (q.W / 2) : q.H * q.W);
  for (Layout* layout : {&q.v_layout, &a.main.layout, &a.shortcut.layout}) *layout = simplest(*layout, q.C, q.H * q.W);
  std::vector<Layout> layouts{a.main.layout, q.out_layout};
  if (a.shortcut.x) layouts.push_back(a.shortcut.layout);
  if (uses_v) layouts.push_back(q.v_layout);
  a.plan = make_plan(q, layouts.data(), int(layouts.size()), sizeof(S));
}

}  // namespace snn_sparse
