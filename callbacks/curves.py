"""The curves of a run as one picture, for those who do not open W&B."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl

from callbacks.loggers import CSV
from callbacks.media import run_folder
from callbacks.rows import CEILING, REFERENCE_ROWS, UNTRANSLATED

Curve = tuple[np.ndarray, np.ndarray]  # steps, values


class Curves(pl.Callback):
    """Draws ``<run>/pictures/curves.png`` from ``metrics.csv``, after validations and at the end of ``fit``.

    Args:
        every_seconds: least time between two drawings during training; one takes about a second.
    """

    def __init__(self, every_seconds: float = 60.0) -> None:
        self._every, self._drawn_at = every_seconds, float("-inf")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw if the last drawing is old; the row of this validation is in the file by now."""
        due = time.monotonic() - self._drawn_at >= self._every
        if due and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._draw(trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw."""
        self._draw(trainer)

    def _draw(self, trainer: pl.Trainer) -> None:
        file = next((logger.path for logger in trainer.loggers if isinstance(logger, CSV)), None)
        if trainer.is_global_zero and file is not None and file.exists():
            draw_curves(file, run_folder(trainer) / "pictures" / "curves.png")
            self._drawn_at = time.monotonic()


def draw_curves(metrics: Path, picture: Path) -> None:
    """One panel per player with its terms, one per validation measure with its references dashed.

    Args:
        metrics: a ``metrics.csv``; keys are ``train/<player>/<term>`` and ``val/<measure>/<row>``.
        picture: PNG to write; its folder is made. Nothing is written if the file holds no curve.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = read_panels(metrics)
    if not panels:
        return
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.6 * columns, 3.6 * rows), layout="constrained")
    for number, (title, curves) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, number + 1)
        (_draw_losses if title.startswith("train/") else _draw_measure)(axes, curves)
        axes.set_title(title, loc="left", fontsize=10)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(which="both", labelsize=8)
        axes.legend(fontsize=7, frameon=False, ncols=2 if len(axes.get_legend_handles_labels()[1]) > 5 else 1)
        axes.set_xlabel("iteration", fontsize=8)
    picture.parent.mkdir(parents=True, exist_ok=True)
    temporary = picture.with_name(f".{picture.name}.{os.getpid()}.tmp")
    FigureCanvasAgg(figure).print_png(temporary, metadata={"Software": None})
    os.replace(temporary, picture)


def read_panels(metrics: Path) -> dict[str, dict[str, Curve]]:
    """Curves by panel (the key up to its last slash) and name, training first; empty cells are left out."""
    import csv

    with metrics.open(newline="") as file:
        rows = list(csv.DictReader(file))
    panels: dict[str, dict[str, Curve]] = {}
    keys = [key for key in (rows[0] if rows else {}) if key.startswith(("train/", "val/"))]
    for key in sorted(keys, key=lambda key: key.startswith("val/")):
        points = [(float(row["step"]), float(row[key])) for row in rows if row[key]]
        if points:
            panel, _, name = key.rpartition("/")
            steps, values = np.array(points).T
            panels.setdefault(panel, {})[name] = steps, values
    return panels


def smooth(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Centred running mean over about a thirtieth of the curve; at the ends over what is there."""
    half = len(values) // 60
    total = np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=float))])
    index = np.arange(len(values))
    first, last = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (total[last] - total[first]) / (last - first)


def _draw_losses(axes: Any, curves: dict[str, Curve]) -> None:
    lowest = np.inf
    for name, (steps, values) in curves.items():
        values = np.where(np.isfinite(values), values, np.nan)
        (line,) = axes.plot(steps, values, alpha=0.2, linewidth=0.8)
        finite = np.isfinite(values)  # a running mean would carry one NaN over the whole curve
        axes.plot(steps[finite], smooth(values[finite]), color=line.get_color(), linewidth=1.4, label=name)
        lowest = min(lowest, np.nanmin(values, initial=np.inf))
    # Losses that can be negative or zero have no logarithm; symlog is linear near zero.
    axes.set_yscale("log") if lowest > 0 else axes.set_yscale("symlog", linthresh=0.01)


MANY = 8  # directions of a measure that have curves of their own


def _draw_measure(axes: Any, curves: dict[str, Curve]) -> None:
    colours: dict[str, Any] = {}
    kinds = {name: next((s for s in REFERENCE_ROWS if name.endswith(s)), "") for name in curves}
    styles = {"": ".-", UNTRANSLATED: ":", CEILING: "--"}
    for kind, style in styles.items():
        alike = [curve for name, curve in curves.items() if kinds[name] == kind]
        if len(alike) > MANY and len({len(steps) for steps, _ in alike}) == 1:  # 30 ways between six domains
            steps, values = alike[0][0], np.stack([each for _, each in alike])
            label = f"mean of {len(alike)}{kind.replace('_', ' ')}"
            (line,) = axes.plot(steps, values.mean(0), style, linewidth=1.2, label=label, color=colours.get(""))
            axes.fill_between(steps, values.min(0), values.max(0), alpha=0.12, color=line.get_color(), linewidth=0)
            colours.setdefault("", line.get_color())
            curves = {name: curve for name, curve in curves.items() if kinds[name] != kind}
    for name, (steps, values) in curves.items():
        suffix = kinds[name]
        style = styles[suffix]
        direction = name.removesuffix(suffix)
        own = None if suffix else name.replace("_", " ")
        (line,) = axes.plot(steps, values, style, color=colours.get(direction), linewidth=1.2, label=own)
        colours.setdefault(direction, line.get_color())
    for kind in sorted({kinds[name] for name in curves} - {""}):  # one entry for the references of all directions
        axes.plot([], [], styles[kind], color="grey", linewidth=1.2, label=kind.replace("_", " ").strip())
