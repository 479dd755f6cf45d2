// The fused neuron for one instruction set; compiled once with each of -DSNN_SPARSE_ISA=portable, avx2, avx512.
#include "neuron_backward.h"

namespace snn_sparse {
namespace neuron {
namespace SNN_SPARSE_ISA {

template <class S>
void run_forward(const ForwardArgs<S>& a, Phase phase, int64_t first, int64_t last, char* workspace) {
  Forward<S> pass(a, workspace);
  for (int64_t i = first; i < last; ++i) pass.run(phase, i);
}

template <class S>
void run_backward(const BackwardArgs<S>& a, Phase phase, int64_t first, int64_t last, char* workspace) {
  Backward<S> pass(a, workspace);
  for (int64_t i = first; i < last; ++i) pass.run(phase, i);
}

}  // namespace SNN_SPARSE_ISA

#define SNN_JOIN_(a, b) a##b
#define SNN_JOIN(a, b) SNN_JOIN_(a, b)
#define SNN_TEXT_(a) #a
#define SNN_TEXT(a) SNN_TEXT_(a)

const Kernels& SNN_JOIN(SNN_SPARSE_ISA, _kernels)() {
  static constexpr Kernels table = {SNN_TEXT(SNN_SPARSE_ISA), SNN_SPARSE_ISA::run_forward<float>, SNN_SPARSE_ISA::run_forward<double>,
                                    SNN_SPARSE_ISA::run_backward<float>, SNN_SPARSE_ISA::run_backward<double>};
  return table;
}

}  // namespace neuron
}  // namespace snn_sparse
