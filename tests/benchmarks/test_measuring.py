"""What is measured and computed of a step on a GPU, with clock, allocator and profile made up."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

import snn_sparse as ss
import snn_sparse.ops
from benchmarks.floor import H100, chip_of, floor
from benchmarks.kernel_classes import OTHER, kernel_class
from benchmarks.machine import breakdown, kernels_of
from benchmarks.projection import search_hours, step_seconds
from snn_sparse.tickets.settings import SPARSITIES


def test_only_what_ran_on_the_gpu_counts():
    def event(name, device, mark=False):
        time = SimpleNamespace(elapsed_us=lambda: 5.0)
        return SimpleNamespace(name=name, device_type=device, is_user_annotation=mark, time_range=time)

    events = [
        event("_conv_kernel", DeviceType.CUDA),
        event("Optimizer.step#SGD.step", DeviceType.CUDA, True),
        event("cudaLaunchKernel", DeviceType.CPU),
        event("Memset (Device)", DeviceType.CUDA),
    ]
    kernels = kernels_of(events)
    assert kernels == [("_conv_kernel", pytest.approx(5e-6)), ("Memset (Device)", pytest.approx(5e-6))]
    found = breakdown([*kernels, *kernels], steps=2)
    assert found.kernels == 1
    assert {c: s for c, s in found.seconds.items() if s} == {
        "convolution (ours)": pytest.approx(5e-6),
        "copies, casts, layout": pytest.approx(5e-6),
    }


def test_a_profile_has_what_is_read_of_it():
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as found:
        torch.ones(3).add_(1)
    events = found.events()
    assert kernels_of(events) == []
    for e in events:
        e.device_type = DeviceType.CUDA
    assert {name for name, _ in kernels_of(events)} >= {"aten::ones", "aten::add_"}
    assert all(seconds > 0 for _, seconds in kernels_of(events))


def test_every_kernel_of_ours_has_a_class():
    texts = [file.read_text() for file in Path(snn_sparse.ops.__file__).parent.rglob("*.py")]
    found = {name for text in texts for name in re.findall(r"@triton\.jit[^\n]*\ndef (\w+_kernel)\(", text)}
    launched = {name for text in texts for name in re.findall(r"launch\(\s*(_\w+),", text)}
    assert len(found) > 9
    assert launched == found
    assert [name for name in sorted(found) if kernel_class(name) == OTHER] == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("_backward_kernel", "neuron"),
        ("_multistep_lif_forward_kernel_static", "neuron"),
        ("void at::native::(anonymous namespace)::max_pool_forward_nhwc<float, int>(float const*)", "neuron"),
        ("_conv_neuron_kernel", "convolution (ours)"),
        ("_weight_gradient_kernel", "convolution (ours)"),
        ("_finish_sums_kernel", "batch statistics"),
        ("void cudnn::bn_fw_tr_1C11_kernel_NCHW<float, float, int, 512, true>", "batch statistics"),
        ("void at::native::batch_norm_collect_statistics_channels_last_kernel<at::native::Var>", "batch statistics"),
        ("triton_red_fused__native_batch_norm_legit_functional_3", "batch statistics"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimizer"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedSgdMathFunctor>", "optimizer"),
        ("sm90_xmma_dgrad_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc", "convolution (library)"),
        ("void cutlass__5x_cudnn::Kernel<cutlass_tensorop_bf16_s16816fprop_optimized>", "convolution (library)"),
        ("void cudnn::ops::nchwToNhwcKernel<__nv_bfloat16>", "copies, casts, layout"),
        ("void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda>", "copies, casts, layout"),
        ("Memcpy DtoD (Device -> Device)", "copies, casts, layout"),
        ("_unpack_kernel", "copies, casts, layout"),
        ("nvjet_hsh_64x16_64x16_4x1_v_bz_TNT", "loss, head"),
        ("void at::native::(anonymous namespace)::cunn_SoftMaxForward<4, float>", "loss, head"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>", "elementwise"),
        ("triton_poi_fused_add_convolution_4", "elementwise"),
        ("what is this", OTHER),
    ],
)
def test_kernels_are_known_by_name(name, expected):
    assert kernel_class(name) == expected


def test_floor_agrees_with_what_was_worked_out_by_hand():
    model = ss.build_model("vgg16")
    found = floor(model, (128, 3, 32, 32), 5)
    # 1.2 TFLOP at 700 TFLOP/s; 177 M neurons of 20 bytes at 3 TB/s
    assert found["convolution"] == pytest.approx(1.7e-3, rel=0.05)
    assert found["neuron"] + found["optimizer"] == pytest.approx(1.2e-3, rel=0.15)
    assert found["overlapped"] == pytest.approx(1.95e-3, rel=0.15)
    assert found["one after the other"] == pytest.approx(2.9e-3, rel=0.15)
    assert found["one after the other"] == pytest.approx(sum(found[k] for k in ("convolution", "neuron", "optimizer")))
    assert next(model.parameters()).device.type == "cpu"


def test_floor_of_one_layer_by_hand():
    model = ss.build_model("vgg_small", timesteps=3)
    found = floor(model, (2, 3, 8, 8), 3)
    maps = [(32, 27, 64, 1), (64, 288, 16, 3), (128, 576, 4, 3)]  # channels, products each, pixels, times computed
    products = sum(2 * 2 * c * p * hw * t * (2 if p == 27 else 3) for c, p, hw, t in maps)
    assert found["convolution"] == pytest.approx((products + 2 * 3 * 128 * 10 * 2 * 3) / H100.flops)
    later = sum(2 * c * hw * t for c, _, hw, t in maps[1:])
    traffic = 2 * 32 * 64 * (12 + 3 * 4.375) + later * 20.375
    assert found["neuron"] == pytest.approx(traffic / H100.bandwidth)
    fused = floor(ss.fuse(model), (2, 3, 8, 8), 3)
    assert fused == pytest.approx(found)


def test_sparse_and_faster_chips_have_lower_floors():
    model, shape = ss.build_model("resnet19"), (128, 3, 32, 32)
    names = [name for name, _ in model.named_parameters()]
    dense, sparse = floor(model, shape, 5), floor(model, shape, 5, dict.fromkeys(names, 0.1))
    assert sparse["convolution"] == pytest.approx(dense["convolution"] / 10)
    assert sparse["neuron"] == dense["neuron"]
    assert dense["neuron"] < sparse["overlapped"] < dense["overlapped"]
    assert floor(model, shape, 5, chip=chip_of("NVIDIA H200"))["overlapped"] < dense["overlapped"]
    assert chip_of("NVIDIA H100 80GB HBM3") is chip_of("some other card") is H100


def test_projected_search():
    epochs = 300 + 14 * 280
    assert search_hours({0.0: 3.5e-3}, 128) == pytest.approx(epochs * 391 * 3.5e-3 / 3600)
    assert search_hours({0.0: 1.0}, 50_000) == pytest.approx(epochs / 3600)
    assert step_seconds({0.0: 4.0, 90.0: 2.0, 98.0: 1.0}, 45.0) == 3.0
    assert step_seconds({0.0: 4.0, 90.0: 2.0, 98.0: 1.0}, 90.0) == 2.0
    assert step_seconds({0.0: 4.0, 90.0: 2.0, 98.0: 1.0}, 99.0) == 1.0
    halves = {s: 2.0 - s / 100 for s in (0.0, 100.0)}
    later = sum(280 * (2 - s / 100) for s in SPARSITIES[1:])
    assert search_hours(halves, 50_000) == pytest.approx((300 * 2 + later) / 3600)
    with pytest.raises(ValueError, match="at least one"):
        step_seconds({}, 0.0)
    with pytest.raises(ValueError, match="batch_size"):
        search_hours({0.0: 1.0}, 0)
