"""How evenly codes turn into images: the perceptual length of paths between two styles or two latent codes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.code_spaces import Space, is_styled, spaces
from callbacks.measured import Measurement, Measuring, distinct_share, log_alike, named
from callbacks.probes import Probes, in_order, infer
from callbacks.ways import Way, check_styles, has_styles, images_of, ring
from interfaces.model import Decoder
from metrics.features.distance import NamedDistance
from metrics.intervals import bootstrap
from metrics.path_length import lerp, path_lengths, slerp, trimmed_mean

EPSILON = 1e-4
RESAMPLES = 200  # behind an interval


class PathLength(Measuring):
    """Logs the perceptual path length (StyleGAN, Karras et al. 2019), over the whole path and trimmed as published.

    * ``val/ppl/day2night``, for a ``Translator`` with styles: paths between two styles of the prior, each image
      translated at both ends of a small step; of more than two domains, from each to the next.
    * ``val/ppl/latent``, for a ``Decoder``: paths between two codes of the prior.
    * ``val/ppl/z`` and ``val/ppl/w``, for a ``StyledGenerator``: without truncation, paths between two normal draws and
      between what they are mapped to.

    ``test/...`` in a test. With another distance than LPIPS by VGG the keys begin with ``val/path_length_<its name>``.
    Paths are great circles for a normal prior and straight for any other and in w. Codes are functions of the input's
    number, so they are the same in every validation and on any number of ranks. Images are made in float32 whatever
    the run's precision, since both ends of a step agree in their first four digits. Faces are looked at whole, where
    StyleGAN and ALAE cut them out first.

    Args:
        distance: ``metrics.features.lpips.LPIPS`` with ``net: vgg`` for numbers to compare with papers, whose weights
            must be on this machine; a squared ``metrics.features.distance.EmbeddingDistance`` where they are not.
        inputs: the first images of each domain; fewer where there are fewer, and none counts twice where the smaller
            domain starts again. A ``Decoder`` or ``StyledGenerator`` needs none.
        paths: for each input; a space of codes has ``inputs`` times as many. The paper has 100 000.
        every: measures in each ``every``-th validation of a fit; ``validate`` and ``test`` always measure.

    Raises:
        ValueError: a number is too small, or the distance is known not to be squared.
    """

    def __init__(self, distance: NamedDistance, inputs: int = 100, paths: int = 10, every: int = 1) -> None:
        super().__init__(every)
        if min(inputs, paths) < 1:
            raise ValueError(f"PathLength has {inputs} inputs and {paths} paths: it needs at least one of each.")
        if not getattr(distance, "squared", True):
            raise ValueError(
                f"PathLength divides by the square of a small step, which {distance.name} does not shrink with: "
                "give a distance that is squared as LPIPS is, such as EmbeddingDistance with squared: true."
            )
        self.distance, self.inputs, self.paths = distance, inputs, paths
        self.prefix = "ppl" if distance.name == "lpips-vgg" else f"path_length_{distance.name}"
        self._probes = Probes(inputs)

    @property
    def state_key(self) -> str:
        """One for each distance, so that a run may have several."""
        return self._generate_state_key(distance=self.distance.name)

    @property
    def protocol(self) -> dict[str, str]:
        """Whose distance, along how many paths."""
        counts = f"{self.inputs} inputs, {self.paths} paths each, steps of {EPSILON:g}, 1 % trimmed at both ends"
        how = f"{counts}; drawn with the input's number as seed; intervals from {RESAMPLES} resamples"
        return {f"path length {self.distance.name}": how} | named(self.distance.name, self.distance.protocol)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model without any code, and weights too coarse to take a small step.

        Raises:
            TypeError: the model is no ``Decoder``, no ``StyledGenerator`` and no ``Translator`` with styles.
            ValueError: it has styles, but not the domains of the data; or its weights are of half precision.
        """
        if has_styles(pl_module):
            check_styles(trainer, pl_module, self)
        elif not isinstance(pl_module, Decoder) and not is_styled(pl_module):
            raise TypeError(
                f"PathLength needs a Decoder (latent_spec, decode), a StyledGenerator (map, synthesize) or a "
                f"Translator with a style_spec, but {type(pl_module).__name__} is neither: remove the callback from "
                "this experiment."
            )
        if trainer.precision in ("16-true", "bf16-true"):
            raise ValueError(
                f"PathLength takes steps of {EPSILON:g}, which vanish in precision {trainer.precision}: "
                "use 32-true or a mixed precision."
            )

    def begin(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """No images yet."""
        self._probes = Probes(self.inputs)

    def add(self, trainer: pl.Trainer, model: Any, batch: Any) -> None:
        """Keep this rank's share of the first images, where images are translated."""
        if has_styles(model):
            self._probes.add(trainer, *images_of(batch, self))

    def finish(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Walk this rank's share of the paths, bring the lengths together and log their trimmed means."""
        found: dict[str, Tensor] = {}  # (inputs, paths)
        with _no_shortcuts():
            if has_styles(model):
                d = len(model.domains)
                kept = distinct_share(trainer, self._probes, d) or (torch.empty(0),) * d
                for way in ring(model):
                    share = [
                        self._lengths(_styles_of(trainer, model, x, way), _number(trainer, k))
                        for k, x in enumerate(kept[way.source])
                    ]
                    found[way.name] = torch.tensor(in_order(trainer, share), dtype=torch.float64)
            for space in spaces(trainer, model, exactly):
                numbers = range(trainer.global_rank, self.inputs, trainer.world_size)
                share = [self._lengths(space, number) for number in numbers]
                found[space.name] = torch.tensor(in_order(trainer, share), dtype=torch.float64).reshape(-1, 1)
        measured = {f"{self.prefix}/{row}": _measurement(values, stage == "test") for row, values in found.items()}
        log_alike(model, stage, {key: each.value for key, each in measured.items()})
        if stage == "test":
            self.measurements = measured

    def _lengths(self, space: Space, seed: int) -> list[float]:
        """Of the paths of one input."""
        path = slerp if space.prior == "normal" else lerp
        return path_lengths(space.image, space.draw, self.distance, path, self.paths, 8, EPSILON, seed).tolist()


def exactly(trainer: pl.Trainer, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """As ``infer``, in float32 whatever the run's precision."""

    def plain(*inputs: Tensor) -> Tensor:
        with torch.autocast(inputs[0].device.type, enabled=False):
            return function(*inputs)

    return infer(trainer, plain, *inputs)


def _number(trainer: pl.Trainer, place: int) -> int:
    """Of the image that is number ``place`` of this rank."""
    return place * trainer.world_size + trainer.global_rank


def _styles_of(trainer: pl.Trainer, model: Any, image: Tensor, way: Way) -> Space:
    """Styles, and the translations of one image in them."""

    def translated(styles: Tensor) -> Tensor:
        def translate(x: Tensor, style: Tensor) -> Tensor:
            return model.translate(x, way.source, way.target, style)

        return exactly(trainer, translate, image.expand(len(styles), -1, -1, -1), styles)

    return Space(way.name, model.style_spec.prior, model.style_spec.draw, translated)


@contextmanager
def _no_shortcuts() -> Iterator[None]:
    """Without TF32 on the GPU, which by default rounds what convolutions take to three digits."""
    parts = torch.backends.cudnn.conv, torch.backends.cuda.matmul  # type: ignore[attr-defined]
    before = [part.fp32_precision for part in parts]
    try:
        for part in parts:
            part.fp32_precision = "ieee"
        yield
    finally:
        for part, precision in zip(parts, before, strict=True):
            part.fp32_precision = precision


def _measurement(values: Tensor, fully: bool) -> Measurement:
    """Trimmed mean of (inputs, paths); with an interval over inputs."""
    n = len(values)
    if not n:
        return Measurement(float("nan"), None, "distance / step^2", 0)
    interval = None
    if fully and n > 1:
        numbers = torch.arange(n, dtype=torch.float64)
        interval = bootstrap(numbers, lambda picked: trimmed_mean(values[picked.long()].flatten()), resamples=RESAMPLES)
    return Measurement(float(trimmed_mean(values.flatten())), interval, "distance / step^2", n)
