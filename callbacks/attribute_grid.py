"""Each validation, the same few images with every attribute swapped, and with one moved by its slider."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.media import labelled_grid, save_picture, save_video
from callbacks.probes import Probes, infer
from interfaces.batch import AttributeBatch
from interfaces.model import AttributeEditor, check_names, require


class AttributeGrid(pl.Callback):
    """Shows one row an image.

    * ``media/attributes``: input, reconstruction, and each attribute swapped: given where it is absent, taken where it
      is there.
    * ``media/sliders/<attribute>``: one attribute from ``low`` to ``high``, of which 0 is without and 1 with; the
      others stay as they are. ``media/sliders_video/<attribute>`` is the same as time.

    The pictures show the first images of the validation data, see ``Probes``.

    Args:
        images: rows; fewer where the validation has fewer.
        steps: of a slider.
        low: its first value.
        high: its last value.
    """

    def __init__(self, images: int = 6, steps: int = 7, low: float = -0.5, high: float = 1.5) -> None:
        if images < 1 or steps < 2 or not low < high:
            raise ValueError(
                f"AttributeGrid has {images} images, {steps} steps from {low} to {high}: it needs 1 image, 2 steps "
                "and low < high at least."
            )
        self.images, self.steps, self.low, self.high = images, steps, low, high
        self._probes = Probes(images)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model that does not edit (TypeError) or has other attributes than the data (ValueError)."""
        require(pl_module, AttributeEditor, self)
        check_names(pl_module, getattr(trainer, "datamodule", None))

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep this rank's share of the first images, in the first validation only."""
        if not isinstance(batch, AttributeBatch):
            raise TypeError(f"AttributeGrid needs an AttributeBatch, not {type(batch).__name__}.")
        self._probes.add(trainer, batch.image, batch.attributes.float())

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Draw on rank 0; in the first validation all ranks bring their images together."""
        if trainer.sanity_checking:
            return
        probes = self._probes.gather(trainer)
        if not trainer.is_global_zero or not probes:
            return
        x, has = probes
        names = pl_module.attributes
        swaps = [has.where(torch.arange(len(names)) != k, 1 - has) for k in range(len(names))]
        columns = [x, *(self._edited(trainer, pl_module, x, wanted) for wanted in (has, *swaps))]
        headings = ["input", "same", *(f"swap\n{name}" for name in names)]
        save_picture(trainer, "media/attributes", labelled_grid(columns, headings))
        values = torch.linspace(self.low, self.high, self.steps)
        for k, name in enumerate(names):
            moved = []
            for value in values:
                wanted = has.clone()
                wanted[:, k] = value
                moved.append(self._edited(trainer, pl_module, x, wanted))
            headings = [f"{value:.2g}" for value in values]
            save_picture(trainer, f"media/sliders/{name}", labelled_grid([x, *moved], ["input", *headings]))
            there = [*range(self.steps), *range(self.steps - 2, 0, -1)]
            frames = [labelled_grid([x, moved[j]], ["input", f"{name} {headings[j]}"], None, 400) for j in there]
            save_video(trainer, f"media/sliders_video/{name}", frames)

    def _edited(self, trainer: pl.Trainer, model: Any, x: Tensor, sliders: Tensor) -> Tensor:
        return infer(trainer, model.edit, x, sliders).cpu()
