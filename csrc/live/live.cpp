// Reading and writing the live entries of a dense weight.
#include <atomic>

#include "common/checks.h"

namespace snn_sparse {
namespace {

constexpr int64_t kGrain = 16 * 1024;  // entries a thread should have at least

// Calls copy(dense entry, values entry) for every live entry, on all threads.
template <class F>
void for_live(const Checks& check, const Tensor& dense, const Tensor& index, const Tensor& values, F&& copy) {
  check.floating(dense, "dense");
  check(dense.is_contiguous(), "dense must be contiguous");
  check.contiguous(index, ScalarType::Int, 1, "index");
  check.contiguous(values, dense.scalar_type(), 1, "values");
  const int64_t live = index.numel(), elements = dense.numel();
  check(values.numel() == live, "values must be as many as index");
  const int32_t* places = data<int32_t>(index);
  std::atomic<bool> inside{true};
  dispatch_floating(dense, [&](auto zero) {
    using T = decltype(zero);
    T *entries = data<T>(dense), *live_values = data<T>(values);
    torch::stable::parallel_for(0, live, kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        if (places[i] < 0 || places[i] >= elements) {
          inside = false;
          return;
        }
        copy(entries[places[i]], live_values[i]);
      }
    });
  });
  check(inside, "index is out of range");
}

// scatter_live_(Tensor(a!) dense, Tensor index, Tensor values) -> ()
//   dense   contiguous, float32 or float64
//   index   int32 [live], places in dense, none twice
//   values  [live]
void scatter_live_(const Tensor& dense, const Tensor& index, const Tensor& values) {
  for_live(Checks("scatter_live_"), dense, index, values, [](auto& entry, auto value) { entry = value; });
}

// gather_live(Tensor dense, Tensor index) -> Tensor; arguments and result as above
Tensor gather_live(const Tensor& dense, const Tensor& index) {
  const Checks check("gather_live");
  check.floating(dense, "dense");
  const Tensor values = torch::stable::new_empty(dense, {index.numel()});
  for_live(check, dense, index, values, [](auto entry, auto& value) { value = entry; });
  return values;
}

}  // namespace
}  // namespace snn_sparse

STABLE_TORCH_LIBRARY_FRAGMENT(snn_sparse, m) {
  m.def("scatter_live_(Tensor(a!) dense, Tensor index, Tensor values) -> ()");
  m.def("gather_live(Tensor dense, Tensor index) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(snn_sparse, CPU, m) {
  m.impl("scatter_live_", TORCH_BOX(&snn_sparse::scatter_live_));
  m.impl("gather_live", TORCH_BOX(&snn_sparse::gather_live));
}
