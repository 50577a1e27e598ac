"""What every paper of the parity runner repeats: a recorded module, Lightning's trainer around it, a case's inputs.

A paper's part derives ``class RecordedPaper(Recorded, paper.Paper)``, calls ``keep`` with the losses of each player,
and trains it with ``train``. Nothing here knows how many players, optimizers or networks there are.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.parity.rules import Case, Snapshot, normal, number
from lightning_modules.base import ManualModule

# (module, states of its optimizers) to a copy of both under official names
Snapshotter = Callable[[Any, list[dict[str, Any]]], Snapshot]


class Recorded(ManualModule):
    """First base of a recorded paper, before the paper itself: noise by the rule of the cases, losses kept by name.

    Attributes:
        draws: kind and shape of every draw so far.
        losses: per iteration, by ``player.term``.
    """

    def __init__(self, **hyper_parameters: Any) -> None:
        super().__init__(**hyper_parameters)
        self.draws: list[tuple[str, list[int]]] = []
        self.losses: list[dict[str, float]] = []

    def noise_like(self, x: Tensor) -> Tensor:
        """The recorded draw of this shape."""
        self.draws.append(("randn", list(x.shape)))
        return normal(x.shape).to(x)

    def keep(self, player: str, terms: Mapping[str, Tensor | float]) -> None:
        """Add losses of one player to those of the current iteration."""
        while len(self.losses) <= self.iteration:
            self.losses.append({})
        self.losses[self.iteration] |= {f"{player}.{name}": float(term) for name, term in terms.items()}


class RecordedGradients(Recorded):
    """First base of a recorded paper of whose steps the case holds gradients.

    Attributes:
        gradients: what each optimizer received in its first step, by our name.
    """

    def __init__(self, **hyper_parameters: Any) -> None:
        super().__init__(**hyper_parameters)
        self.gradients: dict[str, Tensor] = {}

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """As ever, which may clip; then keep what the optimizer receives."""
        super().on_before_optimizer_step(optimizer)
        if self.iteration == 0:
            self.gradients = received(self, optimizer) | self.gradients


def received(module: nn.Module, optimizer: Any) -> dict[str, Tensor]:
    """Copies of the gradients that an optimizer is about to step with, by our name."""
    own = {id(p) for group in optimizer.param_groups for p in group["params"]}
    named = ((name, p.grad) for name, p in module.named_parameters() if id(p) in own)
    return {name: gradient.detach().clone() for name, gradient in named if gradient is not None}


class Recorder(pl.Callback):
    """Keeps learning rates, the draws of iteration 1 and, after the iterations of ``tags``, the state.

    Args:
        tags: ``after1``, ``after3``.
        snapshot: what copies the state.
        batches: that make one iteration of the case.
    """

    def __init__(self, tags: Sequence[str], snapshot: Snapshotter, batches: int = 1) -> None:
        self.tags, self.snapshot, self.batches = {number(tag) * batches: tag for tag in tags}, snapshot, batches
        self.lrs: list[list[float]] = []
        self.after: dict[str, Snapshot] = {}
        self.draws: list[tuple[str, list[int]]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """The rates that this iteration uses."""
        self.lrs.append([opt.param_groups[0]["lr"] for opt in trainer.optimizers])

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """The state after this iteration."""
        if batch_idx + 1 == self.batches:
            self.draws = list(pl_module.draws)
        if batch_idx + 1 in self.tags:
            states = [opt.state_dict() for opt in trainer.optimizers]
            self.after[self.tags[batch_idx + 1]] = self.snapshot(pl_module, states)


def train(
    case: Case, module: Recorded, batches: Sequence[Any], snapshot: Snapshotter, per_iteration: int = 1
) -> Recorder:
    """Give the batches, one an iteration of ours, to the module's own ``training_step`` under Lightning's trainer.

    Args:
        case: says after which iterations the state is kept.
        module: in the precision of the run.
        batches: in the same precision.
        snapshot: of the module.
        per_iteration: so many make one iteration of the case.
    """
    recorder = Recorder(case.tags, snapshot, per_iteration)
    double = next(module.parameters()).dtype == torch.float64
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        precision="64-true" if double else "32-true",
        max_epochs=1,
        callbacks=[recorder],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(list(batches), batch_size=None))
    return recorder


def weights_in(
    case: Case, tag: str, containers: str, read: Callable[[Path], Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """All tensors of a folder of the case by ``net.key``; where it holds official containers, from there.

    Args:
        case: with tensors in ``all_nets.safetensors`` of its folders.
        tag: the folder, ``init``, ``after1``...
        containers: pattern of the containers' names.
        read: the tensors of one by ``net.key``.

    Returns:
        No tensors where the case does not hold any.

    Raises:
        FileNotFoundError: the case does not say how it starts.
    """
    if not case.has(f"{tag}/all_nets.safetensors"):
        if tag == "init":
            raise FileNotFoundError(f"{case.path} lacks init/all_nets.safetensors.")
        return {}
    weights = case.tensors(f"{tag}/all_nets.safetensors")
    for file in (case.path / tag).glob(containers):
        weights |= read(file)
    return weights


def named(net: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of one network by ``net.key``."""
    return {f"{net}.{name}": tensor for name, tensor in tensors.items()}


def flat(weights: Mapping[str, Tensor]) -> Snapshot:
    """Copies, of counters with one dimension, which the rules ask of every tensor."""
    return Snapshot({name: torch.atleast_1d(tensor.clone()) for name, tensor in weights.items()})


def check_fixed(case: Case, fixed: Mapping[tuple[str, ...], Any], paper: str) -> None:
    """Refuse hyper-parameters of ``config.json`` that our paper does not vary.

    Args:
        case: with ``hyperparameters`` in its configuration; what is absent there has our value.
        fixed: our value, by the keys that lead to the official one.
        paper: its name, for the message.

    Raises:
        ValueError: one has another value.
    """
    for keys, ours in fixed.items():
        value = case.config["hyperparameters"]
        for key in keys:
            value = value.get(key, ours) if isinstance(value, Mapping) else ours
        if value != ours:
            raise ValueError(f"{case.path}: {'.'.join(keys)} is {value!r}, but our {paper} has only {ours!r}.")


def check_among(case: Case, keys: Sequence[str], allowed: Sequence[Any], paper: str) -> None:
    """Refuse a hyper-parameter, at ``keys``, that is none of the allowed ones (ValueError)."""
    value = case.config["hyperparameters"]
    for key in keys:
        value = value[key]
    if value not in allowed:
        raise ValueError(
            f"{case.path}: {'.'.join(keys)} is {value!r}, but our {paper} has {' and '.join(map(str, allowed))}."
        )


def recorded_input(case: Case, iteration: int, name: str) -> Tensor:
    """A recorded batch, ``iter0.a``; its size must be that of ``config.json`` (ValueError)."""
    name, sizes = f"iter{iteration}.{name}", case.config["sizes"]
    if name not in case.batch:
        raise ValueError(f"{case.path}: batch.safetensors lacks {name}.")
    expected = [sizes["batch_size"], sizes["channels"], *sizes["image_hw"]]
    if list(case.batch[name].shape) != expected:
        raise ValueError(f"{case.path}: {name} is {list(case.batch[name].shape)}, but config.json says {expected}.")
    return case.batch[name]


@contextlib.contextmanager
def caught(paper: ModuleType, name: str) -> Iterator[list[Tensor]]:
    """Values of a loss function that a paper's module calls, in the order of its calls.

    Args:
        paper: the module that imports the function, ``lightning_modules.unit``.
        name: of the function there.
    """
    values: list[Tensor] = []
    function: Callable[..., Tensor] = getattr(paper, name)

    def catch(*args: Tensor) -> Tensor:
        values.append(function(*args))
        return values[-1]

    setattr(paper, name, catch)
    try:
        yield values
    finally:
        setattr(paper, name, function)
