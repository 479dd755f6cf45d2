// Plain data shared by the bindings and the three instruction-set builds of the neuron. No torch, no code.
#pragma once

#include <cstdint>

#include "common/codes.h"
#include "common/dispatch.h"

namespace snn_sparse {

constexpr int kMaxChannelBlock = 64;  // channels handled together

enum class LayoutKind : int { nchw, nhwc, lanes };

// How the scalars of a [T, B, C, H, W] tensor lie in memory; vectors (V) only mean something for lanes.
struct Layout {
  LayoutKind kind;
  int64_t vectors;
};

struct Problem {
  int64_t T, B, C, H, W;  // of the convolution output; T counts the steps of the neuron
  bool pool;              // 2x2, stride 2 spike max-pool behind the neuron
  Layout out_layout;      // of the spikes and of their gradient
  Layout v_layout;        // of the initial and the final membrane potential (a tensor with T = 1)
  NeuronKind neuron;
  bool decay_input, hard_reset, detach_reset;
  Shape surrogate;
  double tau, decay, v_threshold, fires_at, v_reset, late, peak, slope;
};

// Count, mean and sum of squared deviations of a set.
struct Moments {
  double count, mean, m2;
};

// One input with its batch norm: the convolution output, or the residual / shortcut.
template <class S>
struct Branch {
  const S* x;     // null: there is no such input
  Layout layout;
  int64_t steps;  // 1 for a static input, else T
  Norm norm;
  S *mean, *invstd;                     // [sets, C]
  Moments* moments;                     // forward: [steps, C], scratch where mean and invstd are to be found; else null
  double eps;
  const S *weight, *bias;               // null: 1 and 0
  S *grad_x, *grad_weight, *grad_bias;  // backward only; null: not asked for

  // Number of sets of statistics: one per step, or one; whether they are the batch's own. (Forced inline: an out-of-line
  // copy built with wide instructions could be the one the linker keeps for all.)
  __attribute__((always_inline)) int64_t sets() const { return norm == Norm::per_step ? steps : 1; }
  __attribute__((always_inline)) bool uses_batch() const { return norm == Norm::per_step || norm == Norm::pooled; }
};

// What the neuron's backward pass sums for one channel and one step: dx, and dx * (y - mean).
struct NormSums {
  double dx, dx_y;
};

// A block of channels is one unit of work (all), so that it stays in cache between the passes over it. Where channels
// share cache lines, blocks are wide and few: there the passes follow each other, each cut finer.
enum class Phase : int {
  all,         // unit: block
  statistics,  // forward; unit: block * T + step
  finish,      // forward: statistics from their sums; unit: block
  tiles,       // unit: block * parts + part
  gradient     // backward; unit: block * T + step
};

// What the 8 lanes of a vector are: neighbouring pixels of one sample, samples, or channels.
enum class LaneKind : int { pixels, samples, channels };

// How the work is cut up: made once a call, the same whatever the number of threads.
struct Plan {
  LaneKind lanes;
  int64_t channel_block;  // channels handled together: more than one where a cache line holds several channels
  int64_t blocks;
  int64_t parts;          // of the tiles of a block; one: every block is done in one go
  int64_t tile_pixels;    // pixels of one tile (whole rows, unless the map is treated as one long row)
  int64_t tile_scalars;   // room for one channel of one tile
  int64_t workspace;      // bytes a worker needs

  // Channels of a vector, and vectors that hold a pixel of a whole block.
  __attribute__((always_inline)) int64_t width() const { return lanes == LaneKind::channels ? kLanes : 1; }
  __attribute__((always_inline)) int64_t slots() const { return channel_block / width(); }
};

template <class S>
struct NeuronArgs {
  Problem problem;
  Plan plan;
  Branch<S> main, shortcut;
  const S* decay;   // 1/tau of a parametric neuron, or the learnt decay of a leaky one; else null
  const S* v_init;  // null: v_reset (0 for soft reset)
};

template <class S>
struct ForwardArgs : NeuronArgs<S> {
  S* v_final;  // null: not asked for
  S* spikes;
};

template <class S>
struct BackwardArgs : NeuronArgs<S> {
  const S *grad_spikes, *grad_v_final;
  S* grad_v_init;      // null: not asked for
  double* grad_decay;  // [parts, C] partial sums; null: not asked for
  NormSums* sums;      // [2 branches, parts, T, C], scratch
};

// Each call handles units [first, last) of a phase.
template <class S>
struct NeuronKernels {
  void (*forward)(const ForwardArgs<S>&, Phase phase, int64_t first, int64_t last, char* workspace);
  void (*backward)(const BackwardArgs<S>&, Phase phase, int64_t first, int64_t last, char* workspace);
};

SNN_SPARSE_DECLARE_KERNELS(NeuronKernels, neuron_kernels)

}  // namespace snn_sparse
