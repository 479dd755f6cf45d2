// Run-time choice of the instruction set.
#pragma once

namespace snn_sparse {

enum class Isa { portable = 0, avx2 = 1, avx512 = 2 };

// The best instruction set this processor has, or what the environment variable SNN_SPARSE_ISA (portable, avx2, avx512)
// asks for if the processor has it. Read once.
Isa chosen_isa();
const char* isa_name(Isa isa);

}  // namespace snn_sparse
