"""The one base class: what manual optimisation in Lightning needs, and nothing about any paper."""

import os
import random
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import Optimizer

from interfaces.model import check_names
from networks.prepared import weights_changed

Terms = dict[str, Tensor]


class ManualModule(pl.LightningModule):
    """Base of every paper: one batch is one iteration, however many optimizers step in it.

    A paper writes ``training_step`` itself: ``with self.toggled_optimizer(opt): self.descend(opt, loss)`` for
    each player, ``log_terms`` for what was measured, ``end_iteration`` last. Its optimizers are fused Adam
    (on the CPU three times faster than the loop, and able to leave out a step without asking the device).

    Attributes:
        iterations: finished iterations, a buffer, so that every checkpoint carries it.
        skipped: optimizer steps left out because a gradient was not finite.
        dice: for what a step decides by chance on the host; seeded with the noise, and no other thread draws from it.
    """

    iterations: Tensor
    skipped: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.register_buffer("iterations", torch.zeros((), dtype=torch.long))
        self.register_buffer("skipped", torch.zeros((), dtype=torch.long))
        self.dice = random.Random(0)
        self._noise_seed = 0
        self._clip: float | None = None

    @property
    def iteration(self) -> int:
        """Finished iterations; schedules are pure functions of it."""
        return self.trainer.global_step if self._trainer is not None else int(self.iterations)

    def on_fit_start(self) -> None:
        """Take the seed of the noise from ``seed_everything`` and refuse what manual steps cannot hold."""
        self._noise_seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        if self.trainer.precision == "16-mixed":
            raise ValueError("trainer.precision: 16-mixed overflows in adversarial losses; use bf16-mixed or 32-true.")
        check_names(self, getattr(self.trainer, "datamodule", None))
        plain = [type(opt).__name__ for opt in self.trainer.optimizers if not opt.defaults.get("fused")]
        if plain:
            raise ValueError(f"{type(self).__name__} has optimizers that are not fused Adam: {', '.join(plain)}.")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed all generators from (seed, iteration, rank): each rank has its own noise and a resume repeats it.

        Also put the x-axis of the logs where the iteration is, and forget what was logged.
        """
        # Terms that this iteration does not have would be logged again as they were in an earlier one.
        for result in self.trainer.fit_loop.epoch_loop._results.values():
            result.has_reset = True
        # Lightning's x-axis slips by one where a checkpoint was saved between two batches.
        self.trainer.fit_loop.epoch_loop._batches_that_stepped = self.trainer.global_step
        words = np.random.SeedSequence((self._noise_seed, self.trainer.global_step, self.global_rank))
        key = int(words.generate_state(1, np.uint64)[0]) >> 1
        torch.default_generator.manual_seed(key)  # 200 times cheaper than torch.manual_seed in a CUDA build
        if self.device.type == "cuda":
            torch.cuda.manual_seed(key)
        self.dice.seed(key)
        random.seed(key)
        np.random.seed(key % 2**32)  # noqa: NPY002  libraries draw from the global one

    def noise_like(self, x: Tensor) -> Tensor:
        """A standard normal draw in the shape, type and place of ``x``: the one door by which training noise comes."""
        return torch.randn_like(x)

    def descend(self, opt: Optimizer, *losses: Tensor, clip: float | None = None) -> None:
        """One optimizer step down each loss; gradients are averaged over ranks here, and only here.

        Of several losses, which may share a graph, all gradients are taken before the first step.

        Args:
            opt: one of ``self.optimizers()``.
            *losses: scalars.
            clip: largest l2 norm of the gradients together, or None.
        """
        parameters = [p for group in opt.param_groups for p in group["params"]]
        gradients: list[list[Tensor | None]] = []
        for k, loss in enumerate(losses):
            opt.zero_grad()
            self.manual_backward(loss, retain_graph=k + 1 < len(losses))
            gradients.append([p.grad for p in parameters])
        self._clip = clip
        # Lightning would count optimizer steps as global steps; end_iteration counts batches.
        opt._on_before_step = opt._on_after_step = _nothing
        for of_loss in gradients:
            for p, gradient in zip(parameters, of_loss, strict=True):
                p.grad = gradient
            opt.step()
        weights_changed(parameters)
        self._clip = None

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip, and leave out a step whose gradients are not finite: here they are summed over ranks and unscaled."""
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads)
        if self._clip is not None:
            torch._foreach_mul_(grads, (self._clip / (norm + 1e-6)).clamp(max=1.0))
        infinite = ~norm.isfinite()
        optimizer.found_inf = infinite.to(torch.float32)  # fused Adam then keeps weights, moments and step count
        self.skipped += infinite

    def log_terms(self, player: str, terms: Terms) -> None:
        """Log each term as ``train/<player>/<term>``; the progress display reads them from there when it is drawn."""
        self.log_dict({f"train/{player}/{name}": term.detach() for name, term in terms.items()})

    def end_iteration(self) -> None:
        """Step the learning-rate schedules and count the iteration, in the checkpoint and in ``global_step``."""
        schedulers = self.lr_schedulers()
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
            if scheduler is not None:
                scheduler.step()
        self.iterations += 1
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()
        progress.increment_completed()

    def on_validation_start(self) -> None:
        """Outside training, put the x-axis of what is measured where the checkpoint was saved."""
        if self.trainer.state.fn != "fit":
            self.trainer.fit_loop.epoch_loop._batches_that_stepped = int(self.iterations)

    def on_test_start(self) -> None:
        """As ``on_validation_start``."""
        self.on_validation_start()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Name the class beside its arguments, as LightningCLI does: then a checkpoint needs nothing but itself."""
        if "hyper_parameters" in checkpoint:
            checkpoint["hyper_parameters"].setdefault("_class_path", f"{type(self).__module__}.{type(self).__name__}")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights of other networks (ValueError names the arguments that differ)."""
        here = {name: tuple(value.shape) for name, value in self.state_dict().items()}
        there = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
        if here != there:
            ours, theirs = dict(self.hparams), checkpoint.get("hyper_parameters", {})
            unlike = [name for name in ours if name in theirs and as_listed(ours[name]) != as_listed(theirs[name])]
            what = [
                f"model.{name} is {as_listed(theirs[name])} there and {as_listed(ours[name])} here" for name in unlike
            ]
            name = theirs.get("_class_path", "").rpartition(".")[2]
            if name not in ("", type(self).__name__):
                what = [f"it is of {name}"]
            raise ValueError(
                f"The checkpoint has other networks than this {type(self).__name__} "
                f"({'; '.join(what) or 'other code'}): repeat the arguments of its training, or give --config and the "
                "config.yaml of its run."
            )

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Empty on purpose: without it Lightning skips validation and the callbacks that measure there."""

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Empty on purpose, as ``validation_step``."""


def as_listed(value: Any) -> Any:
    """An argument with lists for tuples, as YAML has them."""
    return [as_listed(each) for each in value] if isinstance(value, list | tuple) else value


def _nothing() -> None:
    pass
