// Spike-driven convolution, channels last: weights (or gradients) are added up where a spike is, nothing is multiplied.
// Torch-free interface of the three instruction set builds.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/codes.h"
#include "common/dispatch.h"

namespace snn_sparse {

struct SpikeGeometry {
  int64_t images, channels, height, width;         // of the spikes, one bit each: [images, height, width, channels]
  int64_t filters, out_height, out_width;          // of the output [images, out_height, out_width, filters]
  int64_t kernel_h, kernel_w, stride, padding;

  int64_t taps() const { return kernel_h * kernel_w; }
};

// How many output channels are worked on at once, and how a thread's memory is cut, for one instruction set.
struct SpikeTiling {
  int64_t block;     // output channels of a block; the last one has the rest
  int64_t lane;      // scalars of a register: blocks are padded to a multiple
  int64_t tile;      // forward: input channels whose weights for one kernel row stay in the first level cache
  int64_t rows;      // output rows of a band
  int64_t images;    // of a band, more than 1 only if it has all their rows
  int64_t parts;     // of the blocks (forward) or of the input channels (weight gradient) that may run on other threads

  int64_t row_bands(const SpikeGeometry& g) const { return (g.out_height + rows - 1) / rows; }
  int64_t bands(const SpikeGeometry& g) const { return (g.images + images - 1) / images * row_bands(g); }
  int64_t blocks(int64_t filters) const { return (filters + block - 1) / block; }
  int64_t tiles(int64_t channels) const { return (channels + tile - 1) / tile; }
  // Scalars that a filter takes in block `b`.
  int64_t width(int64_t filters, int64_t b) const {
    return (std::min(block, filters - b * block) + lane - 1) / lane * lane;
  }
};

template <class T>
struct SpikeTask {
  SpikeGeometry geometry;
  SpikeTiling tiling;
  const uint8_t* bits;
  int64_t bytes;          // of bits
  const T* weight;        // forward: [filters, channels, kernel_h, kernel_w]
  T* packed;              // forward: the weight, [block][tile][ky][kx][channel of the tile][filter of the block]
  const T* bias;          // forward: one a filter, or null
  T* output;              // forward
  const T* grad;          // weight gradient: of the output
  T* grad_weight;         // [filters, channels, kernel_h, kernel_w]
  T* grad_bias;           // or null

  int64_t packed_elements() const {
    const int64_t blocks = tiling.blocks(geometry.filters);
    return ((blocks - 1) * tiling.block + tiling.width(geometry.filters, blocks - 1)) * geometry.taps() *
           tiling.tiles(geometry.channels) * tiling.tile;
  }
  int64_t forward_units() const { return tiling.bands(geometry) * tiling.parts; }
  int64_t gradient_units() const { return tiling.blocks(geometry.filters) * tiling.parts; }
};

template <class T>
struct SpikeKernels {
  SpikeTiling (*forward_tiling)(const SpikeGeometry&, int64_t threads);
  SpikeTiling (*gradient_tiling)(const SpikeGeometry&, int64_t threads);
  // Scalars of scratch memory, aligned to 64 bytes, that a thread needs.
  int64_t (*forward_scratch)(const SpikeTask<T>&);
  int64_t (*gradient_scratch)(const SpikeTask<T>&);
  void (*pack_weight)(const SpikeTask<T>&, int64_t channel_begin, int64_t channel_end);
  void (*forward)(const SpikeTask<T>&, T* scratch, int64_t unit_begin, int64_t unit_end);
  void (*weight_gradient)(const SpikeTask<T>&, T* scratch, int64_t unit_begin, int64_t unit_end);
};

SNN_SPARSE_DECLARE_KERNELS(SpikeKernels, spike_kernels)

}  // namespace snn_sparse
