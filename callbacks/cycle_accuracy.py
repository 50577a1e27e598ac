"""Measures what needs no truth: whether an image comes back, from the other domain and from its own."""

from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.measured import Measurement, Measuring, Positions, distinct, log_alike, translated
from callbacks.probes import infer
from callbacks.ways import check_domains, images_of, translate, ways
from interfaces.model import Stylist
from metrics.collected import CollectedValues
from metrics.intervals import bootstrap
from metrics.paired import UNITS, l1, psnr

MEASURES = {"l1": l1, "psnr": psnr}


class CycleAccuracy(Measuring):
    """Logs L1 and PSNR of cycles and of reconstructions against their inputs.

    * ``val/cycle_l1/day``, ``val/cycle_psnr/day``: day images, taken to night and back; of more than two domains, to
      each other one and back, on average.
    * ``val/identity_l1/day``, ``val/identity_psnr/day``: day images, translated from day to day.

    ``test/...`` in a test. A model with styles goes there in one of the prior, the one that other measures look at too,
    and back in that of the input where it can read it (MUNIT's style-augmented cycle); else in the mean of the prior.

    Args:
        every: measures in each ``every``-th validation of a fit; ``validate`` and ``test`` always measure.
    """

    def __init__(self, every: int = 1) -> None:
        super().__init__(every)
        self._rows: dict[str, CollectedValues] = {}

    @property
    def protocol(self) -> dict[str, str]:
        """Nothing beside the data and the model."""
        return {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model that does not translate between the domains of the data."""
        check_domains(trainer, pl_module, self)

    def begin(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Empty rows."""
        names = [f"{kind} {domain}" for kind in ("cycle", "identity") for domain in model.domains]
        self._rows = {name: CollectedValues(len(MEASURES)).to(model.device) for name in names}
        self._positions = Positions(trainer)

    def add(self, trainer: pl.Trainer, model: Any, batch: Any) -> None:
        """Take a batch to the other domains and back, and to its own."""
        sides = images_of(batch, self)
        positions = self._positions.next(len(sides[0]))
        for source, (domain, x) in enumerate(zip(model.domains, sides, strict=True)):
            style = infer(trainer, partial(model.style_of, domain=source), x) if _reads_styles(model) else None
            new = positions < distinct(trainer, source)
            out = [(way, translated(trainer, model, x, way, positions)) for way in ways(model) if way.source == source]
            cycles = [translate(trainer, model, y, way.target, source, style) for way, y in out]
            back = [translate(trainer, model, x, source, source, style)]
            for kind, images in (("cycle", cycles), ("identity", back)):
                values = torch.stack([_values(y, x) for y in images]).mean(0)
                self._rows[f"{kind} {domain}"].update(values[new.to(values.device)], positions[new])

    def finish(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Bring the ranks together and log the means; in ``test`` with intervals."""
        found: dict[str, Measurement] = {}
        for row, metric in self._rows.items():
            kind, domain = row.split(" ", 1)
            for name, values in zip(MEASURES, metric.compute().T, strict=True):
                found[f"{kind}_{name}/{domain}"] = _measurement(values, UNITS[name], stage == "test")
        self._rows = {}
        log_alike(model, stage, {key: each.value for key, each in found.items()})
        if stage == "test":
            self.measurements = found


def _values(y: Tensor, x: Tensor) -> Tensor:
    return torch.stack([measure(y, x) for measure in MEASURES.values()], dim=1)


def _reads_styles(model: Any) -> bool:
    return isinstance(model, Stylist) and model.style_spec is not None


def _measurement(values: Tensor, unit: str, fully: bool) -> Measurement:
    interval = bootstrap(values) if fully and len(values) > 1 else None
    return Measurement(float(values.mean()), interval, unit, len(values))
