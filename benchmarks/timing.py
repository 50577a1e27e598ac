"""What benchmarks of steps share: a step without a trainer, turns, and RESULTS.md."""

import argparse
import functools
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from interfaces.batch import UnpairedBatch
from networks.prepared import weights_changed

RESULTS = Path(__file__).parent / "RESULTS.md"
BASELINE = "released order, fp32"
Step = Callable[..., Any]


def images(options: argparse.Namespace, device: torch.device) -> UnpairedBatch:
    """Uniform noise: no layer is faster or slower for it."""
    shape = (2, options.batch, 3, options.size, options.size)
    a, b = torch.rand(shape, generator=torch.Generator().manual_seed(1)).mul(2).sub(1).to(device)
    return UnpairedBatch(a, b)


def optimizers_of(module: Any) -> list[torch.optim.Optimizer]:
    """Those that an earlier call made, or new ones."""
    found = module.optimizers() if "optimizers" in vars(module) else module.configure_optimizers()
    found = found[0] if isinstance(found, tuple) else found  # schedules stay where they are
    return [found] if isinstance(found, torch.optim.Optimizer) else found


def bare(module: Any) -> Step:
    """The module's own ``training_step`` without a trainer; of a batch it returns the losses.

    ``descend`` is zero_grad, backward, clipping and fused Adam; toggling leaves all weights as they are that the
    optimizer does not hold.
    """
    opts = optimizers_of(module)
    losses: list[Tensor] = []

    @contextmanager
    def toggled(opt: torch.optim.Optimizer) -> Iterator[None]:
        own = {id(p) for p in parameters_of(opt)}
        others = [p for p in module.parameters() if id(p) not in own]
        for p in others:
            p.requires_grad_(False)
        yield
        for p in others:
            p.requires_grad_(True)

    def descend(opt: torch.optim.Optimizer, *of_step: Tensor, clip: float | None = None) -> None:
        parameters = parameters_of(opt)
        gradients = []
        for k, loss in enumerate(of_step):
            opt.zero_grad()
            loss.backward(retain_graph=k + 1 < len(of_step))
            gradients.append([p.grad for p in parameters])
            losses.append(loss.detach())
        for of_loss in gradients:
            for p, gradient in zip(parameters, of_loss, strict=True):
                p.grad = gradient
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(parameters, clip)
            opt.step()
        weights_changed(parameters)

    def step(batch: UnpairedBatch) -> list[Tensor]:
        losses.clear()
        module.training_step(batch, 0)
        return losses

    replaced = {
        "optimizers": lambda use_pl_optimizer=True: opts if len(opts) > 1 else opts[0],
        "toggled_optimizer": toggled,
        "descend": descend,
    }
    silenced = {"log_terms": lambda player, terms: None, "end_iteration": lambda: None}
    for name, function in {**replaced, **silenced}.items():
        object.__setattr__(module, name, function)
    return step


def parameters_of(opt: torch.optim.Optimizer) -> list[Tensor]:
    """Everything that it moves."""
    return [p for group in opt.param_groups for p in group["params"]]


def knows_bf16(device: torch.device) -> bool:
    """Whether 16-bit numbers save time there: on older CPUs their convolutions take minutes."""
    return device.type != "cpu" or torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def precision(device: torch.device, bf16: bool) -> Any:
    """Autocast as Lightning's bf16-mixed enters it."""
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False) if bf16 else nullcontext()


def take_turns(steps: dict[str, Step], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Milliseconds of each step in each round, after two rounds that do not count."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 2):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            wait_for(device)
            if turn >= 2:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def waiting(data: pl.LightningDataModule, step: Step, rounds: int, device: torch.device) -> tuple[float, float]:
    """Milliseconds that ``step`` waits for a training batch, and their share of an iteration, as medians over rounds.

    A batch is waited for until it is on the device as the model takes it. Two rounds do not count.
    """
    loader = ready(data)
    waits, shares = [], []
    for _ in range(rounds + 2):
        start = time.perf_counter()
        batch = next(loader)
        batch = data.on_after_batch_transfer(batch._make(x.to(device) for x in batch), 0)
        there = time.perf_counter()
        step(batch)
        wait_for(device)
        waits.append(1e3 * (there - start))
        shares.append((there - start) / (time.perf_counter() - start))
    return statistics.median(waits[2:]), statistics.median(shares[2:])


def images_a_second(data: pl.LightningDataModule, batches: int) -> float:
    """What the training loader gives where nobody else works; one batch before does not count."""
    loader = ready(data)
    next(loader)
    start = time.perf_counter()
    images = sum(len(batch[0]) for batch in islice(loader, batches))
    return images / (time.perf_counter() - start)


def ready(data: pl.LightningDataModule) -> Iterator[Any]:
    """Training batches of data that were not prepared yet."""
    data.prepare_data()
    data.setup("fit")
    return iter(data.train_dataloader())


def wait_for(device: torch.device) -> None:
    """A GPU returns before it has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def spread(times: list[float]) -> str:
    """Median and the quartiles around it."""
    low, median, high = statistics.quantiles(times, n=4)
    return f"{median:.0f} ms ({low:.0f} to {high:.0f})"


def circumstances(options: argparse.Namespace, device: torch.device, what: str = "UNIT") -> str:
    """``machine`` and sizes: what a number needs to be compared."""
    return (
        f"{machine(options, device)} "
        f"{what} at {options.size}x{options.size}, width {options.width}, batch {options.batch}; "
        f"median (quartiles) of {options.rounds} turns; ratios to: {BASELINE}."
    )


def machine(options: argparse.Namespace, device: torch.device) -> str:
    """Date, commit, versions and hardware."""
    hardware = torch.cuda.get_device_name() if device.type == "cuda" else f"{cpu()}, {options.threads} threads"
    return (
        f"{date.today()}, commit {commit()}, torch {torch.__version__}, Lightning {pl.__version__}, {hardware}, "
        f"load average {os.getloadavg()[0]:.1f}."
    )


@functools.cache
def commit() -> str:
    """As it was when first asked: parts of the results that are written meanwhile do not make the code another."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "no commit"


def cpu() -> str:
    """Its model, and the instructions that torch uses on it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{model} ({torch.backends.cpu.get_cpu_capability()})"


def keep(title: str, mark: str, text: str) -> None:
    """Replace the part of RESULTS.md between a benchmark's two marks, or add it."""
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    old = RESULTS.read_text() if RESULTS.exists() else "# Measured\n"
    part = f"{begin}\n## {title} (`make bench`)\n\n{text}{end}\n"
    before, found, rest = old.partition(begin)
    RESULTS.write_text(before + part + rest.partition(end + "\n")[2] if found else f"{old.rstrip()}\n\n{part}")
