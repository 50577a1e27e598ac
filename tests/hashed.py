"""Numbers by integer arithmetic, the same everywhere: what the recorded numbers of official networks were made with."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn


def hashed(shape: tuple[int, ...], k: int) -> Tensor:
    """H(shape, k) of the specifications: integers of 32 bits, scaled to [-1, 1), float64."""
    h = np.arange(int(np.prod(shape)), dtype=np.uint64)
    h *= np.uint64(2654435761)
    h += np.uint64(k * 97531 + 12345)
    for shift, factor in ((16, 2246822519), (13, 3266489917)):
        h &= np.uint64(0xFFFFFFFF)
        h ^= h >> np.uint64(shift)
        h *= np.uint64(factor)
    h &= np.uint64(0xFFFFFFFF)
    h ^= h >> np.uint64(16)
    return torch.from_numpy(h.astype(np.float64)).mul_(2.0**-31).sub_(1).view(shape)


def filled(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by name in float64, each by its place among the sorted names; integers stay as they are."""
    result = {}
    for k, name in enumerate(sorted(state)):
        tensor = state[name]
        if not tensor.is_floating_point():
            result[name] = tensor
        elif tensor.ndim > 1:
            result[name] = hashed(tuple(tensor.shape), k) * (3 * len(tensor) / tensor.numel()) ** 0.5
        elif name.endswith("running_var"):
            result[name] = 1 + 0.2 * hashed(tuple(tensor.shape), k)
        else:
            result[name] = 0.1 * hashed(tuple(tensor.shape), k) + (1 if name.endswith("weight") else 0)
    return result


def fill(net: nn.Module) -> nn.Module:
    """The network in float64 with such weights, by its own names."""
    net.double().load_state_dict(filled(net.state_dict()))
    return net
