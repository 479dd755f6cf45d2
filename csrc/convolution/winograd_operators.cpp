// The input's gradient by Winograd's minimal filtering as an operator of torch.
#include "common/checks.h"
#include "convolution/share_units.h"
#include "convolution/winograd.h"

namespace snn_sparse {
namespace {

constexpr int64_t kBlock = 48;  // tiles: the transformed weight is read again for each block
constexpr int64_t kMostElements = int64_t(1) << 40;

WinogradGeometry read_geometry(const Checks& check, const Tensor& grad, const Tensor& weight, int64_t height,
                               int64_t width, int64_t padding) {
  check.floating(grad, "grad");
  check.contiguous(grad, grad.scalar_type(), 4, "grad");
  check.contiguous(weight, grad.scalar_type(), 4, "weight");
  check(weight.size(2) == 3 && weight.size(3) == 3, "weight must be [Cout, Cin, 3, 3]");
  check(weight.size(0) == grad.size(3), "weight must have as many filters as grad has channels");
  check.range(padding, 0, 2, "padding");
  const WinogradGeometry g{grad.size(0), grad.size(3), grad.size(1), grad.size(2), weight.size(1), height, width, padding};
  check(grad.numel() > 0 && g.results > 0, "grad and weight must not be empty");
  check(g.height + 2 == height + 2 * padding && g.width + 2 == width + 2 * padding,
        "grad's size does not follow from height, width and padding");
  check(g.results <= kMostElements / (g.images * height * width), "the input is too large");
  return g;
}

// winograd_grad_input(Tensor grad, Tensor weight, int height, int width, int padding) -> Tensor
//   grad           of the output [images, Ho, Wo, Cout]
//   weight         [Cout, Cin, 3, 3]
//   height, width  of the input
//   returns        gradient of the input [images, height, width, Cin]
Tensor winograd_grad_input(const Tensor& grad, const Tensor& weight, int64_t height, int64_t width, int64_t padding) {
  const Checks check("winograd_grad_input");
  const WinogradGeometry g = read_geometry(check, grad, weight, height, width, padding);
  Tensor out = torch::stable::new_empty(grad, {g.images, height, width, g.results});
  dispatch_floating(grad, [&](auto zero) {
    using T = decltype(zero);
    const auto& kernels = SNN_SPARSE_KERNELS(winograd_kernels, T);
    const int64_t threads = torch::stable::get_num_threads();
    WinogradTask<T> task{g, 0, kernels.panel, data<T>(grad), data<T>(weight), nullptr, data<T>(out)};
    const int64_t blocks = (g.tiles() + kBlock * threads - 1) / (kBlock * threads) * threads;
    task.block = (g.tiles() + blocks - 1) / blocks;
    const Tensor packed = torch::stable::new_empty(grad, {task.packed_elements()});
    task.packed = data<T>(packed);
    torch::stable::parallel_for(0, g.sources, std::max<int64_t>(1, 8192 / g.results),
                                [&](int64_t begin, int64_t end) { kernels.pack_weight(task, begin, end); });
    const int64_t units = task.units();
    share_units<T>(check, std::min(threads, units), units, 1, 0, kernels.scratch(task),
                   [&](const Scratch<T>& scratch, int64_t begin, int64_t end) {
                     kernels.run(task, scratch.partial(), begin, end);
                   });
  });
  return out;
}

}  // namespace
}  // namespace snn_sparse

STABLE_TORCH_LIBRARY_FRAGMENT(snn_sparse, m) {
  m.def("winograd_grad_input(Tensor grad, Tensor weight, int height, int width, int padding) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(snn_sparse, CPU, m) {
  m.impl("winograd_grad_input", TORCH_BOX(&snn_sparse::winograd_grad_input));
}
