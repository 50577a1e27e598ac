"""What only known scenes allow to measure of styles: does a translation take that of its reference, and only that?"""

from functools import partial
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.measured import Measurement, Measuring, Positions, log_alike, translated
from callbacks.probes import infer
from callbacks.rows import CEILING, PRIOR
from callbacks.scene_truth import PROBE, READABLE, RESAMPLES, check_scenes, read_by_probe
from callbacks.ways import check_styles, images_of, ring, translate
from interfaces.batch import SceneFacts
from interfaces.model import Stylist, require
from metrics.collected import CollectedValues
from metrics.features.scenes import DOMAINS, Scenes
from metrics.intervals import bootstrap
from metrics.truth import pooled, r2


class StyleTruth(Measuring):
    """Translates streets in the styles of reference images, and holds the styles that it reads against the truth.

    * ``style_r2/day2night``: day images are translated in the style that ``style_of`` reads from night images; the
      scenes network reads the style factors of the translations, and R2 says how well they are those of the night
      images. The mean is over the factors that can be read from the night images themselves with R2 of at least
      ``READABLE``; in ``test`` also factor by factor, ``style_r2_<factor>/day2night``.
      ``_ceiling`` is read from the night images, ``_prior`` from translations in styles of the prior: about -1 where
      styles vary as much as the references', and not above 0 in any case but chance.
    * ``leak_content/<domain>``, in ``test``: how well a ridge regression reads the content factors, on average, from
      the style code, which should not hold them: 0 is best. ``leak_content/<domain>_pixels`` is read from the images.

    The reference of image i of N is image (i + N // 2) mod N of the target domain: another scene. Of more than two
    domains, each is translated to the next.

    Args:
        weights: of the scenes network; by default the repository's.
        images: the first ones of each domain, N or fewer; they are kept, as bytes, until all references are known.
        every: measures in each ``every``-th validation of a fit; ``validate`` and ``test`` always measure.
    """

    def __init__(self, weights: str | None = None, images: int = 1000, every: int = 1) -> None:
        super().__init__(every)
        if images < 20:
            raise ValueError(f"StyleTruth.images is {images}: probes need 20 images at least.")
        self.images = images
        self.reader = Scenes(weights)
        self._facts: SceneFacts | None = None  # of the stage at hand
        self._known: dict[str, SceneFacts] = {}  # by stage
        self._rows: dict[str, CollectedValues] = {}
        self._seen: list[_Seen] = []
        self._stage = "val"

    @property
    def protocol(self) -> dict[str, str]:
        """The network, which image is whose reference, and how probes are fitted."""
        rules = {
            "reference": f"of image i of N: image (i + N // 2) mod N; N at most {self.images}",
            "style_r2": f"factors read with R2 of {READABLE} or more from the reference itself",
            "probe": PROBE,
            "intervals": f"from {RESAMPLES} resamples",
        }
        scenes = {f"scenes: {key}": value for key, value in self.reader.protocol.items()}
        return scenes | {f"StyleTruth: {key}": value for key, value in rules.items()}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model that reads no styles, and data whose scenes are not known.

        Raises:
            TypeError: the model is not a ``Stylist``, or the data cannot tell their scenes.
            ValueError: the model has no styles, or the scenes network does not know a domain.
        """
        require(pl_module, Stylist, self)
        check_styles(trainer, pl_module, self)
        check_scenes(trainer, pl_module, self)

    def begin(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """No rows; the facts of the stage's scenes, once.

        Raises:
            ValueError: neither domain has a style that varies.
        """
        self._positions, self._seen, self._stage = Positions(trainer), [], stage
        if stage not in self._known:
            name = "test" if stage == "test" else "validate"
            self._known[stage] = trainer.datamodule.scene_facts(name)  # type: ignore[attr-defined]
        self._facts = self._known[stage]
        factors = [style.shape[1] for style in self._facts.styles]
        if not any(factors):
            names = ", ".join(model.domains)
            raise ValueError(f"None of {names} has style factors: remove StyleTruth from this experiment.")
        sizes: dict[str, int] = {}
        for source, target, way in ring(model):
            domain = model.domains[source]
            sizes |= {f"code {domain}": model.style_spec.size, f"read {domain}": factors[source]}
            sizes |= {way: factors[target], way + PRIOR: factors[target]}
            if stage == "test":
                sizes[f"pixels {domain}"] = pooled(torch.zeros(1, 3, 4, 4)).shape[1]
        self._rows = {name: CollectedValues(size).to(model.device) for name, size in sizes.items()}

    def add(self, trainer: pl.Trainer, model: Any, batch: Any) -> None:
        """Read the styles of a batch and of its translations in styles of the prior; keep the images."""
        sides = images_of(batch, self)
        positions = self._positions.next(len(sides[0]))
        kept = positions < self.images
        if not kept.any():
            return
        seen, mine = [], positions[kept]
        for way in ring(model):
            domain, whole = model.domains[way.source], sides[way.source]
            x = whole[kept.to(whole.device)]
            codes = infer(trainer, partial(model.style_of, domain=way.source), x)
            self._rows[f"code {domain}"].update(codes, mine)
            self._rows[f"read {domain}"].update(self._read(x, model, way.source), mine)
            if self._stage == "test":
                self._rows[f"pixels {domain}"].update(pooled(x.float()), mine)
            y = translated(trainer, model, whole, way, positions)[kept.to(whole.device)]
            self._rows[way.name + PRIOR].update(self._read(y, model, way.target), mine)
            seen.append(_bytes(x))
        self._seen.append(_Seen(mine, seen))

    def _read(self, x: Tensor, model: Any, domain: int) -> Tensor:
        """(N, S) style factors, read as those of ``domain``."""
        assert self._facts is not None
        factors = self._facts.styles[domain].shape[1]
        return self.reader.read(x).style[:, DOMAINS.index(model.domains[domain]), :factors]

    def finish(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Translate in the references' styles, now that all are known, compare with the truth and log."""
        assert self._facts is not None
        to_come = {way.name for way in ring(model)}
        rows = {name: metric.compute() for name, metric in self._rows.items() if name not in to_come}
        n = len(rows[f"read {model.domains[0]}"])
        for positions, sides in self._seen:
            for (source, target, way), x in zip(ring(model), sides, strict=True):
                codes = rows[f"code {model.domains[target]}"][_reference(positions, n)].float()
                y = translate(trainer, model, x.float() / 127.5 - 1, source, target, codes)
                self._rows[way].update(self._read(y, model, target), positions)
        found: dict[str, Measurement] = {}
        for _, target, way in ring(model):
            rows[way] = self._rows[way].compute()
            if self._facts.styles[target].shape[1]:
                found |= self._measure(way, rows, model, target)
        if stage == "test":
            found |= self._leaks(model, rows)
            self.measurements = found
        self._rows, self._seen = {}, []
        log_alike(model, stage, {key: each.value for key, each in found.items()})  # all ranks hold all rows

    def _measure(self, way: str, rows: dict[str, Tensor], model: Any, target: int) -> dict[str, Measurement]:
        """R2 of one direction and of its floor and ceiling; in ``test`` with intervals and factor by factor."""
        assert self._facts is not None
        seen = rows[f"read {model.domains[target]}"].cpu()
        n = len(seen)
        styles = self._facts.styles[target][:n].double()
        readable = r2(seen, styles) >= READABLE
        references = _reference(torch.arange(n), n)
        truth, found = styles[references], {}
        for row, read in ((way, rows[way]), (way + PRIOR, rows[way + PRIOR]), (way + CEILING, seen[references])):
            found[f"style_r2/{row}"] = self._measurement(read.cpu()[:, readable], truth[:, readable])
            if self._stage == "test":
                for k, name in enumerate(self._facts.style_names[target]):
                    found[f"style_r2_{name}/{row}"] = self._measurement(read.cpu()[:, k : k + 1], truth[:, k : k + 1])
        return found

    def _measurement(self, read: Tensor, truth: Tensor) -> Measurement:
        """Mean R2 of some factors."""

        def statistic(picked: Tensor) -> Tensor:
            return r2(read[picked.long()], truth[picked.long()]).mean()

        numbers = torch.arange(len(read), dtype=torch.float64)
        interval = bootstrap(numbers, statistic, resamples=RESAMPLES) if self._stage == "test" else None
        return Measurement(float(statistic(numbers)), interval, "R2", len(read))

    def _leaks(self, model: Any, rows: dict[str, Tensor]) -> dict[str, Measurement]:
        """What ridge probes read of the content from style codes, and from pixels for comparison."""
        assert self._facts is not None
        found = {}
        for domain in model.domains:
            for kind, end in (("code", ""), ("pixels", "_pixels")):
                codes = rows[f"{kind} {domain}"].cpu()
                found[f"leak_content/{domain}{end}"] = read_by_probe(codes, self._facts.content[: len(codes)])
        return found


class _Seen(NamedTuple):
    """What is kept of a batch until all references are known."""

    positions: Tensor
    sides: list[Tensor]  # images of each domain


def _bytes(x: Tensor) -> Tensor:
    """To a quarter of the memory, and back by ``/ 127.5 - 1`` without loss: scenes are rendered in bytes."""
    return ((x.float() + 1) * 127.5).round().byte().cpu()


def _reference(positions: Tensor, n: int) -> Tensor:
    """Numbers of the images that lend their style."""
    return (positions + n // 2) % n
