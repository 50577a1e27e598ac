"""The pulse of a run: gradient norms, images per second, waiting for data, learning rates, what latents carry."""

import time
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.profilers import PassThroughProfiler
from torch import Tensor
from torch.optim import Optimizer

from callbacks.media import logged_step

KL_DIMENSIONS = 64


class Vitals(pl.Callback):
    """Logs, every ``every`` iterations and on rank 0, what a run is doing beside its losses.

    * ``health/grad_norm/<network>``: l2 norm of the gradients of each top-level network, before clipping, of the
      last optimizer step in that iteration; averaged over ranks like the gradients.
    * ``health/images_per_second``: images of each domain, all ranks together, without the time of validations.
    * ``health/data_wait``: share of that time in which the training loop waited for the loader. Not logged where
      the trainer has a profiler of its own.
    * ``health/learning_rate/<networks>``: of each optimizer, ``.1`` and so on for further parameter groups.
    * ``kl/<dimension>``: what ``kl_per_dim()`` of the model, if it has one, gives for its last batch, in nats; the
      first 64 dimensions, for more curves cannot be told apart. Of rank 0 alone.

    Only in those iterations is anything read from the device.

    Args:
        every: iterations between two readings.
    """

    def __init__(self, every: int = 50) -> None:
        if every < 1:
            raise ValueError(f"Vitals.every is {every}: give a number of iterations, 1 or more.")
        self.every = every
        self._due = False
        self._norms: dict[str, Tensor] = {}
        self._rates: dict[str, float] = {}
        self._fetch: FetchClock | None = None
        self._since = self._away = 0.0
        self._images = 0

    def on_train_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Listen to the loop's own profiling of ``next(loader)``, unless someone else does."""
        if type(trainer.profiler) is PassThroughProfiler:
            trainer.profiler = self._fetch = FetchClock()
        self._restart()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Decide whether this iteration is looked at."""
        self._due = (trainer.global_step + 1) % self.every == 0
        self._images += len(batch[0]) * trainer.world_size
        if self._due:  # now, since the module steps its schedules before the batch ends
            self._rates = learning_rates(pl_module, trainer.optimizers)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Take the norms, still on the device; the module clips after this hook."""
        if not self._due:
            return
        for name, parameters in owned_by(pl_module, optimizer).items():
            grads = [p.grad for p in parameters if p.grad is not None]
            if grads:
                self._norms[f"health/grad_norm/{name}"] = torch.nn.utils.get_total_norm(grads)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Read and log."""
        if not self._due:
            return
        values = self._rates
        if self._norms:
            norms = torch.stack([norm.float() for norm in self._norms.values()]).tolist()  # waits for the device
            values |= zip(self._norms, norms, strict=True)
        values |= kl_curves(pl_module)
        seconds = time.perf_counter() - self._since - self._away
        values["health/images_per_second"] = self._images / seconds
        if self._fetch is not None:
            values["health/data_wait"] = self._fetch.seconds / seconds
        for logger in trainer.loggers:  # not pl_module.log: Lightning would repeat the value in the rows between
            logger.log_metrics(values, step=logged_step(trainer))
        self._restart()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._left = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on."""
        self._away += time.perf_counter() - self._left

    def _restart(self) -> None:
        self._since, self._away, self._images = time.perf_counter(), 0.0, 0
        self._norms = {}
        if self._fetch is not None:
            self._fetch.seconds = 0.0


class FetchClock(PassThroughProfiler):
    """Sums the seconds that the training loop spends in ``next`` of its loader."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = self._since = 0.0

    def start(self, action_name: str) -> None:
        """Note the time."""
        if action_name.endswith("train_dataloader_next"):
            self._since = time.perf_counter()

    def stop(self, action_name: str) -> None:
        """Add what has passed."""
        if action_name.endswith("train_dataloader_next"):
            self.seconds += time.perf_counter() - self._since


def owned_by(model: torch.nn.Module, optimizer: Optimizer) -> dict[str, list[Tensor]]:
    """Parameters of an optimizer by the top-level network that holds them, as the model names it."""
    mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
    networks: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if id(parameter) in mine:
            networks.setdefault(name.partition(".")[0], []).append(parameter)
    return networks


def learning_rates(model: torch.nn.Module, optimizers: list[Optimizer]) -> dict[str, float]:
    """The rate of each parameter group under the names of the networks that its optimizer moves."""
    rates = {}
    for optimizer in optimizers:
        networks = "+".join(owned_by(model, optimizer))
        for k, group in enumerate(optimizer.param_groups):
            rates[f"health/learning_rate/{networks}" + (f".{k}" if k else "")] = float(group["lr"])
    return rates


def kl_curves(model: Any) -> dict[str, float]:
    """``kl/<dimension>`` in nats, from 0 to 63; {} where the model has no ``kl_per_dim`` or that gives None yet."""
    kl_per_dim = getattr(model, "kl_per_dim", None)
    kl = kl_per_dim() if callable(kl_per_dim) else None
    if kl is None:
        return {}
    return {f"kl/{k}": value for k, value in enumerate(kl.detach().flatten()[:KL_DIMENSIONS].tolist())}
