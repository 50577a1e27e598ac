"""Checkpoints that are either whole or not there."""

import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import TorchCheckpointIO


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
