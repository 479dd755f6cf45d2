"""Small spiking networks in the styles in which people write them: test data for whoever reads such networks."""

import importlib.util

from zoo import batch_first, events, home_made, layers, multistep, odd, residual, ticket, transformers
from zoo.network import Network

_FAMILIES = [ticket, multistep, transformers, residual, batch_first, events, home_made, layers, odd]
if importlib.util.find_spec("snntorch"):
    from zoo import snntorch_nets

    _FAMILIES.append(snntorch_nets)

NETWORKS: dict[str, Network] = {network.name: network for family in _FAMILIES for network in family.NETWORKS}
