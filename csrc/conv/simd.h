// Native vectors for the instruction set this file is compiled for, without intrinsics.
//
// SNN_SPARSE_ISA names the namespace (portable, avx2, avx512) so that three objects of one source can be linked together.
#pragma once

#include <cstdint>

#ifndef SNN_SPARSE_ISA
#define SNN_SPARSE_ISA portable
#endif

// How many accumulators a tile may hold: registers less one for the broadcast weight and one spare (SSE: two temporaries).
#if defined(SNN_SPARSE_WIDE_VECTORS) || defined(__AVX512F__)
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

}  // namespace SNN_SPARSE_ISA
}  // namespace snn_sparse
