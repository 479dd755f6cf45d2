// Joining the moments of two sets.
#pragma once

#include "simd.h"

namespace snn_sparse {
namespace neuron {
namespace SNN_SPARSE_ISA {

// Chan's formula.
inline void merge(Moments& a, const Moments& b) {
  const double n = a.count + b.count, delta = b.mean - a.mean;
  a.mean += delta * (b.count / n);
  a.m2 += b.m2 + delta * delta * (a.count * b.count / n);
  a.count = n;
}

}  // namespace SNN_SPARSE_ISA
}  // namespace neuron
}  // namespace snn_sparse
