"""Whether the code of an image still tells its domain, which a translation should be free to choose."""

from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch

from callbacks.measured import Measurement, Measuring, Positions, distinct, log_alike
from callbacks.probes import infer
from callbacks.scene_truth import PROBE, told_apart
from callbacks.ways import check_domains, images_of
from interfaces.model import ContentCoder, require
from metrics.collected import CollectedValues
from metrics.truth import places, pooled


class DomainProbe(Measuring):
    """Logs how often a ridge regression tells the domain from ``content_of``, on images that it was not fitted to.

    * ``domain_probe/content``: 1 / D is chance, and best.
    * ``domain_probe/content_local``, of a code that is a map: the mean of four probes that see one position each.
    * ``domain_probe/pixels``: the same probe on the images themselves, for comparison.
    * ``domain_probe/chance``: 1 / D.

    Args:
        images: the first ones of each domain, at most; at least 20.
        every: measures in each ``every``-th validation of a fit; ``validate`` and ``test`` always measure.
    """

    def __init__(self, images: int = 1000, every: int = 1) -> None:
        super().__init__(every)
        if images < 20:
            raise ValueError(f"DomainProbe.images is {images}: a probe needs 20 images of each domain at least.")
        self.images = images
        self._rows: dict[str, CollectedValues] = {}

    @property
    def protocol(self) -> dict[str, str]:
        """How the probe is fitted."""
        return {"domain_probe": f"{PROBE}; at most {self.images} images of each domain"}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model without such a code, or with other domains than the data, and too few images.

        Raises:
            TypeError: ``pl_module`` is not a ``ContentCoder`` or not a ``Translator``.
            ValueError: it has not the domains of the data, or one of them has fewer than 20 images.
        """
        require(pl_module, ContentCoder, self)
        check_domains(trainer, pl_module, self)

    def begin(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """No codes."""
        self._rows, self._positions = {}, Positions(trainer)

    def add(self, trainer: pl.Trainer, model: Any, batch: Any) -> None:
        """Keep the codes of a batch."""
        sides = images_of(batch, self)
        positions = self._positions.next(len(sides[0]))
        # Rows are scenes where the data know them: all domains keep the same ones, or the probe could count on it.
        mine = positions < min(self.images, *(distinct(trainer, k) for k in range(len(sides))))
        for source, x in enumerate(sides):
            x = x[mine.to(x.device)]
            if not len(x):
                continue
            code = infer(trainer, partial(model.content_of, source=source), x)
            self._keep(f"content {source}", pooled(code), positions[mine])
            self._keep(f"pixels {source}", pooled(x.float()), positions[mine])
            if code.ndim == 4 and code.shape[-1] > 1:
                self._keep(f"content_local {source}", torch.cat([*places(code)], 1), positions[mine])

    def _keep(self, row: str, values: torch.Tensor, positions: torch.Tensor) -> None:
        if row not in self._rows:
            self._rows[row] = CollectedValues(values.shape[1]).to(values.device)
        self._rows[row].update(values, positions)

    def finish(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Fit the probes and log."""
        d = len(model.domains)
        rows = {name: metric.compute().cpu() for name, metric in self._rows.items()}
        self._rows = {}
        if len(rows.get("content 0", ())) * d < 20:  # fast_dev_run, limit_val_batches
            return
        found = {"domain_probe/chance": Measurement(1 / d, None, "share", 0)}
        for kind in ("content", "content_local", "pixels"):
            if f"{kind} 0" in rows:
                codes = torch.cat([rows[f"{kind} {k}"] for k in range(d)])
                found[f"domain_probe/{kind}"] = told_apart(codes.chunk(4 if kind.endswith("local") else 1, 1), d)
        log_alike(model, stage, {key: each.value for key, each in found.items()})
        if stage == "test":
            self.measurements = found
