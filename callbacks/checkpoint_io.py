"""Checkpoints that are either whole or not there."""

import os
from typing import Any

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
