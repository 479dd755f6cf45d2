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

// The sizes of blocks and tiles, once it is known what a lane is.
inline Plan cut_plan(Plan p, const Problem& q, bool shared_lines, int64_t scalar_bytes) {
  p.channel_block = shared_lines ? clamp(q.C, 1, kMaxChannelBlock) : 1;
  p.blocks = (q.C + p.channel_block - 1) / p.channel_block;
  const int64_t at_once = p.lanes == LaneKind::channels ? p.slots() : shared_lines ? kChannelsOfLine : 1;
  const int64_t vectors = clamp(kHistory / (q.T * at_once), 8, kTileVectors);
  const int64_t row_vectors = p.lanes == LaneKind::pixels ? (q.W + kLanes - 1) / kLanes : q.W;
  if (p.lanes == LaneKind::pixels && !q.pool) {
    p.tile_pixels = p.tile_scalars = vectors * kLanes;
  } else {
    int64_t rows = clamp(vectors / row_vectors, 1, q.H);
    if (q.pool && rows % 2 && rows < q.H) ++rows;  // a window must not straddle tiles
    p.tile_pixels = rows * q.W;
    p.tile_scalars = p.lanes == LaneKind::pixels ? p.tile_pixels : p.tile_pixels * kLanes;
  }
  const int64_t groups = p.lanes == LaneKind::samples ? (q.B + kLanes - 1) / kLanes : q.B;
  const int64_t tiles_of_block = groups * ((q.H * q.W + p.tile_pixels - 1) / p.tile_pixels);
  p.parts = shared_lines ? clamp((kUnits + p.blocks - 1) / p.blocks, 1, tiles_of_block) : 1;
  // Backward needs 3 T + 8 tiles a vector of channels (h and both inputs of all steps), one more, and two small tables.
  const int64_t tiles = (3 * q.T + 9) * p.slots() + 1;
  p.workspace = tiles * p.tile_scalars * scalar_bytes + p.slots() * q.T * 2 * 3 * kLanes * scalar_bytes + 64 * 32;
  p.workspace = (p.workspace + 63) / 64 * 64;
  return p;
}

// layouts: of every tensor the call touches. Channels last, samples may become rows of one tall map.
inline Plan make_plan(Problem& q, const Layout* layouts, int count, int64_t scalar_bytes) {
  const int64_t pixels = q.H * q.W;
  bool lanes = false, shared_lines = false, channels_last = q.C % kLanes == 0;
  for (int i = 0; i < count; ++i) {
    lanes |= layouts[i].kind == LayoutKind::lanes;
    shared_lines |= layouts[i].kind == LayoutKind::nhwc || (layouts[i].kind == LayoutKind::nchw && pixels < 16);
    channels_last &= layouts[i].kind == LayoutKind::nhwc;
  }
  Plan p;
  // Small maps and pooled rows that are no multiple of 8 would leave lanes of pixels idle.
  const bool samples = lanes || pixels < 16 || (pixels <= 64 && q.B >= kLanes) || (q.pool && q.W % kLanes != 0);
  p.lanes = channels_last ? LaneKind::channels : samples ? LaneKind::samples : LaneKind::pixels;
  if (channels_last && !(q.pool && q.H % 2)) q.H *= q.B, q.B = 1;
  return cut_plan(p, q, shared_lines, scalar_bytes);
}

}  // namespace snn_sparse
