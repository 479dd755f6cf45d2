// The convolution at live weights as operators of torch.
#include <atomic>

#include "common/checks.h"
#include "convolution/core.h"
#include "convolution/share_units.h"

namespace snn_sparse {
namespace {

constexpr int64_t kSerialWork = 64 * 1024;  // vector multiply-adds below which threads cost more than they bring

// What live_index_lists has made.
struct ListTensors {
  const Tensor &channels, &pointers, &taps;
};

// Checks all of the lists but the entries, which gather_weights checks where it reads them.
LiveLists read_lists(const Checks& check, const ListTensors& t, const ConvGeometry& g) {
  check.contiguous(t.channels, ScalarType::Int, 1, "channels");
  check.contiguous(t.pointers, ScalarType::Int, 1, "pointers");
  check.contiguous(t.taps, ScalarType::Int, 1, "taps");
  LiveLists s;
  s.live = t.channels.numel(), s.filters = g.destination.C, s.channel_count = g.source.C, s.tap_count = g.taps();
  check(t.taps.numel() == s.tap_count, "taps must be as many as the kernel has");
  const int64_t rows = t.pointers.numel() - 1, block_rows = s.filters * s.tap_count;
  check(rows > 0 && rows % block_rows == 0 && rows / block_rows <= s.channel_count,
        "pointers do not fit the number of filters");
  s.blocks = rows / block_rows;
  s.channels = data<int32_t>(t.channels), s.pointers = data<int32_t>(t.pointers), s.taps = data<int32_t>(t.taps);
  uint64_t seen = 0;
  for (int64_t i = 0; i < s.tap_count; ++i)
    if (s.taps[i] >= 0 && s.taps[i] < s.tap_count) seen |= uint64_t(1) << s.taps[i];
  check(seen == (uint64_t(1) << s.tap_count) - 1, "taps are not a permutation");
  check(s.pointers[0] == 0 && s.pointers[rows] == s.live, "pointers do not fit the number of channels");
  return s;
}

// The geometry but for source and destination; `kernel` is the weight or its gradient.
ConvGeometry window(const Checks& check, const Tensor& kernel, ScalarType dtype, const char* name, int64_t stride,
                    int64_t padding, bool transposed) {
  check.contiguous(kernel, dtype, 4, name);
  for (int64_t size : {kernel.size(2), kernel.size(3)})
    check(size >= 1 && size <= kMaxKernel, name, ": kernel sizes must be in 1..", kMaxKernel);
  check(kernel.size(0) >= 1 && kernel.size(1) >= 1, name, " must have at least one filter and one channel");
  check.range(stride, 1, kMaxStride, "stride");
  check.range(padding, 0, kMaxPadding, "padding");
  return {kernel.size(2), kernel.size(3), stride, padding, transposed, {}, {}};
}

LanesShape like_shape(const LanesShape& s, int64_t channels, int64_t h, int64_t w) {
  return {s.T, s.B, channels, h, w, s.V};
}

void check_geometry(const Checks& check, const ConvGeometry& g) {
  const char* problem = geometry_problem(g);
  check(problem == nullptr, problem ? problem : "");
}

template <class T>
struct PreparedConv {
  TilePlan plan;
  Tensor offsets, values;
  ConvTask<T> task{};
  int64_t work = 0;
};

// Plans tiles and gathers offsets and values; raises if the lists are not consistent. pack: a band and channel block of
// the source is copied into a packed box.
template <class T>
void prepare(PreparedConv<T>& p, const Checks& check, const LiveLists& s, const ConvGeometry& g, const Tensor& like,
             const T* weight, WeightStrides strides, bool pack) {
  const int64_t pixels = SNN_SPARSE_KERNELS(conv_kernels, T).max_tile_pixels(g.source.V, g.stride);
  p.plan = plan_tiles(g, s.taps, pixels, pack);
  const int64_t block_channels = (s.channel_count + s.blocks - 1) / s.blocks;
  plan_bands(p.plan, g, s.taps, tiles_per_band(g, p.plan, pixels, block_channels, sizeof(T)), pack);
  p.task.lists = &s, p.task.geometry = &g, p.task.plan = &p.plan, p.task.filter_parts = 1;
  check(p.task.box_elements() < INT32_MAX, "one group of the source is too large for 32 bit offsets");
  p.offsets = torch::stable::new_empty(like, {s.live}, ScalarType::Int);
  if (weight) p.values = torch::stable::new_empty(like, {s.live});
  p.task.offsets = data<int32_t>(p.offsets), p.task.values = weight ? data<T>(p.values) : nullptr;
  p.work = s.live / s.tap_count * static_cast<int64_t>(p.plan.segments.size()) * pixels * g.source.V * g.source.groups();
  std::atomic<bool> consistent{true};
  const int64_t rows = s.blocks * s.filters, grain = 1 + rows * 8192 / (s.live + s.tap_count * rows + 1);
  torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    if (!gather_weights<T>(s, p.plan, strides, weight, data<int32_t>(p.offsets), weight ? data<T>(p.values) : nullptr,
                           begin, end))
      consistent = false;
  });
  check(consistent, "the entries of channels or pointers are not consistent with the weight");
}

// Runs a forward (or input gradient) task.
template <class T>
void run_forward(PreparedConv<T>& p, const Checks& check, const T* source, T* destination, const T* bias) {
  const int64_t threads = torch::stable::get_num_threads();
  p.task.source = source, p.task.destination = destination, p.task.bias = bias;
  const int64_t wanted = threads > 1 ? 8 * threads : 1;  // so that no thread is left with a group more
  p.task.filter_parts =
      std::clamp<int64_t>((wanted + p.task.units() - 1) / p.task.units(), 1, 1 + p.task.geometry->destination.C / 16);
  const int64_t units = p.task.units(), workers = p.work < kSerialWork ? 1 : std::min(threads, units);
  const int64_t chunk = std::max<int64_t>(1, units / (8 * workers));
  const auto& kernels = SNN_SPARSE_KERNELS(conv_kernels, T);
  share_units<T>(check, workers, units, chunk, p.task.box_elements(), 0,
                 [&](const Scratch<T>& scratch, int64_t begin, int64_t end) {
                   kernels.forward(p.task, scratch.box(), begin, end);
                 });
}

// Forward and input gradient; checks the geometry.
Tensor gather_convolution(const Checks& check, const ConvGeometry& g, const Tensor& source, const Tensor& weight,
                          const OptionalTensor& bias, const ListTensors& tensors, bool pack) {
  check_geometry(check, g);
  const LiveLists s = read_lists(check, tensors, g);
  const int64_t inputs = weight.size(1) * g.taps();
  const WeightStrides strides = g.transposed ? WeightStrides{g.taps(), inputs} : WeightStrides{inputs, g.taps()};
  Tensor out = new_lanes(source, g.destination);
  dispatch_floating(source, [&](auto zero) {
    using T = decltype(zero);
    PreparedConv<T> p;
    prepare<T>(p, check, s, g, source, data<T>(weight), strides, pack);
    run_forward<T>(p, check, data<T>(source), data<T>(out), data<T>(bias));
  });
  return out;
}

// live_convolution(Tensor x, Tensor weight, Tensor? bias, Tensor channels, Tensor pointers, Tensor taps, int stride,
//                  int padding, bool pack) -> Tensor
//   x        lanes [G, Cin, H, W, 8 V]
//   weight   dense [Cout, Cin, kh, kw]; only live entries are read
//   channels, pointers, taps  of the mask's live weights, transposed = false
//   pack     copy the source of a band and channel block into a packed box with zero borders (use with rows_outermost)
//   returns  lanes [G, Cout, Ho, Wo, 8 V]; padding lanes hold the bias
Tensor live_convolution(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, const Tensor& channels,
                        const Tensor& pointers, const Tensor& taps, int64_t stride, int64_t padding, bool pack) {
  const Checks check("live_convolution");
  check.floating(x, "x");
  ConvGeometry g = window(check, weight, x.scalar_type(), "weight", stride, padding, false);
  g.source = lanes_shape(check, x, x.scalar_type(), "x");
  check(weight.size(1) == g.source.C, "weight must have as many channels as x");
  g.destination = like_shape(g.source, weight.size(0), (g.source.H + 2 * padding - g.kernel_h) / stride + 1,
                             (g.source.W + 2 * padding - g.kernel_w) / stride + 1);
  check.channels(bias, x.scalar_type(), g.destination.C, "bias");
  return gather_convolution(check, g, x, weight, bias, {channels, pointers, taps}, pack);
}

// live_convolution_grad_input(Tensor grad, Tensor weight, Tensor channels, Tensor pointers, Tensor taps, int height,
//                             int width, int stride, int padding, bool pack) -> Tensor
//   grad           lanes [G, Cout, Ho, Wo, 8 V], gradient of the output
//   channels, pointers, taps  of the mask's live weights, transposed = true
//   height, width  of the input
//   returns        lanes [G, Cin, height, width, 8 V]
Tensor live_convolution_grad_input(const Tensor& grad, const Tensor& weight, const Tensor& channels,
                                   const Tensor& pointers, const Tensor& taps, int64_t height, int64_t width,
                                   int64_t stride, int64_t padding, bool pack) {
  const Checks check("live_convolution_grad_input");
  check.floating(grad, "grad");
  ConvGeometry g = window(check, weight, grad.scalar_type(), "weight", stride, padding, true);
  g.source = lanes_shape(check, grad, grad.scalar_type(), "grad");
  check(weight.size(0) == g.source.C, "weight must have as many filters as grad has channels");
  g.destination = like_shape(g.source, weight.size(1), height, width);
  return gather_convolution(check, g, grad, weight, {}, {channels, pointers, taps}, pack);
}

template <class T>
void run_weight_gradient(PreparedConv<T>& p, const Checks& check, const LiveLists& s, const T* x, const T* grad,
                         const WeightGradientOutput<T>& out) {
  p.task.source = x;
  p.task.destination = const_cast<T*>(grad);  // only read in this direction
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t workers = p.work < kSerialWork ? 1 : std::min(threads, s.filters);
  const int64_t parts = workers;  // more parts would balance better, but each part reads the whole input again
  const auto& kernels = SNN_SPARSE_KERNELS(conv_kernels, T);
  share_units<T>(check, workers, parts, 1, p.task.box_elements(), partial_elements(s, sizeof(T)),
                 [&](const Scratch<T>& scratch, int64_t begin, int64_t end) {
                   kernels.weight_gradient(p.task, out, scratch.box(), scratch.partial(), balanced_filter(s, begin, parts),
                                           balanced_filter(s, end, parts));
                 });
}

// live_convolution_grad_weight(Tensor x, Tensor grad, Tensor channels, Tensor pointers, Tensor taps, Tensor(a!) out,
//                              int stride, int padding, bool with_bias, bool pack) -> Tensor
//   x, grad  lanes of the input and of the output's gradient; grad must be zero in padding lanes and vectors
//   channels, pointers, taps  of the mask's live weights, transposed = false
//   out      [Cout, Cin, kh, kw]: the gradient is written at live weights, pruned ones stay as they are
//   returns  the gradient of the bias [Cout] ([0] without with_bias)
Tensor live_convolution_grad_weight(const Tensor& x, const Tensor& grad, const Tensor& channels, const Tensor& pointers,
                                    const Tensor& taps, const Tensor& out, int64_t stride, int64_t padding,
                                    bool with_bias, bool pack) {
  const Checks check("live_convolution_grad_weight");
  check.floating(x, "x");
  ConvGeometry g = window(check, out, x.scalar_type(), "out", stride, padding, false);
  g.source = lanes_shape(check, x, x.scalar_type(), "x");
  g.destination = lanes_shape(check, grad, x.scalar_type(), "grad");
  check_geometry(check, g);
  check(out.size(0) == g.destination.C && out.size(1) == g.source.C, "out must be [Cout, Cin, kh, kw]");
  const LiveLists s = read_lists(check, {channels, pointers, taps}, g);
  Tensor bias_grad = torch::stable::new_empty(x, {with_bias ? s.filters : 0});
  dispatch_floating(x, [&](auto zero) {
    using T = decltype(zero);
    PreparedConv<T> p;
    const WeightStrides strides{s.channel_count * g.taps(), g.taps()};
    prepare<T>(p, check, s, g, x, nullptr, strides, pack);
    run_weight_gradient<T>(p, check, s, data<T>(x), data<T>(grad),
                           {data<T>(out), strides, with_bias ? data<T>(bias_grad) : nullptr});
  });
  return bias_grad;
}

}  // namespace
}  // namespace snn_sparse

STABLE_TORCH_LIBRARY_FRAGMENT(snn_sparse, m) {
  m.def(
      "live_convolution(Tensor x, Tensor weight, Tensor? bias, Tensor channels, Tensor pointers, Tensor taps, "
      "int stride, int padding, bool pack) -> Tensor");
  m.def(
      "live_convolution_grad_input(Tensor grad, Tensor weight, Tensor channels, Tensor pointers, Tensor taps, "
      "int height, int width, int stride, int padding, bool pack) -> Tensor");
  m.def(
      "live_convolution_grad_weight(Tensor x, Tensor grad, Tensor channels, Tensor pointers, Tensor taps, "
      "Tensor(a!) out, int stride, int padding, bool with_bias, bool pack) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(snn_sparse, CPU, m) {
  m.impl("live_convolution", TORCH_BOX(&snn_sparse::live_convolution));
  m.impl("live_convolution_grad_input", TORCH_BOX(&snn_sparse::live_convolution_grad_input));
  m.impl("live_convolution_grad_weight", TORCH_BOX(&snn_sparse::live_convolution_grad_weight));
}
