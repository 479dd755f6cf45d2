// Scratch memory, and sharing out of units of work to as many threads as torch uses.
#pragma once

#include "common/checks.h"
#include "neuron/plan.h"

namespace snn_sparse {

// Scratch memory of `count` T.
template <class T>
Tensor new_scratch(const Tensor& like, int64_t count) {
  return torch::stable::new_empty(like, Sizes{count * int64_t(sizeof(T))}, ScalarType::Byte);
}

// As many workers as there are threads, each with its workspace.
class Workers {
 public:
  Workers(const Tensor& like, int64_t most_units, int64_t bytes)
      : count_(clamp(torch::stable::get_num_threads(), 1, most_units)), bytes_(bytes),
        memory_(new_scratch<char>(like, count_ * bytes)) {}

  // Calls f(first unit, last unit, workspace): a fixed share of all units for each worker.
  template <class F>
  void run(int64_t units, const F& f) const {
    const int64_t workers = std::min(count_, units);
    torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
      for (int64_t w = begin; w < end; ++w)
        f(w * units / workers, (w + 1) * units / workers, data<char>(memory_) + w * bytes_);
    });
  }

 private:
  int64_t count_, bytes_;
  Tensor memory_;
};

}  // namespace snn_sparse
