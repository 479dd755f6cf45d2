// Direct sparse convolution for one instruction set; compiled with SNN_SPARSE_ISA = portable, avx2, avx512
// and -ffp-contract=fast (multiply-adds are meant here).
#include <cstring>

#include "convolution/core.h"
#include "convolution/register_tiles.h"

namespace snn_sparse {
namespace SNN_SPARSE_ISA {
namespace {

// How a pixel of V vectors is cut into registers; `slices` > 1 only where a tile is one pixel.
struct PixelRegisters {
  int bytes;
  int64_t registers, slices;
};

template <class T>
PixelRegisters pixel_registers(int64_t vectors) {
  const int64_t pixel_bytes = vectors * kLanes * static_cast<int64_t>(sizeof(T));
  int bytes = SNN_SPARSE_VECTOR_BYTES;
  if (pixel_bytes % bytes != 0) bytes /= 2;  // 64 byte registers and an odd number of float vectors
  const int64_t total = pixel_bytes / bytes;
  int64_t slices = 1;
  while (total % slices != 0 || total / slices > kMaxRegisters) ++slices;
  return {bytes, total / slices, slices};
}

template <class T>
int64_t tile_pixels(int64_t vectors, int64_t step) {
  const PixelRegisters r = pixel_registers<T>(vectors);
  return r.slices > 1 ? 1 : max_tile_pixels(r.registers, step);
}

template <class T, bool Forward>
TileFunction<T> kernel_for(const PixelRegisters& r, int pixels, int64_t step, int64_t out) {
  const int registers = static_cast<int>(r.registers);
  if (SNN_SPARSE_VECTOR_BYTES == 64 && r.bytes != 64)
    return select_kernel<T, SNN_SPARSE_VECTOR_BYTES / (SNN_SPARSE_VECTOR_BYTES == 64 ? 2 : 1), Forward>(
        registers, pixels, step, out);
  return select_kernel<T, SNN_SPARSE_VECTOR_BYTES, Forward>(registers, pixels, step, out);
}

// Copies the source pixels of a band and block into the packed box. Zeros before the rows stay from its allocation.
template <class T>
void pack_box(const ConvTask<T>& task, T* box, int64_t g, const Band& band, int64_t block) {
  const LanesShape& s = task.geometry->source;
  const PackedBox& b = task.plan->box;
  const int64_t pixel = s.pixel_stride(), width = (band.column_end - band.column_begin) * pixel;
  const size_t zero_bytes = static_cast<size_t>(band.zero_columns * pixel) * sizeof(T);
  const int64_t first = task.lists->block_begin(block), last = task.lists->block_begin(block + 1);
  for (int64_t channel = first; channel < last; ++channel) {
    const T* in = task.source + g * s.group_stride() + s.offset(channel, band.row_begin, band.column_begin);
    T* out = box + (channel - first) * b.channel_stride + b.zeros * pixel;
    for (int64_t row = band.row_begin; row < band.row_end; ++row, in += s.row_stride(), out += b.row_stride) {
      std::memcpy(out, in, static_cast<size_t>(width) * sizeof(T));
      std::memset(out + width, 0, zero_bytes);
    }
  }
}

// Calls the kernels for the tiles of a band of group g; tiles of equal size that follow each other share a call.
template <class T, bool Forward>
void run_band(const ConvTask<T>& task, TileRun<T> run, T* box, int64_t g, const Band& band, int64_t block) {
  const LanesShape &s = task.geometry->source, &d = task.geometry->destination;
  const PixelRegisters r = pixel_registers<T>(s.V);
  const int64_t step = task.geometry->source_step(), out = task.geometry->destination_step();
  const Tile* tiles = task.plan->tiles.data();
  const int64_t begin = band.tile_begin, end = band.tile_end;
  const T* source = task.source + g * s.group_stride();
  if (task.plan->box.used) {
    pack_box(task, box, g, band, block);
    source = box;
  }
  for (int64_t slice = 0; slice < r.slices; ++slice) {
    const int64_t shift = slice * r.registers * (r.bytes / static_cast<int64_t>(sizeof(T)));
    run.source = source + shift;
    run.destination = task.destination + g * d.group_stride() + shift;
    for (int64_t i = begin, next = begin; i < end; i = next) {
      while (next < end && tiles[next].pixels == tiles[i].pixels) ++next;
      run.tiles = tiles + i;
      run.tile_count = next - i;
      kernel_for<T, Forward>(r, tiles[i].pixels, step, out)(run);
    }
  }
}

template <class T>
TileRun<T> common_run(const ConvTask<T>& task) {
  const LiveLists& s = *task.lists;
  TileRun<T> run{};
  run.segments = task.plan->segments.data();
  run.taps = s.tap_count;
  run.offsets = task.offsets;
  run.values = task.values;
  run.channel_stride = task.geometry->destination.channel_stride();
  run.bias = task.bias;
  return run;
}

template <class T>
void forward(const ConvTask<T>& task, T* box, int64_t unit_begin, int64_t unit_end) {
  const LiveLists& s = *task.lists;
  const int64_t bands = task.bands(), parts = task.filter_parts;
  TileRun<T> run = common_run(task);
  for (int64_t unit = unit_begin; unit < unit_end; ++unit) {
    const int64_t part = unit % parts, band = unit / parts % bands, g = unit / parts / bands;
    run.filter_begin = s.filters * part / parts;
    run.filter_end = s.filters * (part + 1) / parts;
    for (int64_t block = 0; block < s.blocks; ++block) {
      run.pointers = s.pointers + s.segment(0, block);
      run.first_block = block == 0;
      run_band<T, true>(task, run, box, g, task.plan->bands[static_cast<size_t>(band)], block);
    }
  }
}

// Adds the lanes of a register pairwise.
template <class T>
T add_lanes(const T* p, int64_t lanes) {
  T sum[64 / sizeof(T)];
  std::memcpy(sum, p, static_cast<size_t>(lanes) * sizeof(T));
  for (int64_t n = lanes / 2; n > 0; n /= 2)
    for (int64_t i = 0; i < n; ++i) sum[i] += sum[i + n];
  return sum[0];
}

// Adds up and writes the gradients of one filter's live weights of one block.
template <class T>
void write_gradients(const LiveLists& s, const WeightGradientOutput<T>& out, const T* partial, int64_t base,
                     int64_t lanes, int64_t filter, int64_t block) {
  const int32_t* pointers = s.pointers + s.segment(filter, block);
  for (int64_t tap = 0; tap < s.tap_count; ++tap) {
    const int64_t dense = filter * out.strides.filter + s.taps[tap];
    for (int64_t k = pointers[tap]; k < pointers[tap + 1]; ++k) {
      out.dense[dense + s.channels[k] * out.strides.channel] = add_lanes(partial + (k - base) * lanes, lanes);
    }
  }
}

// End of the largest chunk of filters from `begin` whose partial sums fit (at least one filter).
int64_t chunk_end(const LiveLists& s, int64_t block, int64_t begin, int64_t limit) {
  const int32_t* pointers = s.pointers + s.segment(0, block);
  int64_t end = begin + 1;
  while (end < limit && pointers[(end + 1) * s.tap_count] - pointers[begin * s.tap_count] <= kChunkLive) ++end;
  return end;
}

// The live weights of filters [filter_begin, filter_end) in blocks [block_begin, block_end), and where their partial sums are.
template <class T>
struct Chunk {
  int64_t block_begin, block_end, filter_begin, filter_end;
  int64_t lanes;
  T* partial;       // block after block
  T* bias_partial;  // a register a filter, or null

  int64_t live(const LiveLists& s, int64_t block) const {
    return s.pointers[s.segment(filter_end - 1, block) + s.tap_count] - s.pointers[s.segment(filter_begin, block)];
  }
  int64_t live(const LiveLists& s) const {
    int64_t sum = 0;
    for (int64_t block = block_begin; block < block_end; ++block) sum += live(s, block);
    return sum;
  }
};

// Partial sums of one chunk over all groups and tiles, in an order that does not depend on the threads.
template <class T>
void correlate_chunk(const ConvTask<T>& task, TileRun<T> run, T* box, const Chunk<T>& chunk) {
  const LiveLists& s = *task.lists;
  run.filter_begin = chunk.filter_begin;
  run.filter_end = chunk.filter_end;
  for (int64_t g = 0; g < task.geometry->source.groups(); ++g) {
    for (const Band& band : task.plan->bands) {
      run.partial = chunk.partial;
      for (int64_t block = chunk.block_begin; block < chunk.block_end; ++block) {
        run.pointers = s.pointers + s.segment(0, block);
        run.partial_base = run.pointers[chunk.filter_begin * s.tap_count];
        run.bias_partial = block == 0 ? chunk.bias_partial : nullptr;
        run_band<T, false>(task, run, box, g, band, block);
        run.partial += chunk.live(s, block) * chunk.lanes;
      }
    }
  }
}

// Zeroes a chunk's partial sums, computes them, and writes what they add up to.
template <class T>
void compute_chunk(const ConvTask<T>& task, const TileRun<T>& run, const WeightGradientOutput<T>& out, T* box,
                   const Chunk<T>& chunk) {
  const LiveLists& s = *task.lists;
  const int64_t registers = chunk.live(s) + (chunk.bias_partial ? chunk.filter_end - chunk.filter_begin : 0);
  std::memset(chunk.partial, 0, static_cast<size_t>(registers * chunk.lanes) * sizeof(T));
  correlate_chunk(task, run, box, chunk);
  const T* partial = chunk.partial;
  for (int64_t block = chunk.block_begin; block < chunk.block_end; ++block) {
    const int64_t base = s.pointers[s.segment(chunk.filter_begin, block)];
    for (int64_t filter = chunk.filter_begin; filter < chunk.filter_end; ++filter)
      write_gradients(s, out, partial, base, chunk.lanes, filter, block);
    partial += chunk.live(s, block) * chunk.lanes;
  }
  if (!chunk.bias_partial) return;
  for (int64_t filter = chunk.filter_begin; filter < chunk.filter_end; ++filter)
    out.bias[filter] = add_lanes(chunk.bias_partial + (filter - chunk.filter_begin) * chunk.lanes, chunk.lanes);
}

template <class T>
void weight_gradient(const ConvTask<T>& task, const WeightGradientOutput<T>& out, T* box, T* partial,
                     int64_t filter_begin, int64_t filter_end) {
  if (filter_begin >= filter_end) return;
  const LiveLists& s = *task.lists;
  const TileRun<T> run = common_run(task);
  const int64_t lanes = pixel_registers<T>(task.geometry->source.V).bytes / static_cast<int64_t>(sizeof(T));
  Chunk<T> chunk{0, s.blocks, filter_begin, filter_end, lanes, partial, nullptr};
  const bool all_blocks = chunk.live(s) <= kAllBlocksLive;  // then input and gradient are read only once
  for (int64_t block = 0; block < s.blocks; block = chunk.block_end) {
    chunk.block_begin = block;
    chunk.block_end = all_blocks ? s.blocks : block + 1;
    for (int64_t begin = filter_begin; begin < filter_end; begin = chunk.filter_end) {
      chunk.filter_begin = begin;
      chunk.filter_end = all_blocks ? filter_end : chunk_end(s, block, begin, filter_end);
      chunk.bias_partial = out.bias && block == 0 ? partial + chunk.live(s) * lanes : nullptr;
      compute_chunk(task, run, out, box, chunk);
    }
  }
}

template <class T>
constexpr ConvKernels<T> kKernels{tile_pixels<T>, forward<T>, weight_gradient<T>};

}  // namespace

const ConvKernels<float>& conv_kernels(float) { return kKernels<float>; }
const ConvKernels<double>& conv_kernels(double) { return kKernels<double>; }

}  // namespace SNN_SPARSE_ISA
}  // namespace snn_sparse
