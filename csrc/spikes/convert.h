// Conversion between strided [T, B, C, H, W] and the lanes layout: torch-free interface of the instruction set builds.
#pragma once

#include "common/dispatch.h"
#include "common/lanes.h"

namespace snn_sparse {

// Strides in elements of a logical [T, B, C, H, W] tensor; any values, 0 for a repeated static image too.
struct Strides5 {
  int64_t t, b, c, h, w;
};

template <class T>
struct ConvertKernels {
  // Planes [begin, end) of groups * C, padding written as zeros.
  void (*to_lanes)(const LanesShape&, const T* in, Strides5, T* lanes, int64_t begin, int64_t end);
  // Planes [begin, end) of groups * C into a tensor of the given strides; padding is not read.
  void (*from_lanes)(const LanesShape&, const T* lanes, T* out, Strides5, int64_t begin, int64_t end);
};

SNN_SPARSE_DECLARE_KERNELS(ConvertKernels, convert_kernels)

}  // namespace snn_sparse
