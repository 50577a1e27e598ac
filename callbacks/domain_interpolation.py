"""Each validation, the way from one domain to the next in small steps: is it continuous, and does it get there?"""

from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from callbacks.measured import Measurement, Measuring, Positions, distinct, log_alike
from callbacks.media import labelled_grid, save_picture, save_video
from callbacks.probes import Probes, infer
from callbacks.ways import Way, check_domains, images_of, ring
from interfaces.model import Blender, require
from metrics.collected import CollectedValues
from metrics.intervals import bootstrap
from metrics.smoothness import monotonicity, smoothness


class DomainInterpolation(Measuring):
    """Moves images along the edges of the simplex of domains, from each domain to the next and back to the first.

    * ``interpolation_smoothness/day2night``: mean step over largest step of the pixels, 1 for even steps, 1 / steps for
      one jump (``metrics.smoothness``).
    * ``interpolation_monotonicity/day2night``: share of steps that lead away from the day image and towards the
      night image, 1 where none turns back.

    Both say how a path runs, not whether its ends are good translations. Keys begin with ``val/`` or ``test/``.
    ``media/domain_interpolation`` has one row an image, whose path goes once around all domains from its own;
    ``media/domain_interpolation_video`` is the same as time. A model with styles blends in the mean of the prior.

    Args:
        steps: of an edge.
        rows: images of each domain in the picture, the first of the validation.
        inputs: the first images of each domain whose paths are measured.
        every: measures and draws in each ``every``-th validation of a fit; ``validate`` and ``test`` always do.
    """

    def __init__(self, steps: int = 6, rows: int = 1, inputs: int = 32, every: int = 1) -> None:
        super().__init__(every)
        if min(steps - 1, rows, inputs) < 1:
            raise ValueError(
                f"DomainInterpolation has {steps} steps, {rows} rows and {inputs} inputs: it needs 2 steps and 1 of "
                "the others at least."
            )
        self.steps, self.rows, self.inputs = steps, rows, inputs
        self._probes = Probes(rows)
        self._values: dict[str, CollectedValues] = {}

    @property
    def protocol(self) -> dict[str, str]:
        """How many steps of how many images."""
        return {"interpolation": f"{self.steps} steps from each domain to the next, first {self.inputs} images, L1"}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model whose target is not a real vector.

        Raises:
            TypeError: ``pl_module`` is not a ``Blender``.
            ValueError: it has not the domains of the data.
        """
        require(pl_module, Blender, self)
        check_domains(trainer, pl_module, self)

    def begin(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Empty rows."""
        self._values = {way.name: CollectedValues(2).to(model.device) for way in ring(model)}
        self._positions = Positions(trainer)

    def add(self, trainer: pl.Trainer, model: Any, batch: Any) -> None:
        """Walk from the images of a batch; keep the first for the picture."""
        sides = images_of(batch, self)
        self._probes.add(trainer, *sides)
        positions = self._positions.next(len(sides[0]))
        for way in ring(model):
            mine = positions < min(self.inputs, distinct(trainer, way.source))
            x = sides[way.source][mine.to(sides[way.source].device)]
            if len(x):
                path = torch.stack([self._blended(trainer, model, x, way, k / self.steps) for k in self._places()], 1)
                values = torch.stack((smoothness(path), monotonicity(path)), 1)
                self._values[way.name].update(values, positions[mine])

    def finish(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Bring the ranks together, log the means and draw."""
        found: dict[str, Measurement] = {}
        for name, metric in self._values.items():
            for kind, values in zip(("smoothness", "monotonicity"), metric.compute().T, strict=True):
                interval = bootstrap(values) if stage == "test" and len(values) > 1 else None
                found[f"interpolation_{kind}/{name}"] = Measurement(float(values.mean()), interval, "", len(values))
        self._values = {}
        log_alike(model, stage, {key: each.value for key, each in found.items()})
        if stage == "test":
            self.measurements = found
        probes = self._probes.gather(trainer)
        if trainer.is_global_zero and probes:
            self._draw(trainer, model, probes)

    def _places(self) -> range:
        return range(self.steps + 1)

    def _blended(self, trainer: pl.Trainer, model: Any, x: Tensor, way: Way, share: float, source: int = -1) -> Tensor:
        """Images of a domain, by default of the one where the way begins, at a place of the way."""
        ends = one_hot(torch.tensor([way.source, way.target]), len(model.domains)).float()
        mixture = torch.lerp(ends[0], ends[1], share).expand(len(x), -1)
        source = way.source if source < 0 else source
        style = [] if model.style_spec is None else [torch.zeros(len(x), model.style_spec.size)]
        return infer(trainer, lambda x, v, *style: model.blend(x, source, v, *style), x, mixture, *style)

    def _draw(self, trainer: pl.Trainer, model: Any, probes: tuple[Tensor, ...]) -> None:
        edges = ring(model)
        rows, labels = [], []
        for source, images in enumerate(probes):
            around = edges[source:] + edges[:source]  # from its own domain on
            path = [(way, k / self.steps) for way in around for k in self._places()[:-1]]
            path.append((around[-1], 1.0))
            columns = [self._blended(trainer, model, images, way, share, source).cpu() for way, share in path]
            rows.append(torch.stack(columns, 1))
            labels += [f"{model.domains[source]} {k}" for k in range(len(images))]
        inputs, walks = torch.cat(probes), torch.cat(rows)  # (rows, C, H, W), (rows, places, C, H, W)
        headings = ["input", *("" if k % self.steps else f"{k // self.steps}" for k in range(walks.shape[1]))]
        picture = labelled_grid([inputs, *walks.unbind(1)], headings, labels)
        save_picture(trainer, "media/domain_interpolation", picture)
        save_video(trainer, "media/domain_interpolation_video", self._frames(model, inputs, walks))

    def _frames(self, model: Any, inputs: Tensor, walks: Tensor) -> list[np.ndarray]:
        """Of the walks as time, one picture a place: each domain's images, and beside them where they are now."""
        d = len(model.domains)
        frames = []
        for k in range(walks.shape[1] - 1):
            columns, headings = [], []
            for source, (x, walk) in enumerate(zip(inputs.chunk(d), walks.chunk(d), strict=True)):
                columns += [x, walk[:, k]]
                headings += [model.domains[source], f"to {model.domains[(source + round(k / self.steps)) % d]}"]
            frames.append(labelled_grid(columns, headings, None, 250 * d))
        return frames
