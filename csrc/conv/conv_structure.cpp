#include "conv_structure.h"

#include <cstddef>

namespace snn_sparse {

int64_t count_live(const bool* mask, int64_t elements) {
  int64_t live = 0;
  for (int64_t i = 0; i < elements; ++i) live += mask[i] ? 1 : 0;
  return live;
}

void build_structure(const bool* mask, const MaskShape& shape, const std::vector<int32_t>& taps, int32_t* channels,
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

}  // namespace snn_sparse
