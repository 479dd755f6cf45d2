// Backward pass of one block of channels. Tile by tile: recompute h of all steps, then backpropagate through time,
// writing dx (gradient of the normalised input) and summing what batch norm needs; a second pass finishes grad_y.
#pragma once

#include "neuron/reverse_step.h"

namespace snn_sparse {
namespace SNN_SPARSE_ISA {

template <class S>
class Backward {
 public:
  Backward(const BackwardArgs<S>& a, char* workspace)
      : a_(a), q_(a.problem), plan_(a.plan), tiles_(q_, plan_), neuron_(q_, a.decay), arena_(workspace),
        y_(input_port(a.main, q_, plan_, arena_, true)),
        residual_(input_port(a.shortcut, q_, plan_, arena_, true)),
        grad_y_(make_port(a.main.grad_x, a.main.layout, q_, plan_, a.main.steps, false, arena_)),
        grad_residual_(make_port(a.shortcut.grad_x, a.shortcut.layout, q_, plan_, a.shortcut.steps, false, arena_)),
        v_init_(make_port(const_cast<S*>(a.v_init), q_.v_layout, q_, plan_, 1, false, arena_)),
        grad_v_init_(make_port(a.grad_v_init, q_.v_layout, q_, plan_, 1, false, arena_)),
        grad_v_final_(make_port(const_cast<S*>(a.grad_v_final), q_.v_layout, q_, plan_, 1, false, arena_)),
        grad_spikes_(make_port(const_cast<S*>(a.grad_spikes), q_.out_layout, q_, plan_, q_.T, q_.pool, arena_)),
        start_(scratch(plan_.slots())), v_(scratch(plan_.slots())),
        h_(scratch(plan_.slots() * q_.T)), unpooled_(scratch(1)),
        norm_(arena_.take<Affine<S>>(plan_.slots() * q_.T)),
        norm_residual_(arena_.take<Affine<S>>(plan_.slots() * q_.T)),
        step_(step_function<false, S>(charge_kind(q_), bool(residual_))),
        reverse_(reverse_function<S>(charge_kind(q_), q_.surrogate)) {}

  void run(Phase phase, int64_t unit) {
    switch (phase) {
      case Phase::tiles: return tiles(unit / plan_.parts, unit % plan_.parts);
      case Phase::gradient: return gradient(unit / q_.T, unit % q_.T);
      default:
        tiles(unit, 0);
        for (int64_t t = 0; t < q_.T; ++t) gradient(unit, t);
    }
  }

 private:
  void select(int64_t block) {
    c0_ = block * plan_.channel_block;
    channels_ = smaller(plan_.channel_block, q_.C - c0_);
    slots_ = channels_ / plan_.width();
    affine_table(q_, plan_, a_.main, c0_, slots_, norm_);
    if (residual_) affine_table(q_, plan_, a_.shortcut, c0_, slots_, norm_residual_);
  }

  NormSums* sums_at(bool shortcut, int64_t channel, int64_t t) const {
    return a_.sums + (((shortcut ? plan_.parts : 0) + part_) * q_.T + t) * q_.C + channel;
  }

  void tiles(int64_t block, int64_t part) {
    select(block);
    part_ = part;
    for (int64_t c = c0_; c < c0_ + channels_; ++c) {
      for (int64_t t = 0; t < q_.T; ++t) *sums_at(false, c, t) = *sums_at(true, c, t) = {0, 0};
      if (a_.grad_decay) a_.grad_decay[part * q_.C + c] = 0;
      if (part == 0) clear_padding(c);
    }
    const int64_t end = tiles_.begin_of(part + 1, plan_.parts);
    for (int64_t i = tiles_.begin_of(part, plan_.parts); i < end; ++i) tile(tiles_.at(i));
  }

  void clear_padding(int64_t c) {
    if (grad_y_) grad_y_.view.clear_padding(c);
    if (grad_residual_) grad_residual_.view.clear_padding(c);
    if (grad_v_init_) grad_v_init_.view.clear_padding(c);
  }

  void gradient(int64_t block, int64_t t) {
    select(block);
    const NormSums* shortcut_sums = a_.sums + plan_.parts * q_.C * q_.T;
    norm_backward(q_, plan_, a_.main, y_, grad_y_, norm_, a_.sums, t, c0_, channels_);
    if (residual_)
      norm_backward(q_, plan_, a_.shortcut, residual_, grad_residual_, norm_residual_, shortcut_sums, t, c0_, channels_);
  }

  S* scratch(int64_t tiles) { return arena_.take<S>(tiles * plan_.tile_scalars); }
  S* h_at(int64_t t, int64_t c) const { return h_ + (t * plan_.slots() + c) * plan_.tile_scalars; }
  int64_t step_of_input(int64_t t) const { return a_.main.steps > 1 ? t : 0; }
  static Ref<S> none() { return {nullptr, 0, 0}; }

  void tile(const Span& s) {
    const Mask<S> mask = first_lanes<S>(s.valid);
    start_potential(v_init_, tiles_, s, mask, neuron_, c0_, slots_, plan_.tile_scalars, start_);
    __builtin_memcpy(v_, start_, slots_ * plan_.tile_scalars * sizeof(S));
    for (int64_t t = 0; t < q_.T; ++t) recompute(t, s, mask);
    start_gradient(s, mask);
    for (int64_t t = q_.T - 1; t >= 0; --t) reverse(t, s, mask);
    if (a_.main.steps == 1 && grad_y_) grad_y_.flush(0, s, c0_, channels_);
    if (grad_v_init_) finish_gradient(s, mask);
  }

  void recompute(int64_t t, const Span& s, const Mask<S>& mask) {
    const int64_t line = tiles_.line(s);
    if (t < a_.main.steps) y_.load(t, s, c0_, channels_);
    if (residual_) residual_.load(t, s, c0_, channels_);
    for (int64_t c = 0; c < slots_; ++c) {
      StepArgs<S> a;
      a.span = s;
      a.y = y_.at(step_of_input(t), s, c0_, c, line);
      a.residual = residual_ ? residual_.at(t, s, c0_, c, line) : none();
      a.norm = norm_[c * q_.T + t];
      if (residual_) a.norm_residual = norm_residual_[c * q_.T + t];
      a.v = v_ + c * plan_.tile_scalars;
      a.out = {h_at(t, c), line, kLanes};
      a.mask = mask;
      a.neuron = &neuron_;
      step_(a);
    }
  }

  // From here on v_ holds the gradient of the potential.
  void start_gradient(const Span& s, const Mask<S>& mask) {
    const int64_t line = tiles_.line(s);
    if (grad_v_final_) grad_v_final_.load(0, s, c0_, channels_);
    for (int64_t c = 0; c < slots_; ++c) {
      S* to = v_ + c * plan_.tile_scalars;
      if (grad_v_final_)
        copy_rows(grad_v_final_.at(0, s, c0_, c, line), Ref<S>{to, line, kLanes}, s, mask);
      else
        fill(to, s.rows * line, S(0));
    }
  }

  void finish_gradient(const Span& s, const Mask<S>& mask) {
    const int64_t line = tiles_.line(s);
    for (int64_t c = 0; c < slots_; ++c)
      copy_rows(Ref<S>{v_ + c * plan_.tile_scalars, line, kLanes}, grad_v_init_.at(0, s, c0_, c, line), s, mask);
    grad_v_init_.flush(0, s, c0_, channels_);
  }

  void reverse(int64_t t, const Span& s, const Mask<S>& mask) {
    const Span pooled = tiles_.pooled(s);
    grad_spikes_.load(t, pooled, c0_, channels_);
    for (int64_t c = 0; c < slots_; ++c) reverse_(reverse_args(t, s, pooled, mask, c));
    if (grad_y_ && a_.main.steps > 1) grad_y_.flush(t, s, c0_, channels_);
    if (grad_residual_) grad_residual_.flush(t, s, c0_, channels_);
  }

  ReverseArgs<S> reverse_args(int64_t t, const Span& s, const Span& pooled, const Mask<S>& mask, int64_t c) {
    const int64_t line = tiles_.line(s), cell = c * q_.T + t, channel = c0_ + c * plan_.width();
    const Branch<S>&main = a_.main, &shortcut = a_.shortcut;
    ReverseArgs<S> a;
    a.span = s;
    a.grad_spikes = grad_spikes_.at(t, pooled, c0_, c, tiles_.pooled_line(s));
    if (q_.pool) {
      pool_backward(h_at(t, c), s, a.grad_spikes, neuron_.fires_at, unpooled_);
      a.grad_spikes = {unpooled_, line, kLanes};
    }
    a.y = y_.at(step_of_input(t), s, c0_, c, line);
    a.residual = residual_ ? residual_.at(t, s, c0_, c, line) : none();
    a.norm = norm_[cell];
    a.norm_residual = residual_ ? norm_residual_[cell] : Affine<S>{};
    a.h = h_at(t, c);
    a.previous_is_h = t > 0;
    a.previous = t > 0 ? h_at(t - 1, c) : start_ + c * plan_.tile_scalars;
    a.grad_v = v_ + c * plan_.tile_scalars;
    a.grad_y = grad_y_ ? grad_y_.at(step_of_input(t), s, c0_, c, line) : none();
    a.grad_residual = grad_residual_ ? grad_residual_.at(t, s, c0_, c, line) : none();
    // With batch statistics the second pass scales; with fixed ones dx only has to be scaled.
    a.scale_y = main.uses_batch() ? Pack<S>(S(1)) : a.norm.scale;
    a.scale_residual = shortcut.uses_batch() ? Pack<S>(S(1)) : a.norm_residual.scale;
    a.accumulate_y = main.steps == 1 && t < q_.T - 1;
    a.sums = main.norm == Norm::none ? nullptr : sums_at(false, channel, t);
    a.sums_residual = !residual_ || shortcut.norm == Norm::none ? nullptr : sums_at(true, channel, t);
    a.grad_decay = a_.grad_decay ? a_.grad_decay + part_ * q_.C + channel : nullptr;
    a.mask = mask;
    a.neuron = &neuron_;
    return a;
  }

  const BackwardArgs<S>& a_;
  const Problem& q_;
  const Plan& plan_;
  Tiles tiles_;
  Neuron<S> neuron_;
  Arena arena_;
  Port<S> y_, residual_, grad_y_, grad_residual_, v_init_, grad_v_init_, grad_v_final_, grad_spikes_;
  S *start_, *v_, *h_, *unpooled_;
  Affine<S>*norm_, *norm_residual_;
  StepFunction<S> step_;
  ReverseFunction<S> reverse_;
  int64_t c0_ = 0, channels_ = 0, slots_ = 0, part_ = 0;
};

}  // namespace SNN_SPARSE_ISA
}  // namespace snn_sparse
