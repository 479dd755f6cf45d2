// Eight lanes of float or double as registers of the instruction set this file is compiled for.
// Included inside namespace snn_sparse::neuron::SNN_SPARSE_ISA only, so that the three builds cannot mix.
#pragma once

#include <cstdint>

#include "neuron_types.h"

#ifndef SNN_SPARSE_ISA
#error "compile with -DSNN_SPARSE_ISA=portable|avx2|avx512"
#endif

#if defined(__AVX512F__)
#define SNN_REGISTER_BYTES 64
#elif defined(__AVX2__)
#define SNN_REGISTER_BYTES 32
#else
#define SNN_REGISTER_BYTES 16
#endif

namespace snn_sparse {
namespace neuron {
namespace SNN_SPARSE_ISA {

constexpr int kFloatBytes = SNN_REGISTER_BYTES < 32 ? SNN_REGISTER_BYTES : 32;  // 8 floats fill 32 bytes
constexpr int kDoubleBytes = SNN_REGISTER_BYTES;

template <class S>
struct Register;
template <>
struct Register<float> {
  typedef float real __attribute__((vector_size(kFloatBytes)));
  typedef int32_t bits __attribute__((vector_size(kFloatBytes)));
  typedef float half __attribute__((vector_size(kFloatBytes / 2)));
  typedef float quad __attribute__((vector_size(16)));
  typedef int32_t integer;
  static constexpr int parts = 32 / kFloatBytes;
};
template <>
struct Register<double> {
  typedef double real __attribute__((vector_size(kDoubleBytes)));
  typedef int64_t bits __attribute__((vector_size(kDoubleBytes)));
  typedef double quad __attribute__((vector_size(32)));
  typedef int64_t integer;
  static constexpr int parts = 64 / kDoubleBytes;
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

#define SNN_EACH for (int i = 0; i < Pack<S>::parts; ++i)

template <class S>
inline Pack<S> load(const S* from) {
  Pack<S> r;
  constexpr int step = kLanes / Pack<S>::parts;
  SNN_EACH __builtin_memcpy(&r.p[i], from + i * step, sizeof(r.p[i]));
  return r;
}

template <class S>
inline void store(S* to, const Pack<S>& a) {
  constexpr int step = kLanes / Pack<S>::parts;
  SNN_EACH __builtin_memcpy(to + i * step, &a.p[i], sizeof(a.p[i]));
}

#define SNN_BINARY(op)                                              \
  template <class S>                                                \
  inline Pack<S> operator op(const Pack<S>& a, const Pack<S>& b) {  \
    Pack<S> r;                                                      \
    SNN_EACH r.p[i] = a.p[i] op b.p[i];                             \
    return r;                                                       \
  }
SNN_BINARY(+)
SNN_BINARY(-)
SNN_BINARY(*)
SNN_BINARY(/)
#undef SNN_BINARY

template <class S>
inline Mask<S> operator>=(const Pack<S>& a, const Pack<S>& b) {
  Mask<S> r;
  SNN_EACH r.p[i] = a.p[i] >= b.p[i];
  return r;
}

template <class S>
inline Mask<S> operator|(const Mask<S>& a, const Mask<S>& b) {
  Mask<S> r;
  SNN_EACH r.p[i] = a.p[i] | b.p[i];
  return r;
}

template <class S>
inline Mask<S> operator&(const Mask<S>& a, const Mask<S>& b) {
  Mask<S> r;
  SNN_EACH r.p[i] = a.p[i] & b.p[i];
  return r;
}

template <class S>
inline Mask<S> operator~(const Mask<S>& a) {
  Mask<S> r;
  SNN_EACH r.p[i] = ~a.p[i];
  return r;
}

template <class S>
inline Pack<S> select(const Mask<S>& m, const Pack<S>& yes, const Pack<S>& no) {
  Pack<S> r;
  SNN_EACH r.p[i] = m.p[i] ? yes.p[i] : no.p[i];
  return r;
}

// a where the mask is set, +0 elsewhere, whatever a holds there.
template <class S>
inline Pack<S> keep(const Mask<S>& m, const Pack<S>& a) {
  Pack<S> r;
  using Bits = typename Register<S>::bits;
  using Real = typename Register<S>::real;
  SNN_EACH r.p[i] = (Real)((Bits)a.p[i] & m.p[i]);
  return r;
}

template <class S>
inline Pack<S> absolute(const Pack<S>& a) {
  Pack<S> r;
  using Bits = typename Register<S>::bits;
  using Real = typename Register<S>::real;
  constexpr typename Register<S>::integer sign = (typename Register<S>::integer)1 << (sizeof(S) * 8 - 2);
  SNN_EACH r.p[i] = (Real)((Bits)a.p[i] & (Bits{} + (sign - 1 + sign)));
  return r;
}

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
#if SNN_REGISTER_BYTES == 64
  r.p[0] = __builtin_convertvector(a.p[0], Register<double>::real);
#else
  // Two registers of doubles for each register of floats.
  using Half = Register<float>::half;
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
  SNN_EACH {
    if constexpr (kLanes / Pack<S>::parts == 8)
      r.p[i] = __builtin_shufflevector(m.p[i], m.p[i], 1, 0, 3, 2, 5, 4, 7, 6);
    else if constexpr (kLanes / Pack<S>::parts == 4)
      r.p[i] = __builtin_shufflevector(m.p[i], m.p[i], 1, 0, 3, 2);
    else
      r.p[i] = __builtin_shufflevector(m.p[i], m.p[i], 1, 0);
  }
  return r;
}

// dst[j * dst_step + i] = src[i * src_step + j] for i, j < 4.
template <class S>
inline void transpose4(const S* src, int64_t src_step, S* dst, int64_t dst_step) {
  typedef typename Register<S>::quad Quad;
  Quad a, b, c, d;
  __builtin_memcpy(&a, src, sizeof(Quad));
  __builtin_memcpy(&b, src + src_step, sizeof(Quad));
  __builtin_memcpy(&c, src + 2 * src_step, sizeof(Quad));
  __builtin_memcpy(&d, src + 3 * src_step, sizeof(Quad));
  const Quad ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Quad cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  a = __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5);
  b = __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7);
  c = __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
  d = __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
  __builtin_memcpy(dst, &a, sizeof(Quad));
  __builtin_memcpy(dst + dst_step, &b, sizeof(Quad));
  __builtin_memcpy(dst + 2 * dst_step, &c, sizeof(Quad));
  __builtin_memcpy(dst + 3 * dst_step, &d, sizeof(Quad));
}

template <class T>
inline T smaller(T a, T b) {
  return a < b ? a : b;
}

}  // namespace SNN_SPARSE_ISA
}  // namespace neuron
}  // namespace snn_sparse
