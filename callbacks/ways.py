"""From which domain to which: what callbacks that translate have in common, for two domains and for more."""

from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.probes import infer
from interfaces.batch import sides
from interfaces.model import Translator, check_names, require


class Way(NamedTuple):
    """A direction of translation."""

    source: int
    target: int
    name: str  # day2night


def ways(model: Any) -> list[Way]:
    """From each domain to each other one, the next ones first: ``day2night`` and ``night2day`` of two domains."""
    return [way for gap in range(1, len(model.domains)) for way in _turned(model, gap)]


def ring(model: Any) -> list[Way]:
    """From each domain to the next one, so that each is left once and reached once; of two domains, both ways."""
    return _turned(model, 1)


def _turned(model: Any, gap: int) -> list[Way]:
    names, n = model.domains, len(model.domains)
    return [Way(k, (k + gap) % n, f"{names[k]}2{names[(k + gap) % n]}") for k in range(n)]


def images_of(batch: Any, asker: pl.Callback) -> tuple[Tensor, ...]:
    """The images of each domain of an evaluation batch, (N, C, H, W) each.

    Raises:
        TypeError: it is another batch.
    """
    images = sides(batch)
    if not images:
        raise TypeError(
            f"{type(asker).__name__} needs an UnpairedBatch, PairedBatch, EachDomainBatch or AlignedBatch, "
            f"not {type(batch).__name__}."
        )
    return images


def check_domains(trainer: pl.Trainer, model: Any, asker: pl.Callback) -> None:
    """Refuse a model that does not translate between the domains of the data.

    Raises:
        TypeError: ``model`` is not a ``Translator``.
        ValueError: the data have other domains or another order.
    """
    require(model, Translator, asker)
    check_names(model, getattr(trainer, "datamodule", None))


def check_styles(trainer: pl.Trainer, model: Any, asker: pl.Callback) -> None:
    """Refuse what ``check_domains`` refuses, and a model without styles.

    Raises:
        TypeError: ``model`` is not a ``Translator``.
        ValueError: it has no styles, or not the domains of the data.
    """
    check_domains(trainer, model, asker)
    if model.style_spec is None:
        raise ValueError(
            f"{type(asker).__name__} needs a model with styles, but {type(model).__name__}.style_spec is None, it "
            "translates an image in one way only: remove the callback from this experiment."
        )


def has_styles(model: Any) -> bool:
    """Whether it is a ``Translator`` that takes a style."""
    return isinstance(model, Translator) and model.style_spec is not None


def translate(
    trainer: pl.Trainer, model: Any, x: Tensor, source: int, target: int, style: Tensor | None = None
) -> Tensor:
    """Translate as validation would: in the run's precision, with a fixed style, touching no random state.

    Args:
        trainer: of the run.
        model: a ``Translator`` on ``model.device``.
        x: (N, C, H, W) in [-1, 1], anywhere.
        source: index of the domain of ``x``.
        target: index of the domain to translate to.
        style: (N, size) anywhere; without it a model that takes one gets the mean of the prior, so the
            result depends on neither the batch nor the rank.

    Returns:
        (N, C, H, W) float32 on the device of the model.
    """
    if style is None and model.style_spec is not None:
        style = torch.zeros(len(x), model.style_spec.size)
    inputs = (x,) if style is None else (x, style)
    return infer(trainer, lambda x, *style: model.translate(x, source, target, *style), *inputs)
