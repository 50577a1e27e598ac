"""Each validation, what comes back of real images."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from callbacks.code_pictures import CodePictures
from callbacks.media import labelled_grid, save_picture
from callbacks.probes import in_parts, infer
from interfaces.model import Decoder, Encoder, require


class ReconstructionGrid(CodePictures):
    """Shows ``media/reconstructions``: a column for each image, which stands above what comes back of it.

    Images are the first of the validation, so pictures of one run differ by the model only. Of a model that grows, each
    picture shows the resolution that it had reached; those of lower ones are the pictures of validations before.

    Args:
        images: columns; fewer where the validation has fewer.
        largest: pixels a side in the picture; larger images are averaged down.

    Raises:
        ValueError: the picture would be empty.
    """

    def __init__(self, images: int = 8, largest: int = 256) -> None:
        if images < 1 or largest < 1:
            raise ValueError(
                f"ReconstructionGrid has {images} images, {largest} pixels a side at most: give 1 or more of each."
            )
        self.largest = largest
        super().__init__(images)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model that makes no image of the code of an image (TypeError)."""
        require(pl_module, Encoder, self)
        require(pl_module, Decoder, self)

    def _show_latents(self, trainer: pl.Trainer, model: Any, probes: tuple[Tensor, ...]) -> None:
        if not probes:
            return
        (x,) = probes
        back = in_parts(lambda part: infer(trainer, lambda x: model.decode(model.encode(x)), part), x)
        columns = avg_pool2d(torch.stack((x, back.cpu()), 1).flatten(0, 1), -(-x.shape[-1] // self.largest))
        picture = labelled_grid([*columns.unflatten(0, (-1, 2))], [""] * len(x), ["image", "reconstruction"])
        save_picture(trainer, "media/reconstructions", picture)
