// Cutting the work of the neuron into channel blocks and tiles. Nothing here depends on the number of threads, so
// results do not either.
#pragma once

#include "neuron/types.h"

namespace snn_sparse {

constexpr int64_t kChannelsOfLine = 16;  // channels sharing a cache line (float32)
constexpr int64_t kUnits = 32;           // units of work aimed at where blocks are few
constexpr int64_t kTileVectors = 64;   // most vectors of one tile of one channel ...
constexpr int64_t kHistory = 1024;     // ... and of its h over all steps (and the channels of a line): 32 KiB of float32

// Equal memory, better path: a 1x1 map is channels-last, a single channel is not.
inline Layout simplest(Layout layout, int64_t C, int64_t pixels) {
  if (layout.kind == LayoutKind::nhwc && C == 1) layout.kind = LayoutKind::nchw;
  if (layout.kind == LayoutKind::nchw && C > 1 && pixels == 1) layout.kind = LayoutKind::nhwc;
  return layout;
}

inline int64_t clamp(int64_t value, int64_t low, int64_t high) {
  return value < low ? low : value > high ? high : value;
}

// layouts: of every tensor the call touches.
inline Plan make_plan(const Problem& q, const Layout* layouts, int count, int64_t scalar_bytes) {
  const int64_t pixels = q.H * q.W;
  bool lanes = false, shared_lines = false;
  for (int i = 0; i < count; ++i) {
    lanes |= layouts[i].kind == LayoutKind::lanes;
    shared_lines |= layouts[i].kind == LayoutKind::nhwc || (layouts[i].kind == LayoutKind::nchw && pixels < 16);
  }
  Plan p;
  // Small maps and pooled rows that are no multiple of 8 would leave lanes idle.
  p.samples = lanes || pixels < 16 || (pixels <= 64 && q.B >= kLanes) || (q.pool && q.W % kLanes != 0);
  p.channel_block = shared_lines ? clamp(q.C, 1, kMaxChannelBlock) : 1;
  p.blocks = (q.C + p.channel_block - 1) / p.channel_block;
  const int64_t vectors = clamp(kHistory / (q.T * (shared_lines ? kChannelsOfLine : 1)), 8, kTileVectors);
  const int64_t row_vectors = p.samples ? q.W : (q.W + kLanes - 1) / kLanes;
  if (!p.samples && !q.pool) {
    p.tile_pixels = p.tile_scalars = vectors * kLanes;
  } else {
    int64_t rows = clamp(vectors / row_vectors, 1, q.H);
    if (q.pool && rows % 2 && rows < q.H) ++rows;  // a window must not straddle tiles
    p.tile_pixels = rows * q.W;
    p.tile_scalars = p.samples ? p.tile_pixels * kLanes : p.tile_pixels;
  }
  const int64_t groups = p.samples ? (q.B + kLanes - 1) / kLanes : q.B;
  const int64_t tiles_of_block = groups * ((pixels + p.tile_pixels - 1) / p.tile_pixels);
  p.parts = shared_lines ? clamp((kUnits + p.blocks - 1) / p.blocks, 1, tiles_of_block) : 1;
  // Backward needs 3 T + 8 tiles a channel (h and both inputs of all steps), one more, and four small tables.
  const int64_t tiles = (3 * q.T + 9) * p.channel_block + 1;
  p.workspace = tiles * p.tile_scalars * scalar_bytes + p.channel_block * q.T * 5 * 24 + 64 * 32;
  p.workspace = (p.workspace + 63) / 64 * 64;
  return p;
}

}  // namespace snn_sparse
