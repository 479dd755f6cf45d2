// The fused neuron's kernels for the instruction set chosen at run time.
#include "common/isa.h"
#include "neuron_types.h"

namespace snn_sparse {
namespace neuron {

const Kernels& select_kernels() {
#if defined(__x86_64__) || defined(__i386__)
  if (chosen_isa() == Isa::avx512) return avx512_kernels();
  if (chosen_isa() == Isa::avx2) return avx2_kernels();
#endif
  return portable_kernels();
}

}  // namespace neuron
}  // namespace snn_sparse
