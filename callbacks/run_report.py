"""The last words of a training or an evaluation: where everything is."""

from pathlib import Path

import pytorch_lightning as pl

from callbacks.checkpoint_io import BestCheckpoint
from callbacks.loggers import CSV, WandB
from callbacks.media import run_folder, shown


class RunReport(pl.Callback):
    """Prints where pictures, metrics, checkpoint and W&B run are: after every stage, and when one is interrupted.

    After an error the traceback matters more, so nothing is printed then.
    """

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print."""
        self._print(trainer, f"Finished after iteration {trainer.global_step}.")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print after a validation that is not part of a training."""
        if trainer.state.fn == "validate":
            self._print(trainer, "Validated.")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print."""
        self._print(trainer, "Tested.")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Print if the user or the scheduler ended the run."""
        if isinstance(exception, KeyboardInterrupt | SystemExit):
            self._print(trainer, f"Interrupted after iteration {trainer.global_step}.")

    def _print(self, trainer: pl.Trainer, first: str) -> None:
        if trainer.is_global_zero:
            print("\n".join(["", first, *(f"  {name:<11} {place}" for name, place in places(trainer))]), flush=True)


def places(trainer: pl.Trainer) -> list[tuple[str, str]]:
    """Name and address of all that this run has made, relative to the working folder where it lies within."""
    run = run_folder(trainer)
    found: list[tuple[str, Path | None]] = [("pictures", run / "pictures"), ("curves", run / "pictures" / "curves.png")]
    metrics = next((logger.path for logger in trainer.loggers if isinstance(logger, CSV)), run / "metrics.csv")
    found += [("metrics", metrics), ("checkpoint", newest_checkpoint(run / "checkpoints"))]
    rows = [(name, shown(path)) for name, path in found if path is not None and path.exists()]
    best = [callback.said(trainer) for callback in trainer.callbacks if isinstance(callback, BestCheckpoint)]  # type: ignore[attr-defined]
    rows += [("best", place) for place in best if place]
    addresses = [logger.where() for logger in trainer.loggers if isinstance(logger, WandB)]
    return rows + [("W&B", address) for address in addresses if address]


def newest_checkpoint(folder: Path) -> Path | None:
    """``last.ckpt`` if there is one, else the file written last, else None."""
    if (folder / "last.ckpt").exists():
        return folder / "last.ckpt"
    return max(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime, default=None)
