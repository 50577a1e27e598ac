"""Writes what a translator predicts as pictures."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from callbacks.media import run_folder, shown, to_uint8, write_png
from interfaces.model import Translator, require


class PredictionWriter(pl.callbacks.BasePredictionWriter):
    """One PNG an image in ``<run>/predictions/<from>2<to>``, numbered as in the prediction data.

    Prediction loader k holds domain k, which the model takes to the next one, of two domains to the other; every rank
    writes its own share.
    """

    def __init__(self) -> None:
        super().__init__(write_interval="batch")
        self._written: dict[int, int] = {}  # images of each loader that this rank has written

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model that does not translate (TypeError)."""
        super().setup(trainer, pl_module, stage)
        if stage == "predict":
            require(pl_module, Translator, self)

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Tensor,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write (N, C, H, W) in [-1, 1] as N files."""
        here, there = (pl_module.domains[(dataloader_idx + k) % len(pl_module.domains)] for k in (0, 1))  # type: ignore
        for picture in to_uint8(prediction):
            done = self._written.get(dataloader_idx, 0)
            number = done * trainer.world_size + trainer.global_rank
            write_png(run_folder(trainer) / "predictions" / f"{here}2{there}" / f"{number:05d}.png", picture)
            self._written[dataloader_idx] = done + 1

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count from the beginning."""
        self._written = {}

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say where they are."""
        if trainer.is_global_zero:
            print(f"  predictions {shown(run_folder(trainer) / 'predictions')}", flush=True)
