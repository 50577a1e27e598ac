"""Measures whether the encoder finds the code of which the decoder has made an image: ALAE's third objective."""

from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.measured import Measurement, Measuring, log_alike
from callbacks.probes import in_order, infer
from interfaces.model import Decoder, Encoder, require
from metrics.intervals import bootstrap

RESAMPLES = 200  # behind an interval
_TOGETHER = 50  # codes in a pass


class Errors(NamedTuple):
    """Of each code."""

    error: Tensor  # (N,) float64, mean over coordinates of (w - E(G(w)))^2
    spread: Tensor  # (N,) float64, mean over coordinates of (w - mean of w)^2


class Reciprocity(Measuring):
    """Logs how far codes are from what the model reads off the images that it makes of them.

    Codes are drawn as the model says (``latent_spec.draw``): w = F(z) of a ``mapped`` space, else z of the prior.

    * ``val/reciprocity/mse``: the mean over codes and coordinates of (w - E(G(w)))^2, what ALAE descends.
    * ``val/reciprocity/relative``: the same in parts of the variance of w, so that spaces of another scale compare: 0
      is perfect, 1 is an encoder that always says the mean.

    ``test/...`` in a test. The codes are the same in every validation, and batches of them on any number of ranks.

    Args:
        codes: how many.
        every: measures in each ``every``-th validation of a fit; ``validate`` and ``test`` always measure.

    Raises:
        ValueError: fewer than two codes, which have no variance.
    """

    def __init__(self, codes: int = 1000, every: int = 1) -> None:
        super().__init__(every)
        if codes < 2:
            raise ValueError(f"Reciprocity.codes is {codes}: give 2 or more, a thousand say something.")
        self.codes = codes

    @property
    def protocol(self) -> dict[str, str]:
        """How many codes of which seed."""
        how = f"{self.codes} codes of seed 0, {_TOGETHER} in a pass, not truncated"
        return {"reciprocity": f"{how}; intervals from {RESAMPLES} resamples"}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model that does not encode, or makes no image of a code (TypeError)."""
        require(pl_module, Encoder, self)
        require(pl_module, Decoder, self)

    def begin(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Nothing."""

    def add(self, trainer: pl.Trainer, model: Any, batch: Any) -> None:
        """Nothing: images of the data are not needed."""

    def finish(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Make and read this rank's share of the images, bring the errors together and log; in ``test`` with intervals.

        Ranks share whole batches, since a model may draw noise for a batch.
        """
        codes = model.latent_spec.draw(self.codes, torch.Generator().manual_seed(0))
        mine = codes.split(_TOGETHER)[trainer.global_rank :: trainer.world_size]
        each = in_order(trainer, [self._errors(trainer, model, part) for part in mine])
        spread = (codes - codes.mean(0)).double().square().mean(1)
        found = measured(Errors(torch.cat(each), spread), stage == "test")
        log_alike(model, stage, {key: each.value for key, each in found.items()})
        if stage == "test":
            self.measurements = found

    def _errors(self, trainer: pl.Trainer, model: Any, codes: Tensor) -> Tensor:
        again = infer(trainer, lambda z: model.encode(model.decode(z)), codes)
        return (again.cpu().double() - codes).square().mean(1)


def measured(errors: Errors, fully: bool) -> dict[str, Measurement]:
    """Both numbers; with ``fully`` with intervals over codes."""
    n = len(errors.error)
    numbers = torch.arange(n, dtype=torch.float64)

    def mse(picked: Tensor) -> Tensor:
        return errors.error[picked.long()].mean()

    def relative(picked: Tensor) -> Tensor:
        return mse(picked) / errors.spread[picked.long()].mean()

    found = {}
    for name, unit, statistic in (
        ("mse", "of the code, squared", mse),
        ("relative", "variances of the code", relative),
    ):
        interval = bootstrap(numbers, statistic, resamples=RESAMPLES) if fully else None
        found[f"reciprocity/{name}"] = Measurement(float(statistic(numbers)), interval, unit, n)
    return found
