// The two passes of batch norm that only read or write one input, on channels-last tensors as they lie: channels are
// the vector, so nothing has to be transposed.
#pragma once

#include "neuron_math.h"
#include "moments.h"

namespace snn_sparse {
namespace neuron {
namespace SNN_SPARSE_ISA {

// Sums of (y - centre) and its square over `pixels` pixels, for every channel of a block.
template <class S>
inline void channel_sums(const S* y, int64_t pixels, int64_t C, int64_t channels, const S* centre, double* sum,
                         double* square) {
  for (int64_t p = 0; p < pixels; ++p)
    for (int64_t c = 0; c < channels; ++c) {
      const double d = double(S(y[p * C + c] - centre[c]));
      sum[c] += d;
      square[c] += d * d;
    }
}

// Moments of step t of channels [c0, c0 + channels), about the mean of the first sample's map: at most log2(B) bits cancel.
template <class S>
void channels_last_moments(const Problem& q, const Branch<S>& b, int64_t t, int64_t c0, int64_t channels, Moments* result) {
  const int64_t pixels = q.H * q.W, count = q.B * pixels;
  const S* step = b.x + t * count * q.C + c0;  // a step is contiguous over samples and pixels
  S centre[kMaxChannelBlock] = {};
  double sum[kMaxChannelBlock] = {}, square[kMaxChannelBlock] = {};
  channel_sums(step, pixels, q.C, channels, centre, sum, square);
  for (int64_t c = 0; c < channels; ++c) {
    centre[c] = S(sum[c] / double(pixels));
    sum[c] = square[c] = 0;
  }
  channel_sums(step, count, q.C, channels, centre, sum, square);
  for (int64_t c = 0; c < channels; ++c) {
    const double shift = sum[c] / double(count);
    result[c] = {double(count), double(centre[c]) + shift, square[c] - double(count) * shift * shift};
  }
}

// dx -> scale * (dx - shift - (y - mean) * slope) for step t of a block of channels.
template <class S>
void channels_last_gradient(const Problem& q, const Branch<S>& b, int64_t t, int64_t c0, int64_t channels,
                            const Affine<S>* affine, const S* shift, const S* slope) {
  const int64_t count = q.B * q.H * q.W;
  const S* y = b.x + t * count * q.C + c0;
  S* dx = b.grad_x + t * count * q.C + c0;
  S mean[kMaxChannelBlock], scale[kMaxChannelBlock];
  for (int64_t c = 0; c < channels; ++c) {
    mean[c] = affine[c].mean;
    scale[c] = affine[c].scale;
  }
  for (int64_t p = 0; p < count; ++p)
    for (int64_t c = 0; c < channels; ++c)
      dx[p * q.C + c] = scale[c] * (dx[p * q.C + c] - shift[c] - (y[p * q.C + c] - mean[c]) * slope[c]);
}

}  // namespace SNN_SPARSE_ISA
}  // namespace neuron
}  // namespace snn_sparse
