// Building the structure of a mask: its live weights sorted for the direct sparse convolution.
#pragma once

#include <cstdint>
#include <vector>

namespace snn_sparse {

struct MaskShape {
  int64_t filters, channels, taps;               // of the direction asked for (transposed: filters = Cin)
  int64_t filter_stride, channel_stride;         // in the dense mask [Cout, Cin, kh, kw]
  int64_t blocks;                                // channel blocks of nearly equal size
};

int64_t count_live(const bool* mask, int64_t elements);

// Fills channels [live] and pointers [blocks * filters * taps + 1]; taps: position -> ky * kernel_w + kx.
void build_structure(const bool* mask, const MaskShape& shape, const std::vector<int32_t>& taps, int32_t* channels,
                     int32_t* pointers);

}  // namespace snn_sparse
