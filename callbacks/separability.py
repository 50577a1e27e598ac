"""Measures whether planes in a space of codes tell images with an attribute from images without."""

from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.attribute_swap import AttributeJudge
from callbacks.code_spaces import Space, check_codes, spaces
from callbacks.measured import Measurement, Measuring, log_alike, named
from callbacks.probes import in_order, in_parts
from callbacks.rows import PRIOR
from metrics.intervals import bootstrap
from metrics.separability import Told, separability_of, told_by_planes

RESAMPLES = 200  # behind an interval


class Separability(Measuring):
    """Logs linear separability (StyleGAN, Karras et al. 2019, Sec. 4.2): 1 is perfect, 2^K is chance of K attributes.

    A judge reads the attributes of images of fixed draws; for each attribute the half of which it is surest counts, and
    a plane through the codes is asked which of them have it. ``metrics.separability`` says where this departs from the
    paper, which has 200 000 draws and 40 attributes: scores of other judges, attributes or draws do not compare.

    * ``val/separability/z`` and ``val/separability/w``, for a ``StyledGenerator``: of the same images, not truncated.
    * ``val/separability/latent``, for any other ``Decoder``.
    * ``val/separability_<attribute>/w``: of one attribute, from 1 to 2; the product of all is the score.
    * the same with ``_prior``: without any plane. A model whose images all have an attribute, or all lack it, is
      perfect in both: only what lies between the two is a merit.

    ``test/...`` in a test. The interval is over draws, without fitting planes anew, so it is too narrow.

    Args:
        judge: reads the attributes, such as ``metrics.features.faces.Faces``.
        attributes: some of the judge's; None for all.
        draws: images, 8 or more.
        every: measures in each ``every``-th validation of a fit; ``validate`` and ``test`` always measure.

    Raises:
        ValueError: too few draws, or an attribute that the judge does not know.
    """

    def __init__(
        self, judge: AttributeJudge, attributes: tuple[str, ...] | None = None, draws: int = 2000, every: int = 1
    ) -> None:
        super().__init__(every)
        if draws < 8:
            raise ValueError(f"Separability.draws is {draws}: give 8 or more, a thousand say something.")
        self.judge, self.attributes, self.draws = judge, attributes_for(attributes, judge, self), draws

    @property
    def protocol(self) -> dict[str, str]:
        """Who judges how many draws."""
        how = f"{self.draws} draws of seed 0, {', '.join(self.attributes)}; intervals from {RESAMPLES} resamples"
        return {"separability": how} | named("Separability", self.judge.protocol)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model without a space of codes (TypeError)."""
        check_codes(pl_module, self)

    def begin(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Nothing."""

    def add(self, trainer: pl.Trainer, model: Any, batch: Any) -> None:
        """Nothing: images of the data are not needed."""

    def finish(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Make and judge this rank's share of the images, bring them together, fit on rank 0, tell the others, log."""
        judged = judged_draws(trainer, model, self.judge, self.draws)
        found: list[Any] = [self._measure(judged, stage == "test") if trainer.is_global_zero else None]
        if trainer.world_size > 1:
            torch.distributed.broadcast_object_list(found)
        log_alike(model, stage, {key: each.value for key, each in found[0].items()})
        if stage == "test":
            self.measurements = found[0]

    def _measure(self, judged: "Judged", fully: bool) -> dict[str, Measurement]:
        columns = [self.judge.attributes.index(name) for name in self.attributes]
        logits = judged.logits[:, columns].numpy()
        found: dict[str, Measurement] = {}
        for space, codes in judged.codes.items():
            told = told_by_planes(codes.numpy(), logits)
            rows = {f"separability/{space}": told}
            for k, name in enumerate(self.attributes):
                rows[f"separability_{name}/{space}"] = Told(*(part[:, k : k + 1] for part in told))
            for key, row in rows.items():
                found[key] = _measurement(row, fully)
                found[key + PRIOR] = _measurement(row._replace(plane=np.zeros_like(row.plane)), fully)
        return found


class Judged(NamedTuple):
    """Draws, and what a judge reads from their images; the same on all ranks."""

    codes: dict[str, Tensor]  # (N, D) float32 on the CPU, by the name of their space
    logits: Tensor  # (N, attributes of the judge) float64 on the CPU


def judged_draws(trainer: pl.Trainer, model: Any, judge: AttributeJudge, draws: int) -> Judged:
    """Fixed draws of a model, as codes in the spaces that it has; all ranks must call it together.

    A ``StyledGenerator`` has each draw in ``z`` and ``w``, any other ``Decoder`` in ``latent``. Ranks make and judge
    images in shares.

    Args:
        trainer: of the run.
        model: for which ``check_codes`` has passed.
        judge: of images.
        draws: how many.
    """
    found = spaces(trainer, model)[-2:]  # z and w, or latent alone
    codes = {space.name: space.draw(draws, torch.Generator().manual_seed(0)).float() for space in found}
    mine = codes[found[-1].name][trainer.global_rank :: trainer.world_size]
    logits = in_order(trainer, read(found[-1], judge, mine).tolist())
    return Judged(codes, torch.tensor(logits, dtype=torch.float64))


def read(space: Space, judge: AttributeJudge, codes: Tensor) -> Tensor:
    """(N, D) codes, N may be 0, to the judge's (N, attributes) logits of their images, float64 on the CPU."""
    if not len(codes):
        return torch.zeros(0, len(judge.attributes), dtype=torch.float64)
    return in_parts(lambda part: judge.read(space.image(part)).double().cpu(), codes.float())


def attributes_for(names: tuple[str, ...] | None, judge: AttributeJudge, asker: pl.Callback) -> tuple[str, ...]:
    """``names``, or all of the judge's.

    Raises:
        ValueError: there is none, or the judge does not know one of them.
    """
    chosen = tuple(judge.attributes if names is None else names)
    unknown = [name for name in chosen if name not in judge.attributes]
    if unknown or not chosen:
        what = f"not {unknown[0]}" if unknown else "and none is chosen"
        raise ValueError(
            f"{type(asker).__name__}'s judge reads {', '.join(judge.attributes)}, {what}: give some of these."
        )
    return chosen


def _measurement(told: Told, fully: bool) -> Measurement:
    """Of some attributes; with an interval over draws."""
    n = len(told.truth)
    interval = None
    if fully:
        numbers = torch.arange(n, dtype=torch.float64)

        def score(picked: Tensor) -> Tensor:
            places = picked.long().numpy()
            return torch.tensor(separability_of(Told(*(part[places] for part in told))).score)

        interval = bootstrap(numbers, score, resamples=RESAMPLES)
    return Measurement(separability_of(told).score, interval, "exp of nats", n)
