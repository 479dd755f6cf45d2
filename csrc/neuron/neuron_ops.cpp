// The fused neuron as torch operators (stable ABI, torch >= 2.11): batch norm -> + residual -> LIF over T -> 2x2 pool.
//
// snn_sparse::fused_neuron_forward(y, residual, v_init, weight, bias, running_mean, running_var, momentum, weight2,
//     bias2, running_mean2, running_var2, momentum2, decay, config, params)
//     -> (spikes, mean, invstd, mean2, invstd2, v_final)
//   y            convolution output [T,B,C,H,W] (T = 1 if static), in the layout named in config
//   residual     same sizes, its own layout; added after batch norm, itself batch-normed if config says so (the "2"s)
//   v_init       potential before the first step, [1,B,C,H,W] in v's layout; none: v_reset, or 0 for soft reset
//   weight, bias [C], optional. running_mean, running_var [C]: updated in place, once per set of statistics, when
//                training; read when not. momentum: float64 [updates], the factor of each update (T, or 1 if pooled or static)
//   decay        1/tau, one element, for the parametric neuron
//   mean, invstd [T,C] (per step, training) or [1,C]; empty without batch norm. v_final: empty unless asked for.
// snn_sparse::fused_neuron_backward(grad_spikes, grad_v_final, y, residual, v_init, weight, bias, mean, invstd, weight2,
//     bias2, mean2, invstd2, decay, config, params)
//     -> (grad_y, grad_residual, grad_v_init, grad_weight, grad_bias, grad_weight2, grad_bias2, grad_decay)
//   grad_spikes in the spikes' layout, grad_v_final in v's; results in the layouts of what they belong to, empty where
//   not asked for (flags) or not there. Backward recomputes h from y by the instructions of forward: nothing else is saved.
//
// config (30 integers): T, B, C, H, W (of y), static_input,
//   norm (0 none, 1 per step, 2 pooled), training (batch statistics), residual (0/1), norm2, training2,
//   neuron (0 LIF, 1 parametric LIF, 2 IF), decay_input, hard_reset, detach_reset,
//   surrogate (0 ATan, 1 Sigmoid, 2 PiecewiseQuadratic, 3 Triangle), pool,
//   layouts of y, spikes, residual, v: three integers each: kind (0 lanes, 1 NCHW per step, 2 channels-last per step), V, halo
//   flags: forward 1 = return v_final; backward 1 = grad_y, 2 = grad_residual, 4 = grad_v_init, 8 = grad_decay
// params (6 floats): tau, v_threshold, v_reset, alpha, eps, eps2
#include "neuron_run.h"

namespace snn_sparse {
namespace neuron {

namespace {

struct NormTensors {
  OptionalTensor weight, bias, running_mean, running_var, momentum;
};

void check_channels(const OptionalTensor& x, ScalarType dtype, int64_t C, const char* name) {
  if (x) check_contiguous(*x, dtype, {C}, name);
}

// One branch without its statistics: input, layout, affine parameters.
template <class S>
Branch<S> make_branch(const Problem& q, const OptionalTensor& x, Layout layout, int64_t steps, NormMode mode,
                      bool training, double eps, const OptionalTensor& weight, const OptionalTensor& bias,
                      ScalarType dtype, const char* name) {
  Branch<S> b{};
  b.layout = simplest(layout, q.C, q.H * q.W);
  b.steps = steps;
  b.mode = mode;
  b.training = training && mode != NormMode::none;
  b.eps = eps;
  if (x) check_layout(*x, dtype, layout, q, steps, false, name);
  b.x = pointer<S>(x);
  SNN_CHECK(mode != NormMode::none || (!weight && !bias), "weight or bias given, but no batch norm");
  check_channels(weight, dtype, q.C, "weight");
  check_channels(bias, dtype, q.C, "bias");
  b.weight = pointer<S>(weight);
  b.bias = pointer<S>(bias);
  return b;
}

template <class S>
void add_running(Branch<S>& b, const Problem& q, const NormTensors& n, ScalarType dtype) {
  if (b.mode == NormMode::none) {
    SNN_CHECK(!n.running_mean && !n.running_var && !n.momentum, "running statistics given, but no batch norm");
    return;
  }
  check_channels(n.running_mean, dtype, q.C, "running_mean");
  check_channels(n.running_var, dtype, q.C, "running_var");
  const bool tracked = n.running_mean || n.running_var;
  SNN_CHECK(b.training || (n.running_mean && n.running_var), "running_mean and running_var are needed when not training");
  if (b.training) {
    const double count = double(q.B * q.H * q.W) * double(b.sets() > 1 ? 1 : b.steps);
    SNN_CHECK(count > 1, "batch norm needs more than one value per channel when training");
    SNN_CHECK(!tracked || n.momentum, "momentum is needed to update running statistics");
    if (n.momentum) check_contiguous(*n.momentum, ScalarType::Double, {b.sets()}, "momentum");
  }
  b.running_mean = pointer<S>(n.running_mean);
  b.running_var = pointer<S>(n.running_var);
  b.momentum = b.training ? pointer<double>(n.momentum) : nullptr;
}

template <class S>
Tensor new_statistics(const Tensor& like, const Branch<S>& b, int64_t C) {
  if (b.mode == NormMode::none || !b.x) return torch::stable::new_empty(like, std::vector<int64_t>{0});
  return torch::stable::new_empty(like, std::vector<int64_t>{b.sets(), C});
}

Tensor nothing(const Tensor& like) { return torch::stable::new_empty(like, std::vector<int64_t>{0}); }

void check_decay(const Problem& q, const OptionalTensor& decay, ScalarType dtype) {
  const bool parametric = q.neuron == NeuronKind::parametric;
  SNN_CHECK(bool(decay) == parametric, "decay (1/tau) goes with the parametric neuron, and only with it");
  if (!decay) return;
  SNN_CHECK(decay->is_cpu() && decay->scalar_type() == dtype && decay->numel() == 1,
            "decay must be one element of the input's dtype on the CPU");
}

using ForwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
using BackwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

template <class S>
ForwardResult forward(const Settings& s, const Tensor& y, const OptionalTensor& residual, const OptionalTensor& v_init,
                      const NormTensors& norm, const NormTensors& norm2, const OptionalTensor& decay,
                      void (*kernel)(const ForwardArgs<S>&, Phase, int64_t, int64_t, char*)) {
  const ScalarType dtype = y.scalar_type();
  ForwardArgs<S> a{};
  Problem& q = a.problem = s.problem;
  a.main = make_branch<S>(q, y, s.layout_y, s.steps_y, s.norm, s.training, s.eps, norm.weight, norm.bias, dtype, "y");
  a.shortcut = make_branch<S>(q, residual, s.layout_residual, q.T, s.norm_residual, s.training_residual, s.eps_residual,
                              norm2.weight, norm2.bias, dtype, "residual");
  add_running(a.main, q, norm, dtype);
  add_running(a.shortcut, q, norm2, dtype);
  check_decay(q, decay, dtype);
  if (v_init) check_layout(*v_init, dtype, q.v_layout, q, 1, false, "v_init");
  const Tensor mean = new_statistics(y, a.main, q.C), invstd = new_statistics(y, a.main, q.C);
  const Tensor mean2 = new_statistics(y, a.shortcut, q.C), invstd2 = new_statistics(y, a.shortcut, q.C);
  const Tensor spikes = new_in_layout(y, q.out_layout, q, q.T, q.pool);
  const Tensor v_final = s.flags & 1 ? new_in_layout(y, q.v_layout, q, 1, false) : nothing(y);
  a.main.mean = pointer<S>(mean);
  a.main.invstd = pointer<S>(invstd);
  a.shortcut.mean = pointer<S>(mean2);
  a.shortcut.invstd = pointer<S>(invstd2);
  a.decay = pointer<S>(decay);
  a.v_init = pointer<S>(v_init);
  a.v_final = s.flags & 1 ? pointer<S>(v_final) : nullptr;
  a.spikes = pointer<S>(spikes);
  simplify_layouts(q);
  a.plan = plan_for(a, a.v_init || a.v_final, sizeof(S));
  const Tensor moments = shared_room<Moments>(y, 2 * q.T * q.C);
  a.moments = pointer<Moments>(moments);
  run_phases(a, y, forward_steps(a.plan, q), kernel);
  return {spikes, mean, invstd, mean2, invstd2, v_final};
}

struct SavedStatistics {
  OptionalTensor mean, invstd;
};

template <class S>
void add_statistics(Branch<S>& b, const Problem& q, const SavedStatistics& saved, ScalarType dtype) {
  if (b.mode == NormMode::none) return;
  SNN_CHECK(saved.mean && saved.invstd, "mean and invstd of forward are needed");
  check_contiguous(*saved.mean, dtype, {b.sets(), q.C}, "mean");
  check_contiguous(*saved.invstd, dtype, {b.sets(), q.C}, "invstd");
  b.mean = pointer<S>(saved.mean);
  b.invstd = pointer<S>(saved.invstd);
}

// Room for the gradients of a branch; those not asked for stay empty.
template <class S>
void add_gradients(Branch<S>& b, const Problem& q, const Layout& layout, bool wanted, const Tensor& like, Tensor& grad_x,
                   Tensor& grad_weight, Tensor& grad_bias) {
  grad_x = wanted ? new_in_layout(like, layout, q, b.steps, false) : nothing(like);
  grad_weight = b.weight ? torch::stable::new_empty(like, std::vector<int64_t>{q.C}) : nothing(like);
  grad_bias = b.bias ? torch::stable::new_empty(like, std::vector<int64_t>{q.C}) : nothing(like);
  if (wanted) b.grad_x = pointer<S>(grad_x);
  if (b.weight) b.grad_weight = pointer<S>(grad_weight);
  if (b.bias) b.grad_bias = pointer<S>(grad_bias);
}

template <class S>
Tensor sum_decay(const Tensor& like, const std::vector<double>& partial) {
  Tensor total = torch::stable::new_empty(like, std::vector<int64_t>{});
  double sum = 0;
  for (double p : partial) sum += p;  // in a fixed order: the same on every run
  *pointer<S>(total) = S(sum);
  return total;
}

template <class S>
BackwardResult backward(const Settings& s, const Tensor& grad_spikes, const OptionalTensor& grad_v_final, const Tensor& y,
                        const OptionalTensor& residual, const OptionalTensor& v_init, const NormTensors& norm,
                        const SavedStatistics& saved, const NormTensors& norm2, const SavedStatistics& saved2,
                        const OptionalTensor& decay,
                        void (*kernel)(const BackwardArgs<S>&, Phase, int64_t, int64_t, char*)) {
  const ScalarType dtype = y.scalar_type();
  BackwardArgs<S> a{};
  Problem& q = a.problem = s.problem;
  a.main = make_branch<S>(q, y, s.layout_y, s.steps_y, s.norm, s.training, s.eps, norm.weight, norm.bias, dtype, "y");
  a.shortcut = make_branch<S>(q, residual, s.layout_residual, q.T, s.norm_residual, s.training_residual, s.eps_residual,
                              norm2.weight, norm2.bias, dtype, "residual");
  add_statistics(a.main, q, saved, dtype);
  add_statistics(a.shortcut, q, saved2, dtype);
  check_decay(q, decay, dtype);
  check_layout(grad_spikes, dtype, q.out_layout, q, q.T, q.pool, "grad_spikes");
  if (v_init) check_layout(*v_init, dtype, q.v_layout, q, 1, false, "v_init");
  if (grad_v_final) check_layout(*grad_v_final, dtype, q.v_layout, q, 1, false, "grad_v_final");
  Tensor grad_y, grad_residual, grad_weight, grad_bias, grad_weight2, grad_bias2;
  add_gradients(a.main, q, s.layout_y, s.flags & 1, y, grad_y, grad_weight, grad_bias);
  add_gradients(a.shortcut, q, s.layout_residual, s.residual && (s.flags & 2), y, grad_residual, grad_weight2, grad_bias2);
  const bool want_v = s.flags & 4, want_decay = decay && (s.flags & 8);
  const Tensor grad_v_init = want_v ? new_in_layout(y, q.v_layout, q, 1, false) : nothing(y);
  a.decay = pointer<S>(decay);
  a.v_init = pointer<S>(v_init);
  a.grad_spikes = pointer<S>(grad_spikes);
  a.grad_v_final = pointer<S>(grad_v_final);
  a.grad_v_init = want_v ? pointer<S>(grad_v_init) : nullptr;
  simplify_layouts(q);
  a.plan = plan_for(a, a.v_init || a.grad_v_init || a.grad_v_final, sizeof(S));
  std::vector<double> partial(want_decay ? a.plan.parts * q.C : 0);
  a.grad_decay = want_decay ? partial.data() : nullptr;
  const Tensor sums = shared_room<NormSums>(y, 2 * a.plan.parts * q.C * q.T);
  a.sums = pointer<NormSums>(sums);
  run_phases(a, y, backward_steps(a.plan, q), kernel);
  const Tensor grad_decay = want_decay ? sum_decay<S>(y, partial) : nothing(y);
  return {grad_y, grad_residual, grad_v_init, grad_weight, grad_bias, grad_weight2, grad_bias2, grad_decay};
}

void check_input(const Tensor& y, const Settings& s, const OptionalTensor& residual) {
  SNN_CHECK(y.is_cpu(), "y must be on the CPU");
  SNN_CHECK(y.scalar_type() == ScalarType::Float || y.scalar_type() == ScalarType::Double,
            "y must be float32 or float64");
  SNN_CHECK(bool(residual) == s.residual, "config and arguments disagree about the residual");
}

ForwardResult fused_neuron_forward(Tensor y, OptionalTensor residual, OptionalTensor v_init, OptionalTensor weight,
                                   OptionalTensor bias, OptionalTensor running_mean, OptionalTensor running_var,
                                   OptionalTensor momentum, OptionalTensor weight2, OptionalTensor bias2,
                                   OptionalTensor running_mean2, OptionalTensor running_var2, OptionalTensor momentum2,
                                   OptionalTensor decay, std::vector<int64_t> config, std::vector<double> params) {
  const Settings s = read_settings(config, params);
  check_input(y, s, residual);
  const NormTensors norm{weight, bias, running_mean, running_var, momentum};
  const NormTensors norm2{weight2, bias2, running_mean2, running_var2, momentum2};
  const Kernels& k = select_kernels();
  if (y.scalar_type() == ScalarType::Float)
    return forward<float>(s, y, residual, v_init, norm, norm2, decay, k.forward_f32);
  return forward<double>(s, y, residual, v_init, norm, norm2, decay, k.forward_f64);
}

BackwardResult fused_neuron_backward(Tensor grad_spikes, OptionalTensor grad_v_final, Tensor y, OptionalTensor residual,
                                     OptionalTensor v_init, OptionalTensor weight, OptionalTensor bias,
                                     OptionalTensor mean, OptionalTensor invstd, OptionalTensor weight2,
                                     OptionalTensor bias2, OptionalTensor mean2, OptionalTensor invstd2,
                                     OptionalTensor decay, std::vector<int64_t> config, std::vector<double> params) {
  const Settings s = read_settings(config, params);
  check_input(y, s, residual);
  const NormTensors norm{weight, bias, {}, {}, {}}, norm2{weight2, bias2, {}, {}, {}};
  const SavedStatistics saved{mean, invstd}, saved2{mean2, invstd2};
  const Kernels& k = select_kernels();
  if (y.scalar_type() == ScalarType::Float)
    return backward<float>(s, grad_spikes, grad_v_final, y, residual, v_init, norm, saved, norm2, saved2, decay,
                           k.backward_f32);
  return backward<double>(s, grad_spikes, grad_v_final, y, residual, v_init, norm, saved, norm2, saved2, decay,
                          k.backward_f64);
}

}  // namespace

}  // namespace neuron
}  // namespace snn_sparse

STABLE_TORCH_LIBRARY_FRAGMENT(snn_sparse, m) {
  m.def(
      "fused_neuron_forward(Tensor y, Tensor? residual, Tensor? v_init, Tensor? weight, Tensor? bias, "
      "Tensor(a!)? running_mean, Tensor(b!)? running_var, Tensor? momentum, Tensor? weight2, Tensor? bias2, "
      "Tensor(c!)? running_mean2, Tensor(d!)? running_var2, Tensor? momentum2, Tensor? decay, int[] config, "
      "float[] params) -> (Tensor spikes, Tensor mean, Tensor invstd, Tensor mean2, Tensor invstd2, Tensor v_final)");
  m.def(
      "fused_neuron_backward(Tensor grad_spikes, Tensor? grad_v_final, Tensor y, Tensor? residual, Tensor? v_init, "
      "Tensor? weight, Tensor? bias, Tensor? mean, Tensor? invstd, Tensor? weight2, Tensor? bias2, Tensor? mean2, "
      "Tensor? invstd2, Tensor? decay, int[] config, float[] params) -> (Tensor grad_y, Tensor grad_residual, "
      "Tensor grad_v_init, Tensor grad_weight, Tensor grad_bias, Tensor grad_weight2, Tensor grad_bias2, "
      "Tensor grad_decay)");
}

STABLE_TORCH_LIBRARY_IMPL(snn_sparse, CPU, m) {
  m.impl("fused_neuron_forward", TORCH_BOX(&snn_sparse::neuron::fused_neuron_forward));
  m.impl("fused_neuron_backward", TORCH_BOX(&snn_sparse::neuron::fused_neuron_backward));
}
