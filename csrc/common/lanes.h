// The lanes layout: [T, B, C, H, W] stored as [G, C, H, W, 8 V], batch innermost.
//
// A vector holds 8 samples of one timestep: with Bv = ceil(B / 8), vector k = t * Bv + bv has sample b = bv * 8 + lane.
// Group g = k / V holds V vectors side by side; G = ceil(K / V) groups in all, K = T * Bv.
// Padding lanes (b >= B) and padding vectors (k >= K) are zero in what conversions and neurons write.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "common/codes.h"

namespace snn_sparse {

constexpr int64_t kMaxElements = int64_t(1) << 46;  // far above any memory, far below int64 overflow

struct LanesShape {
  int64_t T = 0, B = 0, C = 0, H = 0, W = 0;  // logical sizes
  int64_t V = 1;                              // vectors side by side, 1..8

  int64_t batch_vectors() const { return (B + kLanes - 1) / kLanes; }
  int64_t vectors() const { return T * batch_vectors(); }
  int64_t groups() const { return (vectors() + V - 1) / V; }

  // Strides in scalars.
  int64_t pixel_stride() const { return kLanes * V; }
  int64_t row_stride() const { return W * pixel_stride(); }
  int64_t channel_stride() const { return H * row_stride(); }
  int64_t group_stride() const { return C * channel_stride(); }

  // Scalar offset of lane 0 of vector 0 of group 0 at (c, y, x).
  int64_t offset(int64_t c, int64_t y, int64_t x) const {
    return c * channel_stride() + y * row_stride() + x * pixel_stride();
  }

  // nullptr if the shape can be stored, else what is wrong with it.
  const char* problem() const {
    if (T < 1 || B < 1 || C < 1 || H < 1 || W < 1) return "T, B, C, H and W must be at least 1";
    if (V < 1 || V > kMaxVectors) return "V must be in 1..8";
    int64_t total = kLanes * V;  // one factor at a time, so that nothing overflows
    for (int64_t factor : {T, B, C, H, W}) {
      if (factor > kMaxElements / total) return "the tensor is too large";
      total *= factor;
    }
    return nullptr;
  }
};

}  // namespace snn_sparse
