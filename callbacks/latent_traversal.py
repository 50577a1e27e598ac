"""Each validation, what the coordinates of a code do to an image."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.code_pictures import CodePictures
from callbacks.media import beside, labelled_grid, save_picture, save_video
from callbacks.probes import in_parts, infer
from callbacks.style_grid import in_styles
from callbacks.ways import Way, check_styles, has_styles, ring
from interfaces.model import Decoder, Encoder, LatentSpec

Render = Callable[[Tensor], Tensor]  # codes (N, size) to images (N, C, H, W), both on the CPU


class LatentTraversal(CodePictures):
    """Moves one coordinate at a time; ``callbacks.interpolation`` goes from one code to another.

    For a ``Decoder``: ``media/traversal`` has a row for each coordinate and a block for each image. Rows are sorted
    by their KL in nats where the model tells it, else by how much they move the pixels, most first; they bear the
    coordinate's name or number, and the KL. Columns are offsets from the image's code in standard deviations of the
    prior, from -span to span; a uniform prior's codes stop at its bounds. The images are the first of the validation
    where the model is an ``Encoder`` too, else fixed draws of the prior.

    For a ``Translator`` with styles: ``media/style_traversal/day2night`` has a row for each coordinate of the style,
    around the mean of the prior, on the first image.

    ``..._video`` shows the same moving: a row for each coordinate, which goes to one end, to the other and back.

    Args:
        images: blocks of the traversal; fewer where the validation has fewer.
        steps: columns; odd, so that the code itself is among them.
        dims: rows at most; None shows all.
    """

    def __init__(self, images: int = 3, steps: int = 9, dims: int | None = None) -> None:
        if images < 1 or steps < 3 or steps % 2 == 0 or (dims is not None and dims < 1):
            raise ValueError(
                f"LatentTraversal has {images} images, {steps} steps and {dims} dims: it needs at least 1 image, an "
                "odd number of steps from 3 on, and at least 1 dim."
            )
        self.images, self.steps, self.dims = images, steps, dims
        super().__init__(images)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model without any code.

        Raises:
            TypeError: ``pl_module`` is neither a ``Decoder`` nor a ``Translator`` with styles.
            ValueError: it has styles, but not the domains of the data.
        """
        if has_styles(pl_module):
            check_styles(trainer, pl_module, self)
        elif not isinstance(pl_module, Decoder):
            raise TypeError(
                f"LatentTraversal needs a Decoder (latent_spec, decode) or a Translator with a style_spec, but "
                f"{type(pl_module).__name__} is neither: remove the callback from this experiment."
            )

    def _show_latents(self, trainer: pl.Trainer, model: Any, probes: tuple[Tensor, ...]) -> None:
        spec = model.latent_spec
        images = None
        if not isinstance(model, Encoder):
            codes = spec.draw(self.images, torch.Generator().manual_seed(0))
        elif probes:
            images = probes[0]
            codes = in_parts(lambda x: infer(trainer, model.encode, x), images).cpu()
        else:
            return

        def render(z: Tensor) -> Tensor:
            return in_parts(lambda part: infer(trainer, model.decode, part), z).cpu()

        kl = model.kl_per_dim() if hasattr(model, "kl_per_dim") else None
        self._show(trainer, "media/traversal", "media/traversal_video", render, spec, codes, images, kl)

    def _show_styles(self, trainer: pl.Trainer, model: Any, probes: tuple[Tensor, ...]) -> None:
        spec = model.style_spec
        for way in ring(model):
            image = probes[way.source][0]

            def render(z: Tensor, image: Tensor = image, way: Way = way) -> Tensor:
                return in_styles(trainer, model, image, way, z).cpu()

            keys = f"media/style_traversal/{way.name}", f"media/style_traversal_video/{way.name}"
            self._show(trainer, *keys, render, spec, torch.zeros(1, spec.size), image[None])

    def _show(
        self,
        trainer: pl.Trainer,
        picture: str,
        video: str,
        render: Render,
        spec: LatentSpec,
        codes: Tensor,
        images: Tensor | None,
        kl: Tensor | None = None,
    ) -> None:
        """Save a picture and a video under their keys, of what is around ``codes``."""
        order = by_movement(render, spec, codes) if kl is None else kl.argsort(descending=True, stable=True).tolist()
        order = order[: self.dims]
        positions = torch.linspace(-spec.span, spec.span, self.steps)
        labels = [_label(spec, dim, kl) for dim in order]
        moved = torch.stack(
            [torch.stack([render(moved_along(spec, code, dim, positions)) for dim in order]) for code in codes]
        )  # (codes, dims, steps, C, H, W)
        headings = [f"{position:+.3g}" for position in positions.tolist()]
        save_picture(trainer, picture, self._picture(moved, images, headings, labels))
        frames = [
            labelled_grid(list(moved[:, :, step]), [headings[step]] * len(codes), labels, 400)
            for step in (*range(self.steps), *range(self.steps - 2, 0, -1))
        ]
        save_video(trainer, video, frames)

    def _picture(
        self, moved: Tensor, images: Tensor | None, headings: Sequence[str], labels: Sequence[str] | None
    ) -> np.ndarray:
        """A block for each code, of which row d is coordinate d."""
        blocks = []
        for k, rows in enumerate(moved):
            columns = list(rows.unbind(1))
            if images is not None:
                shown = torch.ones_like(columns[0])  # the input once, and white below
                shown[0] = images[k]
                columns = [shown, *columns]
            first = [] if images is None else ["input"]
            blocks.append(labelled_grid(columns, [*first, *headings], labels, max(400, 1200 // len(moved))))
            labels = None  # beside the first block only
        return beside(*blocks)


def moved_along(spec: LatentSpec, code: Tensor, dim: int, positions: Tensor) -> Tensor:
    """Copies of a code with one coordinate moved.

    Args:
        spec: of the code.
        code: (size,).
        dim: the coordinate.
        positions: (N,) offsets in standard deviations of the prior.

    Returns:
        (N, size); a uniform prior's coordinate stays within [-1, 1], beyond which no decoder has been.
    """
    codes = code.repeat(len(positions), 1)
    if spec.prior != "uniform":
        codes[:, dim] += positions
    else:
        codes[:, dim] = (codes[:, dim] + positions * 3**-0.5).clamp(-1, 1)
    return codes


def by_movement(render: Render, spec: LatentSpec, codes: Tensor) -> list[int]:
    """Coordinates by how far the pixels at both ends of their traversals are from those of the code, most first.

    Args:
        render: codes to images.
        spec: of the codes.
        codes: (N, size), over which the mean is taken.
    """
    still, ends = render(codes)[:, None], torch.tensor([-spec.span, spec.span])
    movement = []
    for dim in range(spec.size):
        moved = render(torch.cat([moved_along(spec, code, dim, ends) for code in codes]))
        movement.append((moved.unflatten(0, (-1, 2)) - still).abs().mean())
    return torch.stack(movement).argsort(descending=True, stable=True).tolist()


def _label(spec: LatentSpec, dim: int, kl: Tensor | None) -> str:
    name = spec.names[dim] if spec.names else str(dim)
    return name if kl is None else f"{name}  KL {float(kl[dim]):.2f}"
