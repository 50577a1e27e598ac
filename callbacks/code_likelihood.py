"""Measures how likely a prior finds maps of codes that it was not trained on."""

import math
from typing import Any

import pytorch_lightning as pl

from callbacks.measured import Measurement, Measuring, Positions, log_alike
from callbacks.probes import infer
from interfaces.batch import CodeBatch
from interfaces.model import CodePrior, require
from metrics.collected import CollectedValues
from metrics.intervals import bootstrap


class CodeLikelihood(Measuring):
    """Logs the negative log-likelihood of a ``CodePrior``, mean over all codes of all images.

    ``val/nll`` in nats per code, as Razavi et al. 2019 give it, and ``val/bits_per_code``; ``test/...`` in a test, with
    intervals over images. As good as chance is log K.

    Args:
        every: measures in each ``every``-th validation of a fit; ``validate`` and ``test`` always measure.
    """

    def __init__(self, every: int = 1) -> None:
        super().__init__(every)
        self._nll = CollectedValues(1)

    @property
    def protocol(self) -> dict[str, str]:
        """What the numbers are of."""
        return {"nll": "codes given those before them and the level above, without dropout, mean over codes"}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model that is no ``CodePrior`` (TypeError)."""
        require(pl_module, CodePrior, self)

    def begin(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Nothing is collected."""
        self._nll = CollectedValues(1).to(model.device)
        self._positions = Positions(trainer)

    def add(self, trainer: pl.Trainer, model: Any, batch: Any) -> None:
        """Take the mean of each image of a batch; all have as many codes.

        Raises:
            TypeError: it has no codes.
        """
        if not isinstance(batch, CodeBatch):
            raise TypeError(f"{type(self).__name__} needs a CodeBatch, not {type(batch).__name__}.")
        maps = [batch.codes] if batch.condition is None else [batch.codes, batch.condition]
        nll = infer(trainer, model.nll_of_codes, *maps).double().mean((1, 2))
        self._nll.update(nll[:, None], self._positions.next(len(nll)))

    def finish(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Bring the ranks together and log; in ``test`` with intervals."""
        nats = self._nll.compute()[:, 0]
        found = {"nll": (nats, "nats per code"), "bits_per_code": (nats / math.log(2), "bits per code")}
        log_alike(model, stage, {key: values.mean() for key, (values, _) in found.items()})
        if stage == "test":
            for key, (values, unit) in found.items():
                interval = bootstrap(values) if len(values) > 1 else None
                self.measurements[key] = Measurement(float(values.mean()), interval, unit, len(values))
        self._nll.reset()
