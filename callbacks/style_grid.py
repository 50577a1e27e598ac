"""Each validation, the same few images in the same few styles: of the prior, and of reference images."""

from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.media import labelled_grid, save_picture
from callbacks.probes import Probes, in_parts, infer
from callbacks.ways import Way, check_styles, images_of, ring, translate
from interfaces.model import Stylist


def styles_of(trainer: pl.Trainer, model: Any, x: Tensor, domain: int) -> Tensor:
    """Read styles as validation would: (N, C, H, W) of ``domain`` to (N, size) on the CPU; ``model`` is a Stylist."""
    return in_parts(lambda part: infer(trainer, lambda y: model.style_of(y, domain), part), x).cpu()


def in_styles(trainer: pl.Trainer, model: Any, image: Tensor, way: Way, styles: Tensor) -> Tensor:
    """One image, translated in several styles as validation would.

    Args:
        trainer: of the run.
        model: a ``Translator`` with styles.
        image: (C, H, W) in [-1, 1] of the domain where the way begins.
        way: from its domain to another, or to the same.
        styles: (N, size).

    Returns:
        (N, C, H, W) float32 on the device of the model.
    """

    def moved(part: Tensor) -> Tensor:
        return translate(trainer, model, image.expand(len(part), -1, -1, -1), way.source, way.target, part)

    return in_parts(moved, styles)


class StyleGrid(pl.Callback):
    """Shows one row per input and one column per style, from each domain to the next: of two, in both directions.

    ``media/styles/day2night`` has styles drawn from the prior, the same for all rows and in every validation:
    columns that look alike mean that the style is ignored, rows that do mean that the content is.
    ``media/styles_by_reference/day2night``, for a ``Stylist``, has the styles of images of the target domain, which
    stand on top; where the data know the truth, reference k is the truth of input k.

    Inputs and references are the first images of the validation, see ``Probes``.

    Args:
        inputs: rows; fewer where the validation has fewer.
        styles: columns beside the input; references are fewer where the validation has fewer.
    """

    def __init__(self, inputs: int = 4, styles: int = 6) -> None:
        if min(inputs, styles) < 1:
            raise ValueError(
                f"StyleGrid has {inputs} inputs and {styles} styles: a picture needs at least one of each."
            )
        self.inputs, self.styles = inputs, styles
        self._probes = Probes(max(inputs, styles))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model without styles.

        Raises:
            TypeError: ``pl_module`` is not a ``Translator``.
            ValueError: it has no styles, or not the domains of the data.
        """
        check_styles(trainer, pl_module, self)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep this rank's share of the first images, in the first validation only."""
        self._probes.add(trainer, *images_of(batch, self))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw on rank 0; in the first validation all ranks bring their images together."""
        if trainer.sanity_checking:
            return
        probes = self._probes.gather(trainer)
        if not trainer.is_global_zero or not probes:
            return
        for way in ring(pl_module):
            x, references = probes[way.source][: self.inputs], probes[way.target][: self.styles]
            save_picture(trainer, f"media/styles/{way.name}", self._drawn(trainer, pl_module, way, x))
            if isinstance(pl_module, Stylist):
                picture = self._read(trainer, pl_module, way, x, references)
                save_picture(trainer, f"media/styles_by_reference/{way.name}", picture)

    def _drawn(self, trainer: pl.Trainer, model: Any, way: Way, x: Tensor) -> np.ndarray:
        here, there = model.domains[way.source], model.domains[way.target]
        codes = model.style_spec.draw(self.styles, torch.Generator().manual_seed(0))
        columns = [x, *self._columns(trainer, model, way, x, codes)]
        headings = [f"input\n{here}", *(f"style {k}\n{there}" for k in range(self.styles))]
        return labelled_grid(columns, headings, [str(row) for row in range(len(x))])

    def _read(self, trainer: pl.Trainer, model: Any, way: Way, x: Tensor, references: Tensor) -> np.ndarray:
        here, there = model.domains[way.source], model.domains[way.target]
        codes = styles_of(trainer, model, references, way.target)
        top = [torch.ones_like(x[:1]), *references[:, None]]  # white above the inputs
        columns = [x, *self._columns(trainer, model, way, x, codes)]
        columns = [torch.cat(parts) for parts in zip(top, columns, strict=True)]
        headings = [f"input\n{here}", *(f"reference {k}\n{there}" for k in range(len(references)))]
        return labelled_grid(columns, headings, ["reference", *(str(row) for row in range(len(x)))])

    def _columns(self, trainer: pl.Trainer, model: Any, way: Way, x: Tensor, codes: Tensor) -> list[Tensor]:
        """All of ``x`` in each of the styles, (N, C, H, W) on the CPU for each."""
        rows = [in_styles(trainer, model, image, way, codes).cpu() for image in x]
        return list(torch.stack(rows, dim=1))
