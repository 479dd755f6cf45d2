// Plans a call and runs its phases on as many threads as torch uses.
#pragma once

#include <algorithm>

#include "neuron_args.h"

namespace snn_sparse {
namespace neuron {

template <class Args>
inline Plan plan_for(const Args& a, bool uses_v, int64_t scalar_bytes) {
  std::vector<Layout> layouts{a.main.layout, a.problem.out_layout};
  if (a.shortcut.x) layouts.push_back(a.shortcut.layout);
  if (uses_v) layouts.push_back(a.problem.v_layout);
  return make_plan(a.problem, layouts.data(), int(layouts.size()), scalar_bytes);
}

// Layouts with the same memory but a better path; after all checks.
inline void simplify_layouts(Problem& q) {
  q.out_layout = simplest(q.out_layout, q.C, q.pool ? (q.H / 2) * (q.W / 2) : q.H * q.W);
  q.v_layout = simplest(q.v_layout, q.C, q.H * q.W);
}

// Runs kernel(args, phase, first unit, last unit, workspace) on all units of a phase: a fixed share for each worker.
template <class Args, class Kernel>
void run_phase(const Args& args, Phase phase, int64_t units, char* memory, int64_t most_workers, Kernel kernel) {
  const int64_t workers = clamp(most_workers, 1, units);
  torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t w = begin; w < end; ++w)
      kernel(args, phase, w * units / workers, (w + 1) * units / workers, memory + w * args.plan.workspace);
  });
}

struct Step {
  Phase phase;
  int64_t units;
};

template <class Args, class Kernel>
void run_phases(const Args& args, const Tensor& like, const std::vector<Step>& steps, Kernel kernel) {
  const int64_t threads = torch::stable::get_num_threads();
  int64_t workers = 1;
  for (const Step& s : steps) workers = std::max(workers, clamp(threads, 1, s.units));
  const Tensor room = torch::stable::new_empty(like, std::vector<int64_t>{workers * args.plan.workspace}, ScalarType::Byte);
  for (const Step& s : steps) run_phase(args, s.phase, s.units, pointer<char>(room), workers, kernel);
}

inline std::vector<Step> forward_steps(const Plan& p, const Problem& q) {
  if (p.parts == 1) return {{Phase::all, p.blocks}};
  return {{Phase::statistics, p.blocks * q.T}, {Phase::finish, p.blocks}, {Phase::tiles, p.blocks * p.parts}};
}

inline std::vector<Step> backward_steps(const Plan& p, const Problem& q) {
  if (p.parts == 1) return {{Phase::all, p.blocks}};
  return {{Phase::tiles, p.blocks * p.parts}, {Phase::gradient, p.blocks * q.T}};
}

// Scratch memory that all workers share.
template <class T>
Tensor shared_room(const Tensor& like, int64_t count) {
  return torch::stable::new_empty(like, std::vector<int64_t>{count * int64_t(sizeof(T))}, ScalarType::Byte);
}

}  // namespace neuron
}  // namespace snn_sparse
