"""The spaces of codes that a model has, for whatever walks, fits or asks there."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.probes import infer
from interfaces.model import Decoder, LatentSpec, StyledGenerator


class Space(NamedTuple):
    """Where codes lie, and what images they make."""

    name: str  # end of a key: latent, z, w
    prior: str  # as ``LatentSpec.prior``: normal, uniform or mapped
    draw: Callable[[int, torch.Generator], Tensor]  # (n, generator) to codes (n, D) on the CPU
    image: Callable[[Tensor], Tensor]  # codes anywhere to (n, C, H, W) on the device of the model


def spaces(trainer: pl.Trainer, model: Any, run: Callable[..., Tensor] = infer) -> list[Space]:
    """Where a model has codes: ``latent`` of a ``Decoder``, then ``z`` and ``w`` of a ``StyledGenerator``.

    Args:
        trainer: of the run.
        model: of any kind.
        run: calls the model, as ``infer`` does.

    Returns:
        The last one is the best to work in. In z and w there is no truncation, and one seed draws a z and its w.
    """
    found = []
    if isinstance(model, Decoder):
        spec = model.latent_spec
        found.append(Space("latent", spec.prior, spec.draw, lambda codes: run(trainer, model.decode, codes)))
    if is_styled(model):
        normal = LatentSpec(model.latent)

        def mapped(n: int, rng: torch.Generator) -> Tensor:
            return run(trainer, model.map, normal.draw(n, rng)).cpu()

        def of_z(codes: Tensor) -> Tensor:
            return run(trainer, lambda z: model.synthesize(model.map(z)), codes)

        found.append(Space("z", "normal", normal.draw, of_z))
        found.append(Space("w", "mapped", mapped, lambda codes: run(trainer, model.synthesize, codes)))
    return found


def is_styled(model: Any) -> bool:
    """Whether it is a ``StyledGenerator``; by name, since ``isinstance`` of Python 3.12 sees no buffer as a member."""
    return all(hasattr(model, name) for name in dir(StyledGenerator) if not name.startswith("_"))


def check_codes(model: Any, asker: pl.Callback) -> None:
    """Refuse a model without a space of codes.

    Raises:
        TypeError: ``model`` is neither a ``Decoder`` nor a ``StyledGenerator``.
    """
    if not isinstance(model, Decoder) and not is_styled(model):
        raise TypeError(
            f"{type(asker).__name__} needs a Decoder (latent_spec, decode) or a StyledGenerator (map, synthesize), but "
            f"{type(model).__name__} is neither: remove the callback from this experiment."
        )
