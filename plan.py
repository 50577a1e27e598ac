"""What a training would be, said before any of it is done: ``python main.py fit ... --print``.

The memory of a step is measured and not guessed, and costs neither that memory nor its arithmetic. The model's own
``training_step`` runs, under a Trainer, on fake tensors (``torch._subclasses``), which have shapes and no values; a
dispatch mode adds what each operation allocates and takes off what is freed.
"""

import copy
import logging
import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeCopyMode,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from interfaces.batch import ImageBatch
from interfaces.growth import Grows, Growth
from interfaces.model import check_names
from lightning_modules.base import ManualModule

MIB, GIB = 2**20, 2**30
HOW = """Memory is the most that tensors take at once in a training step of one process: weights, gradients, optimizers,
and what backward needs. It was counted in steps of this very code, on tensors without values. Libraries, the CUDA
context and evaluations come on top. Parameters are those that a step moves."""
MEASURED = ("parameters", "memory", "between steps")
LAST = 4  # iterations that are looked at where nothing grows: some papers do more in every third

Table = list[tuple[str, ...]]


class Footprint(NamedTuple):
    """What training takes, in a process."""

    peak: int  # most bytes of tensors alive at once
    kept: int  # bytes of those alive between two steps
    moved: int  # parameters that optimizers moved


def plan(trainer: pl.Trainer, model: ManualModule, data: pl.LightningDataModule, checkpoint: str | None = None) -> str:
    """The run in words: model, data, devices, length, and the memory of a step, at each stage where the model grows.

    Where it does not grow, the data are made ready, as a run would do first, and give a batch.

    Args:
        trainer: that would train.
        model: of a ``fit``.
        data: of the same.
        checkpoint: from which it would go on.

    Raises:
        ValueError: the model refuses these data, or to train at all.
    """
    check_names(model, data)
    fingerprint = getattr(data, "fingerprint", "without a fingerprint")
    facts = {
        "model": f"{type(model).__name__}, {millions(sum(p.numel() for p in model.parameters()))} parameters",
        "data": f"{type(data).__name__}: {fingerprint() if callable(fingerprint) else fingerprint}",
        "devices": devices(trainer),
        "length": length(trainer, model),
    }
    if checkpoint is not None:
        facts["goes on"] = f"from {checkpoint}"
    lines = [f"{name:8} {fact}" for name, fact in facts.items()]
    try:
        table, peaks = growing(trainer, model, data) if isinstance(model, Grows) else fixed(trainer, model, data)
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        # Of such a step tensors without values cannot tell what it would do.
        return "\n".join(
            [*lines, f"memory   not known: a step of {type(model).__name__} asks for values ({error.func})"]
        )
    return "\n".join([*lines, "", *aligned(table), "", HOW, *too_large(trainer, peaks)])


def growing(trainer: pl.Trainer, model: Any, data: pl.LightningDataModule) -> tuple[Table, dict[str, int]]:
    """A row for each resolution, below the headings, and the bytes of a step at those that the run reaches."""
    growth: Growth = model.growth
    table: Table = [("resolution", "images a step", "fade images", "stable images", "iterations", *MEASURED)]
    peaks = {}
    for level, (stage, alone) in enumerate(zip(growth.stages(processes(trainer)), growth.stages(), strict=True)):
        shape = stage.batch, getattr(data, "image_shape", (3,))[0], stage.resolution, stage.resolution
        # In a fade two levels are at work, and only in its second iteration optimizers have their state.
        iteration = alone.begin + min(1, max(alone.fade + alone.stable - 1, 0))
        found = footprint(model, ImageBatch(torch.empty(shape)), [iteration] * 2, trainer.precision)
        name, iterations = f"{stage.resolution}x{stage.resolution}", iterations_of(trainer, growth, level)
        images = (0, growth.first) if level == 0 else (growth.fade, growth.stable)
        table.append((name, *(f"{number:,}" for number in (stage.batch, *images, iterations)), *measured(found)))
        if iterations > 0:
            peaks[name] = found.peak
    return table, peaks


def fixed(trainer: pl.Trainer, model: ManualModule, data: pl.LightningDataModule) -> tuple[Table, dict[str, int]]:
    """The same of a model that does not grow: one row."""
    data.prepare_data()
    data.setup("fit")
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    end = max(trainer.max_steps, LAST)  # where nothing is ramped up any more
    found = footprint(model, batch, [*range(end - LAST, end)] * 2, trainer.precision)
    shapes = ", ".join(f"{name} {'x'.join(map(str, x.shape))}" for name, x in batch._asdict().items())
    return [("a step", *MEASURED), (shapes, *measured(found))], {"a step": found.peak}


def footprint(
    model: ManualModule, batch: Any, iterations: Sequence[int], precision: Any, fake: bool = True
) -> Footprint:
    """What it takes to train a copy of a model on a batch on the CPU; the model itself stays as it is.

    Args:
        model: not yet in the hands of a Trainer.
        batch: a NamedTuple of tensors; of images only the shapes count.
        iterations: for which the steps, one each, are taken.
        precision: of the Trainer.
        fake: without values; otherwise everything is computed.

    Raises:
        DataDependentOutputException: what the step does depends on values.
        DynamicOutputShapeException: so do shapes.
    """
    mode, living = FakeTensorMode(allow_non_fake_inputs=True), Living()
    with FakeCopyMode(mode) if fake else nullcontext():
        twin = copy.deepcopy(model)
    batch = type(batch)(*(mode.from_tensor(x) if fake and x.is_floating_point() else x for x in batch))
    living.see([*twin.parameters(), *twin.buffers(), *batch])
    step, watch = twin.training_step, _Watch(iterations)

    def training_step(batch_idx: int) -> None:
        with mode if fake else nullcontext(), living:
            step(batch, batch_idx)

    # A log would read values; and the copy is where it should be, and cannot be moved.
    vars(twin).update(training_step=training_step, log_dict=_nothing, log=_nothing, _apply=lambda *_, **__: twin)
    with silence():
        pl.Trainer(
            accelerator="cpu",
            devices=1,
            plugins=[LightningEnvironment()],  # also where several processes have been started
            precision=precision,
            callbacks=[watch],
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(twin, range(len(iterations)))
    return Footprint(living.peak, living.now, sum(watch.moved.values()))


class Living(TorchDispatchMode):
    """Counts the bytes of all storages that operations make while it is entered, until they are freed.

    Attributes:
        now: bytes alive.
        peak: the most that there have been.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and look at what it gives.

        Where all that it takes has values, such as numbers of domains, so has the result.
        """
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        real = len(given) > 0 and not any(isinstance(x, FakeTensor) for x in given)
        with unset_fake_temporarily() if real else nullcontext():
            result = func(*args, **(kwargs or {}))
        self.see(result)
        return result

    def see(self, tensors: Any) -> None:
        """Count what has not been seen; views share a storage."""
        for x in tree_leaves(tensors):
            if isinstance(x, Tensor) and id(storage := x.untyped_storage()) not in self._alive:
                self._alive.add(id(storage))
                weakref.finalize(storage, self._freed, id(storage), storage.nbytes())
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)

    def _freed(self, key: int, size: int) -> None:
        self._alive.remove(key)
        self.now -= size


class _Watch(pl.Callback):
    """Makes the model believe in the numbers of its iterations, and counts the parameters that have a gradient."""

    def __init__(self, iterations: Sequence[int]) -> None:
        self.iterations = iterations
        self.moved: dict[int, int] = {}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        total = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total
        total.ready = total.completed = self.iterations[batch_idx]

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        for group in optimizer.param_groups:
            self.moved |= {id(p): p.numel() for p in group["params"] if p.grad is not None}


@contextmanager
def silence() -> Iterator[None]:
    """Nothing of what Lightning says of a Trainer."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def too_large(trainer: pl.Trainer, peaks: dict[str, int]) -> list[str]:
    """A sentence for each step for which the memory of the GPU is too small."""
    device = trainer.strategy.root_device
    if device.type != "cuda":
        return []
    gpu = torch.cuda.get_device_properties(device)
    return [
        f"warning: {name} takes {in_words(peak)}, but {gpu.name} has {in_words(gpu.total_memory)}: give fewer images."
        for name, peak in peaks.items()
        if peak > gpu.total_memory
    ]


def iterations_of(trainer: pl.Trainer, growth: Growth, level: int) -> int:
    """Of a resolution in this run, the last of which stays to the end."""
    stages = growth.stages(processes(trainer))
    total = trainer.max_steps if trainer.max_steps >= 0 else growth.iterations(processes(trainer))
    end = stages[level + 1].begin if level + 1 < len(stages) else total
    return max(min(end, total) - stages[level].begin, 0)


def devices(trainer: pl.Trainer) -> str:
    """Such as ``2 x cuda (NVIDIA H200), bf16-mixed``."""
    device = trainer.strategy.root_device
    gpu = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    return f"{processes(trainer)} x {device.type}{gpu}, {trainer.precision}"


def length(trainer: pl.Trainer, model: ManualModule) -> str:
    """Iterations of the run, and of the growth, where there is one."""
    run = f"{trainer.max_steps:,} iterations" if trainer.max_steps >= 0 else "no end in iterations"
    if not isinstance(model, Grows):
        return run
    grown = model.growth.iterations(processes(trainer))
    return f"{run}; {grown:,} until the last resolution has had its stable images"


def processes(trainer: pl.Trainer) -> int:
    """That will train together; before the start a strategy knows of its own alone."""
    return trainer.num_devices * trainer.num_nodes


def aligned(table: Table) -> list[str]:
    """Lines of the rows: the first column to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(row[1:], widths[1:], strict=True))])
        for row in table
    ]


def measured(found: Footprint) -> tuple[str, ...]:
    """Cells below ``MEASURED``."""
    return millions(found.moved), in_words(found.peak), in_words(found.kept)


def millions(number: int) -> str:
    """Such as ``25.4 M``."""
    return f"{number / 1e6:,.1f} M" if number >= 1e5 else f"{number:,}"


def in_words(size: int) -> str:
    """Bytes, such as ``81.5 MiB`` or ``3.20 GiB``."""
    return f"{size / GIB:.2f} GiB" if size >= GIB else f"{size / MIB:.1f} MiB"


def _nothing(*_: Any, **__: Any) -> None:
    pass
