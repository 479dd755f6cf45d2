// Addressing: where the scalars of a tile lie in any of the three layouts. Kernels only ever see Ref: rows of vectors.
//
// A tile is a run of whole rows of one map (or, lanes = pixels and no pooling, any run of pixels) for 8 samples (lanes =
// samples) or for one sample (lanes = pixels or channels). Where a layout already holds 8 lanes side by side a Ref points straight
// into the tensor; else the tile is transposed through scratch memory, for all channels of a block at once.
#pragma once

#include "common/simd.h"
#include "neuron/types.h"

namespace snn_sparse {
namespace SNN_SPARSE_ISA {

template <class S>
struct Ref {
  S* base;
  int64_t row, column;  // distances in scalars between rows and between vectors of a row
};

// True if the rows follow each other as closely as the vectors of one row, so that a loop may run over all at once.
template <class S>
inline bool seamless(const Ref<S>& r, int64_t columns) {
  return r.base == nullptr || r.row == columns * r.column;
}

struct Span {
  LaneKind lanes;
  int64_t sample;         // first sample
  int valid;              // lanes that hold something, 1..8
  int64_t pixel, pixels;  // run of pixels of the map
  int64_t row0, rows;     // the same in rows
  int64_t columns;        // vectors per row
  bool full() const { return valid == kLanes; }
  bool pixels_apart() const { return lanes != LaneKind::pixels; }  // every vector belongs to one pixel
};

template <class S>
class View {
 public:
  View() = default;
  View(S* base, const Layout& layout, int64_t B, int64_t C, int64_t H, int64_t W, int64_t steps, LaneKind lanes)
      : base_(base), kind_(layout.kind), lanes_(lanes), B_(B), C_(C), H_(H), W_(W), steps_(steps),
        V_(layout.vectors) {}

  explicit operator bool() const { return base_ != nullptr; }

  // True if a Ref can point straight into the tensor: for all tiles but those with a part of a vector; for this tile.
  bool addressable() const {
    return kind_ == (lanes_ == LaneKind::samples    ? LayoutKind::lanes
                     : lanes_ == LaneKind::channels ? LayoutKind::nhwc
                                                    : LayoutKind::nchw);
  }
  bool direct(const Span& s) const { return addressable() && (lanes_ != LaneKind::pixels || s.full()); }
  int64_t width() const { return lanes_ == LaneKind::channels ? kLanes : 1; }  // channels of a vector

  Ref<S> ref(int64_t t, const Span& s, int64_t c) const {
    if (kind_ == LayoutKind::lanes)
      return {lanes_at(t, s.sample / kLanes, c, s.row0, 0), W_ * kLanes * V_, kLanes * V_};
    if (lanes_ == LaneKind::channels) return {plain_at(t, s.sample, c, s.pixel), W_ * C_, C_};
    return {plain_at(t, s.sample, c, s.pixel), W_, kLanes};
  }

  // Scratch memory of a tile: [channel][pixel][8] if lanes are samples, else [channel][pixel].
  void gather(int64_t t, const Span& s, int64_t c0, int64_t channels, S* to, int64_t channel_step) const;
  void scatter(int64_t t, const Span& s, int64_t c0, int64_t channels, const S* from, int64_t channel_step) const;

  // Zeros in the vectors behind the last one of channel c (lanes layout; nothing to do in the others).
  void clear_padding(int64_t c) const;

 private:
  S* lanes_at(int64_t t, int64_t bv, int64_t c, int64_t y, int64_t x) const {
    const int64_t k = t * ((B_ + kLanes - 1) / kLanes) + bv;
    const int64_t plane = (k / V_ * C_ + c) * H_;
    return base_ + (((plane + y) * W_ + x) * V_ + k % V_) * kLanes;
  }
  S* plain_at(int64_t t, int64_t b, int64_t c, int64_t pixel) const {
    const int64_t map = t * B_ + b;
    return base_ + (kind_ == LayoutKind::nchw ? (map * C_ + c) * H_ * W_ + pixel : (map * H_ * W_ + pixel) * C_ + c);
  }

  S* base_ = nullptr;
  LayoutKind kind_ = LayoutKind::nchw;
  LaneKind lanes_ = LaneKind::pixels;
  int64_t B_ = 0, C_ = 0, H_ = 0, W_ = 0, steps_ = 0, V_ = 1;
};

template <class S>
void View<S>::gather(int64_t t, const Span& s, int64_t c0, int64_t channels, S* to, int64_t channel_step) const {
  const int64_t image = C_ * H_ * W_;
  if (lanes_ == LaneKind::samples && kind_ == LayoutKind::nchw) {
    for (int64_t c = 0; c < channels; ++c)
      lanes_from_rows(plain_at(t, s.sample, c0 + c, s.pixel), image, s.valid, s.pixels, to + c * channel_step, kLanes);
  } else if (lanes_ == LaneKind::samples) {
    for (int64_t p = 0; p < s.pixels; ++p)
      lanes_from_rows(plain_at(t, s.sample, c0, s.pixel + p), image, s.valid, channels, to + p * kLanes, channel_step);
  } else if (kind_ == LayoutKind::nhwc) {
    for (int64_t p = 0; p < s.pixels; p += kLanes)
      lanes_from_rows(plain_at(t, s.sample, c0, s.pixel + p), C_, int(smaller<int64_t>(kLanes, s.pixels - p)), channels,
                      to + p, channel_step);
  } else {
    for (int64_t c = 0; c < channels; ++c) {
      S* tile = to + c * channel_step;
      __builtin_memcpy(tile, plain_at(t, s.sample, c0 + c, s.pixel), s.pixels * sizeof(S));
      for (int64_t p = s.pixels; p % kLanes; ++p) tile[p] = S(0);
    }
  }
}

template <class S>
void View<S>::scatter(int64_t t, const Span& s, int64_t c0, int64_t channels, const S* from,
                      int64_t channel_step) const {
  const int64_t image = C_ * H_ * W_;
  if (lanes_ == LaneKind::samples && kind_ == LayoutKind::nchw) {
    for (int64_t c = 0; c < channels; ++c)
      rows_from_lanes(from + c * channel_step, kLanes, s.valid, s.pixels, plain_at(t, s.sample, c0 + c, s.pixel), image);
  } else if (lanes_ == LaneKind::samples) {
    for (int64_t p = 0; p < s.pixels; ++p)
      rows_from_lanes(from + p * kLanes, channel_step, s.valid, channels, plain_at(t, s.sample, c0, s.pixel + p), image);
  } else if (kind_ == LayoutKind::nhwc) {
    for (int64_t p = 0; p < s.pixels; p += kLanes)
      rows_from_lanes(from + p, channel_step, int(smaller<int64_t>(kLanes, s.pixels - p)), channels,
                      plain_at(t, s.sample, c0, s.pixel + p), C_);
  } else {
    for (int64_t c = 0; c < channels; ++c)
      __builtin_memcpy(plain_at(t, s.sample, c0 + c, s.pixel), from + c * channel_step, s.pixels * sizeof(S));
  }
}

template <class S>
void View<S>::clear_padding(int64_t c) const {
  if (kind_ != LayoutKind::lanes) return;
  const int64_t K = steps_ * ((B_ + kLanes - 1) / kLanes), used = K % V_;  // vectors of the last group that hold a step
  if (used == 0) return;
  S* pixel = base_ + (K / V_ * C_ + c) * H_ * W_ * V_ * kLanes;
  for (int64_t i = 0; i < H_ * W_; ++i, pixel += V_ * kLanes)
    __builtin_memset(pixel + used * kLanes, 0, (V_ - used) * kLanes * sizeof(S));
}

// A view and the scratch memory it needs where its layout is not the one of the tiles: one slot, or one for each step
// of an input that is read twice.
template <class S>
struct Port {
  View<S> view;
  S* scratch = nullptr;
  int64_t channel_step = 0, slot_step = 0;

  explicit operator bool() const { return bool(view); }

  void load(int64_t t, const Span& s, int64_t c0, int64_t channels) const {
    if (!view.direct(s)) view.gather(t, s, c0, channels, scratch + t * slot_step, channel_step);
  }
  void flush(int64_t t, const Span& s, int64_t c0, int64_t channels) const {
    if (!view.direct(s)) view.scatter(t, s, c0, channels, scratch + t * slot_step, channel_step);
  }
  // Rows of vector c of the block behind channel c0, after load or before flush. line: scalars of one row in scratch memory.
  Ref<S> at(int64_t t, const Span& s, int64_t c0, int64_t c, int64_t line) const {
    if (!view.direct(s)) return {scratch + t * slot_step + c * channel_step, line, kLanes};
    return view.ref(t, s, c0 + c * view.width());
  }
};

}  // namespace SNN_SPARSE_ISA
}  // namespace snn_sparse
