#include "convolution/plan.h"

#include <algorithm>

namespace snn_sparse {
namespace {

int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

// One spatial dimension of a gather convolution.
struct Axis {
  int64_t kernel, stride, padding, source, destination;
  bool transposed;

  int64_t classes() const { return transposed ? stride : 1; }
  int64_t source_step() const { return transposed ? 1 : stride; }
  int64_t destination_step() const { return transposed ? stride : 1; }
  int64_t count(int64_t cls) const {  // destination pixels of a class
    return cls >= destination ? 0 : (destination - cls + classes() - 1) / classes();
  }
  int64_t tap_class(int64_t k) const { return transposed ? ((k - padding) % stride + stride) % stride : 0; }
  int64_t displacement(int64_t k) const {  // source pixel of destination pixel 0 of the tap's class
    return transposed ? floor_div(tap_class(k) + padding - k, stride) : k - padding;
  }
  bool inside(int64_t k, int64_t i) const {
    const int64_t s = source_step() * i + displacement(k);
    return s >= 0 && s < source;
  }
};

Axis row_axis(const ConvGeometry& g) {
  return {g.kernel_h, g.stride, g.padding, g.source.H, g.destination.H, g.transposed};
}
Axis column_axis(const ConvGeometry& g) {
  return {g.kernel_w, g.stride, g.padding, g.source.W, g.destination.W, g.transposed};
}

enum class Cover { none, all, all_but_first, all_but_last, other };

// Which of the pixels [i, i + pixels) the column tap k reaches; packed boxes have zeros beside the map.
Cover cover(const Axis& x, int64_t k, int64_t i, int64_t pixels, bool pack) {
  int64_t reached = 0;
  for (int64_t p = 0; p < pixels; ++p) reached += x.inside(k, i + p);
  if (reached == 0) return Cover::none;
  if (reached == pixels || pack) return Cover::all;
  if (reached != pixels - 1) return Cover::other;
  if (!x.inside(k, i)) return Cover::all_but_first;
  return x.inside(k, i + pixels - 1) ? Cover::other : Cover::all_but_last;
}

bool tile_fits(const Axis& x, int64_t cls, int64_t i, int64_t pixels, bool pack) {
  for (int64_t k = 0; k < x.kernel; ++k) {
    if (x.tap_class(k) == cls && cover(x, k, i, pixels, pack) == Cover::other) return false;
  }
  return true;
}

struct Span {
  int64_t begin, pixels;
};

// Splits a row of one class into spans of nearly equal length that the kernels can compute.
std::vector<Span> split_row(const Axis& x, int64_t cls, int64_t max_pixels, bool pack) {
  std::vector<Span> spans;
  const int64_t count = x.count(cls);
  for (int64_t i = 0; i < count;) {
    const int64_t left = count - i;
    int64_t pixels = (left + (left + max_pixels - 1) / max_pixels - 1) / ((left + max_pixels - 1) / max_pixels);
    while (pixels > 1 && !tile_fits(x, cls, i, pixels, pack)) --pixels;
    spans.push_back({i, pixels});
    i += pixels;
  }
  return spans;
}

// Adds the taps that the tile (row y of class (cy, cx), span) sees, merged to few segments, and what they read.
void append_segments(TilePlan& plan, Tile& tile, const ConvGeometry& g, const int32_t* taps, int64_t cy, int64_t cx,
                     int64_t y, Span span, bool pack) {
  const Axis rows = row_axis(g), columns = column_axis(g);
  std::vector<Segment>& segments = plan.segments;
  tile.segment_begin = static_cast<int32_t>(segments.size());
  for (int32_t position = 0; position < g.taps(); ++position) {
    const int64_t ky = taps[position] / g.kernel_w, kx = taps[position] % g.kernel_w;
    if (rows.tap_class(ky) != cy || columns.tap_class(kx) != cx || !rows.inside(ky, y)) continue;
    const Cover c = cover(columns, kx, span.begin, span.pixels, pack);
    if (c == Cover::none) continue;
    const Trim trim = c == Cover::all ? Trim::none : c == Cover::all_but_first ? Trim::first : Trim::last;
    const bool first = static_cast<int32_t>(segments.size()) == tile.segment_begin;
    const int32_t row = static_cast<int32_t>(tile.row + rows.displacement(ky));
    const int32_t column = static_cast<int32_t>(tile.column + columns.displacement(kx));
    const int32_t column_end = column + static_cast<int32_t>((span.pixels - 1) * columns.source_step()) + 1;
    tile.row_begin = first ? row : std::min(tile.row_begin, row);
    tile.row_end = first ? row + 1 : std::max(tile.row_end, row + 1);
    tile.column_begin = first ? column : std::min(tile.column_begin, column);
    tile.column_end = first ? column_end : std::max(tile.column_end, column_end);
    if (!first && segments.back().tap_end == position && segments.back().trim == trim) {
      segments.back().tap_end = position + 1;
    } else {
      segments.push_back({position, position + 1, trim});
    }
  }
  tile.segment_end = static_cast<int32_t>(segments.size());
}

// The box of source pixels that the tiles of a band read, clipped to the map.
Band band_of(const TilePlan& plan, const ConvGeometry& g, int64_t begin, int64_t end) {
  Band band{begin, end, g.source.H, 0, g.source.W, 0, 0};
  for (int64_t i = begin; i < end; ++i) {
    const Tile& t = plan.tiles[static_cast<size_t>(i)];
    if (t.segment_begin == t.segment_end) continue;
    band.row_begin = std::min<int64_t>(band.row_begin, t.row_begin);
    band.row_end = std::max<int64_t>(band.row_end, t.row_end);
    band.column_begin = std::min<int64_t>(band.column_begin, std::max(t.column_begin, 0));
    band.column_end = std::max<int64_t>(band.column_end, std::min<int64_t>(t.column_end, g.source.W));
    band.zero_columns = std::max<int64_t>(band.zero_columns, t.column_end - g.source.W);
  }
  if (band.row_end <= band.row_begin) band.row_begin = band.row_end = band.column_begin = band.column_end = 0;
  return band;
}

// Sizes the packed box for the largest band.
PackedBox box_of(const TilePlan& plan, int64_t pixel_stride) {
  PackedBox box;
  int64_t width = 0;
  for (const Tile& t : plan.tiles)
    if (t.segment_begin != t.segment_end) box.zeros = std::max<int64_t>(box.zeros, -t.column_begin);
  for (const Band& band : plan.bands) {
    box.zeros = std::max(box.zeros, band.zero_columns);
    box.rows = std::max(box.rows, band.row_end - band.row_begin);
    width = std::max(width, band.column_end - band.column_begin);
  }
  box.used = true;
  box.row_stride = (box.zeros + width) * pixel_stride;
  box.channel_stride = box.rows * box.row_stride;
  return box;
}

}  // namespace

const char* geometry_problem(const ConvGeometry& g) {
  const LanesShape& input = g.transposed ? g.destination : g.source;
  const LanesShape& output = g.transposed ? g.source : g.destination;
  if (const char* p = input.problem()) return p;
  if (input.H + 2 * g.padding < g.kernel_h || input.W + 2 * g.padding < g.kernel_w)
    return "the kernel is larger than the padded input";
  if (const char* p = output.problem()) return p;
  if (input.V != output.V || input.T != output.T || input.B != output.B)
    return "source and destination must have the same T, B and V";
  if (output.H != (input.H + 2 * g.padding - g.kernel_h) / g.stride + 1 ||
      output.W != (input.W + 2 * g.padding - g.kernel_w) / g.stride + 1)
    return "the output's size does not follow from input, kernel, stride and padding";
  const int64_t reach = (kMaxKernel + kMaxPadding) * (g.source.row_stride() + g.source.pixel_stride());
  if (g.source.group_stride() + reach > INT32_MAX) return "one group of the source is too large for 32 bit offsets";
  return nullptr;
}

std::vector<int32_t> tap_order(int64_t kernel_h, int64_t kernel_w, int64_t stride, bool transposed, bool rows_outermost) {
  std::vector<int32_t> order;
  const int64_t classes = transposed ? stride : 1;
  const int64_t outer = rows_outermost ? kernel_h : kernel_w, inner = rows_outermost ? kernel_w : kernel_h;
  for (int64_t a_class = 0; a_class < classes; ++a_class)  // a class's taps side by side, so that they merge to one segment
    for (int64_t b_class = 0; b_class < classes; ++b_class)
      for (int64_t a = a_class; a < outer; a += classes)
        for (int64_t b = b_class; b < inner; b += classes)
          order.push_back(static_cast<int32_t>(rows_outermost ? a * kernel_w + b : b * kernel_w + a));
  return order;
}

TilePlan plan_tiles(const ConvGeometry& g, const int32_t* taps, int64_t max_pixels, bool pack) {
  TilePlan plan;
  const Axis rows = row_axis(g), columns = column_axis(g);
  const LanesShape &s = g.source, &d = g.destination;
  const int64_t source_step = rows.source_step(), step = rows.destination_step();
  for (int64_t cy = 0; cy < rows.classes(); ++cy) {
    for (int64_t cx = 0; cx < columns.classes(); ++cx) {
      const std::vector<Span> spans = split_row(columns, cx, max_pixels, pack);
      for (int64_t y = 0; y < rows.count(cy); ++y) {
        for (const Span& span : spans) {
          Tile tile{};
          tile.row = static_cast<int32_t>(source_step * y), tile.column = static_cast<int32_t>(source_step * span.begin);
          tile.source = s.offset(0, tile.row, tile.column);
          tile.destination = d.offset(0, cy + step * y, cx + step * span.begin);
          tile.pixels = static_cast<int32_t>(span.pixels);
          append_segments(plan, tile, g, taps, cy, cx, y, span, pack);
          plan.tiles.push_back(tile);
        }
      }
    }
  }
  return plan;
}

void plan_bands(TilePlan& plan, const ConvGeometry& g, const int32_t* taps, int64_t tiles_per_band, bool pack) {
  const Axis rows = row_axis(g), columns = column_axis(g);
  const int64_t tiles = static_cast<int64_t>(plan.tiles.size()), pixel = g.source.pixel_stride();
  for (int64_t begin = 0; begin < tiles; begin += tiles_per_band) {
    const int64_t end = std::min(tiles, begin + tiles_per_band);
    std::stable_sort(plan.tiles.begin() + begin, plan.tiles.begin() + end,
                     [](const Tile& a, const Tile& b) { return a.pixels > b.pixels; });
    plan.bands.push_back(band_of(plan, g, begin, end));
  }
  if (pack) plan.box = box_of(plan, pixel);
  const int64_t row_stride = pack ? plan.box.row_stride : g.source.row_stride();
  plan.channel_stride = pack ? plan.box.channel_stride : g.source.channel_stride();
  for (int64_t position = 0; position < g.taps(); ++position) {
    const int64_t ky = taps[position] / g.kernel_w, kx = taps[position] % g.kernel_w;
    plan.tap_offset.push_back(rows.displacement(ky) * row_stride + columns.displacement(kx) * pixel);
  }
  if (!pack) return;
  for (const Band& band : plan.bands) {
    for (int64_t i = band.tile_begin; i < band.tile_end; ++i) {
      Tile& t = plan.tiles[static_cast<size_t>(i)];
      t.source = (t.row - band.row_begin) * row_stride + (plan.box.zeros + t.column - band.column_begin) * pixel;
    }
  }
}

}  // namespace snn_sparse
