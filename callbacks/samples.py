"""Each validation, images that a model makes of nothing but chance, of the same chance each time."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.code_spaces import is_styled
from callbacks.measured import Measuring
from callbacks.media import labelled_grid, save_picture
from callbacks.probes import infer
from callbacks.style_mixing import mixing_grid, truncation_sweep
from interfaces.model import CodePrior, Generator, require, seed_of


class Samples(Measuring):
    """Shows what a ``Generator`` makes; of the same chance each time, so pictures of one run differ by the model only.

    * ``media/samples``: a grid, whose row r is drawn with seed r.
    * ``media/truncation``, of a ``StyledGenerator``: a row for each draw, a column for each psi.
    * ``media/style_mixing``, of a ``StyledGenerator``: a column for each destination; rows have the coarse, then the
      middle, then the fine layers of another draw (``style_mixing.layer_ranges``), as StyleGAN's Fig. 3. Layers that a
      growing model has not reached change nothing.

    The first process draws.

    Args:
        rows: of the grid.
        columns: of the grid.
        psis: of the truncation; the defaults are those of the paper's figure.
        draws: rows of the truncation, and destinations of the mixing.
        sources: rows of the mixing that give coarse, middle and fine layers.
        every: draws in each ``every``-th validation of a fit; ``validate`` and ``test`` always draw.

    Raises:
        ValueError: a picture would be empty.
    """

    def __init__(
        self,
        rows: int = 6,
        columns: int = 8,
        psis: tuple[float, ...] = (1.0, 0.7, 0.5, 0.0, -0.5, -1.0),
        draws: int = 5,
        sources: tuple[int, int, int] = (3, 2, 1),
        every: int = 1,
    ) -> None:
        super().__init__(every)
        if min(rows, columns, draws, len(psis)) < 1 or min(sources) < 0 or sum(sources) < 1:
            raise ValueError(
                f"Samples has {rows} rows, {columns} columns, {draws} draws, {len(psis)} psis and sources "
                f"{list(sources)}: a picture needs at least one of each, and one source in all."
            )
        self.rows, self.columns, self.psis, self.draws = rows, columns, tuple(psis), draws
        self.sources = sources

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model that makes no images of chance (TypeError)."""
        check_generator(pl_module, self)

    def begin(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Nothing."""

    def add(self, trainer: pl.Trainer, model: Any, batch: Any) -> None:
        """Nothing: images of the data are not needed."""

    def finish(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Draw on rank 0."""
        if not trainer.is_global_zero:
            return
        rows = [drawn(trainer, model, self.columns, row).cpu() for row in range(self.rows)]
        save_picture(trainer, "media/samples", labelled_grid([*torch.stack(rows, 1)], [""] * self.columns))
        if is_styled(model):
            save_picture(trainer, "media/truncation", truncation_sweep(trainer, model, self.draws, self.psis))
            save_picture(trainer, "media/style_mixing", mixing_grid(trainer, model, self.draws, self.sources))


def drawn(trainer: pl.Trainer, model: Any, n: int, number: int) -> Tensor:
    """Batch ``number`` of a ``Generator``, a function of its number and size alone.

    Returns:
        (n, C, H, W) float32 on the device of the model, as validation would make it.
    """
    rng = torch.Generator().manual_seed(seed_of(0, number))
    return infer(trainer, lambda: model.sample(n, rng))


def check_generator(model: Any, asker: pl.Callback) -> None:
    """Refuse a model whose samples are no images.

    Raises:
        TypeError: ``model`` is no ``Generator``, or draws codes.
    """
    require(model, Generator, asker)
    if isinstance(model, CodePrior):
        raise TypeError(
            f"{type(asker).__name__} looks at images, but {type(model).__name__} draws codes: use "
            "callbacks.code_samples.CodeSamples instead."
        )
