// Plain data shared by the binding and the three instruction-set builds of the fused neuron. No torch, no code.
#pragma once

#include <cstdint>

namespace snn_sparse {
namespace neuron {

constexpr int kLanes = 8;  // samples in one vector of the "lanes" layout
constexpr int kMaxChannelBlock = 64;  // channels handled together

enum class LayoutKind : int { lanes = 0, nchw = 1, nhwc = 2 };
enum class NormMode : int { none = 0, per_step = 1, pooled = 2 };
enum class NeuronKind : int { lif = 0, parametric = 1, integrate = 2 };
enum class SurrogateKind : int { atan = 0, sigmoid = 1, piecewise_quadratic = 2, triangle = 3 };

// How the scalars of a [T, B, C, H, W] tensor lie in memory; vectors (V) and halo only mean something for lanes.
struct Layout {
  LayoutKind kind;
  int64_t vectors;
  int64_t halo;
};

struct Problem {
  int64_t T, B, C, H, W;  // of the convolution output; T counts the steps of the neuron
  bool pool;              // 2x2, stride 2 spike max-pool behind the neuron
  Layout out_layout;      // of the spikes and of their gradient
  Layout v_layout;        // of the initial and the final membrane potential (a tensor with T = 1)
  NeuronKind neuron;
  bool decay_input, hard_reset, detach_reset;
  SurrogateKind surrogate;
  double tau, v_threshold, v_reset, alpha;
};

// One input with its batch norm: the convolution output, or the residual / shortcut.
template <class S>
struct Branch {
  const S* x;     // null: there is no such input
  Layout layout;
  int64_t steps;  // 1 for a static input, else T
  NormMode mode;
  bool training;  // batch statistics (true) or running statistics
  double eps;
  const S *weight, *bias;           // null: 1 and 0
  S *running_mean, *running_var;    // null: not tracked
  const double* momentum;           // one factor an update of the running statistics
  S *mean, *invstd;                 // [sets, C]; written by forward, read by backward
  S *grad_x, *grad_weight, *grad_bias;  // backward only; null: not asked for

  // Number of sets of statistics: one per step, or one. (Forced inline: an out-of-line copy built with wide
  // instructions could be the one the linker keeps for all.)
  __attribute__((always_inline)) int64_t sets() const { return mode == NormMode::per_step && training ? steps : 1; }
};

// Count, mean and sum of squared deviations of a set.
struct Moments {
  double count, mean, m2;
};

// What the neuron's backward pass sums for one channel and one step: dx, and dx * (y - mean).
struct NormSums {
  double dx, dx_y;
};

// A block of channels is one unit of work (all), so that it stays in cache between the passes. Where channels share
// cache lines, blocks are wide and few: there the passes follow each other, each cut finer.
enum class Phase : int {
  all,         // unit: block
  statistics,  // forward; unit: block * T + step
  finish,      // forward; unit: block
  tiles,       // unit: block * parts + part
  gradient     // backward; unit: block * T + step
};

// How the work is cut up: made once a call, the same whatever the number of threads.
struct Plan {
  bool samples;           // the 8 lanes of a vector are samples (else neighbouring pixels of one sample)
  int64_t channel_block;  // channels handled together: more than one where a cache line holds several channels
  int64_t blocks;
  int64_t parts;          // of the tiles of a block; one: every block is done in one go
  int64_t tile_pixels;    // pixels of one tile (whole rows, unless the map is treated as one long row)
  int64_t tile_scalars;   // room for one channel of one tile
  int64_t workspace;      // bytes a worker needs
};

template <class S>
struct ForwardArgs {
  Problem problem;
  Plan plan;
  Branch<S> main, shortcut;
  const S* decay;   // 1/tau of a parametric neuron
  const S* v_init;  // null: v_reset (0 for soft reset)
  S* v_final;       // null: not asked for
  S* spikes;
  Moments* moments;  // [2 branches, T, C], scratch
};

template <class S>
struct BackwardArgs {
  Problem problem;
  Plan plan;
  Branch<S> main, shortcut;
  const S *decay, *v_init, *grad_spikes, *grad_v_final;
  S* grad_v_init;        // null: not asked for
  double* grad_decay;    // [parts, C] partial sums; null: not asked for
  NormSums* sums;        // [2 branches, parts, C, T], scratch
};

// The entry points of one instruction set. Each call handles units [first, last) of a phase.
struct Kernels {
  const char* name;
  void (*forward_f32)(const ForwardArgs<float>&, Phase phase, int64_t first, int64_t last, char* workspace);
  void (*forward_f64)(const ForwardArgs<double>&, Phase phase, int64_t first, int64_t last, char* workspace);
  void (*backward_f32)(const BackwardArgs<float>&, Phase phase, int64_t first, int64_t last, char* workspace);
  void (*backward_f64)(const BackwardArgs<double>&, Phase phase, int64_t first, int64_t last, char* workspace);
};

const Kernels& portable_kernels();
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
const Kernels& select_kernels();  // the best this machine can run, or what SNN_SPARSE_ISA asks for

}  // namespace neuron
}  // namespace snn_sparse
