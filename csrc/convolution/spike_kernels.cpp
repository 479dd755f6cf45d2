// Spike-driven convolution for one instruction set (SNN_SPARSE_ISA = portable, avx2, avx512).
#include "convolution/spike_forward.h"
#include "convolution/spike_gradient.h"

namespace snn_sparse {
namespace SNN_SPARSE_ISA {
namespace {

template <class T>
constexpr SpikeKernels<T> kKernels{SpikeForward<T>::tiling,  SpikeGradient<T>::tiling, SpikeForward<T>::scratch,
                                   SpikeGradient<T>::scratch, pack_weight<T>,          SpikeForward<T>::run,
                                   SpikeGradient<T>::run};

}  // namespace

const SpikeKernels<float>& spike_kernels(float) { return kKernels<float>; }
const SpikeKernels<double>& spike_kernels(double) { return kKernels<double>; }

}  // namespace SNN_SPARSE_ISA
}  // namespace snn_sparse
