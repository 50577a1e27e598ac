"""How long an iteration of the papers after UNIT takes, against the order of computation of their releases, in one run.

    python -m benchmarks.papers_time [--size 64 --width 64 --threads 2 --rounds 9] [--write]

As ``step_time``: that both orders give the same losses in float64 is asserted first, steps take turns, ratios are
medians over turns. MUNIT has its explicit cycle, as for streets, and one image of each domain; DRIT++ one encoded and
one real image of each, every iteration a full one, and a content discriminator that fits the size.
"""

import argparse
import copy
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.released import drit as released_drit
from benchmarks.released import munit as released_munit
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
)
from interfaces.batch import UnpairedBatch
from lightning_modules.base import ManualModule
from lightning_modules.drit import DRIT
from lightning_modules.munit import MUNIT


def main() -> None:
    """Measure, print and, with ``--write``, keep the tables."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description="Time an iteration of MUNIT and DRIT++ against their releases' order.")
    parser.add_argument("--size", type=int, default=64, help="height and width of the images")
    parser.add_argument("--width", type=int, default=64, help="channels after the first convolution of each network")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9, help="turns that each step takes")
    parser.add_argument("--write", action="store_true", help=f"keep the tables in {RESULTS.name}")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    lines = []
    for name, build, released, batch in (("MUNIT", munit, released_of_munit, 1), ("DRIT++", drit, released_of_drit, 2)):
        options.batch = batch
        same_losses(build, released, batch)
        lines += [circumstances(options, device, name), "", "| row | time | ratio |", "|---|---|---|"]
        print("\n".join(lines[-4:]), flush=True)
        rows = paper_rows(options, device, build, released)
        print("\n".join(rows), flush=True)
        lines += [*rows, ""]
    if options.write:
        keep("Time of an iteration of other papers", "papers_time", "\n".join(lines))


def munit(width: int) -> MUNIT:
    """With the cycle that streets have; the weights of seed 0."""
    torch.manual_seed(0)
    return MUNIT(width=width, dis_width=width, lambda_cycle=10)


def drit(width: int) -> DRIT:
    """DRIT++ whose iterations are all full; the weights of seed 0."""
    torch.manual_seed(0)
    return DRIT(
        width=width, attribute_width=width, dis_width=width, content_dis_width=4 * width, content_dis_layers=1, d_iter=1
    )


class Noise:
    """Standard normal, a function of how many draws came before in the step: both orders draw alike."""

    def __init__(self) -> None:
        self.draws = 0

    def __call__(self, x: Tensor) -> Tensor:
        """A draw in the shape, type and place of ``x``."""
        self.draws += 1
        generator = torch.Generator(x.device).manual_seed(self.draws)
        return torch.randn(x.shape, generator=generator, device=x.device).to(x.dtype)


def released_of_munit(model: MUNIT, batch: UnpairedBatch) -> Step:
    """A step in the order of MUNIT's release; returns the losses of D and of G."""
    opts = released_munit.optimizers(model)
    return lambda: list(released_munit.step(model, *opts, batch, Noise()))


def released_of_drit(model: DRIT, batch: UnpairedBatch) -> Step:
    """A step in the order of DRIT's release; returns the two losses of E and G."""
    opts = released_drit.optimizers(model)
    return lambda: released_drit.step(model, opts, batch, Noise())


def ours(model: ManualModule, batch: UnpairedBatch, bf16: bool = False) -> Callable[[], list[Tensor]]:
    """Our own step; returns the losses of E and G last."""
    step = bare(model)

    def run() -> list[Tensor]:
        object.__setattr__(model, "noise_like", Noise())
        with precision(batch.a.device, bf16):
            return step(batch)

    return run


def same_losses(build: Callable[[int], Any], released: Callable[..., Step], batch_size: int) -> None:
    """Assert in float64 that both orders start with the same losses and, a step later, have the same ones again.

    Weights are not compared: where a true gradient is zero (biases before a normalisation, and what DRIT's instance
    norms are blind to) Adam divides rounding by rounding, without effect on any image. The tests compare the others.
    """
    small = argparse.Namespace(size=64, batch=batch_size)
    model = build(8).double()
    batch = UnpairedBatch(*(x.double() for x in images(small, torch.device("cpu"))))
    theirs = released(copy.deepcopy(model), batch)
    mine = ours(model, batch)
    for rtol in (1e-10, 1e-6):
        expected = theirs()
        torch.testing.assert_close(torch.stack(mine()[-len(expected) :]), torch.stack(expected), rtol=rtol, atol=0)


def paper_rows(
    options: argparse.Namespace, device: torch.device, build: Callable[[int], Any], released: Callable[..., Step]
) -> list[str]:
    """Time of each step and its ratio to the released order in fp32."""
    batch = images(options, device)
    model = build(options.width).to(device)
    baseline = released(copy.deepcopy(model), batch)

    def in_bf16() -> Any:
        with precision(device, bf16=True):
            return baseline()

    steps = {BASELINE: baseline, "released order, bf16": in_bf16}
    for name, bf16 in (("ours, fp32", False), ("ours, bf16", True)):
        steps[name] = ours(model, batch, bf16)
        if hasattr(model, "reuse_fakes"):
            steps[f"{name}, reuse_fakes"] = reusing(model, steps[name])
    times = take_turns(steps, options.rounds, device)
    rows = []
    for name, mine in times.items():
        ratio = statistics.median(a / b for a, b in zip(times[BASELINE], mine, strict=True))
        rows.append(f"| {name} | {spread(mine)} | {ratio:.2f} x |")
    return rows


def reusing(model: Any, step: Step) -> Step:
    """The same step with D's fakes taken from G's."""

    def run() -> Any:
        model.reuse_fakes = True
        try:
            return step()
        finally:
            model.reuse_fakes = False

    return run


if __name__ == "__main__":
    main()
