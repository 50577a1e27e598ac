"""How long a UNIT iteration takes, against the order of computation of the 2018 release, in one run.

    python -m benchmarks.step_time [--size 64 --width 64 --batch 1 --threads 2 --rounds 15] [--write]

Four questions, one table:

* **step**: our ``training_step`` against ``released.unit`` from the same weights with the same noise. That both end
  at the same numbers is asserted first. Steps take turns, so that whatever else runs on the machine slows all alike;
  the ratio is the median over turns.
* **machine**: which part of the best convolution throughput of this machine the needed arithmetic reaches.
* **framework**: what ``Trainer.fit`` adds to the bare loop, in chunks that take turns within one ``fit``.
* **data**: the share of an iteration that waits for ``next`` of the streets' loader.

On a GPU the rows are fp32, bf16, channels_last and torch.compile instead.
"""

import argparse
import copy
import logging
import statistics
import time
import warnings
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.functional import conv2d
from torch.optim import Adam
from torch.utils.data import DataLoader

from benchmarks.released import unit as released_order
from benchmarks.timing import (
    BASELINE,
    RESULTS,
    Step,
    bare,
    circumstances,
    images,
    keep,
    precision,
    spread,
    take_turns,
    wait_for,
    waiting,
)
from datamodules.streets import Streets
from interfaces.batch import UnpairedBatch
from lightning_modules.unit import UNIT


def main() -> None:
    """Measure, print and, with ``--write``, keep the table."""
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    options = arguments()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    same_numbers()
    lines = [circumstances(options, device), "", "| row | time | ratio, share |", "|---|---|---|"]
    print("\n".join(lines), flush=True)
    for question in (step_rows, framework_rows, data_rows):
        rows = question(options, device)
        print("\n".join(rows), flush=True)
        lines += rows
    if options.write:
        keep("Time of an iteration", "step_time", "\n".join(lines) + "\n")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Time a UNIT iteration against the order of the 2018 release.")
    parser.add_argument("--size", type=int, default=64, help="height and width of the images")
    parser.add_argument("--width", type=int, default=64, help="channels after the first convolution, in E, G and D")
    parser.add_argument("--batch", type=int, default=1, help="images of each domain")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15, help="turns that each step takes")
    parser.add_argument("--write", action="store_true", help=f"keep the table in {RESULTS.name}")
    return parser.parse_args()


# Steps


def build(options: argparse.Namespace, device: torch.device, **arguments: Any) -> UNIT:
    """The module with the weights of seed 0."""
    torch.manual_seed(0)
    return UNIT(width=options.width, dis_width=options.width, **arguments).to(device)


def noise_by_shape(x: Tensor) -> Tensor:
    """Standard normal and a function of the size alone, so that the order of draws does not matter."""
    generator = torch.Generator(x.device).manual_seed(x.numel())
    return torch.randn(x.shape, generator=generator, device=x.device).to(x.dtype)


def ours(unit: UNIT, batch: UnpairedBatch, bf16: bool = False, reuse_fakes: bool = False) -> Step:
    """One iteration of ours with the noise that only sizes decide."""
    step = bare(unit)
    object.__setattr__(unit, "noise_like", noise_by_shape)

    def run() -> list[Tensor]:
        unit.reuse_fakes = reuse_fakes  # steps of one module share its weights, and half of the memory
        with precision(batch.a.device, bf16):
            return step(batch)

    return run


def theirs(unit: UNIT, opts: tuple[Adam, Adam], batch: UnpairedBatch, bf16: bool = False) -> Step:
    """One iteration in the released order."""

    def run() -> tuple[Tensor, Tensor]:
        with precision(batch.a.device, bf16):
            return released_order.step(unit, *opts, batch, noise_by_shape)

    return run


def same_numbers(iterations: int = 2) -> None:
    """Assert in float64 that both steps give the same losses and leave the same weights.

    Not in float32: where a true gradient is zero (biases before a normalisation) Adam divides rounding by rounding.
    """
    small = argparse.Namespace(size=64, width=8, batch=1)
    for reuse_fakes in (False, True):
        unit = build(small, torch.device("cpu")).double()
        released = copy.deepcopy(unit)
        batch = UnpairedBatch(*(x.double() for x in images(small, torch.device("cpu"))))
        run_ours, run_theirs = (
            ours(unit, batch, reuse_fakes=reuse_fakes),
            theirs(released, released_order.optimizers(released), batch),
        )
        for _ in range(iterations):
            torch.testing.assert_close(torch.stack(run_ours()), torch.stack(run_theirs()), rtol=1e-10, atol=0)
        for p, q in zip(unit.parameters(), released.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-9)


def step_rows(options: argparse.Namespace, device: torch.device) -> list[str]:
    """Time, ratio to the baseline and, on a CPU, the part of the machine's best convolution."""
    batch = images(options, device)
    unit, released = build(options, device), build(options, device)
    opts = released_order.optimizers(released)
    steps = {BASELINE: theirs(released, opts, batch)}
    if device.type == "cpu":
        steps["released order, bf16"] = theirs(released, opts, batch, bf16=True)
    for kind, bf16 in (("fp32", False), ("bf16", True)):
        steps[f"ours, {kind}"] = ours(unit, batch, bf16)
        steps[f"ours, {kind}, reuse_fakes"] = ours(unit, batch, bf16, reuse_fakes=True)
    if device.type == "cuda":
        steps |= gpu_steps(options, batch)
    else:
        best = {bf16: best_convolution(bf16) for bf16 in (False, True)}
    times = take_turns(steps, options.rounds, device)
    rows = []
    for name, mine in times.items():
        ratio = statistics.median(a / b for a, b in zip(times[BASELINE], mine, strict=True))
        row = f"| {name} | {spread(mine)} | {ratio:.2f} x"
        if device.type == "cpu" and name.startswith("ours"):
            macs = options.batch * needed_macs(options.width, options.size, "reuse" in name)
            reached = 2e-6 * macs / statistics.median(mine)
            peak = best["bf16" in name]
            row += f"; {macs / 1e9:.1f} GMAC at {reached:.0f} of {peak:.0f} GFLOP/s = {reached / peak:.0%}"
        rows.append(row + " |")
    return rows


def gpu_steps(options: argparse.Namespace, batch: UnpairedBatch) -> dict[str, Step]:
    """What only a GPU gains from: channels_last and torch.compile, both in bf16."""
    device = batch.a.device
    last = build(options, device).to(memory_format=torch.channels_last)
    last_batch = UnpairedBatch(*(x.contiguous(memory_format=torch.channels_last) for x in batch))
    compiled = build(options, device)
    torch._dynamo.config.recompile_limit = 64
    for net in (*compiled.encoders, *compiled.decoders, *compiled.discriminators):
        net.compile()
    return {
        "ours, bf16, channels_last": ours(last, last_batch, bf16=True),
        "ours, bf16, compiled": ours(compiled, batch, bf16=True),
    }


# Arithmetic


def best_convolution(bf16: bool) -> float:
    """GFLOP/s of the best of a few large 3x3 convolutions, forward and backward."""
    best = 0.0
    for channels, side in ((128, 64), (256, 32), (256, 64), (512, 32)):
        dtype = torch.bfloat16 if bf16 else torch.float32
        x = torch.randn(1, channels, side + 2, side + 2, dtype=dtype, requires_grad=True)
        weight = torch.randn(channels, channels, 3, 3, dtype=dtype, requires_grad=True)
        up = torch.ones(1, channels, side, side, dtype=dtype)
        for _ in range(6):
            start = time.perf_counter()
            torch.autograd.grad(conv2d(x, weight), (x, weight), up)
            best = max(best, 6e-9 * channels**2 * 9 * side**2 / (time.perf_counter() - start))
    return best


def needed_macs(width: int, size: int, reuse_fakes: bool) -> int:
    """Multiply-accumulates of an iteration for one image of each domain, nothing computed twice.

    An upsampling convolution counts 25 multiplications for four pixels. A backward pass is two forward ones: one for
    the input's gradient, one for the weights', except where one of them is not needed.
    """
    stem, head = (49 * 3 * width * size**2,) * 2
    quarter = 9 * (4 * width) ** 2 * (size // 4) ** 2  # one convolution of a residual block
    downs = 16 * (width * 2 * width * (size // 2) ** 2 + 2 * width * 4 * width * (size // 4) ** 2)
    ups = 25 * (4 * width * 2 * width * (size // 4) ** 2 + 2 * width * width * (size // 2) ** 2)
    encoder, decoder = stem + downs + 8 * quarter, 8 * quarter + ups + head
    first, scores = 0, 0
    for side in (size, size // 2, size // 4):
        first += 16 * 3 * width * (side // 2) ** 2
        scores += sum(16 * width**2 * 2 ** (2 * k - 1) * (side // 2 ** (k + 1)) ** 2 for k in (1, 2, 3))
    generator = 3 * 4 * encoder - 2 * stem + 3 * 6 * decoder + (0 if reuse_fakes else 2 * decoder)
    discriminator = 3 * 4 * (first + scores) - 4 * first + 2 * 2 * (first + scores)
    return generator + discriminator


# Framework and data


def framework_rows(options: argparse.Namespace, device: torch.device, chunk: int = 2) -> list[str]:
    """``Trainer.fit`` and the bare loop around the same step, in chunks that take turns."""
    batch, unit = images(options, device), build(options, device, reuse_fakes=True)
    step = bare(build(options, device, reuse_fakes=True))
    with_trainer: list[float] = []
    without: list[float] = []
    since = 0.0

    def alternate(trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int) -> None:
        nonlocal since
        if (index + 1) % chunk:
            return
        wait_for(device)
        with_trainer.append(1e3 * (time.perf_counter() - since) / chunk)
        start = time.perf_counter()
        for _ in range(chunk):
            step(batch)
        wait_for(device)
        without.append(1e3 * (time.perf_counter() - start) / chunk)
        since = time.perf_counter()

    trainer = pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        max_steps=chunk * (options.rounds + 1),
        max_epochs=-1,
        log_every_n_steps=10,
        logger=Silent(),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[pl.callbacks.LambdaCallback(on_train_batch_end=alternate)],
    )
    trainer.fit(unit, DataLoader([batch] * (chunk * (options.rounds + 1)), batch_size=None))
    added = statistics.median(a / b for a, b in zip(with_trainer[1:], without[1:], strict=True)) - 1
    return [f"| Trainer.fit around the same step (fp32, reuse_fakes) | {spread(with_trainer[1:])} | {added:+.1%} |"]


class Silent(pl.loggers.logger.DummyLogger):
    """A logger that costs what logging costs before any file is written."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Forget them; by now each tensor has been read."""


def data_rows(options: argparse.Namespace, device: torch.device) -> list[str]:
    """Share of an iteration spent in ``next`` of the training loader, with bf16, where steps are shortest."""
    data = Streets(size=options.size, scenes=200, val_scenes=1, batch_size=options.batch)
    step = bare(build(options, device, reuse_fakes=True))

    def in_bf16(batch: UnpairedBatch) -> None:
        with precision(device, bf16=True):
            step(batch)

    wait, share = waiting(data, in_bf16, options.rounds, device)
    return [f"| waiting for data (bf16, reuse_fakes) | {wait:.2f} ms | {share:.2%} |"]


if __name__ == "__main__":
    main()
