// Walking over the tiles of a map, and the scratch memory of one worker.
#pragma once

#include "neuron/tensor_view.h"

namespace snn_sparse {
namespace SNN_SPARSE_ISA {

// All tiles of one channel at one step, in a fixed order. whole_maps: as large as can be, where no scratch memory is used.
class Tiles {
 public:
  Tiles(const Problem& q, const Plan& plan, bool whole_maps = false)
      : q_(q), lanes_(plan.lanes), step_(whole_maps ? q.H * q.W : plan.tile_pixels) {
    flat_ = plan.lanes == LaneKind::pixels && !q.pool;
    const int64_t pixels = q.H * q.W;
    full_ = flat_ ? pixels / kLanes * kLanes : pixels;
    per_map_ = (full_ + step_ - 1) / step_ + (full_ < pixels ? 1 : 0);
    const bool samples = lanes_ == LaneKind::samples;
    groups_ = samples ? (q.B + kLanes - 1) / kLanes : q.B;
  }

  int64_t count() const { return groups_ * per_map_; }
  // The first tile of a part; parts hold tiles in order, and the end of one is the beginning of the next.
  int64_t begin_of(int64_t part, int64_t parts) const { return part * count() / parts; }

  Span at(int64_t i) const {
    const int64_t group = i / per_map_, pixel = i % per_map_ * step_;
    const int64_t begin = smaller(pixel, full_);  // the last tile of a flat map holds the pixels behind full_
    const int64_t end = begin < full_ ? smaller(begin + step_, full_) : q_.H * q_.W;
    Span s;
    s.lanes = lanes_;
    s.sample = lanes_ == LaneKind::samples ? group * kLanes : group;
    const int64_t used = lanes_ == LaneKind::samples ? q_.B - s.sample : lanes_ == LaneKind::pixels ? end - begin : kLanes;
    s.valid = int(smaller<int64_t>(kLanes, used));
    s.pixel = begin;
    s.pixels = end - begin;
    s.row0 = flat_ ? 0 : begin / q_.W;
    s.rows = flat_ ? 1 : s.pixels / q_.W;
    s.columns = flat_ ? (s.pixels + kLanes - 1) / kLanes : lanes_ != LaneKind::pixels ? q_.W : q_.W / kLanes;
    return s;
  }

  // The part of the pooled map behind a tile; tiles start at even rows.
  Span pooled(const Span& s) const {
    if (!q_.pool) return s;
    Span p = s;
    p.row0 = s.row0 / 2;
    p.rows = s.rows / 2;
    p.pixel = p.row0 * (q_.W / 2);
    p.pixels = p.rows * (q_.W / 2);
    p.columns = s.pixels_apart() ? q_.W / 2 : 0;  // pooled pixels are addressed one by one
    return p;
  }

  // Scalars of one row of a tile in scratch memory.
  int64_t line(const Span& s) const { return s.columns * kLanes; }
  int64_t pooled_line(const Span& s) const {
    return !q_.pool ? line(s) : q_.W / 2 * (s.pixels_apart() ? kLanes : 1);
  }

 private:
  const Problem& q_;
  LaneKind lanes_;
  bool flat_;
  int64_t step_, full_, per_map_, groups_;
};

// Hands out pieces of a worker's scratch memory.
class Arena {
 public:
  explicit Arena(char* memory) : next_(memory) {}
  template <class T>
  T* take(int64_t count) {
    T* piece = reinterpret_cast<T*>(next_);
    next_ += (count * int64_t(sizeof(T)) + 63) / 64 * 64;
    return piece;
  }

 private:
  char* next_;
};

template <class S>
inline Port<S> make_port(S* base, const Layout& layout, const Problem& q, const Plan& plan, int64_t steps, bool pooled,
                         Arena& arena, bool keep_steps = false) {
  Port<S> port;
  if (!base) return port;
  const int64_t H = pooled ? q.H / 2 : q.H, W = pooled ? q.W / 2 : q.W;
  port.view = View<S>(base, layout, q.B, q.C, H, W, steps, plan.lanes);
  port.channel_step = plan.tile_scalars;
  port.slot_step = keep_steps ? plan.slots() * plan.tile_scalars : 0;
  port.scratch = arena.take<S>(plan.slots() * plan.tile_scalars * (keep_steps ? steps : 1));
  return port;
}

// Copies rows of vectors; lanes outside the mask become zero.
template <class S>
inline void copy_rows(const Ref<S>& from, const Ref<S>& to, const Span& s, const Mask<S>& mask) {
  for (int64_t r = 0; r < s.rows; ++r)
    for (int64_t i = 0; i < s.columns; ++i)
      store(to.base + r * to.row + i * to.column, keep(mask, load(from.base + r * from.row + i * from.column)));
}

template <class S>
inline void fill(S* to, int64_t count, S value) {
  for (int64_t i = 0; i < count; ++i) to[i] = value;
}

}  // namespace SNN_SPARSE_ISA
}  // namespace snn_sparse
