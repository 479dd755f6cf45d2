// The integer codes and limits that Python knows too; one definition a line, which a test of the package reads.
#pragma once

namespace snn_sparse {

enum class NeuronKind : int { lif = 0, plif = 1, if_ = 2, leaky = 3 };
enum class Shape : int { atan = 0, logistic = 1, triangle = 2, rectangle = 3, fast_sigmoid = 4, gaussian = 5 };
enum class Norm : int { none = 0, per_step = 1, pooled = 2, frozen = 3 };

// Memory formats of a sequence [T, N, C, H, W]; lanes with V vectors side by side: kFormatLanes + V.
constexpr int kFormatNchw = 0;
constexpr int kFormatNhwc = 1;
constexpr int kFormatLanes = 1;

constexpr int kLanes = 8;       // samples in a vector
constexpr int kMaxVectors = 8;  // vectors side by side
constexpr int kMaxKernel = 7;
constexpr int kMaxStride = 8;
constexpr int kMaxPadding = 64;
constexpr int kMaxSpikeWidth = 4096;  // pixels of a row of spikes

}  // namespace snn_sparse
