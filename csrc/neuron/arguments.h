// Tensors of the neuron in their memory layouts: made, and checked so that no kernel reads or writes out of bounds.
#pragma once

#include "common/checks.h"
#include "neuron/plan.h"

namespace snn_sparse {

inline Layout layout_of(const Checks& check, int64_t format, const char* name) {
  check.range(format, 0, kFormatLanes + kMaxVectors, name);
  if (format > kFormatLanes) return {LayoutKind::lanes, format - kFormatLanes};
  return {format == kFormatNhwc ? LayoutKind::nhwc : LayoutKind::nchw, 1};
}

inline int64_t groups_of(const Layout& layout, int64_t steps, int64_t images) {
  return (steps * ((images + kLanes - 1) / kLanes) + layout.vectors - 1) / layout.vectors;
}

// The sizes of the tensor that holds [steps, B, C, H, W] in a layout (lanes), or its logical sizes (the others).
inline Sizes sizes_of(const Layout& layout, const Problem& q, int64_t steps, bool pooled) {
  const int64_t H = pooled ? q.H / 2 : q.H, W = pooled ? q.W / 2 : q.W;
  if (layout.kind != LayoutKind::lanes) return {steps, q.B, q.C, H, W};
  return {groups_of(layout, steps, q.B), q.C, H, W, kLanes * layout.vectors};
}

// Fills in the sizes of the problem.
inline void read_sizes(const Checks& check, Problem& q, const Tensor& y, const Layout& layout, int64_t steps,
                       int64_t images) {
  check.floating(y, "y");
  check.range(steps, 1, 1 << 20, "steps");
  check.range(images, 1, int64_t(1) << 31, "images");
  check(y.dim() == 5, "y must have 5 dimensions, got ", y.dim());
  check(y.numel() > 0, "y must not be empty");
  const int channels = layout.kind == LayoutKind::lanes ? 1 : 2;
  q.T = steps, q.B = images, q.C = y.size(channels), q.H = y.size(channels + 1), q.W = y.size(channels + 2);
  double product = 1;  // below 2^48 it leaves room for padding and bytes in 64 bits
  for (int64_t n : {q.T, q.B, q.C, q.H, q.W}) product *= double(n);
  check(product < double(int64_t(1) << 48), "y is too large");
}

// Whether memory is in the order ..., N, H, W, C of the last dimensions [..., N, C, H, W].
inline bool is_channels_last(const Tensor& x) {
  const int64_t d = x.dim();
  int64_t expected = 1;
  for (int64_t i : {d - 3, d - 1, d - 2, d - 4, d - 5}) {
    if (i < 0) break;
    if (x.size(i) != 1 && x.stride(i) != expected) return false;
    expected *= x.size(i);
  }
  return true;
}

inline void check_layout(const Checks& check, const Tensor& x, ScalarType dtype, const Layout& layout,
                         const Sizes& sizes, const char* name) {
  check.dtype(x, dtype, name);
  check.sizes(x, sizes, name);
  if (layout.kind == LayoutKind::nhwc)
    check(is_channels_last(x), name, " must be channels last: memory in the order ..., N, H, W, C");
  else
    check(x.is_contiguous(), name, " must be contiguous");
}

// An uninitialised tensor in a layout.
inline Tensor new_in_layout(const Tensor& like, const Layout& layout, const Sizes& sizes) {
  if (layout.kind != LayoutKind::nhwc) return torch::stable::new_empty(like, sizes);
  const int64_t d = int64_t(sizes.size());
  Sizes memory = sizes;
  std::rotate(memory.end() - 3, memory.end() - 2, memory.end());
  const Tensor x = torch::stable::transpose(torch::stable::new_empty(like, memory), d - 3, d - 1);
  return torch::stable::transpose(x, d - 2, d - 1);
}

inline Tensor nothing(const Tensor& like) { return torch::stable::new_empty(like, Sizes{0}); }

}  // namespace snn_sparse
