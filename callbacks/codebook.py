"""Shows what a model's codebooks are used for, and how evenly."""

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from callbacks.measured import Measurement, Measuring, Positions, log_alike
from callbacks.media import labelled_grid, save_picture
from callbacks.probes import Probes, in_parts, infer
from callbacks.reconstruction import columns_of, images_in, indices_of
from interfaces.model import Quantiser, require


class CodebookUse(Measuring):
    """Counts which entries occur in the evaluation images, level by level; the top, the coarsest, is level 0.

    * ``val/codebook/perplexity_0``: exp(-sum of p log p), from 1 to the number of entries: as many entries used equally
      often would be as uncertain. A small one means that the level says little.
    * ``val/codebook/used_0``: how many entries occur at all.
    * ``media/codebook``: the share of each entry, the most frequent first, in the colours of the maps.
    * ``media/code_maps``: some images, their maps, each entry in a colour that it keeps, and their reconstructions by
      all levels and by each alone.

    ``test/...`` in a test.

    Args:
        images: rows of ``media/code_maps``; where there are domains, the same row of each in turn.
        every: measures in each ``every``-th validation of a fit; ``validate`` and ``test`` always measure.
    """

    def __init__(self, images: int = 8, every: int = 1) -> None:
        super().__init__(every)
        if images < 1:
            raise ValueError(f"CodebookUse.images is {images}: a picture needs at least one image.")
        self.images = images
        self._probes = {stage: Probes(images) for stage in ("val", "test")}
        self._counts: Tensor | None = None  # (levels, codes) int64
        self._seen = 0  # images of this rank
        self._sizes: list[str] = []  # of the maps

    @property
    def protocol(self) -> dict[str, str]:
        """What is counted."""
        return {"codebook": "entries at all positions of all images"}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model without codebooks (TypeError)."""
        require(pl_module, Quantiser, self)

    def begin(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Nothing is counted."""
        self._stage, self._counts, self._seen, self._positions = stage, None, 0, Positions(trainer)

    def add(self, trainer: pl.Trainer, model: Any, batch: Any) -> None:
        """Count a batch."""
        x, _ = images_in(trainer, batch, self._positions, self)
        maps = indices_of(trainer, model, x)
        if self._counts is None:
            self._counts = torch.zeros(len(maps), model.codes, dtype=torch.int64, device=model.device)
            self._sizes = [f"{level.shape[1]}x{level.shape[2]}" for level in maps]
        for counts, level in zip(self._counts, maps, strict=True):
            flat = level.flatten()
            counts.index_add_(0, flat, torch.ones_like(flat))  # bincount would ask the device
        self._seen += len(x)
        self._probes[self._stage].add(trainer, *columns_of(batch, self))

    def finish(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Add up the ranks, log and draw."""
        assert self._counts is not None  # an evaluation without an image is refused by the loaders
        counts = trainer.strategy.reduce(self._counts, reduce_op="sum").cpu()
        images = int(trainer.strategy.reduce(torch.tensor(self._seen, device=model.device), reduce_op="sum"))
        self._counts = None
        found: dict[str, float] = {}
        for k, (perplexity, used) in enumerate(zip(perplexities(counts), (counts > 0).sum(1), strict=True)):
            found |= {f"codebook/perplexity_{k}": float(perplexity), f"codebook/used_{k}": float(used)}
        log_alike(model, stage, found)
        if stage == "test":
            self.measurements = {key: Measurement(value, None, "entries", images) for key, value in found.items()}
        probes = self._probes[stage].gather(trainer)
        if trainer.is_global_zero:
            save_picture(trainer, "media/codebook", usage_picture(counts, self._sizes))
            images_shown = torch.stack(probes, 1).flatten(0, 1)[: self.images]
            save_picture(trainer, "media/code_maps", maps_picture(trainer, model, images_shown))


def perplexities(counts: Tensor) -> Tensor:
    """exp(-sum of p log p) of each row of (L, K) counts, (L,) float64."""
    shares = counts.double() / counts.sum(1, keepdim=True)
    return torch.special.entr(shares).sum(1).exp()


def maps_picture(trainer: pl.Trainer, model: Any, x: Tensor) -> np.ndarray:
    """Images beside their maps and reconstructions.

    Args:
        trainer: of the run.
        model: a ``Quantiser``.
        x: (N, C, H, W) in [-1, 1], anywhere.

    Returns:
        (height, width, 3) uint8.
    """
    parts = [indices_of(trainer, model, part) for part in x.split(8)]
    maps = [torch.cat(level).cpu() for level in zip(*parts, strict=True)]
    names, wheel = level_names(len(maps)), colours(model.codes)
    columns = [x, *(painted(level, wheel, (x.shape[2], x.shape[3])) for level in maps)]
    headings = ["image", *(f"{name}\n{m.shape[1]}x{m.shape[2]}" for name, m in zip(names, maps, strict=True))]
    columns.append(in_parts(lambda *part: infer(trainer, lambda *m: model.image_of([*m]), *part), *maps).cpu())
    headings.append("all levels" if len(maps) > 1 else "reconstruction")
    for k, name in enumerate(names if len(maps) > 1 else ()):
        alone = in_parts(lambda *part, k=k: infer(trainer, lambda *m: model.image_of([*m], (k,)), *part), *maps)
        columns.append(alone.cpu())
        headings.append(f"{name}\nalone")
    return labelled_grid([column.expand(-1, 3, -1, -1) for column in columns], headings)


def painted(indices: Tensor, wheel: Tensor, size: tuple[int, int]) -> Tensor:
    """Each position of (N, h, w) maps in the colour of its entry: (N, 3, H, W) in [-1, 1], pixels repeated."""
    return interpolate(wheel[indices].permute(0, 3, 1, 2), size, mode="nearest-exact")


def colours(codes: int) -> Tensor:
    """(codes, 3) in [-1, 1], the colour of each entry: a function of its number alone, neighbours far apart."""
    steps = np.array([0.6180339887498949, 0.7548776662466927, 0.5698402909980532])  # far from simple fractions
    turns = (np.arange(codes)[:, None] * steps) % 1
    rgb = [colorsys.hsv_to_rgb(hue, 0.4 + 0.55 * s, 0.5 + 0.5 * v) for hue, s, v in turns.tolist()]
    return torch.tensor(rgb, dtype=torch.float32) * 2 - 1


def level_names(levels: int) -> list[str]:
    """The first is the top and the last the bottom; a single one is neither."""
    if levels == 1:
        return ["codes"]
    return ["top", *(f"level {k}" for k in range(1, levels - 1)), "bottom"]


def usage_picture(counts: Tensor, sizes: Sequence[str]) -> np.ndarray:
    """A panel for each level: the share of each entry, the most frequent first.

    Args:
        counts: (L, K) on the CPU.
        sizes: of the L maps, in words.

    Returns:
        (height, width, 3) uint8.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    levels, codes = counts.shape
    figure = Figure(figsize=(5.6 * levels, 3.6), layout="constrained")
    wheel = (colours(codes).numpy() + 1) / 2
    for k, name in enumerate(level_names(levels)):
        axes = figure.add_subplot(1, levels, k + 1)
        shares, order = (counts[k].double() / counts[k].sum() * 100).sort(descending=True, stable=True)
        axes.vlines(np.arange(codes) + 0.5, 0, shares, colors=wheel[order], linewidth=max(0.5, 360 / codes))
        axes.axhline(100 / codes, color="grey", linestyle="--", linewidth=0.8)
        axes.set_xlim(0, codes)
        axes.set_ylim(bottom=0)
        said = f"{int((counts[k] > 0).sum())} of {codes} used, perplexity {float(perplexities(counts)[k]):.1f}"
        axes.set_title(f"{name} ({sizes[k]}): {said}", loc="left", fontsize=10)
        axes.set_xlabel("entries, the most frequent first; dashed: all equally often", fontsize=8)
        axes.set_ylabel("% of positions", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])
