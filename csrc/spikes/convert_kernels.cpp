// Conversion to and from the lanes layout for one instruction set (SNN_SPARSE_ISA = portable, avx2, avx512).
#include "common/simd.h"
#include "spikes/convert.h"

namespace snn_sparse {
namespace SNN_SPARSE_ISA {
namespace {

// The samples of one vector: where (c, y, x) = (0, 0, 0) of the first one is, and how many exist.
template <class T>
struct VectorSamples {
  T* first;
  int count;
};

template <class T>
VectorSamples<T> samples_of(const LanesShape& s, T* base, const Strides5& st, int64_t k) {
  if (k >= s.vectors()) return {base, 0};
  const int64_t t = k / s.batch_vectors(), b0 = k % s.batch_vectors() * kLanes;
  return {base + t * st.t + b0 * st.b, int(smaller<int64_t>(kLanes, s.B - b0))};
}

// Calls f(samples at a row, where the row is in lanes, pixels) for the rows of every vector of a plane of groups * C; rows
// that follow each other on both sides are one. (Sizes as copies: the compiler knows that no store can change them.)
template <class T, class F>
SNN_SPARSE_INLINE void for_rows(const LanesShape s, T* base, const Strides5 st, int64_t plane, const F& f) {
  const bool whole = st.h == s.W * st.w || s.H == 1;
  const int64_t rows = whole ? 1 : s.H, pixels = whole ? s.H * s.W : s.W, g = plane / s.C, c = plane % s.C;
  for (int64_t position = 0; position < s.V; ++position) {
    const VectorSamples<T> v = samples_of<T>(s, base + c * st.c, st, g * s.V + position);
    for (int64_t y = 0; y < rows; ++y)
      f(VectorSamples<T>{v.first + y * st.h, v.count}, plane * s.channel_stride() + y * s.row_stride() + position * kLanes,
        pixels);
  }
}

template <class T>
void to_lanes(const LanesShape& s, const T* in, Strides5 st, T* lanes, int64_t begin, int64_t end) {
  const int64_t step = s.pixel_stride();
  for (int64_t plane = begin; plane < end; ++plane)
    for_rows<const T>(s, in, st, plane, [&](const VectorSamples<const T>& v, int64_t at, int64_t pixels) {
      T* out = lanes + at;
      if (st.w == 1) return lanes_from_rows(v.first, st.b, v.count, pixels, out, step);
      for (int64_t i = 0; i < pixels; ++i)
        for (int64_t l = 0; l < kLanes; ++l) out[i * step + l] = l < v.count ? v.first[l * st.b + i * st.w] : T(0);
    });
}

template <class T>
void from_lanes(const LanesShape& s, const T* lanes, T* out, Strides5 st, int64_t begin, int64_t end) {
  const int64_t step = s.pixel_stride();
  for (int64_t plane = begin; plane < end; ++plane)
    for_rows<T>(s, out, st, plane, [&](const VectorSamples<T>& v, int64_t at, int64_t pixels) {
      rows_from_lanes(lanes + at, step, v.count, pixels, v.first, st.b);
    });
}

template <class T>
constexpr ConvertKernels<T> kKernels{to_lanes<T>, from_lanes<T>};

}  // namespace

const ConvertKernels<float>& convert_kernels(float) { return kKernels<float>; }
const ConvertKernels<double>& convert_kernels(double) { return kKernels<double>; }

}  // namespace SNN_SPARSE_ISA
}  // namespace snn_sparse
