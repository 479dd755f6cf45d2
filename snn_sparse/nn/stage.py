"""A stage: convolution, batch norm, residual, neuron and max-pool over all timesteps, as few operators."""

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from snn_sparse.nn import convolve as convolutions
from snn_sparse.nn.convolve import ConvPlan
from snn_sparse.nn.layers import BatchNorm2d
from snn_sparse.nn.norm import NormSettings, at_work
from snn_sparse.ops import Norm, Packed, neuron_sequence, unpack_spikes
from snn_sparse.ops.backend import implementation
from snn_sparse.ops.convolution import convolution_neuron
from snn_sparse.ops.neuron import plain_potentials
from snn_sparse.ops.spikes import NCHW, NHWC, PACKED, MemoryFormat, Sizes, convert, format_of

Tensor = torch.Tensor


_KINDS = {"conv": "Conv2d, Conv1d or Linear", "norm": "a batch norm", "norm_residual": "a batch norm"}


@dataclass(frozen=True)
class StagePlan:
    """How a stage computes for inputs of one shape; made for a whole graph at once.

    Attributes:
        implementation: of the neuron: ``cpp``, ``triton`` or ``plain``.
        timesteps: T of the spikes.
        sizes: (T or 1, N, C, H, W) of what the neuron reads.
        conv: of the convolution, if there is one.
        source: memory format of the input.
        main: of what the neuron reads.
        residual: of the residual.
        out: of the output.
        whole: whether a GPU may run convolution, frozen batch norm and neuron as one kernel.
    """

    implementation: str
    timesteps: int
    sizes: Sizes
    conv: ConvPlan | None = None
    source: MemoryFormat = NCHW
    main: MemoryFormat = NCHW
    residual: MemoryFormat = NCHW
    out: MemoryFormat = NCHW
    whole: bool = False


@dataclass(frozen=True)
class StageSettings:
    """How the layers of a stage are called.

    Attributes:
        timesteps: T where the input is constant; None: as many as the input has.
        norm, norm_residual: of the batch norms.
        potentials: whether the membrane potential of each step is an output too.
        before_reset: whether that is the one before the reset.
    """

    timesteps: int | None = None
    norm: NormSettings = field(default_factory=NormSettings)
    norm_residual: NormSettings = field(default_factory=NormSettings)
    potentials: bool = False
    before_reset: bool = False


class Stage(nn.Module):
    """Convolution -> batch norm -> (+ residual) -> neuron -> 2x2 max-pool; any of them may be left out.

    On a CPU and an NVIDIA GPU, all behind the convolution is one operator, and the membrane potential never reaches
    memory. Modules are shared, not copied.

    Args:
        conv: ``Conv2d``, ``Conv1d`` or ``Linear`` of torch or ours (:class:`snn_sparse.nn.MaskedConv2d` under a mask).
        norm: a batch norm of torch or ours.
        neuron: of ours, such as :class:`snn_sparse.nn.LIF`.
        norm_residual: batch norm of the residual.
        pool: whether a 2x2 max-pool of stride 2 follows the neuron.
        settings: how they are called; batch norms of torch pool their statistics over time if left out, ours do as
            ``bn_statistics`` says.

    Raises:
        TypeError: a module of another kind; named. ValueError: ``pool`` or ``norm_residual`` without a neuron.
    """

    plan: StagePlan | None = None
    conv: Any
    norm: Any
    neuron: Any
    norm_residual: Any

    def __init__(
        self,
        conv: nn.Module | None = None,
        norm: nn.Module | None = None,
        neuron: nn.Module | None = None,
        *,
        norm_residual: nn.Module | None = None,
        pool: bool = False,
        settings: StageSettings | None = None,
    ) -> None:
        super().__init__()
        for name, module, kinds in (
            ("conv", conv, (nn.Conv2d, nn.Conv1d, nn.Linear)),
            ("norm", norm, _BatchNorm),
            ("norm_residual", norm_residual, _BatchNorm),
        ):
            if module is not None and not isinstance(module, kinds):
                raise TypeError(f"{name} must be {_KINDS[name]}, got {type(module).__name__}")
        if neuron is not None and not (isinstance(neuron, nn.Module) and hasattr(neuron, "describe")):
            raise TypeError(f"neuron must be one of snn_sparse.nn, got {type(neuron).__name__}")
        if pool and (neuron is None or (settings is not None and settings.potentials)):
            raise ValueError("pool needs a neuron that gives spikes alone")
        if norm_residual is not None and neuron is None:
            raise ValueError("norm_residual needs a neuron, which reads the residual")
        if conv is None and norm is None and neuron is None:
            raise ValueError("conv, norm or neuron must be given")
        self.conv: Any = conv
        self.norm: Any = norm
        self.neuron: Any = neuron
        self.norm_residual: Any = norm_residual
        self.pool = pool
        self.settings = settings or StageSettings(norm=_settings(norm), norm_residual=_settings(norm_residual))

    def planned(self, plan: StagePlan) -> "Stage":
        """Make the same stage, sharing all modules, that computes as planned."""
        twin = copy.copy(self)
        twin.__dict__["plan"] = plan
        return twin

    def forward(self, x: Any, residual: Any = None, v: Tensor | None = None) -> Any:
        """Spikes ``[T, N, C, H, W]`` (without a neuron: what it would read).

        Args:
            x: ``[T, N, C, H, W]``, or ``[1, N, C, H, W]`` where the settings tell T.
            residual: ``[T, N, C, H, W]``, added before the neuron.
            v: membrane potential ``[N, C, H, W]`` to start from; as the neuron keeps it if left out.

        Raises:
            ValueError: a shape that does not fit; named.
        """
        plan = self.plan
        if plan is None:
            plan = self._plan_alone(x, residual, v)
            x = convert(x, tuple(x.shape), NCHW, plan.source)
        y, norm = self._convolved(x, plan, residual is None and v is None)
        if isinstance(y, Packed):  # it has already fired
            return y if plan.out == PACKED else unpack_spikes(y)
        if self.neuron is None:
            return self._without_neuron(y, norm, plan)
        return self._fired(y, norm, residual, v, plan)

    def _plan_alone(self, x: Any, residual: Any, v: Any) -> StagePlan:
        """The plan of a stage that no graph surrounds: ordinary maps at its edges, any format within."""
        self._check_input(x)
        sizes: Sizes = tuple(x.shape)
        conv = None if self.conv is None else convolutions.plan(self.conv, sizes, False, x)
        sizes = sizes if conv is None else conv.sizes
        timesteps = self.settings.timesteps or sizes[0]
        if sizes[0] not in (1, timesteps):
            raise ValueError(f"x must have 1 or {timesteps} timesteps, as the settings say, got {sizes[0]}")
        if self.pool and min(sizes[3:]) < 2:
            raise ValueError(f"x must give maps of at least 2x2 for pool=True, got {sizes[3:]}")
        for name, given, shape in (("residual", residual, (timesteps, *sizes[1:])), ("v", v, sizes[1:])):
            if given is not None and self.neuron is None:
                raise ValueError(f"{name} needs a neuron")
            if given is not None and getattr(given, "shape", None) != shape:
                raise ValueError(f"{name} must be {shape}, got {getattr(given, 'shape', type(given).__name__)}")
        main = format_of(x) if conv is None else NHWC if conv.implementation == "triton" else conv.memory_format
        source = NCHW if conv is None or conv.implementation == "triton" else main
        out = NCHW if main.kind == "lanes" or self.settings.potentials else main
        other = NCHW if residual is None else format_of(residual)
        return StagePlan(implementation("neuron", x, residual, v), timesteps, sizes, conv, source, main, other, out)

    def _check_input(self, x: Any) -> None:
        if not isinstance(x, Tensor) or x.dim() != 5 or not x.numel():
            shape = getattr(x, "shape", type(x).__name__)
            raise ValueError(f"x must be [T, N, C, H, W] and not empty, got {shape}")
        conv = self.conv
        if conv is not None:
            wanted = conv.in_features if isinstance(conv, nn.Linear) else conv.in_channels
        else:
            wanted = getattr(self.norm, "num_features", x.shape[2])
        if x.shape[2] != wanted:
            raise ValueError(f"x must have {wanted} channels, got {x.shape[2]}")
        if isinstance(conv, nn.Conv1d) and x.shape[4] != 1:
            raise ValueError(f"x must have maps of width 1 for a Conv1d, got {tuple(x.shape)}")

    def _convolved(self, x: Any, plan: StagePlan, alone: bool) -> tuple[Any, Norm | None]:
        if plan.conv is None:
            x = unpack_spikes(x) if isinstance(x, Packed) else x
            return x, self._norm(plan)
        norm = None
        if plan.conv.implementation == "triton" and isinstance(x, Packed):
            norm = self._norm(plan)
            if alone and plan.whole and norm is not None and norm.spec.frozen and not torch.is_grad_enabled():
                return self._whole(x, norm, plan), norm
            biased = self.conv.bias is None or norm is None or norm.spec.frozen
            y, parts = convolutions.convolve(
                self.conv, x, plan.conv, adds_bias=biased, statistics=self.training and norm is not None
            )
            shift = None if biased else self.conv.bias.detach()
            return y, None if norm is None else replace(norm, parts=parts, shift=shift)
        y, _ = convolutions.convolve(self.conv, x, plan.conv)
        return y, self._norm(plan)

    def _norm(self, plan: StagePlan) -> Norm | None:
        return None if self.norm is None else at_work(self.norm, self.settings.norm, plan.sizes[0])

    def _whole(self, x: Packed, norm: Norm, plan: StagePlan) -> Packed:
        """Convolution, frozen batch norm and neuron in one kernel."""
        assert plan.conv is not None
        (spec, rate), conv = self.neuron.describe(), self.conv
        window = conv.stride[0], int(conv.padding[0])
        return convolution_neuron(
            x, conv.weight, conv.bias, *window, plan.conv.configuration, norm, spec, rate, self.pool
        )

    def _without_neuron(self, y: Tensor, norm: Norm | None, plan: StagePlan) -> Tensor:
        y = convert(y, plan.sizes, plan.main, plan.out)
        return y if norm is None else norm.plain(y)

    def _fired(self, y: Tensor, norm: Norm | None, residual: Any, v: Tensor | None, plan: StagePlan) -> Any:
        neuron = self.neuron
        spec, rate = neuron.describe()
        other = None
        if self.norm_residual is not None:
            other = at_work(self.norm_residual, self.settings.norm_residual, plan.timesteps)
        v = neuron.start(y) if v is None else v
        if self.settings.potentials:
            return self._potentials(y, norm, residual, other, v, plan)
        if isinstance(residual, Packed) and other is not None:
            residual = unpack_spikes(residual)
        packed = plan.out == PACKED
        spikes, final = neuron_sequence(
            y,
            spec,
            plan.timesteps,
            norm=norm,
            residual=residual,
            norm_residual=other,
            rate=rate,
            v=v,
            pool=self.pool,
            packed=packed,
            final_v=neuron.keeps_state,
            images=plan.sizes[1],
            constant=plan.sizes[0] == 1 < plan.timesteps,
            memory_format=format_of(y) if plan.implementation == "triton" else plan.main,
            residual_format=None if plan.implementation == "triton" or residual is None else plan.residual,
            out_format=None if packed else plan.out,
        )
        if neuron.keeps_state:
            neuron.finish(final)
        return spikes

    def _potentials(
        self, y: Tensor, norm: Norm | None, residual: Any, other: Norm | None, v: Tensor | None, plan: StagePlan
    ) -> tuple[Tensor, Tensor]:
        """Spikes and all membrane potentials, in plain PyTorch."""
        x = self._without_neuron(y, norm, plan)
        x = x.expand(plan.timesteps, *x.shape[1:])
        if residual is not None:
            sizes: Sizes = (plan.timesteps, *plan.sizes[1:])
            packed = isinstance(residual, Packed)
            residual = unpack_spikes(residual) if packed else convert(residual, sizes, plan.residual, plan.out)
            x = x + (residual if other is None else other.plain(residual))
        spec, rate = self.neuron.describe()
        spikes, potentials, final = plain_potentials(x, spec, rate=rate, v=v, before_reset=self.settings.before_reset)
        if self.neuron.keeps_state:
            self.neuron.finish(final)
        return spikes, potentials

    def extra_repr(self) -> str:
        """Settings, for ``print(model)``."""
        return "pool=True" if self.pool else ""


def _settings(norm: nn.Module | None) -> NormSettings:
    return NormSettings(norm.bn_statistics if isinstance(norm, BatchNorm2d) else "pooled")
