// Gradient of the input of a 3x3 convolution of stride 1, channels last, by Winograd's minimal filtering F(2x2, 3x3)
// (Lavin and Gray, CVPR 2016): 16 products for 2x2 results instead of 36. Torch-free interface of the three builds.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/dispatch.h"

namespace snn_sparse {

constexpr int64_t kWinogradProducts = 16;

struct WinogradGeometry {
  int64_t images, sources, height, width;     // of the output's gradient [images, height, width, sources]
  int64_t results, in_height, in_width;       // of the input's gradient [images, in_height, in_width, results]
  int64_t padding;                            // of the convolution, 0 to 2

  int64_t tile_rows() const { return (in_height + 1) / 2; }
  int64_t tile_columns() const { return (in_width + 1) / 2; }
  int64_t tiles() const { return images * tile_rows() * tile_columns(); }
};

template <class T>
struct WinogradTask {
  WinogradGeometry geometry;
  int64_t block;        // tiles that are worked on at once
  int64_t panel;        // results that are worked on at once: the last panel of `packed` is padded with zeros
  const T* grad;
  const T* weight;      // [sources, results, 3, 3]
  T* packed;            // transformed weight [16][panel][source][result of the panel]
  T* out;

  int64_t panels() const { return (geometry.results + panel - 1) / panel; }
  int64_t packed_elements() const { return kWinogradProducts * panels() * geometry.sources * panel; }
  int64_t units() const { return (geometry.tiles() + block - 1) / block; }
};

template <class T>
struct WinogradKernels {
  int64_t panel;
  // Scalars of scratch memory, aligned to 64 bytes, that a thread needs.
  int64_t (*scratch)(const WinogradTask<T>&);
  void (*pack_weight)(const WinogradTask<T>&, int64_t source_begin, int64_t source_end);
  void (*run)(const WinogradTask<T>&, T* scratch, int64_t unit_begin, int64_t unit_end);
};

SNN_SPARSE_DECLARE_KERNELS(WinogradKernels, winograd_kernels)

}  // namespace snn_sparse
