"""Profiles as tables and lines of text."""

from typing import Any

PROFILE_HEADER = ("layer", "live weights", "firing rate", "ACs", "MACs", "energy")


def quantity(value: float, unit: str = "", prefixes: tuple[str, ...] = ("", "k", "M", "G", "T")) -> str:
    """Write a number with three digits, such as ``1.23 M``, in the largest prefix that it reaches."""
    scaled, index = float(value), 0
    while float(f"{scaled:.3g}") >= 1000 and index < len(prefixes) - 1:
        scaled, index = scaled / 1000, index + 1
    digits = f"{scaled:.3g}" if scaled < 1000 else f"{scaled:.0f}"
    return f"{digits} {prefixes[index]}{unit}".rstrip()


def energy_text(picojoules: float) -> str:
    """Write an energy given in pJ, such as ``1.23 nJ``."""
    return quantity(picojoules, "J", ("p", "n", "u", "m", ""))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} %"


def profile_section(profile: dict[str, Any]) -> list[tuple[str, ...]]:
    """Rows under :data:`PROFILE_HEADER`: one for each layer, and the whole network.

    Args:
        profile: as :meth:`snn_sparse.NetworkProfile.as_dict` gives it; the firing rate of a layer is that of the
            neurons behind it.
    """

    def row(name: str, live: float, rate: float | None, counts: dict[str, Any]) -> tuple[str, ...]:
        acs, macs = (quantity(counts[f"Effective_{kind}"]) for kind in ("ACs", "MACs"))
        return (name, _percent(live), _percent(rate), acs, macs, energy_text(counts["energy_pj"]))

    sparsity = profile["activation_sparsity"]
    rows = [row(r["name"], 100.0 * r["live"] / r["weights"], r["firing_rate"], r) for r in profile["layers"]]
    rate = None if sparsity is None else 100.0 - sparsity
    return [*rows, row("network", 100.0 - profile["connection_sparsity"], rate, profile)]


def profile_notes(profile: dict[str, Any]) -> list[str]:
    """Lines that say what the rows of :func:`profile_section` leave out; ``profile`` as there."""
    theirs, steps = profile["spikingjelly"], profile["timesteps"]
    sparsity = _percent(profile["activation_sparsity"])
    notes = [
        f"per sample over T = {steps}, mean of {profile['samples']}; dense: {quantity(profile['Dense'])} operations",
        f"footprint: {quantity(profile['footprint'], 'B')}; of the ticket (live weights and a bit a weight): "
        f"{quantity(profile['ticket_footprint'], 'B')}",
        f"sparsity: connections {_percent(profile['connection_sparsity'])}, activations {sparsity}",
        f"energy: {energy_text(profile['energy_pj'])} at 4.6 pJ a MAC and 0.9 pJ an AC (45 nm); "
        f"{energy_text(theirs['energy_pj'])} by SpikingJelly's counters, which count pruned weights too "
        f"({quantity(theirs['ACs'])} ACs, {quantity(theirs['MACs'])} MACs)",
    ]
    constant = [layer["name"] for layer in profile["layers"] if layer["constant"]]
    if constant:
        other = profile["every_step"]
        notes.append(
            f"{', '.join(constant)} runs once, since the image is the same at every step; run at all {steps}: "
            f"{quantity(other['Effective_ACs'])} ACs, {quantity(other['Effective_MACs'])} MACs, "
            f"{energy_text(other['energy_pj'])}"
        )
    return notes
