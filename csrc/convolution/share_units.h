// Scratch memory of a thread, and sharing out of work to threads.
#pragma once

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "common/checks.h"

namespace snn_sparse {

// 64 byte aligned scratch memory of one thread.
template <class T>
class Scratch {
 public:
  Scratch(int64_t box_elements, int64_t partial_elements) : box_(allocate(box_elements)), partial_(allocate(partial_elements)) {
    if (box_) std::memset(box_, 0, bytes(box_elements));
  }
  ~Scratch() { std::free(box_), std::free(partial_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  bool ready() const { return box_ && partial_; }
  T* box() const { return static_cast<T*>(box_); }
  T* partial() const { return static_cast<T*>(partial_); }

 private:
  static size_t bytes(int64_t elements) { return (static_cast<size_t>(elements) * sizeof(T) / 64 + 1) * 64; }
  static void* allocate(int64_t elements) { return std::aligned_alloc(64, bytes(elements)); }
  void *box_, *partial_;
};

// Runs f(scratch, begin, end) over [0, units) on `threads` threads that take the next `chunk` units when they are done: a
// thread that another process slows down then holds up no other. Results do not depend on who takes what.
template <class T, class F>
void share_units(const Checks& check, int64_t threads, int64_t units, int64_t chunk, int64_t box, int64_t partial, const F& f) {
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    const Scratch<T> scratch(box, partial);
    if (!scratch.ready()) return failed.store(true);
    for (int64_t begin = next.fetch_add(chunk); begin < units; begin = next.fetch_add(chunk))
      f(scratch, begin, std::min(units, begin + chunk));
  });
  check(!failed, "out of memory");
}

}  // namespace snn_sparse
