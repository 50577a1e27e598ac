"""Hold our papers against recorded numbers of the official implementations: ``python -m benchmarks.parity CASE...``.

CASE is a folder as ``benchmarks.parity.rules.Case`` reads it. One line is printed for each compared quantity. The
exit status is 0 where every case agrees: all of float64, and all of float32, where activations at a kink may first
have to be put on float64's side (``benchmarks.parity.kinks``; they are printed) or are named in ``tolerance.json``,
first gradients may be sums that float32 cannot tell (``benchmarks.parity.sums``), or lie on either side of float64's
(``benchmarks.parity.gradients``); these are printed too.

A paper that follows adds a module like ``benchmarks.parity.unit`` (run, recorded, adam) and a line in ``PAPERS``.
"""

import argparse
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.parity import alae, disvae, drit, fader, mdmm, munit, pixel_snail, rules, ufdn, unit, vq_vae2
from benchmarks.parity import gradients as recorded_gradients
from benchmarks.parity.kinks import Same, Watch
from benchmarks.parity.rules import Case, Line
from benchmarks.parity.sums import Sums

PAPERS = {
    "disentangling-vae": disvae,
    "alae": alae,
    "drit": drit,
    "drit_ms": drit,
    "drit_noconcat": drit,
    "fader": fader,
    "mdmm": mdmm,
    "munit": munit,
    "stylealae": alae,
    "ufdn": ufdn,
    "unit": unit,
    "vq-vae-2": vq_vae2,
    "vq-vae-2 pixelsnail": pixel_snail,
}


def main(args: list[str] | None = None) -> int:
    """Compare each case; returns the exit status: 0 agreement, 1 none, 2 a case that cannot be read or run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parity", description=__doc__)
    parser.add_argument("cases", nargs="+", type=Path, metavar="CASE")
    parser.add_argument("--failures", action="store_true", help="print only lines that do not agree")
    given = parser.parse_args(args)
    status = 0
    for path in given.cases:
        try:
            agrees = compare(path, given.failures)
        except (ValueError, OSError) as error:
            print(f"{path}: ERROR {error}")
            status = 2
        else:
            status = max(status, 0 if agrees else 1)
    return status


def compare(path: Path, only_failures: bool = False) -> bool:
    """Run one case in both precisions, print what was compared and return whether it agrees."""
    case = Case(path)
    named = str(case.config.get("paper"))
    # Some go on with the files of the release, and one paper's name begins with another's.
    names = [name for name in PAPERS if re.match(rf"{name}(?![\w-])", named.lower())]
    if not names:
        raise ValueError(f"the paper of this case is {named!r}, but there are: {', '.join(PAPERS)}.")
    paper = PAPERS[max(names, key=len)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        with Sums() as sums, Watch() as watch:  # Watch sees no operation of Sums
            double = paper.run(case, torch.float64)
        exact = report("float64", list(float64_lines(case, paper, double)), only_failures)

        def of(run: rules.Run) -> list[Line]:
            lines = list(float32_lines(case, paper, run))
            return sums.shown(recorded_gradients.either_side(lines, case, double, run), double)

        single = of(paper.run(case, torch.float32))
        if not all(line.ok for line in single):
            with Same(watch.calls) as same:
                repeated = paper.run(case, torch.float32)
            single = explain(single, repeated, same.flips, of)
    known = case.tolerance.get("known_kinks", []) if exact else []
    close = report("float32", single, only_failures, known)
    print(f"{path}: {'AGREES' if exact and close else 'DIFFERS'}")
    return exact and close


def explain(
    lines: list[Line], repeated: rules.Run, flips: list[str], compared: Callable[[rules.Run], list[Line]]
) -> list[Line]:
    """The lines of the repeated run, after printing what had to be put on float64's side; without flips, the first."""
    if not flips:
        return lines
    over = [line.name for line in lines if not line.ok]
    print(f"kink float32: {len(over)} quantities are over their limit as it stands, {over[0]} the first;")
    for flip in flips:
        print(f"kink float32: {flip}")
    print("kink float32: with these on float64's side, and nothing else changed:")
    return compared(repeated)


def float64_lines(case: Case, paper, run: rules.Run) -> Iterator[Line]:
    """Everything that decides."""
    yield from rules.exact_lines(case, run)
    yield from rules.forward_lines(case, run, double=True)
    yield from rules.loss_lines(case, run, double=True)
    yield from rules.digest_lines(case, run)
    yield from recorded_gradients.digest_lines(case, run)
    for tag in case.tags:
        if (official := paper.recorded(case, tag)) is not None:
            yield from rules.recorded_lines(case, run, tag, official)


def float32_lines(case: Case, paper, run: rules.Run) -> Iterator[Line]:
    """Everything that keeps the official code's distance from itself."""
    yield from rules.exact_lines(case, run)
    yield from rules.forward_lines(case, run, double=False)
    yield from rules.loss_lines(case, run, double=False)
    init = paper.recorded(case, "init")
    gradients: dict[str, torch.Tensor] = {}
    if case.has("grads1.safetensors"):
        recorded = case.tensors("grads1.safetensors")
        yield from recorded_gradients.recorded_lines(case, run, recorded)
        gradients = recorded_gradients.of_first_step(recorded)
    for tag in case.tags:
        if (official := paper.recorded(case, tag)) is None:
            continue
        if tag == "after1" and not gradients:
            gradients = rules.first_gradients(official, init, *paper.adam(case))
            ours = rules.first_gradients(run.after[tag], run.init, *paper.adam(case))
            yield from rules.gradient_lines(case, run, gradients, ours)
        yield from rules.weight_lines(case, run, tag, official, init, gradients)


def report(precision: str, lines: list[Line], only_failures: bool, known_kinks: Sequence[str] = ()) -> bool:
    """Print lines and their count; True where each agrees or is about a tensor named among the known kinks."""
    failed = 0
    for line in lines:
        known = any(tensor in kink for kink in known_kinks for tensor in tensors_of(line))
        verdict = "ok" if line.ok else "kink" if known else "FAIL"
        failed += verdict == "FAIL"
        if verdict != "ok" or not only_failures:
            print(f"{verdict:4} {precision} {line.name}: difference {line.difference:.3g}, limit {line.limit:.3g}")
    print(f"{precision}: {len(lines)} compared, {failed} over their limit")
    return failed == 0


def tensors_of(line: Line) -> list[str]:
    """The tensor that a line is about: its words with dots."""
    return [word for word in line.name.split() if word.count(".") > 1]


if __name__ == "__main__":
    sys.exit(main())
