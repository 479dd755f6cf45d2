// Spikes as one bit each, for what waits for the backward pass.
#include <cstring>

#include "common/checks.h"

namespace snn_sparse {
namespace {

constexpr int64_t kGrain = 16 * 1024;  // bytes of bits a thread should have at least

// All 256 bytes as eight scalars.
template <class T>
struct ByteTable {
  T lanes[256][kLanes];
  ByteTable() {
    for (int byte = 0; byte < 256; ++byte)
      for (int i = 0; i < kLanes; ++i) lanes[byte][i] = T(byte >> i & 1);
  }
};

// pack_bits(Tensor x) -> Tensor
//   x        contiguous, a multiple of 8 zeros and ones in the last dimension
//   returns  uint8, an eighth of that dimension; bit i of a byte is lane i
Tensor pack_bits(const Tensor& x) {
  const Checks check("pack_bits");
  check.floating(x, "x");
  check(x.is_contiguous() && x.dim() >= 1 && x.size(-1) % kLanes == 0, "x must be contiguous lanes");
  Sizes sizes(x.sizes().begin(), x.sizes().end());
  sizes.back() /= kLanes;
  const Tensor bits = torch::stable::new_empty(x, sizes, ScalarType::Byte);
  uint8_t* out = data<uint8_t>(bits);
  dispatch_floating(x, [&](auto zero) {
    using T = decltype(zero);
    const T* in = data<T>(x);
    torch::stable::parallel_for(0, bits.numel(), kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        unsigned byte = 0;
        for (int i = 0; i < kLanes; ++i) byte |= unsigned(in[k * kLanes + i] != T(0)) << i;
        out[k] = static_cast<uint8_t>(byte);
      }
    });
  });
  return bits;
}

// unpack_bits(Tensor bits, Tensor like) -> Tensor, of the dtype of like
Tensor unpack_bits(const Tensor& bits, const Tensor& like) {
  const Checks check("unpack_bits");
  check.dtype(bits, ScalarType::Byte, "bits");
  check.floating(like, "like");
  check(bits.is_contiguous() && bits.dim() >= 1, "bits must be contiguous");
  Sizes sizes(bits.sizes().begin(), bits.sizes().end());
  sizes.back() *= kLanes;
  const Tensor x = torch::stable::new_empty(like, sizes);
  const uint8_t* in = data<uint8_t>(bits);
  dispatch_floating(like, [&](auto zero) {
    using T = decltype(zero);
    static const ByteTable<T> table;
    T* out = data<T>(x);
    torch::stable::parallel_for(0, bits.numel(), kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) std::memcpy(out + k * kLanes, table.lanes[in[k]], sizeof(table.lanes[0]));
    });
  });
  return x;
}

}  // namespace
}  // namespace snn_sparse

STABLE_TORCH_LIBRARY_FRAGMENT(snn_sparse, m) {
  m.def("pack_bits(Tensor x) -> Tensor");
  m.def("unpack_bits(Tensor bits, Tensor like) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(snn_sparse, CPU, m) {
  m.impl("pack_bits", TORCH_BOX(&snn_sparse::pack_bits));
  m.impl("unpack_bits", TORCH_BOX(&snn_sparse::unpack_bits));
}
