#include "common/isa.h"

#include <cstdlib>
#include <cstring>

namespace snn_sparse {
namespace {

bool supported(Isa isa) {
#if defined(__x86_64__) || defined(__i386__)
  if (isa == Isa::avx512)
    return supported(Isa::avx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
  if (isa == Isa::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return isa == Isa::portable;
}

Isa choose() {
  const char* wish = std::getenv("SNN_SPARSE_ISA");
  const Isa all[] = {Isa::avx512, Isa::avx2, Isa::portable};
  for (Isa isa : all)
    if (wish && std::strcmp(wish, isa_name(isa)) == 0 && supported(isa)) return isa;
  for (Isa isa : all)
    if (supported(isa)) return isa;
  return Isa::portable;
}

}  // namespace

Isa chosen_isa() {
  static const Isa isa = choose();
  return isa;
}

const char* isa_name(Isa isa) {
  return isa == Isa::avx512 ? "avx512" : isa == Isa::avx2 ? "avx2" : "portable";
}

}  // namespace snn_sparse
