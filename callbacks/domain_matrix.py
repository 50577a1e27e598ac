"""What was measured from each domain to each other one, as matrices."""

from typing import Any

import numpy as np
import pytorch_lightning as pl

from callbacks.heat_map import heat_map
from callbacks.media import save_picture
from callbacks.ways import check_domains, ways
from metrics.better import HIGHER, better_end


class DomainMatrix(pl.Callback):
    """Shows ``media/matrix/<measure>``: rows are domains to translate from, columns domains to translate to.

    Of every measure that was logged for each way, such as ``val/fid_scenes/day2night``, whoever logged it. The darker
    a cell, the worse its number among those of the matrix. List it after the callbacks that measure.

    Args:
        least: domains from which on a matrix says more than a list.
    """

    def __init__(self, least: int = 3) -> None:
        self.least = least

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model that does not translate between the domains of the data (TypeError, ValueError)."""
        check_domains(trainer, pl_module, self)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Draw what was measured in this validation."""
        if not trainer.sanity_checking:
            self._draw(trainer, pl_module, "val")

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """As after validation."""
        self._draw(trainer, pl_module, "test")

    def _draw(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        names = [way.name for way in ways(model)]
        logged = trainer.callback_metrics
        measures = {key.split("/")[1] for key in logged if key.startswith(f"{stage}/") and key.endswith(f"/{names[0]}")}
        if len(model.domains) < self.least or not trainer.is_global_zero:
            return
        for measure in sorted(measures):
            if all(f"{stage}/{measure}/{name}" in logged for name in names):
                values = np.full((len(model.domains),) * 2, np.nan)
                for way in ways(model):
                    values[way.source, way.target] = float(logged[f"{stage}/{measure}/{way.name}"])
                save_picture(trainer, f"media/matrix/{measure}", matrix(measure, model.domains, values))


def matrix(measure: str, names: tuple[str, ...], values: np.ndarray) -> np.ndarray:
    """A picture of (D, D) numbers, NaN for cells without one.

    Returns:
        (H, W, 3) uint8.
    """
    low, high = (np.nanmin(values), np.nanmax(values)) if np.isfinite(values).any() else (0.0, 1.0)
    place = (values - low) / (high - low) if high > low else np.zeros_like(values)
    worse = 1 - place if better_end(measure) == HIGHER else place
    return heat_map(f"{measure}, from (rows) to (columns)", names, names, values, worse)
