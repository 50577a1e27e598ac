"""How different the translations of one image are from each other, by the two published protocols."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.measured import Measurement, Measuring, distinct_share, log_alike, named
from callbacks.probes import Probes, in_order, in_parts
from callbacks.rows import CEILING
from callbacks.style_grid import in_styles, styles_of
from callbacks.ways import Way, check_styles, images_of, ways
from interfaces.batch import second_draws
from interfaces.model import Stylist
from metrics.diversity import diversity_of_all_pairs, diversity_of_random_pairs
from metrics.features.distance import NamedDistance
from metrics.intervals import bootstrap


class LPIPSDiversity(Measuring):
    """Logs the mean distance between translations of one image under several styles, in every direction.

    * ``val/lpips/day2night``: disjoint random pairs of styles of the prior (MUNIT).
    * ``val/lpips_pairs/day2night``: all pairs of styles of the prior (StarGAN v2, latent-guided).
    * ``val/lpips_reference/day2night``: all pairs of styles of images of the target domain (StarGAN v2,
      reference-guided), for a ``Stylist`` where the validation has at least two images.

    Where the data know the truth, each has a row ``_ceiling``: the distance between two true images of one scene with
    two draws of their style, on average over the same number of scenes. It is how various the data are, one number
    whatever the protocol; a model may exceed it, and then invents. The floor is 0: one translation for all styles.

    ``test/...`` in a test. With another distance than LPIPS by AlexNet the keys begin with
    ``val/diversity_<its name>``. Styles and references are functions of the image's number, so they are the same
    in every validation and on any number of ranks. ``validate`` and ``test`` also print 95% intervals.

    Args:
        distance: ``metrics.features.lpips.LPIPS`` for numbers to compare with papers, whose weights must be on this
            machine; ``metrics.features.distance.EmbeddingDistance`` where they are not.
        inputs: the first images of each domain; MUNIT has 100, StarGAN v2 all; fewer where there are fewer, and none
            counts twice where the smaller domain starts again.
        pairs: disjoint pairs per image, of twice as many outputs.
        outputs: of which all pairs are taken; references are fewer where there are fewer, with the same expectation.
        every: measures in each ``every``-th validation of a fit; ``validate`` and ``test`` always measure.

    Raises:
        ValueError: a number is too small.
    """

    def __init__(
        self, distance: NamedDistance, inputs: int = 100, pairs: int = 19, outputs: int = 10, every: int = 1
    ) -> None:
        super().__init__()
        if min(inputs, pairs, outputs - 1, every) < 1:
            raise ValueError(
                f"LPIPSDiversity has inputs {inputs}, pairs {pairs}, outputs {outputs} and every {every}: "
                "it needs 2 outputs and 1 of the others at least."
            )
        self.distance, self.inputs, self.pairs, self.outputs, self.every = distance, inputs, pairs, outputs, every
        self.prefix = "lpips" if distance.name == "lpips-alex" else f"diversity_{distance.name}"
        self._probes = Probes(inputs)
        self._values: dict[str, Tensor] = {}  # one per input, of the latest measurement

    @property
    def state_key(self) -> str:
        """One for each distance, so that a run may have several."""
        return self._generate_state_key(distance=self.distance.name)

    @property
    def protocol(self) -> dict[str, str]:
        """Whose distance, and between how many outputs."""
        counts = f"{self.inputs} inputs, {self.pairs} random pairs, all pairs of {self.outputs}"
        how = f"{counts}; styles and references drawn with the input's number as seed"
        return {f"diversity {self.distance.name}": how} | named(self.distance.name, self.distance.protocol)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model without styles.

        Raises:
            TypeError: ``pl_module`` is not a ``Translator``.
            ValueError: it has no styles, or not the domains of the data.
        """
        check_styles(trainer, pl_module, self)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print after ``validate``; during ``fit`` the numbers are in the logs."""
        if trainer.state.fn == "validate" and trainer.is_global_zero:
            self._print()

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print."""
        if trainer.is_global_zero:
            self._print()

    def begin(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """No images yet."""
        self._probes = Probes(self.inputs)

    def add(self, trainer: pl.Trainer, model: Any, batch: Any) -> None:
        """Keep this rank's share of the first images."""
        self._probes.add(trainer, *images_of(batch, self), *second_draws(batch))

    def finish(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Measure this rank's share, bring the values together and log their means."""
        d = len(model.domains)
        kept = distinct_share(trainer, self._probes, d) or (torch.empty(0),) * d
        pools = [self._references(trainer, model, kept[k], k) for k in range(d)]
        spreads = [in_order(trainer, self._true_spread(trainer, kept, k, d)) for k in range(d)]
        self._values = {}
        for way in ways(model):
            pool = pools[way.target]
            share = [self._of_one(trainer, model, x, way, place, pool) for place, x in enumerate(kept[way.source])]
            columns = zip(*in_order(trainer, share), strict=True)
            for protocol, values in zip(("", "_pairs", "_reference"), columns, strict=False):
                self._values[f"{self.prefix}{protocol}/{way.name}"] = torch.tensor(values, dtype=torch.float64)
            spread = torch.tensor(spreads[way.target], dtype=torch.float64)
            if len(spread):
                self._values |= {key + CEILING: spread for key in list(self._values) if key.endswith(f"/{way.name}")}
        log_alike(model, stage, {key: values.mean().float() for key, values in self._values.items()})
        if stage == "test":
            self.measurements = {key: _measurement(values) for key, values in self._values.items()}

    def _references(self, trainer: pl.Trainer, model: Any, images: Tensor, domain: int) -> list[Tensor]:
        """Styles of the images of all ranks, in order; none where the model reads none."""
        if not isinstance(model, Stylist):
            return []
        return in_order(trainer, [styles_of(trainer, model, x[None], domain)[0] for x in images])

    def _true_spread(self, trainer: pl.Trainer, kept: tuple[Tensor, ...], k: int, domains: int) -> list[float]:
        """Of each scene of this rank, the distance between two true images; none where the data do not know."""
        if len(kept) == domains:
            return []
        device = trainer.strategy.root_device
        apart = in_parts(lambda x, y: self.distance(x.to(device), y.to(device)), kept[k], kept[k + domains])
        return apart.double().tolist()

    def _of_one(
        self, trainer: pl.Trainer, model: Any, x: Tensor, way: Way, place: int, references: list[Tensor]
    ) -> list[float]:
        """The values of one input, which is number ``place`` of this rank."""
        rng = torch.Generator().manual_seed(place * trainer.world_size + trainer.global_rank)
        drawn = model.style_spec.draw(max(2 * self.pairs, self.outputs), rng)
        y = in_styles(trainer, model, x, way, drawn)[None]
        values = [
            diversity_of_random_pairs(y[:, : 2 * self.pairs], self.distance, self.pairs),
            diversity_of_all_pairs(y[:, : self.outputs], self.distance, self.outputs),
        ]
        if len(references) > 1:
            order = torch.randperm(len(references), generator=rng)[: self.outputs]
            chosen = torch.stack([references[k] for k in order])
            y = in_styles(trainer, model, x, way, chosen)[None]
            values.append(diversity_of_all_pairs(y, self.distance, len(chosen)))
        return torch.cat(values).tolist()

    def _print(self) -> None:
        for key, values in self._values.items():
            if key.endswith(CEILING):
                continue
            line = f"  {key}  {float(values.mean()):.4f}"
            if len(values) > 1:
                low, high = bootstrap(values)
                line += f"  [{low:.4f}, {high:.4f}]"
            true = self._values.get(key + CEILING)
            ceiling = "" if true is None else f", ceiling {float(true.mean()):.4f}"
            print(f"{line}  over {len(values)} inputs{ceiling}", flush=True)


def _measurement(values: torch.Tensor) -> Measurement:
    interval = bootstrap(values) if len(values) > 1 else None
    return Measurement(float(values.mean()), interval, "distance", len(values))
