// Winograd's F(2x2, 3x3) for one instruction set (SNN_SPARSE_ISA = portable, avx2, avx512); multiply-adds are meant here.
#include "convolution/winograd.h"

#include <cstring>

#include "common/simd.h"

namespace snn_sparse {
namespace SNN_SPARSE_ISA {
namespace {

template <class T>
struct Winograd {
  static constexpr int kBytes = SNN_SPARSE_VECTOR_BYTES, L = kBytes / static_cast<int>(sizeof(T));
  static constexpr int kRows = 6, kRegisters = kBytes == 64 ? 4 : 2;  // sums of 24 (12) registers, and what they need
  static constexpr int64_t kPanel = kRegisters * L;
  using V = Vec<T, kBytes>;

  const WinogradTask<T>& task;
  const WinogradGeometry g;
  const int64_t row;  // scalars between tiles of `sources`
  T* zeros;           // [row]: pixels outside the map
  T* sources;         // transformed gradients [16][tile][source]
  T* products;        // [panel][16][tile][result of the panel]

  Winograd(const WinogradTask<T>& of, T* scratch)
      : task(of), g(of.geometry), row(padded(g)), zeros(scratch), sources(zeros + row),
        products(sources + kWinogradProducts * of.block * row) {
    std::memset(zeros, 0, static_cast<size_t>(row) * sizeof(T));
  }

  static int64_t padded(const WinogradGeometry& g) { return (g.sources + L - 1) / L * L; }
  static int64_t scratch(const WinogradTask<T>& t) {
    return padded(t.geometry) + kWinogradProducts * t.block * (padded(t.geometry) + t.panels() * kPanel);
  }

  template <class X>
  static SNN_SPARSE_INLINE void transform_line(X& a, X& b, X& c, X& d) {
    const X sum = b + c, difference = c - b;
    a = a - c, d = b - d, b = sum, c = difference;
  }

  // Transforms Count channels of the 4x4 pixels behind a tile.
  template <class X>
  void transform_sources(const T* const* pixels, int64_t channel, T* to) const {
    X x[16];
    for (int i = 0; i < 16; ++i) std::memcpy(&x[i], pixels[i] + channel, sizeof(X));
    for (int i = 0; i < 4; ++i) transform_line(x[i], x[4 + i], x[8 + i], x[12 + i]);
    for (int i = 0; i < 16; i += 4) transform_line(x[i], x[i + 1], x[i + 2], x[i + 3]);
    for (int i = 0; i < 16; ++i) std::memcpy(to + i * task.block * row + channel, &x[i], sizeof(X));
  }

  void fill_sources(int64_t tile, T* to) const {
    const int64_t in_image = tile % (g.tile_rows() * g.tile_columns()), image = tile / (g.tile_rows() * g.tile_columns());
    const int64_t y0 = in_image / g.tile_columns() * 2 + g.padding - 2, x0 = in_image % g.tile_columns() * 2 + g.padding - 2;
    const T* pixels[16];
    for (int64_t i = 0; i < 16; ++i) {
      const int64_t y = y0 + i / 4, x = x0 + i % 4;
      const bool inside = y >= 0 && y < g.height && x >= 0 && x < g.width;
      pixels[i] = inside ? task.grad + ((image * g.height + y) * g.width + x) * g.sources : zeros;
    }
    int64_t channel = 0;
    for (; channel + L <= g.sources; channel += L) transform_sources<V>(pixels, channel, to);
    for (; channel < g.sources; ++channel) transform_sources<T>(pixels, channel, to);
  }

  // Products of M tiles with one panel of the weight.
  template <int M>
  void multiply(const T* from, const T* weight, T* to) const {
    V sum[M * kRegisters] = {};
    for (int64_t c = 0; c < g.sources; ++c, weight += kPanel) {
      V w[kRegisters];
      for (int i = 0; i < kRegisters; ++i) w[i] = load<T, kBytes>(weight + i * L);
      for (int m = 0; m < M; ++m) {
        const T x = from[m * row + c];
        for (int i = 0; i < kRegisters; ++i) sum[m * kRegisters + i] += w[i] * x;
      }
    }
    for (int i = 0; i < M * kRegisters; ++i) store<T, kBytes>(to + i * L, sum[i]);
  }

  template <int M>
  void multiply_last(int64_t tiles, const T* from, const T* weight, T* to) const {
    if (tiles == M) return multiply<M>(from, weight, to);
    if constexpr (M > 1) multiply_last<M - 1>(tiles, from, weight, to);
  }

  void multiply_all(int64_t tiles) const {
    for (int64_t product = 0; product < kWinogradProducts; ++product)
      for (int64_t panel = 0; panel < task.panels(); ++panel) {
        const T* weight = task.packed + (product * task.panels() + panel) * g.sources * kPanel;
        const T* from = sources + product * task.block * row;
        T* to = products + (panel * kWinogradProducts + product) * task.block * kPanel;
        int64_t tile = 0;
        for (; tile + kRows <= tiles; tile += kRows) multiply<kRows>(from + tile * row, weight, to + tile * kPanel);
        if (tile < tiles) multiply_last<kRows - 1>(tiles - tile, from + tile * row, weight, to + tile * kPanel);
      }
  }

  // The 2x2 results of a tile from its 16 products, for the first `count` results of a panel.
  void write_tile(int64_t tile, const T* from, int64_t result, int64_t count) const {
    const int64_t in_image = tile % (g.tile_rows() * g.tile_columns()), image = tile / (g.tile_rows() * g.tile_columns());
    const int64_t y = in_image / g.tile_columns() * 2, x = in_image % g.tile_columns() * 2;
    T* to = task.out + ((image * g.in_height + y) * g.in_width + x) * g.results + result;
    for (int64_t i = 0; i < count; i += L) {
      V line[2][4];
      for (int j = 0; j < 4; ++j) {
        const T* at = from + j * task.block * kPanel + i;
        const int64_t next = 4 * task.block * kPanel;
        const V b = load<T, kBytes>(at + next), c = load<T, kBytes>(at + 2 * next);
        line[0][j] = load<T, kBytes>(at) + b + c, line[1][j] = b - c - load<T, kBytes>(at + 3 * next);
      }
      const size_t bytes = static_cast<size_t>(smaller<int64_t>(L, count - i)) * sizeof(T);
      for (int r = 0; r < 2 && y + r < g.in_height; ++r) {
        const V left = line[r][0] + line[r][1] + line[r][2], right = line[r][1] - line[r][2] - line[r][3];
        T* pixel = to + r * g.in_width * g.results + i;
        std::memcpy(pixel, &left, bytes);
        if (x + 1 < g.in_width) std::memcpy(pixel + g.results, &right, bytes);
      }
    }
  }

  void write(int64_t first, int64_t tiles) const {
    for (int64_t tile = 0; tile < tiles; ++tile)
      for (int64_t panel = 0; panel < task.panels(); ++panel) {
        const T* from = products + (panel * kWinogradProducts * task.block + tile) * kPanel;
        write_tile(first + tile, from, panel * kPanel, smaller(kPanel, g.results - panel * kPanel));
      }
  }

  static void run(const WinogradTask<T>& task, T* scratch, int64_t begin, int64_t end) {
    const Winograd self(task, scratch);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t first = unit * task.block, tiles = smaller(task.block, self.g.tiles() - first);
      for (int64_t i = 0; i < tiles; ++i) self.fill_sources(first + i, self.sources + i * self.row);
      self.multiply_all(tiles);
      self.write(first, tiles);
    }
  }

  // One axis of the transformed kernel from three taps in reverse order.
  static SNN_SPARSE_INLINE void transform_taps(const V& a, const V& b, const V& c, V* to, int step) {
    const V half = V{} + T(0.5), outer = (a + c) * half, inner = b * half;
    to[0] = a, to[step] = outer + inner, to[2 * step] = outer - inner, to[3 * step] = c;
  }

  static void pack_weight(const WinogradTask<T>& task, int64_t begin, int64_t end) {
    const WinogradGeometry& g = task.geometry;
    const int64_t next = task.panels() * g.sources * kPanel;  // from product to product
    for (int64_t source = begin; source < end; ++source)
      for (int64_t first = 0; first < task.panels() * kPanel; first += L) {
        T taps[9][L] = {};
        const T* from = task.weight + (source * g.results + first) * 9;
        for (int64_t i = 0; i < smaller<int64_t>(L, g.results - first); ++i)
          for (int k = 0; k < 9; ++k) taps[8 - k][i] = from[i * 9 + k];
        V x[9], columns[12], all[16];
        std::memcpy(x, taps, sizeof(x));
        for (int k = 0; k < 3; ++k) transform_taps(x[k], x[3 + k], x[6 + k], columns + k, 3);
        for (int k = 0; k < 4; ++k) transform_taps(columns[3 * k], columns[3 * k + 1], columns[3 * k + 2], all + 4 * k, 1);
        T* to = task.packed + (first / kPanel * g.sources + source) * kPanel + first % kPanel;
        for (int k = 0; k < 16; ++k) store<T, kBytes>(to + k * next, all[k]);
      }
  }
};

template <class T>
constexpr WinogradKernels<T> kKernels{Winograd<T>::kPanel, Winograd<T>::scratch, Winograd<T>::pack_weight, Winograd<T>::run};

}  // namespace

const WinogradKernels<float>& winograd_kernels(float) { return kKernels<float>; }
const WinogradKernels<double>& winograd_kernels(double) { return kKernels<double>; }

}  // namespace SNN_SPARSE_ISA
}  // namespace snn_sparse
