"""Measures translations against the truth, where the data know it."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.measured import Measurement, Measuring, Positions, log_alike, translated
from callbacks.rows import CEILING, REFERENCE_ROWS, UNTRANSLATED
from callbacks.ways import check_domains, images_of, ways
from interfaces.batch import second_draws
from metrics.collected import CollectedValues
from metrics.intervals import bootstrap
from metrics.paired import MEASURES, UNITS, paired_values

Scores = dict[str, dict[str, Tensor]]  # row, such as day2night_ceiling -> measure -> mean


class TranslationMetrics(Measuring):
    """Logs PSNR, SSIM, L1, MSE and pixel accuracy of every direction, each between a floor and a ceiling.

    Keys are ``val/<measure>/day2night`` (``test/...`` in a test), and beside them two rows that no
    training changes: ``day2night_untranslated`` compares the input itself with the truth, and
    ``day2night_ceiling`` compares two draws of the true style: what a perfect model would reach, because
    a style that was drawn cannot be guessed. The references are computed once and logged each time, so
    that their curves are as long as the others. A model with styles is measured in styles of the prior, one for each
    image, which are those of every other measure of the evaluation.

    ``validate`` and ``test`` also print a table.
    """

    def __init__(self) -> None:
        super().__init__()
        self._metrics: dict[str, CollectedValues] = {}
        self._references: dict[str, Scores] = {}  # by stage
        self._scores: Scores = {}

    @property
    def protocol(self) -> dict[str, str]:
        """What the numbers stand on, beside the data."""
        return {"ssim": "11x11 Gaussian, sigma 1.5, reflected border", "pixel_accuracy": "within 16 of 255"}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model that does not translate and data without truth.

        Raises:
            TypeError: ``pl_module`` is not a ``Translator``.
            ValueError: the data have no true pairs, or not the domains of the model.
        """
        check_domains(trainer, pl_module, self)
        data = getattr(trainer, "datamodule", None)
        if not getattr(data, "true_pairs", False):
            raise ValueError(
                f"TranslationMetrics needs true pairs, which {type(data).__name__} does not have: "
                "remove the callback from this experiment or use data that know the truth."
            )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the table after ``validate``; during ``fit`` the numbers are in the logs."""
        if trainer.state.fn == "validate" and trainer.is_global_zero:
            print_table(self._scores)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the table."""
        if trainer.is_global_zero:
            print_table(self._scores)

    def begin(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Empty rows; those of the references only where they are not known yet."""
        rows = []
        for way in ways(model):
            rows += [way.name]
            if stage not in self._references:
                rows += [way.name + suffix for suffix in REFERENCE_ROWS]
        self._metrics = {row: CollectedValues(len(MEASURES)).to(model.device) for row in rows}
        self._positions = Positions(trainer)

    def add(self, trainer: pl.Trainer, model: Any, batch: Any) -> None:
        """Add a batch."""
        sides, again = images_of(batch, self), second_draws(batch)
        if not again:
            raise TypeError(f"The data claim true pairs, but a {type(batch).__name__} has none.")
        positions = self._positions.next(len(sides[0]))
        for way in ways(model):
            x, truth = sides[way.source], sides[way.target]
            pairs = {way.name: translated(trainer, model, x, way, positions)}
            if way.name + CEILING in self._metrics:
                pairs |= {way.name + UNTRANSLATED: x, way.name + CEILING: again[way.target]}
            for row, prediction in pairs.items():
                self._metrics[row].update(paired_values(prediction, truth), positions)

    def finish(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Reduce over ranks and log."""
        each = {row: metric.compute() for row, metric in self._metrics.items()}
        scores = {row: dict(zip(MEASURES, values.mean(0), strict=True)) for row, values in each.items()}
        if stage == "test":
            self._measure(each)
        names = [way.name for way in ways(model)]
        if stage not in self._references:
            self._references[stage] = {row: scores[row] for row in scores if row not in names}
        self._scores = {row: scores[row] for row in names} | self._references[stage]
        self._metrics = {}
        values = {f"{name}/{row}": value for row, means in self._scores.items() for name, value in means.items()}
        log_alike(model, stage, values)

    def _measure(self, each: dict[str, Tensor]) -> None:
        """Means with their intervals, for the evaluation card."""
        for row, values in each.items():
            for name, column in zip(MEASURES, values.T, strict=True):
                interval = bootstrap(column) if len(column) > 1 else None
                self.measurements[f"{name}/{row}"] = Measurement(
                    float(column.mean()), interval, UNITS[name], len(column)
                )


def _few(scores: Scores, most: int = 18) -> Scores:
    """At most so many rows: of more, as three for each of 30 ways are, the means over the ways."""
    if len(scores) <= most:
        return scores
    kinds = {row: next((s for s in REFERENCE_ROWS if row.endswith(s)), "") for row in scores}
    means: Scores = {}
    for kind in ("", *REFERENCE_ROWS):
        alike = [scores[row] for row in scores if kinds[row] == kind]
        if alike:
            name = f"all {len(alike)} ways{kind}"
            means[name] = {measure: torch.stack([each[measure] for each in alike]).mean() for measure in alike[0]}
    return means


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
    scores = _few(scores)
    for row in sorted(scores, key=lambda row: (row.split("_")[0], -float(scores[row]["l1"]))):
        each = {name: float(value) for name, value in scores[row].items()}
        style = "dim" if row.endswith(REFERENCE_ROWS) else "bold"
        numbers = (f"{each['psnr']:.2f}", f"{each['ssim']:.4f}", f"{each['l1']:.4f}", f"{each['pixel_accuracy']:.2%}")
        table.add_row(row.replace("_", " "), *numbers, style=style)
    Console().print(table)
