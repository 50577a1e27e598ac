"""Numbers of which half precision would be too coarse."""

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """In float32 at least, as statistics, divergences and penalties need."""
    return x if x.dtype == torch.float64 else x.float()
