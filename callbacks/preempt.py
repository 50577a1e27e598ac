"""A polite end when a scheduler takes the machine away."""

import signal
from typing import Any

import pytorch_lightning as pl

from callbacks.media import run_folder


class Preempt(pl.Callback):
    """On SIGTERM or SIGUSR1 to any rank: all ranks save at the next batch end and exit with code 143.

    The checkpoint is ``<run>/checkpoints/last.ckpt``. Lightning's own handler would end with code 0, which a
    scheduler takes for success, and under SLURM it saves in the middle of a step.
    """

    def __init__(self) -> None:
        self._asked = False
        self._previous: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals over; Lightning registered its handlers before this hook."""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            self._previous[number] = signal.signal(number, self._ask)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Save and leave if any rank was asked to.

        Raises:
            SystemExit: with code 143 on all ranks, after the checkpoint is written.
        """
        if not trainer.strategy.reduce_boolean_decision(self._asked, all=False):
            return
        path = run_folder(trainer) / "checkpoints" / "last.ckpt"
        trainer.save_checkpoint(path, weights_only=False)
        if trainer.is_global_zero:
            print(f"Stopped by a signal after iteration {trainer.global_step}; saved {path}.", flush=True)
        self._release()
        trainer.strategy.barrier()
        raise SystemExit(143)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the signals back to Lightning, which gives them back to the process; ``teardown`` would be too late."""
        self._release()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._release()

    def _ask(self, *_: Any) -> None:
        self._asked = True

    def _release(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous, self._asked = {}, False
