"""Whether a straight step in a space of codes changes one attribute of an image and leaves the others alone."""

from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.attribute_swap import AttributeJudge
from callbacks.code_spaces import Space, check_codes, spaces
from callbacks.heat_map import heat_map
from callbacks.measured import Measurement, Measuring, log_alike, named
from callbacks.media import labelled_grid, save_picture
from callbacks.probes import Probes, in_order, in_parts, infer
from callbacks.separability import attributes_for, judged_draws, read
from interfaces.model import Encoder, seed_of
from metrics.directions import Directions, attribute_directions, moved
from metrics.intervals import bootstrap

RANDOM = "_random"  # end of the name of a row: the same codes, as far along a random direction


class AttributeDirections(Measuring):
    """Finds a direction for each attribute, moves codes along it and lets a judge read what came of it.

    Directions are fitted to fixed draws of the prior and to what the judge reads in their images
    (``metrics.directions``): in w of a ``StyledGenerator``, else in the codes of a ``Decoder``. The codes that are
    edited are those of the first evaluation images where the model is an ``Encoder``, else further draws. A code whose
    image has the attribute goes to ``-strength`` standard deviations of the draws along its direction, one whose image
    has it not to ``+strength``.

    * ``val/direction_gives/smile``: share of images without the attribute that have it after the edit.
    * ``val/direction_takes/smile``: share of images with it that do not have it any more.
    * ``val/direction_keeps/smile``: share of readings of the judge's other attributes that stay.
    * the same with ``_random``: each code goes as far, along a random direction of its own.
    * ``media/directions``: a row for each attribute, a column for each position, for the first code.
    * ``media/direction_effects``: share of readings of each attribute that an edit of each attribute changes.

    ``test/...`` in a test. NaN where too few draws have an attribute, or have it not, or no image could be given it.

    Args:
        judge: reads the attributes, such as ``metrics.features.faces.Faces``.
        attributes: some of the judge's, those to be edited; None for all.
        draws: to which directions are fitted.
        edits: codes that are edited; fewer where an ``Encoder``'s evaluation has fewer images.
        strength: of an edit, in standard deviations.
        steps: columns of the picture, over one and a half times the strength to both sides.
        every: measures in each ``every``-th validation of a fit; ``validate`` and ``test`` always measure.

    Raises:
        ValueError: a number is out of its range, or the judge does not know an attribute.
    """

    def __init__(
        self,
        judge: AttributeJudge,
        attributes: tuple[str, ...] | None = None,
        draws: int = 2000,
        edits: int = 64,
        strength: float = 2.0,
        steps: int = 7,
        every: int = 1,
    ) -> None:
        super().__init__(every)
        if min(draws, edits) < 1 or steps < 2 or not strength > 0:
            raise ValueError(
                f"AttributeDirections has {draws} draws, {edits} edits of strength {strength} and {steps} steps: it "
                "needs 1 draw, 1 edit, a strength above 0 and 2 steps at least."
            )
        self.judge, self.attributes = judge, attributes_for(attributes, judge, self)
        self.draws, self.edits, self.strength, self.steps = draws, edits, strength, steps
        self._columns = [judge.attributes.index(name) for name in self.attributes]
        self._probes = Probes(edits)

    @property
    def protocol(self) -> dict[str, str]:
        """Who judges, how many draws make a direction and how far edits go."""
        how = f"linear support vector machines on {self.draws} draws of seed 0, {self.edits} edits"
        return {"directions": f"{how} to {self.strength:g} deviations"} | named("Directions", self.judge.protocol)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model without a space of codes (TypeError)."""
        check_codes(pl_module, self)

    def begin(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """No images yet."""
        self._probes = Probes(self.edits)

    def add(self, trainer: pl.Trainer, model: Any, batch: Any) -> None:
        """Keep this rank's share of the first images, for an ``Encoder``.

        Raises:
            TypeError: the batch has no images.
        """
        if isinstance(model, Encoder):
            if not hasattr(batch, "image"):
                raise TypeError(f"AttributeDirections needs batches with a field image, not {type(batch).__name__}.")
            self._probes.add(trainer, batch.image)

    def finish(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Fit on rank 0, tell the others, edit this rank's share, bring the readings together, draw and log."""
        space, codes, images, directions = self._prepared(trainer, model)
        had, changed = self._edits(trainer, space, codes, directions)
        if trainer.is_global_zero and len(codes):
            self._show(trainer, space, codes[0], images, directions)
        before = torch.tensor(in_order(trainer, had.tolist()), dtype=torch.bool)
        after = torch.tensor(in_order(trainer, changed.tolist()), dtype=torch.bool)
        if not len(before):
            return
        found = self._scores(before, after, directions.known, stage == "test")
        effects = after[:, :, 0].double().mean(0).numpy()
        effects[~directions.known.numpy()] = np.nan
        title = "share of readings that an edit along a direction changes"
        picture = heat_map(title, self.attributes, self.judge.attributes, effects, effects)
        save_picture(trainer, "media/direction_effects", picture)
        log_alike(model, stage, {key: each.value for key, each in found.items()})
        if stage == "test":
            self.measurements = found

    def _prepared(self, trainer: pl.Trainer, model: Any) -> tuple[Space, Tensor, Tensor | None, Directions]:
        """The space, this rank's codes to edit and their images, if they are of any, and the directions."""
        encoder, space = isinstance(model, Encoder), spaces(trainer, model)[-1]
        judged = judged_draws(trainer, model, self.judge, self.draws + (0 if encoder else self.edits))
        drawn = judged.codes[space.name]
        found: list[Any] = [None]
        if trainer.is_global_zero:
            has = judged.logits[: self.draws, self._columns] > 0
            found = [attribute_directions(drawn[: self.draws], has)]
        if trainer.world_size > 1:
            torch.distributed.broadcast_object_list(found)
        if not encoder:
            return space, drawn[self.draws :][trainer.global_rank :: trainer.world_size], None, found[0]
        images = next(iter(self._probes.share()), None)
        if images is None:
            return space, drawn[:0], None, found[0]
        codes = in_parts(lambda x: infer(trainer, model.encode, x), images).cpu()
        return space, codes, images, found[0]

    def _edits(self, trainer: pl.Trainer, space: Space, codes: Tensor, directions: Directions) -> tuple[Tensor, Tensor]:
        """What the judge reads in the images of N codes, (N, R), and what an edit changes of it, (N, K, 2, R); bool.

        Of the two, the first is the edit along the direction, the second along a random one.
        """
        had = read(space, self.judge, codes) > 0
        changed = torch.zeros(len(codes), len(self._columns), 2, had.shape[1], dtype=torch.bool)
        for k, column in enumerate(self._columns):
            goal = torch.where(had[:, column], -self.strength, self.strength) * directions.spreads[k]
            there = moved(codes, k, goal, directions)
            step = (there - codes.double()).norm(dim=1, keepdim=True)
            numbers = [trainer.global_rank + trainer.world_size * place for place in range(len(codes))]
            elsewhere = codes.double() + step * _random(numbers, k, codes.shape[1])
            for kind, edited in enumerate((there, elsewhere)):
                changed[:, k, kind] = (read(space, self.judge, edited) > 0) != had
        return had, changed

    def _scores(self, had: Tensor, changed: Tensor, known: Tensor, fully: bool) -> dict[str, Measurement]:
        """By key, of all ranks' readings."""
        found = {}
        for k, (name, column) in enumerate(zip(self.attributes, self._columns, strict=True)):
            others = [j for j in range(had.shape[1]) if j != column]
            for kind, row in enumerate((name, name + RANDOM)):
                flipped = changed[:, k, kind, column].double()
                values = {"gives": flipped[~had[:, column]], "takes": flipped[had[:, column]]}
                if others:
                    values["keeps"] = 1 - changed[:, k, kind][:, others].double().mean(1)
                for measure, each in values.items():
                    found[f"direction_{measure}/{row}"] = _measurement(each if known[k] else each[:0], fully)
        return found

    def _show(
        self, trainer: pl.Trainer, space: Space, code: Tensor, images: Tensor | None, directions: Directions
    ) -> None:
        """Draw what one code becomes along each direction that is known."""
        known = directions.known.nonzero()[:, 0].tolist()
        if not known:
            return
        ends = 1.5 * self.strength
        positions = torch.linspace(-ends, ends, self.steps)
        rows = []
        for k in known:
            values = positions.double() * directions.spreads[k]
            rows.append(moved(code.expand(self.steps, -1), k, values, directions).float())
        made = in_parts(lambda part: space.image(part), torch.cat([code[None], *rows])).cpu()
        still, steps = made[:1], made[1:].unflatten(0, (len(known), self.steps))
        first = {"code": still} if images is None else {"input": images[:1].cpu(), "code": still}
        columns = [torch.cat((image, torch.ones_like(steps[1:, 0]))) for image in first.values()]  # white below
        headings = [*first, *(f"{position:+.3g}" for position in positions.tolist())]
        labels = [self.attributes[k] for k in known]
        save_picture(trainer, "media/directions", labelled_grid([*columns, *steps.unbind(1)], headings, labels))


def _random(numbers: list[int], k: int, size: int) -> Tensor:
    """(N, size) float64 of length 1, one for each code and attribute, by their numbers."""
    if not numbers:
        return torch.zeros(0, size, dtype=torch.float64)
    generators = [torch.Generator().manual_seed(seed_of(k + 1, number)) for number in numbers]
    drawn = torch.stack([torch.randn(size, generator=rng, dtype=torch.float64) for rng in generators])
    return drawn / drawn.norm(dim=1, keepdim=True)


def _measurement(values: Tensor, fully: bool) -> Measurement:
    """Mean of (N,), NaN of none; with an interval over codes."""
    value = float(values.mean()) if len(values) else float(np.nan)
    return Measurement(value, bootstrap(values) if fully and len(values) > 1 else None, "share", len(values))
