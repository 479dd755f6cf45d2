// Kernels are compiled once for each instruction set, in a namespace of its name, and give out a table of functions.
#pragma once

#include "common/isa.h"

// Declares `function`, overloaded on the scalar, which gives out a Table<scalar>.
#define SNN_SPARSE_DECLARE_IN(isa, Table, function) \
  namespace isa {                                   \
  const Table<float>& function(float);              \
  const Table<double>& function(double);            \
  }
#define SNN_SPARSE_DECLARE_KERNELS(Table, function)      \
  SNN_SPARSE_DECLARE_IN(portable, Table, function)       \
  SNN_SPARSE_DECLARE_IN(avx2, Table, function)           \
  SNN_SPARSE_DECLARE_IN(avx512, Table, function)

// The table of the instruction set chosen at run time.
#if defined(__x86_64__)
#define SNN_SPARSE_KERNELS(function, T)                                                           \
  (::snn_sparse::chosen_isa() == ::snn_sparse::Isa::avx512 ? ::snn_sparse::avx512::function(T{})  \
   : ::snn_sparse::chosen_isa() == ::snn_sparse::Isa::avx2 ? ::snn_sparse::avx2::function(T{})    \
                                                           : ::snn_sparse::portable::function(T{}))
#else
#define SNN_SPARSE_KERNELS(function, T) (::snn_sparse::portable::function(T{}))
#endif
