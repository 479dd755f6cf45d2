// 2x2, stride 2 max-pool of spikes in one tile, and the way back: to the first maximum in row-major order.
#pragma once

#include "neuron/tiles.h"

namespace snn_sparse {
namespace SNN_SPARSE_ISA {

// spikes: compact rows of the tile. out: pooled rows; a last odd row or column is left out.
template <class S>
inline void pool_forward(const S* spikes, const Span& s, const Ref<S>& out) {
  const int64_t line = s.columns * kLanes;
  for (int64_t r = 0; r + 2 <= s.rows; r += 2) {
    const S *top = spikes + r * line, *bottom = top + line;
    S* to = out.base + r / 2 * out.row;
    if (s.pixels_apart()) {
      for (int64_t i = 0; i + 2 <= s.columns; i += 2) {
        const Pack<S> a = maximum(load(top + i * kLanes), load(top + (i + 1) * kLanes));
        const Pack<S> b = maximum(load(bottom + i * kLanes), load(bottom + (i + 1) * kLanes));
        store(to + i / 2 * out.column, maximum(a, b));
      }
    } else {
      for (int64_t j = 0; j < line / 2; ++j) {
        const S a = top[2 * j] > top[2 * j + 1] ? top[2 * j] : top[2 * j + 1];
        const S b = bottom[2 * j] > bottom[2 * j + 1] ? bottom[2 * j] : bottom[2 * j + 1];
        to[j] = a > b ? a : b;
      }
    }
  }
}

// h: compact potentials of the tile (a spike is h >= fires_at). to: compact gradient of the unpooled spikes.
template <class S>
inline void route_whole_pixels(const S* h, const Span& s, const Ref<S>& grad, const Pack<S>& fires_at, S* to) {
  const int64_t line = s.columns * kLanes;
  const Pack<S> zero(S(0));
  for (int64_t r = 0; r + 2 <= s.rows; r += 2)
    for (int64_t i = 0; i + 2 <= s.columns; i += 2) {
      const int64_t a = r * line + i * kLanes, b = a + kLanes, c = a + line, d = c + kLanes;
      const Mask<S> sa = load(h + a) >= fires_at, sb = load(h + b) >= fires_at;
      const Mask<S> sc = load(h + c) >= fires_at, sd = load(h + d) >= fires_at;
      const Pack<S> g = load(grad.base + r / 2 * grad.row + i / 2 * grad.column);
      const Pack<S> d_only = select(sd, g, zero), not_b = select(sc, zero, d_only);
      store(to + d, select(sa, zero, select(sb, zero, not_b)));
      store(to + c, select(sa, zero, select(sb, zero, select(sc, g, zero))));
      store(to + b, select(sa, zero, select(sb, g, zero)));
      const Pack<S> silent = select(sb, zero, select(sc, zero, select(sd, zero, g)));  // a tie of zeros goes to the first
      store(to + a, select(sa, g, silent));
    }
}

template <class S>
inline void route_pixels(const S* h, const Span& s, const Ref<S>& grad, const Pack<S>& fires_at, S* to) {
  const int64_t line = s.columns * kLanes;
  const S parity[kLanes] = {1, -1, 1, -1, 1, -1, 1, -1};
  const Mask<S> left = load(parity) >= Pack<S>(S(0)), right = ~left;
  for (int64_t r = 0; r + 2 <= s.rows; r += 2) {
    const S *top = h + r * line, *bottom = top + line, *from = grad.base + r / 2 * grad.row;
    S *to_top = to + r * line, *to_bottom = to_top + line;
    for (int64_t j = 0; j < line / 2; ++j) to_top[2 * j] = to_top[2 * j + 1] = from[j];
    for (int64_t i = 0; i < line; i += kLanes) {
      const Pack<S> g = load(to_top + i);
      const Mask<S> up = load(top + i) >= fires_at, down = load(bottom + i) >= fires_at;
      const Mask<S> beside = swap_pairs(up), either = up | beside, any = either | down | swap_pairs(down);
      // Left before right, top before bottom; where nobody spiked the top left one is the first maximum.
      store(to_top + i, keep((left & (up | ~any)) | (right & up & ~beside), g));
      store(to_bottom + i, keep(down & ~either & (left | ~swap_pairs(down)), g));
    }
  }
}

template <class S>
inline void pool_backward(const S* h, const Span& s, const Ref<S>& grad, const Pack<S>& fires_at, S* to) {
  const bool odd = s.rows % 2 || (s.pixels_apart() && s.columns % 2);
  if (odd) fill(to, s.rows * s.columns * kLanes, S(0));  // left-out rows and columns have no gradient
  if (s.pixels_apart())
    route_whole_pixels(h, s, grad, fires_at, to);
  else
    route_pixels(h, s, grad, fires_at, to);
}

}  // namespace SNN_SPARSE_ISA
}  // namespace snn_sparse
