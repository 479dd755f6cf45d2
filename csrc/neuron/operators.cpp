// The neuron and its gradient as operators of torch: batch norm -> + residual -> neuron over T -> 2x2 pool.
// Python defines their schemas; the arguments are those of Given (given.h).
//
// snn_sparse::neuron(..., packed, final_v, batch, batch_r)
//     -> (spikes, nothing, final potential or nothing, mean, spread, mean_r, spread_r)
//        batch: the Norm whose statistics are to be found in y (batch_r: in the residual), for which no mean is given;
//        none: the results are empty.
// snn_sparse::neuron_backward(grad, grad_v, ..., needs)
//     -> gradients of (y, weight, bias, residual, weight_r, bias_r, rate, v), empty where `needs`, a mask of bits in
//        that order, does not ask for them; grad of the spikes or None, grad_v of the final potential or None.
//        Backward recomputes the potential from y by the instructions of forward: nothing else is saved.
#include <numeric>

#include "neuron/given.h"
#include "neuron/run.h"

namespace snn_sparse {
namespace {

// The gradients of backward, in the order of its results and of the bits of `needs`.
enum Gradient { kY, kWeight, kBias, kResidual, kWeightR, kBiasR, kRate, kV, kGradients };

// Room for the batch statistics of a branch, empty where none are to be found.
template <class S>
struct Found {
  Tensor mean, spread, moments;

  Found(const Tensor& like, Branch<S>& b, bool wanted, int64_t C)
      : mean(wanted ? torch::stable::new_empty(like, {b.sets(), C}) : nothing(like)),
        spread(wanted ? torch::stable::new_empty(like, {b.sets(), C}) : nothing(like)),
        moments(new_scratch<Moments>(like, wanted ? b.steps * C : 0)) {
    if (wanted) b.mean = data<S>(mean), b.invstd = data<S>(spread), b.moments = data<Moments>(moments);
  }
};

template <class S>
void run_forward(const ForwardArgs<S>& a, const Tensor& like) {
  const auto kernel = SNN_SPARSE_KERNELS(neuron_kernels, S).forward;
  const Plan& p = a.plan;
  const int64_t statistics_units = p.blocks * a.problem.T, units = p.blocks * p.parts;
  const Workers workers(like, std::max(units, statistics_units), p.workspace);
  const auto run = [&](Phase phase, int64_t count) {
    workers.run(count, [&](int64_t first, int64_t last, char* memory) { kernel(a, phase, first, last, memory); });
  };
  if (p.parts == 1) return run(Phase::all, p.blocks);
  if (a.main.moments || a.shortcut.moments) {
    run(Phase::statistics, statistics_units);
    run(Phase::finish, p.blocks);
  }
  run(Phase::tiles, units);
}

using Results = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

template <class S>
Results forward(const Checks& check, const Given& g, bool final_v, int64_t batch, int64_t batch_r) {
  ForwardArgs<S> a{};
  Frozen<S> frozen;
  read_arguments<S>(check, g, batch, batch_r, a, frozen);
  const Problem& q = a.problem;
  const Tensor spikes = new_in_layout(g.y, q.out_layout, sizes_of(q.out_layout, q, q.T, q.pool));
  const Tensor v = final_v ? new_in_layout(g.y, q.v_layout, potential_sizes(q)) : nothing(g.y);
  a.spikes = data<S>(spikes);
  a.v_final = final_v ? data<S>(v) : nullptr;
  const Found<S> main(g.y, a.main, batch != 0, q.C), shortcut(g.y, a.shortcut, batch_r != 0, q.C);
  plan_work(a, a.v_init || a.v_final);
  run_forward(a, g.y);
  const Tensor bits = torch::stable::new_empty(g.y, Sizes{0}, ScalarType::Int);
  return {spikes, bits, v, main.mean, main.spread, shortcut.mean, shortcut.spread};
}

template <class S>
void run_backward(const BackwardArgs<S>& a, const Tensor& like) {
  const auto kernel = SNN_SPARSE_KERNELS(neuron_kernels, S).backward;
  const Plan& p = a.plan;
  const bool whole = p.parts == 1;
  const int64_t units = p.blocks * p.parts, gradient_units = p.blocks * a.problem.T;
  const Workers workers(like, whole ? units : std::max(units, gradient_units), p.workspace);
  workers.run(units, [&](int64_t first, int64_t last, char* memory) {
    kernel(a, whole ? Phase::all : Phase::tiles, first, last, memory);
  });
  if (whole) return;
  workers.run(gradient_units, [&](int64_t first, int64_t last, char* memory) {
    kernel(a, Phase::gradient, first, last, memory);
  });
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

template <class S>
Gradients backward(const Checks& check, const Given& g, const OptionalTensor& grad, const OptionalTensor& grad_v,
                   int64_t needs) {
  BackwardArgs<S> a{};
  Frozen<S> frozen;
  read_arguments<S>(check, g, 0, 0, a, frozen);
  const Problem& q = a.problem;
  const Sizes spike_sizes = sizes_of(q.out_layout, q, q.T, q.pool), channels{q.C};
  Tensor grad_spikes = grad ? *grad : new_in_layout(g.y, q.out_layout, spike_sizes);
  if (!grad) torch::stable::zero_(grad_spikes);
  check_layout(check, grad_spikes, g.y.scalar_type(), q.out_layout, spike_sizes, "grad");
  if (grad_v) check_layout(check, *grad_v, g.y.scalar_type(), q.v_layout, potential_sizes(q), "grad_v");
  Tensor grads[kGradients];
  // Room for a gradient; one that is not asked for, or of what is not there, stays empty.
  const auto room = [&](Gradient i, bool there, const Layout& layout, const Sizes& sizes) {
    const bool wanted = there && (needs >> i & 1);
    grads[i] = wanted ? new_in_layout(g.y, layout, sizes) : nothing(g.y);
    return wanted ? data<S>(grads[i]) : nullptr;
  };
  const Layout plain{LayoutKind::nchw, 1};
  a.main.grad_x = room(kY, true, a.main.layout, sizes_of(a.main.layout, q, a.main.steps, false));
  a.main.grad_weight = room(kWeight, a.main.weight, plain, channels);
  a.main.grad_bias = room(kBias, a.main.bias, plain, channels);
  a.shortcut.grad_x = room(kResidual, a.shortcut.x, a.shortcut.layout, sizes_of(a.shortcut.layout, q, q.T, false));
  a.shortcut.grad_weight = room(kWeightR, a.shortcut.weight, plain, channels);
  a.shortcut.grad_bias = room(kBiasR, a.shortcut.bias, plain, channels);
  S* grad_rate = room(kRate, a.decay, plain, g.rate ? Sizes(g.rate->sizes().begin(), g.rate->sizes().end()) : Sizes{});
  a.grad_v_init = room(kV, a.v_init, q.v_layout, potential_sizes(q));
  a.grad_spikes = data<S>(grad_spikes), a.grad_v_final = data<S>(grad_v);
  plan_work(a, a.v_init || a.grad_v_final);
  std::vector<double> rate_parts(grad_rate ? a.plan.parts * q.C : 0);
  a.grad_decay = grad_rate ? rate_parts.data() : nullptr;
  const Tensor sums = new_scratch<NormSums>(g.y, 2 * a.plan.parts * q.C * q.T);
  a.sums = data<NormSums>(sums);
  run_backward(a, g.y);
  // In a fixed order: the same on every run.
  if (grad_rate) *grad_rate = S(std::accumulate(rate_parts.begin(), rate_parts.end(), 0.0));
  return {grads[kY],       grads[kWeight], grads[kBias], grads[kResidual],
          grads[kWeightR], grads[kBiasR],  grads[kRate], grads[kV]};
}

#define SNN_SPARSE_NEURON_ARGUMENTS                                                                                   \
  const Tensor &y, const OptionalTensor &mean, const OptionalTensor &spread, const OptionalTensor &weight,            \
      const OptionalTensor &bias, const OptionalTensor &residual, const OptionalTensor &mean_r,                       \
      const OptionalTensor &spread_r, const OptionalTensor &weight_r, const OptionalTensor &bias_r,                   \
      const OptionalTensor &bits_r, const OptionalTensor &rate, const OptionalTensor &v, int64_t steps,               \
      int64_t images, bool constant, int64_t kind, double tau, bool decay_input, double decay, double v_threshold,    \
      double fires_at, double v_reset, bool hard_reset, double late, bool detach_reset, int64_t surrogate,            \
      double peak, double slope, bool frozen, bool frozen_r, double eps, double eps_r, bool pool, int64_t format,     \
      int64_t format_r, int64_t format_out
#define SNN_SPARSE_NEURON_GIVEN                                                                                       \
  {y, mean, spread, weight, bias, residual, mean_r, spread_r, weight_r, bias_r, bits_r, rate, v, steps, images,       \
   constant, kind, tau, decay_input, decay, v_threshold, fires_at, v_reset, hard_reset, late, detach_reset,           \
   surrogate, peak, slope, frozen, frozen_r, eps, eps_r, pool, format, format_r, format_out}

Results neuron(SNN_SPARSE_NEURON_ARGUMENTS, bool packed, bool final_v, int64_t batch, int64_t batch_r) {
  const Checks check("neuron");
  const Given g SNN_SPARSE_NEURON_GIVEN;
  check(!packed, "packed must be false on the CPU");
  check.range(batch, 0, int(Norm::pooled), "batch");
  check.range(batch_r, 0, int(Norm::pooled), "batch_r");
  check.floating(y, "y");
  return dispatch_floating(y, [&](auto zero) { return forward<decltype(zero)>(check, g, final_v, batch, batch_r); });
}

Gradients neuron_backward(const OptionalTensor& grad, const OptionalTensor& grad_v, SNN_SPARSE_NEURON_ARGUMENTS,
                          int64_t needs) {
  const Checks check("neuron_backward");
  const Given g SNN_SPARSE_NEURON_GIVEN;
  check.range(needs, 0, (1 << kGradients) - 1, "needs");
  check.floating(y, "y");
  return dispatch_floating(y, [&](auto zero) { return backward<decltype(zero)>(check, g, grad, grad_v, needs); });
}

}  // namespace
}  // namespace snn_sparse

STABLE_TORCH_LIBRARY_IMPL(snn_sparse, CPU, m) {
  m.impl("neuron", TORCH_BOX(&snn_sparse::neuron));
  m.impl("neuron_backward", TORCH_BOX(&snn_sparse::neuron_backward));
}
