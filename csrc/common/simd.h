// Native vectors of the instruction set this file is compiled for, without intrinsics: Vec is one register, Pack the
// eight lanes of a vector of samples in as many registers as they take.
//
// SNN_SPARSE_ISA names the namespace (portable, avx2, avx512), so that three objects of one source cannot mix.
#pragma once

#include <cstdint>

#include "common/codes.h"

#ifndef SNN_SPARSE_ISA
#error "compile with -DSNN_SPARSE_ISA=portable|avx2|avx512"
#endif

// Accumulators that a tile may hold: registers less one for the broadcast weight and one spare (SSE: two temporaries).
#if defined(__AVX512F__)
#define SNN_SPARSE_MAX_ACCUMULATORS 28
#define SNN_SPARSE_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define SNN_SPARSE_MAX_ACCUMULATORS 14
#define SNN_SPARSE_VECTOR_BYTES 32
#else
#define SNN_SPARSE_MAX_ACCUMULATORS 12
#define SNN_SPARSE_VECTOR_BYTES 16
#endif

#define SNN_SPARSE_INLINE inline __attribute__((always_inline))
#define SNN_SPARSE_LAMBDA_INLINE __attribute__((always_inline))

namespace snn_sparse {
namespace SNN_SPARSE_ISA {

// A vector of Bytes bytes of T that may lie at any address of a T.
template <class T, int Bytes>
struct VectorOf {
  typedef T type __attribute__((vector_size(Bytes), aligned(sizeof(T)), may_alias));
  typedef T value __attribute__((vector_size(Bytes)));
};

// The same lanes as a register (naturally aligned) value.
template <class T, int Bytes>
using Vec = typename VectorOf<T, Bytes>::value;

template <class T, int Bytes>
SNN_SPARSE_INLINE Vec<T, Bytes> load(const T* p) {
  return *reinterpret_cast<const typename VectorOf<T, Bytes>::type*>(p);
}

template <class T, int Bytes>
SNN_SPARSE_INLINE void store(T* p, Vec<T, Bytes> v) {
  *reinterpret_cast<typename VectorOf<T, Bytes>::type*>(p) = v;
}

// dst[j * dst_step + i] = src[i * src_step + j] for i, j < 4.
template <class T>
SNN_SPARSE_INLINE void transpose4(const T* src, int64_t src_step, T* dst, int64_t dst_step) {
  constexpr int bytes = 4 * int(sizeof(T));
  using Quad = Vec<T, bytes>;
  const Quad a = load<T, bytes>(src), b = load<T, bytes>(src + src_step);
  const Quad c = load<T, bytes>(src + 2 * src_step), d = load<T, bytes>(src + 3 * src_step);
  const Quad ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Quad cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  store<T, bytes>(dst, __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5));
  store<T, bytes>(dst + dst_step, __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7));
  store<T, bytes>(dst + 2 * dst_step, __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5));
  store<T, bytes>(dst + 3 * dst_step, __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7));
}

template <class T>
inline T smaller(T a, T b) {
  return a < b ? a : b;
}

// dst[j * dst_step + l] = src[l * src_step + j] for l < rows, 0 for the other lanes.
template <class S>
inline void lanes_from_rows(const S* src, int64_t src_step, int rows, int64_t count, S* dst, int64_t dst_step) {
  for (int l = 0; l < kLanes; l += 4) {
    int64_t j = 0;
    for (; rows >= l + 4 && j + 4 <= count; j += 4)
      transpose4(src + l * src_step + j, src_step, dst + j * dst_step + l, dst_step);
    for (; rows >= l + 4 && j < count; ++j)
      for (int i = l; i < l + 4; ++i) dst[j * dst_step + i] = src[i * src_step + j];
    for (; j < count; ++j)
      for (int i = l; i < l + 4; ++i) dst[j * dst_step + i] = i < rows ? src[i * src_step + j] : S(0);
  }
}

// dst[l * dst_step + j] = src[j * src_step + l] for l < rows: the reverse.
template <class S>
inline void rows_from_lanes(const S* src, int64_t src_step, int rows, int64_t count, S* dst, int64_t dst_step) {
  for (int l = 0; l < rows; l += 4) {
    int64_t j = 0;
    for (; rows >= l + 4 && j + 4 <= count; j += 4)
      transpose4(src + j * src_step + l, src_step, dst + l * dst_step + j, dst_step);
    for (; j < count; ++j)
      for (int i = l; i < smaller(l + 4, rows); ++i) dst[i * dst_step + j] = src[j * src_step + i];
  }
}

template <class S>
struct Integer;
template <>
struct Integer<float> {
  using type = int32_t;
};
template <>
struct Integer<double> {
  using type = int64_t;
};

// The registers that eight lanes of S take.
template <class S>
struct Register {
  static constexpr int lanes_bytes = kLanes * int(sizeof(S));
  static constexpr int bytes = lanes_bytes < SNN_SPARSE_VECTOR_BYTES ? lanes_bytes : SNN_SPARSE_VECTOR_BYTES;
  static constexpr int parts = lanes_bytes / bytes;
  using integer = typename Integer<S>::type;
  using real = Vec<S, bytes>;
  using bits = Vec<integer, bytes>;
};

template <class S>
struct Mask {
  typename Register<S>::bits p[Register<S>::parts];
};

template <class S>
struct Pack {
  using R = Register<S>;
  static constexpr int parts = R::parts;
  typename R::real p[parts];

  Pack() = default;
  explicit Pack(S value) {
    for (int i = 0; i < parts; ++i) p[i] = value - typename R::real{};  // a plain broadcast: x - 0 is x
  }
};

#define SNN_SPARSE_EACH for (int i = 0; i < Pack<S>::parts; ++i)

template <class S>
inline Pack<S> load(const S* from) {
  Pack<S> r;
  constexpr int step = kLanes / Pack<S>::parts;
  SNN_SPARSE_EACH __builtin_memcpy(&r.p[i], from + i * step, sizeof(r.p[i]));
  return r;
}

template <class S>
inline void store(S* to, const Pack<S>& a) {
  constexpr int step = kLanes / Pack<S>::parts;
  SNN_SPARSE_EACH __builtin_memcpy(to + i * step, &a.p[i], sizeof(a.p[i]));
}

#define SNN_SPARSE_BINARY(Result, Operand, op)                               \
  template <class S>                                                         \
  inline Result<S> operator op(const Operand<S>& a, const Operand<S>& b) {   \
    Result<S> r;                                                             \
    SNN_SPARSE_EACH r.p[i] = a.p[i] op b.p[i];                               \
    return r;                                                                \
  }
SNN_SPARSE_BINARY(Pack, Pack, +)
SNN_SPARSE_BINARY(Pack, Pack, -)
SNN_SPARSE_BINARY(Pack, Pack, *)
SNN_SPARSE_BINARY(Pack, Pack, /)
SNN_SPARSE_BINARY(Mask, Pack, >=)
SNN_SPARSE_BINARY(Mask, Pack, <)
SNN_SPARSE_BINARY(Mask, Mask, |)
SNN_SPARSE_BINARY(Mask, Mask, &)
#undef SNN_SPARSE_BINARY

template <class S>
inline Mask<S> operator~(const Mask<S>& a) {
  Mask<S> r;
  SNN_SPARSE_EACH r.p[i] = ~a.p[i];
  return r;
}

template <class S>
inline Pack<S> select(const Mask<S>& m, const Pack<S>& yes, const Pack<S>& no) {
  Pack<S> r;
  SNN_SPARSE_EACH r.p[i] = m.p[i] ? yes.p[i] : no.p[i];
  return r;
}

// a where the mask is set, +0 elsewhere, whatever a holds there.
template <class S>
inline Pack<S> keep(const Mask<S>& m, const Pack<S>& a) {
  Pack<S> r;
  using Bits = typename Register<S>::bits;
  using Real = typename Register<S>::real;
  SNN_SPARSE_EACH r.p[i] = (Real)((Bits)a.p[i] & m.p[i]);
  return r;
}

template <class S>
inline Pack<S> absolute(const Pack<S>& a) {
  Pack<S> r;
  using Bits = typename Register<S>::bits;
  using Real = typename Register<S>::real;
  constexpr typename Register<S>::integer sign = (typename Register<S>::integer)1 << (sizeof(S) * 8 - 2);
  SNN_SPARSE_EACH r.p[i] = (Real)((Bits)a.p[i] & (Bits{} + (sign - 1 + sign)));
  return r;
}

// b where either is NaN: bounds come first, so that NaN passes.
template <class S>
inline Pack<S> maximum(const Pack<S>& a, const Pack<S>& b) {
  return select(a >= b, a, b);
}

template <class S>
inline Mask<S> first_lanes(int valid) {
  typename Register<S>::integer flags[kLanes];
  for (int l = 0; l < kLanes; ++l) flags[l] = l < valid ? -1 : 0;
  Mask<S> m;
  __builtin_memcpy(&m, flags, sizeof(m));
  return m;
}

template <class S>
inline S lane_sum(const Pack<S>& a) {
  S v[kLanes];
  store(v, a);
  return ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
}

inline Pack<double> widen(const Pack<double>& a) { return a; }

inline Pack<double> widen(const Pack<float>& a) {
  Pack<double> r;
#if SNN_SPARSE_VECTOR_BYTES == 64
  r.p[0] = __builtin_convertvector(a.p[0], Register<double>::real);
#else
  // Two registers of doubles for each register of floats.
  using Half = Vec<float, Register<float>::bytes / 2>;
  for (int i = 0; i < Pack<float>::parts; ++i) {
    Half low, high;
    __builtin_memcpy(&low, &a.p[i], sizeof(Half));
    __builtin_memcpy(&high, reinterpret_cast<const char*>(&a.p[i]) + sizeof(Half), sizeof(Half));
    r.p[2 * i] = __builtin_convertvector(low, Register<double>::real);
    r.p[2 * i + 1] = __builtin_convertvector(high, Register<double>::real);
  }
#endif
  return r;
}

// Neighbouring lanes exchanged: 1, 0, 3, 2, ...
template <class S>
inline Mask<S> swap_pairs(const Mask<S>& m) {
  Mask<S> r;
  SNN_SPARSE_EACH {
    if constexpr (kLanes / Pack<S>::parts == 8)
      r.p[i] = __builtin_shufflevector(m.p[i], m.p[i], 1, 0, 3, 2, 5, 4, 7, 6);
    else if constexpr (kLanes / Pack<S>::parts == 4)
      r.p[i] = __builtin_shufflevector(m.p[i], m.p[i], 1, 0, 3, 2);
    else
      r.p[i] = __builtin_shufflevector(m.p[i], m.p[i], 1, 0);
  }
  return r;
}

}  // namespace SNN_SPARSE_ISA
}  // namespace snn_sparse
