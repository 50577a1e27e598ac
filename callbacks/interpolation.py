"""Each validation, the way from one code to another: of latent codes, styles of the prior and styles of images."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.code_pictures import CodePictures
from callbacks.media import labelled_grid, save_picture
from callbacks.probes import in_parts, infer
from callbacks.style_grid import in_styles, styles_of
from callbacks.ways import Way, check_styles, has_styles, ring
from interfaces.model import Decoder, Encoder, LatentSpec, Stylist
from metrics.path_length import lerp, slerp

Column = tuple[str, Tensor]  # a heading and images


class Interpolation(CodePictures):
    """Shows one row per pair of codes and one column per step, on the great circle for a normal prior, else straight.

    * ``media/interpolation``, for a ``Decoder``: from the code of each image to that of the next, where the model is an
      ``Encoder`` too, else between fixed draws of the prior.
    * ``media/style_interpolation/day2night``, for a ``Translator`` with styles: row k is image k, translated in styles
      from draw k of the prior to draw k + 1; of more than two domains, from each to the next.
    * ``media/style_interpolation_by_reference/day2night``, for a ``Stylist``: row k is image k, translated in styles
      from that of image k of the target domain to that of image k + 1, which stand at both ends.

    Images are the first of the validation, see ``Probes``; codes are the same in each, so pictures of one run differ by
    the model only.

    Args:
        rows: pairs; fewer where the validation has not one image more.
        steps: columns, both codes included.
    """

    def __init__(self, rows: int = 4, steps: int = 9) -> None:
        if rows < 1 or steps < 2:
            raise ValueError(f"Interpolation has {rows} rows and {steps} steps: it needs 1 row and 2 steps at least.")
        self.rows, self.steps = rows, steps
        super().__init__(rows + 1)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model without any code.

        Raises:
            TypeError: ``pl_module`` is neither a ``Decoder`` nor a ``Translator`` with styles.
            ValueError: it has styles, but not the domains of the data.
        """
        if has_styles(pl_module):
            check_styles(trainer, pl_module, self)
        elif not isinstance(pl_module, Decoder):
            name = type(pl_module).__name__
            members = ("latent_spec", "decode", "style_spec")
            lacks = [member for member in members if getattr(pl_module, member, None) is None]
            raise TypeError(
                f"Interpolation needs a Decoder (latent_spec, decode) or a Translator with a style_spec, but {name} "
                f"has no {', '.join(lacks)}: remove the callback from this experiment or add what is missing."
            )

    def _show_latents(self, trainer: pl.Trainer, model: Any, probes: tuple[Tensor, ...]) -> None:
        images = probes[0] if probes and isinstance(model, Encoder) else None
        if images is not None:
            codes = in_parts(lambda x: infer(trainer, model.encode, x), images).cpu()
        elif isinstance(model, Encoder):
            return
        else:
            codes = model.latent_spec.draw(self.rows + 1, torch.Generator().manual_seed(0))
        if len(codes) < 2:
            return

        def render(row: int, z: Tensor) -> Tensor:
            return in_parts(lambda part: infer(trainer, model.decode, part), z).cpu()

        ends = {} if images is None else {"before": [("input", images[:-1])], "after": [("input", images[1:])]}
        save_picture(trainer, "media/interpolation", self._picture(render, model.latent_spec, codes, **ends))

    def _show_styles(self, trainer: pl.Trainer, model: Any, probes: tuple[Tensor, ...]) -> None:
        spec = model.style_spec
        for way in ring(model):
            inputs, others = probes[way.source][: self.rows], probes[way.target]

            def render(row: int, styles: Tensor, inputs: Tensor = inputs, way: Way = way) -> Tensor:
                return in_styles(trainer, model, inputs[row], way, styles).cpu()

            drawn = spec.draw(len(inputs) + 1, torch.Generator().manual_seed(0))
            picture = self._picture(render, spec, drawn, before=[("input", inputs)])
            save_picture(trainer, f"media/style_interpolation/{way.name}", picture)
            if isinstance(model, Stylist) and len(others) > 1:
                codes = styles_of(trainer, model, others, way.target)
                before = [("input", inputs[: len(others) - 1]), ("reference", others[:-1])]
                picture = self._picture(render, spec, codes, before, after=[("reference", others[1:])])
                save_picture(trainer, f"media/style_interpolation_by_reference/{way.name}", picture)

    def _picture(
        self,
        render: Callable[[int, Tensor], Tensor],
        spec: LatentSpec,
        codes: Tensor,
        before: Sequence[Column] = (),
        after: Sequence[Column] = (),
    ) -> np.ndarray:
        """A row from each code to the next, between columns of real images."""
        path = slerp if spec.prior == "normal" else lerp
        shares = torch.linspace(0, 1, self.steps)
        rows = []
        for row, (a, b) in enumerate(zip(codes[:-1], codes[1:], strict=True)):
            rows.append(render(row, path(a.expand(self.steps, -1), b.expand(self.steps, -1), shares[:, None])))
        steps = [(f"{share:.3g}", column) for share, column in zip(shares, torch.stack(rows, dim=1), strict=True)]
        shown = [*before, *steps, *after]
        labels = [f"{k} to {k + 1}" for k in range(len(rows))]
        return labelled_grid([column for _, column in shown], [heading for heading, _ in shown], labels)
