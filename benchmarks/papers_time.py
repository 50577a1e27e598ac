"""How long an iteration of the papers after UNIT takes, against the order of computation of their releases, in one run.

    python -m benchmarks.papers_time [--papers MUNIT,UFDN] [--size 64 --width 32 --threads 2 --rounds 7]
                                     [--published] [--write]

As ``step_time``: that both orders give the same losses in float64 is asserted first, steps take turns, ratios are
medians over turns. MUNIT has its explicit cycle, as for streets, and one image of each domain; DRIT++ one encoded and
one real image of each, every iteration a full one, and a content discriminator that fits the size; of three domains
two images each, and no mode seeking, which its release has not. UFDN has eight images of each of three domains, or of
two with labels (domain adaptation), Fader Networks sixteen images a step and two attributes. The VAEs have 64 grey
images a step and disvae's networks, FactorVAE half of them to shuffle. ALAE of MLPs is that of MNIST whatever the size;
StyleALAE, Progressive GAN and StyleGAN have grown to the size, where they have the width; 4x4 has 4 or 8 times as many
channels. DCGAN's batch is of 32 images. CPUs that emulate bf16 have no rows of it.
In bf16 our slopes of R1 and of gradient penalties stay in fp32, as training has them; the released order's do not.

``--published`` times those five at the sizes of their papers' runs instead, for which it takes a GPU: StyleALAE for
CelebA, the other two that grow as they are at 256 pixels.
"""

import argparse
import copy
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.papers import PAPERS, Noise, Paper, Sizes
from benchmarks.timing import (
    BASELINE,
    RESULTS,
    Step,
    bare,
    circumstances,
    keep,
    knows_bf16,
    precision,
    spread,
    take_turns,
)
from lightning_modules.base import ManualModule


def main() -> None:
    """Measure, print and, with ``--write``, keep the tables."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description="Time an iteration of each paper against its release's order.")
    parser.add_argument("--papers", help="names, with commas between them; all by default")
    parser.add_argument("--size", type=int, default=64, help="height and width of the images")
    parser.add_argument("--width", type=int, default=32, help="channels after the first convolution of each network")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7, help="turns that each step takes")
    parser.add_argument("--published", action="store_true", help="sizes of the papers' runs, of papers that have them")
    parser.add_argument("--write", action="store_true", help=f"keep the tables in {RESULTS.name}")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for paper in chosen(options.papers, options.published):
        at = paper.published if options.published else None
        at = at or Sizes(paper.size or options.size, options.width, paper.images)
        own = argparse.Namespace(**vars(options) | at._asdict())
        same_losses(paper)
        lines = [circumstances(own, device, paper.name), "", "| row | time | ratio |", "|---|---|---|"]
        print("\n".join(lines), flush=True)
        rows = paper_rows(own, device, paper)
        print("\n".join(rows), flush=True)
        if options.write:
            which = f"{paper.name}, at the paper's sizes" if options.published else paper.name
            keep(f"Time of an iteration of {which}", f"papers_time {which}", "\n".join([*lines, *rows, ""]))


def chosen(names: str | None, published: bool) -> list[Paper]:
    """Papers of these names, or all; of ``published`` sizes those that have them.

    Raises:
        SystemExit: there is no such paper.
    """
    found = [paper for paper in PAPERS if paper.published or not published]
    wanted = [name.strip() for name in names.split(",")] if names else [paper.name for paper in found]
    if unknown := set(wanted) - {paper.name for paper in found}:
        known = "; ".join(paper.name for paper in found)
        raise SystemExit(f"--papers has {', '.join(sorted(unknown))}, but there are: {known}.")
    return [paper for paper in found if paper.name in wanted]


def ours(model: ManualModule, batch: Any, bf16: bool = False) -> Callable[[], list[Tensor]]:
    """Our own step; returns the losses of E and G last."""
    step = bare(model)

    def run() -> list[Tensor]:
        object.__setattr__(model, "noise_like", Noise())
        with precision(batch[0].device, bf16):
            return step(batch)

    return run


def cast(batch: Any, **to: Any) -> Any:
    """A batch with its images elsewhere or of another type; whole numbers only move."""
    return batch._make(x.to(**to) if x.is_floating_point() else x.to(to.get("device")) for x in batch)


def same_losses(paper: Paper) -> None:
    """Assert in float64 that both orders start with the same losses and, a step later, have the same ones again.

    Weights are not compared: where a true gradient is zero (biases before a normalisation, and what DRIT's instance
    norms are blind to) Adam divides rounding by rounding, without effect on any image. The tests compare the others.
    """
    size = paper.size or 64
    model = paper.build(8, size).double()
    batch = cast(paper.batch(paper.images, size), dtype=torch.float64)
    theirs = paper.released(copy.deepcopy(model), batch)
    mine = ours(model, batch)
    for rtol in (1e-10, 1e-6):
        expected, found = theirs(), mine()
        found = found[: len(found) - paper.passed_on][-len(expected) :]
        torch.testing.assert_close(torch.stack(found), torch.stack(expected), rtol=rtol, atol=0)


def paper_rows(options: argparse.Namespace, device: torch.device, paper: Paper) -> list[str]:
    """Time of each step and its ratio to the released order in fp32."""
    batch = cast(paper.batch(options.batch, options.size), device=device)
    model = paper.build(options.width, options.size).to(device)
    baseline = paper.released(copy.deepcopy(model), batch)

    def in_bf16() -> Any:
        with precision(device, bf16=True):
            return baseline()

    steps: dict[str, Step] = {BASELINE: baseline}
    kinds = {"ours, fp32": False}
    if knows_bf16(device):
        steps["released order, bf16"] = in_bf16
        kinds["ours, bf16"] = True
    for name, bf16 in kinds.items():
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
