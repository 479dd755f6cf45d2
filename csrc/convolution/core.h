// Direct sparse convolution over the lanes layout: torch-free interface of the three instruction set builds.
#pragma once

#include <cstdint>

#include "common/dispatch.h"
#include "convolution/plan.h"

namespace snn_sparse {

// A mask's live weights, sorted by (channel block, filter, tap, channel). A filter is a destination channel, a channel a
// source channel. pointers has blocks * filters * taps + 1 entries; taps maps a tap position to ky * kernel_w + kx.
struct LiveLists {
  const int32_t* channels = nullptr;
  const int32_t* pointers = nullptr;
  const int32_t* taps = nullptr;
  int64_t live = 0, filters = 0, channel_count = 0, blocks = 1, tap_count = 1;

  // Blocks have nearly equal numbers of channels: block b is [block_begin(b), block_begin(b + 1)).
  int64_t block_begin(int64_t block) const { return block * channel_count / blocks; }
  int64_t segment(int64_t filter, int64_t block) const { return (block * filters + filter) * tap_count; }
};

// Where the dense weight [Cout, Cin, kh, kw] keeps (filter, channel, tap).
struct WeightStrides {
  int64_t filter, channel;
};

template <class T>
struct ConvTask {
  const LiveLists* lists;
  const ConvGeometry* geometry;
  const TilePlan* plan;
  const int32_t* offsets;      // of each live weight: channel * channel_stride + tap offset
  const T* values;             // of each live weight (forward), or null
  const T* source;
  T* destination;              // written by forward, only read by the weight gradient
  const T* bias;               // one value a filter, or null
  int64_t filter_parts;        // parts of the filters that may run on different threads

  int64_t bands() const { return static_cast<int64_t>(plan->bands.size()); }
  int64_t units() const { return geometry->source.groups() * bands() * filter_parts; }
  // Scalars of the packed box of the largest channel block.
  int64_t box_elements() const {
    const int64_t channels = (lists->channel_count + lists->blocks - 1) / lists->blocks;
    return plan->box.used ? plan->box.elements(channels, geometry->source.pixel_stride()) : 0;
  }
};

// Where the weight gradient goes; only live entries are written.
template <class T>
struct WeightGradientOutput {
  T* dense;
  WeightStrides strides;
  T* bias;               // gradient of the bias, or null
};

template <class T>
struct ConvKernels {
  int64_t (*max_tile_pixels)(int64_t vectors, int64_t source_step);
  // box: box_elements() zeros, aligned to 64 bytes. partial: partial_elements() scalars, aligned likewise.
  void (*forward)(const ConvTask<T>&, T* box, int64_t unit_begin, int64_t unit_end);
  void (*weight_gradient)(const ConvTask<T>&, const WeightGradientOutput<T>&, T* box, T* partial, int64_t filter_begin,
                          int64_t filter_end);
};

// Writes offsets (and values, unless null) of the (block, filter) rows [begin, end) of blocks * filters; false if the
// lists are not consistent.
template <class T>
bool gather_weights(const LiveLists& s, const TilePlan& plan, WeightStrides strides, const T* weight,
                    int32_t* offsets, T* values, int64_t begin, int64_t end);

constexpr int64_t kChunkLive = 2048;      // partial sums of a chunk of one block: 64 KiB of float vectors
constexpr int64_t kAllBlocksLive = 6144;  // up to here a chunk has all blocks: 192 KiB, still in the second level cache

// Scalars that the weight gradient's partial sums need (for any instruction set).
int64_t partial_elements(const LiveLists& s, int64_t scalar_bytes);

// Tiles a band should have so that the source slab of one channel block stays in the first level cache.
int64_t tiles_per_band(const ConvGeometry& geometry, const TilePlan& plan, int64_t max_pixels, int64_t block_channels,
                       int64_t scalar_bytes);

// First filter of part `part` of `parts`, parts having about equal work.
int64_t balanced_filter(const LiveLists& s, int64_t part, int64_t parts);

SNN_SPARSE_DECLARE_KERNELS(ConvKernels, conv_kernels)

}  // namespace snn_sparse
