// From the operator's arguments to a checked Problem and its Branches. Everything that could make a kernel read or
// write out of bounds is refused here.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "neuron_plan.h"

namespace snn_sparse {
namespace neuron {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

#define SNN_CHECK(condition, ...) STD_TORCH_CHECK(condition, "fused_neuron: ", __VA_ARGS__)

// Positions in `config`; the comment block of neuron_ops.cpp explains each.
enum ConfigIndex {
  kT, kB, kC, kH, kW, kStatic, kNorm, kTraining, kResidual, kNorm2, kTraining2, kNeuron, kDecayInput, kHardReset,
  kDetachReset, kSurrogate, kPool, kLayoutY, kLayoutOut = kLayoutY + 3, kLayoutResidual = kLayoutOut + 3,
  kLayoutV = kLayoutResidual + 3, kFlags = kLayoutV + 3, kConfigSize
};
enum ParamIndex { kTau, kThreshold, kReset, kAlpha, kEps, kEps2, kParamSize };

struct Settings {
  Problem problem;
  Layout layout_y, layout_residual;
  int64_t steps_y;
  bool residual;
  NormMode norm, norm_residual;
  bool training, training_residual;
  double eps, eps_residual;
  int64_t flags;
};

inline int64_t in_range(const std::vector<int64_t>& config, int index, int64_t low, int64_t high, const char* name) {
  const int64_t value = config[index];
  SNN_CHECK(value >= low && value <= high, name, " must be in ", low, "..", high, ", got ", value);
  return value;
}

inline Layout read_layout(const std::vector<int64_t>& config, int index, const char* name) {
  const std::string label = std::string("layout of ") + name;
  Layout layout;
  layout.kind = LayoutKind(in_range(config, index, 0, 2, label.c_str()));
  layout.vectors = in_range(config, index + 1, 1, 8, (label + ": vectors (V)").c_str());
  layout.halo = in_range(config, index + 2, 0, 64, (label + ": halo").c_str());
  const bool lanes = layout.kind == LayoutKind::lanes;
  SNN_CHECK(lanes || (layout.vectors == 1 && layout.halo == 0), label, ": V and halo must be 1 and 0 unless lanes");
  return layout;
}

inline void check_size(const Problem& q) {
  // A product below 2^48 leaves room for halo, padding and bytes in 64 bits.
  double product = 1;
  for (int64_t n : {q.T, q.B, q.C, q.H, q.W}) product *= double(n);
  SNN_CHECK(product < 281474976710656.0, "the tensor is too large");
  SNN_CHECK(!q.pool || (q.H >= 2 && q.W >= 2), "pooling needs H and W of 2 or more, got ", q.H, "x", q.W);
}

inline void read_params(const std::vector<double>& params, Settings& s) {
  SNN_CHECK(params.size() == kParamSize, "params must have ", int(kParamSize), " entries, got ", params.size());
  for (double p : params) SNN_CHECK(std::isfinite(p), "params must be finite");
  SNN_CHECK(params[kTau] > 0, "tau must be positive, got ", params[kTau]);
  SNN_CHECK(params[kAlpha] > 0, "alpha must be positive, got ", params[kAlpha]);
  SNN_CHECK(params[kEps] >= 0 && params[kEps2] >= 0, "eps must not be negative");
  s.problem.tau = params[kTau];
  s.problem.v_threshold = params[kThreshold];
  s.problem.v_reset = params[kReset];
  s.problem.alpha = params[kAlpha];
  s.eps = params[kEps];
  s.eps_residual = params[kEps2];
}

inline Settings read_settings(const std::vector<int64_t>& config, const std::vector<double>& params) {
  SNN_CHECK(config.size() == kConfigSize, "config must have ", int(kConfigSize), " entries, got ", config.size());
  constexpr int64_t most = int64_t(1) << 31;
  Settings s;
  Problem& q = s.problem;
  q.T = in_range(config, kT, 1, 1 << 20, "T");
  q.B = in_range(config, kB, 1, most, "B");
  q.C = in_range(config, kC, 1, most, "C");
  q.H = in_range(config, kH, 1, 1 << 20, "H");
  q.W = in_range(config, kW, 1, 1 << 20, "W");
  s.steps_y = in_range(config, kStatic, 0, 1, "static_input") ? 1 : q.T;
  s.norm = NormMode(in_range(config, kNorm, 0, 2, "norm mode"));
  s.training = in_range(config, kTraining, 0, 1, "training");
  s.residual = in_range(config, kResidual, 0, 1, "residual");
  s.norm_residual = NormMode(in_range(config, kNorm2, 0, 2, "norm mode of the residual"));
  s.training_residual = in_range(config, kTraining2, 0, 1, "training of the residual");
  SNN_CHECK(s.residual || s.norm_residual == NormMode::none, "batch norm of a residual that is not there");
  q.neuron = NeuronKind(in_range(config, kNeuron, 0, 2, "neuron"));
  q.decay_input = in_range(config, kDecayInput, 0, 1, "decay_input");
  q.hard_reset = in_range(config, kHardReset, 0, 1, "hard_reset");
  q.detach_reset = in_range(config, kDetachReset, 0, 1, "detach_reset");
  q.surrogate = SurrogateKind(in_range(config, kSurrogate, 0, 3, "surrogate"));
  q.pool = in_range(config, kPool, 0, 1, "pool");
  s.layout_y = read_layout(config, kLayoutY, "y");
  q.out_layout = read_layout(config, kLayoutOut, "spikes");
  s.layout_residual = read_layout(config, kLayoutResidual, "residual");
  q.v_layout = read_layout(config, kLayoutV, "v");
  s.flags = in_range(config, kFlags, 0, 15, "flags");
  read_params(params, s);
  check_size(q);
  return s;
}

// The sizes of the tensor that holds [steps, B, C, H, W] in a layout (lanes), or its logical sizes (the others).
inline std::vector<int64_t> sizes_of(const Layout& layout, const Problem& q, int64_t steps, bool pooled) {
  const int64_t H = pooled ? q.H / 2 : q.H, W = pooled ? q.W / 2 : q.W;
  if (layout.kind != LayoutKind::lanes) return {steps, q.B, q.C, H, W};
  const int64_t vectors = steps * ((q.B + kLanes - 1) / kLanes);
  const int64_t groups = (vectors + layout.vectors - 1) / layout.vectors;
  return {groups, q.C, H + 2 * layout.halo, W + 2 * layout.halo, kLanes * layout.vectors};
}

inline void check_plain(const Tensor& x, ScalarType dtype, const std::vector<int64_t>& sizes, const char* name) {
  SNN_CHECK(x.is_cpu(), name, " must be on the CPU");
  SNN_CHECK(x.scalar_type() == dtype, name, " has the wrong dtype");
  SNN_CHECK(x.dim() == int64_t(sizes.size()), name, " must have ", sizes.size(), " dimensions, got ", x.dim());
  for (size_t i = 0; i < sizes.size(); ++i)
    SNN_CHECK(x.size(i) == sizes[i], name, ": size of dimension ", i, " must be ", sizes[i], ", got ", x.size(i));
}

inline void check_contiguous(const Tensor& x, ScalarType dtype, const std::vector<int64_t>& sizes, const char* name) {
  check_plain(x, dtype, sizes, name);
  SNN_CHECK(x.is_contiguous(), name, " must be contiguous");
}

// A tensor of logical sizes [T, B, C, H, W] in memory order T, B, H, W, C.
inline void check_channels_last(const Tensor& x, const char* name) {
  int64_t expected = 1;
  for (int d : {2, 4, 3, 1, 0}) {
    SNN_CHECK(x.size(d) == 1 || x.stride(d) == expected, name, " must be channels-last: memory [T, B, H, W, C]");
    expected *= x.size(d);
  }
}

inline void check_layout(const Tensor& x, ScalarType dtype, const Layout& layout, const Problem& q, int64_t steps,
                         bool pooled, const char* name) {
  check_plain(x, dtype, sizes_of(layout, q, steps, pooled), name);
  if (layout.kind == LayoutKind::nhwc)
    check_channels_last(x, name);
  else
    SNN_CHECK(x.is_contiguous(), name, " must be contiguous");
}

// An uninitialised tensor in a layout.
inline Tensor new_in_layout(const Tensor& like, const Layout& layout, const Problem& q, int64_t steps, bool pooled) {
  std::vector<int64_t> sizes = sizes_of(layout, q, steps, pooled);
  if (layout.kind != LayoutKind::nhwc) return torch::stable::new_empty(like, sizes);
  const std::vector<int64_t> memory{sizes[0], sizes[1], sizes[3], sizes[4], sizes[2]};
  Tensor x = torch::stable::transpose(torch::stable::new_empty(like, memory), 2, 4);
  return torch::stable::transpose(x, 3, 4);
}

template <class S>
S* pointer(const Tensor& x) {
  return static_cast<S*>(x.data_ptr());
}

template <class S>
S* pointer(const OptionalTensor& x) {
  return x ? static_cast<S*>(x->data_ptr()) : nullptr;
}

}  // namespace neuron
}  // namespace snn_sparse
