// The live weights of a mask, sorted for the convolutions that walk through them.
#include "common/checks.h"
#include "convolution/plan.h"

namespace snn_sparse {
namespace {

struct MaskShape {
  int64_t filters, channels, taps;        // of the direction asked for (transposed: filters = Cin)
  int64_t filter_stride, channel_stride;  // in the dense mask [Cout, Cin, kh, kw]
  int64_t blocks;                         // channel blocks of nearly equal size
};

// Fills channels [live] and pointers [blocks * filters * taps + 1]; taps: position -> ky * kernel_w + kx.
void fill_lists(const bool* mask, const MaskShape& shape, const std::vector<int32_t>& taps, int32_t* channels,
                int32_t* pointers) {
  int32_t k = 0;
  *pointers++ = 0;
  for (int64_t block = 0; block < shape.blocks; ++block) {
    const int64_t begin = block * shape.channels / shape.blocks, end = (block + 1) * shape.channels / shape.blocks;
    for (int64_t filter = 0; filter < shape.filters; ++filter) {
      for (int32_t tap : taps) {
        for (int64_t channel = begin; channel < end; ++channel) {
          if (mask[filter * shape.filter_stride + channel * shape.channel_stride + tap])
            channels[k++] = static_cast<int32_t>(channel);
        }
        *pointers++ = k;
      }
    }
  }
}

// live_index_lists(Tensor mask, int stride, int channel_block, bool transposed, bool rows_outermost) -> Tensor[]
//   mask            [Cout, Cin, kh, kw], bool, contiguous; kh, kw in 1..7
//   stride          of the convolution
//   channel_block   source channels a block (8..64), 0 for one block of all
//   transposed      false for forward and weight gradient, true for the input gradient
//   rows_outermost  order of the taps of a block: true goes with pack
//   returns         [channels int32 [live], pointers int32 [blocks * filters * kh * kw + 1], taps int32 [kh * kw]]
std::vector<Tensor> live_index_lists(const Tensor& mask, int64_t stride, int64_t channel_block, bool transposed,
                                     bool rows_outermost) {
  const Checks check("live_index_lists");
  check.contiguous(mask, ScalarType::Bool, 4, "mask");
  const int64_t cout = mask.size(0), cin = mask.size(1), kh = mask.size(2), kw = mask.size(3), elements = mask.numel();
  check(elements > 0 && kh <= kMaxKernel && kw <= kMaxKernel, "mask must not be empty, its kernels at most ", kMaxKernel,
        "x", kMaxKernel);
  check.range(stride, 1, kMaxStride, "stride");
  check(channel_block >= 0, "channel_block must not be negative");
  check(elements < INT32_MAX, "mask has too many weights for 32 bit indices");
  MaskShape shape{cout, cin, kh * kw, cin * kh * kw, kh * kw, 0};
  if (transposed) std::swap(shape.filters, shape.channels), std::swap(shape.filter_stride, shape.channel_stride);
  const int64_t block = channel_block == 0 ? shape.channels : std::min(channel_block, shape.channels);
  shape.blocks = (shape.channels + block - 1) / block;
  const int64_t pointers_size = shape.blocks * shape.filters * shape.taps + 1;
  check(pointers_size < INT32_MAX, "channel_block makes too many blocks");

  const bool* m = data<bool>(mask);
  const std::vector<int32_t> order = tap_order(kh, kw, stride, transposed, rows_outermost);
  Tensor channels = torch::stable::new_empty(mask, {std::count(m, m + elements, true)}, ScalarType::Int);
  Tensor pointers = torch::stable::new_empty(mask, {pointers_size}, ScalarType::Int);
  Tensor taps = torch::stable::new_empty(mask, {shape.taps}, ScalarType::Int);
  std::copy(order.begin(), order.end(), data<int32_t>(taps));
  fill_lists(m, shape, order, data<int32_t>(channels), data<int32_t>(pointers));
  return {channels, pointers, taps};
}

}  // namespace
}  // namespace snn_sparse

STABLE_TORCH_LIBRARY_FRAGMENT(snn_sparse, m) {
  m.def(
      "live_index_lists(Tensor mask, int stride, int channel_block, bool transposed, bool rows_outermost) -> Tensor[]");
}

STABLE_TORCH_LIBRARY_IMPL(snn_sparse, CPU, m) {
  m.impl("live_index_lists", TORCH_BOX(&snn_sparse::live_index_lists));
}
