// Binding of the direct sparse convolution.
#include <atomic>

#include "conv_core.h"
#include "common/ops_common.h"
#include "share_units.h"

namespace snn_sparse {
namespace {

constexpr int64_t kSerialWork = 64 * 1024;  // vector multiply-adds below which threads cost more than they bring

// Checks all of a structure but the entries, which gather_weights checks where it reads them.
ConvStructure read_structure(const std::vector<Tensor>& tensors, int64_t filters, int64_t channel_count, int64_t taps) {
  STD_TORCH_CHECK(tensors.size() == 3, "a structure has three tensors: channels, pointers, taps");
  for (const Tensor& t : tensors) {
    check_cpu(t, "structure");
    STD_TORCH_CHECK(t.scalar_type() == ScalarType::Int, "a structure's tensors must be int32");
    check_contiguous(t, 1, "structure");
  }
  ConvStructure s;
  s.live = tensors[0].numel(), s.filters = filters, s.channel_count = channel_count, s.tap_count = taps;
  STD_TORCH_CHECK(tensors[2].numel() == taps, "the structure does not fit the kernel");
  const int64_t rows = tensors[1].numel() - 1;
  STD_TORCH_CHECK(rows > 0 && rows % (filters * taps) == 0 && rows / (filters * taps) <= channel_count,
                  "the structure does not fit the number of filters");
  s.blocks = rows / (filters * taps);
  s.channels = data<int32_t>(tensors[0]), s.pointers = data<int32_t>(tensors[1]);
  s.taps = data<int32_t>(tensors[2]);
  uint64_t seen = 0;
  for (int64_t i = 0; i < taps; ++i) {
    STD_TORCH_CHECK(s.taps[i] >= 0 && s.taps[i] < taps, "the structure's taps are not a permutation");
    seen |= uint64_t(1) << s.taps[i];
  }
  STD_TORCH_CHECK(seen == (uint64_t(1) << taps) - 1, "the structure's taps are not a permutation");
  STD_TORCH_CHECK(s.pointers[0] == 0 && s.pointers[rows] == s.live, "the structure's pointers do not fit its live weights");
  return s;
}

// ---- what the three directions share --------------------------------------------------------------------------------

LanesShape like_shape(const LanesShape& s, int64_t channels, int64_t h, int64_t w, int64_t halo) {
  LanesShape out = s;
  out.C = channels, out.H = h, out.W = w, out.halo = halo;
  return out;
}

void check_geometry(const ConvGeometry& g) {
  const char* problem = geometry_problem(g);
  STD_TORCH_CHECK(problem == nullptr, problem ? problem : "");
}

void check_window(int64_t kernel_h, int64_t kernel_w, int64_t stride, int64_t padding, int64_t halo) {
  STD_TORCH_CHECK(kernel_h >= 1 && kernel_w >= 1 && kernel_h <= kMaxKernel && kernel_w <= kMaxKernel,
                  "kernel sizes must be in 1..7");
  STD_TORCH_CHECK(stride >= 1 && stride <= kMaxStride, "stride must be in 1..8");
  STD_TORCH_CHECK(padding >= 0 && padding <= kMaxPadding, "padding must be in 0..64");
  STD_TORCH_CHECK(halo >= 0 && halo <= kMaxHalo, "halo must be in 0..64");
}

// Plan parameters of a call: 0 leaves the choice to the op.
struct PlanOptions {
  int64_t tile;  // most pixels a register tile has
  int64_t band;  // tiles that share a source slab
  bool pack;     // copy the slab of a band and channel block into a packed box
};

template <class T>
struct PreparedConv {
  TilePlan plan;
  Tensor offsets, values;
  ConvTask<T> task{};
  int64_t work = 0;
};

template <class T>
const T* optional_data(const std::optional<Tensor>& t) {
  return t.has_value() ? data<T>(*t) : nullptr;
}

// Plans tiles and gathers offsets and values; raises if the structure is not consistent.
template <class T>
void prepare(PreparedConv<T>& p, const ConvStructure& s, const ConvGeometry& g, const Tensor& like, const T* weight,
             WeightStrides strides, PlanOptions options) {
  auto [tile, band, pack] = options;
  STD_TORCH_CHECK(tile >= 0 && band >= 0, "tile and band must not be negative");
  const int64_t limit = SNN_SPARSE_KERNELS(conv_kernels, T).max_tile_pixels(g.source.V, g.stride);
  const int64_t pixels = tile == 0 ? limit : std::min(tile, limit);
  p.plan = plan_tiles(g, s.taps, pixels, pack);
  const int64_t tiles = static_cast<int64_t>(p.plan.tiles.size());
  const int64_t block_channels = (s.channel_count + s.blocks - 1) / s.blocks;
  band = std::min(tiles, band ? band : default_tiles_per_band(g, p.plan, pixels, block_channels, sizeof(T)));
  plan_bands(p.plan, g, s.taps, band, pack);
  p.task.structure = &s, p.task.geometry = &g, p.task.plan = &p.plan, p.task.filter_parts = 1;
  STD_TORCH_CHECK(p.task.box_elements() < INT32_MAX, "one group of the source is too large for 32 bit offsets");
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
  STD_TORCH_CHECK(consistent, "the structure's entries are not consistent with the weight");
}

// Runs a forward (or input gradient) task and zeroes the destination's halo.
template <class T>
void run_forward(PreparedConv<T>& p, const T* source, T* destination, const T* bias) {
  const int64_t threads = torch::stable::get_num_threads();
  const LanesShape d = p.task.geometry->destination;
  p.task.source = source, p.task.destination = destination, p.task.bias = bias;
  const int64_t wanted = threads > 1 ? 8 * threads : 1;  // so that no thread is left with a group more
  p.task.filter_parts = std::clamp<int64_t>((wanted + p.task.units() - 1) / p.task.units(), 1, 1 + d.C / 16);
  const int64_t units = p.task.units(), workers = p.work < kSerialWork ? 1 : std::min(threads, units);
  const int64_t chunk = std::max<int64_t>(1, units / (8 * workers));
  const auto& kernels = SNN_SPARSE_KERNELS(conv_kernels, T);
  share_units<T>(workers, units, chunk, p.task.box_elements(), 0,
                 [&](const Scratch<T>& scratch, int64_t begin, int64_t end) {
                   kernels.forward(p.task, scratch.box(), begin, end);
                 });
  if (d.halo == 0) return;
  const int64_t planes = d.groups() * d.C, plane_grain = 1 + 32 * 1024 / d.channel_stride();
  torch::stable::parallel_for(0, planes, plane_grain,
                              [&](int64_t begin, int64_t end) { zero_halo(d, destination, begin, end); });
}

// ---- forward --------------------------------------------------------------------------------------------------------

// sparse_conv2d_forward(Tensor x, Tensor weight, Tensor? bias, Tensor[] structure, int stride, int padding, int halo_in,
//                       int halo_out, int tile=0, int band=0, bool pack=False) -> Tensor
//   x          lanes [G, Cin, H + 2 halo_in, W + 2 halo_in, 8 V]
//   weight     dense [Cout, Cin, kh, kw]; only live entries are read
//   structure  of the mask, transposed = false
//   tile       most pixels a register tile has, 0 for as many as fit;  band  tiles that share a source slab, 0 to choose
//   pack       copy that slab into a packed box with zero borders (use with rows_outermost)
//   returns    lanes [G, Cout, Ho + 2 halo_out, Wo + 2 halo_out, 8 V]; padding lanes hold the bias
Tensor sparse_conv2d_forward(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                             const std::vector<Tensor>& structure, int64_t stride, int64_t padding, int64_t halo_in,
                             int64_t halo_out, int64_t tile, int64_t band, bool pack) {
  check_floating(x, "x");
  check_like(weight, x, "weight");
  check_contiguous(weight, 4, "weight");
  ConvGeometry g;
  g.kernel_h = weight.size(2), g.kernel_w = weight.size(3), g.stride = stride, g.padding = padding;
  check_window(g.kernel_h, g.kernel_w, stride, padding, halo_out);
  g.source = lanes_shape(x, halo_in, "x");
  STD_TORCH_CHECK(weight.size(1) == g.source.C, "weight must have as many channels as x");
  STD_TORCH_CHECK(weight.size(0) >= 1, "weight must have at least one filter");
  g.destination = like_shape(g.source, weight.size(0), (g.source.H + 2 * padding - g.kernel_h) / stride + 1,
                             (g.source.W + 2 * padding - g.kernel_w) / stride + 1, halo_out);
  check_geometry(g);
  if (bias.has_value()) {
    check_like(*bias, x, "bias");
    check_contiguous(*bias, 1, "bias");
    STD_TORCH_CHECK(bias->size(0) == g.destination.C, "bias must have one value a filter");
  }
  const ConvStructure s = read_structure(structure, g.destination.C, g.source.C, g.taps());
  Tensor out = new_lanes(x, g.destination);
  dispatch_floating(x, [&](auto zero) {
    using T = decltype(zero);
    PreparedConv<T> p;
    prepare<T>(p, s, g, x, data<T>(weight), {g.source.C * g.taps(), g.taps()}, {tile, band, pack});
    run_forward<T>(p, data<T>(x), data<T>(out), optional_data<T>(bias));
  });
  return out;
}

// ---- gradient of the input ------------------------------------------------------------------------------------------

// sparse_conv2d_grad_input(Tensor grad, Tensor weight, Tensor[] structure, int height, int width, int stride, int padding,
//                          int halo_grad, int halo_in, int tile=0, int band=0, bool pack=False) -> Tensor
//   grad           lanes [G, Cout, Ho + 2 halo_grad, Wo + 2 halo_grad, 8 V], gradient of the output
//   structure      of the mask, transposed = true
//   height, width  of the input
//   returns        lanes [G, Cin, height + 2 halo_in, width + 2 halo_in, 8 V]
Tensor sparse_conv2d_grad_input(const Tensor& grad, const Tensor& weight, const std::vector<Tensor>& structure,
                                int64_t height, int64_t width, int64_t stride, int64_t padding, int64_t halo_grad,
                                int64_t halo_in, int64_t tile, int64_t band, bool pack) {
  check_floating(grad, "grad");
  check_like(weight, grad, "weight");
  check_contiguous(weight, 4, "weight");
  ConvGeometry g;
  g.kernel_h = weight.size(2), g.kernel_w = weight.size(3), g.stride = stride, g.padding = padding, g.transposed = true;
  check_window(g.kernel_h, g.kernel_w, stride, padding, halo_in);
  g.source = lanes_shape(grad, halo_grad, "grad");
  STD_TORCH_CHECK(weight.size(0) == g.source.C, "weight must have as many filters as grad has channels");
  STD_TORCH_CHECK(weight.size(1) >= 1, "weight must have at least one channel");
  g.destination = like_shape(g.source, weight.size(1), height, width, halo_in);
  check_geometry(g);
  const ConvStructure s = read_structure(structure, g.destination.C, g.source.C, g.taps());
  Tensor out = new_lanes(grad, g.destination);
  dispatch_floating(grad, [&](auto zero) {
    using T = decltype(zero);
    PreparedConv<T> p;
    prepare<T>(p, s, g, grad, data<T>(weight), {g.taps(), g.destination.C * g.taps()}, {tile, band, pack});
    run_forward<T>(p, data<T>(grad), data<T>(out), nullptr);
  });
  return out;
}

// ---- gradient of the weight -----------------------------------------------------------------------------------------

template <class T>
void run_weight_gradient(PreparedConv<T>& p, const ConvStructure& s, const T* x, const T* grad,
                         const WeightGradientOutput<T>& out) {
  p.task.source = x;
  p.task.destination = const_cast<T*>(grad);  // only read in this direction
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t workers = p.work < kSerialWork ? 1 : std::min(threads, s.filters);
  const int64_t parts = workers;  // more parts would balance better, but each part reads the whole input again
  const auto& kernels = SNN_SPARSE_KERNELS(conv_kernels, T);
  share_units<T>(workers, parts, 1, p.task.box_elements(), partial_elements(s, sizeof(T)),
                 [&](const Scratch<T>& scratch, int64_t begin, int64_t end) {
                   kernels.weight_gradient(p.task, out, scratch.box(), scratch.partial(), balanced_filter(s, begin, parts),
                                           balanced_filter(s, end, parts));
                 });
}

// sparse_conv2d_grad_weight(Tensor x, Tensor grad, Tensor[] structure, Tensor(a!) out, int stride, int padding,
//                           int halo_in, int halo_grad, bool with_bias, int tile=0, int band=0, bool pack=False) -> Tensor
//   x, grad    lanes of the input and of the output's gradient; grad must be zero in padding lanes and vectors
//   structure  of the mask, transposed = false
//   out        [Cout, Cin, kh, kw]: the gradient is written at live weights, pruned ones stay as they are
//   returns    the gradient of the bias [Cout] ([0] without with_bias)
Tensor sparse_conv2d_grad_weight(const Tensor& x, const Tensor& grad, const std::vector<Tensor>& structure,
                                 const Tensor& out, int64_t stride, int64_t padding, int64_t halo_in, int64_t halo_grad,
                                 bool with_bias, int64_t tile, int64_t band, bool pack) {
  check_floating(x, "x");
  check_like(grad, x, "grad");
  check_like(out, x, "out");
  check_contiguous(out, 4, "out");
  ConvGeometry g;
  g.kernel_h = out.size(2), g.kernel_w = out.size(3), g.stride = stride, g.padding = padding;
  check_window(g.kernel_h, g.kernel_w, stride, padding, halo_grad);
  g.source = lanes_shape(x, halo_in, "x");
  g.destination = lanes_shape(grad, halo_grad, "grad");
  check_geometry(g);
  STD_TORCH_CHECK(out.size(0) == g.destination.C && out.size(1) == g.source.C, "out must be [Cout, Cin, kh, kw]");
  const ConvStructure s = read_structure(structure, g.destination.C, g.source.C, g.taps());
  Tensor bias_grad = torch::stable::new_empty(x, {with_bias ? s.filters : 0});
  dispatch_floating(x, [&](auto zero) {
    using T = decltype(zero);
    PreparedConv<T> p;
    const WeightStrides strides{s.channel_count * g.taps(), g.taps()};
    prepare<T>(p, s, g, x, nullptr, strides, {tile, band, pack});
    run_weight_gradient<T>(p, s, data<T>(x), data<T>(grad),
                           {data<T>(out), strides, with_bias ? data<T>(bias_grad) : nullptr});
  });
  return bias_grad;
}

}  // namespace
}  // namespace snn_sparse

STABLE_TORCH_LIBRARY_FRAGMENT(snn_sparse, m) {
  m.def(
      "sparse_conv2d_forward(Tensor x, Tensor weight, Tensor? bias, Tensor[] structure, int stride, int padding, "
      "int halo_in, int halo_out, int tile=0, int band=0, bool pack=False) -> Tensor");
  m.def(
      "sparse_conv2d_grad_input(Tensor grad, Tensor weight, Tensor[] structure, int height, int width, int stride, "
      "int padding, int halo_grad, int halo_in, int tile=0, int band=0, bool pack=False) -> Tensor");
  m.def(
      "sparse_conv2d_grad_weight(Tensor x, Tensor grad, Tensor[] structure, Tensor(a!) out, int stride, int padding, "
      "int halo_in, int halo_grad, bool with_bias, int tile=0, int band=0, bool pack=False) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(snn_sparse, CPU, m) {
  m.impl("sparse_conv2d_forward", TORCH_BOX(&snn_sparse::sparse_conv2d_forward));
  m.impl("sparse_conv2d_grad_input", TORCH_BOX(&snn_sparse::sparse_conv2d_grad_input));
  m.impl("sparse_conv2d_grad_weight", TORCH_BOX(&snn_sparse::sparse_conv2d_grad_weight));
}
