// Binding of the structure of a mask.
#include "conv_plan.h"
#include "conv_structure.h"
#include "common/ops_common.h"

namespace snn_sparse {
namespace {

// sparse_conv2d_structure(Tensor mask, int stride, int channel_block, bool transposed, bool rows_outermost) -> Tensor[]
//   mask            [Cout, Cin, kh, kw], bool, contiguous; kh, kw in 1..7
//   stride          of the convolution
//   channel_block   source channels a block (8..64), 0 for one block of all
//   transposed      false for forward and weight gradient, true for the input gradient
//   rows_outermost  order of the taps of a block: false for inputs without halo, true for halo >= padding
//   returns         [channels int32 [live], pointers int32 [blocks * filters * kh * kw + 1], taps int32 [kh * kw]]
std::vector<Tensor> sparse_conv2d_structure(const Tensor& mask, int64_t stride, int64_t channel_block, bool transposed,
                                            bool rows_outermost) {
  check_cpu(mask, "mask");
  STD_TORCH_CHECK(mask.scalar_type() == ScalarType::Bool, "mask must be a bool tensor");
  check_contiguous(mask, 4, "mask");
  const int64_t cout = mask.size(0), cin = mask.size(1), kh = mask.size(2), kw = mask.size(3), elements = mask.numel();
  STD_TORCH_CHECK(cout >= 1 && cin >= 1, "mask must have at least one filter and one channel");
  STD_TORCH_CHECK(kh >= 1 && kw >= 1 && kh <= kMaxKernel && kw <= kMaxKernel, "kernel sizes must be in 1..7");
  STD_TORCH_CHECK(stride >= 1 && stride <= kMaxStride, "stride must be in 1..8");
  STD_TORCH_CHECK(channel_block >= 0, "channel_block must not be negative");
  STD_TORCH_CHECK(elements < INT32_MAX, "the mask has too many weights for 32 bit indices");
  MaskShape shape{cout, cin, kh * kw, cin * kh * kw, kh * kw, 0};
  if (transposed) std::swap(shape.filters, shape.channels), std::swap(shape.filter_stride, shape.channel_stride);
  const int64_t block = channel_block == 0 ? shape.channels : std::min(channel_block, shape.channels);
  shape.blocks = (shape.channels + block - 1) / block;
  const int64_t pointers_size = shape.blocks * shape.filters * shape.taps + 1;
  STD_TORCH_CHECK(pointers_size < INT32_MAX, "too many channel blocks");

  const bool* m = data<bool>(mask);
  const int64_t live = count_live(m, elements);
  const std::vector<int32_t> order = tap_order(kh, kw, stride, transposed, rows_outermost);
  Tensor channels = torch::stable::new_empty(mask, {live}, ScalarType::Int);
  Tensor pointers = torch::stable::new_empty(mask, {pointers_size}, ScalarType::Int);
  Tensor taps = torch::stable::new_empty(mask, {shape.taps}, ScalarType::Int);
  std::copy(order.begin(), order.end(), data<int32_t>(taps));
  build_structure(m, shape, order, data<int32_t>(channels), data<int32_t>(pointers));
  return {channels, pointers, taps};
}

}  // namespace
}  // namespace snn_sparse

STABLE_TORCH_LIBRARY_FRAGMENT(snn_sparse, m) {
  m.def(
      "sparse_conv2d_structure(Tensor mask, int stride, int channel_block, bool transposed, bool rows_outermost) -> "
      "Tensor[]");
}

STABLE_TORCH_LIBRARY_IMPL(snn_sparse, CPU, m) {
  m.impl("sparse_conv2d_structure", TORCH_BOX(&snn_sparse::sparse_conv2d_structure));
}
