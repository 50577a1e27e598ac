"""Distances between the set of translations and the set of real images, on one process and on many."""

from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from callbacks.measured import Measurement, Measuring, Positions, distinct, log_alike, named, translated
from callbacks.rows import CEILING, UNTRANSLATED
from callbacks.ways import check_domains, images_of, ways
from interfaces.batch import second_draws
from metrics.collected import CollectedFeatures
from metrics.features.extractor import FeatureExtractor, Features
from metrics.frechet import frechet_distance_of_sets
from metrics.inception_score import inception_score
from metrics.intervals import Interval, bootstrap, bootstrap_sets
from metrics.kernel import kernel_distance
from metrics.manifold import density_coverage_values, precision_recall_values


class FID(Measuring):
    """Logs FID, KID, precision, recall, density, coverage and, with Inception, its score of every direction.

    Real images of the target domain are held against translations of the source domain's evaluation images; where the
    model takes a style, each image has one of the prior's, a function of its number. Two rows need no model and are
    computed once: ``_untranslated`` has the source images themselves instead of translations, and where the data know
    the truth ``_ceiling`` has the same scenes rendered once more in the target domain.

    Keys are ``val/fid/day2night`` with Inception features, and ``val/fid_<features>/day2night`` with others, whose
    numbers say nothing about Inception's. FID falls with the number of images: compare only sets of one size.

    All images are rounded to 8 bits first, as if they had been saved as PNG, because published numbers are of files.
    Other networks than Inception have no Inception score: the classes of ``scenes`` are domains, and translations
    that look like many of them have failed.

    Args:
        features: the network that looks at the images.
        every: measures in each ``every``-th validation of a fit; ``validate`` and ``test`` always measure.
        resamples: bootstrap draws behind each interval of an evaluation card, in ``test`` only; 0 for no intervals.
    """

    def __init__(self, features: FeatureExtractor, every: int = 1, resamples: int = 100) -> None:
        super().__init__(every)
        if resamples < 0:
            raise ValueError(f"FID.resamples is {resamples}: give a number of draws, or 0 for no intervals.")
        self.features, self.resamples = features, resamples
        self._sets: dict[str, CollectedFeatures] = {}
        self._fixed: dict[str, dict[str, Features]] = {}  # by stage: what no training changes
        self._references: dict[str, dict[str, Tensor]] = {}

    @property
    def state_key(self) -> str:
        """One for each network that looks, so that a run may have several."""
        return self._generate_state_key(features=self.features.name)

    @property
    def protocol(self) -> dict[str, str]:
        """The features' own, and how their sets are compared."""
        return comparison(self.features, self.resamples)

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Refuse a model that does not translate between the domains of the data, and too few images.

        Raises:
            TypeError: ``pl_module`` is not a ``Translator``.
            ValueError: it has not the domains of the data, or one of them has fewer than ``LEAST`` images.
        """
        check_domains(trainer, pl_module, self)
        if stage == "predict":
            return
        fewest, domain = min((distinct(trainer, k), name) for k, name in enumerate(pl_module.domains))
        if fewest < LEAST:
            raise ValueError(
                f"FID compares sets of at least {LEAST} images, and {domain} has {fewest} for evaluation: "
                "add some, or remove the callback from this experiment."
            )

    def begin(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Empty sets; the real ones only where they are not known yet."""
        names = [way.name for way in ways(model)]
        if stage not in self._fixed:
            names += [f"{kind} {domain}" for kind in ("real", "again") for domain in model.domains]
        extractor = self.features
        self._sets = {name: CollectedFeatures(extractor.size, extractor.classes).to(model.device) for name in names}
        self._positions = Positions(trainer)

    def add(self, trainer: pl.Trainer, model: Any, batch: Any) -> None:
        """Look at a batch and at its translations."""
        sides, again = images_of(batch, self), second_draws(batch)
        positions = self._positions.next(len(sides[0]))
        new = [positions < distinct(trainer, k) for k in range(len(sides))]
        for way in ways(model):
            y = translated(trainer, model, sides[way.source], way, positions)
            self._look(way.name, y[new[way.source].to(y.device)], positions[new[way.source]])
        for k, (domain, x) in enumerate(zip(model.domains, sides, strict=True)):
            if f"real {domain}" in self._sets:
                self._look(f"real {domain}", x[new[k].to(x.device)], positions[new[k]])
                if again:
                    self._look(f"again {domain}", again[k], positions)

    def _look(self, name: str, x: Tensor, positions: Tensor) -> None:
        if len(x):
            self._sets[name].update(self.features(as_saved(x)), positions)

    def finish(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Gather over ranks, compare and log; in ``test`` with intervals."""
        seen = {name: metric.compute() for name, metric in self._sets.items()}
        self._sets = {}
        fewest = min(len(seen[way.name].embedding) for way in ways(model))
        if fewest < LEAST:  # fast_dev_run, limit_val_batches
            if trainer.is_global_zero:
                print(f"FID is not measured: it needs {LEAST} images of each domain, not {fewest}.", flush=True)
            return
        if stage not in self._fixed:
            self._fixed[stage] = {name: seen[name] for name in seen if name.startswith(("real ", "again "))}
            self._references[stage] = self._compare_references(model, self._fixed[stage], stage == "test")
        values = dict(self._references[stage])
        for way in ways(model):
            real = self._fixed[stage][f"real {model.domains[way.target]}"]
            values |= self._compare(way.name, real, seen[way.name], stage == "test")
        log_alike(model, stage, values)  # all ranks have compared the same sets

    def _compare_references(self, model: Any, fixed: dict[str, Features], keep: bool) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        for way in ways(model):
            here, there = model.domains[way.source], model.domains[way.target]
            real, again = fixed[f"real {there}"], fixed[f"again {there}"]
            values |= self._compare(way.name + UNTRANSLATED, real, fixed[f"real {here}"], keep)
            if len(again.embedding):
                values |= self._compare(way.name + CEILING, real, again, keep)
        return values

    def _compare(self, row: str, real: Features, fake: Features, keep: bool) -> dict[str, Tensor]:
        """All distances of two sets by key; with ``keep``, as measurements with intervals too."""
        values, measured = compared(row, real, fake, self.features, self.resamples if keep else None)
        self.measurements |= measured
        return values


def suffix(features: FeatureExtractor) -> str:
    """What follows ``fid`` in keys: nothing of Inception, else the name of the network that looks."""
    return "" if features.name == "inception" else f"_{features.name}"


def comparison(features: FeatureExtractor, resamples: int) -> dict[str, str]:
    """What one must know to repeat ``compared``, the network that looks included."""
    how = {"kid": "all images at once", "precision, recall": "k = 3", "density, coverage": "k = 5"}
    how |= {} if suffix(features) else {"is": "one split"}
    how |= {f"fid{suffix(features)}": f"of 8-bit images; intervals from {resamples} resamples, seed 0"}
    return named(features.name, features.protocol) | how


def compared(
    row: str, real: Features, fake: Features, features: FeatureExtractor, resamples: int | None = None
) -> tuple[dict[str, Tensor], dict[str, Measurement]]:
    """FID, KID, precision, recall, density, coverage and, with Inception, its score of two sets.

    Args:
        row: end of the keys, ``day2night`` of ``fid_scenes/day2night``.
        real: of at least ``LEAST`` images.
        fake: of at least ``LEAST`` images.
        features: the network that saw both.
        resamples: bootstrap draws behind each interval, or 0 for no intervals; None for no measurements at all.

    Returns:
        Values and, where they are asked for, measurements by key.

    Raises:
        ValueError: a set is too small, or a feature is not finite.
    """
    r, f = real.embedding, fake.embedding
    sets = {"fid": frechet_distance_of_sets, "kid": kernel_distance}
    each = dict(zip(("precision", "recall"), precision_recall_values(r, f), strict=True))
    each |= dict(zip(("density", "coverage"), density_coverage_values(r, f), strict=True))
    values = {name: distance(r, f) for name, distance in sets.items()}
    values |= {name: value.mean() for name, value in each.items()}
    if not suffix(features):
        values["is"] = inception_score(fake.logits)
    keys = {name: f"{name}{suffix(features)}/{row}" for name in values}
    measured: dict[str, Measurement] = {}
    if resamples is not None:
        intervals: dict[str, Interval] = {}
        if resamples:
            intervals = {name: bootstrap_sets(r, f, distance, resamples=resamples) for name, distance in sets.items()}
            intervals |= {name: bootstrap(value) for name, value in each.items()}
            if "is" in values:
                intervals["is"] = bootstrap_sets(real.logits, fake.logits, _second, resamples=resamples)
        for name, value in values.items():
            unit = _UNITS.get(name, "")
            measured[keys[name]] = Measurement(float(value), intervals.get(name), unit, len(f))
    return {keys[name]: value for name, value in values.items()}, measured


def as_saved(x: Tensor) -> Tensor:
    """(N, C, H, W) in [-1, 1], beyond which is cut off, as a file of 8 bits gives it back, in float32.

    An image that is not finite stays so: clamped, that of a diverged model would have a FID.
    """
    x = x.float()
    return x.clamp(-1, 1).add(1).mul(127.5).round() / 127.5 - 1 + 0 * x


LEAST = 6  # an image and the five neighbours of density and coverage
_UNITS = {"precision": "share", "recall": "share", "coverage": "share"}


def _second(_: Tensor, logits: Tensor) -> Tensor:
    return inception_score(logits)
