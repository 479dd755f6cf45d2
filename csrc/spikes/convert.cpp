// The layout conversions as operators of torch.
#include "spikes/convert.h"

#include "common/checks.h"

namespace snn_sparse {
namespace {

// Calls f(kernels, first plane, last plane) on all threads.
template <class T, class F>
void for_planes(const LanesShape& s, const F& f) {
  constexpr int64_t scalars = 32 * 1024;  // that a thread should have at least
  const auto& kernels = SNN_SPARSE_KERNELS(convert_kernels, T);
  torch::stable::parallel_for(0, s.groups() * s.C, std::max<int64_t>(1, scalars / s.channel_stride()),
                              [&](int64_t begin, int64_t end) { f(kernels, begin, end); });
}

Strides5 strides_of(const Tensor& x) { return {x.stride(0), x.stride(1), x.stride(2), x.stride(3), x.stride(4)}; }

// to_lanes(Tensor x, int vectors) -> Tensor
//   x        [T, B, C, H, W], float32 or float64, any strides (a static image may be expanded over T)
//   vectors  V, 1..8
//   returns  [G, C, H, W, 8 V], padding zero
Tensor to_lanes(const Tensor& x, int64_t vectors) {
  const Checks check("to_lanes");
  check.floating(x, "x");
  check(x.dim() == 5, "x must be [T, B, C, H, W]");
  check.range(vectors, 1, kMaxVectors, "vectors");
  const LanesShape s{x.size(0), x.size(1), x.size(2), x.size(3), x.size(4), vectors};
  check.shape(s, "x");
  Tensor out = new_lanes(x, s);
  dispatch_floating(x, [&](auto zero) {
    using T = decltype(zero);
    for_planes<T>(s, [&](const auto& kernels, int64_t begin, int64_t end) {
      kernels.to_lanes(s, data<T>(x), strides_of(x), data<T>(out), begin, end);
    });
  });
  return out;
}

// from_lanes(Tensor lanes, int steps, int images) -> Tensor
//   lanes    [G, C, H, W, 8 V] with G = ceil(steps * ceil(images / 8) / V)
//   returns  [T, B, C, H, W], contiguous
Tensor from_lanes(const Tensor& lanes, int64_t steps, int64_t images) {
  const Checks check("from_lanes");
  check.floating(lanes, "lanes");
  LanesShape s = lanes_shape(check, lanes, lanes.scalar_type(), "lanes");
  s.T = steps, s.B = images;
  check.shape(s, "lanes");
  check(s.groups() == lanes.size(0), "steps and images do not match the number of groups");
  Tensor out = torch::stable::new_empty(lanes, {s.T, s.B, s.C, s.H, s.W});
  dispatch_floating(lanes, [&](auto zero) {
    using T = decltype(zero);
    for_planes<T>(s, [&](const auto& kernels, int64_t begin, int64_t end) {
      kernels.from_lanes(s, data<T>(lanes), data<T>(out), strides_of(out), begin, end);
    });
  });
  return out;
}

}  // namespace
}  // namespace snn_sparse

STABLE_TORCH_LIBRARY_FRAGMENT(snn_sparse, m) {
  m.def("to_lanes(Tensor x, int vectors) -> Tensor");
  m.def("from_lanes(Tensor lanes, int steps, int images) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(snn_sparse, CPU, m) {
  m.impl("to_lanes", TORCH_BOX(&snn_sparse::to_lanes));
  m.impl("from_lanes", TORCH_BOX(&snn_sparse::from_lanes));
}
