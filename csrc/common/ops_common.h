// Shared by the files that bind CPU kernels to torch's stable ABI.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "common/isa.h"
#include "common/lanes.h"

namespace snn_sparse {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline void check_cpu(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.defined() && t.is_cpu(), name, " must be a CPU tensor");
}

inline void check_floating(const Tensor& t, const char* name) {
  check_cpu(t, name);
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float || t.scalar_type() == ScalarType::Double, name,
                  " must be float32 or float64");
}

inline void check_like(const Tensor& t, const Tensor& reference, const char* name) {
  check_cpu(t, name);
  STD_TORCH_CHECK(t.scalar_type() == reference.scalar_type(), name, " must have the same dtype as the input");
}

inline void check_contiguous(const Tensor& t, int64_t dim, const char* name) {
  STD_TORCH_CHECK(t.dim() == dim, name, " must have ", dim, " dimensions, not ", t.dim());
  STD_TORCH_CHECK(t.is_contiguous(), name, " must be contiguous");
}

// The shape of a tensor in the lanes layout; a convolution does not care which vector is which timestep.
inline LanesShape lanes_shape(const Tensor& t, int64_t halo, const char* name) {
  check_contiguous(t, 5, name);
  STD_TORCH_CHECK(halo >= 0 && halo <= kMaxHalo, name, ": halo must be in 0..64");
  STD_TORCH_CHECK(t.size(4) % kLanes == 0, name, " must have a multiple of 8 lanes");
  LanesShape s;
  s.V = t.size(4) / kLanes, s.T = t.size(0) * s.V, s.B = kLanes;
  s.C = t.size(1), s.H = t.size(2) - 2 * halo, s.W = t.size(3) - 2 * halo, s.halo = halo;
  const char* problem = s.problem();
  STD_TORCH_CHECK(problem == nullptr, name, ": ", problem ? problem : "");
  return s;
}

inline Tensor new_lanes(const Tensor& like, const LanesShape& s) {
  return torch::stable::new_empty(like, {s.groups(), s.C, s.padded_h(), s.padded_w(), s.pixel_stride()});
}

template <class T>
T* data(const Tensor& t) {
  return static_cast<T*>(t.data_ptr());
}

// Calls f(T{}) with the scalar type of the tensor.
template <class F>
auto dispatch_floating(const Tensor& t, F&& f) {
  return t.scalar_type() == ScalarType::Float ? f(float{}) : f(double{});
}

}  // namespace snn_sparse

// The kernels `function` (a function overloaded on the scalar) of the chosen instruction set.
#if defined(__x86_64__)
#define SNN_SPARSE_KERNELS(function, T)                                             \
  (::snn_sparse::chosen_isa() == ::snn_sparse::Isa::avx512 ? ::snn_sparse::avx512::function(T{}) \
   : ::snn_sparse::chosen_isa() == ::snn_sparse::Isa::avx2 ? ::snn_sparse::avx2::function(T{})   \
                                                           : ::snn_sparse::portable::function(T{}))
#else
#define SNN_SPARSE_KERNELS(function, T) (::snn_sparse::portable::function(T{}))
#endif
