"""Each validation, what comes back of real images: of a model that grows, at every resolution that it has reached."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from callbacks.code_pictures import CodePictures
from callbacks.media import labelled_grid, save_picture
from callbacks.probes import in_parts, infer
from interfaces.model import Decoder, Encoder, GrowingAutoencoder, require


class ReconstructionGrid(CodePictures):
    """Shows ``media/reconstructions``: a column for each image, a row of images and below it one of reconstructions.

    Images are the first of the validation. A ``GrowingAutoencoder`` has two such rows for each resolution, from the
    lowest to the one reached, of images averaged down; in the picture all are as large as those of the one reached,
    each pixel repeated. What turns codes into images of a lower resolution was last trained when that was the last
    one, and the layers before it have moved on since.

    Args:
        images: columns; fewer where the validation has fewer.
        largest: pixels a side in the picture; larger images are averaged down.

    Raises:
        ValueError: the picture would be empty, or ``largest`` is no power of 2.
    """

    def __init__(self, images: int = 6, largest: int = 256) -> None:
        if images < 1 or largest < 1 or largest & (largest - 1):
            raise ValueError(
                f"ReconstructionGrid has {images} images, {largest} pixels a side at most: give 1 image or more, "
                "and a power of 2."
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
        if isinstance(model, GrowingAutoencoder):
            pairs = [self._at(trainer, model, x, level) for level in range(model.reached[0] + 1)]
            labels = [f"{each[0].shape[-1]}x{each[0].shape[-1]}" for each in pairs]
        else:
            pairs = [(x, in_parts(lambda part: infer(trainer, lambda x: model.decode(model.encode(x)), part), x))]
            labels = ["image"]
        side = min(pairs[-1][0].shape[-1], self.largest)
        rows = torch.stack([resized(each.cpu(), side) for pair in pairs for each in pair], 1)
        labels = [word for label in labels for word in (label, "reconstruction")]
        save_picture(trainer, "media/reconstructions", labelled_grid([*rows], [""] * len(x), labels))

    def _at(self, trainer: pl.Trainer, model: GrowingAutoencoder, x: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """Images averaged to the resolution of a level, and what comes back of them."""
        real = avg_pool2d(x, x.shape[-1] // model.growth.resolutions[level])
        return real, in_parts(lambda part: infer(trainer, lambda x: model.reconstruct_at(x, level), part), real)


def resized(x: Tensor, side: int) -> Tensor:
    """(N, C, H, W) to a width of ``side``, or the largest below it that whole pixels average to; or pixels repeated."""
    if x.shape[-1] > side:
        return avg_pool2d(x, -(-x.shape[-1] // side))
    return interpolate(x, scale_factor=side // x.shape[-1], mode="nearest")
