"""What only known scenes allow to measure: does a translation show the right domain and still the same street?"""

from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from callbacks.measured import Measurement, Measuring, Positions, log_alike, translated
from callbacks.probes import infer
from callbacks.rows import CEILING, UNTRANSLATED
from callbacks.translation_grid import check_two_domains, directions
from interfaces.batch import KnowsScenes, PairedBatch, SceneFacts
from interfaces.model import ContentCoder
from metrics.collected import CollectedValues
from metrics.features.scenes import DOMAINS, SIDE, Scenes
from metrics.intervals import bootstrap
from metrics.truth import confusion, map_accuracy, mean_iou, places, pooled, probe_accuracy, probe_r2, r2


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
      regression reads domain and style from the content code, which should not hold them: 0.5 and 0 are best.
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
        self._facts: SceneFacts | None = None
        self._rows: dict[str, CollectedValues] = {}
        self._stage = "val"

    @property
    def protocol(self) -> dict[str, str]:
        """The network, and how probes are fitted."""
        probe = {"probe": "ridge, 5 folds, on means over 4x4 cells and deviations of a map; local: on one position"}
        return {f"scenes: {key}": value for key, value in self.reader.protocol.items()} | probe

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
        if self._facts is None or stage == "test":
            name = "test" if stage == "test" else "validate"
            self._facts = trainer.datamodule.scene_facts(name)  # type: ignore[attr-defined]

    def add(self, trainer: pl.Trainer, model: Any, batch: Any) -> None:
        """Read a batch and its translations; in ``test`` keep its codes for the probes."""
        probe = self._stage == "test" and isinstance(model, ContentCoder)
        if not isinstance(batch, PairedBatch):
            raise TypeError(f"SceneTruth needs a PairedBatch, not {type(batch).__name__}.")
        positions = self._positions.next(len(batch.a))
        for source, (direction, x, truth) in enumerate(
            zip(directions(model), (batch.a, batch.b), (batch.b, batch.a), strict=True)
        ):
            y = translated(trainer, model, x, source, positions)
            for row, seen in ((direction, y), (direction + UNTRANSLATED, x), (direction + CEILING, truth)):
                self._keep(row, self._read(seen, model.domains[1 - source], positions), positions)
            if probe:
                code = infer(trainer, partial(model.content_of, source=source), x)
                for kind, codes in (("content", code), ("pixels", x.float())):
                    self._keep(f"{kind} {model.domains[source]}", pooled(codes), positions)
                    if codes.ndim == 4:
                        self._keep(f"{kind}_local {model.domains[source]}", torch.cat([*places(codes)], 1), positions)

    def _read(self, x: Tensor, target: str, positions: Tensor) -> Tensor:
        """(N, 1 + K^2 + F): right domain or not, the confusion of the map, the content factors."""
        assert self._facts is not None
        seen = self.reader.read(x)
        domain = (seen.domain_logits.argmax(1) == DOMAINS.index(target)).double()[:, None]
        truth = self._facts.semantic[positions].to(x.device)
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
        for direction in directions(model):
            readable = self._content(rows[direction + CEILING]) >= READABLE
            for row in (direction, direction + UNTRANSLATED, direction + CEILING):
                found |= self._measure(row, rows[row], readable, stage == "test")
        if f"content {model.domains[0]}" in rows:
            found |= self._leaks(model, rows)
        if stage == "test":
            self.measurements = found
        log_alike(model, stage, {key: each.value for key, each in found.items()})  # all ranks hold all rows

    def _content(self, values: Tensor) -> Tensor:
        """(F,) R2 of the content factors as they were read."""
        assert self._facts is not None
        truth = self._facts.content[: len(values)]  # all, but for limit_val_batches
        return r2(values[:, -truth.shape[1] :], truth)

    def _measure(self, row: str, values: Tensor, readable: Tensor, fully: bool) -> dict[str, Measurement]:
        assert self._facts is not None
        n, factors = len(values), self._facts.content.shape[1]
        counts = values[:, 1:-factors]
        k = round(counts.shape[1] ** 0.5)
        content, numbers = self._content(values), torch.arange(n, dtype=torch.float64)

        def over_images(statistic: Any) -> Measurement:
            """A statistic of the rows, with an interval over images."""
            interval = (
                bootstrap(numbers, lambda picked: statistic(values[picked.long()]), resamples=200) if fully else None
            )
            return Measurement(float(statistic(values)), interval, "share", n)

        found = {
            f"domain/{row}": over_images(lambda v: v[:, 0].mean()),
            f"semantic_iou/{row}": over_images(lambda v: mean_iou(v[:, 1:-factors].sum(0).view(k, k))),
            f"semantic_accuracy/{row}": over_images(lambda v: map_accuracy(v[:, 1:-factors].sum(0).view(k, k))),
            f"content_r2/{row}": Measurement(float(content[readable].mean()), None, "R2", n),
        }
        if fully:
            for name, value in zip(self._facts.content_names, content, strict=True):
                found[f"content_r2_{name}/{row}"] = Measurement(float(value), None, "R2", n)
        return found

    def _leaks(self, model: Any, rows: dict[str, Tensor]) -> dict[str, Measurement]:
        """What ridge probes read from content codes, and from pixels for comparison."""
        assert self._facts is not None
        found = {}
        for code, end in (("content", ""), ("pixels", "_pixels")):
            a, b = (rows[f"{code} {domain}"] for domain in model.domains)
            labels = torch.arange(2).repeat_interleave(len(a))
            accuracy = float(probe_accuracy(torch.cat((a, b)), labels))
            found[f"leak_domain/{code}"] = Measurement(accuracy, None, "share", 2 * len(a))
            if f"{code}_local {model.domains[0]}" in rows:
                both = torch.cat([rows[f"{code}_local {domain}"] for domain in model.domains])
                each = [float(probe_accuracy(place, labels)) for place in both.chunk(4, 1)]
                found[f"leak_domain/{code}_local"] = Measurement(sum(each) / 4, None, "share", 2 * len(a))
            for domain, codes, style in zip(model.domains, (a, b), self._facts.styles, strict=True):
                if style.shape[1]:
                    value = float(probe_r2(codes, style[: len(codes)]).mean())
                    found[f"leak_style/{domain}{end}"] = Measurement(value, None, "R2", len(codes))
        return found


def check_scenes(trainer: pl.Trainer, model: Any, asker: pl.Callback) -> None:
    """Refuse what ``check_two_domains`` refuses, and data whose scenes are not known or not to the scenes network.

    Raises:
        TypeError: the model does not translate, or the data cannot tell their scenes.
        ValueError: the scenes network does not know a domain.
    """
    check_two_domains(trainer, model, asker)
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, KnowsScenes):
        raise TypeError(
            f"{type(asker).__name__} needs data that know their scenes, which {type(data).__name__} does not: "
            "remove the callback from this experiment."
        )
    unknown = [domain for domain in data.domains if domain not in DOMAINS]  # type: ignore[attr-defined]
    if unknown:
        raise ValueError(f"The scenes network knows {', '.join(DOMAINS)}, not {unknown[0]}.")


READABLE = 0.3  # R2 from which on a factor counts as one that the network can read at all
