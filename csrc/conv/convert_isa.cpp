// Conversion to and from the lanes layout for one instruction set (SNN_SPARSE_ISA = portable, avx2, avx512).
#include <cstring>

#include "convert.h"
#include "simd.h"

namespace snn_sparse {
namespace SNN_SPARSE_ISA {
namespace {

// The samples of one vector: pointers to their (c, y, x) = (0, 0, 0); null for padding.
template <class T>
struct VectorSamples {
  T* sample[kLanes];
  int64_t count;  // samples that exist; padding lanes come last
};

template <class T>
VectorSamples<T> samples_of(const LanesShape& s, T* base, Strides5 st, int64_t k) {
  VectorSamples<T> v{};
  if (k >= s.vectors()) return v;
  const int64_t t = k / s.batch_vectors(), b0 = k % s.batch_vectors() * kLanes;
  v.count = s.B - b0 < kLanes ? s.B - b0 : kLanes;
  for (int64_t l = 0; l < v.count; ++l) v.sample[l] = base + t * st.t + (b0 + l) * st.b;
  return v;
}

template <class T>
using Quad = Vec<T, 4 * static_cast<int>(sizeof(T))>;
template <class T>
SNN_SPARSE_INLINE Quad<T> load4(const T* p) { return load<T, 4 * static_cast<int>(sizeof(T))>(p); }
template <class T>
SNN_SPARSE_INLINE void store4(T* p, Quad<T> v) { store<T, 4 * static_cast<int>(sizeof(T))>(p, v); }

template <class T>
SNN_SPARSE_INLINE void transpose4(Quad<T>& a, Quad<T>& b, Quad<T>& c, Quad<T>& d) {
  const Quad<T> ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Quad<T> cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  a = __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5);
  b = __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7);
  c = __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
  d = __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
}

// n pixels of 8 samples, contiguous in each sample, to n vectors `step` scalars apart.
template <class T>
void interleave(const T* const* sample, int64_t offset, int64_t n, T* out, int64_t step) {
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    for (int64_t half = 0; half < kLanes; half += 4) {
      Quad<T> a = load4<T>(sample[half] + offset + i), b = load4<T>(sample[half + 1] + offset + i);
      Quad<T> c = load4<T>(sample[half + 2] + offset + i), d = load4<T>(sample[half + 3] + offset + i);
      transpose4<T>(a, b, c, d);
      T* o = out + i * step + half;
      store4<T>(o, a), store4<T>(o + step, b), store4<T>(o + 2 * step, c), store4<T>(o + 3 * step, d);
    }
  }
  for (; i < n; ++i)
    for (int64_t l = 0; l < kLanes; ++l) out[i * step + l] = sample[l][offset + i];
}

// The reverse of interleave.
template <class T>
void deinterleave(const T* in, int64_t step, int64_t n, T* const* sample, int64_t offset) {
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    for (int64_t half = 0; half < kLanes; half += 4) {
      const T* p = in + i * step + half;
      Quad<T> a = load4<T>(p), b = load4<T>(p + step), c = load4<T>(p + 2 * step), d = load4<T>(p + 3 * step);
      transpose4<T>(a, b, c, d);
      store4<T>(sample[half] + offset + i, a), store4<T>(sample[half + 1] + offset + i, b);
      store4<T>(sample[half + 2] + offset + i, c), store4<T>(sample[half + 3] + offset + i, d);
    }
  }
  for (; i < n; ++i)
    for (int64_t l = 0; l < kLanes; ++l) sample[l][offset + i] = in[i * step + l];
}

// One row (or a whole map of contiguous rows) of n pixels of one vector into lanes.
template <class T>
void pixels_to_lanes(const VectorSamples<const T>& v, int64_t offset, int64_t stride, int64_t n, T* out, int64_t step) {
  if (v.count == kLanes && stride == 1) return interleave<T>(v.sample, offset, n, out, step);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t l = 0; l < kLanes; ++l) out[i * step + l] = l < v.count ? v.sample[l][offset + i * stride] : T(0);
  }
}

template <class T>
void to_lanes(const LanesShape& s, const T* in, Strides5 st, T* lanes, int64_t begin, int64_t end) {
  const bool whole = s.halo == 0 && (st.h == s.W * st.w || s.H == 1);  // rows follow each other on both sides
  for (int64_t plane = begin; plane < end; ++plane) {
    T* out = lanes + plane * s.channel_stride();
    if (s.halo > 0) std::memset(out, 0, static_cast<size_t>(s.channel_stride()) * sizeof(T));
    const int64_t g = plane / s.C, c = plane % s.C;
    for (int64_t position = 0; position < s.V; ++position) {
      const VectorSamples<const T> v = samples_of<const T>(s, in, st, g * s.V + position);
      for (int64_t y = 0; y < (whole ? 1 : s.H); ++y) {
        pixels_to_lanes<T>(v, c * st.c + y * st.h, st.w, whole ? s.H * s.W : s.W, out + s.offset(0, 0, y, 0, position),
                           s.pixel_stride());
      }
    }
  }
}

template <class T>
void from_lanes(const LanesShape& s, const T* lanes, T* out, Strides5 st, int64_t begin, int64_t end) {
  for (int64_t plane = begin; plane < end; ++plane) {
    const T* in = lanes + plane * s.channel_stride();
    const int64_t g = plane / s.C, c = plane % s.C;
    for (int64_t position = 0; position < s.V; ++position) {
      const VectorSamples<T> v = samples_of<T>(s, out, st, g * s.V + position);
      for (int64_t y = 0; y < s.H; ++y) {
        const T* row = in + s.offset(0, 0, y, 0, position);
        const int64_t offset = c * st.c + y * st.h;
        if (v.count == kLanes && st.w == 1) {
          deinterleave<T>(row, s.pixel_stride(), s.W, v.sample, offset);
          continue;
        }
        for (int64_t x = 0; x < s.W; ++x)
          for (int64_t l = 0; l < v.count; ++l) v.sample[l][offset + x * st.w] = row[x * s.pixel_stride() + l];
      }
    }
  }
}

}  // namespace

const ConvertKernels<float>& convert_kernels(float) {
  static const ConvertKernels<float> kernels = {to_lanes<float>, from_lanes<float>};
  return kernels;
}

const ConvertKernels<double>& convert_kernels(double) {
  static const ConvertKernels<double> kernels = {to_lanes<double>, from_lanes<double>};
  return kernels;
}

}  // namespace SNN_SPARSE_ISA
}  // namespace snn_sparse
