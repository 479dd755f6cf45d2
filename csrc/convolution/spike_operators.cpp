// The spike-driven convolution as operators of torch.
#include "common/checks.h"
#include "convolution/share_units.h"
#include "convolution/spikes.h"

namespace snn_sparse {
namespace {

struct Window {
  int64_t kernel_h, kernel_w, stride, padding;
};

// Checks the bits against the sizes of what they hold.
SpikeGeometry read_geometry(const Checks& check, const Tensor& bits, const Sizes& sizes, int64_t filters,
                            const Window& w) {
  check.contiguous(bits, ScalarType::Byte, 1, "bits");
  check(sizes.size() == 4, "sizes must be images, channels, height and width");
  int64_t total = 1;
  for (int64_t size : sizes) {
    check(size >= 1 && size <= kMaxElements / total, "sizes must be at least 1, and not too large together");
    total *= size;
  }
  check(bits.numel() * 8 == total, "bits must be one for each element of sizes, 8 a byte");
  for (int64_t size : {w.kernel_h, w.kernel_w}) check.range(size, 1, kMaxKernel, "kernel sizes");
  check.range(w.stride, 1, kMaxStride, "stride");
  check.range(w.padding, 0, kMaxPadding, "padding");
  check.range(sizes[3], 1, kMaxSpikeWidth, "width");
  SpikeGeometry g{sizes[0], sizes[1], sizes[2], sizes[3], filters, 0, 0, w.kernel_h, w.kernel_w, w.stride, w.padding};
  const int64_t high = g.height + 2 * g.padding - g.kernel_h, wide = g.width + 2 * g.padding - g.kernel_w;
  check(high >= 0 && wide >= 0, "the kernel does not fit the padded input");
  g.out_height = high / g.stride + 1, g.out_width = wide / g.stride + 1;
  check(filters >= 1 && filters <= kMaxElements / (g.images * g.out_height * g.out_width), "the output is too large");
  return g;
}

// spike_convolution(Tensor bits, int[] sizes, Tensor weight, Tensor? bias, int stride, int padding) -> Tensor
//   bits     uint8: spikes [images, height, width, channels], as pack_bits packs them
//   sizes    images, channels, height, width
//   weight   [Cout, Cin, kh, kw]
//   returns  [images, Ho, Wo, Cout]
Tensor spike_convolution(const Tensor& bits, Sizes sizes, const Tensor& weight, const OptionalTensor& bias,
                         int64_t stride, int64_t padding) {
  const Checks check("spike_convolution");
  check.floating(weight, "weight");
  check.contiguous(weight, weight.scalar_type(), 4, "weight");
  const SpikeGeometry g =
      read_geometry(check, bits, sizes, weight.size(0), {weight.size(2), weight.size(3), stride, padding});
  check(weight.size(1) == g.channels, "weight must have as many channels as sizes say");
  check.channels(bias, weight.scalar_type(), g.filters, "bias");
  Tensor out = torch::stable::new_empty(weight, {g.images, g.out_height, g.out_width, g.filters});
  dispatch_floating(weight, [&](auto zero) {
    using T = decltype(zero);
    const auto& kernels = SNN_SPARSE_KERNELS(spike_kernels, T);
    const int64_t threads = torch::stable::get_num_threads();
    SpikeTask<T> task{};
    task.geometry = g, task.tiling = kernels.forward_tiling(g, threads);
    task.bits = data<uint8_t>(bits), task.bytes = bits.numel();
    const Tensor packed = torch::stable::new_empty(weight, {task.packed_elements()});
    task.weight = data<T>(weight), task.packed = data<T>(packed), task.bias = data<T>(bias), task.output = data<T>(out);
    const int64_t grain = std::max<int64_t>(1, 32 * 1024 / (g.taps() * g.filters));
    torch::stable::parallel_for(0, g.channels, grain,
                                [&](int64_t begin, int64_t end) { kernels.pack_weight(task, begin, end); });
    const int64_t units = task.forward_units();
    share_units<T>(check, std::min(threads, units), units, 1, 0, kernels.forward_scratch(task),
                   [&](const Scratch<T>& scratch, int64_t begin, int64_t end) {
                     kernels.forward(task, scratch.partial(), begin, end);
                   });
  });
  return out;
}

// spike_convolution_grad_weight(Tensor bits, int[] sizes, Tensor grad, int kernel_h, int kernel_w, int stride,
//                               int padding, bool with_bias) -> (Tensor, Tensor)
//   bits, sizes  as above
//   grad         of the output [images, Ho, Wo, Cout]
//   returns      gradients of the weight [Cout, Cin, kh, kw] and of the bias [Cout] ([0] without with_bias)
std::tuple<Tensor, Tensor> spike_convolution_grad_weight(const Tensor& bits, Sizes sizes, const Tensor& grad,
                                                         int64_t kernel_h, int64_t kernel_w, int64_t stride,
                                                         int64_t padding, bool with_bias) {
  const Checks check("spike_convolution_grad_weight");
  check.floating(grad, "grad");
  check.contiguous(grad, grad.scalar_type(), 4, "grad");
  const SpikeGeometry g = read_geometry(check, bits, sizes, grad.size(3), {kernel_h, kernel_w, stride, padding});
  check.sizes(grad, {g.images, g.out_height, g.out_width, g.filters}, "grad");
  Tensor out = torch::stable::new_empty(grad, {g.filters, g.channels, kernel_h, kernel_w});
  Tensor bias = torch::stable::new_empty(grad, {with_bias ? g.filters : 0});
  dispatch_floating(grad, [&](auto zero) {
    using T = decltype(zero);
    const auto& kernels = SNN_SPARSE_KERNELS(spike_kernels, T);
    const int64_t threads = torch::stable::get_num_threads();
    SpikeTask<T> task{};
    task.geometry = g, task.tiling = kernels.gradient_tiling(g, threads);
    task.bits = data<uint8_t>(bits), task.bytes = bits.numel(), task.grad = data<T>(grad);
    task.grad_weight = data<T>(out), task.grad_bias = with_bias ? data<T>(bias) : nullptr;
    const int64_t units = task.gradient_units();
    share_units<T>(check, std::min(threads, units), units, 1, 0, kernels.gradient_scratch(task),
                   [&](const Scratch<T>& scratch, int64_t begin, int64_t end) {
                     kernels.weight_gradient(task, scratch.partial(), begin, end);
                   });
  });
  return {out, bias};
}

}  // namespace
}  // namespace snn_sparse

STABLE_TORCH_LIBRARY_FRAGMENT(snn_sparse, m) {
  m.def(
      "spike_convolution(Tensor bits, int[] sizes, Tensor weight, Tensor? bias, int stride, int padding) -> Tensor");
  m.def(
      "spike_convolution_grad_weight(Tensor bits, int[] sizes, Tensor grad, int kernel_h, int kernel_w, int stride, "
      "int padding, bool with_bias) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(snn_sparse, CPU, m) {
  m.impl("spike_convolution", TORCH_BOX(&snn_sparse::spike_convolution));
  m.impl("spike_convolution_grad_weight", TORCH_BOX(&snn_sparse::spike_convolution_grad_weight));
}
