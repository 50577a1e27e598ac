"""Measures translations against the truth, where the data know it."""

import warnings
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from callbacks.translation_grid import check_two_domains, directions, translate
from interfaces.batch import PairedBatch
from metrics.paired import PairedAccuracy

UNTRANSLATED, CEILING = REFERENCE_ROWS = "_untranslated", "_ceiling"  # ends of the names of the reference rows
Scores = dict[str, dict[str, Tensor]]  # row, such as day2night_ceiling -> measure -> mean


class TranslationAccuracy(pl.Callback):
    """Logs PSNR, SSIM, L1 and pixel accuracy of both directions, each between a floor and a ceiling.

    Keys are ``val/<measure>/day2night`` (``test/...`` in a test), and beside them two rows that no
    training changes: ``day2night_untranslated`` compares the input itself with the truth, and
    ``day2night_ceiling`` compares two draws of the true style: what a perfect model would reach, because
    a style that was drawn cannot be guessed. The references are computed once and logged each time, so
    that their curves are as long as the others.

    ``validate`` and ``test`` also print a table.
    """

    def __init__(self) -> None:
        self._metrics: dict[str, PairedAccuracy] = {}
        self._references: dict[str, Scores] = {}  # by stage
        self._scores: Scores = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model that does not translate and data without truth.

        Raises:
            TypeError: ``pl_module`` is not a ``Translator``.
            ValueError: the data have no true pairs, or the model has not two domains.
        """
        check_two_domains(trainer, pl_module, self)
        data = getattr(trainer, "datamodule", None)
        if not getattr(data, "true_pairs", False):
            raise ValueError(
                f"TranslationAccuracy needs true pairs, which {type(data).__name__} does not have: "
                "remove the callback from this experiment or use data that know the truth."
            )
        # The numbers are already equal on all ranks when they are logged.
        warnings.filterwarnings("ignore", message=r".*'(val|test)/(psnr|ssim|l1|pixel_accuracy)/.*sync_dist=True")

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with empty sums."""
        self._begin(pl_module, "val")

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with empty sums."""
        self._begin(pl_module, "test")

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Add a batch."""
        self._add(trainer, pl_module, batch)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Add a batch."""
        self._add(trainer, pl_module, batch)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reduce over ranks and log."""
        self._finish(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reduce over ranks and log."""
        self._finish(trainer, pl_module, "test")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the table after ``validate``; during ``fit`` the numbers are in the logs."""
        if trainer.state.fn == "validate" and trainer.is_global_zero:
            print_table(self._scores)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the table."""
        if trainer.is_global_zero:
            print_table(self._scores)

    def _begin(self, model: Any, stage: str) -> None:
        rows = []
        for direction in directions(model):
            rows += [direction]
            if stage not in self._references:
                rows += [direction + suffix for suffix in REFERENCE_ROWS]
        self._metrics = {row: PairedAccuracy().to(model.device) for row in rows}

    def _add(self, trainer: pl.Trainer, model: Any, batch: Any) -> None:
        if trainer.sanity_checking:
            return
        if not isinstance(batch, PairedBatch):
            raise TypeError(f"The data claim true pairs, but a batch is a {type(batch).__name__}, not a PairedBatch.")
        sides = (batch.a, batch.b, batch.b_again), (batch.b, batch.a, batch.a_again)
        for source, (direction, (x, truth, again)) in enumerate(zip(directions(model), sides, strict=True)):
            self._metrics[direction].update(translate(trainer, model, x, source, 1 - source), truth)
            if direction + CEILING in self._metrics:
                self._metrics[direction + UNTRANSLATED].update(x, truth)
                self._metrics[direction + CEILING].update(again, truth)

    def _finish(self, trainer: pl.Trainer, model: pl.LightningModule, stage: str) -> None:
        if trainer.sanity_checking:
            return
        scores = {row: metric.compute() for row, metric in self._metrics.items()}
        ways = directions(model)
        if stage not in self._references:
            self._references[stage] = {row: scores[row] for row in scores if row not in ways}
        self._scores = {row: scores[row] for row in ways} | self._references[stage]
        self._metrics = {}
        values = {f"{stage}/{name}/{row}": v for row, each in self._scores.items() for name, v in each.items()}
        model.log_dict(values, rank_zero_only=False, sync_dist=False)


def print_table(scores: Scores) -> None:
    """Print one row per direction between its references.

    Args:
        scores: means by row name and measure.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Translation against the truth")
    for column in ("", "PSNR (dB)", "SSIM", "L1 (0..1)", "pixel accuracy"):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)
    for row in sorted(scores, key=lambda row: (row.split("_")[0], -float(scores[row]["l1"]))):
        each = {name: float(value) for name, value in scores[row].items()}
        style = "dim" if row.endswith(REFERENCE_ROWS) else "bold"
        numbers = (f"{each['psnr']:.2f}", f"{each['ssim']:.4f}", f"{each['l1']:.4f}", f"{each['pixel_accuracy']:.2%}")
        table.add_row(row.replace("_", " "), *numbers, style=style)
    Console().print(table)
