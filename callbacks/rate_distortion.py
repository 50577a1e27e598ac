"""Measures both parts of the evidence lower bound on images that a training may not have seen."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.measured import Measurement, Measuring, Positions, log_alike
from callbacks.probes import infer
from callbacks.vitals import KL_DIMENSIONS
from interfaces.model import Variational, require
from metrics.active_units import kl_from_prior
from metrics.collected import CollectedValues
from metrics.intervals import bootstrap


class RateDistortion(Measuring):
    """Logs what a code costs and what is lost without more of it (Alemi et al. 2018), means over images in nats.

    * ``val/rate``: KL(q(z|x) || N(0, I)), in closed form.
    * ``val/distortion``: - log p(x|z) for one z of q(z|x); of pixels with a density it may be negative.
    * ``val/elbo``: minus the sum of both, whatever the objective weighs.
    * ``val/kl/<coordinate>``: the parts of the rate; the first 64.

    ``test/...`` in a test. An image's z is a function of its number alone, so that 1 and N processes agree.

    Args:
        every: measures in each ``every``-th validation of a fit; ``validate`` and ``test`` always measure.
    """

    def __init__(self, every: int = 1) -> None:
        super().__init__(every)
        self._values = CollectedValues(1)  # of each image the distortion and the KL of each coordinate

    @property
    def protocol(self) -> dict[str, str]:
        """How z is drawn."""
        return {"distortion": "one z of each posterior, drawn with seed 0 and the image's number"}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model without a posterior.

        Raises:
            TypeError: it is no ``Variational``.
        """
        require(pl_module, Variational, self)

    def begin(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """No image yet."""
        self._values, self._positions = CollectedValues(1 + model.latent_spec.size).to(model.device), Positions(trainer)

    def add(self, trainer: pl.Trainer, model: Any, batch: Any) -> None:
        """Take the images of a batch.

        Raises:
            TypeError: it has none.
        """
        if not hasattr(batch, "image"):
            raise TypeError(f"{type(self).__name__} needs batches with a field image, not {type(batch).__name__}.")
        positions = self._positions.next(len(batch.image))

        def parts(x: Tensor, noise: Tensor) -> Tensor:
            mu, logvar = model.posterior(x)
            nll = model.nll_of_each(mu + (logvar / 2).exp() * noise, x)
            return torch.cat((nll[:, None], kl_from_prior(mu, logvar)), 1)

        self._values.update(infer(trainer, parts, batch.image, noise_of(model, positions)), positions)

    def finish(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Bring the ranks together and log the means; in ``test`` with intervals."""
        values = self._values.compute()
        self._values.reset()
        distortion, kl = values[:, 0], values[:, 1:]
        rate = kl.sum(1)
        of_images = {"rate": rate, "distortion": distortion, "elbo": -rate - distortion}
        of_images |= {f"kl/{d}": column for d, column in enumerate(kl.T[:KL_DIMENSIONS])}
        found = {key: _measurement(each, stage == "test") for key, each in of_images.items()}
        log_alike(model, stage, {key: each.value for key, each in found.items()})
        if stage == "test":
            self.measurements = found


def noise_of(model: Variational, positions: Tensor) -> Tensor:
    """A draw of N(0, I) for each image, a function of its number alone: (N, size) float32 on the CPU."""
    spec = model.latent_spec
    draws = [spec.draw(1, torch.Generator().manual_seed(int(position))) for position in positions]
    return torch.cat(draws) if draws else torch.zeros(0, spec.size)


def _measurement(values: Tensor, fully: bool) -> Measurement:
    interval = bootstrap(values) if fully and len(values) > 1 else None
    return Measurement(float(values.mean()), interval, "nats", len(values))
