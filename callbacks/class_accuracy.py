"""Measures how often a classifier is right in each domain: the number of unsupervised domain adaptation."""

from typing import Any

import pytorch_lightning as pl
import torch

from callbacks.measured import Measurement, Measuring, log_alike
from callbacks.probes import infer
from interfaces.batch import LabelledBatch
from interfaces.model import Classifier, require
from metrics.intervals import wilson


class ClassAccuracy(Measuring):
    """Logs the share of images of each domain whose largest logit is that of their class.

    ``val/accuracy/coloured`` and so on, ``test/...`` in a test; a domain without a labelled image has none. Images are
    counted one by one, where UFDN's official code averages over batches of 100 and leaves out the last one.

    Args:
        every: measures in each ``every``-th validation of a fit; ``validate`` and ``test`` always measure.
    """

    def __init__(self, every: int = 1) -> None:
        super().__init__(every)
        self._domains: tuple[str, ...] = ()
        self._counts = torch.zeros(0, 2, dtype=torch.int64)  # right and all images of each domain

    @property
    def protocol(self) -> dict[str, str]:
        """How an interval is made."""
        return {"interval of accuracy": "Wilson's score, 95 %"}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model that does not classify, and data that do not name their domains.

        Raises:
            TypeError: one of both.
        """
        require(pl_module, Classifier, self)
        domains = getattr(getattr(trainer, "datamodule", None), "domains", None)
        if domains is None:
            raise TypeError(
                f"{type(self).__name__} needs a DataModule with domains, such as datamodules.digits.Digits."
            )
        self._domains = tuple(domains)

    def begin(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Nothing is counted."""
        self._counts = torch.zeros(len(self._domains), 2, dtype=torch.int64, device=model.device)

    def add(self, trainer: pl.Trainer, model: Any, batch: Any) -> None:
        """Count the labelled images of a batch.

        Raises:
            TypeError: it has no labels.
        """
        if not isinstance(batch, LabelledBatch):
            raise TypeError(f"{type(self).__name__} needs a LabelledBatch, not {type(batch).__name__}.")
        label = batch.label.to(self._counts.device)
        labelled = label >= 0
        right = infer(trainer, model.classify, batch.image).argmax(1) == label  # which is never -1
        self._counts.index_add_(0, batch.domain.to(label.device), torch.stack([right, labelled], 1).long())

    def finish(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Add up the ranks and log; in ``test`` with intervals.

        Raises:
            ValueError: no image had a label.
        """
        counts = trainer.strategy.reduce(self._counts, reduce_op="sum").tolist()
        found = {
            f"accuracy/{domain}": Measurement(right / n, wilson(right, n) if stage == "test" else None, "share", n)
            for domain, (right, n) in zip(self._domains, counts, strict=True)
            if n
        }
        if not found:
            raise ValueError(
                f"{type(self).__name__} saw no label in {stage}: evaluation must give labels of 0 or more."
            )
        log_alike(model, stage, {key: each.value for key, each in found.items()})
        if stage == "test":
            self.measurements = found
