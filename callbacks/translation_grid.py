"""Each validation, one picture of the same few images taken to the other domain and back."""

from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from callbacks.media import beside, labelled_grid, save_picture
from callbacks.probes import Probes, in_parts
from callbacks.ways import check_domains, images_of, translate
from interfaces.batch import second_draws


def check_two_domains(trainer: pl.Trainer, model: Any, asker: pl.Callback) -> None:
    """Refuse a model that does not translate between the two domains of the data.

    Raises:
        TypeError: ``model`` is not a ``Translator``.
        ValueError: it has not two domains, or the data have others or another order.
    """
    check_domains(trainer, model, asker)
    if len(model.domains) != 2:
        raise ValueError(
            f"{type(asker).__name__} shows two domains, but the model has {len(model.domains)}: DomainGrid shows more."
        )


class TranslationGrid(pl.Callback):
    """Shows input, reconstruction, translation, cycle and, where known, the truth, in both directions.

    The pictures show the first images of the validation data, collected as the first validation goes by
    and kept, so pictures of one run differ by the model only. They are the same on any number of ranks
    as long as rank r evaluates every world-th image from r on.

    Args:
        images: rows of the picture; fewer where the validation has fewer.
    """

    def __init__(self, images: int = 8) -> None:
        if images < 1:
            raise ValueError(f"TranslationGrid.images is {images}: a picture needs at least one image.")
        self.images = images
        self._probes = Probes(images)
        self._true_pairs = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model that does not translate between two domains.

        Raises:
            TypeError: ``pl_module`` is not a ``Translator``.
            ValueError: it has not two domains, or the data call theirs otherwise.
        """
        check_two_domains(trainer, pl_module, self)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep this rank's share of the first images, in the first validation only."""
        self._probes.add(trainer, *images_of(batch, self))
        self._true_pairs = bool(second_draws(batch))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw on rank 0; in the first validation all ranks bring their images together."""
        if trainer.sanity_checking:
            return
        probes = self._probes.gather(trainer)
        if not trainer.is_global_zero or not probes:
            return
        a, b = probes
        blocks = [self._block(trainer, pl_module, *images) for images in ((a, b, 0), (b, a, 1))]
        save_picture(trainer, "media/translations", beside(*blocks))

    def _block(self, trainer: pl.Trainer, model: Any, x: Tensor, truth: Tensor, source: int) -> Any:
        target = 1 - source
        here, there = model.domains[source], model.domains[target]

        def moved(x: Tensor, source: int, target: int) -> Tensor:
            return in_parts(lambda part: translate(trainer, model, part, source, target), x).cpu()

        translation = moved(x, source, target)
        columns = [x, moved(x, source, source), translation, moved(translation, target, source)]
        headings = [f"input\n{here}", f"reconstruction\n{here}", f"translation\n{there}", f"cycle\n{here}"]
        if self._true_pairs:
            columns, headings = [*columns, truth], [*headings, f"truth\n{there}"]
        return labelled_grid(columns, headings, [str(row) for row in range(len(x))], least_width=500)
