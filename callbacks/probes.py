"""The fixed images that callbacks show in every validation, and the one way to run a model on them."""

from collections.abc import Callable
from itertools import chain, zip_longest
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor


class Probes:
    """The first images of a validation, kept on the CPU as it goes by.

    They are the same on any number of ranks as long as rank r evaluates every world-th image from r on.

    Args:
        images: how many; fewer where the validation has fewer.
    """

    def __init__(self, images: int) -> None:
        self.images = images
        self._rows: list[tuple[Tensor, ...]] = []  # this rank's share
        self._gathered: tuple[Tensor, ...] | None = None

    def add(self, trainer: pl.Trainer, *columns: Tensor) -> None:
        """Keep what is still missing of this rank's share; nothing once they are gathered, nor in the sanity check.

        Args:
            trainer: of the run.
            columns: (N, C, H, W) each; row i of all of them belongs together.
        """
        missing = len(range(trainer.global_rank, self.images, trainer.world_size)) - len(self._rows)
        if trainer.sanity_checking or self._gathered is not None or missing <= 0:
            return
        # Clones, since a view would drag its whole batch along when it is sent.
        kept = [[image.clone() for image in column[:missing].float().cpu()] for column in columns]
        self._rows += zip(*kept, strict=True)

    def share(self) -> tuple[Tensor, ...]:
        """The columns of this rank: row k is image k * world + rank. () where it has none."""
        return tuple(torch.stack(column) for column in zip(*self._rows, strict=True))

    def gather(self, trainer: pl.Trainer) -> tuple[Tensor, ...]:
        """The columns of all ranks in the order of one process; all ranks must call it together.

        Returns:
            The same on all ranks and each time; () where the validation had no image.
        """
        if self._gathered is None:
            self._rows = in_order(trainer, self._rows)
            self._gathered, self._rows = self.share(), []
        return self._gathered


def in_order(trainer: pl.Trainer, rows: list[Any]) -> list[Any]:
    """Rows of all ranks, of which rank r has every world-th from r on; all ranks must call it together.

    Args:
        trainer: of the run.
        rows: of this rank; may be empty.

    Returns:
        All rows in the order of one process, the same on all ranks.
    """
    shards = [rows]
    if trainer.world_size > 1:
        shards = [[] for _ in range(trainer.world_size)]
        torch.distributed.all_gather_object(shards, rows)
    gap = object()
    return [row for row in chain(*zip_longest(*shards, fillvalue=gap)) if row is not gap]


def infer(trainer: pl.Trainer, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """``function(*inputs)`` as validation would: in the run's precision, touching neither gradients nor random state.

    Args:
        trainer: of the run.
        function: a method of the model.
        inputs: anywhere.

    Returns:
        float32 on the device of the model.
    """
    plugin = trainer.precision_plugin
    with isolate_rng(), torch.no_grad(), plugin.val_step_context():
        torch.manual_seed(0)  # for a model that draws noise: the same each time
        return function(*plugin.convert_input(tuple(x.to(trainer.strategy.root_device) for x in inputs))).float()


def in_parts(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """``function(*inputs)`` for eight rows at a time, whatever their number, so that memory is bounded."""
    return torch.cat([function(*part) for part in zip(*(x.split(8) for x in inputs), strict=True)])
