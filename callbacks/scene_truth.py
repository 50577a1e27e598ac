"""What only known scenes allow to measure: does a translation show the right domain and still the same street?"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from callbacks.measured import Measurement, Measuring, Positions, log_alike, translated
from callbacks.probes import infer
from callbacks.rows import CEILING, UNTRANSLATED
from callbacks.ways import check_domains, images_of, ways
from interfaces.batch import KnowsScenes, SceneFacts, second_draws
from interfaces.model import ContentCoder
from metrics.collected import CollectedValues
from metrics.features.scenes import DOMAINS, SIDE, SceneReading, Scenes
from metrics.intervals import bootstrap
from metrics.truth import confusion, map_accuracy, mean_iou, places, pooled, probe_hits, probe_readings, r2


class SceneTruth(Measuring):
    """Reads translations of streets with the scenes network and holds what it reads against the truth.

    * ``domain/day2night``: share of translations that are taken for the target domain.
    * ``semantic_iou/...`` and ``semantic_accuracy/...``: the map read from the translation against the exact map of the
      scene, the FCN score of pix2pix and CycleGAN with an exact reference.
    * ``content_r2/...``: how well the content factors can still be read, on average over those that can be read from
      the true pair with R2 of at least ``READABLE``; in ``test`` also factor by factor.

    Each has two rows that need no model: ``_untranslated`` is read from the input, ``_ceiling`` from the true
    counterpart, so that what the network itself cannot read is not held against a model.

    * ``leak_domain/content``, ``leak_style/<domain>``, in ``test`` and for models with ``content_of``: how well a ridge
      regression reads domain and style from the content code, which should not hold them: chance (0.5 of two domains)
      and 0 are best.
      ``leak_domain/pixels`` and ``leak_style/<domain>_pixels`` are read from the images themselves.
      ``leak_domain/content_local``, of a map, and ``leak_domain/pixels_local`` are the means of four probes, each of
      which sees one position only.

    Args:
        weights: of the scenes network; by default the repository's.
        every: measures in each ``every``-th validation of a fit; ``validate`` and ``test`` always measure.
    """

    def __init__(self, weights: str | None = None, every: int = 1) -> None:
        super().__init__(every)
        self.reader = Scenes(weights)
        self._facts: SceneFacts | None = None  # of the stage at hand
        self._known: dict[str, SceneFacts] = {}  # by stage
        self._rows: dict[str, CollectedValues] = {}
        self._stage = "val"

    @property
    def protocol(self) -> dict[str, str]:
        """The network, and how probes are fitted."""
        rules = {
            "probe": f"{PROBE}; local: on one position",
            "intervals": f"from {RESAMPLES} resamples",
            "content_r2": f"factors read with R2 of {READABLE} or more from the true counterpart",
        }
        scenes = {f"scenes: {key}": value for key, value in self.reader.protocol.items()}
        return scenes | {f"SceneTruth: {key}": value for key, value in rules.items()}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse data whose scenes are not known.

        Raises:
            TypeError: the model does not translate, or the data cannot tell their scenes.
            ValueError: the scenes network does not know a domain.
        """
        check_scenes(trainer, pl_module, self)

    def begin(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """No rows; the facts of the stage's scenes, once."""
        self._positions, self._rows, self._stage = Positions(trainer), {}, stage
        if stage not in self._known:
            name = "test" if stage == "test" else "validate"
            self._known[stage] = trainer.datamodule.scene_facts(name)  # type: ignore[attr-defined]
        self._facts = self._known[stage]

    def add(self, trainer: pl.Trainer, model: Any, batch: Any) -> None:
        """Read a batch and its translations; in ``test`` keep its codes for the probes."""
        probe = self._stage == "test" and isinstance(model, ContentCoder)
        sides = images_of(batch, self)
        if not second_draws(batch):
            raise TypeError(f"SceneTruth needs a PairedBatch or an AlignedBatch, not {type(batch).__name__}.")
        positions = self._positions.next(len(sides[0]))
        seen = [self.reader.read(x) for x in sides]
        for way in ways(model):
            y = self.reader.read(translated(trainer, model, sides[way.source], way, positions))
            rows = ((way.name, y), (way.name + UNTRANSLATED, seen[way.source]), (way.name + CEILING, seen[way.target]))
            for row, readings in rows:
                self._keep(row, self._values(readings, model.domains[way.target], positions), positions)
        for source, x in enumerate(sides if probe else ()):
            code = infer(trainer, partial(model.content_of, source=source), x)
            for kind, codes in (("content", code), ("pixels", x.float())):
                self._keep(f"{kind} {model.domains[source]}", pooled(codes), positions)
                if codes.ndim == 4:
                    self._keep(f"{kind}_local {model.domains[source]}", torch.cat([*places(codes)], 1), positions)

    def _values(self, seen: SceneReading, target: str, positions: Tensor) -> Tensor:
        """(N, 1 + K^2 + F): right domain or not, the confusion of the map, the content factors."""
        assert self._facts is not None
        domain = (seen.domain_logits.argmax(1) == DOMAINS.index(target)).double()[:, None]
        truth = self._facts.semantic[positions].to(seen.content.device)
        truth = interpolate(truth[:, None].float(), (SIDE, SIDE), mode="nearest-exact")[:, 0].long()
        maps, k = seen.semantic_logits.argmax(1), seen.semantic_logits.shape[1]
        counts = torch.stack([confusion(p, t, k) for p, t in zip(maps, truth, strict=True)]).flatten(1)
        return torch.cat((domain, counts.double(), seen.content.double()), 1)

    def _keep(self, row: str, values: Tensor, positions: Tensor) -> None:
        if row not in self._rows:
            self._rows[row] = CollectedValues(values.shape[1]).to(values.device)
        self._rows[row].update(values, positions)

    def finish(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Compare with the truth and log; in ``test`` factor by factor and with intervals."""
        rows = {name: metric.compute().cpu() for name, metric in self._rows.items()}
        self._rows = {}
        found: dict[str, Measurement] = {}
        for name in (way.name for way in ways(model)):
            readable = self._content(rows[name + CEILING]) >= READABLE
            for row in (name, name + UNTRANSLATED, name + CEILING):
                found |= self._measure(row, rows[row], readable, stage == "test")
        if f"content {model.domains[0]}" in rows:
            found |= self._leaks(model, rows)
        if stage == "test":
            self.measurements = found
        log_alike(model, stage, {key: each.value for key, each in found.items()})  # all ranks hold all rows

    def _content(self, values: Tensor, picked: Tensor | None = None) -> Tensor:
        """(F,) R2 of the content factors as they were read from the images, or from some of them."""
        assert self._facts is not None
        picked = torch.arange(len(values)) if picked is None else picked
        truth = self._facts.content[picked]
        return r2(values[picked, -truth.shape[1] :], truth)

    def _measure(self, row: str, values: Tensor, readable: Tensor, fully: bool) -> dict[str, Measurement]:
        assert self._facts is not None
        n, factors = len(values), self._facts.content.shape[1]
        counts = values[:, 1:-factors]
        k = round(counts.shape[1] ** 0.5)
        numbers = torch.arange(n, dtype=torch.float64)

        def over_images(statistic: Any, unit: str = "share") -> Measurement:
            """A statistic of some of the images, with an interval over images."""
            interval = bootstrap(numbers, lambda x: statistic(x.long()), resamples=RESAMPLES) if fully else None
            return Measurement(float(statistic(numbers.long())), interval, unit, n)

        def confusions(picked: Tensor) -> Tensor:
            return counts[picked].sum(0).view(k, k)

        found = {
            f"domain/{row}": over_images(lambda picked: values[picked, 0].mean()),
            f"semantic_iou/{row}": over_images(lambda picked: mean_iou(confusions(picked))),
            f"semantic_accuracy/{row}": over_images(lambda picked: map_accuracy(confusions(picked))),
            f"content_r2/{row}": over_images(lambda picked: self._content(values, picked)[readable].mean(), "R2"),
        }
        if fully:
            for f, name in enumerate(self._facts.content_names):
                found[f"content_r2_{name}/{row}"] = over_images(partial(self._factor, values, f), "R2")
        return found

    def _factor(self, values: Tensor, factor: int, picked: Tensor) -> Tensor:
        """R2 of one content factor."""
        assert self._facts is not None
        truth = self._facts.content[picked, factor]
        return r2(values[picked, factor - self._facts.content.shape[1]][:, None], truth[:, None])[0]

    def _leaks(self, model: Any, rows: dict[str, Tensor]) -> dict[str, Measurement]:
        """What ridge probes read from content codes, and from pixels for comparison."""
        assert self._facts is not None
        found = {}
        for code, end in (("content", ""), ("pixels", "_pixels")):
            each = [rows[f"{code} {domain}"] for domain in model.domains]
            found[f"leak_domain/{code}"] = told_apart([torch.cat(each)], len(each))
            if f"{code}_local {model.domains[0]}" in rows:
                local = torch.cat([rows[f"{code}_local {domain}"] for domain in model.domains])
                found[f"leak_domain/{code}_local"] = told_apart(local.chunk(4, 1), len(each))
            for domain, codes, style in zip(model.domains, each, self._facts.styles, strict=True):
                if style.shape[1]:
                    found[f"leak_style/{domain}{end}"] = read_by_probe(codes, style[: len(codes)])
        return found


def told_apart(each: Sequence[Tensor], domains: int) -> Measurement:
    """How often a probe tells the domain of codes, on average over several kinds of codes; 1 / ``domains`` is chance.

    Args:
        each: (domains * N, D), those of one domain after those of another; row i of every domain is the same scene.
        domains: how many there are.
    """
    n = len(each[0]) // domains
    labels, scenes = torch.arange(domains).repeat_interleave(n), torch.arange(n).repeat(domains)
    hits = torch.stack([probe_hits(codes, labels, scenes) for codes in each]).mean(0)
    of_scene = hits.view(domains, n).mean(0)  # its images are not independent
    return Measurement(float(of_scene.mean()), bootstrap(of_scene), "share", domains * n)


def read_by_probe(codes: Tensor, factors: Tensor) -> Measurement:
    """Mean R2 of factors (N, F) as a probe reads them from codes (N, D); the interval is over images, not probes."""
    readings, truth = probe_readings(codes, factors), factors.double()

    def statistic(picked: Tensor) -> Tensor:
        return r2(readings[picked.long()], truth[picked.long()]).mean()

    numbers = torch.arange(len(codes), dtype=torch.float64)
    return Measurement(float(statistic(numbers)), bootstrap(numbers, statistic, resamples=RESAMPLES), "R2", len(codes))


def check_scenes(trainer: pl.Trainer, model: Any, asker: pl.Callback) -> None:
    """Refuse what ``check_domains`` refuses, and data whose scenes are not known or not to the scenes network.

    Raises:
        TypeError: the model does not translate, or the data cannot tell their scenes.
        ValueError: the scenes network does not know a domain.
    """
    check_domains(trainer, model, asker)
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, KnowsScenes):
        raise TypeError(
            f"{type(asker).__name__} needs data that know their scenes, which {type(data).__name__} does not: "
            "remove the callback from this experiment."
        )
    unknown = [domain for domain in data.domains if domain not in DOMAINS]  # type: ignore[attr-defined]
    if unknown:
        raise ValueError(f"The scenes network knows {', '.join(DOMAINS)}, not {unknown[0]}.")


PROBE = "ridge, 5 folds of scenes, on means over 4x4 cells and deviations of a map"
RESAMPLES = 200  # behind most intervals
READABLE = 0.3  # R2 from which on a factor counts as one that the network can read at all
