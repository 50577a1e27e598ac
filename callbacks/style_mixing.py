"""Pictures of a style-based generator: styles of one image given to another, and styles drawn towards their mean."""

from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.media import labelled_grid
from callbacks.probes import in_parts, infer
from interfaces.model import LatentSpec

PAPER = 4 / 18, 8 / 18  # where the middle and the fine layers begin, of the 18 of 1024 x 1024


def layer_ranges(layers: int) -> dict[str, range]:
    """Coarse, middle and fine layers as in StyleGAN's Fig. 3 (4x4 to 8x8, 16x16 to 32x32, the rest), scaled.

    Args:
        layers: how many there are in all, 1 or more.

    Returns:
        Ranges that follow each other and cover all layers; fewer than three of fewer layers than three.
    """
    middle = max(1, round(layers * PAPER[0]))
    fine = max(middle + 1, round(layers * PAPER[1]))
    ranges = {"coarse": range(middle), "middle": range(middle, fine), "fine": range(fine, layers)}
    return {
        name: range(places.start, min(places.stop, layers)) for name, places in ranges.items() if places.start < layers
    }


def mixing_grid(
    trainer: pl.Trainer, model: Any, destinations: int, sources: tuple[int, int, int], seed: int = 0
) -> np.ndarray:
    """Destinations on top, sources on the left, and in each cell the destination with some layers of the source.

    Args:
        trainer: of the run.
        model: a ``StyledGenerator``.
        destinations: columns.
        sources: rows that give coarse, middle and fine layers.
        seed: of the draws.

    Returns:
        (height, width, 3) uint8.
    """
    ranges = layer_ranges(model.layers)
    givers = [name for name, rows in zip(("coarse", "middle", "fine"), sources, strict=True) for _ in range(rows)]
    givers = [name for name in givers if name in ranges]
    codes = LatentSpec(model.latent).draw(destinations + len(givers), torch.Generator().manual_seed(seed))
    w = in_parts(lambda part: infer(trainer, model.map, part), codes).cpu()
    unmixed = images_of_styles(trainer, model, w)
    styles = w[:, None].repeat(1, model.layers, 1)
    rows = []
    for name, source in zip(givers, styles[destinations:], strict=True):
        mixed = styles[:destinations].clone()
        places = ranges[name]
        mixed[:, places.start : places.stop] = source[places.start : places.stop]
        rows.append(images_of_styles(trainer, model, mixed))
    first = torch.cat((torch.ones_like(unmixed[:1]), unmixed[destinations:]))  # white above the sources
    columns = [first, *torch.stack((unmixed[:destinations], *rows), 1)]
    labels = ["", *(f"{name} {ranges[name].start}-{ranges[name].stop - 1}" for name in givers)]
    return labelled_grid(columns, ["source", *(f"destination {k}" for k in range(destinations))], labels)


def truncation_sweep(trainer: pl.Trainer, model: Any, draws: int, psis: tuple[float, ...], seed: int = 0) -> np.ndarray:
    """One row a draw, one column a psi: all layers at mean + psi (w - mean), as in StyleGAN's appendix.

    Args:
        trainer: of the run.
        model: a ``StyledGenerator``.
        draws: rows.
        psis: 1 is the draw, 0 the mean of all, less than 0 its opposite.
        seed: of the draws.

    Returns:
        (height, width, 3) uint8.
    """
    codes = LatentSpec(model.latent).draw(draws, torch.Generator().manual_seed(seed))
    w, mean = infer(trainer, model.map, codes).cpu(), model.w_mean.detach().float().cpu()
    columns = [images_of_styles(trainer, model, mean + psi * (w - mean)) for psi in psis]
    return labelled_grid(columns, [f"psi {psi:g}" for psi in psis])


def images_of_styles(trainer: pl.Trainer, model: Any, w: Tensor) -> Tensor:
    """(N, latent) or (N, layers, latent) to (N, C, H, W) on the CPU, as validation would."""
    return in_parts(lambda part: infer(trainer, model.synthesize, part), w).cpu()
