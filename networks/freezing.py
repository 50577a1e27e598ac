"""What is computed with weights that learn nothing from it."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """What is computed in here gives the module's weights no gradient; gradients of its inputs pass.

    Weights that learnt nothing before learn nothing afterwards.
    """
    learning = [p for p in module.parameters() if p.requires_grad]
    module.requires_grad_(False)
    try:
        yield
    finally:
        for p in learning:
            p.requires_grad_(True)
