"""Measures how well images come back from their codes."""

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.measured import Measurement, Measuring, Positions, distinct, log_alike, made_once
from callbacks.probes import infer
from interfaces.batch import sides
from interfaces.model import Decoder, Encoder, Quantiser
from metrics.collected import CollectedValues
from metrics.intervals import bootstrap
from metrics.paired import mse, psnr

MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "reconstruction_mse": lambda x, y: 4 * mse(x, y),  # in the units in which the papers minimise it
    "reconstruction_psnr": psnr,
}
UNITS = {"reconstruction_mse": "of the -1..1 range, squared", "reconstruction_psnr": "dB"}
ALL = "all"


class Reconstruction(Measuring):
    """Logs MSE and PSNR of reconstructions against their images, means over images.

    ``val/reconstruction_mse/all``, in [0, 4] since images are in [-1, 1], and ``val/reconstruction_psnr/all``;
    ``test/...`` in a test. For a ``Quantiser`` of two levels or more also what each says alone:
    ``val/reconstruction_mse/level_0`` is that of the top, the coarsest. Any other model decodes the code of the image.

    Args:
        every: measures in each ``every``-th validation of a fit; ``validate`` and ``test`` always measure.
    """

    def __init__(self, every: int = 1) -> None:
        super().__init__(every)
        self._values: CollectedValues | None = None  # of each image all rows of the first measure, then of the next
        self._rows: list[str] = []

    @property
    def protocol(self) -> dict[str, str]:
        """What the numbers stand on, beside the data."""
        return {"reconstruction": "mse of images in [-1, 1], PSNR of peak 2, means over images"}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model that makes no image of a code.

        Raises:
            TypeError: ``pl_module`` is no ``Quantiser``, and not both ``Encoder`` and ``Decoder``.
        """
        flat = isinstance(pl_module, Encoder) and isinstance(pl_module, Decoder)
        if not (flat or isinstance(pl_module, Quantiser)):
            raise TypeError(
                "Reconstruction needs a Quantiser (codes, indices_of, image_of), or an Encoder and "
                f"Decoder (encode, latent_spec, decode), but {type(pl_module).__name__} is neither: remove the "
                "callback from this experiment."
            )

    def begin(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Nothing is known, not even how many levels there are."""
        self._values, self._rows, self._positions = None, [], Positions(trainer)

    def add(self, trainer: pl.Trainer, model: Any, batch: Any) -> None:
        """Add a batch."""
        x, numbers = images_in(trainer, batch, self._positions, self)
        found = reconstructions(trainer, model, x)
        if self._values is None:
            self._rows, self._values = [*found], CollectedValues(len(MEASURES) * len(found)).to(model.device)
        values = [measure(y, x) for measure in MEASURES.values() for y in found.values()]
        self._values.update(torch.stack(values, 1), numbers)

    def finish(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Bring the ranks together and log; in ``test`` with intervals."""
        assert self._values is not None  # an evaluation without an image is refused by the loaders
        each, self._values = self._values.compute(), None
        keys = [f"{measure}/{row}" for measure in MEASURES for row in self._rows]
        log_alike(model, stage, dict(zip(keys, each.mean(0), strict=True)))
        if stage == "test":
            for key, column in zip(keys, each.T, strict=True):
                interval = bootstrap(column) if len(column) > 1 else None
                unit = UNITS[key.partition("/")[0]]
                self.measurements[key] = Measurement(float(column.mean()), interval, unit, len(column))


def reconstructions(trainer: pl.Trainer, model: Any, x: Tensor) -> dict[str, Tensor]:
    """What comes back of (N, C, H, W), by row: ``all``, and ``level_0`` and so on where there are several levels."""
    if not isinstance(model, Quantiser):
        return {ALL: reconstructed(trainer, model, x)}
    maps = indices_of(trainer, model, x)
    found = {ALL: infer(trainer, lambda *maps: model.image_of([*maps]), *maps)}
    if len(maps) > 1:
        for k in range(len(maps)):
            found[f"level_{k}"] = infer(trainer, lambda *maps, k=k: model.image_of([*maps], (k,)), *maps)
    return found


def reconstructed(trainer: pl.Trainer, model: Any, x: Tensor) -> Tensor:
    """What an ``Encoder`` and ``Decoder`` gives back of (N, C, H, W), once for all callbacks; see ``made_once``."""
    return made_once(x, "reconstruction", lambda: infer(trainer, lambda x: model.decode(model.encode(x)), x))


def indices_of(trainer: pl.Trainer, model: Quantiser, x: Tensor) -> list[Tensor]:
    """The maps of (N, C, H, W), as validation would find them: in the run's precision, without gradients."""
    plugin = trainer.precision_plugin
    with torch.no_grad(), plugin.val_step_context():
        return model.indices_of(plugin.convert_input(x.to(trainer.strategy.root_device)))


def images_in(trainer: pl.Trainer, batch: Any, positions: Positions, asker: pl.Callback) -> tuple[Tensor, Tensor]:
    """The images of all domains of an evaluation batch, and their numbers; what a smaller domain repeats is left out.

    Args:
        trainer: of the run.
        batch: with a field ``image``, or of the sides of two or more domains.
        positions: of the rows of the batches so far.
        asker: for the message.

    Returns:
        (M, C, H, W) and (M,) int64 on the CPU: image d of row r has the number r D + d.

    Raises:
        TypeError: it holds no images.
    """
    each = columns_of(batch, asker)
    rows, kept, numbers = positions.next(len(each[0])), [], []
    for k, images in enumerate(each):
        new = rows < distinct(trainer, k)
        kept.append(images if bool(new.all()) else images[new])
        numbers.append(rows[new] * len(each) + k)
    return kept[0] if len(kept) == 1 else torch.cat(kept), torch.cat(numbers)  # no copy, see ``made_once``


def columns_of(batch: Any, asker: pl.Callback) -> tuple[Tensor, ...]:
    """The images of each domain of a batch, (N, C, H, W) each, or those of a batch without domains.

    Raises:
        TypeError: it holds no images.
    """
    each = (batch.image,) if hasattr(batch, "image") else sides(batch)
    if not each:
        raise TypeError(
            f"{type(asker).__name__} needs batches with a field image or of images of several domains, "
            f"not {type(batch).__name__}."
        )
    return each
