// Geometry of a direct sparse convolution: which taps each output tile sees, decided once per call outside the hot loops.
//
// Forward and input gradient are one "gather convolution": destination pixel (cy + os * y', cx + os * x') of class (cy, cx) reads
// source pixel (is * y' + dy, is * x' + dx) for each tap (ky, kx) of that class. Forward: os = 1, is = stride, one class.
// Input gradient: os = stride, is = 1, stride x stride classes (a tap belongs to the class of its parity).
#pragma once

#include <cstdint>
#include <vector>

#include "common/lanes.h"

namespace snn_sparse {

struct ConvGeometry {
  int64_t kernel_h = 1, kernel_w = 1, stride = 1, padding = 0;
  bool transposed = false;   // true: source is the output's gradient, destination the input's gradient
  LanesShape source, destination;

  int64_t taps() const { return kernel_h * kernel_w; }
  int64_t source_step() const { return transposed ? 1 : stride; }       // is
  int64_t destination_step() const { return transposed ? stride : 1; }  // os
};

// What a tile does with the taps of a segment: all of its pixels, all but the first, or all but the last.
enum class Trim : int32_t { none = 0, first = 1, last = 2 };

struct Segment {
  int32_t tap_begin, tap_end;  // positions in the lists' tap order
  Trim trim;
};

// `pixels` neighbouring destination pixels of a row, computed together in registers.
struct Tile {
  int64_t source;       // scalar offset of the pixel that tap offset 0 reads for pixel 0 (may be negative): in a group's slab,
                        // or in the band's packed box
  int64_t destination;  // scalar offset in a group's slab of channel 0
  int32_t pixels;
  int32_t segment_begin, segment_end;
  int32_t row, column;                // source pixel that tap displacement 0 reads for pixel 0
  int32_t row_begin, row_end;         // source rows read, all inside the map
  int32_t column_begin, column_end;   // source columns read, outside the map too where a packed box has zeros
};

// Neighbouring tiles that are computed for all filters before the next ones, and the box of source pixels they read.
struct Band {
  int64_t tile_begin, tile_end;
  int64_t row_begin, row_end, column_begin, column_end;  // inside the map
  int64_t zero_columns;                                  // columns right of the map that are read too
};

// A packed box keeps the source pixels of one band and channel block in one small piece of memory (no two channels fight for
// the same cache lines) with `zeros` zero pixels before every row, which serve the row before as its right border.
struct PackedBox {
  bool used = false;
  int64_t zeros = 0, rows = 0, row_stride = 0, channel_stride = 0;
  int64_t elements(int64_t channels, int64_t pixel_stride) const { return channels * channel_stride + zeros * pixel_stride; }
};

struct TilePlan {
  std::vector<Tile> tiles;
  std::vector<Segment> segments;
  std::vector<Band> bands;
  std::vector<int64_t> tap_offset;    // source offset of each tap in the lists' order, in scalars
  int64_t channel_stride = 0;         // scalars between the source's channels (of the packed box if used)
  PackedBox box;
};

// nullptr if the geometry (of a kernel, stride and padding in bounds) can be computed, else what is wrong with it.
const char* geometry_problem(const ConvGeometry& geometry);

// Tap order of live weights: positions -> ky * kernel_w + kx. Columns outermost (rows_outermost = false) makes each column
// of taps contiguous, which suits maps whose borders are skipped; rows outermost suits packed boxes.
std::vector<int32_t> tap_order(int64_t kernel_h, int64_t kernel_w, int64_t stride, bool transposed, bool rows_outermost);

// Splits every destination row into tiles of at most max_pixels pixels. `taps`: the lists' tap order. With `pack`, tiles
// may read columns outside the map, which the packed box fills with zeros.
TilePlan plan_tiles(const ConvGeometry& geometry, const int32_t* taps, int64_t max_pixels, bool pack);

// Groups the tiles to bands of tiles_per_band, sorted by pixels (a band then needs few calls), and lays out the packed box.
void plan_bands(TilePlan& plan, const ConvGeometry& geometry, const int32_t* taps, int64_t tiles_per_band, bool pack);

}  // namespace snn_sparse
