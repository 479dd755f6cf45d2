// Checks of operators' arguments and what else the bindings to torch's stable ABI share.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "common/dispatch.h"
#include "common/lanes.h"

namespace snn_sparse {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Sizes = std::vector<int64_t>;

// The checks of one operator, whose name begins every message.
class Checks {
 public:
  explicit Checks(const char* name) : operator_(name) {}

  template <class... Parts>
  void operator()(bool fine, const Parts&... parts) const {
    if (fine) return;
    std::ostringstream message;
    message << operator_ << ": ";
    (message << ... << parts);
    throw std::runtime_error(message.str());
  }

  void range(int64_t value, int64_t low, int64_t high, const char* name) const {
    (*this)(value >= low && value <= high, name, " must be in ", low, "..", high, ", got ", value);
  }

  void floating(const Tensor& t, const char* name) const {
    const bool known = t.scalar_type() == ScalarType::Float || t.scalar_type() == ScalarType::Double;
    (*this)(t.is_cpu() && known, name, " must be float32 or float64 on the CPU");
  }

  void dtype(const Tensor& t, ScalarType wanted, const char* name) const {
    (*this)(t.is_cpu() && t.scalar_type() == wanted, name, " must be ", wanted, " on the CPU");
  }

  void contiguous(const Tensor& t, ScalarType wanted, int64_t dim, const char* name) const {
    dtype(t, wanted, name);
    (*this)(t.dim() == dim, name, " must have ", dim, " dimensions, got ", t.dim());
    (*this)(t.is_contiguous(), name, " must be contiguous");
  }

  void sizes(const Tensor& t, const Sizes& wanted, const char* name) const {
    (*this)(t.dim() == int64_t(wanted.size()), name, " must have ", wanted.size(), " dimensions, got ", t.dim());
    for (size_t i = 0; i < wanted.size(); ++i)
      (*this)(t.size(i) == wanted[i], name, ": size of dimension ", i, " must be ", wanted[i], ", got ", t.size(i));
  }

  // One value for each channel, if there are any.
  void channels(const OptionalTensor& t, ScalarType wanted, int64_t C, const char* name) const {
    if (!t) return;
    contiguous(*t, wanted, 1, name);
    sizes(*t, {C}, name);
  }

  void shape(const LanesShape& s, const char* name) const {
    const char* problem = s.problem();
    (*this)(problem == nullptr, name, ": ", problem ? problem : "");
  }

 private:
  const char* operator_;
};

// The shape of a tensor in the lanes layout, its vectors taken for timesteps of 8 samples.
inline LanesShape lanes_shape(const Checks& check, const Tensor& t, ScalarType dtype, const char* name) {
  check.contiguous(t, dtype, 5, name);
  check(t.size(4) % kLanes == 0, name, " must have a multiple of 8 lanes");
  const int64_t V = t.size(4) / kLanes;
  const LanesShape s{t.size(0) * V, kLanes, t.size(1), t.size(2), t.size(3), V};
  check.shape(s, name);
  return s;
}

inline Tensor new_lanes(const Tensor& like, const LanesShape& s) {
  return torch::stable::new_empty(like, {s.groups(), s.C, s.H, s.W, s.pixel_stride()});
}

template <class T>
T* data(const Tensor& t) {
  return static_cast<T*>(t.data_ptr());
}

template <class T>
T* data(const OptionalTensor& t) {
  return t ? data<T>(*t) : nullptr;
}

// Calls f(T{}) with the scalar type of the tensor.
template <class F>
auto dispatch_floating(const Tensor& t, F&& f) {
  return t.scalar_type() == ScalarType::Float ? f(float{}) : f(double{});
}

}  // namespace snn_sparse
