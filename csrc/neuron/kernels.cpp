// The neuron for one instruction set; compiled with SNN_SPARSE_ISA = portable, avx2, avx512.
#include "neuron/backward.h"
#include "neuron/forward.h"

namespace snn_sparse {
namespace SNN_SPARSE_ISA {
namespace {

template <class S>
void forward(const ForwardArgs<S>& a, Phase phase, int64_t first, int64_t last, char* workspace) {
  Forward<S> pass(a, workspace);
  for (int64_t i = first; i < last; ++i) pass.run(phase, i);
}

template <class S>
void backward(const BackwardArgs<S>& a, Phase phase, int64_t first, int64_t last, char* workspace) {
  Backward<S> pass(a, workspace);
  for (int64_t i = first; i < last; ++i) pass.run(phase, i);
}

template <class S>
constexpr NeuronKernels<S> kKernels{forward<S>, backward<S>};

}  // namespace

const NeuronKernels<float>& neuron_kernels(float) { return kKernels<float>; }
const NeuronKernels<double>& neuron_kernels(double) { return kKernels<double>; }

}  // namespace SNN_SPARSE_ISA
}  // namespace snn_sparse
