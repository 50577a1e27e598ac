"""Each validation, maps of codes drawn from a prior, and what the model that made the codes decodes of them."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.codebook import colours, level_names, painted
from callbacks.measured import Measuring
from callbacks.media import labelled_grid, save_picture
from callbacks.probes import Probes, in_parts, infer
from interfaces.batch import CodeBatch, CodeData
from interfaces.model import CodeSampler, Quantiser, require


class CodeSamples(Measuring):
    """Shows samples of a prior beside maps of images, in the colours of the codes and decoded.

    ``media/code_samples``: of a top, maps of the first validation images and as many drawn ones, which have nothing to
    do with each other, and what the top alone says. Of a lower level, what it adds to the level above, which is that of
    the image in both: the rows of two samples differ from their images in this level only. Of three levels and more,
    the decoder is told of these two levels only.

    The same chance is drawn in each validation, on rank 0, so pictures of one run differ by the prior only.

    Args:
        load: makes the model, a ``Quantiser``, of a checkpoint; None shows colours only, and so does a checkpoint that
            has gone or changed since it made the codes.
        images: rows; fewer where the validation has fewer.
        temperature: above 0; the logits are divided by it.
        seed: of the chance.
        every: draws in each ``every``-th validation of a fit; ``validate`` and ``test`` always draw.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        load: Callable[[Path], Any] | None = None,
        images: int = 8,
        temperature: float = 1.0,
        seed: int = 0,
        every: int = 1,
    ) -> None:
        super().__init__(every)
        if images < 1 or not temperature > 0:
            raise ValueError(
                f"CodeSamples has {images} images and temperature {temperature}: it needs at least one image, and a "
                "temperature above 0."
            )
        self.load, self.images, self.temperature, self.seed = load, images, temperature, seed
        self._probes = {stage: Probes(images) for stage in ("val", "test")}
        self._decoder: Any = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find what decodes the codes, on the only rank that draws; without it say why, once.

        Raises:
            TypeError: the model cannot be drawn from, or the data are no maps of codes, or no ``Quantiser`` made them.
        """
        require(pl_module, CodeSampler, self)
        data: Any = getattr(trainer, "datamodule", None)
        require(data, CodeData, self)
        if self.load is None or self._decoder is not None or stage == "predict" or not trainer.is_global_zero:
            return
        try:
            decoder = self.load(data.maker())
        except (OSError, ValueError) as error:
            print(f"CodeSamples shows colours and no pictures: {error}", flush=True)
            return
        require(decoder, Quantiser, self)
        self._decoder = decoder

    def begin(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Know which images are kept."""
        self._stage = stage

    def add(self, trainer: pl.Trainer, model: Any, batch: Any) -> None:
        """Keep this rank's share of the first maps, in the first validation only.

        Raises:
            TypeError: it has no codes.
        """
        if not isinstance(batch, CodeBatch):
            raise TypeError(f"{type(self).__name__} needs a CodeBatch, not {type(batch).__name__}.")
        maps = [batch.codes] if batch.condition is None else [batch.codes, batch.condition]
        self._probes[self._stage].add(trainer, *maps)

    def finish(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Draw on rank 0; the first time all ranks bring their maps together.

        Ranks are no help: what takes time is one place after the other, and not how many maps are drawn at once.
        """
        probes = self._probes[stage].gather(trainer)
        if trainer.is_global_zero and probes:
            codes, *above = (column.long() for column in probes)  # of floats, which hold every number exactly
            drawn = self._drawn(trainer, model, len(codes), *above)
            save_picture(trainer, "media/code_samples", self._picture(trainer, codes, drawn, *above))

    def _drawn(self, trainer: pl.Trainer, model: CodeSampler, n: int, above: Tensor | None = None) -> Tensor:
        """(n, H, W) on the CPU, as validation would; its chance is no one else's."""
        rng = torch.Generator().manual_seed(self.seed)
        with torch.no_grad(), trainer.precision_plugin.val_step_context():
            drawn = model.sample(n, above, temperature=self.temperature, rng=rng, progress=spoken())
        return drawn.cpu()

    def _picture(self, trainer: Any, codes: Tensor, drawn: Tensor, above: Tensor | None = None) -> np.ndarray:
        """Rows of the level above, the map of the image, a drawn one, and what each says."""
        data = trainer.datamodule
        level, names, wheel = data.level, level_names(len(data.shapes)), colours(data.codes)
        known = [] if above is None else [above]
        levels = range(level - len(known), level + 1)
        said = " and ".join(names[k] for k in levels) + ("" if len(levels) == len(names) else "\nalone")
        pictures: list[Tensor] = []
        if self._decoder is not None:
            self._decoder.to(trainer.strategy.root_device)
            pictures = [self._decoded(trainer, dict(zip(levels, (*known, m), strict=True))) for m in (codes, drawn)]
        size = pictures[0].shape[2:] if pictures else codes.shape[1:]
        columns, headings = [painted(m, wheel, (size[0], size[1])) for m in known], [names[k] for k in levels[:-1]]
        for k, (maps, whose) in enumerate(((codes, "of an image"), (drawn, "drawn"))):
            columns += [painted(maps, wheel, (size[0], size[1])), *pictures[k : k + 1]]
            headings += [f"{names[level]}\n{whose}", *([said] if pictures else [])]
        return labelled_grid([column.expand(-1, 3, -1, -1) for column in columns], headings)

    def _decoded(self, trainer: pl.Trainer, maps: dict[int, Tensor]) -> Tensor:
        """What the maps of some levels say, (N, C, H, W) on the CPU."""
        data: Any = getattr(trainer, "datamodule", None)
        n, levels = len(next(iter(maps.values()))), tuple(maps)
        unsaid = [torch.zeros(n, *shape, dtype=torch.int64) for shape in data.shapes]
        all_maps = [maps.get(k, blank) for k, blank in enumerate(unsaid)]
        decoder = self._decoder
        return in_parts(lambda *part: infer(trainer, lambda *m: decoder.image_of([*m], levels), *part), *all_maps).cpu()


def spoken(every_seconds: float = 10.0) -> Callable[[int], None]:
    """What says how many rows are drawn, where drawing takes so long that somebody may wonder."""
    said_at = time.monotonic()

    def say(rows: int) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= every_seconds:
            said_at = time.monotonic()
            print(f"code samples: {rows} rows", flush=True)

    return say
