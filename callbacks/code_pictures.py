"""The hooks of callbacks that show what codes do, each validation, on its first images."""

from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from callbacks.probes import Probes
from callbacks.ways import has_styles, images_of
from interfaces.model import Decoder, Encoder


class CodePictures(pl.Callback):
    """Keeps images of the first validation and lets rank 0 draw in each.

    Args:
        images: how many of each domain; fewer where there are fewer.
    """

    def __init__(self, images: int) -> None:
        self._probes = Probes(images)

    def _show_latents(self, trainer: pl.Trainer, model: Any, probes: tuple[Tensor, ...]) -> None:
        """Draw for a ``Decoder``; there are images where it is an ``Encoder`` too."""
        raise NotImplementedError

    def _show_styles(self, trainer: pl.Trainer, model: Any, probes: tuple[Tensor, ...]) -> None:
        """Draw for a ``Translator`` with styles, with images of all domains."""
        raise NotImplementedError

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep this rank's share of the first images, in the first validation only."""
        if has_styles(pl_module):
            self._probes.add(trainer, *images_of(batch, self))
        elif isinstance(pl_module, Encoder):
            if not hasattr(batch, "image"):
                raise TypeError(f"{type(self).__name__} needs batches with a field image, not {type(batch).__name__}.")
            self._probes.add(trainer, batch.image)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw on rank 0; in the first validation all ranks bring their images together."""
        if trainer.sanity_checking:
            return
        probes = self._probes.gather(trainer)
        if not trainer.is_global_zero:
            return
        if isinstance(pl_module, Decoder):
            self._show_latents(trainer, pl_module, probes)
        if probes and has_styles(pl_module):
            self._show_styles(trainer, pl_module, probes)
