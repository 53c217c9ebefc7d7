"""Size of networks in memory and in a run folder; shared by families that train networks."""

from __future__ import annotations

from torch import nn

CHECKPOINT_COPIES = 8
"""Copies of a trained network on the disk while a checkpoint replaces the one before. Each of the two has the network
four times: weights, best weights and two moments of Adam."""


def network_bytes(*networks: nn.Module) -> int:
    """Return the size of all weights and buffers of networks in bytes."""
    return sum(tensor.nbytes for network in networks for tensor in network.state_dict().values())
