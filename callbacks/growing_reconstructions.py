"""Each validation, what comes back of real images at every resolution that a growing model has reached."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from callbacks.code_pictures import CodePictures
from callbacks.media import labelled_grid, save_picture
from callbacks.probes import in_parts, infer
from interfaces.model import GrowingAutoencoder, require


class GrowingReconstructions(CodePictures):
    """Shows ``media/reconstructions``: a column for each image, and for each resolution a row of it and one of its
    reconstruction.

    Resolutions go from the lowest to the one reached. Images are the first of the validation, averaged down; in the
    picture all are as large as those of the resolution reached, each pixel repeated. What turns codes into images of
    a lower resolution was last trained when that was the last one, and the layers before it have moved on since.

    Args:
        images: columns; fewer where the validation has fewer.
        largest: pixels a side in the picture; images of higher resolutions are averaged down.

    Raises:
        ValueError: the picture would be empty, or ``largest`` is no power of 2.
    """

    def __init__(self, images: int = 6, largest: int = 256) -> None:
        if images < 1 or largest < 1 or largest & (largest - 1):
            raise ValueError(
                f"GrowingReconstructions has {images} images, {largest} pixels a side at most: give 1 image or more, "
                "and a power of 2."
            )
        self.largest = largest
        super().__init__(images)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model that does not grow or has no codes of images (TypeError)."""
        require(pl_module, GrowingAutoencoder, self)

    def _show_latents(self, trainer: pl.Trainer, model: Any, probes: tuple[Tensor, ...]) -> None:
        if not probes:
            return
        (x,) = probes
        resolutions = model.growth.resolutions[: model.reached[0] + 1]
        side = min(resolutions[-1], self.largest)
        rows, labels = [], []
        for level, resolution in enumerate(resolutions):
            real = avg_pool2d(x, x.shape[-1] // resolution)
            back = in_parts(
                lambda part, level=level: infer(trainer, lambda x: model.reconstruct_at(x, level), part), real
            )
            rows += [resized(real, side), resized(back.cpu(), side)]
            labels += [f"{resolution}x{resolution}", "reconstruction"]
        save_picture(trainer, "media/reconstructions", labelled_grid([*torch.stack(rows, 1)], [""] * len(x), labels))


def resized(x: Tensor, side: int) -> Tensor:
    """(N, C, H, H) to (N, C, side, side), a power of 2 times as large or as small: pixels repeated, or averaged."""
    if x.shape[-1] > side:
        return avg_pool2d(x, x.shape[-1] // side)
    return interpolate(x, scale_factor=side // x.shape[-1], mode="nearest")
