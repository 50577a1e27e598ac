"""What callbacks measured, in the form in which an evaluation card keeps it; and which images a batch holds."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import pytorch_lightning as pl
import torch
from torch import Tensor

from metrics.intervals import Interval


class Measurement(NamedTuple):
    """One number with what is needed to believe it."""

    value: float
    interval: Interval | None  # 95 %, over images
    unit: str
    n: int  # images, or inputs, behind it


@runtime_checkable
class Measures(Protocol):
    """A callback that leaves measurements after ``test``."""

    @property
    def measurements(self) -> dict[str, Measurement]:
        """By key without the stage, such as ``fid_scenes/day2night``."""
        ...

    @property
    def protocol(self) -> dict[str, str]:
        """What one must know to repeat them, beside the data and the model."""
        ...


class Positions:
    """Numbers of the images that go by, where rank r evaluates every world-th image from r on, in order."""

    def __init__(self, trainer: pl.Trainer) -> None:
        self._rank, self._world, self._seen = trainer.global_rank, trainer.world_size, 0

    def next(self, n: int) -> Tensor:
        """(n,) int64, the numbers of the next ``n`` images of this rank."""
        first = self._seen
        self._seen += n
        return self._rank + self._world * torch.arange(first, self._seen)


def distinct(trainer: pl.Trainer, domain: int) -> float:
    """How many different evaluation images a domain has: a smaller one starts again while the larger goes on."""
    sizes = getattr(getattr(trainer, "datamodule", None), "evaluation_sizes", None)
    return float("inf") if sizes is None else sizes[domain]


def styles_for(model: Any, positions: Tensor, seed: int = 0) -> Tensor | None:
    """One style of the prior for each image, a function of its number alone; None where the model takes none.

    Returns:
        (N, size) float32 on the CPU.
    """
    if model.style_spec is None:
        return None
    draws = [
        model.style_spec.draw(1, torch.Generator().manual_seed((seed << 32) + int(position))) for position in positions
    ]
    return torch.cat(draws) if draws else torch.zeros(0, model.style_spec.size)
