"""How far the images that a model makes of chance, or of codes, are from real ones, and how sharp they are."""

from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.fid import LEAST, as_saved, compared, comparison, suffix
from callbacks.measured import Measurement, Measuring, Positions, log_alike
from callbacks.reconstruction import images_in, reconstructed
from callbacks.samples import check_generator, drawn
from interfaces.model import Decoder, Encoder
from metrics.collected import CollectedFeatures, CollectedValues
from metrics.features.extractor import FeatureExtractor, Features
from metrics.intervals import bootstrap
from metrics.sharpness import sharpness, sharpness_ratio


class SampleQuality(Measuring):
    """Logs FID and its relatives, and the sharpness, of what a ``Generator`` makes.

    * ``val/fid/samples``: as many samples as there are real evaluation images, against these.
    * ``val/fid/reconstructions``, of an ``Encoder`` and ``Decoder``: the same images as they come back of their codes.
    * the same of KID, precision, recall, density, coverage and, with Inception, its score.
    * ``val/sharpness/samples``, ``reconstructions`` and ``real``: variance of the Laplacian (``metrics.sharpness``).
    * ``val/sharpness_ratio/samples`` and ``reconstructions``: over that of the real images. Less than 1 is blurred.

    ``test/...`` in a test, and ``val/fid_<features>/samples`` with other features than Inception's, whose numbers say
    nothing about Inception's. FID falls with the number of images: compare only sets of one size.

    Samples are those that ``sample`` gives, truncated where it truncates. Batch k is drawn with seed k whatever the
    ranks, and each rank makes every world-th batch. All images are rounded to 8 bits, as ``FID`` does. Batches of
    several domains count as one set.

    Args:
        features: the network that looks at the images.
        batch_size: samples that are made at once; with another one they are others.
        every: measures in each ``every``-th validation of a fit; ``validate`` and ``test`` always measure.
        resamples: bootstrap draws behind each interval of an evaluation card, in ``test`` only; 0 for no intervals.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(self, features: FeatureExtractor, batch_size: int = 16, every: int = 1, resamples: int = 100) -> None:
        super().__init__(every)
        if batch_size < 1 or resamples < 0:
            raise ValueError(
                f"SampleQuality has batch_size {batch_size} and {resamples} resamples: give a batch_size of 1 or more, "
                "and resamples of 0 or more."
            )
        self.features, self.batch_size, self.resamples = features, batch_size, resamples
        self._real: dict[str, Seen] = {}  # by stage: what no training changes
        self._sets: dict[str, _Set] = {}

    @property
    def state_key(self) -> str:
        """One for each network that looks, so that a run may have several."""
        return self._generate_state_key(features=self.features.name)

    @property
    def protocol(self) -> dict[str, str]:
        """The features' own, how sets are compared, and how samples are drawn."""
        how = f"as many as real images, batch k of {self.batch_size} drawn with seed k"
        own = {f"samples{suffix(self.features)}": how, "sharpness": "variance of the Laplacian of 8-bit grey images"}
        return comparison(self.features, self.resamples) | own

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model that makes no images of chance (TypeError)."""
        check_generator(pl_module, self)

    def begin(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Empty sets; the real one only where it is not known yet."""
        names = [] if stage in self._real else ["real"]
        names += ["reconstructions"] if isinstance(model, Encoder) and isinstance(model, Decoder) else []
        self._sets = {name: self._empty(model) for name in names}
        self._positions = Positions(trainer)

    def add(self, trainer: pl.Trainer, model: Any, batch: Any) -> None:
        """Look at a batch, and at what comes back of its codes."""
        x, numbers = images_in(trainer, batch, self._positions, self)
        if "real" in self._sets:
            self._look(self._sets["real"], x, numbers)
        if "reconstructions" in self._sets:
            self._look(self._sets["reconstructions"], reconstructed(trainer, model, x), numbers)

    def finish(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Draw this rank's share, gather over ranks, compare and log; in ``test`` with intervals."""
        seen = {name: _computed(each) for name, each in self._sets.items()}
        self._sets = {}
        real = seen.pop("real") if "real" in seen else self._real[stage]
        n = len(real.sharpness)
        if n < LEAST:  # fast_dev_run, limit_val_batches
            if trainer.is_global_zero:
                print(f"SampleQuality does not measure: it needs {LEAST} images, not {n}.", flush=True)
            return
        self._real[stage] = real
        seen["samples"] = self._samples(trainer, model, n)
        resamples = self.resamples if stage == "test" else None
        measured = _sharpness({"real": real} | seen, resamples)
        values: dict[str, Any] = {key: each.value for key, each in measured.items()}
        for row, fake in seen.items():
            found = compared(row, real.features, fake.features, self.features, resamples)
            values |= found[0]
            measured |= found[1]
        log_alike(model, stage, values)  # all ranks have compared the same sets
        if stage == "test":
            self.measurements = measured

    def _samples(self, trainer: pl.Trainer, model: Any, n: int) -> "Seen":
        """What the network sees in samples 0 to n - 1; all ranks must call it together."""
        collected = self._empty(model)
        for number in range(trainer.global_rank, -(-n // self.batch_size), trainer.world_size):
            first = number * self.batch_size
            images = drawn(trainer, model, self.batch_size, number)[: n - first]  # all are drawn, for the same chance
            self._look(collected, images, torch.arange(first, first + len(images)))
        return _computed(collected)

    def _look(self, collected: "_Set", x: Tensor, numbers: Tensor) -> None:
        if len(x):
            x = as_saved(x)
            collected.features.update(self.features(x), numbers)
            collected.sharpness.update(sharpness(x)[:, None], numbers)

    def _empty(self, model: Any) -> "_Set":
        features = CollectedFeatures(self.features.size, self.features.classes)
        return _Set(features.to(model.device), CollectedValues(1).to(model.device))


class Seen(NamedTuple):
    """Of N images in their order."""

    features: Features
    sharpness: Tensor  # (N,)


class _Set(NamedTuple):
    """Images as they go by."""

    features: CollectedFeatures
    sharpness: CollectedValues


def _computed(collected: _Set) -> Seen:
    """All ranks must call it together."""
    return Seen(collected.features.compute(), collected.sharpness.compute()[:, 0])


def _sharpness(seen: dict[str, Seen], resamples: int | None) -> dict[str, Measurement]:
    """Of each set, and of all but ``real`` over that; with intervals over images where there are resamples."""
    real, found = seen["real"].sharpness, dict[str, Measurement]()
    numbers = torch.arange(len(real), dtype=torch.float64)
    for row, each in seen.items():
        x = each.sharpness
        interval = bootstrap(x, resamples=resamples) if resamples else None
        found[f"sharpness/{row}"] = Measurement(float(x.mean()), interval, "of the 0..1 range, squared", len(x))
        if row != "real":

            def ratio(picked: Tensor, x: Tensor = x) -> Tensor:
                places = picked.long().to(x.device)
                return sharpness_ratio(x[places], real[places])

            interval = bootstrap(numbers, ratio, resamples=resamples) if resamples else None
            found[f"sharpness_ratio/{row}"] = Measurement(float(sharpness_ratio(x, real)), interval, "", len(x))
    return found
