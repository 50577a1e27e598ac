"""Checkpoints that are either whole or not there."""

import math
import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import TorchCheckpointIO

from callbacks.media import run_folder, shown
from metrics.better import HIGHER, better_end


class AtomicIO(TorchCheckpointIO):
    """Writes beside the target, flushes to the disk, then renames: ``Trainer(plugins=[AtomicIO()])``.

    Lightning itself writes in the system's temporary folder and moves the file; across file systems a
    kill during that move leaves a broken checkpoint and the old one gone.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Replace ``path`` in one step; the file that was there stays whole until then.

        Args:
            checkpoint: what ``torch.save`` can write.
            path: a local file; its folder is made.
            storage_options: not used.
        """
        path = os.fspath(path)
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        temporary = f"{path}.{os.getpid()}.tmp"
        try:
            with open(temporary, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            if os.path.exists(temporary):
                os.remove(temporary)
            raise


class LastCheckpoint(pl.callbacks.ModelCheckpoint):
    """Keeps ``last.ckpt``: every so many iterations, and once more when training ends, wherever it ends.

    Lightning's own callback leaves the last multiple of ``every_n_train_steps`` behind, not the end.

    Args:
        dirpath: folder; the command line fills in ``<run>/checkpoints``.
        every_n_train_steps: iterations between two.
    """

    def __init__(self, dirpath: str | None = None, every_n_train_steps: int = 500) -> None:
        super().__init__(
            dirpath=dirpath,
            every_n_train_steps=every_n_train_steps,
            save_last=True,
            save_top_k=0,
            save_on_train_epoch_end=False,
        )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the end; all ranks take part."""
        super().on_train_end(trainer, pl_module)
        if self.dirpath is not None:
            trainer.save_checkpoint(Path(self.dirpath) / "last.ckpt", weights_only=False)


class BestCheckpoint(pl.callbacks.Checkpoint):
    """Keeps ``<run>/checkpoints/best.ckpt``: the state after the validation in which the mean of some keys was best.

    Which end is better is known of each measure (``metrics.better``). The file itself remembers its value, so that a
    resumed run replaces it by a better one only; a file from beyond the iteration where the run goes on is forgotten,
    as the rows of ``metrics.csv`` are.

    Args:
        monitor: keys of one measure, such as ``val/psnr/day2night`` and ``val/psnr/night2day``.

    Attributes:
        value: the best mean so far, None before the first.
        iteration: after which it was measured.

    Raises:
        ValueError: the keys are not ``val/`` keys of one measure whose better end is known.
    """

    def __init__(self, monitor: list[str]) -> None:
        measures = {key.split("/")[1] if key.startswith("val/") else "" for key in monitor}
        if len(measures) != 1 or not better_end(*measures):
            raise ValueError(
                f"BestCheckpoint.monitor is {monitor}: give keys of one measure, such as val/psnr/day2night, "
                "whose better end metrics/better.py knows."
            )
        self.monitor, self._better = list(monitor), better_end(*measures)
        self.value: float | None = None
        self.iteration, self._missed = 0, False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with nothing, or with what the file says where a run is resumed."""
        kept = self._remembered(trainer) if trainer.is_global_zero and trainer.ckpt_path else None
        self.value, self.iteration = trainer.strategy.broadcast(kept) or (None, 0)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save if the first rank has measured something better; all ranks take part."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        value = trainer.strategy.broadcast(self._measured(trainer))
        sign = 1 if self._better == HIGHER else -1
        if value is not None and (self.value is None or sign * value > sign * self.value):
            self.value, self.iteration = value, trainer.global_step
            trainer.save_checkpoint(best_checkpoint(trainer), weights_only=False)

    def state_dict(self) -> dict[str, Any]:
        """What the file remembers of itself."""
        return {"monitor": self.monitor, "value": self.value, "iteration": self.iteration}

    def said(self, trainer: pl.Trainer) -> str | None:
        """Where the file is and why it is the best; None where there is none."""
        if self.value is None:
            return None
        mean = "mean of " if len(self.monitor) > 1 else ""
        why = f"{mean}{', '.join(self.monitor)}: {self.value:.4g} at iteration {self.iteration}"
        return f"{shown(best_checkpoint(trainer))} ({why})"

    def _measured(self, trainer: pl.Trainer) -> float | None:
        """The mean; None where a key is missing, which is said once, or not finite."""
        logged = trainer.callback_metrics
        missing = [key for key in self.monitor if key not in logged]
        if not missing:
            value = sum(float(logged[key]) for key in self.monitor) / len(self.monitor)
            return value if math.isfinite(value) else None
        if trainer.is_global_zero and not self._missed:
            known = ", ".join(key for key in logged if key.startswith("val/")) or "nothing"
            print(f"No best.ckpt: BestCheckpoint.monitor names {missing[0]}, but validation logs {known}.", flush=True)
        self._missed = True
        return None

    def _remembered(self, trainer: pl.Trainer) -> tuple[float, int] | None:
        path = best_checkpoint(trainer)
        if not path.is_file():
            return None
        file = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        kept = file["callbacks"].get(self.state_key, {})
        if kept.get("monitor") != self.monitor or kept["iteration"] > trainer.global_step:
            return None
        return kept["value"], kept["iteration"]


def best_checkpoint(trainer: pl.Trainer) -> Path:
    """Where the best checkpoint of a run is, if it has one."""
    return run_folder(trainer) / "checkpoints" / "best.ckpt"
