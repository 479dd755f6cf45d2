// Binding of the layout conversions.
#include "convert.h"
#include "common/ops_common.h"

namespace snn_sparse {
namespace {

constexpr int64_t kGrain = 32 * 1024;  // scalars a thread should have at least

void check_shape(const LanesShape& s) {
  const char* problem = s.problem();
  STD_TORCH_CHECK(problem == nullptr, problem ? problem : "");
}

int64_t plane_grain(const LanesShape& s) { return std::max<int64_t>(1, kGrain / s.channel_stride()); }

// to_lanes(Tensor x, int vectors, int halo) -> Tensor
//   x        [T, B, C, H, W], float32 or float64, any strides (a static image may be expanded over T)
//   vectors  V, 1..8;  halo  zero rows and columns around each map
//   returns  [G, C, H + 2 halo, W + 2 halo, 8 V], padding and halo zero
Tensor to_lanes(const Tensor& x, int64_t vectors, int64_t halo) {
  check_floating(x, "x");
  STD_TORCH_CHECK(x.dim() == 5, "x must be [T, B, C, H, W]");
  const LanesShape s{x.size(0), x.size(1), x.size(2), x.size(3), x.size(4), vectors, halo};
  check_shape(s);
  const Strides5 strides{x.stride(0), x.stride(1), x.stride(2), x.stride(3), x.stride(4)};
  Tensor out = new_lanes(x, s);
  dispatch_floating(x, [&](auto zero) {
    using T = decltype(zero);
    const auto& kernels = SNN_SPARSE_KERNELS(convert_kernels, T);
    torch::stable::parallel_for(0, s.groups() * s.C, plane_grain(s), [&](int64_t begin, int64_t end) {
      kernels.to_lanes(s, data<T>(x), strides, data<T>(out), begin, end);
    });
  });
  return out;
}

// from_lanes(Tensor lanes, int timesteps, int batch, int halo) -> Tensor
//   lanes    [G, C, H + 2 halo, W + 2 halo, 8 V] with G = ceil(timesteps * ceil(batch / 8) / V)
//   returns  [T, B, C, H, W], contiguous
Tensor from_lanes(const Tensor& lanes, int64_t timesteps, int64_t batch, int64_t halo) {
  check_floating(lanes, "lanes");
  LanesShape s = lanes_shape(lanes, halo, "lanes");
  s.T = timesteps, s.B = batch;
  check_shape(s);
  STD_TORCH_CHECK(s.groups() == lanes.size(0), "timesteps and batch do not match the number of groups");
  Tensor out = torch::stable::new_empty(lanes, {s.T, s.B, s.C, s.H, s.W});
  const Strides5 strides{out.stride(0), out.stride(1), out.stride(2), out.stride(3), out.stride(4)};
  dispatch_floating(lanes, [&](auto zero) {
    using T = decltype(zero);
    const auto& kernels = SNN_SPARSE_KERNELS(convert_kernels, T);
    torch::stable::parallel_for(0, s.groups() * s.C, plane_grain(s), [&](int64_t begin, int64_t end) {
      kernels.from_lanes(s, data<T>(lanes), data<T>(out), strides, begin, end);
    });
  });
  return out;
}

}  // namespace
}  // namespace snn_sparse

STABLE_TORCH_LIBRARY_FRAGMENT(snn_sparse, m) {
  m.def("to_lanes(Tensor x, int vectors, int halo) -> Tensor");
  m.def("from_lanes(Tensor lanes, int timesteps, int batch, int halo) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(snn_sparse, CPU, m) {
  m.impl("to_lanes", TORCH_BOX(&snn_sparse::to_lanes));
  m.impl("from_lanes", TORCH_BOX(&snn_sparse::from_lanes));
}
