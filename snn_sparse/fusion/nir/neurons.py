"""Neurons to and from NIR; the formulas stand at the head of this folder."""

import math
from typing import Any

import numpy as np

from snn_sparse.fusion.nir.package import require_nir
from snn_sparse.nn import IF, LIF, Neuron, ParametricLIF


def neuron_node(name: str, neuron: Neuron, shape: tuple[int, ...], dt: float) -> Any:
    """The NIR node of a neuron layer of ``shape`` (one sample, one timestep).

    Raises:
        ValueError: NIR has none; names the layer.
    """
    nir, s = require_nir(), neuron.spec
    if s.v_reset is None:
        raise ValueError(f"NIR cannot express layer {name!r}: it has no soft reset (v_reset=None)")

    def full(value: float) -> np.ndarray:
        return np.full(shape, value, dtype=np.float64)

    firing = {"v_threshold": full(s.v_threshold), "v_reset": full(s.v_reset)}
    if isinstance(neuron, IF):
        return nir.IF(r=full(1 / dt), **firing)
    if not isinstance(neuron, LIF | ParametricLIF):
        raise ValueError(f"NIR cannot express layer {name!r} ({type(neuron).__name__})")
    resistance = 1.0 if s.decay_input else neuron.tau
    return nir.LIF(tau=full(neuron.tau * dt), r=full(resistance), v_leak=full(s.v_reset), **firing)


def neuron_layer(name: str, node: Any, dt: float, surrogate: Any) -> Neuron:
    """The layer for a node ``IF`` or ``LIF`` of NIR.

    Raises:
        ValueError: our neurons cannot do it: parameters that differ within the layer, ``v_leak`` other than
            ``v_reset``, ``r`` other than 1 or ``tau / dt``, ``tau`` shorter than ``dt``; names the node.
    """
    nir = require_nir()

    def uniform(parameter: str) -> float:
        values = np.asarray(getattr(node, parameter), dtype=np.float64)
        if values.size == 0 or not np.isfinite(values).all() or (values != values.flat[0]).any():
            raise ValueError(f"{parameter} of node {name!r} must be one finite number for the whole layer")
        return float(values.flat[0])

    firing = {"v_threshold": uniform("v_threshold"), "v_reset": uniform("v_reset"), "surrogate": surrogate}
    r = uniform("r")
    if isinstance(node, nir.IF):
        if not _near(r, 1 / dt):
            raise ValueError(f"r of node {name!r} must be 1 / dt = {1 / dt:g}, got {r:g}")
        return IF(**firing)
    tau = uniform("tau") / dt
    if not tau >= 1 - 1e-6:
        raise ValueError(f"tau of node {name!r} must be at least dt = {dt:g}, got {tau * dt:g}")
    if uniform("v_leak") != firing["v_reset"]:
        raise ValueError(
            f"v_leak of node {name!r} must be its v_reset {firing['v_reset']:g}, got {node.v_leak.flat[0]:g}"
        )
    if not (_near(r, 1) or _near(r, tau)):
        raise ValueError(f"r of node {name!r} must be 1 or tau / dt = {tau:g}, got {r:g}")
    return LIF(tau=max(tau, 1.0), decay_input=_near(r, 1), **firing)


def _near(a: float, b: float) -> bool:
    """Equal but for the rounding of files in single precision."""
    return math.isclose(a, b, rel_tol=1e-6)
