"""Each validation, the same few scenes taken from each domain to each other one."""

from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.media import beside, labelled_grid, save_picture
from callbacks.probes import Probes, in_parts
from callbacks.ways import check_domains, images_of, translate
from interfaces.batch import second_draws


class DomainGrid(pl.Callback):
    """Shows ``media/domains``: one row a domain to translate from, one column a domain to translate to.

    The first column holds the inputs, the diagonal their reconstructions. Where the data know the truth, the inputs
    are one scene, whose renders stand below the columns. Blocks beside each other are different images.

    The pictures show the first images of the validation data, see ``Probes``; a model with styles translates in the
    mean of the prior.

    Args:
        images: blocks; fewer where the validation has fewer.
    """

    def __init__(self, images: int = 2) -> None:
        if images < 1:
            raise ValueError(f"DomainGrid.images is {images}: a picture needs at least one image of each domain.")
        self.images = images
        self._probes = Probes(images)
        self._true_pairs = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model that does not translate between the domains of the data (TypeError, ValueError)."""
        check_domains(trainer, pl_module, self)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep this rank's share of the first images, in the first validation only."""
        self._probes.add(trainer, *images_of(batch, self))
        self._true_pairs = bool(second_draws(batch))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw on rank 0; in the first validation all ranks bring their images together."""
        if trainer.sanity_checking:
            return
        probes = self._probes.gather(trainer)
        if trainer.is_global_zero and probes:
            save_picture(trainer, "media/domains", self._picture(trainer, pl_module, torch.stack(probes, 1)))

    def _picture(self, trainer: pl.Trainer, model: Any, images: Tensor) -> np.ndarray:
        """Of (blocks, D, C, H, W)."""
        names, d = model.domains, len(model.domains)

        def moved(source: int, target: int) -> Tensor:
            return in_parts(lambda part: translate(trainer, model, part, source, target), images[:, source]).cpu()

        cells = torch.stack([torch.stack([moved(s, t) for t in range(d)], 1) for s in range(d)], 1)
        blocks = []
        for inputs, outputs in zip(images, cells, strict=True):
            columns, rows = [inputs, *outputs.unbind(1)], [*names]
            if self._true_pairs:
                below = [torch.ones_like(inputs[0]), *inputs]
                columns = [torch.cat((column, last[None])) for column, last in zip(columns, below, strict=True)]
                rows.append("truth")
            blocks.append(labelled_grid(columns, ["input", *(f"to\n{name}" for name in names)], rows, least_width=600))
        return beside(*blocks)
