"""Which factor of the data a code learns when, measured all through a fit: a table, curves and a picture."""

import csv
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.learning_picture import Moment, draw_order
from callbacks.media import logged_step, run_folder, save_picture
from callbacks.probes import infer
from callbacks.watchdog import inspected
from interfaces.batch import FactorData
from interfaces.model import Encoder, Variational, require
from metrics.active_units import active_units, kl_from_prior
from metrics.factor_codes import digitised, draw_factors, entropies, mutual_information

FILE = "learning_order.csv"
MOMENTS = 40  # measurements in a run, where their distance is not given

_TOGETHER = 512  # images in a forward pass


class LearningOrder(pl.Callback):
    """Follows what each coordinate of an ``Encoder`` tells of each factor through a fit.

    Each time the mutual information of a coordinate z_d, in 20 bins, and a factor is divided by the factor's entropy,
    for the same images, which are drawn once. z is drawn from the posterior where the model has one (``Variational``),
    with the same noise each time, since that is what a decoder is told: but for chance the information is at most the
    KL. Means, which ``callbacks.disentanglement`` looks at, seem to tell much even where they move by a hundredth of
    the noise. Of another model z is the code itself.

    * ``learned/<factor>``: the largest share of a coordinate.
    * ``<run>/learning_order.csv``: a row for each measurement and coordinate.
    * ``media/learning_order``, after validations and at the end: those shares by factor over time, in the order in
      which factors passed half of their last value for good; the KL of each coordinate and of all, with the objective's
      target for it (``kl_target``); the shares of each active coordinate (``metrics.active_units``).

    The first process measures. Nothing is drawn from the generators of the training, and a resumed run goes on with
    what its checkpoint knows.

    Args:
        every_n_steps: iterations between two measurements, the first before the training and the last after it; None
            is a fortieth of ``trainer.max_steps``.
        points: images; with fewer, chance tells more.
        seed: of their factors, and of the noise.

    Raises:
        ValueError: fewer than 1 iteration, or fewer than 2 images.
    """

    def __init__(self, every_n_steps: int | None = None, points: int = 2000, seed: int = 0) -> None:
        if (every_n_steps is not None and every_n_steps < 1) or points < 2:
            raise ValueError(
                f"LearningOrder has every_n_steps {every_n_steps} and {points} points: give 1 or more iterations, or "
                "null, and 2 or more points."
            )
        self.every_n_steps, self.points, self.seed = every_n_steps, points, seed
        self.moments: list[Moment] = []
        self._names: list[str] = []
        self._factors, self._images, self._noise = np.zeros((0, 0), np.int64), torch.zeros(0), torch.zeros(0)
        self._drawn = -1  # iteration of the last moment in the picture

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model without a code, data without factors, and a run without an end.

        Raises:
            TypeError: ``pl_module`` is no ``Encoder``, or the data are no ``FactorData``.
            ValueError: neither ``every_n_steps`` nor ``trainer.max_steps`` is given.
        """
        if stage != "fit":
            return
        require(pl_module, Encoder, self)
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, FactorData):
            raise TypeError(f"LearningOrder needs data with known factors, such as datamodules.factors, not {data}.")
        if self.every_n_steps is None and trainer.max_steps < 1:
            raise ValueError("LearningOrder.every_n_steps is null and trainer.max_steps has no end: give one of them.")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the images and their noise, and measure the model as it begins."""
        if not trainer.is_global_zero:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        factors = draw_factors(data.factor_sizes, self.points, np.random.RandomState(self.seed))
        self._images = torch.from_numpy(data.images(factors))
        size = pl_module.latent_spec.size if isinstance(pl_module, Variational) else 0
        self._noise = torch.randn(self.points, size, generator=torch.Generator().manual_seed(self.seed))
        varied = [k for k, size in enumerate(data.factor_sizes) if size > 1]
        self._names, self._factors = [data.factor_names[k] for k in varied], factors[:, varied]
        if trainer.global_step == 0:
            self.moments, self._drawn = [self._measure(trainer, pl_module)], -1
            self._write(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Measure, if it is time."""
        step = trainer.global_step
        every = self.every_n_steps or max(1, trainer.max_steps // MOMENTS)
        due = (step % every == 0 or step == trainer.max_steps) and all(m.iteration != step for m in self.moments[-1:])
        if not due or not trainer.is_global_zero:
            return
        self.moments.append(self._measure(trainer, pl_module))
        self._write(trainer)
        best = zip(self._names, self.moments[-1].best.tolist(), strict=True)
        values = {f"learned/{name}": share for name, share in best}
        for logger in trainer.loggers:  # not pl_module.log: Lightning would repeat the value in the rows between
            logger.log_metrics(values, step=logged_step(trainer))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw what is new."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._draw(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw what is new, and let go of what was drawn."""
        self._draw(trainer)
        self._images, self._noise = torch.zeros(0), torch.zeros(0)

    def state_dict(self) -> dict[str, Any]:
        """All moments, in plain values."""
        return {"moments": [[v.tolist() if isinstance(v, np.ndarray) else v for v in m] for m in self.moments]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the last moment of the checkpoint."""
        self.moments = [
            Moment(iteration, np.array(shares), np.array(active, bool), np.array(kl), target)
            for iteration, shares, active, kl, target in state_dict["moments"]
        ]

    def _measure(self, trainer: pl.Trainer, model: Any) -> Moment:
        told = _told if isinstance(model, Variational) else _coded
        parts = zip(self._images.split(_TOGETHER), self._noise.split(_TOGETHER), strict=True)
        with inspected(model):
            found = [infer(trainer, partial(told, model), *part).cpu() for part in parts]
        z, mu, kl = torch.cat(found).numpy().swapaxes(0, 1)
        shares = mutual_information(digitised(z), self._factors) / np.maximum(entropies(self._factors), 1e-9)
        target = model.kl_target() if hasattr(model, "kl_target") else None
        target = float("nan") if target is None else float(target)
        return Moment(trainer.global_step, shares, active_units(mu), kl.mean(0, dtype=np.float64), target)

    def _write(self, trainer: pl.Trainer) -> None:
        write_table(run_folder(trainer) / FILE, self._names, self.moments)

    def _draw(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero and self.moments and self.moments[-1].iteration != self._drawn:
            save_picture(trainer, "media/learning_order", draw_order(self._names, self.moments))
            self._drawn = self.moments[-1].iteration


def _told(model: Variational, images: Tensor, noise: Tensor) -> Tensor:
    """(N, C, H, W) uint8 and (N, D) to (N, 3, D): z, its mean, and nats of each coordinate."""
    mu, logvar = model.posterior(images.float() / 127.5 - 1)
    return torch.stack((mu + (logvar / 2).exp() * noise, mu, kl_from_prior(mu, logvar)), 1)


def _coded(model: Encoder, images: Tensor, noise: Tensor) -> Tensor:
    """The same of a model without a posterior, whose code is its own mean and has no KL."""
    z = model.encode(images.float() / 127.5 - 1)
    return torch.stack((z, z, torch.full_like(z, torch.nan)), 1)


def write_table(path: Path, names: Sequence[str], moments: Sequence[Moment]) -> None:
    """Write all moments as CSV, a row for each coordinate of each; nobody ever reads half a file.

    Args:
        path: of the file; its folder is made.
        names: of the factors.
        moments: in the order of their iterations.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["iteration", "coordinate", "active", "kl", "kl_target", *names])
        for moment in moments:
            for d, row in enumerate(moment.shares):
                known = (f"{value:.6g}" for value in (moment.kl[d], moment.target, *row))
                writer.writerow([moment.iteration, d, int(moment.active[d]), *known])
    os.replace(temporary, path)
