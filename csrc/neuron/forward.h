// Forward pass of one block of channels: batch statistics where asked for, then batch norm + residual + neuron + pooling
// tile by tile, the membrane potential staying in scratch memory.
#pragma once

#include "neuron/batch_norm.h"
#include "neuron/moments.h"
#include "neuron/spike_pool.h"

namespace snn_sparse {
namespace SNN_SPARSE_ISA {

template <class S>
struct StepArgs {
  Span span;
  Ref<S> y, residual;            // residual.base may be null
  Affine<S> norm, norm_residual;
  S* v;                          // compact rows, updated
  Ref<S> out;                    // spikes, or h
  Mask<S> mask;
  const Neuron<S>* neuron;
};

// One step of one vector of channels of one tile; writes spikes, or (for backward) the charged potential h.
template <Charge K, bool Residual, bool Spikes, class S>
void step(const StepArgs<S>& args) {
  const StepArgs<S> a = args;  // local copies: the compiler knows that no store can change them
  const Neuron<S> n = *a.neuron;
  const Affine<S> norm = a.norm, norm_residual = a.norm_residual;
  const Mask<S> mask = a.mask;
  const Pack<S> one(S(1));
  int64_t rows = a.span.rows, columns = a.span.columns;
  if (seamless(a.y, columns) && seamless(a.residual, columns) && seamless(a.out, columns)) {
    columns *= rows;
    rows = 1;
  }
  for (int64_t r = 0; r < rows; ++r) {
    const S *y = a.y.base + r * a.y.row, *residual = Residual ? a.residual.base + r * a.residual.row : nullptr;
    S *v_row = a.v + r * columns * kLanes, *out = a.out.base + r * a.out.row;
    for (int64_t i = 0; i < columns; ++i) {
      Pack<S> x = normalise(load(y + i * a.y.column), norm);
      if (Residual) x = x + normalise(load(residual + i * a.residual.column), norm_residual);
      const Pack<S> h = charge<K>(load(v_row + i * kLanes), x, n);
      const Mask<S> spike = h >= n.fires_at;
      store(v_row + i * kLanes, reset(h, spike, n));
      store(out + i * a.out.column, Spikes ? keep(mask, keep(spike, one)) : h);
    }
  }
}

template <class S>
using StepFunction = void (*)(const StepArgs<S>&);

template <Charge K, bool Spikes, class S>
StepFunction<S> step_function(bool residual) {
  return residual ? step<K, true, Spikes, S> : step<K, false, Spikes, S>;
}

template <bool Spikes, class S>
StepFunction<S> step_function(Charge k, bool residual) {
  switch (k) {
    case Charge::decay_div: return step_function<Charge::decay_div, Spikes, S>(residual);
    case Charge::leak_div: return step_function<Charge::leak_div, Spikes, S>(residual);
    case Charge::decay_mul: return step_function<Charge::decay_mul, Spikes, S>(residual);
    case Charge::leak_mul: return step_function<Charge::leak_mul, Spikes, S>(residual);
    case Charge::scale: return step_function<Charge::scale, Spikes, S>(residual);
    case Charge::scale_late: return step_function<Charge::scale_late, Spikes, S>(residual);
    default: return step_function<Charge::integrate, Spikes, S>(residual);
  }
}

template <class S>
inline Port<S> input_port(const Branch<S>& b, const Problem& q, const Plan& plan, Arena& arena, bool keep_steps) {
  return make_port(const_cast<S*>(b.x), b.layout, q, plan, b.steps, false, arena, keep_steps);
}

// v before the first step of a tile, for every vector of the block: compact rows at v + c * slot_step.
template <class S>
inline void start_potential(const Port<S>& v_init, const Tiles& tiles, const Span& s, const Mask<S>& mask,
                            const Neuron<S>& n, int64_t c0, int64_t slots, int64_t slot_step, S* v) {
  if (v_init) v_init.load(0, s, c0, slots);
  const int64_t line = tiles.line(s);
  for (int64_t c = 0; c < slots; ++c) {
    S* to = v + c * slot_step;
    if (v_init)
      copy_rows(v_init.at(0, s, c0, c, line), Ref<S>{to, line, kLanes}, s, mask);
    else
      fill(to, s.rows * line, n.start);
  }
}

template <class S>
class Forward {
 public:
  Forward(const ForwardArgs<S>& a, char* workspace)
      : a_(a), q_(a.problem), plan_(a.plan), tiles_(q_, plan_), neuron_(q_, a.decay), arena_(workspace),
        y_(input_port(a.main, q_, plan_, arena_, false)),
        residual_(input_port(a.shortcut, q_, plan_, arena_, false)),
        v_init_(make_port(const_cast<S*>(a.v_init), q_.v_layout, q_, plan_, 1, false, arena_)),
        v_final_(make_port(a.v_final, q_.v_layout, q_, plan_, 1, false, arena_)),
        out_(make_port(a.spikes, q_.out_layout, q_, plan_, q_.T, q_.pool, arena_)),
        v_(arena_.take<S>(plan_.slots() * plan_.tile_scalars)),
        unpooled_(arena_.take<S>(plan_.tile_scalars)),
        norm_(arena_.take<Affine<S>>(plan_.slots() * q_.T)),
        norm_residual_(arena_.take<Affine<S>>(plan_.slots() * q_.T)),
        step_(step_function<true, S>(charge_kind(q_), bool(residual_))) {}

  // One unit of a phase.
  void run(Phase phase, int64_t unit) {
    switch (phase) {
      case Phase::all:
        enter(unit);
        for (int64_t t = 0; t < q_.T; ++t) statistics(t);
        finish();
        return tiles(0);
      case Phase::statistics:
        enter(unit / q_.T);
        return statistics(unit % q_.T);
      case Phase::finish:
        enter(unit);
        return finish();
      default:
        enter(unit / plan_.parts);
        tiles(unit % plan_.parts);
    }
  }

 private:
  void enter(int64_t block) {
    c0_ = block * plan_.channel_block;
    channels_ = smaller(plan_.channel_block, q_.C - c0_);
    slots_ = channels_ / plan_.width();
  }

  void statistics(int64_t t) {
    step_moments(q_, plan_, a_.main, y_, t, c0_, channels_);
    step_moments(q_, plan_, a_.shortcut, residual_, t, c0_, channels_);
  }

  void finish() {
    finish_statistics(q_, a_.main, c0_, channels_);
    finish_statistics(q_, a_.shortcut, c0_, channels_);
  }

  // One part of the tiles of a block of channels.
  void tiles(int64_t part) {
    affine_table(q_, plan_, a_.main, c0_, slots_, norm_);
    if (residual_) affine_table(q_, plan_, a_.shortcut, c0_, slots_, norm_residual_);
    for (int64_t c = c0_; part == 0 && c < c0_ + channels_; ++c) {
      out_.view.clear_padding(c);
      if (v_final_) v_final_.view.clear_padding(c);
    }
    const int64_t end = tiles_.begin_of(part + 1, plan_.parts);
    for (int64_t i = tiles_.begin_of(part, plan_.parts); i < end; ++i) tile(tiles_.at(i));
  }

  void tile(const Span& s) {
    const Span pooled = tiles_.pooled(s);
    const Mask<S> mask = first_lanes<S>(s.valid);
    const int64_t line = tiles_.line(s);
    start_potential(v_init_, tiles_, s, mask, neuron_, c0_, slots_, plan_.tile_scalars, v_);
    for (int64_t t = 0; t < q_.T; ++t) {
      if (t < a_.main.steps) y_.load(t, s, c0_, channels_);
      if (residual_) residual_.load(t, s, c0_, channels_);
      for (int64_t c = 0; c < slots_; ++c) {
        const Ref<S> out = out_.at(t, pooled, c0_, c, tiles_.pooled_line(s));
        StepArgs<S> a;
        a.span = s;
        a.y = y_.at(a_.main.steps > 1 ? t : 0, s, c0_, c, line);
        a.residual = residual_ ? residual_.at(t, s, c0_, c, line) : Ref<S>{nullptr, 0, 0};
        a.norm = norm_[c * q_.T + t];
        if (residual_) a.norm_residual = norm_residual_[c * q_.T + t];
        a.v = v_ + c * plan_.tile_scalars;
        a.out = q_.pool ? Ref<S>{unpooled_, line, kLanes} : out;
        a.mask = mask;
        a.neuron = &neuron_;
        step_(a);
        if (q_.pool) pool_forward(unpooled_, s, out);
      }
      out_.flush(t, pooled, c0_, channels_);
    }
    if (v_final_) finish_potential(s, mask);
  }

  void finish_potential(const Span& s, const Mask<S>& mask) {
    const int64_t line = tiles_.line(s);
    for (int64_t c = 0; c < slots_; ++c)
      copy_rows(Ref<S>{v_ + c * plan_.tile_scalars, line, kLanes}, v_final_.at(0, s, c0_, c, line), s, mask);
    v_final_.flush(0, s, c0_, channels_);
  }

  const ForwardArgs<S>& a_;
  const Problem& q_;
  const Plan& plan_;
  Tiles tiles_;
  Neuron<S> neuron_;
  Arena arena_;
  Port<S> y_, residual_, v_init_, v_final_, out_;
  S *v_, *unpooled_;
  Affine<S>*norm_, *norm_residual_;
  StepFunction<S> step_;
  int64_t c0_ = 0, channels_ = 0, slots_ = 0;
};

}  // namespace SNN_SPARSE_ISA
}  // namespace snn_sparse
