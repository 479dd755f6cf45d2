"""Networks to and from NIR, the neuromorphic intermediate representation (Pedersen et al., Nature Communications 2024).

NIR describes continuous time, we compute in steps of length ``dt``. Its leaky integrate-and-fire neuron

    ``tau dv/dt = (v_leak - v) + r I``

is, in one explicit Euler step, ``v + dt / tau * ((v_leak - v) + r I)``. That is our LIF with the time constant
``tau / dt`` (in timesteps) and ``v_reset = v_leak``: with ``r = 1`` the one whose input decays too, with
``r = tau / dt`` the one with ``decay_input=False``. The integrate-and-fire neuron ``dv/dt = r I`` is our IF with
``r = 1 / dt``. Both spike and fall to ``v_reset`` where the potential is above ``v_threshold``. One that equals the
threshold exactly spikes here; NIR's formula says that it does not, and simulators go either way.
"""

from snn_sparse.fusion.nir.export import to_nir
from snn_sparse.fusion.nir.network import from_nir

__all__ = ["from_nir", "to_nir"]
