"""Each validation, one picture of the same few images taken to the other domain and back."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor

from callbacks.media import beside, labelled_grid, save_picture
from interfaces.batch import PairedBatch, UnpairedBatch
from interfaces.model import Translator, require


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
    style = None if style is None else style.to(model.device)
    plugin = trainer.precision_plugin
    with isolate_rng(), torch.no_grad(), plugin.val_step_context():
        torch.manual_seed(0)  # for a model that draws noise: the same each time
        x, style = plugin.convert_input((x.to(model.device), style))
        return model.translate(x, source, target, style).float()


def check_two_domains(trainer: pl.Trainer, model: Any, asker: pl.Callback) -> None:
    """Refuse a model that does not translate between the two domains of the data.

    Raises:
        TypeError: ``model`` is not a ``Translator``.
        ValueError: it has not two domains, or the data have others or another order.
    """
    require(model, Translator, asker)
    if len(model.domains) != 2:
        raise ValueError(f"{type(asker).__name__} compares two domains, but the model has {model.domains}.")
    known = getattr(getattr(trainer, "datamodule", None), "domains", model.domains)
    if tuple(known) != tuple(model.domains):
        raise ValueError(
            f"model.domains is {list(model.domains)}, but data.domains is {list(known)}: "
            "give both the same names in the same order."
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
        self._shard: list[UnpairedBatch] = []
        self._probes: UnpairedBatch | None = None
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
        missing = -(-self.images // trainer.world_size) - sum(len(part.a) for part in self._shard)
        if trainer.sanity_checking or self._probes is not None or missing <= 0:
            return
        if not isinstance(batch, UnpairedBatch | PairedBatch):
            raise TypeError(f"TranslationGrid needs an UnpairedBatch or PairedBatch, not {type(batch).__name__}.")
        self._shard.append(UnpairedBatch(batch.a[:missing].float().cpu(), batch.b[:missing].float().cpu()))
        self._true_pairs = isinstance(batch, PairedBatch)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw on rank 0; in the first validation all ranks bring their images together."""
        if trainer.sanity_checking:
            return
        if self._probes is None:
            self._probes = gather_in_order(trainer, self._shard, self.images)
            self._shard = []
        if not trainer.is_global_zero or not len(self._probes.a):
            return
        a, b = self._probes
        blocks = [self._block(trainer, pl_module, *images) for images in ((a, b, 0), (b, a, 1))]
        save_picture(trainer, "media/translations", beside(*blocks))

    def _block(self, trainer: pl.Trainer, model: Any, x: Tensor, truth: Tensor, source: int) -> Any:
        target = 1 - source
        here, there = model.domains[source], model.domains[target]
        parts = []
        for part in x.split(8):  # in eight at a time, whatever the number of rows
            moved = translate(trainer, model, part, source, target)
            again = translate(trainer, model, part, source, source)
            parts.append([part, again.cpu(), moved.cpu(), translate(trainer, model, moved, target, source).cpu()])
        columns = [torch.cat(column) for column in zip(*parts, strict=True)]
        headings = [f"input\n{here}", f"reconstruction\n{here}", f"translation\n{there}", f"cycle\n{here}"]
        if self._true_pairs:
            columns, headings = [*columns, truth], [*headings, f"truth\n{there}"]
        return labelled_grid(columns, headings, [str(row) for row in range(len(x))], least_width=500)


def gather_in_order(trainer: pl.Trainer, shard: list[UnpairedBatch], images: int) -> UnpairedBatch:
    """The first ``images`` images of an evaluation of which rank r saw every world-th from r on.

    All ranks must call it together.

    Args:
        trainer: of the run.
        shard: what this rank kept, on the CPU; may be empty.
        images: how many are wanted.

    Returns:
        Up to ``images`` rows in the order of one process, the same on all ranks.
    """
    shards = [shard]
    if trainer.world_size > 1:
        shards = [[] for _ in range(trainer.world_size)]
        torch.distributed.all_gather_object(shards, shard)
    rows = [[pair for part in parts for pair in zip(part.a, part.b, strict=True)] for parts in shards]
    ordered = []
    for k in range(images):
        rank, place = k % len(rows), k // len(rows)
        if place >= len(rows[rank]):
            break
        ordered.append(rows[rank][place])
    if not ordered:
        return UnpairedBatch(torch.empty(0), torch.empty(0))
    return UnpairedBatch(*(torch.stack(column) for column in zip(*ordered, strict=True)))
